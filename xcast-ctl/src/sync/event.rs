//! What the kernel says about its links, addresses, neighbours and routes, in this crate's own types.
//!
//! [`Netlink`](super::Netlink) makes these events, [`RouteSync`](super::RouteSync) consumes them.
//! They carry only what forwarding needs, so tests and replays can write them by hand.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use serde::Serialize;

use super::rules::Rule;

/// A link layer address.
pub type Mac = [u8; 6];

/// One change in the kernel's state, or one object of a dump.
///
/// The stream starts with a dump. A dump is enclosed by [`ResyncBegin`](Self::ResyncBegin) and
/// [`ResyncEnd`](Self::ResyncEnd); whatever it does not mention no longer exists. A dump that is begun
/// again before it ended starts over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// A full dump follows.
    ResyncBegin,
    /// The dump is complete.
    ResyncEnd,
    /// An interface exists, or changed.
    Link(Link),
    /// An interface is gone, and with it all that depends on it.
    LinkRemoved {
        /// Its index.
        ifindex: u32,
    },
    /// The largest packet of IPv6 that an interface sends, in octets (`conf.X.mtu`): a router on the link may have
    /// announced one below the link's own MTU (RFC 4861 section 4.6.4).
    Ipv6Mtu {
        /// The interface.
        ifindex: u32,
        /// That size.
        mtu_bytes: u32,
    },
    /// Destinations that policies of IPsec apply to, of either family.
    Ipsec(Vec<IpNet>),
    /// The sysctl `ignore_routes_with_linkdown` of one interface, or of all of them.
    IgnoreLinkDown {
        /// It is that of IPv6, which asks each interface alone.
        ipv6: bool,
        /// The interface; `None` for `conf.all`.
        ifindex: Option<u32>,
        /// Whether routes over an interface without carrier are passed over.
        ignore: bool,
    },
    /// Somebody changed a setting of an interface, or of all of them, that the kernel tells of without saying which.
    SettingsChanged,
    /// The sysctl `fib_multipath_use_neigh` of IPv4: whether multipath routes pass gateways over whose neighbour entry
    /// has failed.
    MultipathUsesNeighbours(bool),
    /// An interface has an address.
    Address(Address),
    /// An interface lost an address.
    AddressRemoved(Address),
    /// A neighbour exists, or changed its state.
    Neighbour(Neighbour),
    /// A neighbour is gone.
    NeighbourRemoved {
        /// The interface it was on.
        ifindex: u32,
        /// Its IP address.
        address: IpAddr,
    },
    /// A nexthop object exists, or was replaced.
    NextHopObject(NextHopObject),
    /// A nexthop object is gone, and with it the routes that use it.
    NextHopObjectRemoved {
        /// Its id.
        id: u32,
    },
    /// A route exists.
    Route {
        /// The route.
        route: Route,
        /// Its place among routes with the same prefix and metric.
        placement: Placement,
    },
    /// A route is gone.
    RouteRemoved(Route),
    /// A policy rule exists.
    Rule {
        /// The rule.
        rule: Rule,
        /// A dump mentions it; otherwise it is new.
        is_dumped: bool,
    },
    /// A policy rule is gone.
    RuleRemoved(Rule),
    /// All policy rules of a family have been told. Without this, the kernel has none to be told.
    RulesKnown {
        /// Those of IPv6.
        ipv6: bool,
    },
}

impl KernelEvent {
    /// Whether it is about routes or an address of IPv6. Its neighbours matter to IPv4, too: they may
    /// be its gateways.
    pub(super) fn is_route_of_ipv6(&self) -> bool {
        match self {
            Self::Address(address) | Self::AddressRemoved(address) => address.address.is_ipv6(),
            Self::Route { route, .. } | Self::RouteRemoved(route) => route.prefix.addr().is_ipv6(),
            Self::IgnoreLinkDown { ipv6, .. } | Self::RulesKnown { ipv6 } => *ipv6,
            Self::Rule { rule, .. } | Self::RuleRemoved(rule) => rule.ipv6,
            Self::Ipv6Mtu { .. } => true,
            _ => false,
        }
    }
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index; a re-created interface gets another one.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Alternative names, by which rules may call it.
    pub alt_names: Vec<String>,
    /// Its link layer address, if it has one of Ethernet's size.
    pub mac: Option<Mac>,
    /// Largest IP packet, in octets.
    pub mtu_bytes: u32,
    /// It belongs to a VRF: what arrives by it is routed by tables of its own.
    pub in_vrf: bool,
    /// The administrator set it up (`IFF_UP`).
    pub up: bool,
    /// It has a carrier (`IFF_RUNNING` or `IFF_LOWER_UP`, as the kernel's routing decides it).
    pub carrier: bool,
}

impl Link {
    /// All its names.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.name).chain(&self.alt_names)
    }
}

/// An address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The interface that has it.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// The other end's address on a point-to-point link, else the same: one address may have several peers.
    pub peer: IpAddr,
    /// Length of its subnet's prefix: one address may be there several times with different ones.
    pub prefix_len: u8,
}

/// An entry of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface it is on.
    pub ifindex: u32,
    /// Its IP address.
    pub address: IpAddr,
    /// Its link layer address, if known.
    pub mac: Option<Mac>,
    /// How sure the kernel is of it.
    pub state: NeighbourState,
    /// Somebody keeps it: the kernel by itself (`NTF_EXT_MANAGED`), or a control plane (`NTF_EXT_LEARNED`).
    pub managed: bool,
}

impl Neighbour {
    /// Whether the kernel takes it for one that can be reached (`NUD_VALID`).
    pub(super) fn is_valid(&self) -> bool {
        !matches!(
            self.state,
            NeighbourState::None | NeighbourState::Incomplete | NeighbourState::Failed
        )
    }

