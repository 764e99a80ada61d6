//! Counters of links, as the kernel keeps them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

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

/// What is counted on the first link, and on every link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// The interfaces of this host, or the one that was named.
    pub(super) first: Counters,
    /// All interfaces of the list.
    pub(super) all: Counters,
}

/// The interfaces whose counters matter.
#[derive(Clone, Debug)]
pub(super) struct Links {
    first: Option<String>,
    /// Interfaces that no packet leaves this host by.
    left_out: Vec<String>,
    /// Interfaces of each namespace; without a name, of this one.
    list: BTreeMap<Option<String>, BTreeSet<String>>,
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
            list: BTreeMap::new(),
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
        let mut counted = Counted::default();
        let here = here()?;
        match &self.first {
            Some(name) => counted.first = *of(&here, name, None)?,
            None => {
                let outside = here
                    .iter()
                    .filter(|(name, _)| *name != "lo" && !self.left_out.contains(name));
                outside.for_each(|(_, counters)| counted.first.add(counters));
            }
        }
        for (namespace, names) in &self.list {
            let there = match namespace {
                None => here.clone(),
                Some(namespace) => elsewhere(namespace)?,
            };
            for name in names {
                counted.all.add(of(&there, name, namespace.as_deref())?);
            }
        }
        Ok(counted)
    }
}

fn of<'a>(
    counters: &'a BTreeMap<String, Counters>,
    name: &str,
    namespace: Option<&str>,
) -> Result<&'a Counters> {
    counters.get(name).with_context(|| match namespace {
        None => format!("there is no interface {name}"),
        Some(namespace) => format!("there is no interface {name} in {namespace}"),
    })
}

/// Lines of a namespace, or - for this one, and an interface.
fn list(text: &str) -> Result<BTreeMap<Option<String>, BTreeSet<String>>> {
    let mut list: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            [namespace, interface] => {
                let namespace = (namespace != "-").then(|| namespace.to_owned());
                list.entry(namespace)
                    .or_default()
                    .insert(interface.to_owned());
            }
            _ => bail!("line {number} is not NAMESPACE INTERFACE (- for this namespace)"),
        }
    }
    ensure!(!list.is_empty(), "it lists no interface");
    Ok(list)
}

/// The counters of the calling thread's namespace.
fn here() -> Result<BTreeMap<String, Counters>> {
    let path = "/proc/thread-self/net/dev";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(parse(&text))
}

fn elsewhere(namespace: &str) -> Result<BTreeMap<String, Counters>> {
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
        let parsed = list("# ends\nR1 eth0\n- eth1 # here\nR1 eth1\n").unwrap();
        assert_eq!(parsed[&None].len(), 1);
        assert_eq!(parsed[&Some("R1".to_owned())].len(), 2);
        let error = list("R1 eth0\nR2\n").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        assert!(list("# nothing\n").is_err());
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
