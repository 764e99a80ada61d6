//! What a running router tells about itself: the JSON documents of `xcast-ctl`'s reading verbs.
//!
//! Field names are stable. Fields may be added; readers ignore the ones they do not know.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use xcast_common::maps::counter::{self, Counter};
use xcast_host::Ipv6CodePoints;

use crate::gateways::Gateways;

/// Counters by their stable name, see [`xcast_common::maps::counter`].
pub type Counters = BTreeMap<String, u64>;

/// Names the values of one port's counters, as they lie in the datapath's map.
pub fn counters(values: &[u64; counter::COUNT]) -> Counters {
    counter::NAMES
        .iter()
        .zip(values)
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect()
}

/// The value of one counter; zero if the router does not know it.
pub fn value(counters: &Counters, counter: Counter) -> u64 {
    counters.get(counter.name()).copied().unwrap_or(0)
}

/// Copies that were decided on but reached neither a driver nor the stack, and packets lost on their way to another round,
/// which would have become copies.
pub fn loss(counters: &Counters) -> u64 {
    let copies = value(counters, Counter::Planned).saturating_sub(value(counters, Counter::Sent));
    let rounds =
        value(counters, Counter::Recirculated).saturating_sub(value(counters, Counter::Returned));
    copies + rounds
}

/// The document of `xcast-ctl status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the running router.
    pub version: String,
    /// Process id of the router.
    pub pid: u32,
    /// Whole seconds since the router started.
    pub uptime_seconds: u64,
    /// The route maps were in step with the kernel at least once.
    pub ready: bool,
    /// The router's own interface.
    pub interface: String,
    /// IPv4 protocol number of Xcast.
    pub protocol: u8,
    /// The All-Xcast-Routers group.
    pub group: Ipv4Addr,
    /// Code points of Xcast6, if the router forwards it.
    pub ipv6: Option<Ipv6Status>,
    /// Interfaces the router is attached to.
    pub ports: usize,
    /// Prefixes in the route map.
    pub routes: usize,
    /// Entries of the next-hop table in use.
    pub next_hops: usize,
    /// Exact sets of ports that have their own device map at the moment.
    pub subsets_installed: usize,
    /// Changes that could not be written to the datapath's maps, and are tried again. Destinations of routes that are
    /// missing are left to the kernel.
    #[serde(default)]
    pub pending_edits: PendingEdits,
    /// Full resynchronisations with the kernel since the start, the first one not counted.
    pub resyncs: u64,
    /// Release of the running kernel.
    pub kernel: String,
    /// How lists are pruned: `truncate` or `bitmap`.
    pub prune: String,
    /// Which gateways are taken to speak Xcast.
    pub gateways: Gateways,
    /// The Xcast routing table; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xcast_table: Option<XcastTable>,
    /// UDP port at which Xcast inside UDP is taken; absent if none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_port: Option<u16>,
    /// What it does for sources that nothing is known of; absent if it is no relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<Relay>,
    /// Forwarding goes on when the router's process ends without an order to detach.
    #[serde(default)]
    pub lasting: bool,
    /// Log lines that were lost: there were too many, or they could not be written.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// Changes of the router's own interface by somebody else that were put right.
    #[serde(default)]
    pub own_interface_repairs: u64,
    /// What could not be put right there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_interface_fault: Option<String>,
    /// Policy rules and VRFs that put something to the kernel's stack; not all of them, if there are very many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy: Vec<PolicyRow>,
    /// How many more there are.
    #[serde(default)]
    pub policy_more: usize,
}

/// What is in the Xcast routing table (RFC 5058 section 11.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XcastTable {
    /// Its number.
    pub table: u32,
    /// Prefixes whose routes lead to where lists are taken.
    pub usable: usize,
    /// Routes by gateways or tunnels that take no lists, so that the kernel's tables decide: one row for each way; not all of
    /// them, if there are very many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<PassedOver>,
}

/// Routes of the Xcast routing table that go the same way, which takes no lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// How many there are.
    pub routes: usize,
    /// One of them.
    pub example: IpNet,
    /// Why lists cannot go there.
    pub why: String,
}

