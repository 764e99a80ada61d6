//! The place where a subject is measured: a router between a generator and sinks.
//!
//! | interface | addresses | what is there |
//! |---|---|---|
//! | `in` | 10.255.0.1 | the generator, 10.255.0.2 |
//! | `p0` .. `p7` | 10.0.p.1 | a gateway each, 10.0.p.2 |
//! | `lan` | 10.0.8.1 | eight gateways, 10.0.8.2 to 10.0.8.9 |
//!
//! Next hops are numbered: 0 to 7 are the gateways on ports of their own, 8 to 15 those on the LAN.
//! A place is for one family; addresses are given for IPv4, and [`address`] says what stands for them.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ::tests::{
    family::Family,
    layout::{GROUP, PORTS_OPTION, PROTOCOL, mac_text},
    namespace::Namespace,
    oracle::{Port, Prune, RouterView, Target},
    packet::Mac,
};
use anyhow::Result;

use crate::{
    family,
    generator::Generator,
    sinks::{Kind, Sinks},
    table::Routes,
};

/// Ports with one gateway each.
pub const PORTS: usize = 8;
/// The port with eight gateways.
pub const LAN: usize = PORTS;
/// Next hops in all.
pub const NEXT_HOPS: usize = 2 * PORTS;
/// Where packets come from.
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
/// Address of the interface they arrive on.
const INGRESS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
/// Link layer address of where packets come from.
pub const SOURCE_MAC: Mac = [2, 0, 0, 0, 9, 2];
/// Link layer address of the interface they arrive on.
pub const INGRESS_MAC: Mac = [2, 0, 0, 0, 0, 0xff];
/// The interface they arrive on.
pub const INGRESS: &str = "in";
/// Largest IP packet on every link.
const MTU: usize = 3000;

/// A router's namespace, the far ends of its ports, and the generator's device for it.
pub struct Site {
    /// What it is for.
    pub family: Family,
    /// The router's namespace.
    pub router: Namespace,
    /// What arrives behind its ports.
    pub sinks: Sinks,
    /// The generator's device that leads to `in`.
    pub device: u32,
    // Holds the ports' far ends.
    _far: Namespace,
}

/// What stands for an IPv4 address of this place: of IPv6, one with the same 32 bits behind fd00::/32.
/// The tests' 2001:db8::/32 may be among the routes that are made up.
pub fn address(family: Family, address: Ipv4Addr) -> IpAddr {
    match family {
        Family::Ipv4 => address.into(),
        Family::Ipv6 => {
            let bits = 0xfd00_u128 << 112 | u128::from(address.to_bits()) << 64;
            Ipv6Addr::from_bits(bits).into()
        }
    }
}

/// Name of a port's interface.
pub fn interface(port: usize) -> String {
    match port {
        LAN => "lan".to_owned(),
        _ => format!("p{port}"),
    }
}

/// The port of a next hop.
pub fn port_of(next_hop: usize) -> usize {
    next_hop.min(LAN)
}

/// Address of a next hop.
pub fn gateway(next_hop: usize) -> Ipv4Addr {
    let last = 2 + next_hop.saturating_sub(PORTS);
    Ipv4Addr::new(10, 0, port_of(next_hop) as u8, last as u8)
}

/// Link layer address of a next hop.
pub fn gateway_mac(next_hop: usize) -> Mac {
    [2, 0, 0, 0, 1, next_hop as u8]
}

/// Link layer address of the router on a port.
pub fn port_mac(port: usize) -> Mac {
    [2, 0, 0, 0, 0, port as u8]
}

impl Site {
    /// Makes a site for a family, with these routes of it in the kernel's table.
    ///
    /// # Errors
    ///
    /// Needs root, and a kernel with network namespaces and veth.
    pub fn new(
        generator: &mut Generator,
        family: Family,
        label: &str,
        sinks: Kind,
        routes: Option<&Routes>,
    ) -> Result<Self> {
        let router = Namespace::new(label)?;
        let far = Namespace::new(&format!("{label}-far"))?;
        family::enable(family, &router)?;
        router.sysctl(
            match family {
                Family::Ipv4 => "ipv4/ip_forward",
                Family::Ipv6 => "ipv6/conf/all/forwarding",
            },
            "1",
        )?;
        for interfaces in ["all", "default"] {
            router.sysctl(&format!("ipv4/conf/{interfaces}/rp_filter"), "0")?;
        }
        let device = generator.connect(&router, INGRESS)?;
        let (own, ends) = commands(family, &far);
        router.ip_batch(&own)?;
        far.ip_batch(&ends)?;
        // Frames that XDP sends arrive only on an interface with GRO or a program.
        router.set_gro(INGRESS, true)?;
        let interfaces: Vec<_> = (0..=LAN).map(interface).collect();
        let mut sinks = Sinks::new(&far, &interfaces, sinks)?;
        if let Some(routes) = routes {
            router.ip_batch(&routes.commands(|next_hop| address(family, gateway(next_hop))))?;
        }
        if family == Family::Ipv6 {
            sinks.settle()?;
        }
        Ok(Self {
            family,
            router,
            sinks,
            device,
            _far: far,
        })
    }
}

