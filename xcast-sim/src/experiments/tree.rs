//! Multicast trees of real members: what it saves that each forwards by lists.

use std::{cell::Cell, collections::BTreeSet, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use serde::Serialize;
use xcast_overlay::{
    krpc::signing_key,
    runtime,
    tree::{Card, Config, Event, Member, Packets, is_for_tree},
};

use super::{
    formula::formula_percent,
    savings::{Cost, Savings},
    shape::{Shape, Stress, seat},
    source::Source,
};
use crate::{
    address,
    fanout::{Family, MTU_OCTETS, Message, Network, PacketFormat, Scheme},
    random::{Random, hash},
    routing::{Routing, Ties},
    statistics::Estimate,
    topology::{HostId, Hosts, Model, TopologyError},
    world::{Classify, World, WorldSettings},
};

/// The class of the stream's messages.
const STREAM: usize = 1;
/// The class of everything else that members say.
const CONTROL: usize = 2;
/// Time that a message has to reach all.
const PATIENCE: Duration = Duration::from_secs(10);

/// An experiment: members get messages from one source by a tree.
#[derive(Clone, Debug)]
pub struct Trees {
    /// Which graphs.
    pub source: Source,
    /// One for each.
    pub seeds: Vec<u64>,
    /// Members, the source included.
    pub members: usize,
    /// Most destinations of a packet: a row for each.
    pub destinations: Vec<usize>,
    /// C of WO 2007/030742, paragraph 44: packets for each message.
    pub packets: usize,
    /// Messages that the source sends.
    pub messages: usize,
    /// Octets of a message, without the source's signature.
    pub payload_octets: usize,
    /// How the tree comes about.
    pub growth: Growth,
    /// Everything else; the seed is set for each run.
    pub world: WorldSettings,
}

/// How a tree comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Growth {
    /// Members join one after the other, and choose their parents.
    Joined,
    /// It is made up, in order of addresses: those next to each other share a parent.
    MadeUp,
}

/// What a number of destinations brings.
#[derive(Clone, Debug, Serialize)]
pub struct TreeRow {
    /// The graphs' generator; none: a map that was read.
    pub model: Option<Model>,
    /// What the graphs are called.
    pub topology: String,
    /// Members, the source included.
    pub members: usize,
    /// Most destinations of a packet.
    pub destinations: usize,
    /// Packets for each message.
    pub packets: usize,
    /// How the tree came about.
    pub growth: Growth,
    /// One network for each.
    pub seeds: Vec<u64>,
    /// Messages of each.
    pub messages: usize,
    /// Levels below the source.
    pub height: Estimate,
    /// Receivers that got all messages, each once and in order, in percent.
    pub complete_percent: Estimate,
    /// What the formula says of one packet to so many. An estimate, not a result.
    pub formula_links_percent: f64,
    /// What is saved against the same tree by unicast; `replies` is what members say beside the stream.
    pub saved_percent: Savings,
    /// Transmissions of a message for each receiver: by this tree.
    pub links: Estimate,
    /// By the same tree, with unicast.
    pub unicast_links: Estimate,
    /// By a datagram from the source to each.
    pub star_links: Estimate,
    /// By packets with lists from the source to all.
    pub star_xcast_links: Estimate,
    /// By IP multicast along shortest paths: no less is possible but by other paths.
    pub multicast_links: Estimate,
    /// Children of a member in a tree by unicast where each sends no more octets than a member does here: the same uplink.
    pub frugal_children: Estimate,
    /// Levels of that tree, which is made up in order of addresses.
    pub frugal_height: Estimate,
    /// Links that a message crosses in it for each receiver.
    pub frugal_links: Estimate,
    /// Links to a member by this tree, divided by those of the shortest path: on average, and of the member that only 5 % are
    /// worse off than.
    pub stretch: [Estimate; 2],
    /// The same of the tree by unicast with the same uplink.
    pub frugal_stretch: [Estimate; 2],
    /// Copies of a message on the links that it crosses: on average, and on the link that has most.
    pub stress: [Estimate; 2],
    /// By the same tree, with unicast.
    pub unicast_stress: [Estimate; 2],
    /// By unicast with the same uplink.
    pub frugal_stress: [Estimate; 2],
    /// Octets of a message on the source's own link.
    pub root_octets: Estimate,
    /// The same by unicast to its children.
    pub root_unicast_octets: Estimate,
    /// How long the message was on its way until the last member had it, in milliseconds.
    pub last_ms: Estimate,
}

