//! Counting what crosses links, by class of message.

use std::{collections::BTreeMap, ops::AddAssign};

use serde::Serialize;

use super::load::Load;
use crate::fanout::{Link, Transmission};

/// What one class of messages cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Messages that left hosts, each to one host or several.
    pub messages: u64,
    /// Their receivers.
    pub receivers: u64,
    /// What they cost.
    pub sent: Load,
    /// What they would have cost as a datagram to each receiver, if nothing was lost.
    pub unicast: Load,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.receivers += other.receivers;
        self.sent += other.sent;
        self.unicast += other.unicast;
    }
}

/// Counts what crosses links.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    /// By class; what has none is of class 0.
    tallies: Vec<Tally>,
    /// By link, if that is wanted: of one class, or of all.
    links: Option<(Option<usize>, BTreeMap<Link, Load>)>,
    /// Packets that were lost on links.
    pub lost: u64,
    /// Packets that found a queue full.
    pub dropped: u64,
}

impl Meter {
    /// Counts each link by itself, too, from now on: what is of this class, or everything.
    pub fn count_links(&mut self, class: Option<usize>) {
        self.links = Some((class, BTreeMap::new()));
    }

    /// What each link was crossed by, those that were.
    pub fn links(&self) -> impl Iterator<Item = (Link, Load)> {
        let links = self.links.iter().flat_map(|(_, links)| links);
        links.map(|(link, load)| (*link, *load))
    }

    /// What a class cost.
    #[must_use]
    pub fn tally(&self, class: usize) -> Tally {
        self.tallies.get(class).copied().unwrap_or_default()
    }

    /// Forgets what was counted.
    pub fn reset(&mut self) {
        let links = self.links.take();
        let links = links.map(|(class, _)| (class, BTreeMap::new()));
        *self = Self {
            links,
            ..Self::default()
        };
    }

    pub(super) fn of(&mut self, class: usize) -> &mut Tally {
        if self.tallies.len() <= class {
            self.tallies.resize(class + 1, Tally::default());
        }
        &mut self.tallies[class]
    }

    pub(super) fn crossed(&mut self, class: usize, sent: Transmission) {
        self.of(class).sent.add(sent);
        if let Some((of, links)) = &mut self.links
            && of.is_none_or(|of| of == class)
        {
            links.entry(sent.link).or_default().add(sent);
        }
    }
}
