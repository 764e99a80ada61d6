//! The kernel's side of route synchronisation: netlink sockets and nothing else.
//!
//! One thread has one socket for everything: it subscribes, then dumps, then follows. What changes
//! during a dump is announced on the same socket, so dump and changes come in the order in which they
//! happened. When the socket's buffer overflows the kernel says so, and everything is dumped again.
//! Events go through a bounded channel. If nobody takes them, a backlog grows up to a bound, with one event for each
//! neighbour; then the thread waits, and the buffer overflows.

use std::{
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    thread,
    time::Duration,
};

use netlink_packet_core::{
    Emitable as _, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkBuffer, NetlinkHeader, parse_i32,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt},
};
use thiserror::Error;
use tokio::sync::mpsc::{self, error::TrySendError};
use tracing::{debug, error, warn};

use super::{backlog::Backlog, event::KernelEvent, parse};

/// Batches of events under way between the netlink thread and its consumer. Few: what waits here is not shortened
/// any more.
const CHANNEL_BATCHES: usize = 8;
/// How long a consumer that has no room for more is given until it is tried again, in milliseconds.
const PAUSE_FOR_CONSUMER_MS: u8 = 2;
/// Longer than any message the kernel sends, in octets.
const MESSAGE_LEN: usize = 256 * 1024;
/// How often a dump may be interrupted by changes before it is taken as it is. Whatever it lacks was
/// announced while it ran.
const PATIENCE: u32 = 10;
/// Pause before everything is dumped again, so that a storm of changes can pass.
const PAUSE_AFTER_OVERRUN: Duration = Duration::from_millis(20);
/// Pause after the socket failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Why the kernel could not be followed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// There is no netlink socket to be had.
    #[error("cannot open a netlink socket for route synchronisation")]
    Open(#[source] io::Error),
    /// The socket cannot listen to the kernel's changes.
    #[error("cannot subscribe to netlink group {group}")]
    Subscribe {
        /// The group (`RTNLGRP_*`).
        group: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The thread that follows the kernel could not be started.
    #[error("cannot start the netlink thread")]
    Thread(#[source] io::Error),
}

/// Properties of the netlink connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetlinkOptions {
    /// Receive buffer, in octets. Default: 32 MiB, enough for 100,000 routes that change at once; when
    /// it overflows, everything is dumped again. Beyond `net.core.rmem_max` it takes CAP_NET_ADMIN.
    pub receive_buffer_bytes: usize,
}

impl Default for NetlinkOptions {
    fn default() -> Self {
        Self {
            receive_buffer_bytes: 32 << 20,
        }
    }
}

/// A connection to the kernel's routing, in the network namespace of the thread that started it.
///
/// Dropping it ends the thread that follows the kernel.
#[derive(Debug)]
pub struct Netlink {
    /// A byte asks for a resynchronisation, the end of the stream for the thread's end.
    control: UnixStream,
}

impl Netlink {
    /// Starts following the kernel. Events come in batches, first a full dump.
    ///
    /// Must be called on a thread in the network namespace to follow.
    ///
    /// # Errors
    ///
    /// If a socket or the thread cannot be had.
    pub fn start(
        options: NetlinkOptions,
    ) -> Result<(Self, mpsc::Receiver<Vec<KernelEvent>>), NetlinkError> {
        let (control, controlled) = UnixStream::pair().map_err(NetlinkError::Open)?;
        let (sender, receiver) = mpsc::channel(CHANNEL_BATCHES);
        let follower = Follower::new(options, controlled, sender)?;
        thread::Builder::new()
            .name("netlink".to_owned())
            .spawn(move || follower.run())
            .map_err(NetlinkError::Thread)?;
        Ok((Self { control }, receiver))
    }

    /// Has everything dumped again, should there be reason to doubt what is known.
    pub fn resync(&self) {
        if let Err(error) = (&self.control).write_all(&[0]) {
            debug!(%error, "the netlink thread is gone");
        }
    }
}

/// Why following the kernel was interrupted.
enum Interruption {
    /// Nobody wants events any more.
    Stop,
    /// Everything has to be dumped again: it was asked for, or a dump is inconsistent.
    Resync,
    /// The receive buffer overflowed.
    Overrun,
    Failed(io::Error),
}

type Followed<T> = Result<T, Interruption>;

/// The thread that follows the kernel.
struct Follower {
    socket: Socket,
    /// The socket's netlink address.
    port: u32,
    control: UnixStream,
    events: mpsc::Sender<Vec<KernelEvent>>,
    backlog: Backlog,
    buffer: Vec<u8>,
    sequence: u32,
    /// Number of dumps that ended without an error.
    known: u64,
}

impl Follower {
    fn new(
        options: NetlinkOptions,
        control: UnixStream,
        events: mpsc::Sender<Vec<KernelEvent>>,
    ) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        let address = socket.bind_auto().map_err(NetlinkError::Open)?;
        set_receive_buffer(&socket, options.receive_buffer_bytes);
        if let Err(error) = socket.set_netlink_get_strict_chk(true) {
            debug!(%error, "kernel before 4.20: dumps are not checked strictly");
        }
        for group in [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_NEIGH,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV4_NETCONF,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_IPV6_NETCONF,
            libc::RTNLGRP_IPV6_RULE,
            libc::RTNLGRP_NEXTHOP,
        ] {
            match socket.add_membership(group) {
                Err(error) if group == libc::RTNLGRP_NEXTHOP => {
                    debug!(%error, "kernel before 5.3: there are no nexthop objects");
                }
                result => {
                    result.map_err(|source| NetlinkError::Subscribe { group, source })?;
                }
            }
        }
        Ok(Self {
            socket,
            port: address.port_number(),
            control,
            events,
            backlog: Backlog::default(),
            buffer: Vec::with_capacity(MESSAGE_LEN),
            sequence: 0,
            known: 0,
        })
    }

    fn run(mut self) {
        let mut patience = PATIENCE;
        loop {
            let interruption = match self.resync(patience > 0) {
                Ok(()) => {
                    patience = PATIENCE;
                    self.follow()
                }
                Err(interruption) => interruption,
            };
            match interruption {
                Interruption::Stop => return,
                Interruption::Resync => patience = patience.saturating_sub(1),
                Interruption::Overrun => {
                    warn!("netlink receive buffer overflowed: resynchronising routes");
                    thread::sleep(PAUSE_AFTER_OVERRUN);
                    self.drain();
                }
                Interruption::Failed(error) => {
                    error!(%error, "following the kernel's routes failed: starting over");
                    thread::sleep(PAUSE_AFTER_FAILURE);
                    self.drain();
                }
            }
        }
    }

    /// Dumps everything, in an order in which nothing is mentioned before what it depends on.
    fn resync(&mut self, insist: bool) -> Followed<()> {
        /// Without a family filter, as groups of nexthops have none.
        const UNSPEC: u8 = libc::AF_UNSPEC as u8;
        const INET: u8 = libc::AF_INET as u8;
        const INET6: u8 = libc::AF_INET6 as u8;
        self.push(KernelEvent::ResyncBegin)?;
        let mut consistent = true;
        consistent &= self.dump(libc::RTM_GETLINK, &link_request(), false)?;
        consistent &= self.dump(libc::RTM_GETNETCONF, &[INET, 0, 0, 0], true)?;
        consistent &= self.dump(libc::RTM_GETNETCONF, &[INET6, 0, 0, 0], true)?;
        consistent &= self.dump(libc::RTM_GETADDR, &request::<8>(INET), false)?;
        consistent &= self.dump(libc::RTM_GETADDR, &request::<8>(INET6), true)?;
        consistent &= self.dump(libc::RTM_GETNEIGH, &request::<12>(INET), false)?;
        consistent &= self.dump(libc::RTM_GETNEIGH, &request::<12>(INET6), true)?;
        for (family, ipv6) in [(INET, false), (INET6, true)] {
            let known = self.known;
            consistent &= self.dump(libc::RTM_GETRULE, &request::<12>(family), true)?;
            if self.known > known {
                self.push(KernelEvent::RulesKnown { ipv6 })?;
            }
        }
        consistent &= self.dump(parse::message::GET_NEXT_HOP, &request::<8>(UNSPEC), true)?;
        consistent &= self.dump(libc::RTM_GETROUTE, &request::<12>(INET), false)?;
        consistent &= self.dump(libc::RTM_GETROUTE, &request::<12>(INET6), true)?;
        if !consistent && insist {
            debug!("a dump was interrupted by changes: dumping again");
            return Err(Interruption::Resync);
        }
        self.push(KernelEvent::ResyncEnd)
    }

    /// Forwards changes until something interrupts.
    fn follow(&mut self) -> Interruption {
        loop {
            if let Err(interruption) = self.receive().and_then(|()| self.take(None).map(|_| ())) {
                return interruption;
            }
        }
    }

    /// Dumps one kind of object; says whether nothing changed meanwhile.
    fn dump(&mut self, message_type: u16, body: &[u8], optional: bool) -> Followed<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.length = (header.buffer_len() + body.len()) as u32;
        header.message_type = message_type;
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = self.sequence;
        let mut request = vec![0; header.buffer_len()];
        header.emit(&mut request);
        request.extend_from_slice(body);
        let kernel = SocketAddr::new(0, 0);
        let sent = self.socket.send_to(&request, &kernel, 0);
        sent.map_err(Interruption::Failed)?;
        let mut consistent = true;
        loop {
            self.receive()?;
            let progress = self.take(Some(self.sequence))?;
            consistent &= progress.consistent;
            match progress.end {
                None => {}
                Some(0) => {
                    self.known += 1;
                    return Ok(consistent);
                }
                Some(code) => {
                    let error = io::Error::from_raw_os_error(code);
                    if !optional {
                        return Err(Interruption::Failed(error));
                    }
                    debug!(%error, message_type, "the kernel does not dump these");
                    return Ok(consistent);
                }
            }
        }
    }

    /// Takes in the messages in the buffer; those numbered `dump` belong to the dump under way.
    fn take(&mut self, dump: Option<u32>) -> Followed<Progress> {
        let mut progress = Progress {
            consistent: true,
            end: None,
        };
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            let message = match NetlinkBuffer::new_checked(rest) {
                Ok(message) => message,
                Err(error) => {
                    warn!(%error, "netlink message without a proper header: resynchronising routes");
                    return Err(Interruption::Overrun);
                }
            };
            let len = message.length() as usize;
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            let ours =
                dump == Some(message.sequence_number()) && message.port_number() == self.port;
            if ours {
                progress.consistent &= message.flags() & NLM_F_DUMP_INTR == 0;
            }
            match message.message_type() {
                NLMSG_DONE | NLMSG_ERROR if ours => {
                    let code = message
                        .payload()
                        .get(..4)
                        .and_then(|code| parse_i32(code).ok());
                    progress.end = Some(code.unwrap_or_default().saturating_neg());
                }
                message_type => {
                    let payload = message.payload();
                    match parse::event(message_type, message.flags(), ours, payload) {
                        Ok(event) => event.into_iter().for_each(|event| self.backlog.push(event)),
                        Err(error) => {
                            debug!(%error, message_type, "netlink message not understood");
                        }
                    }
                }
            }
        }
        self.hand_on_if_due()?;
        Ok(progress)
    }

    /// Waits for a message. What was taken in so far goes out before there is a wait.
    fn receive(&mut self) -> Followed<()> {
        loop {
            self.buffer.clear();
            let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
            match self.socket.recv_from(&mut self.buffer, flags) {
                Ok((len, _)) if len > self.buffer.len() => {
                    warn!(len, "netlink message too long: resynchronising routes");
                    return Err(Interruption::Overrun);
                }
                // Other processes cannot write here, short of CAP_NET_ADMIN; the kernel is port 0.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok(_) => return Ok(()),
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN) => {
                        let timeout = match self.hand_on()? {
                            true => PollTimeout::NONE,
                            false => PollTimeout::from(PAUSE_FOR_CONSUMER_MS),
                        };
                        self.wait(timeout)?;
                    }
                    Some(Errno::EINTR) => {}
                    Some(Errno::ENOBUFS) => return Err(Interruption::Overrun),
                    _ => return Err(Interruption::Failed(error)),
                },
            }
        }
    }

    fn wait(&mut self, timeout: PollTimeout) -> Followed<()> {
        let mut fds = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(Interruption::Failed(error.into())),
        }
        if !fds[1].any().unwrap_or_default() {
            return Ok(());
        }
        match self.control.read(&mut [0; 64]) {
            Ok(1..) => Err(Interruption::Resync),
            Ok(0) | Err(_) => Err(Interruption::Stop),
        }
    }

    /// Throws away all that has been received. Until the buffer is empty once, the kernel drops what it
    /// has to say without a word.
    fn drain(&mut self) {
        self.backlog.clear();
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    fn push(&mut self, event: KernelEvent) -> Followed<()> {
        self.backlog.push(event);
        self.hand_on_if_due()
    }

    /// Hands events on if there are many. Waits only if there are too many.
    fn hand_on_if_due(&mut self) -> Followed<()> {
        if self.backlog.is_due() && !self.hand_on()? {
            self.backlog.shorten();
        }
        while self.backlog.is_full() {
            let sent = self.events.blocking_send(self.backlog.next_batch());
            sent.map_err(|_| Interruption::Stop)?;
        }
        Ok(())
    }

    /// Hands on what the consumer has room for; says whether that was all.
    fn hand_on(&mut self) -> Followed<bool> {
        while !self.backlog.is_empty() {
            match self.events.try_reserve() {
                Ok(place) => place.send(self.backlog.next_batch()),
                Err(TrySendError::Full(())) => return Ok(false),
                Err(TrySendError::Closed(())) => return Err(Interruption::Stop),
            }
        }
        Ok(true)
    }
}

/// How far a dump got with one buffer of messages.
struct Progress {
    consistent: bool,
    /// The dump ended, with this error number or 0.
    end: Option<i32>,
}

fn set_receive_buffer(socket: &Socket, bytes: usize) {
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_ok() {
        return;
    }
    if let Err(error) = setsockopt(socket, sockopt::RcvBuf, &bytes) {
        warn!(%error, bytes, "cannot set the netlink receive buffer: overruns are likely");
    }
}

/// A request that is all zero apart from the address family.
fn request<const LEN: usize>(family: u8) -> [u8; LEN] {
    let mut request = [0; LEN];
    request[0] = family;
    request
}

/// `struct ifinfomsg`, and the wish to be spared the statistics.
fn link_request() -> [u8; 24] {
    let mut request = [0; 24];
    request[16..18].copy_from_slice(&8_u16.to_ne_bytes());
    request[18..20].copy_from_slice(&libc::IFLA_EXT_MASK.to_ne_bytes());
    request[20..].copy_from_slice(&(libc::RTEXT_FILTER_SKIP_STATS as u32).to_ne_bytes());
    request
}
