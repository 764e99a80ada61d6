//! The router most tests use: its addresses, link layer addresses and routes.
//!
//! One description gives the configuration of the kernel and of the router under test, and the
//! [`RouterView`] that the [`oracle`](crate::oracle) judges by. For each port `p`, the interface
//! `p<p>` of the router:
//!
//! | address | what | routes by it |
//! |---|---|---|
//! | 10.0.p.1 | the router | |
//! | 10.0.p.2 | gateway, speaks Xcast | 10.1.p.0/24 |
//! | 10.0.p.3 | gateway, does not | 10.2.p.0/24 |
//! | 10.0.p.4 | second gateway that speaks Xcast | 10.5.p.0/24 |
//! | 10.0.p.5 | gateway, speaks Xcast, nobody knows its link layer address | 10.6.p.0/24 |
//! | 10.0.p.16.. | hosts with known link layer addresses | |
//! | 10.0.p.others | hosts without | |
//!
//! Beside them 10.3.0.0/24 is a blackhole, 10.4.0.0/24 unreachable, 10.4.1.0/24 prohibited,
//! 10.7.0.0/24 on an interface that is not a port; there is no default route.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};

use crate::family::Family;
use crate::oracle::{Port, Prune, RouterView, Target, Udp};
use crate::packet::Mac;

/// The group of the tests, RFC 4727's experimental value.
pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 254);
/// The protocol number of the tests, RFC 3692's experimental value.
pub const PROTOCOL: u8 = 253;
/// The ports option of the tests, RFC 4727's experimental value.
pub const PORTS_OPTION: u8 = 0x5e;
/// Last octet of the first host on each link.
pub const FIRST_HOST: usize = 16;
/// Address of the interface that is not a port.
pub const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);

/// Which gateways the router believes to speak Xcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateways {
    /// Every one.
    All,
    /// None.
    None,
    /// Those at 10.0.p.2, 10.0.p.4 and 10.0.p.5.
    List,
}

/// A router, as far as tests choose. Its addresses are given for IPv4; those of IPv6 follow, see
/// [`Family::address`].
#[derive(Clone, Debug)]
pub struct Layout {
    /// Which family the expectations are for. The router forwards both.
    pub family: Family,
    /// Number of ports, at most 64.
    pub ports: usize,
    /// Number of hosts with known link layer addresses on each link.
    pub hosts: usize,
    /// How lists are pruned.
    pub prune: Prune,
    /// Which gateways speak Xcast.
    pub gateways: Gateways,
    /// Ports that accept frames to the group's MAC.
    pub group_mac: Vec<usize>,
    /// MTU of ports that do not have 1500.
    pub mtu: Vec<(usize, usize)>,
    /// Anycast addresses.
    pub anycast: Vec<Ipv4Addr>,
    /// Further kernel routing tables the router consults.
    pub tables: Vec<u32>,
    /// How it takes Xcast inside UDP, if it does.
    pub udp: Option<Udp>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            family: Family::Ipv4,
            ports: 4,
            hosts: 4,
            prune: Prune::Truncate,
            gateways: Gateways::List,
            group_mac: Vec::new(),
            mtu: Vec::new(),
            anycast: Vec::new(),
            tables: Vec::new(),
            udp: None,
        }
    }
}

/// Name of the router's interface for port `port`, and of its peer in the wire's namespace.
pub fn interface(port: usize) -> String {
    format!("p{port}")
}

/// Address `last` on the link of `port`.
pub fn on_link(port: usize, last: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, port as u8, last as u8)
}

/// The router's address on `port`.
pub fn router(port: usize) -> Ipv4Addr {
    on_link(port, 1)
}

/// Address of the `index`-th known host on the link of `port`.
pub fn host(port: usize, index: usize) -> Ipv4Addr {
    on_link(port, FIRST_HOST + index)
}

/// An address behind the gateway of `port` that speaks Xcast.
pub fn behind(port: usize, last: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, port as u8, last as u8)
}

/// An address behind the gateway of `port` that does not speak Xcast.
pub fn behind_plain(port: usize, last: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, port as u8, last as u8)
}

/// An address behind the second gateway of `port` that speaks Xcast.
pub fn behind_second(port: usize, last: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 5, port as u8, last as u8)
}

/// An address behind the gateway of `port` whose link layer address nobody knows.
pub fn behind_silent(port: usize, last: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 6, port as u8, last as u8)
}

/// The router's link layer address on `port`.
pub fn router_mac(port: usize) -> Mac {
    [2, 0, 0, 0, 0, port as u8]
}

/// Link layer address of 10.0.`port`.`last`, a gateway or host.
pub fn neighbour_mac(port: usize, last: usize) -> Mac {
    match last {
        2 => [2, 0, 0, 0, 1, port as u8],
        _ => [2, 0, 0, 1, port as u8, last as u8],
    }
}