/// A part of the kernel's state that puts something to its stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRow {
    /// The rule, much as `ip rule` shows it, or the port that belongs to a VRF.
    pub cause: String,
    /// What goes to the stack.
    pub effect: String,
}

/// Changes that could not be carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingEdits {
    /// How many there are.
    pub count: usize,
    /// A few of them.
    pub examples: Vec<PendingEdit>,
}

/// A change that could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingEdit {
    /// What was to be written.
    pub what: String,
    /// Why it could not be.
    pub error: String,
    /// How often that was tried.
    pub attempts: u32,
}

/// Code points of Xcast6; see [`Ipv6CodePoints`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Status {
    /// The All-Xcast-Routers group.
    pub group: Ipv6Addr,
    /// Routing type of the routing header.
    pub routing_type: u8,
    /// Type of the option that lists ports.
    pub ports_option: u8,
}

impl From<Ipv6Status> for Ipv6CodePoints {
    fn from(status: Ipv6Status) -> Self {
        Self {
            group: status.group,
            routing_type: status.routing_type,
            ports_option: status.ports_option,
        }
    }
}

impl From<Ipv6CodePoints> for Ipv6Status {
    fn from(code_points: Ipv6CodePoints) -> Self {
        Self {
            group: code_points.group,
            routing_type: code_points.routing_type,
            ports_option: code_points.ports_option,
        }
    }
}

#[cfg(test)]
impl Status {
    /// A status to make variants of.
    pub(crate) fn example() -> Self {
        Self {
            version: "0.1.0".into(),
            pid: 4711,
            uptime_seconds: 61,
            ready: true,
            interface: "xcast0".into(),
            protocol: 253,
            group: Ipv4Addr::new(224, 0, 0, 254),
            ipv6: None,
            ports: 2,
            routes: 9,
            next_hops: 5,
            subsets_installed: 3,
            pending_edits: PendingEdits::default(),
            resyncs: 0,
            kernel: "6.18.44".into(),
            prune: "truncate".into(),
            gateways: Gateways::All,
            xcast_table: None,
            udp_port: None,
            relay: None,
            lasting: true,
            log_lines_lost: 0,
            own_interface_repairs: 0,
            own_interface_fault: None,
            policy: Vec::new(),
            policy_more: 0,
        }
    }
}

/// The document of `xcast-ctl stats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Every counter, summed over all ports.
    pub totals: Counters,
    /// The same per port.
    pub ports: Vec<PortStats>,
    /// Copies planned minus copies sent, and packets recirculated minus packets returned.
    pub loss: u64,
}

impl Stats {
    /// Sums up the ports.
    pub fn new(ports: Vec<PortStats>) -> Self {
        let mut totals = counters(&[0; counter::COUNT]);
        for (name, value) in ports.iter().flat_map(|port| &port.counters) {
            *totals.entry(name.clone()).or_default() += value;
        }
        let loss = loss(&totals);
        Self {
            totals,
            ports,
            loss,
        }
    }
}

/// The counters of one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStats {
    /// Name of the interface.
    pub name: String,
    /// Slot of the port in the datapath.
    pub slot: u8,
    /// Index of the interface.
    pub ifindex: u32,
    /// Every counter.
    pub counters: Counters,
    /// XDP frames the driver says it dropped on transmission, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_drops: Option<u64>,
}

/// One row of `xcast-ctl routes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destinations the row is about.
    pub prefix: IpNet,
    /// Id of the next hop, as in [`NextHop::id`].
    pub next_hop: u32,
    /// What happens to them: `forward`, `stack`, `skip` or `ecmp`.
    pub kind: String,
    /// Address of the gateway, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// Name of the interface, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Kernel table the route comes from, if it comes from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Why, in words.
    pub why: String,
}

