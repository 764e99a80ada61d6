//! Networks that go on for hours: do they stay as they are?

use std::time::Duration;

use serde::Serialize;
use xcast_overlay::{
    d1ht::{Config, Peer},
    runtime::{self, Protocol},
};

use super::{d1ht::Churn, kademlia::join, source::Source};
use crate::{
    address,
    events::Time,
    fanout::Network,
    random::{Random, hash},
    routing::{Routing, Ties},
    topology::{HostId, Hosts, TopologyError},
    world::{World, WorldSettings},
};

/// How long peers of D1HT stay, on average. Nodes of Kademlia stay.
const SESSION: Duration = Duration::from_secs(3600);
const HOUR: Duration = Duration::from_secs(3600);

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SoakOverlay {
    /// Kademlia, without anybody asking: upkeep.
    Kademlia,
    /// D1HT under churn.
    D1ht,
}

/// An experiment.
#[derive(Clone, Debug)]
pub struct Soak {
    /// Which overlay.
    pub overlay: SoakOverlay,
    /// On which graph.
    pub source: Source,
    /// Nodes.
    pub nodes: usize,
    /// Simulated hours.
    pub hours: u32,
    /// Of all random choices.
    pub seed: u64,
}

/// What happened in an hour.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Hour {
    /// Simulated hours since the nodes have joined.
    pub hour: u32,
    /// Messages in that hour.
    pub messages: u64,
    /// Transmissions on links.
    pub links: u64,
    /// What unicast would have cost.
    pub unicast_links: u64,
    /// Events that wait.
    pub waiting: usize,
}

impl Soak {
    /// Runs it; `each` is told of each hour, and may end it with an error of its own.
    ///
    /// # Errors
    ///
    /// There is no graph, or `each` has one.
    pub fn run<E: From<TopologyError>>(
        &self,
        mut each: impl FnMut(Hour) -> Result<(), E>,
    ) -> Result<(), E> {
        let topology = self.source.topology(self.seed)?;
        let mut random = Random::for_purpose(self.seed, "nodes");
        let network = Network {
            routing: Routing::new(&topology.graph, Ties::LinkCosts, self.seed),
            // A host for each, and one for whoever comes in its place.
            hosts: Hosts::random(&topology, 2 * self.nodes, &mut random),
        };
        let settings = WorldSettings::full(self.seed);
        match self.overlay {
            SoakOverlay::Kademlia => {
                let mut world = World::new(network, settings);
                let honest = vec![false; self.nodes];
                join(&mut world, 20, &honest, self.seed, &mut |_| {});
                for hour in 1..=self.hours {
                    world.meter.reset();
                    world.run_for(HOUR);
                    each(told(&mut world, hour))?;
                }
            }
            SoakOverlay::D1ht => {
                let mut world: World<'_, Peer> = World::new(network, settings);
                let mut churn = Churn::new(self.seed, self.nodes, SESSION);
                let family = world.family();
                let at = |host| address::of_host(host, family);
                let peer = |host: HostId, time: Time| {
                    let numbers = hash(&[self.seed, host.into(), time.0]);
                    let numbers = runtime::Random::from_number(numbers);
                    Peer::new(Config::new("simulated", at(host)), numbers)
                };
                for host in 0..self.nodes as HostId {
                    world.add(host, peer(host, world.time()));
                    let by = random.below(host.max(1) as usize) as HostId;
                    world.act(host, |peer, now| match host {
                        0 => peer.found_overlay(now),
                        _ => peer.join(now, &[at(by)]),
                    });
                    world.run_for(Duration::from_millis(500));
                }
                let began = world.time();
                for hour in 1..=self.hours {
                    world.meter.reset();
                    let end = began + u64::from(hour) * HOUR.as_nanos() as u64;
                    while let Some(change) = churn.until(end) {
                        world.run_until(change.at.max(world.time()));
                        world.kill(change.leaves);
                        world.add(change.joins, peer(change.joins, change.at));
                        world.act(change.joins, |peer, now| peer.join(now, &[at(change.by)]));
                        while world.poll_event().is_some() {}
                    }
                    world.run_until(end);
                    each(told(&mut world, hour))?;
                }
            }
        }
        Ok(())
    }
}

fn told<P: Protocol>(world: &mut World<'_, P>, hour: u32) -> Hour {
    while world.poll_event().is_some() {}
    let tally = world.meter.tally(0);
    Hour {
        hour,
        messages: tally.messages,
        links: tally.sent.links,
        unicast_links: tally.unicast.links,
        waiting: world.waiting(),
    }
}
