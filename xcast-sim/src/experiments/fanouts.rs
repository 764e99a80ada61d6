//! One packet to `m` random hosts against a packet to each, on graphs of several seeds.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    formula::formula_percent,
    savings::{Difference, Savings},
    source::Source,
};
use crate::{
    fanout::{
        Deployment, EcmpKey, Islands, Link, Message, Network, PacketFormat, Placement, Prune,
        Scheme, TooManyDestinations, Transmission,
    },
    random::Random,
    routing::{Routing, Ties},
    statistics::Estimate,
    topology::{HostId, Hosts, Model, TopologyError},
};

/// An experiment: every variant sends the same messages on the same graphs, so that differences
/// between variants are paired.
#[derive(Clone, Debug)]
pub struct Fanouts {
    /// Which graphs.
    pub source: Source,
    /// One graph for each, or other choices on the same graph.
    pub seeds: Vec<u64>,
    /// Messages for each graph and each number of destinations.
    pub messages: usize,
    /// Numbers of destinations.
    pub destinations: Vec<usize>,
    /// Lengths of packets. Replies are as long.
    pub format: PacketFormat,
    /// What is compared; the first is the baseline of the others.
    pub variants: Vec<Variant>,
}

/// A way to send.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Variant {
    /// What it is called.
    pub name: String,
    /// What decides between equally short paths.
    pub ties: Ties,
    /// What multipath hashes of a list.
    pub ecmp_key: EcmpKey,
    /// What the list of a copy is.
    pub prune: Prune,
    /// Which routers speak Xcast; none: all.
    pub deployment: Option<PlacedShare>,
}

/// A share of routers that speak Xcast.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PlacedShare {
    /// From 0 to 1.
    pub share: f64,
    /// Which are the first.
    pub placement: Placement,
    /// What happens between them.
    pub islands: Islands,
}

impl Variant {
    /// All routers speak Xcast, lists are truncated, and one path is best for each pair.
    #[must_use]
    pub fn full() -> Self {
        Self {
            name: "full".to_owned(),
            ties: Ties::LinkCosts,
            ecmp_key: EcmpKey::Flow,
            prune: Prune::Truncate,
            deployment: None,
        }
    }
}

/// A variant's result for one number of destinations.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The graphs' generator; none: a map that was read.
    pub model: Option<Model>,
    /// What the graphs are called.
    pub topology: String,
    /// Which way to send.
    pub variant: Variant,
    /// Lengths of packets.
    pub format: PacketFormat,
    /// How many destinations.
    pub m: usize,
    /// One graph for each.
    pub seeds: Vec<u64>,
    /// Messages on each graph.
    pub messages: usize,
    /// What the formula says of links. An estimate, not a result.
    pub formula_links_percent: f64,
    /// Mean number of links that unicast crosses for one destination, both access links included.
    pub unicast_links: Estimate,
    /// What is saved.
    pub saved_percent: Savings,
    /// The same less the baseline's, seed by seed; none for the baseline itself.
    pub difference: Option<Difference>,
}

/// What crossed links.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    links: u64,
    octets: u64,
    first_packets: u64,
    first_octets: u64,
}

impl Load {
    fn add(&mut self, sent: Transmission) {
        self.links += 1;
        self.octets += u64::from(sent.octets);
        if matches!(sent.link, Link::Up(_)) {
            self.first_packets += 1;
            self.first_octets += u64::from(sent.octets);
        }
    }
}

/// One seed's loads for one number of destinations: unicast, and each variant's.
struct Sample {
    unicast: Load,
    variants: Vec<Load>,
}

/// Why an experiment has no result.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// There is no graph.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// More destinations than a packet has room for.
    #[error(transparent)]
    Destinations(#[from] TooManyDestinations),
    /// A graph has too few hosts.
    #[error("{destinations} destinations and a source need more than the graph's {hosts} hosts")]
    Hosts {
        /// Most destinations.
        destinations: usize,
        /// Hosts of the graph.
        hosts: usize,
    },
    /// There is nothing to measure.
    #[error("seeds, messages, destinations and variants have to be one or more each")]
    Nothing,
}

