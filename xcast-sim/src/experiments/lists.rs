//! What the lists of all overlays save on each topology.
//!
//! Nodes run in a network in memory, with churn and with what their overlay is for, and each message is
//! noted. Then it is counted what each of them would cross on router graphs, with each node on a host of
//! its own: by lists, and by unicast. So all topologies carry the very same messages.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    converge::{Overlay, SentList, sent_lists},
    savings::{Cost, Savings},
    source::Source,
};
use crate::{
    fanout::{
        Deployment, EcmpKey, Family, MTU_OCTETS, Message, Network, PacketFormat, Prune, Scheme,
    },
    random::Random,
    routing::{Routing, Ties},
    statistics::Estimate,
    topology::{HostId, Hosts, Model, TopologyError},
    world::Tally,
};

/// Most destinations of a packet, where it has room for them.
const MOST: usize = 100;

/// An experiment.
#[derive(Clone, Debug)]
pub struct Lists {
    /// Which overlay.
    pub overlay: Overlay,
    /// Nodes.
    pub peers: usize,
    /// What they are asked to do, one after the other.
    pub operations: usize,
    /// On which graphs.
    pub sources: Vec<Source>,
    /// A run for each, and a graph of each kind.
    pub seeds: Vec<u64>,
    /// The version of IP.
    pub family: Family,
}

/// A topology's result.
#[derive(Clone, Debug, Serialize)]
pub struct ListsRow {
    /// Which overlay.
    pub overlay: Overlay,
    /// Nodes.
    pub peers: usize,
    /// The graphs' generator; none: a map that was read.
    pub model: Option<Model>,
    /// What the graphs are called.
    pub topology: String,
    /// A run for each.
    pub seeds: Vec<u64>,
    /// Receivers of a list that has several.
    pub list: Estimate,
    /// Of receivers of all messages, how many are in such lists, in percent.
    pub listed_percent: Estimate,
    /// What each list is for, where the overlay has several kinds of them: how many receivers it has, and
    /// what is saved of links, in percent.
    pub purposes: BTreeMap<&'static str, (Estimate, Estimate)>,
    /// What is saved. `links` and `octets` are of the lists alone; with `replies`, all other messages are
    /// in it, too, which are to one each: answers, and what is passed on.
    pub saved_percent: Savings,
}

/// One seed's result for one topology.
struct Sample {
    cost: Cost,
    lists: u64,
    purposes: BTreeMap<&'static str, (u64, Tally)>,
}

impl Lists {
    /// Runs it: a row for each topology.
    ///
    /// # Errors
    ///
    /// There is no graph.
    pub fn run(&self, mut progress: impl FnMut(&str)) -> Result<Vec<ListsRow>, TopologyError> {
        let mut samples: Vec<Vec<Sample>> = self.sources.iter().map(|_| Vec::new()).collect();
        for seed in &self.seeds {
            let (nodes, sent) = sent_lists(
                self.overlay,
                self.peers,
                *seed,
                self.operations,
                &mut progress,
            );
            for (source, samples) in self.sources.iter().zip(&mut samples) {
                samples.push(self.count(source, *seed, nodes, &sent)?);
            }
        }
        let rows = self.sources.iter().zip(&samples);
        Ok(rows
            .filter_map(|(source, samples)| self.row(source, samples))
            .collect())
    }

