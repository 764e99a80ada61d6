//! Sends frames, as fast as one CPU can.

use std::{os::fd::AsFd as _, thread};

use ::tests::namespace::Namespace;
use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf,
    maps::{Array, MapData, xdp::DevMap},
    programs::ProgramFd,
};
use nix::net::if_::if_nametoindex;

use crate::{
    programs,
    shared::{Frames, Orders},
    sys::{self, Mapped},
};

/// Frames handed on at a time, unless that fills a veth's queue of 256.
pub const BATCH: u32 = 32;

/// The generator and the namespace it sends from.
pub struct Generator {
    namespace: Namespace,
    program: ProgramFd,
    orders: Array<MapData, Orders>,
    turn: Array<MapData, u32>,
    output: DevMap<MapData>,
    to_send: Mapped<Frames>,
    devices: u32,
    cpu: usize,
    // Owns the program.
    _ebpf: Ebpf,
}

impl Generator {
    /// Loads the generator; it will run on `cpu`.
    ///
    /// # Errors
    ///
    /// Needs root.
    pub fn new(cpu: usize) -> Result<Self> {
        let mut ebpf = programs::load(&[])?;
        let program = programs::xdp(&mut ebpf, "generate")?.fd()?.try_clone()?;
        let to_send = programs::array(&mut ebpf, "TO_SEND")?;
        Ok(Self {
            namespace: Namespace::new("generator")?,
            program,
            orders: programs::map(&mut ebpf, "ORDERS")?,
            turn: programs::map(&mut ebpf, "TURN")?,
            output: programs::map(&mut ebpf, "OUTPUT")?,
            to_send: Mapped::new(to_send.fd(), 1)?,
            devices: 0,
            cpu,
            _ebpf: ebpf,
        })
    }

    /// Makes a link into another namespace, where its end is called `interface`; returns the number
    /// of the device to send by.
    ///
    /// # Errors
    ///
    /// The other end exists already.
    pub fn connect(&mut self, to: &Namespace, interface: &str) -> Result<u32> {
        let device = self.devices;
        let name = format!("g{device}");
        self.namespace.ip_batch(&format!(
            "link add {name} type veth peer name {interface} netns {}\nlink set {name} mtu 3000 up\n",
            to.name()
        ))?;
        let output = &mut self.output;
        self.namespace.enter(|| {
            // The map takes the interface from the namespace of whoever writes.
            output
                .set(device, if_nametoindex(name.as_str())?, None, 0)
                .with_context(|| format!("cannot send by {name}"))
        })?;
        self.devices += 1;
        Ok(device)
    }

    /// Sends `total` frames, of these in turns, all of one length, `batch` at a time. Returns how
    /// long a frame took, in nanoseconds, with all that receiving and forwarding it took on this CPU.
    ///
    /// # Errors
    ///
    /// The frames are none, too many, too long, or of different lengths.
    pub fn send(&mut self, device: u32, frames: &[Vec<u8>], total: u32, batch: u32) -> Result<u32> {
        let first = frames.first().context("no frame to send")?;
        let mut rest = self.to_send.elements()[0].octets.as_mut_slice();
        for frame in frames {
            let place = rest
                .split_off_mut(..frame.len())
                .filter(|_| frame.len() == first.len())
                .context("frames too long, too many, or of different lengths")?;
            place.copy_from_slice(frame);
        }
        let orders = Orders {
            frames: u32::try_from(frames.len()).context("too many frames")?,
            frame_len: first.len() as u32,
            device,
            reserved: 0,
        };
        self.orders.set(0, orders, 0)?;
        self.turn.set(0, 0, 0)?;
        let program = self.program.as_fd();
        let cpu = self.cpu;
        // A thread of its own, since children would inherit its CPU and priority.
        thread::scope(|scope| {
            let run = scope.spawn(|| {
                sys::pin(cpu)?;
                sys::run_live(program, first, total, batch)
                    .context("cannot run the generator (needs Linux 5.18)")
            });
            run.join()
                .unwrap_or_else(|_| Err(anyhow!("the generator's thread panicked")))
        })
    }
}
