//! Counters of links, as the kernel keeps them.
//!
//! A veth interface counts octets of two kinds: with the Ethernet header if an XDP program sent the
//! frame, and without it if the kernel did and the other end takes frames by NAPI, as it does with XDP
//! or GRO. The driver's statistics of both ends tell how many there were of each. So where both ends of
//! a link are known, the header is in all octets.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

use crate::kernel;

/// What a veth interface leaves out of some octets.
const ETHERNET_OCTETS: u64 = 14;

/// What an interface has sent and received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Packets sent.
    pub(super) sent_packets: u64,
    /// Octets sent, those of the link layer included.
    pub(super) sent_octets: u64,
    /// Octets received.
    pub(super) received_octets: u64,
}

impl Counters {
    fn add(&mut self, other: &Self) {
        self.sent_packets += other.sent_packets;
        self.sent_octets += other.sent_octets;
        self.received_octets += other.received_octets;
    }

    /// What was counted since.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            sent_packets: self.sent_packets.saturating_sub(before.sent_packets),
            sent_octets: self.sent_octets.saturating_sub(before.sent_octets),
            received_octets: self.received_octets.saturating_sub(before.received_octets),
        }
    }
}

/// What an interface tells of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reading {
    counters: Counters,
    /// Of a veth interface: frames that came by NAPI, which are counted without their Ethernet header
    /// unless an XDP program sent them.
    queued: u64,
    /// Of a veth interface: frames that XDP programs sent by it.
    xdp_sent: u64,
}

impl Reading {
    /// With the Ethernet header in all octets, where this is what is at the other end.
    fn corrected_by(&self, other: &Self) -> Counters {
        let bare = |to: &Self, from: &Self| to.queued.saturating_sub(from.xdp_sent);
        Counters {
            sent_octets: self.counters.sent_octets + ETHERNET_OCTETS * bare(other, self),
            received_octets: self.counters.received_octets + ETHERNET_OCTETS * bare(self, other),
            ..self.counters
        }
    }
}

/// What is counted on the first link, and on every link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// The interfaces of this host, or the one that was named.
    pub(super) first: Counters,
    /// All interfaces of the list.
    pub(super) all: Counters,
}

/// An interface, and the network namespace that it is in, if it is another one than this process's.
type End = (Option<String>, String);

/// A line of the list: an end of a link, and the other one, if it is named.
type Line = (End, Option<End>);

/// The interfaces whose counters matter.
#[derive(Clone, Debug)]
pub(super) struct Links {
    first: Option<String>,
    /// Interfaces that no packet leaves this host by.
    left_out: Vec<String>,
    list: Vec<Line>,
}

/// The interfaces of a namespace.
struct Interfaces {
    /// Tells namespaces apart.
    inode: u64,
    by_name: BTreeMap<String, Reading>,
}

impl Links {
    /// `first` is the interface that is the first link, by default all but the loopback interface
    /// and those in `left_out`. A file lists the ends of every link.
    pub(super) fn new(
        first: Option<String>,
        left_out: Vec<String>,
        file: Option<&Path>,
    ) -> Result<Self> {
        let mut links = Self {
            first,
            left_out,
            list: Vec::new(),
        };
        if let Some(path) = file {
            let text = fs::read_to_string(path)
                .with_context(|| format!("--links: cannot read {}", path.display()))?;
            links.list = list(&text).with_context(|| format!("--links: {}", path.display()))?;
        }
        // What is not there is better known now.
        links.read()?;
        Ok(links)
    }

    /// Whether every link is counted.
    pub(super) fn has_all(&self) -> bool {
        !self.list.is_empty()
    }

    /// The counters at this moment.
    pub(super) fn read(&self) -> Result<Counted> {
        let here = here()?;
        let mut elsewhere = BTreeMap::new();
        let ends = self
            .list
            .iter()
            .flat_map(|(one, other)| [Some(one), other.as_ref()]);
        for (namespace, _) in ends.flatten() {
            if let Some(name) = namespace
                && !elsewhere.contains_key(name)
            {
                elsewhere.insert(name.clone(), interfaces_of(name)?);
            }
        }
        let reading = |(namespace, name): &End| {
            let interfaces = match namespace {
                None => &here,
                Some(namespace) => &elsewhere[namespace],
            };
            let reading = of(&interfaces.by_name, name, namespace.as_deref())?;
            Ok::<_, anyhow::Error>((interfaces.inode == here.inode, reading))
        };
        let mut counted = Counted::default();
        // Interfaces of this namespace whose octets are known better.
        let mut corrected = BTreeMap::new();
        for (one, other) in &self.list {
            let (is_here, reading_one) = reading(one)?;
            let Some(other) = other else {
                counted.all.add(&reading_one.counters);
                continue;
            };
            let (other_is_here, reading_other) = reading(other)?;
            for (is_here, end, here, there) in [
                (is_here, one, reading_one, reading_other),
                (other_is_here, other, reading_other, reading_one),
            ] {
                let counters = here.corrected_by(there);
                counted.all.add(&counters);
                if is_here {
                    corrected.insert(end.1.as_str(), counters);
                }
            }
        }
        let mut add = |name: &str, reading: &Reading| {
            let known = corrected.get(name);
            counted.first.add(known.unwrap_or(&reading.counters));
        };
        match &self.first {
            Some(name) => add(name, of(&here.by_name, name, None)?),
            None => {
                let outside = here
                    .by_name
                    .iter()
                    .filter(|(name, _)| *name != "lo" && !self.left_out.contains(name));
                outside.for_each(|(name, reading)| add(name, reading));
            }
        }
        Ok(counted)
    }
}

