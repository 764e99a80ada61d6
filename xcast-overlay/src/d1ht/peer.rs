//! A peer: what it does with datagrams and time.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tracing::trace;

use super::{
    config::Config,
    event::{Counters, Event, LookupId},
    message::Message,
    news::{Change, Pending},
    phase::Phase,
    table::Table,
    theta::Observed,
};
use crate::{
    id::Id,
    krpc::Family,
    ring::{Contact, Position},
    runtime::{Body, Fanouts, Outbox, Peers, Protocol, Random, Transmit, WayOut},
    wire::{self, Header, Overlay},
};

/// Most peers whose round-trip times are remembered.
const MAX_MEASURED: usize = 512;
/// Most peers that a look-up or a join asks one after the other.
pub(super) const MAX_HOPS: u32 = 16;

/// A peer. See the [module](super).
#[derive(Clone, Debug)]
pub struct Peer {
    pub(super) config: Config,
    pub(super) overlay: Overlay,
    pub(super) family: Family,
    pub(super) me: Contact,
    pub(super) table: Table,
    pub(super) phase: Phase,
    pub(super) random: Random,
    pub(super) peers: Peers,
    pub(super) fanouts: Fanouts<Tag>,
    pub(super) out: Outbox<Event>,
    pub(super) counters: Counters,
    /// How what is for several leaves.
    pub(super) way: WayOut,
    secret: [u8; 16],
    /// Events of this interval.
    pub(super) pending: Vec<Pending>,
    /// Events of late: what was last heard of a peer.
    pub(super) recent: BTreeMap<Position, Recent>,
    pub(super) observed: Observed,
    /// Events heard of in this interval.
    pub(super) heard: usize,
    pub(super) interval: Option<Interval>,
    /// Who is before this peer on the ring, and until when it has to be heard of.
    pub(super) watched: Option<Watched>,
    /// Peers that joined before this one, which others do not know yet.
    pub(super) newcomers: Vec<(Contact, Instant)>,
    /// Where in the table the next comparison begins.
    pub(super) compared: Position,
    lookups: BTreeMap<LookupId, Lookup>,
    next_lookup: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Recent {
    pub change: Change,
    pub ttl: u8,
    pub at: Instant,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    pub begins: Instant,
    pub ends: Instant,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    pub position: Position,
    pub until: Instant,
    pub is_asked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Lookup {
    key: Position,
    began: Instant,
    hops: u32,
}

/// What a request is for.
#[derive(Clone, Debug)]
pub(super) enum Tag {
    /// A message of EDRA, of this level.
    Events {
        level: u8,
        events: Arc<[Pending]>,
    },
    /// Events for a newcomer.
    Copy,
    Lookup(LookupId),
    /// A step of joining.
    Join,
    Leave,
    /// Whether a silent predecessor is there.
    Probe(Position),
    /// Whether a peer that another's table has, or has not, is there.
    Check,
    Compare {
        first: Position,
        last: Position,
    },
}

impl Peer {
    /// A peer that knows nobody yet. All its random numbers come from `random`.
    pub fn new(config: Config, mut random: Random) -> Self {
        let me = Contact::of(config.address);
        let mut table = Table::default();
        table.insert(me);
        Self {
            overlay: Overlay::named(&config.overlay),
            family: Family::of(&config.address),
            me,
            table,
            phase: Phase::Alone,
            peers: Peers::new(MAX_MEASURED, config.pace),
            fanouts: Fanouts::new(),
            out: Outbox::default(),
            counters: Counters::default(),
            way: WayOut::default(),
            secret: random.octets(),
            pending: Vec::new(),
            recent: BTreeMap::new(),
            observed: Observed::new(config.theta),
            heard: 0,
            interval: None,
            watched: None,
            newcomers: Vec::new(),
            compared: me.position,
            lookups: BTreeMap::new(),
            next_lookup: 0,
            random,
            config,
        }
    }

    /// A peer that is already one of these, as if all had joined: for simulations.
    ///
    /// The peers have to be in the order of their positions, each once, and this one among them. They
    /// share the list: see [`Table`].
    pub fn with_table(now: Instant, config: Config, random: Random, peers: Arc<[Contact]>) -> Self {
        let mut peer = Self::new(config, random);
        peer.table = Table::of_shared(peers);
        peer.begin(now);
        peer
    }

    /// Where this peer is.
    pub fn contact(&self) -> Contact {
        self.me
    }

    /// All peers that are known, this one included.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Whether the peer has a table, and takes part.
    pub fn is_member(&self) -> bool {
        matches!(self.phase, Phase::Member)
    }

    /// Whether the peer has nothing to tell, and waits for nobody's answer.
    pub fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.out.is_empty() && self.fanouts.is_idle()
    }

    /// The length of an interval, Theta, at present.
    pub fn theta(&self) -> Duration {
        self.observed.theta(self.table.len())
    }

    /// What the peer has done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What became of requests.
    pub fn requests(&self) -> crate::runtime::Counters {
        self.fanouts.counters()
    }

    /// Looks for the peer that a key belongs to: [`Event::Found`] tells. With a full table that is
    /// one peer to ask.
    pub fn lookup(&mut self, now: Instant, key: Position) -> LookupId {
        let id = LookupId(self.next_lookup);
        self.next_lookup += 1;
        let lookup = Lookup {
            key,
            began: now,
            hops: 0,
        };
        self.lookups.insert(id, lookup);
        self.ask_owner(now, id, None);
        id
    }

    /// Asks the owner of a look-up's key, or who was said to be.
    fn ask_owner(&mut self, now: Instant, id: LookupId, said: Option<Contact>) {
        let Some(lookup) = self.lookups.get_mut(&id) else {
            return;
        };
        let owner = said.or_else(|| self.table.successor(lookup.key));
        let owner = owner.filter(|_| lookup.hops < MAX_HOPS);
        if let Some(owner) = owner.filter(|owner| *owner != self.me) {
            lookup.hops += 1;
            let key = lookup.key;
            self.ask(
                now,
                vec![(owner.address, Tag::Lookup(id))],
                &Message::Find { key },
            );
        } else {
            self.found(now, id, owner);
        }
    }

    fn found(&mut self, now: Instant, id: LookupId, owner: Option<Contact>) {
        if let Some(Lookup { key, began, hops }) = self.lookups.remove(&id) {
            let took = now - began;
            self.out.tell(Event::Found {
                lookup: id,
                key,
                owner,
                hops,
                took,
            });
        }
    }

    /// Asks peers, all by one message.
    pub(super) fn ask(&mut self, now: Instant, to: Vec<(SocketAddr, Tag)>, message: &Message) {
        let (overlay, port) = (self.overlay, self.config.usual_port);
        self.fanouts.start(
            now,
            &mut self.peers,
            &mut self.random,
            self.config.policy,
            to,
            |transaction| {
                let header =
                    Header::request(wire::Protocol::D1ht, overlay, message.kind(), transaction);
                Body::shared(message.write(header, port))
            },
        );
    }

    fn reply(&mut self, now: Instant, to: SocketAddr, header: Header, message: &Message) {
        if self.peers.reserve(now, to, Duration::ZERO).is_some() {
            let datagram = message.write(header, self.config.usual_port);
            self.out.send([to], datagram);
        }
    }

    /// What a peer has to repeat to join: nobody joins from an address that is not its own.
    fn cookie(&self, address: &SocketAddr) -> u64 {
        let position = Position::of(address).0.to_be_bytes();
        let hash = Id::hash_of(&[&self.secret, &position]);
        Position::of_key(hash.octets()).0
    }

    fn answer(&mut self, now: Instant, from: Contact, header: Header, message: Message) {
        let to = from.address;
        let owner = |table: &Table, key| table.successor(key).unwrap_or(self.me);
        let answer = match message {
            Message::Events { .. } | Message::Copy { .. } | Message::Leave if self.is_leaving() => {
                return;
            }
            Message::Events { levels, events } => {
                self.hear_of(now, from);
                match levels.of(&self.me) {
                    Some(level) => self.told(now, from, level, &events),
                    None => self.counters.malformed += 1,
                }
                Message::Acknowledged
            }
            Message::Copy { events } => {
                self.hear_of(now, from);
                self.copied(now, &events);
                Message::Acknowledged
            }
            Message::Ping => {
                self.hear_of(now, from);
                Message::Acknowledged
            }
            Message::Leave => {
                self.left(now, from);
                Message::Acknowledged
            }
            // A peer that does not know the others yet cannot tell.
            _ if !self.is_member() => return,
            Message::Find { key } => {
                let peer = owner(&self.table, key);
                let (is_sender, cookie) = (peer == self.me, self.cookie(&to));
                Message::Found {
                    is_sender,
                    cookie,
                    peer,
                }
            }
            Message::Join { cookie } if cookie == self.cookie(&to) => {
                let successor = owner(&self.table, from.position.ahead(1));
                if successor == self.me {
                    self.welcome(now, from);
                    Message::Joined
                } else {
                    Message::Found {
                        is_sender: false,
                        cookie: 0,
                        peer: successor,
                    }
                }
            }
            Message::Page { after } if self.table.get(from.position).is_some() => {
                self.page(after, from)
            }
            Message::Compare { first, last, sum } if self.table.get(from.position).is_some() => {
                self.hear_of(now, from);
                self.compare(first, last, sum)
            }
            _ => return,
        };
        self.reply(now, to, header, &answer);
    }

    fn answered(&mut self, now: Instant, from: Contact, tag: Tag, late: bool, message: Message) {
        match (tag, message) {
            (
                Tag::Lookup(id),
                Message::Found {
                    is_sender, peer, ..
                },
            ) if !late => {
                if is_sender {
                    self.found(now, id, Some(from));
                } else {
                    self.ask_owner(now, id, Some(peer));
                }
            }
            (Tag::Join, message) => self.join_answered(now, from, message),
            // An answer that says something else is worth as much as none.
            (Tag::Lookup(id), _) if !late => self.ask_owner(now, id, None),
            (Tag::Leave, _) => self.leave_is_known(),
            (Tag::Compare { first, last }, Message::Peers { peers, .. }) => {
                self.compared(now, first, last, &peers);
            }
            _ => {}
        }
        self.hear_of(now, from);
    }

    fn silent(&mut self, now: Instant, peer: Contact, tag: Tag) {
        trace!(peer = %peer.address, ?tag, "no answer");
        match tag {
            Tag::Events { level, events } => self.redirect(now, peer, level, &events),
            Tag::Copy | Tag::Compare { .. } => {}
            Tag::Lookup(id) => {
                self.forget(now, peer);
                self.ask_owner(now, id, None);
            }
            Tag::Join => self.join_failed(now, peer),
            Tag::Leave => self.leave_failed(now, peer),
            Tag::Probe(position) => self.gone(now, position),
            Tag::Check => self.forget(now, peer),
        }
    }

    fn settle(&mut self, now: Instant) {
        loop {
            while let Some(silent) = self.fanouts.poll_silent() {
                let peer = Contact::of(silent.peer);
                if silent.asked {
                    self.silent(now, peer, silent.tag);
                } else if let Tag::Lookup(id) = silent.tag {
                    self.found(now, id, None);
                }
            }
            // An answer may have made a neighbour's time-out due.
            if self.fanouts.poll_timeout().is_some_and(|at| at <= now) {
                self.fanouts.handle_timeout(now, &mut self.peers);
            } else {
                break;
            }
        }
        self.end_leave();
    }
}

impl Protocol for Peer {
    type Event = Event;

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: Bytes) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let port = self.config.usual_port;
        let message = Message::read(self.overlay, self.family, port, &datagram);
        // Nobody speaks for this peer.
        let is_other = Family::of(&from) == self.family && from != self.me.address;
        match message.filter(|_| is_other) {
            Some((header, message)) if message.is_answer() => {
                let id = &header.transaction;
                if let Some(answer) = self.fanouts.answer(now, &mut self.peers, id, from) {
                    self.answered(now, Contact::of(from), answer.tag, answer.late, message);
                }
            }
            Some((header, message)) if !self.is_outside() => {
                self.answer(now, Contact::of(from), header, message);
            }
            Some(_) => {}
            None => self.counters.malformed += 1,
        }
        self.settle(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.fanouts.handle_timeout(now, &mut self.peers);
        self.settle(now);
        self.retry_join(now);
        self.watch(now);
        self.end_interval(now);
        self.settle(now);
    }

    fn set_way_out(&mut self, ipv6: bool, way: WayOut) {
        if ipv6 == self.me.address.is_ipv6() {
            self.way = way;
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out
            .poll_transmit()
            .or_else(|| self.fanouts.poll_transmit())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [
            self.fanouts.poll_timeout(),
            self.interval.map(|interval| interval.ends),
            self.watched
                .filter(|watched| !watched.is_asked)
                .map(|watched| watched.until),
            self.join_retry(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.out.poll_event()
    }
}
