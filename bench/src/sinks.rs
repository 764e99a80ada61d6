//! Where every copy has to arrive: the far ends of a router's ports.

use std::{collections::HashMap, thread, time::Duration};

use ::tests::namespace::Namespace;
use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray},
};
use nix::net::if_::if_nametoindex;

use crate::{
    programs,
    shared::{Arrived, INTERFACES, SAMPLE_LEN, Sample},
};

/// How long nothing may have arrived for sinks to count as settled.
const QUIET: Duration = Duration::from_millis(100);

/// How sinks take frames off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By XDP: the cheapest for frames that XDP sent.
    Xdp,
    /// By a classifier, without XDP at all: the cheapest for socket buffers, which XDP on a veth
    /// would copy first.
    Tc,
}

/// Counting sinks on interfaces of a namespace.
pub struct Sinks {
    arrived: PerCpuArray<MapData, Arrived>,
    samples: Array<MapData, Sample>,
    indices: Vec<u32>,
    // Owns the programs.
    _ebpf: Ebpf,
}

impl Sinks {
    /// Puts sinks on these interfaces.
    ///
    /// # Errors
    ///
    /// There is no such interface, or it has a program already.
    pub fn new(namespace: &Namespace, interfaces: &[String], kind: Kind) -> Result<Self> {
        let size = INTERFACES as u32;
        let mut ebpf = programs::load(&[("ARRIVED", size), ("SAMPLES", size)])?;
        let indices = namespace.enter(|| {
            match kind {
                Kind::Xdp => programs::attach_xdp(&mut ebpf, "sink", interfaces)?,
                Kind::Tc => programs::attach_tc(&mut ebpf, "sink_tc", interfaces)?,
            }
            let index = |name: &String| if_nametoindex(name.as_str()).context("no interface");
            interfaces.iter().map(index).collect::<Result<Vec<_>>>()
        })?;
        if indices.iter().any(|&index| index >= size) {
            bail!("more than {INTERFACES} interfaces in {}", namespace.name());
        }
        Ok(Self {
            arrived: programs::map(&mut ebpf, "ARRIVED")?,
            samples: programs::map(&mut ebpf, "SAMPLES")?,
            indices,
            _ebpf: ebpf,
        })
    }

    /// Waits until nothing arrives any more, and forgets what did: IPv6 says something by itself when
    /// a link comes up.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub fn settle(&mut self) -> Result<()> {
        let mut before = self.arrived()?;
        loop {
            thread::sleep(QUIET);
            let now = self.arrived()?;
            if now == before {
                break;
            }
            before = now;
        }
        self.take_samples()?;
        Ok(())
    }

    /// What has arrived so far, by interface in the order given to [`new`](Self::new).
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub fn arrived(&self) -> Result<Vec<Arrived>> {
        let total = |&index: &u32| {
            let per_cpu = self.arrived.get(&index, 0)?;
            Ok(per_cpu.iter().fold(Arrived::default(), |sum, one| Arrived {
                frames: sum.frames + one.frames,
                octets: sum.octets + one.octets,
            }))
        };
        self.indices.iter().map(total).collect()
    }

    /// Takes the last frame kept, by interface in the order given to [`new`](Self::new).
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub fn take_samples(&mut self) -> Result<HashMap<usize, Vec<u8>>> {
        let mut taken = HashMap::new();
        for (interface, &index) in self.indices.iter().enumerate() {
            let mut sample = self.samples.get(&index, 0)?;
            let len = sample.frame_len as usize;
            if len == 0 {
                continue;
            }
            taken.insert(interface, sample.octets[..len.min(SAMPLE_LEN)].to_vec());
            sample.frame_len = 0;
            self.samples.set(index, sample, 0)?;
        }
        Ok(taken)
    }
}
