//! EDRA: how events are told to all.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use super::{
    event::Event,
    grouping::{Cost, Grouping, divide},
    message::{Chunk, Levels, Message, chunks, tag},
    news::{Change, News, Pending},
    peer::{Interval, Peer, Recent, Tag},
    theta::levels,
};
use crate::ring::Contact;

/// How many events of late are remembered, at most.
const MAX_RECENT: usize = 100_000;

/// The message of one level.
#[derive(Clone, Debug)]
struct OfLevel {
    level: u8,
    to: Contact,
    events: Arc<[Pending]>,
}

impl Peer {
    /// Reports an event that this peer has seen itself: to all.
    pub(super) fn report(&mut self, now: Instant, news: News) {
        self.counters.reported += 1;
        // The table as it is with the event, so that the ring is covered.
        let peers = self.table.len() + usize::from(news.change == Change::Joined);
        self.acknowledge(now, news, levels(peers) as u8);
    }

    /// Takes the message of a level from another peer.
    pub(super) fn told(&mut self, now: Instant, from: Contact, level: u8, events: &[Pending]) {
        for event in events {
            let subject = event.news.peer.position;
            if subject == self.me.position {
                self.spoken_of(now, event.news);
            } else if event.ttl > level
                // Who is in the stretch between knows better.
                && !subject.is_within(from.position, self.me.position)
            {
                self.acknowledge(now, event.news, level);
            }
        }
    }

    /// Takes events that the successor passes on as long as others do not know this peer.
    pub(super) fn copied(&mut self, now: Instant, events: &[Pending]) {
        for event in events {
            if event.news.peer == self.me {
                self.spoken_of(now, event.news);
            } else {
                self.acknowledge(now, event.news, 0);
            }
        }
    }

    /// An event is about this peer. If it is said to be gone, it says that it is not.
    fn spoken_of(&mut self, now: Instant, news: News) {
        let recent = self.recent.get(&self.me.position);
        let said = recent.is_some_and(|recent| recent.change == Change::Joined);
        if news.change == Change::Left && self.is_member() && !said {
            self.report(
                now,
                News {
                    peer: self.me,
                    change: Change::Joined,
                },
            );
        }
    }

    fn acknowledge(&mut self, now: Instant, news: News, ttl: u8) {
        let News { peer, change } = news;
        let recent = self.recent.get_mut(&peer.position);
        if let Some(recent) = recent.filter(|recent| recent.change == change) {
            self.counters.repeated_events += 1;
            if recent.ttl >= ttl {
                return;
            }
            recent.ttl = ttl;
        } else {
            self.counters.events += 1;
            self.heard += 1;
            if self.recent.len() < MAX_RECENT {
                let recent = Recent {
                    change,
                    ttl,
                    at: now,
                };
                self.recent.insert(peer.position, recent);
            }
            self.out.tell(Event::News { news, ttl });
        }
        match change {
            Change::Joined => self.learn(peer),
            Change::Left if peer != self.me => {
                self.table.remove(peer.position);
            }
            Change::Left => {}
        }
        // What is last said of a peer counts.
        self.pending.retain(|pending| pending.news.peer != peer);
        if ttl > 0 || !self.newcomers.is_empty() {
            self.pending.push(Pending { news, ttl });
        }
        self.watch(now);
    }

    /// Begins an interval, the first at a random place in it: peers that start together do not
    /// speak together.
    pub(super) fn begin_interval(&mut self, now: Instant, is_first: bool) {
        let theta = self.theta();
        let theta = if is_first {
            self.random.jitter(theta / 2, 1.0)
        } else {
            theta
        };
        self.interval = Some(Interval {
            begins: now,
            ends: now + theta,
        });
    }

    pub(super) fn end_interval(&mut self, now: Instant) {
        let Some(interval) = self.interval.filter(|interval| interval.ends <= now) else {
            return;
        };
        let (heard, peers) = (std::mem::take(&mut self.heard), self.table.len());
        self.observed.interval(heard, peers, now - interval.begins);
        self.counters.intervals += 1;
        self.tell(now);
        // Twice the time in which an event has reached everybody.
        let memory = self.theta() * (2 * levels(peers) + 4);
        self.recent.retain(|_, recent| now - recent.at < memory);
        self.newcomers.retain(|(_, until)| *until > now);
        let every = self.config.compare_intervals.map_or(0, u64::from);
        if every > 0 && self.counters.intervals.is_multiple_of(every) {
            self.ask_to_compare(now);
        }
        self.begin_interval(now, false);
    }

