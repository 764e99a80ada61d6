//! Tunnels to other routers, as routes see them: what is reached through them, whether they work, and the way to their
//! other ends.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use xcast_common::maps::{
    NEXT_HOP_TUNNEL, NEXT_HOP_TUNNEL_ONLY, NEXT_HOP_XCAST, NextHop, Tunnel as OuterHeaders,
    counter::Counter,
};
use xcast_overlay::backbone::tunnels::{Carriage, Mode};

use super::{event::Link, prefix::PrefixMap};

/// A tunnel, as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSpec {
    /// Its name.
    pub name: String,
    /// The other router.
    pub remote: IpAddr,
    /// The address of this router, if that is stated.
    pub local: Option<IpAddr>,
    /// What is reached through it.
    pub destinations: Vec<IpNet>,
    /// The kernel's tunnel device to the same router, if there is one.
    pub kernel_device: Option<String>,
}

/// Which entry of the tunnel table has the outer headers of a tunnel.
pub fn tunnel_index(tunnel: usize, mode: Mode) -> u16 {
    (2 * tunnel + usize::from(mode == Mode::Udp)) as u16
}

/// The way to the other end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// The gateway towards it, or itself, with the interface.
    pub neighbour: (u32, IpAddr),
    /// The next hop of a plain packet to it: port and link-layer addresses, and the MTU.
    pub entry: NextHop,
    /// The source of outer headers.
    pub local: IpAddr,
}

impl Outer {
    /// Link-layer addresses as they begin a frame.
    pub fn macs(&self) -> [u8; 12] {
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&self.entry.destination_mac);
        macs[6..].copy_from_slice(&self.entry.source_mac);
        macs
    }
}

/// Why there is no way to the other end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NoWay {
    /// Nothing is known of routes yet.
    #[default]
    Unknown,
    /// No route leads there.
    NoRoute,
    /// The route there discards, or only the kernel knows it.
    NotForwarded,
    /// It is an address of this router.
    Own,
    /// The route there leaves by an interface that is no port.
    NoPort,
    /// The link-layer address of this neighbour is not known: the other end itself, or a gateway.
    Unresolved {
        /// Its interface.
        ifindex: u32,
        /// Its address.
        address: IpAddr,
    },
    /// This router has no address of the family.
    NoSource,
}

impl fmt::Display for NoWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the kernel's routes are not known yet"),
            Self::NoRoute => f.write_str("there is no route to the remote"),
            Self::NotForwarded => {
                f.write_str("the route to the remote discards, or only the kernel knows it")
            }
            Self::Own => f.write_str("the remote is an address of this router"),
            Self::NoPort => {
                f.write_str("the route to the remote leaves by an interface that is no port")
            }
            Self::Unresolved { address, .. } => {
                write!(f, "the link-layer address of {address} is not known")
            }
            Self::NoSource => f.write_str("this router has no address of the remote's family"),
        }
    }
}

/// All tunnels, by their places in the configuration, and which prefixes lead into them.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    list: Vec<State>,
    /// Tunnels of each prefix, the preferred ones first.
    routes: PrefixMap<Vec<u16>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) spec: TunnelSpec,
    pub(super) carriage: Carriage,
    pub(super) outer: Result<Outer, NoWay>,
    /// What the datapath knows: the source of outer headers, and link-layer addresses.
    pub(super) written: Option<(IpAddr, [u8; 12])>,
}