/// One seed's result.
struct Sample {
    cost: Cost,
    height: f64,
    complete: f64,
    root: [f64; 2],
    star: [f64; 3],
    /// The same tree by unicast.
    own: Shape,
    stress: Stress,
    frugal: Shape,
    frugal_children: usize,
    last_ms: f64,
}

impl Trees {
    /// Runs it: a row for each number of destinations. `progress` is told of each step.
    ///
    /// # Errors
    ///
    /// There is no graph.
    pub fn run(&self, mut progress: impl FnMut(&str)) -> Result<Vec<TreeRow>, TopologyError> {
        let mut rows = Vec::new();
        for destinations in &self.destinations {
            let mut samples = Vec::new();
            for seed in &self.seeds {
                progress(&format!("seed {seed}, {destinations} destinations"));
                samples.push(self.sample(*destinations, *seed, &mut progress)?);
            }
            rows.extend(self.row(*destinations, &samples));
        }
        Ok(rows)
    }

    fn sample(
        &self,
        destinations: usize,
        seed: u64,
        progress: &mut impl FnMut(&str),
    ) -> Result<Sample, TopologyError> {
        let topology = self.source.topology(seed)?;
        let mut random = Random::for_purpose(seed, "nodes");
        let mut routers: Vec<_> = {
            let hosts = Hosts::random(&topology, self.members, &mut random);
            (0..self.members as HostId)
                .map(|host| hosts.router(host))
                .collect()
        };
        // Addresses follow the network: what is next to each other has neighbouring addresses.
        routers.sort_unstable();
        let network = Network {
            routing: Routing::new(&topology.graph, Ties::LinkCosts, seed),
            hosts: Hosts::at(routers),
        };
        let mut settings = WorldSettings {
            seed,
            ..self.world.clone()
        };
        // Children of one packet, and not of two that go together.
        settings.combining.max_destinations = destinations;
        let mut world = World::new(network, settings);
        let source = random.below(self.members) as HostId;
        match self.growth {
            Growth::Joined => self.join(&mut world, destinations, seed, source, &mut random),
            Growth::MadeUp => self.make_up(&mut world, destinations, seed, source),
        }
        while world.poll_event().is_some() {}
        progress("the tree is there");
        world.meter.reset();
        world.meter.count_links(Some(STREAM));
        let root = Rc::new(Cell::new([0; 2]));
        world.classify(Some(classes(source, self.world.family, Rc::clone(&root))));
        let payload = vec![0; self.payload_octets];
        let mut last = 0_u64;
        let mut got = vec![0_u32; self.members];
        for _ in 0..self.messages {
            let sent = world.time();
            world.act(source, |member, now| member.send(now, &payload).is_ok());
            let end = sent + PATIENCE.as_nanos() as u64;
            let mut missing = self.members - 1;
            while missing > 0 && world.step(end) {
                while let Some((host, event)) = world.poll_event() {
                    if matches!(event, Event::Message { .. }) {
                        got[host as usize] += 1;
                        missing -= 1;
                        last = last.max(world.time() - sent);
                    }
                }
            }
        }
        let complete = got
            .iter()
            .filter(|got| **got as usize == self.messages)
            .count();
        let (mut height, mut parents) = (0, vec![None; self.members]);
        let (mut fan_out, now) = (0, world.now());
        for host in world.hosts().collect::<Vec<_>>() {
            let Some(status) = world.node(host).map(|member| member.status(now)) else {
                continue;
            };
            height = height.max(status.depth);
            parents[host as usize] = status.parent.and_then(address::host);
            if host == source {
                fan_out = status.children.len();
            }
        }
        let root = root
            .get()
            .map(|octets| octets as f64 / self.messages as f64);
        let stress = Stress::of(
            world.meter.links().map(|(_, load)| load.links),
            self.messages,
        );
        let frugal_children = self.frugal_children(destinations, root[1] / fan_out.max(1) as f64);
        let mut frugal = vec![None; self.members];
        seat(
            self.members,
            source,
            frugal_children,
            |host, _, parent, _| {
                frugal[host as usize] = parent;
            },
        );
        Ok(Sample {
            cost: Cost {
                requests: world.meter.tally(STREAM),
                replies: world.meter.tally(CONTROL),
            },
            height: height.into(),
            complete: 100.0 * complete as f64 / (self.members - 1) as f64,
            root,
            star: self.star(world.network(), source, destinations),
            own: Shape::of(world.network(), source, &parents),
            stress,
            frugal: Shape::of(world.network(), source, &frugal),
            frugal_children,
            last_ms: last as f64 / 1e6,
        })
    }

