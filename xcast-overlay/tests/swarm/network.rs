//! Swarms of Kademlia in a network in memory.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    ops::{Deref, DerefMut},
    rc::Rc,
    time::Duration,
};

pub use xcast_overlay::memory::{Faults, address};
use xcast_overlay::{
    id::Id,
    kademlia::{Config, Event, Node, Report},
    memory::World,
    runtime::{Random, Transmit},
};

/// A network in memory, whose nodes have an address of each of their families.
pub struct Network(World<Node>);

impl Deref for Network {
    type Target = World<Node>;

    fn deref(&self) -> &World<Node> {
        &self.0
    }
}

impl DerefMut for Network {
    fn deref_mut(&mut self) -> &mut World<Node> {
        &mut self.0
    }
}

impl Network {
    pub fn new(seed: u64) -> Self {
        Self(World::new(seed))
    }

    /// A swarm of nodes that have joined, each by way of three earlier ones.
    pub fn swarm(seed: u64, count: usize, config: &Config) -> Self {
        Self::mixed(seed, count, config, |_| config.extensions)
    }

    /// The same, where `own` says which nodes are of this kind: the others are strangers, who know nothing but
    /// BEP 5 and 44.
    pub fn mixed(seed: u64, count: usize, config: &Config, own: impl Fn(usize) -> bool) -> Self {
        let mut network = Self::new(seed);
        for at in 0..count {
            let mut config = Config {
                extensions: own(at),
                ..config.clone()
            };
            for _ in 0..3.min(at) {
                let other = network.random.below(at);
                let families = config.families.iter();
                config
                    .bootstrap
                    .extend(families.map(|family| address(other, *family)));
            }
            let place = network.add(config);
            network.act(place, |node, now| node.join(now));
            network.run_for(Duration::from_millis(50));
        }
        network.run_for(Duration::from_secs(20));
        network.events.clear();
        network
    }

    /// Adds a node at the next address.
    pub fn add(&mut self, config: Config) -> usize {
        let at = self.nodes.len();
        let families = config.families.iter();
        let addresses: Vec<_> = families.map(|family| address(at, *family)).collect();
        let seed = self.random.octets();
        let node = Node::new(self.now, config, Random::new(seed));
        self.put(&addresses, node)
    }

    /// Runs until an operation of `at` has ended.
    pub fn run_until_finished(&mut self, at: usize) -> Report {
        let end = self.now + Duration::from_secs(600);
        loop {
            let found = self
                .events
                .iter()
                .position(|(_, of, event)| *of == at && matches!(event, Event::Finished { .. }));
            if let Some(found) = found
                && let (_, _, Event::Finished { report, .. }) = self.events.swap_remove(found)
            {
                return *report;
            }
            assert!(
                self.next().is_some_and(|next| next < end),
                "it does not end"
            );
            self.step();
        }
    }

    /// The `count` living nodes closest to `target`, the closest first, without node `but`.
    pub fn closest(&self, target: Id, count: usize, but: usize) -> Vec<Id> {
        let living = self.living().into_iter().filter(|at| *at != but);
        let mut ids: Vec<Id> = living.map(|at| self.node(at).id()).collect();
        if count < ids.len() {
            ids.select_nth_unstable_by_key(count, |id| id.distance(target));
            ids.truncate(count);
        }
        ids.sort_unstable_by_key(|id| id.distance(target));
        ids
    }

    /// From now on it is watched how many messages one node sends to another within ten seconds, at
    /// most.
    pub fn most_in_ten_seconds(&mut self) -> Rc<Cell<usize>> {
        let most = Rc::new(Cell::new(0));
        let found = Rc::clone(&most);
        let mut recent: HashMap<_, Vec<_>> = HashMap::new();
        self.watch = Some(Box::new(move |now, from, transmit| {
            for to in &transmit.to {
                let times = recent.entry((from, *to)).or_default();
                times.retain(|time| now - *time < Duration::from_secs(10));
                times.push(now);
                found.set(found.get().max(times.len()));
            }
        }));
        most
    }

    /// From now on it is noted what node 0 sends.
    pub fn sent_by_0(&mut self) -> Rc<RefCell<Vec<Transmit>>> {
        let noted = Rc::new(RefCell::new(Vec::new()));
        let sent = Rc::clone(&noted);
        self.watch = Some(Box::new(move |_, from, transmit| {
            if from == 0 {
                sent.borrow_mut().push(transmit.clone());
            }
        }));
        noted
    }
}