impl Fanouts {
    /// Runs it; a row for each number of destinations and each variant, in their order. `progress`
    /// is told what has been done, and how much there is.
    ///
    /// # Errors
    ///
    /// There is nothing to measure, no graph, or too few hosts.
    pub fn run(&self, mut progress: impl FnMut(usize, usize)) -> Result<Vec<Row>, ExperimentError> {
        let least = self.destinations.iter().min().copied().unwrap_or_default();
        if self.seeds.is_empty() || self.messages == 0 || least == 0 || self.variants.is_empty() {
            return Err(ExperimentError::Nothing);
        }
        let mut samples = Vec::new();
        for (done, seed) in self.seeds.iter().enumerate() {
            progress(done, self.seeds.len());
            samples.push(self.sample(*seed)?);
        }
        progress(self.seeds.len(), self.seeds.len());
        let mut rows = Vec::new();
        for (at, m) in self.destinations.iter().enumerate() {
            let samples: Vec<_> = samples.iter().map(|sample| &sample[at]).collect();
            let variants = 0..self.variants.len();
            rows.extend(variants.filter_map(|variant| self.row(variant, *m, &samples)));
        }
        Ok(rows)
    }

    /// One seed's sample for each number of destinations.
    fn sample(&self, seed: u64) -> Result<Vec<Sample>, ExperimentError> {
        let topology = self.source.topology(seed)?;
        let hosts = Hosts::one_each(&topology);
        let most = self.destinations.iter().max().copied().unwrap_or_default();
        if hosts.count() <= most {
            return Err(ExperimentError::Hosts {
                destinations: most,
                hosts: hosts.count(),
            });
        }
        let messages = self.messages(seed, hosts.count());
        let mut samples: Vec<_> = self
            .destinations
            .iter()
            .map(|_| Sample {
                unicast: Load::default(),
                variants: Vec::new(),
            })
            .collect();
        // What variants have in common is worked out once.
        let mut networks = BTreeMap::new();
        let mut orders = BTreeMap::new();
        for (number, variant) in self.variants.iter().enumerate() {
            let network = networks.entry(variant.ties).or_insert_with(|| Network {
                routing: Routing::new(&topology.graph, variant.ties, seed),
                hosts: hosts.clone(),
            });
            let deployment = variant.deployment.map_or_else(Deployment::full, |placed| {
                let order = orders
                    .entry(placed.placement)
                    .or_insert_with(|| placed.placement.order(&topology, seed));
                Deployment::first(order, placed.share, placed.islands)
            });
            let scheme = Scheme {
                deployment,
                prune: variant.prune,
                ecmp_key: variant.ecmp_key,
                format: self.format,
            };
            for (sample, messages) in samples.iter_mut().zip(&messages) {
                let mut load = Load::default();
                for (flow, (source, to)) in messages.iter().enumerate() {
                    let message = Message {
                        source: *source,
                        to,
                        via: None,
                        flow: flow as u64,
                    };
                    network.send(&scheme, message, &mut |sent| load.add(sent))?;
                    if number == 0 {
                        let octets = self.format.unicast_octets();
                        let unicast = &mut sample.unicast;
                        network.send_unicast(message, octets, &mut |sent| unicast.add(sent));
                    }
                }
                sample.variants.push(load);
            }
        }
        Ok(samples)
    }

    /// Sources and destinations, for each number of destinations.
    fn messages(&self, seed: u64, hosts: usize) -> Vec<Vec<(HostId, Vec<HostId>)>> {
        let mut random = Random::for_purpose(seed, "messages");
        let mut message = |m| {
            let chosen = random.distinct(m + 1, hosts);
            let chosen: Vec<_> = chosen.into_iter().map(|host| host as HostId).collect();
            (chosen[0], chosen[1..].to_vec())
        };
        let of = |m: &usize| (0..self.messages).map(|_| message(*m)).collect();
        self.destinations.iter().map(of).collect()
    }

    fn row(&self, variant: usize, m: usize, samples: &[&Sample]) -> Option<Row> {
        let percents = |variant: usize, saved: fn(&Load, &Load) -> f64| -> Vec<f64> {
            let all = samples.iter();
            all.map(|sample| 100.0 * saved(&sample.variants[variant], &sample.unicast))
                .collect()
        };
        let estimate = |saved| Estimate::of(&percents(variant, saved));
        let difference =
            |saved| Estimate::of_differences(&percents(variant, saved), &percents(0, saved));
        let destinations = (self.messages * m) as f64;
        let lengths = samples
            .iter()
            .map(|sample| sample.unicast.links as f64 / destinations);
        Some(Row {
            model: self.source.model(),
            topology: self.source.name().to_owned(),
            variant: self.variants[variant].clone(),
            format: self.format,
            m,
            seeds: self.seeds.clone(),
            messages: self.messages,
            formula_links_percent: formula_percent(m),
            unicast_links: Estimate::of(&lengths.collect::<Vec<_>>())?,
            saved_percent: Savings {
                links: estimate(saved_links)?,
                links_with_replies: estimate(|load, unicast| {
                    with_replies(load.links, unicast.links)
                })?,
                octets: estimate(saved_octets)?,
                octets_with_replies: estimate(|load, unicast| {
                    with_replies(load.octets, unicast.octets)
                })?,
                first_link_out_packets: estimate(|load, unicast| {
                    saved(load.first_packets, unicast.first_packets)
                })?,
                first_link_out_octets: estimate(|load, unicast| {
                    saved(load.first_octets, unicast.first_octets)
                })?,
                first_link_both_octets: estimate(|load, unicast| {
                    with_replies(load.first_octets, unicast.first_octets)
                })?,
            },
            difference: if variant == 0 {
                None
            } else {
                Some(Difference {
                    links: difference(saved_links)?,
                    octets: difference(saved_octets)?,
                })
            },
        })
    }
}

