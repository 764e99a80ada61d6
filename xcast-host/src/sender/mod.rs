//! A message's way: to [`core`], which splits its list by [`family`] and into [packets](mod@split),
//! and out by an [uplink](open_uplink) or as datagrams. [`Sender`] is the blocking front end.

mod cause;
pub(crate) mod core;
mod destination;
mod family;
mod in_flight;
pub mod liveness;
mod open_uplink;
mod outcome;
mod relay_link;
mod settings;
pub mod split;
mod statistics;
mod uplink;

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::core::{Core, Step};
pub use self::{
    cause::UnicastCause,
    destination::{Destination, Options, Unusable},
    outcome::{SendError, Sent, Unreached},
    relay_link::{RelayStatus, Reply},
    settings::{PacketLimits, Settings},
    statistics::SenderStatistics,
    uplink::{Relays, RouterAddresses, Uplink},
};

/// Sends one message to many destinations, by an ordinary UDP socket and an [`Uplink`].
///
/// Receivers get ordinary datagrams. Their source is the UDP socket's address and port, whether they
/// came by a router or not, so replies arrive at that socket. On a host with several addresses, bind
/// the socket to the one that is meant.
///
/// The socket may be owned ([`UdpSocket`]) or borrowed (`&UdpSocket`, or a
/// [`BorrowedFd`]); it is not changed: TTL and DSCP go with each datagram.
///
/// There are no threads: the sender asks whether the router is there while it sends. If it pauses
/// for longer than [`Probing::valid_for`](liveness::Probing::valid_for), it starts again with
/// unicast, unless it waits with [`wait_for_router`](Self::wait_for_router).
#[derive(Debug)]
pub struct Sender<S = UdpSocket>(Core<S>);

impl<S: AsFd> Sender<S> {
    /// A sender on this socket, which must be bound.
    ///
    /// # Errors
    ///
    /// The uplink contradicts itself (kind `InvalidInput`), or this is not a UDP socket.
    pub fn new(socket: S, settings: Settings) -> io::Result<Self> {
        Core::new(socket, settings).map(Self)
    }

    /// Sends one message, a payload in octets, to everyone in the list. Waits while the send buffer
    /// is full.
    ///
    /// # Errors
    ///
    /// See [`SendError`]; it names the destination, and says whether the others were served.
    pub fn send<D: Into<Destination> + Copy>(
        &mut self,
        to: &[D],
        payload: &[u8],
    ) -> Result<Sent, SendError> {
        let options = self.0.settings.options.clone();
        self.send_with(&options, to, payload)
    }

    /// Sends one message with these options instead of those in the [`Settings`].
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn send_with<D: Into<Destination> + Copy>(
        &mut self,
        options: &Options,
        to: &[D],
        payload: &[u8],
    ) -> Result<Sent, SendError> {
        self.0.begin(Instant::now(), to, payload.len(), options)?;
        loop {
            match self.0.step(payload) {
                Step::Done(outcome) => return outcome.map_err(|error| error.locate(to)),
                Step::Blocked => {
                    wait(self.0.blocked_on(), PollFlags::POLLOUT, None)?;
                }
            }
        }
    }

    /// Sends one message without ever waiting, and without probing the router. This is for code that
    /// sends on behalf of another program.
    ///
    /// Where the send buffer is full, the rest of the list comes back in [`SendError::WouldBlock`].
    /// Messages go by the router while its latest answer counts; call [`tend`](Self::tend) from time
    /// to time to keep that up to date.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn try_send_with<D: Into<Destination> + Copy>(
        &mut self,
        options: &Options,
        to: &[D],
        payload: &[u8],
    ) -> Result<Sent, SendError> {
        let now = Instant::now();
        self.0.begin_only(now, to, payload.len(), options)?;
        let outcome = match self.0.step(payload) {
            Step::Done(outcome) => outcome,
            Step::Blocked => Err(self.0.give_up()),
        };
        outcome.map_err(|error| error.locate(to))
    }

    /// Takes in answers of the router, and probes it again if that is due. Never waits. Returns when
    /// the next probe is due; `None` if there will be none ([`Settings::probing`]).
    ///
    /// [`send`](Self::send) does this by itself; [`try_send_with`](Self::try_send_with) does not.
    pub fn tend(&mut self) -> Option<Instant> {
        self.0.tend(Instant::now());
        self.0.next_probe()
    }

    /// Probes the router and waits for its answer. Returns whether it came in time. Where uplink and
    /// socket have two families, waits for both.
    ///
    /// # Errors
    ///
    /// `poll` failed.
    pub fn wait_for_router(&mut self, timeout: Duration) -> io::Result<bool> {
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
            let left = next.saturating_duration_since(now);
            match self.0.answer_from(now) {
                Some(fd) => wait(fd, PollFlags::POLLIN, Some(left))?,
                None => std::thread::sleep(left),
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

    /// How messages to this address, and others of its family, leave at this time. Opens the uplink if it is
    /// not open.
    pub fn uplink_for(&mut self, address: IpAddr) -> split::UplinkState {
        self.0.uplink_for(address, Instant::now())
    }

    /// The IP source of Xcast packets to this address, and to others of its family, while they go by a
    /// router; `None` while they do not, or before the first.
    ///
    /// Where the socket is bound to an address, that is the source. Otherwise the kernel chooses it
    /// towards the router, and may choose another one for a datagram to a certain destination.
    pub fn source_for(&self, address: IpAddr) -> Option<IpAddr> {
        self.0.source_for(address, Instant::now())
    }

    /// Whether the uplink for this address, and for others of its family, has room in its send buffer: at least half of it.
    /// Then [`try_send_with`](Self::try_send_with) gives nothing back for want of room.
    pub fn has_room(&self, address: IpAddr) -> bool {
        self.0.has_room(address)
    }

    /// Says where packets will go, before the first message does. It matters to a socket that is bound to no address, on
    /// a router's host: the source is the one towards the first address that is named, for each family.
    pub fn go_toward(&mut self, address: IpAddr) {
        self.0.go_toward(address);
    }

    /// The address and port that receivers of Xcast packets see, for this address and others of its family: those of
    /// the socket, of a NAT, or of a relay. `None` while no packets go by a router.
    pub fn seen_from(&self, address: IpAddr) -> Option<SocketAddr> {
        self.0.seen_from(address, Instant::now())
    }

    /// The next datagram that came to an address and port that receivers see and that are not the socket's: by a relay
    /// that sends from its own address, or through a NAT. Taken in by [`tend`](Self::tend) and by sending; at most 256 wait,
    /// and the oldest give way.
    pub fn take_reply(&mut self) -> Option<Reply> {
        self.0.take_reply()
    }

    /// What is known of the relays of an [`Uplink::Relays`], once they are asked.
    pub fn relays(&self) -> Vec<RelayStatus> {
        self.0.relays(Instant::now())
    }

    /// What was done so far.
    pub fn statistics(&self) -> &SenderStatistics {
        &self.0.statistics
    }

    /// The UDP socket, where replies arrive.
    pub fn socket(&self) -> &S {
        &self.0.socket
    }
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags, timeout: Option<Duration>) -> io::Result<()> {
    let timeout = match timeout {
        None => PollTimeout::NONE,
        // Rounded up, or the caller would turn round in circles until the time has come.
        Some(timeout) => {
            PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        }
    };
    match poll(&mut [PollFd::new(fd, flags)], timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
