//! The router's programs where copies leave inside tunnels, or packets arrive in one, and beside that where neither is so.
//! The maps are written here: a router uses a tunnel only while the other end answers, and behind these ports nobody does.

use std::{
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use ::tests::{
    family::Family,
    layout::{GROUP, PORTS_OPTION, PROTOCOL},
    packet::{ETHERNET_LEN, ethernet},
    sites::{Carried, KEY, cookie},
    trio::UDP_PORT,
};
use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use xcast_common::{
    family::{Family as Routed, V4, V6},
    host::{MemoryTables, Outcome, Router},
    maps::{
        NEXT_HOP_TUNNEL, NEXT_HOP_XCAST, NextHop, NextHopKind, PORT_FIRST, Port, Settings,
        SourceMode, Tunnel, TunnelCookies, TunnelPeer, counter::Counter,
    },
    wire::{Be16, Be32, Be128},
};
use xcast_ctl::datapath::{Datapath, Macs};

use super::{Case, Copy, Load, Subject};
use crate::{
    generator::Generator,
    sinks::{Kind, Sinks},
    site::{
        self, INGRESS, INGRESS_MAC, PORTS, SOURCE, SOURCE_MAC, Site, gateway_mac, interface,
        port_mac,
    },
    table::Routes,
};

/// Slot of the port that packets arrive by; the others have those before it.
const INGRESS_SLOT: u8 = PORT_FIRST + PORTS as u8;
/// Ids of next hops: of the source, and the first of the gateways.
const SOURCE_ID: u32 = 99;
const FIRST_ID: u32 = 100;
/// Largest IP packet on a link, and how much of it the largest outer headers take.
const MTU: u16 = 3000;
const OVERHEAD: u16 = 56;
/// What a packet and a copy cost: limits are looked after, and never reached.
const PRICE_NS: u32 = 1;
/// How long attaching a program may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where packets are inside tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// Nowhere.
    None,
    /// Copies leave inside IP.
    IntoIp,
    /// Copies leave inside UDP.
    IntoUdp,
    /// Packets arrive inside IP.
    OutOfIp,
    /// Packets arrive inside UDP.
    OutOfUdp,
}

impl Carriage {
    /// All that packets can be inside of.
    pub const TUNNELS: [Self; 4] = [Self::IntoIp, Self::IntoUdp, Self::OutOfIp, Self::OutOfUdp];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "no tunnel",
            Self::IntoIp => "into IP in IP",
            Self::IntoUdp => "into UDP",
            Self::OutOfIp => "out of IP in IP",
            Self::OutOfUdp => "out of UDP",
        }
    }

    fn leaves(self) -> bool {
        matches!(self, Self::IntoIp | Self::IntoUdp)
    }

    fn arrives(self) -> bool {
        matches!(self, Self::OutOfIp | Self::OutOfUdp)
    }

    fn is_udp(self) -> bool {
        matches!(self, Self::IntoUdp | Self::OutOfUdp)
    }
}

/// The router's programs, with gateways that speak Xcast.
pub struct Tunnelled {
    carriage: Carriage,
    site: Site,
    routes: Rc<Routes>,
    settings: Settings,
    arrival: Port,
    datapath: Datapath,
}

impl Tunnelled {
    /// Loads and attaches the programs.
    ///
    /// # Errors
    ///
    /// See [`Site::new`]; or the kernel refuses the programs.
    pub fn new(generator: &mut Generator, routes: Rc<Routes>, carriage: Carriage) -> Result<Self> {
        let family = routes.family();
        let site = Site::new(generator, family, "tunnel", Kind::Xdp, None)?;
        let settings = settings(family);
        let arrival = Port {
            slot: INGRESS_SLOT,
            mac: INGRESS_MAC,
            sources: [SourceMode::Strict as u8; 2],
            packet_ns: PRICE_NS,
            copy_ns: PRICE_NS,
            ..Port::default()
        };
        let list = routes.list();
        let load = || datapath(family, carriage, &settings, arrival, &list);
        let datapath = site.router.enter(load)?;
        Ok(Self {
            carriage,
            site,
            routes,
            settings,
            arrival,
            datapath,
        })
    }

