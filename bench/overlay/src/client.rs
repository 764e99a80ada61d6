//! Who asks: a node that joined once, and begins each operation from the tables that it had then.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use xcast_host::{Uplink, queue::QueueLimits};
use xcast_overlay::{kademlia::Node, net::Settings};

use crate::{
    bed::Bed,
    node::RunningNode,
    swarm::{self, Swarm},
};

/// How a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A datagram for each receiver.
    Unicast,
    /// Xcast where a router speaks it.
    Xcast,
}

/// A node that has joined and does not run.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its host.
    pub host: String,
    /// Its address.
    pub address: SocketAddr,
    node: Node,
}

/// The hosts that clients are on: the first ones behind as many edge routers.
///
/// # Errors
///
/// There are not so many.
pub fn hosts(bed: &Bed, count: usize) -> Result<Vec<String>> {
    let hosts = bed.hosts();
    let mut chosen = hosts.iter().step_by(bed.setup().hosts);
    let chosen: Option<Vec<String>> = (0..count).map(|_| chosen.next().cloned()).collect();
    chosen.with_context(|| format!("the network has no {count} edge routers"))
}

impl Client {
    /// Joins from a host that has no node of the swarm. It is read-only (BEP 43), so nobody asks it
    /// anything, and all that crosses the links during an operation is the operation's.
    ///
    /// # Errors
    ///
    /// It cannot start, or does not join.
    pub fn join(
        bed: &Bed,
        swarm: &Swarm,
        host: &str,
        change: impl FnOnce(&mut xcast_overlay::kademlia::Config),
    ) -> Result<Self> {
        let address = bed.node_address(host)?;
        let bootstrap = swarm.addresses().into_iter().take(1).collect();
        let mut config = swarm::config(bed.setup().family, swarm::id(address, 1000), bootstrap);
        config.read_only = true;
        config.tick = Duration::from_secs(3600);
        change(&mut config);
        let settings = Settings::default();
        let node = RunningNode::start(bed.namespace(host)?, address, settings, |now, random| {
            Node::new(now, config, random)
        })?;
        for _ in 0..2 {
            node.act(|node, now| node.join(now))?;
            node.wait(swarm::joined)?;
        }
        let (node, _) = node.stop()?;
        Ok(Self {
            host: host.to_owned(),
            address,
            node,
        })
    }

    /// Starts it as it was after joining. Routers are trusted to be there, so that no probes are
    /// counted, unless `probing`.
    ///
    /// # Errors
    ///
    /// It cannot start.
    pub fn start(&self, bed: &Bed, by: By, probing: bool, delay: Duration) -> Result<RunningNode> {
        let uplink = match by {
            By::Unicast => Uplink::Unicast,
            By::Xcast => bed.uplink(&self.host)?,
        };
        let mut settings = Settings::new(uplink);
        if !probing {
            settings.sender.probing = None;
        }
        settings.combining = QueueLimits {
            max_delay: delay,
            ..QueueLimits::default()
        };
        let node = self.node.clone();
        let namespace = bed.namespace(&self.host)?;
        let running = RunningNode::start(namespace, self.address, settings, |_, _| node)?;
        if probing && by == By::Xcast {
            running
                .until_router_answers()
                .with_context(|| format!("from {}", self.host))?;
        }
        Ok(running)
    }
}
