//! Messages on their way out: the queue, the sender, and what waits for room in the send buffer.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tracing::debug;
use xcast_host::{
    Destination, Options, SendError, Sender, Settings as SenderSettings, UnicastCause, Uplink,
    envelope::Tag,
    queue::{Message, Queue, QueueLimits, Refusal, TagTaken},
    split::UplinkState,
};

use super::{fanout::Notes, statistics::Statistics};
use crate::runtime::{Mode, Segment, Transmit, WayOut};

/// How long to wait for room in a full send buffer.
const FULL: Duration = Duration::from_millis(1);
/// Most packets that wait for room; more are dropped, as a network would.
const MAX_BACKLOG: usize = 1024;
/// How often to look for a router's answer while none has come.
const LOOK: Duration = Duration::from_millis(100);

/// Messages on their way out. Nothing here waits.
#[derive(Debug)]
pub struct Outbox {
    queue: Queue,
    sender: Sender<UdpSocket>,
    options: Options,
    uplink: Uplink,
    /// Where it is noted what leaves.
    notes: Option<Notes>,
    backlog: VecDeque<(Vec<Destination>, Bytes)>,
    /// When to try the backlog again.
    retry: Option<Instant>,
    /// Whether all messages are unicast.
    unicast: bool,
    /// When to look after the router.
    tend: Option<Instant>,
    /// All but what queue and sender count.
    counted: Statistics,
}

impl Outbox {
    pub fn new(
        socket: UdpSocket,
        settings: SenderSettings,
        limits: QueueLimits,
        now: Instant,
    ) -> io::Result<Self> {
        let options = settings.options.clone();
        let uplink = settings.uplink.clone();
        let mut outbox = Self {
            queue: Queue::new(limits),
            sender: Sender::new(socket, settings)?,
            options,
            uplink,
            notes: None,
            backlog: VecDeque::new(),
            retry: None,
            unicast: false,
            tend: None,
            counted: Statistics::default(),
        };
        outbox.look_after_router(now);
        Ok(outbox)
    }

    /// The same, noting what leaves.
    pub fn with_notes(self, notes: Option<Notes>) -> Self {
        Self { notes, ..self }
    }

    /// Takes a message.
    pub fn push(&mut self, now: Instant, transmit: Transmit) {
        let counted = &mut self.counted;
        counted.messages += 1;
        counted.receivers += transmit.to.len() as u64;
        match transmit.mode {
            _ if self.unicast => self.send_apart(now, &transmit),
            Mode::Unicast => {
                counted.unicast_messages += 1;
                self.send_apart(now, &transmit);
            }
            Mode::Shared if transmit.body.is_same_for_all() => {
                let segments = segments(&transmit, 0);
                self.queue_up(now, Message::to_many(transmit.to, segments));
            }
            Mode::Shared => {
                for (at, to) in transmit.to.iter().enumerate() {
                    self.queue_up(now, Message::to_one(*to, segments(&transmit, at)));
                }
            }
        }
    }

    /// Sends a datagram to each receiver.
    fn send_apart(&mut self, now: Instant, transmit: &Transmit) {
        for (at, to) in transmit.to.iter().enumerate() {
            let to = Destination::from(*to);
            self.send(now, vec![to], transmit.datagram(at));
        }
    }

    /// Whether messages to lists leave as unicast, as if there were no router.
    pub fn set_unicast(&mut self, now: Instant, unicast: bool) {
        self.flush(now);
        self.unicast = unicast;
    }

    /// Looks after the router, if that is due.
    pub fn tend(&mut self, now: Instant) {
        if self.tend.is_some_and(|at| at <= now) {
            self.look_after_router(now);
        }
    }

    /// How messages to several of IPv4 and of IPv6 leave at this time.
    pub fn ways_out(&mut self) -> [WayOut; 2] {
        let any = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        any.map(|address: IpAddr| match self.sender.uplink_for(address) {
            UplinkState::Up {
                overhead_octets, ..
            } if !self.unicast => WayOut::Shared { overhead_octets },
            _ => WayOut::Unicast,
        })
    }