    /// What becomes of frames: what the programs' own forwarding code makes of them without a kernel.
    fn copies<F: Routed>(
        &self,
        lists: &[Vec<(IpAddr, usize)>],
        frames: &[Vec<u8>],
    ) -> Result<Vec<Vec<Copy>>> {
        let mut tables = MemoryTables::default();
        let family = self.routes.family();
        tables.set_next_hop(SOURCE_ID, from_source());
        tables.set_route(
            site::address(family, SOURCE),
            family.prefix_len(32),
            Some(SOURCE_ID),
        );
        for port in 0..PORTS {
            tables.set_next_hop(FIRST_ID + port as u32, next_hop(port, self.carriage));
            let tunnel = tunnel(family, port, self.carriage);
            tables.set_tunnel(port as u16, tunnel.context("one family")?);
        }
        let (peer, cookies) = peer(family);
        tables.set_tunnel_peer(peer, cookies);
        for &(address, port) in lists.iter().flatten() {
            let id = FIRST_ID + port as u32;
            tables.set_route(address, family.prefix_len(32), Some(id));
        }
        let mut router = Router::<F>::new(self.settings, tables);
        router.set_port(self.arrival);
        let copies = frames.iter().map(|frame| {
            let Outcome::Forwarded(copies) = router.receive(INGRESS_SLOT, frame) else {
                bail!("a packet is not forwarded");
            };
            ensure!(copies.len() == PORTS, "{} copies", copies.len());
            let copy = |(slot, frame)| Copy {
                port: usize::from(slot - PORT_FIRST),
                frame,
            };
            Ok(copies.into_iter().map(copy).collect())
        });
        copies.collect()
    }
}

impl Subject for Tunnelled {
    fn name(&self) -> &'static str {
        self.carriage.name()
    }

    fn sinks(&mut self) -> &mut Sinks {
        &mut self.site.sinks
    }

    fn case(&mut self, load: Load) -> Result<Case> {
        let family = self.routes.family();
        let lists = load.lists(&self.routes);
        let mut frames = load.xcast_frames(family, &lists);
        if self.carriage.arrives() {
            let (near, far) = ends(family, 0);
            let udp_from = self.carriage.is_udp().then_some(0xc001);
            for frame in &mut frames {
                let carried = Carried::new((far, near), udp_from, &frame[ETHERNET_LEN..]);
                let ether_type = family.ether_type();
                *frame = ethernet(INGRESS_MAC, SOURCE_MAC, ether_type, &carried.emit());
            }
        }
        let copies = match family {
            Family::Ipv4 => self.copies::<V4>(&lists, &frames),
            Family::Ipv6 => self.copies::<V6>(&lists, &frames),
        };
        Ok(Case {
            subject: self.name(),
            family,
            load,
            routes: self.routes.len(),
            device: self.site.device,
            copies: copies?,
            frames,
            frames_per_packet: 1,
        })
    }

    fn objection(&mut self, _packets: u64) -> Result<Option<String>> {
        let counters = self.datapath.counters()?;
        let made = counters
            .iter()
            .map(|port| port.counts[Counter::Recirculated as usize]);
        let made: u64 = made.sum();
        Ok((made > 0).then(|| format!("{made} extra rounds were made")))
    }
}

fn settings(family: Family) -> Settings {
    let mut settings = Settings {
        group: Be32::from(GROUP),
        protocol: PROTOCOL,
        hash_key: 0x1234_5678_9abc_def1,
        mark: 0xfedc_ba98_7654_3210,
        udp_port: Be16::new(UDP_PORT),
        tunnels: 1,
        ..Settings::default()
    };
    if let IpAddr::V6(group) = family.address(GROUP) {
        settings.group6 = Be128::from(group);
        settings.routing_type = PROTOCOL;
        settings.ports_option = PORTS_OPTION;
        settings.ipv6 = 1;
    }
    settings
}

