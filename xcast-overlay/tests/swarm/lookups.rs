//! Do look-ups find the true closest nodes, and in how many rounds?

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use xcast_overlay::{id::Id, kademlia::Config, krpc::Family};

use crate::network::Network;

fn ipv4(config: Config) -> Config {
    Config {
        families: vec![Family::Ipv4],
        ..config
    }
}

/// log2(nodes / k): so many bits lie between any node and the k closest, if a round brings one of them.
fn bits(nodes: usize, k: usize) -> f64 {
    (nodes as f64 / k as f64).log2()
}

/// Look-ups under way at the same time.
const AT_ONCE: usize = 50;

struct Outcome {
    exact: usize,
    total: usize,
    rounds: Vec<u32>,
    asked: u64,
    took: Vec<Duration>,
}

/// Look-ups of random identifiers from random nodes.
fn look_up(network: &mut Network, k: usize, count: usize) -> Outcome {
    let mut outcome = Outcome {
        exact: 0,
        total: count,
        rounds: Vec::new(),
        asked: 0,
        took: Vec::new(),
    };
    // Several at once, from different nodes: one after the other would take hours of virtual time, in
    // which all nodes look after their tables.
    let mut left = count;
    while left > 0 {
        let mut starters = BTreeSet::new();
        while starters.len() < left.min(AT_ONCE) {
            starters.insert(network.random_living());
        }
        left -= starters.len();
        for at in &starters {
            let target = Id::random(&mut network.random);
            network.act(*at, |node, now| node.find_node(now, target));
        }
        for at in starters {
            let report = network.run_until_finished(at);
            let family = &report.families[0];
            let found: Vec<Id> = family.closest.iter().map(|contact| contact.id).collect();
            outcome.exact += usize::from(found == network.closest(report.target, k, at));
            outcome.rounds.push(family.rounds);
            outcome.asked += u64::from(family.asked);
            outcome.took.push(report.took);
        }
    }
    outcome.rounds.sort_unstable();
    outcome.took.sort_unstable();
    outcome
}

impl Outcome {
    fn p99_rounds(&self) -> u32 {
        self.rounds[self.rounds.len() * 99 / 100]
    }

    fn mean_rounds(&self) -> f64 {
        f64::from(self.rounds.iter().sum::<u32>()) / self.total as f64
    }

    /// How many look-ups took one round, two, and so on.
    fn distribution(&self) -> Vec<usize> {
        let most = self.rounds.last().copied().unwrap_or(0);
        let with = |rounds| self.rounds.iter().filter(|of| **of == rounds).count();
        (1..=most).map(with).collect()
    }

    fn print(&self, what: &str) {
        let at = |percent: usize| self.took.len() * percent / 100;
        println!(
            "{what}: {}/{} exact, rounds mean {:.2} p50 {} p99 {}, of 1, 2 and so on: {:?}; {:.1} asked a look-up, took p50 {:?} p95 {:?}",
            self.exact,
            self.total,
            self.mean_rounds(),
            self.rounds[at(50)],
            self.p99_rounds(),
            self.distribution(),
            self.asked as f64 / self.total as f64,
            self.took[at(50)],
            self.took[at(95)],
        );
    }
}

fn check(nodes: usize, count: usize, config: Config) {
    let k = config.table.k;
    let started = Instant::now();
    let mut network = Network::swarm(1, nodes, &config);
    let joined = started.elapsed();
    let outcome = look_up(&mut network, k, count);
    outcome.print(&format!("{nodes} nodes, k = {k}"));
    println!("  joined in {joined:?}, all in {:?}", started.elapsed());
    assert!(outcome.exact * 100 >= outcome.total * 99);
    assert!(outcome.p99_rounds() <= bits(nodes, k).ceil() as u32 + 2);
    assert!((1.0..=bits(nodes, k)).contains(&outcome.mean_rounds()));
}

#[test]
fn the_closest_nodes_are_found_with_k_8() {
    check(1000, 10_000, ipv4(Config::mainline()));
}

/// As large as the numbers in the documentation go. Minutes, and more than a gigabyte of memory:
/// `cargo test --release -p xcast-overlay --test swarm -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes in a release build, hours in another"]
fn the_closest_of_five_thousand_are_found() {
    check(5000, 10_000, ipv4(Config::own_network()));
}

#[test]
fn the_closest_nodes_are_found_with_k_20() {
    let nodes = if cfg!(debug_assertions) { 1000 } else { 2000 };
    check(nodes, 10_000, ipv4(Config::own_network()));
}