impl Tunnels {
    pub(super) fn new(specs: &[TunnelSpec]) -> Self {
        let mut tunnels = Self::default();
        for (tunnel, spec) in (0..).zip(specs) {
            tunnels.list.push(State {
                spec: spec.clone(),
                carriage: Carriage::default(),
                outer: Err(NoWay::Unknown),
                written: None,
            });
            for prefix in &spec.destinations {
                tunnels.routes.get_or_default(*prefix).push(tunnel);
            }
        }
        tunnels
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn get(&self, tunnel: usize) -> Option<&State> {
        self.list.get(tunnel)
    }

    pub(super) fn get_mut(&mut self, tunnel: usize) -> Option<&mut State> {
        self.list.get_mut(tunnel)
    }

    /// The tunnel that a prefix leads into now, if it leads into any that works.
    pub(super) fn of(&self, prefix: IpNet) -> Option<u16> {
        let tunnels = self.routes.get(prefix)?.iter();
        tunnels.copied().find(|&tunnel| self.works(tunnel))
    }

    /// The longest prefix around another one where tunnels that do not work come before what is used, with those tunnels.
    pub(super) fn idle(&self, prefix: IpNet) -> Option<(IpNet, Vec<u16>)> {
        self.routes.longest(prefix, |tunnels| {
            let tunnels = tunnels.iter().copied();
            let idle: Vec<_> = tunnels.take_while(|&tunnel| !self.works(tunnel)).collect();
            (!idle.is_empty()).then_some(idle)
        })
    }

    /// The tunnels that routes for lists lead into which have this gateway, or leave by this interface.
    pub(super) fn to(
        &self,
        gateway: Option<IpAddr>,
        link: Option<&Link>,
    ) -> impl Iterator<Item = u16> {
        let all = (0..).zip(&self.list);
        all.filter_map(move |(tunnel, State { spec, .. })| {
            let by_device = spec.kernel_device.as_ref().is_some_and(|device| {
                link.is_some_and(|link| link.names().any(|name| name == device))
            });
            (gateway == Some(spec.remote) || by_device).then_some(tunnel)
        })
    }

    /// Whether a tunnel carries traffic now.
    pub(super) fn works(&self, tunnel: u16) -> bool {
        let state = self.list.get(usize::from(tunnel));
        state.is_some_and(|state| state.carriage.mode.is_some() && state.outer.is_ok())
    }

    /// The prefixes that lead into a tunnel.
    pub(super) fn routes_of(&self, tunnel: u16) -> impl Iterator<Item = IpNet> {
        let routes = self.routes.iter();
        routes.filter_map(move |(prefix, tunnels)| tunnels.contains(&tunnel).then_some(prefix))
    }

    /// The prefixes more specific than another one that lead into tunnels.
    pub(super) fn under(&self, prefix: IpNet) -> impl Iterator<Item = IpNet> {
        self.routes.more_specific(prefix)
    }

    /// The entry of a next hop behind a tunnel, where `native` is that of the way without it, if there is one that
    /// delivers.
    pub(super) fn entry(&self, tunnel: u16, native: Option<NextHop>) -> NextHop {
        let state = self.list.get(usize::from(tunnel));
        let parts = state.and_then(|state| {
            let outer = state.outer.as_ref().ok()?;
            Some((outer, state.carriage.mode?, state.carriage.mtu_bytes))
        });
        let Some((outer, mode, path_mtu)) = parts else {
            return native.unwrap_or(NextHop::stack(Counter::StackNoRoute));
        };
        let overhead = OuterHeaders::overhead(outer.local.is_ipv6(), mode == Mode::Udp) as u16;
        let link_mtu = outer.entry.mtu_bytes;
        let mtu_bytes = path_mtu.map_or(link_mtu, |mtu| mtu.min(link_mtu));
        let only = match native {
            Some(_) => 0,
            None => NEXT_HOP_TUNNEL_ONLY,
        };
        let alone = native.unwrap_or(NextHop {
            egress: outer.entry.egress,
            ..NextHop::stack(Counter::StackNoRoute)
        });
        NextHop {
            flags: NEXT_HOP_XCAST | NEXT_HOP_TUNNEL | only,
            group_or_tunnel: tunnel_index(usize::from(tunnel), mode),
            tunnel_port: outer.entry.port,
            tunnel_mtu_bytes: mtu_bytes.saturating_sub(overhead),
            ..alone
        }
    }
}
