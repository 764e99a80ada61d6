//! All links: how long a packet takes, and whether it is lost.

use std::collections::HashMap;

use crate::{
    events::{Fate, Line, LineSettings, Time},
    fanout::Link,
    random::{Random, hash},
    topology::Graph,
};

/// All links of a network.
#[derive(Debug)]
pub struct Lines {
    links: LineSettings,
    access: LineSettings,
    seed: u64,
    random: Random,
    /// Those that have a rate, and have sent.
    busy: HashMap<Link, Line>,
}

impl Lines {
    /// Links between routers, access links, and the seed of latencies and losses.
    #[must_use]
    pub fn new(links: LineSettings, access: LineSettings, seed: u64) -> Self {
        Self {
            links,
            access,
            seed,
            random: Random::for_purpose(seed, "losses"),
            busy: HashMap::new(),
        }
    }

    /// Whether packets have to be sent in order of time, because they wait for each other.
    #[must_use]
    pub fn are_ordered(&self) -> bool {
        let has_rate = |line: &LineSettings| line.bits_per_second.is_some();
        has_rate(&self.links) || has_rate(&self.access)
    }

    /// Sends a packet, in order of time where lines have rates.
    pub fn send(&mut self, graph: &Graph, link: Link, now: Time, octets: u32) -> Fate {
        let settings = self.settings(graph, link);
        if settings.bits_per_second.is_some() {
            let line = self.busy.entry(link).or_insert_with(|| Line::new(settings));
            return line.send(now, octets, &mut self.random);
        }
        if settings.loss > 0.0 && self.random.chance(settings.loss) {
            return Fate::Lost;
        }
        Fate::Arrives(now + settings.latency_ns)
    }

    fn settings(&self, graph: &Graph, link: Link) -> LineSettings {
        let Link::Between(link) = link else {
            return self.access;
        };
        let (one, other) = (graph.from(link), graph.to(link));
        let latency = self.links.latency_ns;
        let part = hash(&[self.seed, one.min(other).into(), one.max(other).into()]);
        // Between a half and three halves, the same in both directions.
        let more = (u128::from(latency) * u128::from(part)) >> 64;
        LineSettings {
            latency_ns: latency / 2 + more as u64,
            ..self.links
        }
    }
}