/// One row of `xcast-ctl next-hops`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// Id of the entry.
    pub id: u32,
    /// `forward`, `stack`, `skip` or `ecmp`.
    pub kind: String,
    /// IP address of the next hop, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Name of the interface copies leave by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Link layer address of the next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Largest IP packet that may leave this way, in octets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// The next hop is a gateway that speaks Xcast.
    pub xcast: bool,
    /// The next hop is the destination itself.
    pub on_link: bool,
    /// Name of the counter that says why destinations are not forwarded (`stack`, `skip`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One row of `xcast-ctl neighbors`: a gateway that routes lead to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbor {
    /// Name of the interface it is on.
    pub device: String,
    /// Its address.
    pub address: IpAddr,
    /// Lists are sent to it. Otherwise each destination behind it gets a unicast packet of its own.
    pub xcast: bool,
    /// Why it counts as it does: `stated`, `proven`, `new`, `silent`, `lost`, `on trial` or
    /// `swallows`.
    pub standing: String,
    /// The same in words.
    pub why: String,
    /// Smoothed round-trip time of probes, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<u64>,
    /// Time since the last proof, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven_ms_ago: Option<u64>,
    /// Probes sent to it.
    #[serde(default)]
    pub probes_sent: u64,
    /// Probes that it returned.
    #[serde(default)]
    pub probes_returned: u64,
    /// How often it lost its proof.
    #[serde(default)]
    pub losses: u64,
}

/// One row of `xcast-ctl tunnels`: a tunnel to another router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its name.
    pub name: String,
    /// The other router.
    pub remote: IpAddr,
    /// The address of this router; absent while it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// Name of the interface towards the remote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// It carries traffic. Otherwise destinations behind it go to another tunnel, or as if there was none.
    pub working: bool,
    /// How packets are carried, if it does: `ip` or `udp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Why it does or does not.
    pub why: String,
    /// Smoothed round-trip time of probes, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<u64>,
    /// Time since the last proof, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven_ms_ago: Option<u64>,
    /// Longest packet on the path, outer headers included, in octets, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u16>,
    /// Longest packet inside, in octets. Longer ones go to the kernel stack as unicast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// What is known of each way to carry packets.
    pub ways: Vec<TunnelWay>,
    /// What is reached through it, as the configuration has it.
    pub destinations: Vec<IpNet>,
}

/// What is known of one way to carry packets through a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelWay {
    /// `ip` or `udp`.
    pub mode: String,
    /// `proven`, `new`, `silent`, `lost` or `on trial`.
    pub standing: String,
    /// Probes sent.
    pub probes_sent: u64,
    /// Probes that were answered.
    pub probes_returned: u64,
    /// How often it lost its proof.
    pub losses: u64,
}

/// The document of `xcast-ctl backbone` about a router: its part of a logical backbone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backbone {
    /// What it does for sources that nothing is known of; absent if it is no relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<Relay>,
    /// The gateways, and which of them speak Xcast.
    pub neighbors: Vec<Neighbor>,
}

/// A relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// UDP port where it takes questions and packets.
    pub port: u16,
    /// Why it answers nobody, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// It tells sources to take another one.
    pub busy: bool,
    /// Copies in a second, in percent of its capacity; 255 stands for more, too.
    pub load_percent: u8,
    /// Questions answered.
    pub questions_answered: u64,
    /// Questions not answered, because there were too many.
    pub questions_ignored: u64,
    /// Time since the last answer, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_answer_ms_ago: Option<u64>,
    /// Ports of its own that it has for sources.
    pub relayed_ports: usize,
    /// Those that sources have.
    #[serde(default)]
    pub relayed: Vec<RelayedPort>,
    /// Wishes for such a port that could not be fulfilled.
    pub without_port: u64,
}

/// A port of a relay that a source has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayedPort {
    /// The port.
    pub port: u16,
    /// Address and port of the source, as the relay sees it.
    pub source: SocketAddr,
}

/// How a port's XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver, before the kernel allocates a buffer.
    Native,
    /// In the stack, for drivers without XDP; slow.
    Generic,
}

