//! Messages to lists of receivers.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};

/// A message, and who is to get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The receivers, at least one and each once. An IPv4 address is never written as an
    /// IPv4-mapped IPv6 address.
    pub to: Vec<SocketAddr>,
    /// What they get.
    pub body: Body,
    /// Whether they may be served by one packet.
    pub mode: Mode,
}

impl Transmit {
    /// The datagram for the receiver at place `at` in the list.
    pub fn datagram(&self, at: usize) -> Bytes {
        self.body.datagram(at)
    }
}

/// How a message may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As one packet where the transport can.
    Shared,
    /// As one unicast datagram for each receiver: a shared packet may have been lost whole.
    Unicast,
}

/// How messages to several leave that [may share a packet](Mode::Shared).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WayOut {
    /// As one packet.
    Shared {
        /// Octets of headers in front of each such packet: none, or those of UDP to the first router.
        overhead_octets: usize,
    },
    /// As a datagram for each receiver: no router answers.
    Unicast,
}

impl Default for WayOut {
    fn default() -> Self {
        Self::Shared { overhead_octets: 0 }
    }
}

/// Content of a message, in pieces that all receivers share and pieces of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    segments: Vec<Segment>,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// The same for all receivers.
    Shared(Bytes),
    /// One for each receiver, in the order of the list.
    Own(Vec<Bytes>),
}

impl Body {
    /// A message of these pieces. Each [`Segment::Own`] has as many pieces as there are receivers.
    pub fn new(segments: Vec<Segment>) -> Self {
        Self { segments }
    }

    /// A message that is the same for all.
    pub fn shared(content: impl Into<Bytes>) -> Self {
        Self::new(vec![Segment::Shared(content.into())])
    }

    /// Its pieces, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether all receivers get the same octets, so that receivers need to know nothing to be
    /// served by one packet.
    pub fn is_same_for_all(&self) -> bool {
        self.segments.iter().all(|segment| match segment {
            Segment::Shared(_) => true,
            Segment::Own(pieces) => pieces.windows(2).all(|pair| pair[0] == pair[1]),
        })
    }

    /// The datagram for the receiver at place `at`.
    pub fn datagram(&self, at: usize) -> Bytes {
        if let [Segment::Shared(content)] = self.segments.as_slice() {
            return content.clone();
        }
        let mut datagram = BytesMut::new();
        for segment in &self.segments {
            match segment {
                Segment::Shared(content) => datagram.extend_from_slice(content),
                Segment::Own(pieces) => {
                    datagram.extend_from_slice(pieces.get(at).map_or(&[][..], Bytes::as_ref));
                }
            }
        }
        datagram.freeze()
    }

    /// The same message for some of its receivers: those at these places.
    pub fn select(&self, places: &[usize]) -> Self {
        Self::new(
            self.segments
                .iter()
                .map(|segment| match segment {
                    Segment::Shared(content) => Segment::Shared(content.clone()),
                    Segment::Own(pieces) => Segment::Own(
                        places
                            .iter()
                            .filter_map(|at| pieces.get(*at).cloned())
                            .collect(),
                    ),
                })
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_pieces_follow_their_receivers() {
        let body = Body::new(vec![
            Segment::Shared("a".into()),
            Segment::Own(vec!["1".into(), "22".into(), "333".into()]),
            Segment::Shared("z".into()),
        ]);
        assert_eq!(body.datagram(1), "a22z");
        let some = body.select(&[2, 0]);
        assert_eq!(some.datagram(0), "a333z");
        assert_eq!(some.datagram(1), "a1z");
        assert!(!body.is_same_for_all());
        assert!(Body::shared("a").is_same_for_all());
    }
}
