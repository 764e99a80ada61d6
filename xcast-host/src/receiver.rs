//! The blocking receiver.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    ops::Range,
};

use tracing::{debug, trace};
use xcast_common::wire::origin;

use crate::{
    envelope::{Envelope, MAGIC, Tag},
    statistics::statistics,
};

/// Longest datagram.
const BUFFER: usize = 1 << 16;

/// A message, as it was given to its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// Address and port of the sender; that of IPv4 also where an IPv6 socket received it.
    pub from: SocketAddr,
    /// The message.
    pub payload: &'a [u8],
    /// Whether it came in an envelope, beside messages of others.
    pub combined: bool,
    /// The relay that sent it from its own address, in an envelope; `from` is then the sender as that relay sees it.
    pub relay: Option<SocketAddr>,
}

statistics! {
    /// What a receiver has got.
    ReceiverStatistics {
        /// Ordinary datagrams.
        plain,
        /// Messages taken out of envelopes.
        combined,
        /// Envelopes without a message for this receiver: passed over.
        not_for_us,
        /// Messages taken out of envelopes of relays.
        relayed,
        /// Datagrams that begin like an envelope but are none: given out as ordinary ones.
        like_an_envelope,
    }
}

/// Takes messages out of datagrams: what blocking and asynchronous receivers share.
#[derive(Debug)]
pub(crate) struct Opener {
    pub tag: Option<Tag>,
    /// Whose envelopes with an origin are opened.
    pub relays: Vec<SocketAddr>,
    pub datagram: Vec<u8>,
    message: Vec<u8>,
    pub statistics: ReceiverStatistics,
}

impl Opener {
    pub fn new(tag: Option<Tag>) -> Self {
        Self {
            tag,
            relays: Vec::new(),
            datagram: vec![0; BUFFER],
            message: Vec::new(),
            statistics: ReceiverStatistics::default(),
        }
    }

    /// Opens what came into `datagram`; `None` if there is nothing in it for this receiver.
    /// [`received`](Self::received) then has the message.
    pub fn open(&mut self, from: SocketAddr, len: usize) -> Option<Found> {
        let octets = &self.datagram[..len];
        let is_relay = self.relays.contains(&canonical(from));
        let origin = origin::decode(octets).filter(|_| is_relay);
        // What a relay sends may be a combined message.
        let (origin, range) = match origin {
            Some((origin, message)) => (Some(origin), len - message.len()..len),
            None => (None, 0..len),
        };
        self.statistics.relayed += u64::from(origin.is_some());
        let found = |place| Some(Found { origin, place });
        let octets = &octets[range.clone()];
        let Some(tag) = self.tag.filter(|_| octets.starts_with(&MAGIC)) else {
            self.statistics.plain += u64::from(origin.is_none());
            return found(Place::Datagram(range));
        };
        match Envelope::parse(octets) {
            Ok(envelope) => {
                self.message.clear();
                if envelope.extract(tag, &mut self.message) {
                    self.statistics.combined += 1;
                    trace!(%from, octets = self.message.len(), "message from an envelope");
                    found(Place::Combined)
                } else {
                    self.statistics.not_for_us += 1;
                    debug!(%from, %tag, "an envelope without a message for us");
                    None
                }
            }
            Err(error) => {
                self.statistics.like_an_envelope += 1;
                debug!(%from, %error, "an ordinary datagram that begins like an envelope");
                found(Place::Datagram(range))
            }
        }
    }

    /// What was found.
    pub fn received(&self, from: SocketAddr, found: Found) -> Received<'_> {
        let (payload, combined) = match found.place {
            Place::Datagram(range) => (&self.datagram[range], false),
            Place::Combined => (&self.message[..], true),
        };
        let from = canonical(from);
        Received {
            from: found.origin.unwrap_or(from),
            payload,
            combined,
            relay: found.origin.map(|_| from),
        }
    }
}

/// The address of IPv4 that a socket of IPv6 has for ::ffff:192.0.2.1.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, address.port()).into(),
        IpAddr::V6(_) => address,
    }
}

/// A message that was found in a datagram.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Its sender, if a relay says who that is.
    origin: Option<SocketAddr>,
    place: Place,
}

/// Where a message is.
#[derive(Clone, Debug)]
enum Place {
    /// These octets of the datagram.
    Datagram(Range<usize>),
    /// It was in an envelope, and stands by itself now.
    Combined,
}

/// Receives messages by an ordinary UDP socket, in whatever form they come.
///
/// Messages sent as Xcast arrive as ordinary datagrams, for which any socket will do. What this adds
/// is opening the envelopes of senders that [combine](crate::queue) messages; a receiver gets those
/// only from senders to which it gave its [tag](Self::tag).
#[derive(Debug)]
pub struct Receiver {
    socket: UdpSocket,
    opener: Opener,
}

impl Receiver {
    /// A receiver that opens envelopes with this tag in them; without a tag, one that takes every
    /// datagram as it is.
    pub fn new(socket: UdpSocket, tag: Option<Tag>) -> Self {
        let opener = Opener::new(tag);
        Self { socket, opener }
    }

    /// Also opens envelopes of these relays, which send messages from their own address ([`SourceAddress::Enveloped`]): given with their
    /// ports of Xcast inside UDP. Only relays that the receiver trusts: their word is taken for who the sender is. To others the
    /// same datagram is an ordinary one.
    ///
    /// [`SourceAddress::Enveloped`]: crate::relay::SourceAddress::Enveloped
    #[must_use]
    pub fn from_relays(mut self, relays: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.opener.relays = relays.into_iter().collect();
        self
    }

    /// The next message. Waits for it, as long as the socket's own read timeout allows.
    ///
    /// # Errors
    ///
    /// What the socket says, its timeout included.
    pub fn receive(&mut self) -> io::Result<Received<'_>> {
        loop {
            let (len, from) = self.socket.recv_from(&mut self.opener.datagram)?;
            if let Some(found) = self.opener.open(from, len) {
                return Ok(self.opener.received(from, found));
            }
        }
    }

    /// What to give senders that may combine messages for this receiver.
    pub fn tag(&self) -> Option<Tag> {
        self.opener.tag
    }

    /// What has come so far.
    pub fn statistics(&self) -> &ReceiverStatistics {
        &self.opener.statistics
    }

    /// The socket.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }
}
