//! The asynchronous sender.

use std::{
    io,
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use ::tokio::{io::Interest, time};

use super::ready::ready;
use crate::sender::{
    Destination, Options, SendError, SenderStatistics, Sent, Settings, UnicastCause,
    core::{Core, Step},
};

/// Sends one message to many destinations, like the blocking [`Sender`](crate::Sender).
///
/// To receive replies, give a [`Receiver`](super::Receiver) a clone of the socket
/// ([`UdpSocket::try_clone`]).
#[derive(Debug)]
pub struct Sender(Core<UdpSocket>);

impl Sender {
    /// A sender on this socket, which must be bound. It may be in blocking mode.
    ///
    /// # Errors
    ///
    /// The uplink contradicts itself (kind `InvalidInput`).
    pub fn new(socket: UdpSocket, settings: Settings) -> io::Result<Self> {
        Core::new(socket, settings).map(Self)
    }

    /// Sends one message to everyone in the list.
    ///
    /// A future that is dropped may have served a part of the list.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub async fn send<D: Into<Destination> + Copy>(
        &mut self,
        to: &[D],
        payload: &[u8],
    ) -> Result<Sent, SendError> {
        let options = self.0.settings.options.clone();
        self.send_with(&options, to, payload).await
    }

    /// Sends one message with these options instead of those in the [`Settings`].
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub async fn send_with<D: Into<Destination> + Copy>(
        &mut self,
        options: &Options,
        to: &[D],
        payload: &[u8],
    ) -> Result<Sent, SendError> {
        self.0.begin(Instant::now(), to, payload.len(), options)?;
        loop {
            match self.0.step(payload) {
                Step::Done(outcome) => return outcome.map_err(|error| error.locate(to)),
                Step::Blocked => ready(self.0.blocked_on(), Interest::WRITABLE).await?,
            }
        }
    }

    /// Probes the router and waits for its answer. Returns whether it came in time. Where uplink and
    /// socket have two families, waits for both.
    ///
    /// # Errors
    ///
    /// The runtime cannot wait.
    pub async fn wait_for_router(&mut self, timeout: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            let now = Instant::now();
            self.0.tend(now);
            if self.0.check(now).is_ok() {
                return Ok(true);
            }
            if now >= deadline || self.0.check(now) == Err(UnicastCause::Configured) {
                return Ok(false);
            }
            let next = self
                .0
                .deadline(now)
                .map_or(deadline, |next| next.min(deadline));
            match self.0.answer_from(now) {
                Some(fd) => {
                    let answer = ready(fd, Interest::READABLE);
                    if let Ok(outcome) = time::timeout_at(next.into(), answer).await {
                        outcome?;
                    }
                }
                None => time::sleep_until(next.into()).await,
            }
        }
    }

    /// Whether messages go by a router at this time, in every family that uplink and socket have.
    ///
    /// # Errors
    ///
    /// Why they do not.
    pub fn router(&self) -> Result<(), UnicastCause> {
        self.0.check(Instant::now())
    }

    /// Whether messages to this address, or others of its family, go by a router at this time.
    ///
    /// # Errors
    ///
    /// Why they do not.
    pub fn router_for(&self, address: IpAddr) -> Result<(), UnicastCause> {
        self.0.check_for(address, Instant::now())
    }

    /// What was done so far.
    pub fn statistics(&self) -> &SenderStatistics {
        &self.0.statistics
    }

    /// The UDP socket, where replies arrive.
    pub fn socket(&self) -> &UdpSocket {
        &self.0.socket
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.0.settings
    }
}