fn saved_links(load: &Load, unicast: &Load) -> f64 {
    saved(load.links, unicast.links)
}

fn saved_octets(load: &Load, unicast: &Load) -> f64 {
    saved(load.octets, unicast.octets)
}

/// The share that is saved; below 0 where there is more.
fn saved(load: u64, unicast: u64) -> f64 {
    1.0 - load as f64 / unicast as f64
}

/// The same where as much as by unicast comes back: replies cross as many links, because shortest
/// paths are as long in both directions.
fn with_replies(load: u64, unicast: u64) -> f64 {
    saved(load + unicast, 2 * unicast)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fanout::Family, topology::RandomRecursiveTree};

    fn experiment() -> Fanouts {
        Fanouts {
            source: Source::Generated(Model::RandomRecursiveTree(RandomRecursiveTree {
                routers: 200,
            })),
            seeds: vec![1, 2, 3],
            messages: 20,
            destinations: vec![1, 10],
            format: PacketFormat {
                family: Family::V4,
                payload_octets: 100,
                ports: false,
            },
            variants: vec![
                Variant::full(),
                Variant {
                    name: "bits cleared".to_owned(),
                    prune: Prune::Bitmap,
                    ..Variant::full()
                },
                Variant {
                    name: "nobody".to_owned(),
                    deployment: Some(PlacedShare {
                        share: 0.0,
                        placement: Placement::Random,
                        islands: Islands::Tunnels,
                    }),
                    ..Variant::full()
                },
            ],
        }
    }

    #[test]
    fn rows_agree_with_what_must_be() {
        let rows = experiment().run(|_, _| {}).expect("it runs");
        let [one, one_cleared, _, ten, cleared, nobody] = rows.as_slice() else {
            panic!("there are {} rows", rows.len());
        };
        // One destination is unicast.
        assert_eq!(one.saved_percent.links.mean, 0.0);
        assert_eq!(one_cleared.saved_percent.octets.mean, 0.0);
        // One packet on the source's link instead of ten.
        assert!((ten.saved_percent.first_link_out_packets.mean - 90.0).abs() < 1e-9);
        let octets = f64::from(ten.format.xcast_octets(10)) / (10.0 * 128.0);
        let first_octets = ten.saved_percent.first_link_out_octets.mean;
        assert!((first_octets - 100.0 * (1.0 - octets)).abs() < 1e-9);
        let links = ten.saved_percent.links.mean;
        assert!((ten.saved_percent.links_with_replies.mean - links / 2.0).abs() < 1e-9);
        // Clearing bits saves as many links and fewer octets.
        let difference = cleared.difference.expect("it is not the baseline");
        assert_eq!(difference.links.mean, 0.0);
        assert!(difference.octets.mean < 0.0);
        assert_eq!(nobody.saved_percent.links.mean, 0.0);
        assert!(links > 30.0);
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let text = || {
            let rows = experiment().run(|_, _| {}).expect("it runs");
            serde_json::to_string(&rows).expect("rows have text keys")
        };
        assert_eq!(text(), text());
    }

    #[test]
    fn nonsense_is_refused() {
        let mut few = experiment();
        few.destinations = vec![200];
        few.format.family = Family::V4;
        let text = few.run(|_, _| {}).expect_err("too many").to_string();
        assert_eq!(
            text,
            "200 destinations and a source need more than the graph's 200 hosts"
        );
        few.destinations = vec![150];
        assert!(matches!(
            few.run(|_, _| {}),
            Err(ExperimentError::Destinations(_))
        ));
        few.seeds.clear();
        assert!(matches!(few.run(|_, _| {}), Err(ExperimentError::Nothing)));
    }
}
