//! A host's messages on their way out: as `xcast_overlay::net` has them, without sockets.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;
use xcast_host::{
    Destination, Options, PacketLimits, UnicastCause,
    envelope::Tag,
    policy::ArrivalOrder,
    queue::{Message, Queue, QueueLimits, Refusal},
    split::{Delivery, UplinkState, split},
};
use xcast_overlay::runtime::{Mode, Segment, Transmit};

use super::settings::Access;
use crate::{address, topology::HostId};

/// A packet that leaves, or a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// For whom: several share one packet.
    pub to: Vec<HostId>,
    /// What is in it.
    pub payload: Bytes,
}

/// What all outboxes of a world have in common.
#[derive(Clone, Debug)]
pub struct OutboxSettings {
    pub combining: QueueLimits,
    pub envelopes: bool,
    pub options: Options,
    pub limits: PacketLimits,
}

/// A host's messages on their way out.
#[derive(Debug, Default)]
pub struct Outbox {
    /// There while something waits in it.
    queue: Option<Box<Queue>>,
}

/// The tag by which a host finds its part of an envelope.
pub fn tag(host: HostId) -> Tag {
    Tag(host + 1)
}

impl Outbox {
    /// Takes a message.
    pub fn push(
        &mut self,
        settings: &OutboxSettings,
        uplink: UplinkState,
        now: Instant,
        transmit: Transmit,
        leaving: &mut Vec<Leaving>,
    ) {
        match transmit.mode {
            Mode::Unicast => {
                for (at, to) in transmit.to.iter().enumerate() {
                    leaving.extend(address::host(*to).map(|host| Leaving {
                        to: vec![host],
                        payload: transmit.datagram(at),
                    }));
                }
            }
            Mode::Shared if transmit.body.is_same_for_all() => {
                let segments = segments(&transmit, 0);
                let message = Message::to_many(transmit.to, segments);
                self.queue_up(settings, uplink, now, message, leaving);
            }
            Mode::Shared => {
                for (at, to) in transmit.to.iter().enumerate() {
                    if settings.envelopes
                        && let Some(host) = address::host(*to)
                    {
                        let queue = self.queue(settings);
                        // Hosts have tags of their own.
                        let _ = queue.opt_in(*to, tag(host));
                    }
                    let message = Message::to_one(*to, segments(&transmit, at));
                    self.queue_up(settings, uplink, now, message, leaving);
                }
            }
        }
    }

    /// Hands out what is due.
    pub fn work(
        &mut self,
        settings: &OutboxSettings,
        uplink: UplinkState,
        now: Instant,
        leaving: &mut Vec<Leaving>,
    ) {
        let Some(queue) = &mut self.queue else {
            return;
        };
        while let Some(packet) = queue.poll(now) {
            if matches!(uplink, UplinkState::Up { .. }) {
                let to: Vec<_> = packet.destinations().collect();
                send(settings, uplink, &to, packet.payload(), leaving);
            } else {
                // Each receiver would get all of an envelope for nothing.
                for (to, payload) in packet.apart() {
                    send(settings, uplink, &to, payload, leaving);
                }
            }
        }
        if queue.is_empty() {
            self.queue = None;
        }
    }

    /// When to [`work`](Self::work) next.
    pub fn deadline(&self) -> Option<Instant> {
        self.queue.as_ref()?.deadline()
    }

    fn queue(&mut self, settings: &OutboxSettings) -> &mut Queue {
        self.queue
            .get_or_insert_with(|| Box::new(Queue::new(settings.combining)))
    }

    fn queue_up(
        &mut self,
        settings: &OutboxSettings,
        uplink: UplinkState,
        now: Instant,
        message: Message,
        leaving: &mut Vec<Leaving>,
    ) {
        let Err(refused) = self.queue(settings).push(now, message) else {
            return;
        };
        if refused.reason == Refusal::Full {
            self.queue(settings).flush();
            self.work(settings, uplink, now, leaving);
        }
        if let Err(refused) = self.queue(settings).push(now, refused.message) {
            let Message {
                destinations,
                segments,
            } = refused.message;
            send(
                settings,
                uplink,
                &destinations,
                segments.concat().into(),
                leaving,
            );
        }
    }
}

/// What a sender makes of a message.
fn send(
    settings: &OutboxSettings,
    uplink: UplinkState,
    to: &[SocketAddr],
    payload: Bytes,
    leaving: &mut Vec<Leaving>,
) {
    // Nobody has other addresses: what is sent there goes nowhere.
    let known = to.iter().filter(|to| address::host(**to).is_some());
    let list: Vec<Destination> = known.map(|to| Destination::from(*to)).collect();
    let Ok(chunks) = split(
        &list,
        payload.len(),
        [uplink; 2],
        &settings.options,
        &settings.limits,
        &ArrivalOrder,
    ) else {
        return;
    };
    for chunk in chunks {
        let hosts = chunk.entries.iter().filter_map(|entry| {
            let address = SocketAddr::new(entry.address, entry.port);
            address::host(address)
        });
        let packet = |to| Leaving {
            to,
            payload: payload.clone(),
        };
        match chunk.delivery {
            Delivery::Xcast => leaving.push(packet(hosts.collect())),
            Delivery::Unicast(_) => leaving.extend(hosts.map(|host| packet(vec![host]))),
        }
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

/// The state of an uplink of this family for a source with this address.
pub fn uplink_state(source: SocketAddr, access: Access, has_router: bool) -> UplinkState {
    match access {
        Access::Unicast => UplinkState::Down(UnicastCause::Configured),
        Access::Udp if !has_router => UplinkState::Down(UnicastCause::NoAnswer),
        Access::Udp => UplinkState::Up {
            overhead_octets: xcast_host::packet::datagram_overhead(source.is_ipv6()),
            source: source.ip(),
        },
        Access::Native => UplinkState::Up {
            overhead_octets: 0,
            source: source.ip(),
        },
    }
}
