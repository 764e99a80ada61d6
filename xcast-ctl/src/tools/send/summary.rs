//! What `send` says at the end.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

/// The document of `xcast-ctl send --json`.
#[derive(Debug, Serialize)]
pub(super) struct Sent {
    /// Number of messages; each is a packet, or several where the list does not fit one.
    pub(super) packets: u64,
    /// How long it took, in seconds.
    pub(super) seconds: f64,
    /// Length of the last payload, in octets.
    pub(super) payload_octets: usize,
    /// Number of destinations in the list.
    pub(super) destinations: usize,
    /// How they left.
    #[serde(flatten)]
    pub(super) how: How,
}

/// How the packets left.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum How {
    /// As raw packets.
    Raw {
        /// One for each family in the list.
        ways: Vec<Way>,
    },
    /// Inside UDP.
    Udp {
        /// The router's addresses.
        routers: Vec<SocketAddr>,
        /// Xcast packets that left.
        xcast_packets: u64,
        /// Unicast datagrams that left instead, because the router did not answer.
        unicast_packets: u64,
    },
}

/// How the packets of one family left.
#[derive(Debug, Serialize)]
pub(super) struct Way {
    /// Number of destinations in the list.
    pub(super) destinations: usize,
    /// Length of the last packet from its IP header on, in octets.
    pub(super) octets: usize,
    /// Flags of the Xcast header, letters of "AXDP".
    pub(super) flags: String,
    /// IP source.
    pub(super) source: IpAddr,
    /// IP destination.
    pub(super) to: IpAddr,
    /// Interface the packets left by.
    pub(super) interface: String,
    /// First-hop router they were sent to; absent where they went into a router's own interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) via: Option<IpAddr>,
}

/// The summary as a sentence.
pub(super) fn render(sent: &Sent) -> String {
    let plural = |n: u64| if n == 1 { "" } else { "s" };
    let mut text = format!("sent {} packet{}", sent.packets, plural(sent.packets));
    let destinations = |count: usize| format!("{count} destination{}", plural(count as u64));
    text += &match &sent.how {
        How::Raw { ways } => {
            let way = |way: &Way| {
                let via = way
                    .via
                    .map_or_else(String::new, |via| format!(" via {via}"));
                format!(
                    " of {} octets from {} to {} by {}{via}",
                    way.octets,
                    way.source,
                    destinations(way.destinations),
                    way.interface
                )
            };
            let ways: Vec<_> = ways.iter().map(way).collect();
            ways.join(", and as many")
        }
        How::Udp {
            routers,
            xcast_packets,
            unicast_packets,
        } => format!(
            " to {}: {xcast_packets} inside UDP by {}, {unicast_packets} as unicast",
            destinations(sent.destinations),
            listed(routers),
        ),
    };
    if sent.packets > 1 && sent.seconds > 0.0 {
        let rate = sent.packets as f64 / sent.seconds;
        text += &format!(" in {:.3} s, {rate:.0}/s", sent.seconds);
    }
    text + "\n"
}

/// Addresses as "a and b".
pub(super) fn listed(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(" and ")
}