    /// Sends what is due, and looks after the router.
    pub fn work(&mut self, now: Instant) {
        self.tend(now);
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            // What still finds no room comes to the end again.
            for _ in 0..self.backlog.len() {
                if let Some((to, payload)) = self.backlog.pop_front() {
                    self.send(now, to, payload);
                }
            }
        }
        while let Some(packet) = self.queue.poll(now) {
            let waited = now.saturating_duration_since(packet.since());
            self.counted.delay_us += waited.as_micros() as u64;
            let has_router = |to: SocketAddr| self.sender.router_for(to.ip()).is_ok();
            if packet.destinations().all(has_router) {
                let to = packet.destinations().map(Destination::from).collect();
                self.send(now, to, packet.payload());
            } else {
                // Each receiver would get all of an envelope for nothing.
                for (to, payload) in packet.apart() {
                    let to = to.into_iter().map(Destination::from).collect();
                    self.send(now, to, payload);
                }
            }
        }
    }

    /// When to [`work`](Self::work) next.
    pub fn deadline(&self) -> Option<Instant> {
        [self.queue.deadline(), self.retry, self.tend]
            .into_iter()
            .flatten()
            .min()
    }

    /// Sends all that is in the queue.
    pub fn flush(&mut self, now: Instant) {
        self.queue.flush();
        self.work(now);
    }

    /// When packets that found no room are tried again; `None` if there are none.
    pub fn waits_for_room(&self) -> Option<Instant> {
        self.retry
    }

    /// Whether messages go by a router, in every family that uplink and socket have.
    pub fn router(&self) -> Result<(), UnicastCause> {
        self.sender.router()
    }

    pub fn opt_in(&mut self, to: SocketAddr, tag: Tag) -> Result<(), TagTaken> {
        self.queue.opt_in(to, tag)
    }

    pub fn opt_out(&mut self, to: SocketAddr) {
        self.queue.opt_out(to);
    }

    pub fn statistics(&self) -> Statistics {
        Statistics {
            queue: *self.queue.statistics(),
            sender: *self.sender.statistics(),
            ..self.counted
        }
    }

    fn look_after_router(&mut self, now: Instant) {
        let next_probe = self.sender.tend();
        self.tend = next_probe.map(|at| match self.sender.router() {
            Ok(()) => at,
            // Its answer may come any moment.
            Err(_) => at.min(now + LOOK),
        });
    }

    fn queue_up(&mut self, now: Instant, message: Message) {
        let Err(refused) = self.queue.push(now, message) else {
            return;
        };
        if refused.reason == Refusal::Full {
            self.flush(now);
        }
        if let Err(refused) = self.queue.push(now, refused.message) {
            let Message {
                destinations,
                segments,
            } = refused.message;
            let to = destinations.into_iter().map(Destination::from).collect();
            self.send(now, to, segments.concat().into());
        }
    }

    fn send(&mut self, now: Instant, mut to: Vec<Destination>, payload: Bytes) {
        while !to.is_empty() {
            match self.sender.try_send_with(&self.options, &to, &payload) {
                Ok(_) => {
                    self.note(&to, payload.len(), |_| true);
                    return;
                }
                Err(SendError::WouldBlock { failed, rest, .. }) => {
                    self.counted.failed += failed.len() as u64;
                    let is_left = |to: &Destination| {
                        !rest.contains(to) && failed.iter().all(|one| one.address != to.address)
                    };
                    self.note(&to, payload.len(), is_left);
                    self.keep(now, rest, payload);
                    return;
                }
                Err(SendError::Unreached { failed, .. }) => {
                    for unreached in &failed {
                        debug!(to = %unreached.address, error = %unreached.error, "not sent");
                    }
                    self.note(&to, payload.len(), |to| {
                        failed.iter().all(|one| one.address != to.address)
                    });
                    self.counted.failed += failed.len() as u64;
                    return;
                }
                // One address that somebody made up must not cost the others their message.
                Err(SendError::Destination {
                    index,
                    address,
                    reason,
                }) if index < to.len() => {
                    debug!(to = %address, %reason, "not sent");
                    self.counted.failed += 1;
                    to.remove(index);
                }
                Err(error) => {
                    debug!(%error, receivers = to.len(), "not sent");
                    self.counted.failed += to.len() as u64;
                    return;
                }
            }
        }
    }

    /// Notes that a message has left, to those receivers that it has left to.
    fn note(&self, to: &[Destination], payload: usize, has_left: impl Fn(&Destination) -> bool) {
        if let Some(notes) = &self.notes {
            let left = to.iter().filter(|to| has_left(to)).map(|to| to.address);
            let has_router = |ip| self.sender.router_for(ip).is_ok();
            notes.note(left, payload, &self.uplink, has_router);
        }
    }

    fn keep(&mut self, now: Instant, rest: Vec<Destination>, payload: Bytes) {
        if self.backlog.len() >= MAX_BACKLOG {
            self.counted.failed += rest.len() as u64;
            return;
        }
        self.counted.waited += 1;
        self.backlog.push_back((rest, payload));
        self.retry = Some(now + FULL);
    }
}

/// The pieces of a message for the receiver at place `at`.
fn segments(transmit: &Transmit, at: usize) -> Vec<Bytes> {
    let pieces = transmit.body.segments().iter();
    pieces
        .filter_map(|segment| match segment {
            Segment::Shared(piece) => Some(piece.clone()),
            Segment::Own(pieces) => pieces.get(at).cloned(),
        })
        .collect()
}
