//! The nodes that are asked: one on each host that has no client.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use xcast_host::envelope::Tag;
use xcast_overlay::{
    id::Id,
    kademlia::{AnswerLimits, Config, Event, Node, bep42},
    krpc::{Contact, Family},
    net::Settings,
    runtime::{Pace, Random},
};

use crate::{bed::Bed, links, node::RunningNode};

/// k of the overlay: that of a network of own nodes.
pub const K: usize = 20;

/// How often everybody joins, so that tables are as full as those of a network that has been there
/// for long.
const JOINS: usize = 3;

/// Nodes that have joined.
#[derive(Debug)]
pub struct Swarm {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    contact: Contact,
    node: RunningNode,
}

/// The settings of all nodes: identifiers follow from addresses (BEP 42), and nobody is refused an
/// answer because an experiment asks more in a minute than a user in an hour.
pub fn config(family: Family, id: Id, bootstrap: Vec<SocketAddr>) -> Config {
    let mut config = Config::own_network();
    config.id = Some(id);
    config.families = vec![family];
    config.bootstrap = bootstrap;
    config.table.k = K;
    config.table.enforce_bep42 = true;
    config.pace = Pace::new(10_000, Duration::from_micros(100));
    config.answers = AnswerLimits {
        total_octets_per_second: 100_000_000,
        network_octets_per_second: 100_000_000,
    };
    config
}

/// The identifier of the node at an address; `number` chooses among those that BEP 42 allows.
pub fn id(address: SocketAddr, number: usize) -> Id {
    bep42::random_id(address.ip(), &mut Random::from_number(number as u64))
}

impl Swarm {
    /// Starts a node on each of these hosts, and waits until all have joined and the network is
    /// silent. Their messages are unicast: what they say to each other is not measured.
    ///
    /// # Errors
    ///
    /// One of them cannot start, or does not join.
    pub fn join(bed: &Bed, hosts: &[String]) -> Result<Self> {
        let started = Instant::now();
        let bootstrap = bed.node_address(hosts.first().context("a swarm without hosts")?)?;
        let mut members = Vec::new();
        for (number, host) in hosts.iter().enumerate() {
            let address = bed.node_address(host)?;
            let id = id(address, number);
            let config = config(bed.setup().family, id, vec![bootstrap]);
            let settings = Settings {
                tag: Some(tag(number)),
                ..Settings::default()
            };
            let node =
                RunningNode::start(bed.namespace(host)?, address, settings, |now, random| {
                    Node::new(now, config, random)
                })?;
            let contact = Contact { id, address };
            members.push(Member { contact, node });
        }
        // Who is new is pinged half a second later, and then known: those who join at the same time
        // find each other only afterwards.
        for _ in 0..JOINS {
            for member in &members {
                member.node.act(|node, now| node.join(now))?;
            }
            for member in &members {
                member.node.wait(joined)?;
            }
            links::wait_for_silence(bed)?;
        }
        let swarm = Self { members };
        let (mut known, mut silent) = (0, 0);
        for member in &swarm.members {
            let status = member.node.act(|node, now| node.status(now))?;
            known += status.families.iter().map(|f| f.nodes).sum::<usize>();
            silent += status.fanouts.silent;
        }
        crate::progress(format!(
            "{} nodes have joined: {:.1} s; a table has {} nodes on average; {silent} requests stayed without an answer",
            swarm.len(),
            started.elapsed().as_secs_f64(),
            known / swarm.len().max(1),
        ));
        Ok(swarm)
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Addresses of all nodes, in the order of their hosts.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let members = self.members.iter();
        members.map(|member| member.contact.address).collect()
    }

    /// The tags by which nodes find their part of an envelope.
    pub fn tags(&self) -> Vec<(SocketAddr, Tag)> {
        let members = self.members.iter().enumerate();
        let tag = |(number, member): (usize, &Member)| (member.contact.address, tag(number));
        members.map(tag).collect()
    }

    /// The true k closest nodes that live.
    pub fn closest(&self, target: Id) -> Vec<Id> {
        let mut ids: Vec<Id> = self
            .members
            .iter()
            .map(|member| member.contact.id)
            .collect();
        ids.sort_by_key(|id| id.distance(target));
        ids.truncate(K);
        ids
    }

    /// Kills every node whose number, counted from now, `chosen` takes.
    ///
    /// # Errors
    ///
    /// One had failed before.
    pub fn kill(&mut self, mut chosen: impl FnMut(usize) -> bool) -> Result<usize> {
        let (mut dead, mut living) = (Vec::new(), Vec::new());
        for (number, member) in std::mem::take(&mut self.members).into_iter().enumerate() {
            match chosen(number) {
                true => dead.push(member),
                false => living.push(member),
            }
        }
        self.members = living;
        let killed = dead.len();
        for member in dead {
            member.node.kill()?;
        }
        Ok(killed)
    }
}

fn tag(number: usize) -> Tag {
    Tag(number as u32 + 1)
}

/// Takes the event that a node has joined.
pub fn joined(event: Event) -> Option<usize> {
    match event {
        Event::Joined { nodes } => Some(nodes),
        _ => None,
    }
}