/// A link layer address as `ip` reads it.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

impl Layout {
    /// What the tests' expectations are made from.
    pub fn view(&self) -> RouterView {
        let ip = |address: Ipv4Addr| self.family.address(address);
        let mut view = RouterView {
            group: ip(GROUP),
            protocol: PROTOCOL,
            routing_type: PROTOCOL,
            ports_option: PORTS_OPTION,
            anycast: self.anycast.iter().copied().map(ip).collect(),
            own: vec![ip(OTHER_ADDRESS)],
            broadcasts: vec![ip(Ipv4Addr::new(10, 7, 0, 255))],
            prune: self.prune,
            udp: self.udp.as_ref().map(|udp| udp_in(udp, self.family)),
            ports: Vec::new(),
            routes: vec![
                (OTHER_ADDRESS.into(), 32, Target::Local),
                (Ipv4Addr::new(10, 3, 0, 0).into(), 24, Target::Blackhole),
                (Ipv4Addr::new(10, 4, 0, 0).into(), 23, Target::Unreachable),
                (
                    Ipv4Addr::new(10, 7, 0, 0).into(),
                    24,
                    Target::OtherInterface,
                ),
            ],
            neighbours: Vec::new(),
        };
        for port in 0..self.ports {
            view.ports.push(Port {
                mac: router_mac(port),
                mtu: self.port_mtu(port),
                group_mac: self.group_mac.contains(&port),
            });
            view.own.push(ip(router(port)));
            view.broadcasts.push(ip(on_link(port, 255)));
            view.routes.push((router(port).into(), 32, Target::Local));
            view.routes
                .push((on_link(port, 0).into(), 24, Target::OnLink { port }));
            for (prefix, last) in gateways(port) {
                let target = Target::Gateway {
                    port,
                    address: ip(on_link(port, last)),
                    mac: (last != 5).then(|| neighbour_mac(port, last)),
                    xcast: match self.gateways {
                        Gateways::All => true,
                        Gateways::None => false,
                        Gateways::List => last != 3,
                    },
                };
                view.routes.push((prefix.into(), 24, target));
            }
            for last in self.known() {
                view.neighbours
                    .push((port, ip(on_link(port, last)), neighbour_mac(port, last)));
            }
        }
        for (prefix, len, _) in &mut view.routes {
            let IpAddr::V4(address) = *prefix else {
                continue;
            };
            (*prefix, *len) = (ip(address), self.family.prefix_len(*len));
        }
        if self.family == Family::Ipv6 {
            view.broadcasts.clear();
            // Subnet-router anycast addresses (RFC 4291 section 2.6.1).
            let subnets = (0..self.ports).map(|port| on_link(port, 0));
            for subnet in subnets.chain([Ipv4Addr::new(10, 7, 0, 0)]) {
                view.routes.push((ip(subnet), 128, Target::Local));
            }
        }
        view
    }

    fn port_mtu(&self, port: usize) -> usize {
        let own = self.mtu.iter().find(|entry| entry.0 == port);
        // A full list of IPv6 addresses takes two kilobytes.
        let usual = match self.family {
            Family::Ipv4 => 1500,
            Family::Ipv6 => 3000,
        };
        own.map_or(usual, |entry| entry.1)
    }

    /// Last octets of the neighbours on each link whose link layer address is known.
    fn known(&self) -> impl Iterator<Item = usize> {
        (2..=4).chain(FIRST_HOST..FIRST_HOST + self.hosts)
    }

    /// The commands for `ip -batch` that make the router's side, once its interfaces exist.
    pub fn kernel_commands(&self) -> String {
        let mut text = format!(
            "link set lo up\n\
             link add other type veth peer name elsewhere\n\
             address add {OTHER_ADDRESS}/24 dev other\n\
             link set other up\n\
             link set elsewhere up\n\
             route add blackhole 10.3.0.0/24\n\
             route add unreachable 10.4.0.0/24\n\
             route add prohibit 10.4.1.0/24\n"
        );
        let ip6 = |address: [u8; 4], len| Family::Ipv6.prefix(address, len);
        let other = Family::Ipv6.address(OTHER_ADDRESS);
        text += &format!(
            "address add {other}/56 dev other nodad\n\
             route add blackhole {}\n\
             route add unreachable {}\n\
             route add prohibit {}\n",
            ip6([10, 3, 0, 0], 24),
            ip6([10, 4, 0, 0], 24),
            ip6([10, 4, 1, 0], 24),
        );
        text.extend((0..self.ports).map(|port| self.port_commands(port)));
        text
    }

