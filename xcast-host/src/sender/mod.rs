//! The blocking sender.

mod cause;
pub(crate) mod core;
mod destination;
mod family;
pub mod liveness;
mod open_uplink;
mod outcome;
mod settings;
pub mod split;
mod statistics;
mod uplink;

use std::{
    io,
    net::{IpAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::core::{Core, Step};
pub use self::{
    cause::UnicastCause,
    destination::{Destination, Options, Unusable},
    outcome::{SendError, Sent, Unreached},
    settings::{PacketLimits, Settings},
    statistics::SenderStatistics,
    uplink::{RouterAddresses, Uplink},
};

/// Sends datagrams to many, by an ordinary UDP socket and an [`Uplink`](crate::Uplink).
///
/// Receivers get ordinary datagrams, and see the UDP socket's address and port as their source,
/// whichever way they came: replies arrive at that socket. A host with several addresses binds it
/// to the one that is meant.
///
/// No threads are involved: whether the router is still there is looked after while sending. A
/// sender that pauses for longer than an answer counts starts over with unicast, or waits with
/// [`wait_for_router`](Self::wait_for_router).
#[derive(Debug)]
pub struct Sender<S = UdpSocket>(Core<S>);

impl<S: AsFd> Sender<S> {
    /// A sender by this socket.
    ///
    /// # Errors
    ///
    /// The uplink contradicts itself, or the kernel does not say what the socket is bound to.
    pub fn new(socket: S, settings: Settings) -> io::Result<Self> {
        Core::new(socket, settings).map(Self)
    }

    /// Sends one message to everyone in the list.
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

    /// Sends one message with options of its own.
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

    /// Sends one message without waiting for anything, and without a word to the router: no probe
    /// is sent, and no answer taken in. For whoever sends in another program's stead.
    ///
    /// As long as a message could wait, the kernel is asked once; where it has no room, the rest of
    /// the list comes back in [`SendError::WouldBlock`]. Messages go by the router while its latest
    /// answer counts, so call [`tend`](Self::tend) now and then, at a time when asking is welcome.
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

    /// Looks after the router without waiting: takes its answers in, and asks again when it is time.
    /// Returns when that will be; `None` if it is never asked ([`Settings::probing`]).
    ///
    /// [`send`](Self::send) does this by itself; see
    /// [`try_send_with`](Self::try_send_with) for who has to.
    pub fn tend(&mut self) -> Option<Instant> {
        self.0.tend(Instant::now());
        self.0.next_probe()
    }

    /// Asks for the router and waits for its answer; whether there was one in time. Where uplink and
    /// socket have two families, for both.
    ///
    /// # Errors
    ///
    /// The kernel cannot wait.
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