    fn count(
        &self,
        source: &Source,
        seed: u64,
        nodes: usize,
        sent: &[SentList],
    ) -> Result<Sample, TopologyError> {
        let topology = source.topology(seed)?;
        let mut random = Random::for_purpose(seed, "hosts");
        let mut network = Network {
            routing: Routing::new(&topology.graph, Ties::LinkCosts, seed),
            hosts: Hosts::random(&topology, nodes, &mut random),
        };
        let mut sample = Sample {
            cost: Cost::default(),
            lists: 0,
            purposes: BTreeMap::new(),
        };
        for SentList {
            from,
            to,
            octets,
            shared,
            purpose,
        } in sent
        {
            let scheme = Scheme {
                deployment: Deployment::full(),
                prune: Prune::Truncate,
                ecmp_key: EcmpKey::Flow,
                format: PacketFormat {
                    family: self.family,
                    payload_octets: *octets,
                    ports: false,
                },
            };
            let source = *from as HostId;
            // Nobody sends to itself.
            let to: Vec<HostId> = to
                .iter()
                .map(|to| *to as HostId)
                .filter(|to| *to != source)
                .collect();
            let is_list = *shared && to.len() > 1;
            sample.lists += u64::from(is_list);
            let mut for_this = Tally::default();
            let room = scheme.format.destinations_within(MTU_OCTETS);
            let size = if *shared { MOST.min(room) } else { 1 };
            for to in to.chunks(size) {
                let message = Message {
                    source,
                    to,
                    via: None,
                    flow: source.into(),
                };
                for_this.messages += 1;
                for_this.receivers += to.len() as u64;
                // Chunks are no longer than a packet has room for.
                let _ = network.send(&scheme, message, &mut |sent| for_this.sent.add(sent));
                let octets = scheme.format.unicast_octets();
                network.send_unicast(message, octets, &mut |sent| for_this.unicast.add(sent));
            }
            if !is_list {
                sample.cost.replies += for_this;
                continue;
            }
            sample.cost.requests += for_this;
            if let Some(purpose) = purpose {
                let (lists, tally) = sample.purposes.entry(purpose).or_default();
                *lists += 1;
                *tally += for_this;
            }
        }
        Ok(sample)
    }

    fn row(&self, source: &Source, samples: &[Sample]) -> Option<ListsRow> {
        let of = |value: fn(&Sample) -> f64| {
            Estimate::of(&samples.iter().map(value).collect::<Vec<_>>())
        };
        let costs: Vec<Cost> = samples.iter().map(|sample| sample.cost).collect();
        Some(ListsRow {
            overlay: self.overlay,
            peers: self.peers,
            model: source.model(),
            topology: source.name().to_owned(),
            seeds: self.seeds.clone(),
            list: of(|sample| sample.cost.requests.receivers as f64 / sample.lists.max(1) as f64)?,
            listed_percent: of(|sample| {
                let listed = sample.cost.requests.receivers as f64;
                100.0 * listed / (listed + sample.cost.replies.receivers as f64).max(1.0)
            })?,
            purposes: purposes(samples),
            saved_percent: Savings::of(&costs)?,
        })
    }
}

/// For each purpose that lists have in all samples: receivers of one, and what is saved of links.
fn purposes(samples: &[Sample]) -> BTreeMap<&'static str, (Estimate, Estimate)> {
    let mut all = BTreeMap::new();
    let names = samples.iter().flat_map(|sample| sample.purposes.keys());
    for name in names {
        let of_each: Option<Vec<&(u64, Tally)>> = samples
            .iter()
            .map(|sample| sample.purposes.get(name))
            .collect();
        let of = |value: fn(&(u64, Tally)) -> f64| {
            let values = of_each.as_ref()?.iter().map(|sum| value(sum));
            Estimate::of(&values.collect::<Vec<_>>())
        };
        let receivers = of(|(lists, tally)| tally.receivers as f64 / *lists as f64);
        let saved = of(|(_, tally)| {
            100.0 * (1.0 - tally.sent.links as f64 / tally.unicast.links.max(1) as f64)
        });
        all.extend(receivers.zip(saved).map(|both| (*name, both)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::RandomRecursiveTree;

    #[test]
    fn lists_save_on_every_graph() {
        let rows = Lists {
            overlay: Overlay::Meridian,
            peers: 40,
            operations: 20,
            sources: vec![Source::Generated(Model::RandomRecursiveTree(
                RandomRecursiveTree { routers: 100 },
            ))],
            seeds: vec![1],
            family: Family::V4,
        }
        .run(|_| {})
        .expect("it runs");
        let saved = rows[0].saved_percent;
        assert!(saved.links.mean > 20.0, "{rows:?}");
        assert!(saved.links_with_replies.mean < saved.links.mean, "{rows:?}");
        assert!(rows[0].list.mean > 2.0, "{rows:?}");
        // Gossip to one member of each ring, and questions to all of one.
        for purpose in ["gossip to rings", "questions to a ring"] {
            let (receivers, saved) = rows[0].purposes[purpose];
            assert!(receivers.mean >= 2.0 && saved.mean > 20.0, "{rows:?}");
        }
    }
}
