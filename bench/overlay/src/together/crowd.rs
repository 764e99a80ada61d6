//! Nodes of one protocol, one on each host.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde::Serialize;
use xcast_overlay::{
    net::Settings,
    runtime::{Protocol, Random},
};

use crate::{
    bed::{Bed, PATIENCE},
    node::RunningNode,
};

/// What a protocol was asked to do, and did.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which protocol.
    pub protocol: &'static str,
    /// Its nodes.
    pub nodes: usize,
    /// What it is asked to do, in words.
    pub job: &'static str,
    /// How often it was asked.
    pub asked: usize,
    /// How often that was done, and rightly.
    pub done: usize,
    /// Messages of all its nodes.
    pub messages: u64,
    /// Their receivers.
    pub receivers: u64,
    /// Xcast packets by which they left.
    pub xcast_packets: u64,
    /// Datagrams by which they left.
    pub datagrams: u64,
}

/// What is still to be done once everybody has joined.
pub type Job<'a> = Box<dyn FnOnce() -> Result<Row> + Send + 'a>;

/// Nodes of one protocol, one on each host, all at the same port.
pub struct Crowd<P: Protocol> {
    /// The nodes, in the order of the hosts.
    pub nodes: Vec<RunningNode<P>>,
    /// Their addresses.
    pub addresses: Vec<SocketAddr>,
}

impl<P> Crowd<P>
where
    P: Protocol<Event: Send> + Send + 'static,
{
    /// Starts a node on each host, which sends by the nearest router that speaks Xcast. `make` gets the
    /// node's number and the addresses of all.
    ///
    /// # Errors
    ///
    /// One cannot start.
    pub fn start(
        bed: &Bed,
        port: u16,
        make: impl Fn(usize, &[SocketAddr], Instant, Random) -> P + Clone + Send + 'static,
    ) -> Result<Self> {
        let hosts = bed.hosts();
        let addresses = hosts
            .iter()
            .map(|host| Ok(SocketAddr::new(bed.address(host)?, port)));
        let addresses = addresses.collect::<Result<Vec<_>>>()?;
        let mut nodes = Vec::new();
        for (number, host) in hosts.iter().enumerate() {
            let mut settings = Settings::new(bed.uplink(host)?);
            settings.sender.probing = None;
            let (make, all) = (make.clone(), addresses.clone());
            let node = RunningNode::start(
                bed.namespace(host)?,
                addresses[number],
                settings,
                move |now, random| make(number, &all, now, random),
            );
            nodes.push(node?);
        }
        Ok(Self { nodes, addresses })
    }

    /// Waits until this is true of each node.
    ///
    /// # Errors
    ///
    /// It does not become true.
    pub fn until(
        &self,
        what: &str,
        is_true: impl Fn(&P, Instant) -> bool + Clone + Send + 'static,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for node in &self.nodes {
            loop {
                let is_true = is_true.clone();
                if node.act(move |node, now| is_true(node, now))? {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("{}: {what}: not in time", node.address());
                }
                thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }

    /// Ends all nodes. `asked` is how often they were asked to do something, `done` how often they did.
    ///
    /// # Errors
    ///
    /// A node had failed before.
    pub fn end(
        self,
        protocol: &'static str,
        job: &'static str,
        asked: usize,
        done: usize,
    ) -> Result<Row> {
        let mut row = Row {
            protocol,
            nodes: self.nodes.len(),
            job,
            asked,
            done,
            messages: 0,
            receivers: 0,
            xcast_packets: 0,
            datagrams: 0,
        };
        for node in self.nodes {
            let (_, statistics) = node.stop()?;
            row.messages += statistics.messages;
            row.receivers += statistics.receivers;
            row.xcast_packets += statistics.sender.xcast_packets;
            row.datagrams += statistics.sender.unicast_packets;
        }
        Ok(row)
    }
}

/// The neighbours of a node in a network where each has up to four.
pub fn neighbours(at: usize, all: &[SocketAddr]) -> Vec<SocketAddr> {
    let count = all.len();
    let mut near: Vec<usize> = [1, 3, count.saturating_sub(3), count.saturating_sub(1)]
        .map(|step| (at + step) % count)
        .into();
    near.retain(|other| *other != at);
    near.sort_unstable();
    near.dedup();
    near.into_iter().map(|other| all[other]).collect()
}