    fn config(&self, config: Config, destinations: usize) -> Arc<Config> {
        Arc::new(Config {
            packets: Packets {
                max_destinations: destinations,
                ..config.packets
            },
            packets_per_message: self.packets,
            max_payload_octets: self.payload_octets,
            ..config
        })
    }

    fn join(
        &self,
        world: &mut World<'_, Member>,
        destinations: usize,
        seed: u64,
        source: HostId,
        random: &mut Random,
    ) {
        let key = signing_key([1; 32]);
        let public = key.verifying_key().to_bytes();
        let family = world.family();
        let at = |host| address::of_host(host, family);
        let numbers = |host: HostId| runtime::Random::from_number(hash(&[seed, host.into()]));
        let config = self.config(Config::source("simulated", key, 1), destinations);
        world.add(source, Member::new(world.now(), config, numbers(source)));
        let mut order: Vec<HostId> = (0..self.members as HostId)
            .filter(|host| *host != source)
            .collect();
        random.shuffle(&mut order);
        let mut there = vec![source];
        for host in order {
            let other = there[random.below(there.len())];
            let bootstrap: BTreeSet<SocketAddr> = [at(source), at(other)].into();
            let config = Config::receiver("simulated", public, bootstrap.into_iter().collect());
            let config = self.config(config, destinations);
            world.add(host, Member::new(world.now(), config, numbers(host)));
            there.push(host);
            world.run_for(Duration::from_millis(100));
        }
        world.run_for(Duration::from_secs(10));
    }

    /// Puts all at their places: who has which parent follows from the order of addresses.
    fn make_up(
        &self,
        world: &mut World<'_, Member>,
        destinations: usize,
        seed: u64,
        source: HostId,
    ) {
        let key = signing_key([1; 32]);
        let public = key.verifying_key().to_bytes();
        let (now, family) = (world.now(), world.family());
        let at = |host| address::of_host(host, family);
        let receiver = Config::receiver("simulated", public, vec![at(source)]);
        let receiver = self.config(receiver, destinations);
        let mut members: Vec<Member> = (0..self.members as HostId)
            .map(|host| {
                let numbers = runtime::Random::from_number(hash(&[seed, host.into()]));
                let config = if host == source {
                    self.config(Config::source("simulated", key.clone(), 1), destinations)
                } else {
                    Arc::clone(&receiver)
                };
                Member::new(now, config, numbers)
            })
            .collect();
        let cards: Vec<Card> = (0..self.members as HostId)
            .map(|host| members[host as usize].card(at(host)))
            .collect();
        let degree = destinations * self.packets;
        seat(
            self.members,
            source,
            degree,
            |own, level, parent, children| {
                let depth = u8::try_from(level).unwrap_or(u8::MAX);
                let parent = parent.map(|parent| cards[parent as usize]);
                let children = children.iter().map(|child| cards[*child as usize]);
                members[own as usize].seat(now, at(own), depth, parent, children);
            },
        );
        for (host, member) in members.into_iter().enumerate() {
            world.add(host as HostId, member);
        }
    }