fn of<'a>(
    interfaces: &'a BTreeMap<String, Reading>,
    name: &str,
    namespace: Option<&str>,
) -> Result<&'a Reading> {
    interfaces.get(name).with_context(|| match namespace {
        None => format!("there is no interface {name}"),
        Some(namespace) => format!("there is no interface {name} in {namespace}"),
    })
}

/// Lines of a namespace, or - for this one, and an interface; or of both ends of a link.
fn list(text: &str) -> Result<Vec<Line>> {
    let end = |namespace: &str, interface: &str| {
        let namespace = (namespace != "-").then(|| namespace.to_owned());
        (namespace, interface.to_owned())
    };
    let mut list = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            [namespace, interface] => list.push((end(namespace, interface), None)),
            [one, its, other, others] => {
                list.push((end(one, its), Some(end(other, others))));
            }
            _ => bail!(
                "line {number} is neither NAMESPACE INTERFACE nor that of both ends of a link (- for \
                 this namespace)"
            ),
        }
    }
    ensure!(!list.is_empty(), "it lists no interface");
    Ok(list)
}

/// The interfaces of the calling thread's namespace.
fn here() -> Result<Interfaces> {
    let path = "/proc/thread-self/net/dev";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let mut by_name = BTreeMap::new();
    for (name, counters) in parse(&text) {
        // Drivers of other kinds count as one expects, and some keep no statistics.
        let statistics = kernel::statistics(&name).unwrap_or_default();
        let is_veth = statistics.contains_key("peer_ifindex");
        let sum = |prefix: &str, suffix: &str| -> u64 {
            let of = |(key, _): &(&String, &u64)| key.starts_with(prefix) && key.ends_with(suffix);
            let values = statistics.iter().filter(of).map(|(_, value)| value);
            if is_veth { values.sum() } else { 0 }
        };
        let reading = Reading {
            counters,
            queued: sum("rx_queue_", "_xdp_packets"),
            xdp_sent: sum("tx_queue_", "_xdp_xmit"),
        };
        by_name.insert(name, reading);
    }
    let namespace = fs::metadata("/proc/thread-self/ns/net")?;
    Ok(Interfaces {
        inode: namespace.ino(),
        by_name,
    })
}

fn interfaces_of(namespace: &str) -> Result<Interfaces> {
    let path = match namespace.contains('/') {
        true => PathBuf::from(namespace),
        false => Path::new("/run/netns").join(namespace),
    };
    let enter = || {
        let file = File::open(&path)?;
        setns(file, CloneFlags::CLONE_NEWNET)?;
        here()
    };
    // A thread of its own, which ends there.
    let read = thread::scope(|scope| scope.spawn(enter).join());
    let read = read.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    read.with_context(|| format!("cannot read the counters of namespace {namespace}"))
}

/// "name: octets packets ... (8 columns) octets packets ...".
fn parse(text: &str) -> BTreeMap<String, Counters> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .map_while(|number| number.parse().ok())
            .collect();
        let counters = Counters {
            received_octets: *numbers.first()?,
            sent_octets: *numbers.get(8)?,
            sent_packets: *numbers.get(9)?,
        };
        Some((name.trim().to_owned(), counters))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_interfaces() {
        let parsed = list("# ends\nR1 eth0\n- eth1 # here\nR1 eth1 - eth2\n").unwrap();
        let end =
            |namespace: Option<&str>, name: &str| (namespace.map(str::to_owned), name.to_owned());
        assert_eq!(
            parsed,
            [
                (end(Some("R1"), "eth0"), None),
                (end(None, "eth1"), None),
                (end(Some("R1"), "eth1"), Some(end(None, "eth2"))),
            ]
        );
        for wrong in ["R1 eth0\nR2\n", "R1 eth0\nR1 eth0 R2\n"] {
            let error = list(wrong).unwrap_err();
            assert!(error.to_string().contains("line 2"), "{error}");
        }
        assert!(list("# nothing\n").is_err());
    }

    #[test]
    fn frames_of_the_kernel_get_their_header_back() {
        let end = |sent_octets, received_octets, queued, xdp_sent| Reading {
            counters: Counters {
                sent_packets: 0,
                sent_octets,
                received_octets,
            },
            queued,
            xdp_sent,
        };
        // Ten frames of 114 octets there, of which XDP sent four; one back, to who has no NAPI.
        let one = end(6 * 100 + 4 * 114, 114, 0, 4);
        let other = end(114, 6 * 100 + 4 * 114, 10, 0);
        let counted = one.corrected_by(&other);
        assert_eq!((counted.sent_octets, counted.received_octets), (1140, 114));
        let counted = other.corrected_by(&one);
        assert_eq!((counted.sent_octets, counted.received_octets), (114, 1140));
    }

    #[test]
    fn counters_of_this_namespace() {
        let text = "Inter-| Receive | Transmit\n face |bytes packets\n  eth0: 100 2 0 0 0 0 0 0 300 4 0 0 0 0 0 0\n";
        let counters = Counters {
            sent_packets: 4,
            sent_octets: 300,
            received_octets: 100,
        };
        assert_eq!(parse(text), BTreeMap::from([("eth0".to_owned(), counters)]));
        let links = Links::new(Some("none0".to_owned()), Vec::new(), None);
        let error = links.unwrap_err();
        assert!(error.to_string().contains("none0"), "{error}");
        assert!(Links::new(None, Vec::new(), None).is_ok());
    }
}
