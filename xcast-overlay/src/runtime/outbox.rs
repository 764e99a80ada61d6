//! What a protocol has to say: messages to others, events to its owner.

use std::{collections::VecDeque, net::SocketAddr};

use bytes::Bytes;

use super::transmit::{Body, Mode, Transmit};

/// Messages and events in order, for [`Protocol`](super::Protocol)'s `poll` functions to hand out.
#[derive(Clone, Debug)]
pub struct Outbox<E> {
    transmits: VecDeque<Transmit>,
    events: VecDeque<E>,
}

impl<E> Default for Outbox<E> {
    fn default() -> Self {
        Self {
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }
}

impl<E> Outbox<E> {
    /// Sends the same message to all of a list: as one packet, if they are several. Nothing is sent to
    /// nobody.
    pub fn send(&mut self, to: impl Into<Vec<SocketAddr>>, message: impl Into<Bytes>) {
        let to = to.into();
        let mode = match to.len() {
            0 => return,
            1 => Mode::Unicast,
            _ => Mode::Shared,
        };
        let body = Body::shared(message);
        self.transmits.push_back(Transmit { to, body, mode });
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.transmits.is_empty()
    }

    /// Tells the owner.
    pub fn tell(&mut self, event: E) {
        self.events.push_back(event);
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<E> {
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_share_a_packet() {
        let mut outbox: Outbox<u8> = Outbox::default();
        let to = |port| SocketAddr::from(([192, 0, 2, 1], port));
        outbox.send([], "nothing");
        outbox.send([to(1)], "one");
        outbox.send([to(1), to(2)], "two");
        outbox.tell(7);
        let modes: Vec<Mode> = std::iter::from_fn(|| outbox.poll_transmit())
            .map(|transmit| transmit.mode)
            .collect();
        assert_eq!(modes, [Mode::Unicast, Mode::Shared]);
        assert_eq!((outbox.poll_event(), outbox.poll_event()), (Some(7), None));
    }
}