    /// How many children a member can send a datagram each for the octets that it sends here to a full list or several.
    fn frugal_children(&self, destinations: usize, datagram_octets: f64) -> usize {
        let empty = self.format(0).unicast_octets();
        let format = self.format((datagram_octets as u32).saturating_sub(empty));
        let room = format.destinations_within(MTU_OCTETS);
        let listed = destinations.min(self.members - 1).clamp(1, room) as u32;
        let packet_octets = match listed {
            1 => format.unicast_octets(),
            listed => format.xcast_octets(listed),
        };
        let budget = f64::from(packet_octets) * self.packets as f64;
        ((budget / datagram_octets) as usize).max(1)
    }

    fn format(&self, payload_octets: u32) -> PacketFormat {
        PacketFormat {
            family: self.world.family,
            payload_octets,
            ports: false,
        }
    }

    /// What the source alone would need for a message: by datagrams, by lists, by IP multicast.
    fn star(&self, network: &mut Network<'_>, source: HostId, destinations: usize) -> [f64; 3] {
        let to: Vec<HostId> = (0..self.members as HostId)
            .filter(|host| *host != source)
            .collect();
        let (mut links, mut union) = (0_u64, BTreeSet::new());
        let mut lists = 0_u64;
        let scheme = Scheme {
            deployment: self.world.deployment.clone(),
            prune: self.world.prune,
            ecmp_key: self.world.ecmp_key,
            format: self.format(self.payload_octets as u32),
        };
        let room = scheme.format.destinations_within(MTU_OCTETS);
        for to in to.chunks(destinations.clamp(1, room)) {
            let message = Message {
                source,
                to,
                via: None,
                flow: source.into(),
            };
            network.send_unicast(message, 0, &mut |sent| {
                links += 1;
                union.insert(sent.link);
            });
            // Lists are as long as destinations and the packet allow.
            let _ = network.send(&scheme, message, &mut |_| lists += 1);
        }
        [links as f64, lists as f64, union.len() as f64]
    }

    fn row(&self, destinations: usize, samples: &[Sample]) -> Option<TreeRow> {
        let estimate = |value: &dyn Fn(&Sample) -> f64| {
            Estimate::of(&samples.iter().map(value).collect::<Vec<_>>())
        };
        let pair = |value: &dyn Fn(&Sample) -> [f64; 2]| {
            let of = |at: usize| estimate(&|sample| value(sample)[at]);
            Some([of(0)?, of(1)?])
        };
        let stress = |of: Stress| [of.mean, of.most];
        let stretch = |of: &Shape| [of.stretch, of.stretch_95];
        let receivers = (self.members - 1) as f64;
        let each = receivers * self.messages as f64;
        let costs: Vec<Cost> = samples.iter().map(|sample| sample.cost).collect();
        Some(TreeRow {
            model: self.source.model(),
            topology: self.source.name().to_owned(),
            members: self.members,
            destinations,
            packets: self.packets,
            growth: self.growth,
            seeds: self.seeds.clone(),
            messages: self.messages,
            height: estimate(&|sample| sample.height)?,
            complete_percent: estimate(&|sample| sample.complete)?,
            formula_links_percent: formula_percent(destinations),
            saved_percent: Savings::of(&costs)?,
            links: estimate(&|sample| sample.cost.requests.sent.links as f64 / each)?,
            unicast_links: estimate(&|sample| sample.cost.requests.unicast.links as f64 / each)?,
            star_links: estimate(&|sample| sample.star[0] / receivers)?,
            star_xcast_links: estimate(&|sample| sample.star[1] / receivers)?,
            multicast_links: estimate(&|sample| sample.star[2] / receivers)?,
            frugal_children: estimate(&|sample| sample.frugal_children as f64)?,
            frugal_height: estimate(&|sample| sample.frugal.height as f64)?,
            frugal_links: estimate(&|sample| sample.frugal.links as f64 / receivers)?,
            stretch: pair(&|sample| stretch(&sample.own))?,
            frugal_stretch: pair(&|sample| stretch(&sample.frugal))?,
            stress: pair(&|sample| stress(sample.stress))?,
            unicast_stress: pair(&|sample| stress(sample.own.stress))?,
            frugal_stress: pair(&|sample| stress(sample.frugal.stress))?,
            root_octets: estimate(&|sample| sample.root[0])?,
            root_unicast_octets: estimate(&|sample| sample.root[1])?,
            last_ms: estimate(&|sample| sample.last_ms)?,
        })
    }
}