/// The two ends of the tunnel behind a port: this router, and the other one.
fn ends(family: Family, port: usize) -> (IpAddr, IpAddr) {
    let end = |last| site::address(family, Ipv4Addr::new(10, 254, port as u8, last));
    (end(1), end(2))
}

fn tunnel(family: Family, port: usize, carriage: Carriage) -> Option<Tunnel> {
    let (near, far) = ends(family, port);
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&gateway_mac(port));
    macs[6..].copy_from_slice(&port_mac(port));
    let udp_port = carriage.is_udp().then_some(UDP_PORT);
    Tunnel::new(near, far, udp_port, cookie(KEY, near, far), macs)
}

/// The tunnel that packets arrive by.
fn peer(family: Family) -> (TunnelPeer, TunnelCookies) {
    let (near, far) = ends(family, 0);
    let cookies = TunnelCookies {
        cookies: [u64::from_ne_bytes(cookie(KEY, far, near)); 2],
    };
    (TunnelPeer::new(far, near), cookies)
}

/// The gateway on a port, with the tunnel by which lists go to it, if they do.
fn next_hop(port: usize, carriage: Carriage) -> NextHop {
    let slot = PORT_FIRST + port as u8;
    let native = NextHop {
        kind: NextHopKind::Forward as u8,
        port: slot,
        flags: NEXT_HOP_XCAST,
        mtu_bytes: MTU,
        destination_mac: gateway_mac(port),
        source_mac: port_mac(port),
        ..NextHop::default()
    };
    if !carriage.leaves() {
        return native;
    }
    NextHop {
        flags: NEXT_HOP_XCAST | NEXT_HOP_TUNNEL,
        group_or_tunnel: port as u16,
        tunnel_port: slot,
        tunnel_mtu_bytes: MTU - OVERHEAD,
        ..native
    }
}

/// Where packets come from: behind the port that they arrive by.
fn from_source() -> NextHop {
    NextHop {
        egress: INGRESS_SLOT,
        ..NextHop::stack(Counter::StackNoNeighbour)
    }
}

/// The programs on the port that packets arrive by, and their maps, in the router's namespace.
fn datapath(
    family: Family,
    carriage: Carriage,
    settings: &Settings,
    arrival: Port,
    routes: &[(IpNet, usize)],
) -> Result<Datapath> {
    let macs = Macs {
        destination: INGRESS_MAC,
        source: INGRESS_MAC,
    };
    let mut datapath = Datapath::load(settings, 1024, macs)?;
    let index = |name: &str| if_nametoindex(name).with_context(|| format!("no interface {name}"));
    for port in 0..PORTS {
        let device = Port {
            slot: PORT_FIRST + port as u8,
            mac: port_mac(port),
            ..arrival
        };
        datapath.add_device(index(&interface(port))?, device)?;
        datapath.set_next_hop(FIRST_ID + port as u32, next_hop(port, carriage))?;
        let tunnel = tunnel(family, port, carriage).context("one family")?;
        datapath.set_tunnel(port as u16, tunnel)?;
    }
    let (peer, cookies) = peer(family);
    datapath.set_tunnel_peer(peer, Some(cookies))?;
    datapath.set_next_hop(SOURCE_ID, from_source())?;
    let source = site::address(family, SOURCE);
    datapath.set_route(source.into(), Some(SOURCE_ID))?;
    // Of the other next hops nothing is sent.
    for &(prefix, next_hop) in routes {
        if next_hop < PORTS {
            datapath.set_route(prefix, Some(FIRST_ID + next_hop as u32))?;
        }
    }
    datapath.publish_routes()?;
    let ingress = index(INGRESS)?;
    datapath.add_device(ingress, arrival)?;
    datapath.attach(INGRESS_SLOT, ingress)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some((_, attached)) = datapath.take_attachments().pop() {
            attached.context("cannot attach the programs")?;
            break;
        }
        ensure!(Instant::now() < deadline, "the programs are not attached");
        thread::sleep(Duration::from_millis(1));
    }
    datapath.wait_for_fanouts();
    Ok(datapath)
}