/// One row of `xcast-ctl ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Name of the interface.
    pub name: String,
    /// Slot of the port in the datapath; absent while the interface does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u8>,
    /// Index of the interface; absent while it does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// Link layer address of the interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// MTU of the interface, in octets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// How the program is attached; absent while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Frames to the group's MAC address are accepted.
    pub group_mac: bool,
    /// The interface is up and has a carrier.
    pub up: bool,
    /// Why the router is not attached to it, or why no copies leave by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The document of `xcast-ctl explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explain {
    /// The copies the router would make, in the order they are planned.
    pub copies: Vec<Branch>,
    /// Destinations nobody would be sent a copy for.
    pub skipped: Vec<Skipped>,
    /// How the copies are made.
    pub path: Path,
    /// The ports, and whether the packet would be taken where it arrives by them; with `--ingress`, that one.
    #[serde(default)]
    pub arrivals: Vec<Arrival>,
}

/// A port that a packet may arrive by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Name of the interface.
    pub port: String,
    /// Why a packet from that source is dropped there, with the counter; absent if it is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// One output copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// Name of the interface the copy leaves by.
    pub port: String,
    /// IP address of the next hop, if it is known; of a tunnel, that of the other router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<IpAddr>,
    /// Link layer address that the copy is sent to, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Name of the tunnel that the copy goes by, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// What the copy is.
    pub form: Form,
    /// The destinations it serves, in the order of the list.
    pub destinations: Vec<Destination>,
    /// Why this copy looks like this, in words.
    pub why: String,
}

/// What a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// An Xcast packet.
    Xcast,
    /// An ordinary unicast packet (X2U), sent by a port.
    Unicast,
    /// An ordinary unicast packet (X2U), handed to the kernel's stack.
    Stack,
}

/// A destination that gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The entry of the list.
    pub destination: Destination,
    /// Why, in words.
    pub why: String,
}

/// How copies are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// There is no copy to make.
    None,
    /// The packet itself becomes the one copy.
    Single,
    /// One broadcast to the device map of exactly these ports.
    Broadcast,
    /// One copy per round, until the device map of exactly these ports is installed.
    Recirculate,
}

/// An entry of a destination list; `ADDRESS` or `ADDRESS:PORT` in text, for IPv6 `[ADDRESS]:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Destination {
    /// IP address.
    pub address: IpAddr,
    /// UDP or TCP port, if the list has ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.address) {
            (Some(port), address) => SocketAddr::new(address, port).fmt(f),
            (None, address) => address.fmt(f),
        }
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            let port = None;
            return Ok(Self { address, port });
        }
        let (address, port) = match text.rsplit_once(':') {
            Some((address, port)) => (address, Some(port)),
            None => (text, None),
        };
        let bare = address
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        let address = bare
            .unwrap_or(address)
            .parse::<IpAddr>()
            .ok()
            // Without brackets it is not clear where an address of IPv6 ends.
            .filter(|address| address.is_ipv6() == bare.is_some())
            .ok_or_else(|| {
                format!("{address:?} is not an IP address (of IPv6, before a port, in brackets)")
            })?;
        let port = port
            .map(|port| {
                port.parse()
                    .map_err(|_| format!("{port:?} is not a port (0 to 65535)"))
            })
            .transpose()?;
        Ok(Self { address, port })
    }
}

/// Text of a link layer address.
pub fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_add_up_ports_and_show_the_difference_as_loss() {
        let port = |name: &str, planned, sent| {
            let mut values = [0; counter::COUNT];
            values[Counter::Planned as usize] = planned;
            values[Counter::Sent as usize] = sent;
            PortStats {
                name: name.to_owned(),
                slot: 2,
                ifindex: 3,
                counters: counters(&values),
                driver_drops: None,
            }
        };
        let stats = Stats::new(vec![port("eth0", 10, 7), port("eth1", 5, 5)]);
        assert_eq!(value(&stats.totals, Counter::Planned), 15);
        assert_eq!(value(&stats.totals, Counter::Received), 0);
        assert_eq!(stats.loss, 3);
    }

    #[test]
    fn destinations_in_text() {
        for text in [
            "10.0.0.1",
            "10.0.0.1:5000",
            "2001:db8::1",
            "[2001:db8::1]:5000",
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        assert!(
            "host"
                .parse::<Destination>()
                .unwrap_err()
                .contains("\"host\"")
        );
        assert!(
            "10.0.0.1:x"
                .parse::<Destination>()
                .unwrap_err()
                .contains("port")
        );
    }
}
