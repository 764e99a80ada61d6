//! What has crossed the links, by the interfaces' own counters.
//!
//! The counters of a veth interface count packets alike, whoever sent them, but not octets: they
//! include the Ethernet header of frames that an XDP program sent and leave it out of those that the
//! kernel sent. The driver's statistics tell how many there were of each, so that [`Traffic`] can
//! have the header in all of them.

use std::{
    collections::BTreeMap,
    fs,
    ops::{Add, Sub},
};

use anyhow::{Context as _, Result};

use super::{Interface, Testbed, ethtool, netns};

const ETHERNET_HEADER_LEN: u64 = 14;

/// What has crossed a link since it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Number of packets.
    pub packets: u64,
    /// Their length in octets, from the Ethernet header on.
    pub bytes: u64,
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(earlier.packets),
            bytes: self.bytes.saturating_sub(earlier.bytes),
        }
    }
}

/// The counters of one interface.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    rx_packets: u64,
    rx_bytes: u64,
    /// Packets that came by the path that does not count Ethernet headers, unless XDP sent them.
    queued: u64,
    /// Packets that an XDP program sent by this interface.
    xdp_sent: u64,
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Testbed {
    /// What has crossed each link so far, in the order of the plan's links.
    ///
    /// # Errors
    ///
    /// A namespace or an interface has disappeared.
    pub fn traffic(&self) -> Result<Vec<Traffic>> {
        let directed = self.directed_traffic()?;
        Ok(directed.into_iter().map(|[to, from]| to + from).collect())
    }

    /// The same by direction: first from the link's first node to its second, then the other way.
    ///
    /// # Errors
    ///
    /// A namespace or an interface has disappeared.
    pub fn directed_traffic(&self) -> Result<Vec<[Traffic; 2]>> {
        let mut counters = BTreeMap::new();
        for node in &self.plan.nodes {
            for (interface, count) in netns::enter(&node.namespace, || read(&node.interfaces))?? {
                counters.insert((node.name.as_str(), interface), count);
            }
        }
        let links = self.plan.links.iter().map(|link| {
            let [one, other] = [0, 1].map(|end| {
                let key = (link.nodes[end].as_str(), link.interfaces[end].clone());
                counters.get(&key).copied().unwrap_or_default()
            });
            [(other, one), (one, other)].map(|(to, from)| {
                let bare = to.queued.saturating_sub(from.xdp_sent);
                Traffic {
                    packets: to.rx_packets,
                    bytes: to.rx_bytes + ETHERNET_HEADER_LEN * bare,
                }
            })
        });
        Ok(links.collect())
    }
}

/// Reads the counters of interfaces in the calling thread's namespace.
fn read(interfaces: &[Interface]) -> Result<Vec<(String, Counters)>> {
    let path = "/proc/thread-self/net/dev";
    let table = fs::read_to_string(path).with_context(|| format!("failed to read {path}"))?;
    interfaces
        .iter()
        .map(|interface| {
            let name = &interface.name;
            let (rx_bytes, rx_packets) = received(&table, name)
                .with_context(|| format!("{path} has no interface {name}"))?;
            let statistics = ethtool::statistics(name)?;
            let sum = |prefix: &str, suffix: &str| {
                let queues = statistics.iter();
                let queues =
                    queues.filter(|(key, _)| key.starts_with(prefix) && key.ends_with(suffix));
                queues.map(|(_, value)| value).sum()
            };
            let counters = Counters {
                rx_packets,
                rx_bytes,
                queued: sum("rx_queue_", "_xdp_packets"),
                xdp_sent: sum("tx_queue_", "_xdp_xmit"),
            };
            Ok((name.clone(), counters))
        })
        .collect()
}

/// An interface's received octets and packets, from the table in `/proc`.
fn received(table: &str, interface: &str) -> Option<(u64, u64)> {
    let line = table.lines().find_map(|line| {
        let (name, values) = line.split_once(':')?;
        (name.trim() == interface).then_some(values)
    })?;
    let mut values = line.split_whitespace().map(str::parse);
    Some((values.next()?.ok()?, values.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::received;

    #[test]
    fn the_table_is_read_by_interface() {
        let table = "Inter-|   Receive                |  Transmit\n \
                     face |bytes    packets errs drop|bytes packets\n    \
                     lo:       0       0    0    0    0     0          0         0        0       0\n \
                     to-R2:     406       7    0    0    0     0          0         0      259       4\n";
        assert_eq!(received(table, "to-R2"), Some((406, 7)));
        assert_eq!(received(table, "to-R"), None);
    }
}