    /// The part of [`kernel_commands`](Self::kernel_commands) that is about one port.
    pub fn port_commands(&self, port: usize) -> String {
        let name = interface(port);
        let mac = mac_text(router_mac(port));
        let mtu = self.port_mtu(port);
        let own = router(port);
        // Below its least MTU there is no IPv6.
        let ipv6 = mtu >= 1280;
        let own6 = Family::Ipv6.address(own);
        let mut text = format!(
            "link set {name} address {mac} mtu {mtu} up\n\
             address add {own}/24 brd + dev {name}\n"
        );
        if ipv6 {
            text += &format!("address add {own6}/56 dev {name} nodad\n");
        }
        for last in self.known() {
            let (address, mac) = (on_link(port, last), mac_text(neighbour_mac(port, last)));
            text += &format!("neighbour replace {address} lladdr {mac} nud permanent dev {name}\n");
            if ipv6 {
                let address = Family::Ipv6.address(address);
                text +=
                    &format!("neighbour replace {address} lladdr {mac} nud permanent dev {name}\n");
            }
        }
        for (prefix, last) in gateways(port) {
            let gateway = on_link(port, last);
            text += &format!("route add {prefix}/24 via {gateway}\n");
            if ipv6 {
                let prefix = Family::Ipv6.prefix(prefix, 24);
                let gateway = Family::Ipv6.address(gateway);
                text += &format!("route add {prefix} via {gateway}\n");
            }
        }
        text
    }

    /// The configuration of the router under test.
    pub fn configuration(&self) -> String {
        let gateways = match self.gateways {
            Gateways::All => "\"all\"".to_owned(),
            Gateways::None => "\"none\"".to_owned(),
            Gateways::List => {
                let speak = |port| [2, 4, 5].map(|last| on_link(port, last));
                let ipv4 = (0..self.ports).flat_map(speak);
                quoted(ipv4.flat_map(both))
            }
        };
        let prune = match self.prune {
            Prune::Truncate => "truncate",
            Prune::Bitmap => "bitmap",
        };
        let anycast = quoted(self.anycast.iter().copied().flat_map(both));
        let tables = &self.tables;
        // Tests send as fast as they can, and every packet counts: no limits.
        let mut text = format!(
            "[code_points]\nprotocol = {PROTOCOL}\ngroup = \"{GROUP}\"\n\
             group6 = \"{}\"\nrouting_type = {PROTOCOL}\nports_option = {PORTS_OPTION}\n\n\
             [router]\ngateways = {gateways}\nprune = \"{prune}\"\nanycast = {anycast}\n\
             tables = {tables:?}\nicmp_requests = \"forward\"\n\n\
             [limits]\npackets_per_second = 0\ncopies_per_second = 0\n\
             stack_copies_per_second = 0\n",
            Family::Ipv6.address(GROUP)
        );
        if let Some(udp) = &self.udp {
            text += &format!("\n[udp]\nport = {}\n", udp.port);
            let families = Family::ALL.map(|family| udp_in(udp, family).peers);
            for (peer, sources) in families.iter().flatten() {
                let sources = quoted(
                    sources
                        .iter()
                        .map(|(prefix, len)| format!("{prefix}/{len}")),
                );
                text += &format!("[[udp.peers]]\naddress = \"{peer}\"\nsources = {sources}\n");
            }
        }
        for port in 0..self.ports {
            let (name, group_mac) = (interface(port), self.group_mac.contains(&port));
            // Sources are chosen by chance; `sources.rs` is about whose packets a port takes.
            text += &format!(
                "\n[[port]]\ninterface = \"{name}\"\ngroup_mac = {group_mac}\nsource = \"any\"\n"
            );
        }
        text
    }
}

fn gateways(port: usize) -> [(Ipv4Addr, usize); 4] {
    [
        (behind(port, 0), 2),
        (behind_plain(port, 0), 3),
        (behind_second(port, 0), 4),
        (behind_silent(port, 0), 5),
    ]
}

/// How the router takes Xcast inside UDP, in a family.
fn udp_in(udp: &Udp, family: Family) -> Udp {
    let ip = |address: IpAddr| match address {
        IpAddr::V4(address) => family.address(address),
        IpAddr::V6(_) => address,
    };
    let source = |&(prefix, len): &(IpAddr, u8)| (ip(prefix), family.prefix_len(len));
    let peers = udp.peers.iter();
    Udp {
        port: udp.port,
        peers: peers
            .map(|(&peer, sources)| (ip(peer), sources.iter().map(source).collect()))
            .collect(),
    }
}

/// An address in either family.
fn both(address: Ipv4Addr) -> [IpAddr; 2] {
    Family::ALL.map(|family| family.address(address))
}

fn quoted(words: impl Iterator<Item = impl Display>) -> String {
    let list: Vec<_> = words.map(|word| format!("\"{word}\"")).collect();
    format!("[{}]", list.join(", "))
}
