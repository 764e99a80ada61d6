//! Copies by bare BPF programs, and none at all.

use std::rc::Rc;

use ::tests::{namespace::Namespace, packet};
use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, MapData, xdp::DevMap},
};
use nix::net::if_::if_nametoindex;

use super::{Case, Copy, Load, Subject};
use crate::{
    generator::Generator,
    programs,
    shared::{Addressee, DEVICES},
    sinks::{Kind, Sinks},
    site::{self, INGRESS, PORTS, Site},
    table::Routes,
};

/// The generator alone: frames are counted where the others' routers are.
pub struct Floor {
    sinks: Sinks,
    device: u32,
    routes: Rc<Routes>,
    _namespace: Namespace,
}

impl Floor {
    /// Connects a sink to the generator.
    ///
    /// # Errors
    ///
    /// Needs root.
    pub fn new(generator: &mut Generator, routes: Rc<Routes>) -> Result<Self> {
        let namespace = Namespace::new("floor")?;
        let device = generator.connect(&namespace, INGRESS)?;
        namespace.ip(&format!("link set {INGRESS} mtu 3000 up"))?;
        Ok(Self {
            sinks: Sinks::new(&namespace, &[INGRESS.to_owned()], Kind::Xdp)?,
            device,
            routes,
            _namespace: namespace,
        })
    }
}

impl Subject for Floor {
    fn name(&self) -> &'static str {
        "generate"
    }

    fn sinks(&mut self) -> &mut Sinks {
        &mut self.sinks
    }

    fn case(&mut self, load: Load) -> Result<Case> {
        let family = self.routes.family();
        let frames = load.xcast_frames(family, &load.lists(&self.routes));
        Ok(Case {
            subject: self.name(),
            family,
            load,
            routes: 0,
            device: self.device,
            copies: to_ports(1, &frames),
            frames,
            frames_per_packet: 1,
        })
    }
}

/// What happens to each copy of a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Each {
    /// Nothing, as bare as it gets.
    Nothing,
    /// A program runs that does nothing, as a router has to run one that prunes.
    Program,
    /// A program gives it another destination, of IPv4: the least that any router has to do.
    Readdress,
}

impl Each {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "broadcast",
            Self::Program => "broadcast, program",
            Self::Readdress => "broadcast, readdress",
        }
    }

    /// What its namespaces are called.
    fn label(self) -> &'static str {
        match self {
            Self::Nothing => "broadcast",
            Self::Program => "bcast-prog",
            Self::Readdress => "bcast-addr",
        }
    }

    fn program(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Program => Some("pass"),
            Self::Readdress => Some("readdress"),
        }
    }
}

/// Bare XDP broadcast of the same frame to the same ports: what any XDP router costs at least.
pub struct Broadcast {
    each: Each,
    site: Site,
    routes: Rc<Routes>,
    /// Number of copies, the generator's device, and what holds the program.
    ways: Vec<(usize, u32, Ebpf)>,
}

impl Broadcast {
    /// Makes the place, with a way in for each number of copies.
    ///
    /// # Errors
    ///
    /// See [`Site::new`].
    pub fn new(
        generator: &mut Generator,
        routes: Rc<Routes>,
        copies: &[usize],
        each: Each,
    ) -> Result<Self> {
        let mut site = Site::new(generator, routes.family(), each.label(), Kind::Xdp, None)?;
        let mut ways = Vec::new();
        for &number in copies {
            // A way in of its own: the map has to have the right size, and a program keeps its map.
            let name = format!("in{number}");
            let device = generator.connect(&site.router, &name)?;
            site.router.ip(&format!("link set {name} mtu 3000 up"))?;
            let mut ebpf = programs::load(&[("PORTS", number as u32)])?;
            let mut ports: DevMap<MapData> = programs::map(&mut ebpf, "PORTS")?;
            let mut addressees: Array<MapData, _> = programs::map(&mut ebpf, "ADDRESSEES")?;
            let program = each.program().map(|name| {
                let program = programs::xdp(&mut ebpf, name)?;
                Ok::<_, anyhow::Error>(program.fd()?.try_clone()?)
            });
            let program = program.transpose()?;
            site.router.enter(|| {
                for port in 0..number {
                    let index = if_nametoindex(site::interface(port).as_str())?;
                    addressees.set(index, addressee(port), 0)?;
                    ports.set(port as u32, index, program.as_ref(), 0)?;
                }
                programs::attach_xdp(&mut ebpf, "broadcast", &[name])
            })?;
            ways.push((number, device, ebpf));
        }
        site.device = u32::MAX;
        Ok(Self {
            each,
            site,
            routes,
            ways,
        })
    }
}