/// What makes the links: commands for the router's namespace, and for the far ends'.
fn commands(family: Family, far: &Namespace) -> (String, String) {
    let mut own = format!(
        "link set {INGRESS} address {} mtu {MTU} up\n{}",
        mac_text(INGRESS_MAC),
        family::add_address(address(family, INGRESS_ADDRESS), INGRESS)
    );
    let mut ends = String::new();
    for port in 0..=LAN {
        let (name, mac) = (interface(port), mac_text(port_mac(port)));
        // Writing to a string cannot fail.
        let _ = write!(
            own,
            "link add {name} type veth peer name {name} netns {}\n\
             link set {name} address {mac} mtu {MTU} up\n\
             {}",
            far.name(),
            family::add_address(address(family, Ipv4Addr::new(10, 0, port as u8, 1)), &name)
        );
        let _ = writeln!(ends, "link set {name} mtu {MTU} up");
    }
    for next_hop in 0..NEXT_HOPS {
        let _ = writeln!(
            own,
            "neighbour replace {} lladdr {} nud permanent dev {}",
            address(family, gateway(next_hop)),
            mac_text(gateway_mac(next_hop)),
            interface(port_of(next_hop))
        );
    }
    (own, ends)
}

/// What an Xcast router here must do with packets to these destinations: address and next hop.
pub fn view(family: Family, destinations: &[(IpAddr, usize)]) -> RouterView {
    let port = |mac| Port {
        mac,
        mtu: MTU,
        group_mac: false,
    };
    let routes = destinations.iter().map(|&(destination, next_hop)| {
        let target = Target::Gateway {
            port: port_of(next_hop),
            address: address(family, gateway(next_hop)),
            mac: Some(gateway_mac(next_hop)),
            xcast: true,
        };
        (destination, family.prefix_len(32), target)
    });
    RouterView {
        group: family.address(GROUP),
        protocol: PROTOCOL,
        routing_type: PROTOCOL,
        ports_option: PORTS_OPTION,
        anycast: Vec::new(),
        own: vec![address(family, INGRESS_ADDRESS)],
        broadcasts: Vec::new(),
        udp: None,
        prune: Prune::Truncate,
        // The last one is where packets arrive.
        ports: (0..=LAN)
            .map(port_mac)
            .chain([INGRESS_MAC])
            .map(port)
            .collect(),
        routes: routes.collect(),
        neighbours: Vec::new(),
    }
}

/// The part of a router's configuration that marks packets as Xcast. Without those of IPv6 a router
/// leaves IPv6 alone, as one of IPv4 is to do.
pub fn code_points(family: Family) -> String {
    let mut text = format!("[code_points]\nprotocol = {PROTOCOL}\ngroup = \"{GROUP}\"\n");
    if family == Family::Ipv6 {
        let group = family.address(GROUP);
        let _ = write!(
            text,
            "group6 = \"{group}\"\nrouting_type = {PROTOCOL}\nports_option = {PORTS_OPTION}\n"
        );
    }
    text
}

/// Limits that one source as fast as can be does not reach: they cost what they cost, and nothing is dropped.
pub const UNREACHED_LIMITS: &str = "\n[limits]\npackets_per_second = 4000000000\n\
    copies_per_second = 4000000000\nstack_copies_per_second = 0\n";
const NO_LIMITS: &str = "\n[limits]\npackets_per_second = 0\ncopies_per_second = 0\n\
    stack_copies_per_second = 0\n";

/// What a router does about sources that send too much, or that are not theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// What it does by default, with [`UNREACHED_LIMITS`].
    Unreached,
    /// Nothing.
    None,
}

/// The configuration of the Xcast router here; `subsets` as `router.subsets`. The first eight
/// interfaces are a group, for all of whose sets there are device maps from the start: either that of
/// the copies, or some others with the rest of the copies' in another group.
pub fn configuration(family: Family, subsets: u32, one_group: bool, checks: Checks) -> String {
    let mut text = code_points(family);
    let _ = write!(
        text,
        "\n[router]\ngateways = \"all\"\nsubsets = {subsets}\n"
    );
    let source = match checks {
        Checks::Unreached => {
            text += UNREACHED_LIMITS;
            ""
        }
        Checks::None => {
            text += NO_LIMITS;
            "source = \"any\"\n"
        }
    };
    let mut names: Vec<_> = (0..=LAN).map(interface).collect();
    names.push(INGRESS.to_owned());
    if !one_group {
        names.rotate_right(2);
    }
    for name in names {
        let _ = write!(text, "\n[[port]]\ninterface = \"{name}\"\n{source}");
    }
    text
}