    /// The link layer address, if the kernel would send to it without asking first.
    pub fn resolved(&self) -> Option<Mac> {
        self.mac.filter(|_| self.is_valid())
    }
}

/// States of a neighbour, as `ip neighbour` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NeighbourState {
    /// Nothing known yet.
    None,
    /// Being resolved.
    Incomplete,
    /// Confirmed lately.
    Reachable,
    /// Confirmed some time ago; used until it proves wrong.
    Stale,
    /// In use again; about to be probed.
    Delay,
    /// Being probed.
    Probe,
    /// Did not answer.
    Failed,
    /// Needs no resolution.
    NoArp,
    /// Set by the administrator.
    Permanent,
}

impl fmt::Display for NeighbourState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "NONE",
            Self::Incomplete => "INCOMPLETE",
            Self::Reachable => "REACHABLE",
            Self::Stale => "STALE",
            Self::Delay => "DELAY",
            Self::Probe => "PROBE",
            Self::Failed => "FAILED",
            Self::NoArp => "NOARP",
            Self::Permanent => "PERMANENT",
        })
    }
}

/// A nexthop object (`ip nexthop`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHopObject {
    /// Its id.
    pub id: u32,
    /// What it stands for.
    pub kind: NextHopObjectKind,
}

/// What a nexthop object stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHopObjectKind {
    /// Discard silently.
    Blackhole,
    /// One next hop; its weight is given by the groups it is a member of.
    Hop(Hop),
    /// Several: (object id, weight). Groups do not nest.
    Group(Vec<(u32, u32)>),
    /// The same, and flows stay with their member as long as they last, whether it answers or not.
    ResilientGroup(Vec<(u32, u32)>),
}

impl NextHopObjectKind {
    /// The members of a group.
    pub(super) fn members(&self) -> Option<&[(u32, u32)]> {
        match self {
            Self::Group(members) | Self::ResilientGroup(members) => Some(members),
            Self::Blackhole | Self::Hop(_) => None,
        }
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations.
    pub prefix: IpNet,
    /// Routing table.
    pub table: u32,
    /// Type of service it is limited to; 0 for none.
    pub tos: u8,
    /// Sources it is limited to (of IPv6).
    pub source: Option<IpNet>,
    /// Priority: the lowest is used.
    pub metric: u32,
    /// What to do with packets.
    pub kind: RouteKind,
    /// Who installed it (`RTPROT_*`).
    pub protocol: u8,
    /// Source address that this host prefers; the route goes when the address goes.
    pub preferred_source: Option<IpAddr>,
    /// MTU metric of the route, in octets.
    pub mtu_bytes: Option<u32>,
    /// Preference of the router that it leads to (RFC 4191), 0 for medium: among routes of one
    /// metric, the highest is used.
    pub preference: i8,
    /// Why only the kernel knows what becomes of its packets, if so.
    pub kernel_only: Option<KernelOnly>,
    /// Its next hops; several for a multipath route. With a nexthop object, the kernel's rendering of
    /// it, used while the object is not known.
    pub hops: Vec<Hop>,
    /// The nexthop object it uses.
    pub object: Option<u32>,
    /// Interfaces of next hops that the kernel marks as dead (`RTNH_F_DEAD`).
    pub dead: Vec<u32>,
}

/// Why only the kernel knows what becomes of a route's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelOnly {
    /// The route has a lifetime, and the kernel does not say when it passes it over.
    Lifetime,
    /// The route or one of its next hops has a flag that is unknown here.
    Flags(u32),
    /// The route has an attribute (`RTA_*`) that is unknown here.
    Attribute(u16),
    /// Routes that share their traffic differ in preference.
    Preference,
}

impl fmt::Display for KernelOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lifetime => f.write_str("it has a lifetime"),
            Self::Flags(flags) => write!(f, "unknown flags {flags:#x}"),
            Self::Attribute(number) => write!(f, "unknown attribute {number}"),
            Self::Preference => f.write_str("its next hops differ in preference"),
        }
    }
}

/// One next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    /// Interface it leaves by.
    pub ifindex: u32,
    /// Whom it is sent to.
    pub via: Via,
    /// Share of a multipath route's traffic, 1 or more.
    pub weight: u32,
}

/// Whom a packet is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// To the destination itself.
    Link,
    /// To a gateway.
    Gateway(IpAddr),
    /// To what only the kernel can do: a gateway of another address family, or an encapsulation.
    Kernel,
}

/// What a route does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// Forward them.
    Unicast,
    /// Deliver them to this host.
    Local,
    /// A broadcast address.
    Broadcast,
    /// A multicast group.
    Multicast,
    /// Discard them silently.
    Blackhole,
    /// Discard them with an ICMP message.
    Unreachable,
    /// Discard them with an ICMP message.
    Prohibit,
    /// Go on with the next table.
    Throw,
    /// Types that the kernel defines and does not use for IPv4: left to the kernel.
    Other,
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unicast => "unicast",
            Self::Local => "local",
            Self::Broadcast => "broadcast",
            Self::Multicast => "multicast",
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
            Self::Throw => "throw",
            Self::Other => "other",
        })
    }
}

/// Where a route goes among those with the same prefix, table and metric: the first one is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Seen in a dump: after those the dump mentioned before it.
    Dump,
    /// There is no other (`ip route add`).
    Only,
    /// Instead of the first (`ip route replace`), or the route as it is, said again.
    Replace,
    /// Before the others (`ip route prepend`).
    First,
    /// After the others (`ip route append`).
    Last,
}
