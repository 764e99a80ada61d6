//! Coming and going: of this peer, and of its neighbours.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tracing::debug;

use super::{
    event::Event,
    message::Message,
    news::{Change, News},
    peer::{MAX_HOPS, Peer, Tag, Watched},
    phase::{Joining, Phase},
    theta::levels,
};
use crate::{
    krpc::Family,
    ring::{Contact, Position},
};

/// When a join that did not succeed is tried again; the actual time varies by half.
const RETRY: Duration = Duration::from_secs(4);
/// How often a peer that leaves tells somebody else instead of one that does not answer.
const MAX_REDIRECTS: u32 = 8;

impl Peer {
    /// Becomes the first peer of an overlay.
    pub fn found_overlay(&mut self, now: Instant) {
        self.begin(now);
        self.out.tell(Event::Joined);
    }

    /// Joins an overlay of which these peers are members: [`Event::Joined`] tells when it is done.
    pub fn join(&mut self, now: Instant, by: &[SocketAddr]) {
        // A member that joins anew is none until it has.
        self.interval = None;
        self.watched = None;
        self.phase = Phase::Joining(Joining {
            by: by.to_vec(),
            hops: 0,
            successor: None,
            retry: None,
        });
        self.find_successor(now, None);
    }

    /// Leaves: what is to be told is told, and the successor told of the leave. [`Event::Left`]
    /// tells when the peer may go.
    pub fn leave(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Leaving { .. } | Phase::Left) {
            return;
        }
        if !self.is_member() {
            self.phase = Phase::Left;
            self.out.tell(Event::Left);
            return;
        }
        self.tell(now);
        self.interval = None;
        self.watched = None;
        self.phase = Phase::Leaving {
            is_known: false,
            redirects: MAX_REDIRECTS,
        };
        self.say_leave(now);
        self.end_leave();
    }

    fn say_leave(&mut self, now: Instant) {
        match self.table.ahead(self.me.position, 1) {
            Some(successor) if successor != self.me => {
                self.ask(now, vec![(successor.address, Tag::Leave)], &Message::Leave);
            }
            _ => self.leave_is_known(),
        }
    }

    /// The successor knows that this peer leaves, or does not answer.
    pub(super) fn leave_is_known(&mut self) {
        if let Phase::Leaving { is_known, .. } = &mut self.phase {
            *is_known = true;
        }
    }

    /// The successor does not answer: the next one is told, if there is time.
    pub(super) fn leave_failed(&mut self, now: Instant, peer: Contact) {
        if self.may_redirect() {
            self.forget(now, peer);
            self.say_leave(now);
        } else {
            self.leave_is_known();
        }
    }

    /// Whether somebody else may be told instead of one that does not answer: who leaves does not try all.
    pub(super) fn may_redirect(&mut self) -> bool {
        match &mut self.phase {
            Phase::Member => true,
            Phase::Leaving { redirects, .. } if *redirects > 0 => {
                *redirects -= 1;
                true
            }
            _ => false,
        }
    }

    /// The peer has left when nobody has to be told anything any more.
    pub(super) fn end_leave(&mut self) {
        if matches!(self.phase, Phase::Leaving { is_known: true, .. }) && self.fanouts.is_idle() {
            self.phase = Phase::Left;
            self.out.tell(Event::Left);
        }
    }

    /// Whether the peer leaves: it takes no events, since it would not tell them on. Who sends it some finds
    /// it silent, and tells its successor.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Leaving { .. })
    }

    /// Whether the peer takes no part, not even by answering.
    pub(super) fn is_outside(&self) -> bool {
        matches!(self.phase, Phase::Alone | Phase::Left)
    }

    /// Begins to take part.
    pub(super) fn begin(&mut self, now: Instant) {
        self.phase = Phase::Member;
        self.begin_interval(now, true);
        self.watch(now);
    }

    fn find_successor(&mut self, now: Instant, at: Option<SocketAddr>) {
        // A peer that joins again may still be in tables: its successor is the next one.
        let key = self.me.position.ahead(1);
        let Phase::Joining(joining) = &mut self.phase else {
            return;
        };
        joining.retry = None;
        if joining.successor.is_some() {
            return;
        }
        let to = match at {
            Some(at) => vec![(at, Tag::Join)],
            None => {
                joining.hops = 0;
                joining.by.iter().map(|by| (*by, Tag::Join)).collect()
            }
        };
        self.ask(now, to, &Message::Find { key });
    }

    pub(super) fn join_answered(&mut self, now: Instant, from: Contact, message: Message) {
        let Phase::Joining(joining) = &mut self.phase else {
            return;
        };
        match message {
            // Several may have been asked: the first that knows is taken at its word.
            Message::Found { .. } if joining.successor.is_some() => {}
            Message::Found {
                is_sender: true,
                cookie,
                ..
            } => {
                joining.successor = Some(from);
                self.ask(
                    now,
                    vec![(from.address, Tag::Join)],
                    &Message::Join { cookie },
                );
            }
            Message::Found { peer, .. } if joining.hops < MAX_HOPS && peer != self.me => {
                joining.hops += 1;
                self.find_successor(now, Some(peer.address));
            }
            Message::Joined if joining.successor == Some(from) => {
                self.table.insert(from);
                let after = self.me.position;
                self.ask(
                    now,
                    vec![(from.address, Tag::Join)],
                    &Message::Page { after },
                );
            }
            Message::Peers { are_last, peers } if joining.successor == Some(from) => {
                let last = peers.last().copied();
                for peer in peers {
                    self.learn(peer);
                }
                match last {
                    Some(last) if !are_last => {
                        let after = last.position;
                        self.ask(
                            now,
                            vec![(from.address, Tag::Join)],
                            &Message::Page { after },
                        );
                    }
                    _ => {
                        debug!(peers = self.table.len(), "joined");
                        self.begin(now);
                        self.out.tell(Event::Joined);
                    }
                }
            }
            _ => self.join_failed(now, from),
        }
    }

    /// A peer is of no help: tries again later, unless another one has said welcome.
    pub(super) fn join_failed(&mut self, now: Instant, by: Contact) {
        let wait = self.random.jitter(RETRY, 0.5);
        if let Phase::Joining(joining) = &mut self.phase
            && joining.successor.is_none_or(|successor| successor == by)
        {
            joining.retry.get_or_insert(now + wait);
            joining.successor = None;
        }
    }

    pub(super) fn join_retry(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Joining(joining) => joining.retry,
            _ => None,
        }
    }

    pub(super) fn retry_join(&mut self, now: Instant) {
        if self.join_retry().is_some_and(|at| at <= now) {
            self.find_successor(now, None);
        }
    }

    /// Adds a peer that somebody else knows.
    pub(super) fn learn(&mut self, peer: Contact) {
        if Family::of(&peer.address) == self.family && self.table.len() < self.config.max_peers {
            self.table.insert(peer);
        }
    }

    /// A peer joins, whose successor this one is: it is in this table, and is reported.
    pub(super) fn welcome(&mut self, now: Instant, peer: Contact) {
        if self.table.get(peer.position).is_none() && self.table.len() < self.config.max_peers {
            self.report(
                now,
                News {
                    peer,
                    change: Change::Joined,
                },
            );
        }
        // Until all know it, it hears from this peer what they hear.
        let until = now + self.theta() * (levels(self.table.len()) + 2);
        self.newcomers.retain(|(known, _)| *known != peer);
        self.newcomers.push((peer, until));
        self.watch(now);
    }

    /// Peers after a position, from this one's table, up to the one that asks for them.
    pub(super) fn page(&self, after: Position, for_peer: Contact) -> Message {
        let most = match self.family {
            Family::Ipv4 => 160,
            Family::Ipv6 => 60,
        };
        let mut peers = Vec::new();
        let mut are_last = true;
        for peer in self.table.from(after.ahead(1)) {
            if peer == for_peer {
                break;
            }
            if peers.len() == most {
                are_last = false;
                break;
            }
            peers.push(peer);
        }
        Message::Peers { are_last, peers }
    }

    /// A peer says that it leaves. Whose successor this peer is, it reports it.
    pub(super) fn left(&mut self, now: Instant, peer: Contact) {
        if self.table.predecessor(self.me.position) == Some(peer) && peer != self.me {
            self.report(
                now,
                News {
                    peer,
                    change: Change::Left,
                },
            );
        } else {
            self.table.remove(peer.position);
        }
        self.newcomers.retain(|(known, _)| *known != peer);
        self.watch(now);
    }

    /// A message came from a peer: it is there.
    pub(super) fn hear_of(&mut self, now: Instant, peer: Contact) {
        if !self.is_member() || peer == self.me {
            return;
        }
        let unknown = self.table.get(peer.position).is_none();
        let is_mine = self
            .table
            .predecessor(self.me.position)
            .is_none_or(|predecessor| {
                peer.position
                    .is_within(predecessor.position, self.me.position)
            });
        let said_gone = self.recent.get(&peer.position);
        let said_gone = said_gone.is_some_and(|recent| recent.change == Change::Left);
        if unknown && said_gone && is_mine {
            // It was only silent.
            self.report(
                now,
                News {
                    peer,
                    change: Change::Joined,
                },
            );
        } else if unknown && !said_gone {
            self.learn(peer);
        }
        let theta = self.theta();
        if let Some(watched) = &mut self.watched
            && watched.position == peer.position
        {
            watched.until = now + theta * 2;
            watched.is_asked = false;
        }
    }

    /// Looks after the predecessor: if it was not heard of for two intervals it is asked.
    pub(super) fn watch(&mut self, now: Instant) {
        if !self.is_member() {
            return;
        }
        let predecessor = self.table.predecessor(self.me.position);
        let Some(predecessor) = predecessor.filter(|peer| *peer != self.me) else {
            self.watched = None;
            return;
        };
        let until = now + self.theta() * 2;
        let position = predecessor.position;
        let watched = self.watched.filter(|watched| watched.position == position);
        let mut watched = watched.unwrap_or(Watched {
            position,
            until,
            is_asked: false,
        });
        if watched.until <= now && !watched.is_asked {
            watched.is_asked = true;
            let to = vec![(predecessor.address, Tag::Probe(position))];
            self.ask(now, to, &Message::Ping);
        }
        self.watched = Some(watched);
    }

    /// The predecessor is silent: it is reported to have left.
    pub(super) fn gone(&mut self, now: Instant, position: Position) {
        let predecessor = self.table.predecessor(self.me.position);
        if let Some(peer) = predecessor.filter(|peer| peer.position == position)
            && peer != self.me
        {
            debug!(peer = %peer.address, "gone");
            self.report(
                now,
                News {
                    peer,
                    change: Change::Left,
                },
            );
        }
        self.watch(now);
    }

    /// A peer did not answer. Its successor reports that; others only no longer ask it.
    pub(super) fn forget(&mut self, now: Instant, peer: Contact) {
        if peer == self.me {
            return;
        }
        if self
            .watched
            .is_some_and(|watched| watched.position == peer.position)
        {
            self.gone(now, peer.position);
        } else {
            self.table.remove(peer.position);
        }
    }
}
