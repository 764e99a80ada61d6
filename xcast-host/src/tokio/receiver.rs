//! The asynchronous receiver.

use std::{io, net::SocketAddr};

use ::tokio::net::UdpSocket;

use crate::{
    envelope::Tag,
    receiver::{Opener, Received, ReceiverStatistics},
};

/// Receives ordinary datagrams and combined messages alike, like the blocking
/// [`Receiver`](crate::Receiver).
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

    /// Also opens envelopes of these relays: see [`Receiver::from_relays`](crate::Receiver::from_relays).
    #[must_use]
    pub fn from_relays(mut self, relays: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.opener.relays = relays.into_iter().collect();
        self
    }

    /// The next message. A future that is dropped has lost none.
    ///
    /// # Errors
    ///
    /// What the socket says.
    pub async fn receive(&mut self) -> io::Result<Received<'_>> {
        loop {
            let (len, from) = self.socket.recv_from(&mut self.opener.datagram).await?;
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