    /// Sends the messages of an interval.
    pub(super) fn tell(&mut self, now: Instant) {
        let pending = std::mem::take(&mut self.pending);
        self.tell_newcomers(now, &pending);
        let messages = self.messages(&pending);
        let (port, most) = (self.config.usual_port, self.config.max_datagram_octets);
        let saved = match self.config.grouping {
            Grouping::Octets { saved } => saved,
            Grouping::Unicast | Grouping::One | Grouping::Ends => 0.0,
        };
        let way = self.way;
        let cost = |start: usize, end: usize| {
            let group = &messages[start..end];
            let tags: BTreeSet<u16> = group.iter().map(|message| tag(&message.to)).collect();
            let to: Vec<_> = group.iter().map(|message| message.to.address).collect();
            let (_, chunks) = packets(group, port, most);
            let contents = chunks.iter().map(|chunk| chunk.octets);
            (tags.len() == group.len()).then(|| Cost::of(&to, contents, saved, way))
        };
        let ends = divide(messages.len(), self.config.grouping, cost);
        let by_unicast: usize = (0..messages.len())
            .filter_map(|at| cost(at, at + 1))
            .map(|cost| cost.at_ends)
            .sum();
        self.counters.messages += messages.len() as u64;
        self.counters.unicast_octets += by_unicast as u64;
        let mut start = 0;
        for end in ends {
            let octets = cost(start, end).map_or(0, |cost| cost.at_ends);
            self.counters.octets += octets as u64;
            let group = &messages[start..end];
            start = end;
            let (levels, chunks) = packets(group, port, most);
            self.counters.packets += chunks.len() as u64;
            for chunk in chunks {
                let to = group
                    .iter()
                    .map(|message| {
                        let level = message.level;
                        let events = chunk.events.iter().filter(|event| event.ttl > level);
                        let tag = Tag::Events {
                            level,
                            events: events.copied().collect(),
                        };
                        (message.to.address, tag)
                    })
                    .collect();
                let levels = levels.clone();
                let message = Message::Events {
                    levels,
                    events: chunk.events,
                };
                self.ask(now, to, &message);
            }
        }
    }

    /// The messages for pending events, by level: M(0) always, others if there are events for them.
    fn messages(&self, pending: &[Pending]) -> Vec<OfLevel> {
        let peers = self.table.len();
        let of_level = |level: u32| {
            let to = self.table.ahead(self.me.position, 1 << level)?;
            let events: Arc<[Pending]> = pending
                .iter()
                .filter(|event| u32::from(event.ttl) > level && !is_between(event, self.me, to))
                .copied()
                .collect();
            let level = level as u8;
            (level == 0 || !events.is_empty()).then_some(OfLevel { level, to, events })
        };
        if peers < 2 {
            return Vec::new();
        }
        (0..levels(peers)).filter_map(of_level).collect()
    }

    fn tell_newcomers(&mut self, now: Instant, pending: &[Pending]) {
        if pending.is_empty() || self.newcomers.is_empty() {
            return;
        }
        let to: Vec<_> = self
            .newcomers
            .iter()
            .map(|(peer, _)| (peer.address, Tag::Copy))
            .collect();
        let (port, most) = (self.config.usual_port, self.config.max_datagram_octets);
        for chunk in chunks(&Levels::Single(0), pending, port, most) {
            let message = Message::Copy {
                events: chunk.events,
            };
            self.ask(now, to.clone(), &message);
        }
    }

    /// The receiver of a message is gone: who is next gets it. Nothing else would reach the peers
    /// that the message was for.
    pub(super) fn redirect(&mut self, now: Instant, gone: Contact, level: u8, events: &[Pending]) {
        self.forget(now, gone);
        let next = self.table.successor(gone.position);
        let Some(to) = next.filter(|next| *next != self.me) else {
            return;
        };
        if !self.may_redirect() {
            return;
        }
        let events: Vec<Pending> = events
            .iter()
            .filter(|event| !is_between(event, self.me, to))
            .copied()
            .collect();
        if events.is_empty() && level > 0 {
            return;
        }
        self.counters.redirected += 1;
        let events: Arc<[Pending]> = events.into();
        let tag = Tag::Events {
            level,
            events: events.clone(),
        };
        let message = Message::Events {
            levels: Levels::Single(level),
            events: events.to_vec(),
        };
        self.ask(now, vec![(to.address, tag)], &message);
    }
}

/// Whether the event happened to a peer between two, or to the second: who is there knows.
fn is_between(event: &Pending, from: Contact, to: Contact) -> bool {
    event
        .news
        .peer
        .position
        .is_within(from.position, to.position)
}

/// One packet for messages of several levels, or several where it would be too long.
fn packets(group: &[OfLevel], port: u16, most: usize) -> (Levels, Vec<Chunk>) {
    let (Some(lowest), Some(highest)) = (group.first(), group.last()) else {
        return (Levels::Single(0), Vec::new());
    };
    let levels = match group {
        [only] => Levels::Single(only.level),
        _ => Levels::List(group.iter().map(|of| (tag(&of.to), of.level)).collect()),
    };
    // Above the highest level all TTLs mean the same: fewer of them are fewer groups of events.
    let most_ttl = highest.level + 1;
    let events: Vec<Pending> = lowest
        .events
        .iter()
        .map(|event| Pending {
            ttl: event.ttl.min(most_ttl),
            ..*event
        })
        .collect();
    let chunks = chunks(&levels, &events, port, most);
    (levels, chunks)
}