/// Tells the stream's messages from the rest by their kind, which is in the sixth octet, and counts
/// octets that leave the source: as they do, and as they would by unicast.
fn classes(source: HostId, family: Family, root: Rc<Cell<[u64; 2]>>) -> Classify {
    Box::new(move |from, to, payload| {
        if !is_for_tree(payload) || payload.get(5) != Some(&10) {
            return CONTROL;
        }
        if from == source {
            let format = PacketFormat {
                family,
                payload_octets: payload.len() as u32,
                ports: false,
            };
            let [lists, unicast] = root.get();
            let alone = u64::from(format.unicast_octets());
            let list = match to.len() {
                1 => alone,
                count => u64::from(format.xcast_octets(count as u32)),
            };
            root.set([lists + list, unicast + to.len() as u64 * alone]);
        }
        STREAM
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::RandomRecursiveTree;

    fn experiment(growth: Growth, members: usize, destinations: Vec<usize>) -> Trees {
        Trees {
            source: Source::Generated(Model::RandomRecursiveTree(RandomRecursiveTree {
                routers: 200,
            })),
            seeds: vec![1],
            members,
            destinations,
            packets: 2,
            messages: 2,
            payload_octets: 800,
            growth,
            world: WorldSettings::full(0),
        }
    }

    fn rows(growth: Growth, members: usize, destinations: Vec<usize>) -> Vec<TreeRow> {
        let rows = experiment(growth, members, destinations).run(|_| {});
        rows.expect("it runs")
    }

    /// A short form of 10^6 members: two packets to five reach 10^3 within three levels.
    #[test]
    fn a_thousand_members_within_three_levels() {
        let rows = rows(Growth::MadeUp, 1000, vec![5]);
        let [row] = rows.as_slice() else {
            panic!("{rows:?}")
        };
        assert_eq!((row.height.mean, row.complete_percent.mean), (3.0, 100.0));
        assert!(row.multicast_links.mean < row.links.mean, "{row:?}");
        assert!(row.links.mean < row.unicast_links.mean, "{row:?}");
        assert!(row.unicast_links.mean < row.star_links.mean, "{row:?}");
        assert!(
            row.root_octets.mean < row.root_unicast_octets.mean / 3.0,
            "{row:?}"
        );
        // Two packets to five are 2.1 datagrams long: a tree of two children each needs nine levels.
        assert_eq!(
            (row.frugal_children.mean, row.frugal_height.mean),
            (2.0, 9.0)
        );
        assert!(row.links.mean < row.frugal_links.mean, "{row:?}");
        assert!(row.stretch[0].mean < row.frugal_stretch[0].mean, "{row:?}");
        for [mean, most] in [row.stress, row.unicast_stress, row.frugal_stress] {
            assert!((1.0..=most.mean).contains(&mean.mean), "{row:?}");
        }
        assert!(row.stress[0].mean < row.unicast_stress[0].mean, "{row:?}");
        assert!(row.unicast_stress[1].mean >= 10.0, "{row:?}");
    }

    #[test]
    fn trees_that_members_joined_save_the_more_the_longer_lists_are() {
        let rows = rows(Growth::Joined, 150, vec![2, 10]);
        let [two, ten] = rows.as_slice() else {
            panic!("{rows:?}")
        };
        assert_eq!(
            (two.complete_percent.mean, ten.complete_percent.mean),
            (100.0, 100.0)
        );
        assert!(two.saved_percent.links.mean > 0.0, "{two:?}");
        assert!(
            ten.saved_percent.links.mean > two.saved_percent.links.mean,
            "{rows:?}"
        );
    }
}