impl Subject for Broadcast {
    fn name(&self) -> &'static str {
        self.each.name()
    }

    fn sinks(&mut self) -> &mut Sinks {
        &mut self.site.sinks
    }

    fn case(&mut self, load: Load) -> Result<Case> {
        let (_, device, _) = self
            .ways
            .iter()
            .find(|(number, ..)| *number == load.copies)
            .context("no broadcast was prepared for so many copies")?;
        let family = self.routes.family();
        let frames = load.xcast_frames(family, &load.lists(&self.routes));
        Ok(Case {
            subject: self.name(),
            family,
            load,
            routes: 0,
            device: *device,
            copies: match self.each {
                Each::Readdress => readdressed(load.copies, &frames),
                _ => to_ports(load.copies, &frames),
            },
            frames,
            frames_per_packet: 1,
        })
    }
}

/// A classifier that clones packets to the ports.
pub struct CloneRedirect {
    site: Site,
    routes: Rc<Routes>,
    clones: Array<MapData, u32>,
    ports: Vec<u32>,
    _ebpf: Ebpf,
}

impl CloneRedirect {
    /// Attaches it.
    ///
    /// # Errors
    ///
    /// See [`Site::new`].
    pub fn new(generator: &mut Generator, routes: Rc<Routes>) -> Result<Self> {
        let site = Site::new(generator, routes.family(), "tc", Kind::Tc, None)?;
        let mut ebpf = programs::load(&[])?;
        let clones = programs::map(&mut ebpf, "CLONES")?;
        let ports = site.router.enter(|| {
            programs::attach_tc(&mut ebpf, "clone_redirect", &[INGRESS.to_owned()])?;
            let index = |port| Ok(if_nametoindex(site::interface(port).as_str())?);
            (0..PORTS).map(index).collect()
        })?;
        Ok(Self {
            site,
            routes,
            clones,
            ports,
            _ebpf: ebpf,
        })
    }
}

impl Subject for CloneRedirect {
    fn name(&self) -> &'static str {
        "tc"
    }

    fn sinks(&mut self) -> &mut Sinks {
        &mut self.site.sinks
    }

    fn case(&mut self, load: Load) -> Result<Case> {
        let family = self.routes.family();
        let frames = load.xcast_frames(family, &load.lists(&self.routes));
        Ok(Case {
            subject: self.name(),
            family,
            load,
            routes: 0,
            device: self.site.device,
            copies: to_ports(load.copies, &frames),
            frames,
            frames_per_packet: 1,
        })
    }

    fn select(&mut self, case: &Case) -> Result<()> {
        for index in 0..DEVICES {
            let port = self.ports.get(index).filter(|_| index < case.load.copies);
            self.clones.set(index as u32, port.unwrap_or(&0), 0)?;
        }
        Ok(())
    }
}

/// Who gets the copies that leave by a port, if they are readdressed.
fn addressee(port: usize) -> Addressee {
    let [a, b, c, d, e, f] = site::gateway_mac(port);
    let [g, h, i, j, k, l] = site::port_mac(port);
    let words = [[a, b, c, d], [e, f, g, h], [i, j, k, l]];
    Addressee {
        ethernet: words.map(u32::from_ne_bytes),
        ipv4: u32::from_ne_bytes([198, 18, 0, port as u8]),
    }
}

/// Each frame to the first ports, with the addressee of the port.
fn readdressed(number: usize, frames: &[Vec<u8>]) -> Vec<Vec<Copy>> {
    let mut copies = to_ports(number, frames);
    for copy in copies.iter_mut().flatten() {
        let Addressee { ethernet, ipv4 } = addressee(copy.port);
        for (place, word) in copy.frame.chunks_mut(4).zip(ethernet) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        copy.frame[30..34].copy_from_slice(&ipv4.to_ne_bytes());
        copy.frame[24..26].fill(0);
        let checksum = packet::checksum(&copy.frame[14..34]);
        copy.frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
    copies
}

/// Each frame as it is, to the first ports.
fn to_ports(number: usize, frames: &[Vec<u8>]) -> Vec<Vec<Copy>> {
    let copies = |frame: &Vec<u8>| {
        let copy = |port| Copy {
            port,
            frame: frame.clone(),
        };
        (0..number).map(copy).collect()
    };
    frames.iter().map(copies).collect()
}
