//! What blocking and asynchronous senders share: every system call, none of which waits.

use std::{
    io::{self, IoSlice},
    iter,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Instant,
};

use nix::{
    cmsg_space,
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg},
};
use socket2::{Protocol, SockRef};
use tracing::{debug, trace};

use super::{
    cause::UnicastCause,
    destination::{Destination, Options, Unusable},
    family::FamilySender,
    outcome::{SendError, Sent, Unreached},
    relay_link::{RelayLink, RelayStatus, Reply},
    settings::Settings,
    split::{Delivery, UplinkState},
    statistics::SenderStatistics,
};
use crate::packet::{Entry, MAX_DSCP, PacketError, UDP_LEN};

/// Most datagrams in one system call.
const BATCH: usize = 64;

/// What [`Core::step`] came to.
pub(crate) enum Step {
    /// The message has been dealt with.
    Done(Result<Sent, SendError>),
    /// Go on when [`Core::blocked_on`] can be written to.
    Blocked,
}

/// A sender without a way to wait.
#[derive(Debug)]
pub(crate) struct Core<S> {
    pub socket: S,
    pub settings: Settings,
    pub statistics: SenderStatistics,
    /// IPv4 and IPv6, if the socket can send there.
    families: [Option<FamilySender>; 2],
    job: Job,
    /// The list of the latest message, if it left as one packet.
    latest: Option<Latest>,
    /// The latest packet.
    packet: Vec<u8>,
    /// Where probes are built.
    probe: Vec<u8>,
}

/// A list that a packet had room for. While the next message has the same list, and nothing else has
/// changed, it is split no differently, and its packet differs in the payload alone.
#[derive(Debug)]
struct Latest {
    to: Vec<Destination>,
    options: Options,
    /// The family of all of it.
    family: usize,
    uplink: UplinkState,
    /// Octets of payload that there was room for.
    payload: usize,
    /// Octets before UDP of the packet, once it has been built.
    headers: Option<usize>,
}

/// How far a message has got.
#[derive(Debug, Default)]
struct Job {
    began: Option<Instant>,
    options: Options,
    /// The family that is being served.
    family: usize,
    /// Its part to send next.
    part: usize,
    /// The destination to send to next, in a part of datagrams.
    entry: usize,
    sent: Sent,
    failed: Vec<Unreached>,
}

impl<S: AsFd> Core<S> {
    pub fn new(socket: S, settings: Settings) -> io::Result<Self> {
        let refused = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        settings.uplink.check().map_err(refused)?;
        let kernel = SockRef::from(&socket);
        let local = kernel.local_addr()?.as_socket();
        let Some(local) = local.filter(|_| kernel.protocol().ok().flatten() == Some(Protocol::UDP))
        else {
            return Err(refused("socket: it is not a UDP socket of IPv4 or IPv6"));
        };
        let family = |ip, mapped| {
            Some(FamilySender::new(
                SocketAddr::new(ip, local.port()),
                mapped,
                &settings,
            ))
        };
        let families = match (local.ip(), local.ip().to_canonical()) {
            (IpAddr::V4(_), ip) => [family(ip, false), None],
            (IpAddr::V6(_), ip @ IpAddr::V4(_)) => [family(ip, true), None],
            (IpAddr::V6(ip), _) => {
                // A socket that is bound to no address in particular may serve IPv4 as well.
                let both = ip.is_unspecified() && !kernel.only_v6()?;
                let ipv4 = both.then(|| family(Ipv4Addr::UNSPECIFIED.into(), true));
                [ipv4.flatten(), family(ip.into(), false)]
            }
        };
        Ok(Self {
            socket,
            settings,
            statistics: SenderStatistics::default(),
            families,
            job: Job::default(),
            latest: None,
            packet: Vec::new(),
            probe: Vec::new(),
        })
    }

    /// Takes a message, and looks after the routers it needs; [`step`](Self::step) then sends it.
    pub fn begin<D: Into<Destination> + Copy>(
        &mut self,
        now: Instant,
        to: &[D],
        payload: usize,
        options: &Options,
    ) -> Result<(), SendError> {
        if !self.has_latest(to, options) {
            self.sort(to, options)?;
        }
        for family in self.families.iter_mut().flatten() {
            if !family.split.entries.is_empty() {
                family.tend(now, &mut self.statistics, &mut self.probe);
            }
        }
        self.divide(now, to, payload, options)
    }

    /// Takes a message like [`begin`](Self::begin), and leaves the routers alone: nothing is asked,
    /// and no answer taken in.
    pub fn begin_only<D: Into<Destination> + Copy>(
        &mut self,
        now: Instant,
        to: &[D],
        payload: usize,
        options: &Options,
    ) -> Result<(), SendError> {
        if !self.has_latest(to, options) {
            self.sort(to, options)?;
        }
        self.divide(now, to, payload, options)
    }

    /// Whether this is the latest list again, so that it is sorted already; if not, nothing is known
    /// of the latest any more.
    fn has_latest<D: Into<Destination> + Copy>(&mut self, to: &[D], options: &Options) -> bool {
        let is_same = self.latest.as_ref().is_some_and(|latest| {
            latest.to.len() == to.len()
                && latest.options == *options
                && latest
                    .to
                    .iter()
                    .zip(to)
                    .all(|(one, other)| *one == (*other).into())
        });
        if !is_same {
            self.latest = None;
        }
        is_same
    }

    fn divide<D: Into<Destination> + Copy>(
        &mut self,
        now: Instant,
        to: &[D],
        payload: usize,
        options: &Options,
    ) -> Result<(), SendError> {
        self.job = Job {
            began: Some(now),
            options: options.clone(),
            ..Job::default()
        };
        if let Some(latest) = &self.latest
            && let Some(family) = &mut self.families[latest.family]
            && payload <= latest.payload
            && family.uplink_state(now) == latest.uplink
        {
            self.statistics.messages += 1;
            return Ok(());
        }
        // The list was not sorted, or what it was divided into does not hold any more.
        if self.latest.take().is_some() {
            self.sort(to, options)?;
        }
        let mut whole = None;
        let mut parts = 0;
        for (number, family) in self.families.iter_mut().enumerate() {
            let Some(family) = family.as_mut() else {
                continue;
            };
            if family.split.entries.is_empty() {
                continue;
            }
            let uplink = family.uplink_state(now);
            let Settings { limits, policy, .. } = &self.settings;
            family
                .split
                .divide(uplink, payload, options, limits, policy.as_ref())
                .map_err(|error| error.locate(to))?;
            trace!(
                ?uplink,
                destinations = family.split.entries.len(),
                parts = family.split.parts.len(),
                "message"
            );
            parts += family.split.parts.len();
            if let [part] = &family.split.parts[..]
                && part.delivery == Delivery::Xcast
            {
                whole = Some((number, uplink));
            }
        }
        self.statistics.messages += 1;
        if let Some((family, uplink)) = whole.filter(|_| parts == 1) {
            self.latest = Some(Latest {
                to: to.iter().map(|to| (*to).into()).collect(),
                options: options.clone(),
                family,
                uplink,
                payload,
                headers: None,
            });
        }
        Ok(())
    }

    /// Splits a list by family: a packet has addresses of one.
    fn sort<D: Into<Destination> + Copy>(
        &mut self,
        to: &[D],
        options: &Options,
    ) -> Result<(), SendError> {
        if options.dscp > MAX_DSCP {
            return Err(PacketError::Dscp(options.dscp).into());
        }
        for family in self.families.iter_mut().flatten() {
            family.start();
        }
        for (index, destination) in to.iter().enumerate() {
            let destination: Destination = (*destination).into();
            let mut take = || {
                let entry = destination.entry()?;
                match &mut self.families[usize::from(entry.address.is_ipv6())] {
                    Some(family) => family.take(entry, destination.scope()),
                    None => Err(Unusable::Family),
                }
            };
            take().map_err(|reason| SendError::Destination {
                index,
                address: destination.address,
                reason,
            })?;
        }
        Ok(())
    }

    /// Sends as much of the message as can be sent without waiting.
    pub fn step(&mut self, payload: &[u8]) -> Step {
        if !self.send_again() {
            return Step::Blocked;
        }
        while let Some(family) = self.families.get(self.job.family) {
            let parts = family
                .as_ref()
                .map_or(&[][..], |family| &family.split.parts);
            let Some(part) = parts.get(self.job.part) else {
                self.job.family += 1;
                self.job.part = 0;
                continue;
            };
            let range = part.range.clone();
            let outcome = match part.delivery {
                Delivery::Xcast => self.send_xcast(range, payload),
                Delivery::Unicast(cause) => self.send_unicast(range, payload, cause),
            };
            match outcome {
                Ok(true) => {
                    self.job.part += 1;
                    self.job.entry = 0;
                }
                Ok(false) => {
                    if !self.send_again() {
                        return Step::Blocked;
                    }
                }
                Err(SendError::Socket(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Step::Blocked;
                }
                Err(error) => return Step::Done(Err(error)),
            }
        }
        let job = std::mem::take(&mut self.job);
        let families = self.families.iter().flatten();
        Step::Done(match job.failed.is_empty() {
            true => Ok(job.sent),
            false => Err(SendError::Unreached {
                failed: job.failed,
                destinations: families.map(|family| family.split.entries.len()).sum(),
            }),
        })
    }

    /// Gives up a message whose step is blocked, and says what is left of it.
    pub fn give_up(&mut self) -> SendError {
        let job = std::mem::take(&mut self.job);
        let mut rest = Vec::new();
        for (number, family) in self.families.iter().enumerate().skip(job.family) {
            let Some(family) = family else { continue };
            let start = match family.split.parts.get(job.part) {
                Some(part) if number == job.family => part.range.start.max(job.entry),
                _ => 0,
            };
            let left = family.split.entries[start..].iter();
            rest.extend(left.map(|entry| family.destination(entry)));
        }
        SendError::WouldBlock {
            sent: job.sent,
            failed: job.failed,
            rest,
        }
    }

    /// What a step that is blocked waits to be able to write to.
    pub fn blocked_on(&self) -> BorrowedFd<'_> {
        let mut families = self.families.iter().flatten();
        if families.any(|family| !family.again.is_empty()) {
            return self.socket.as_fd();
        }
        let family = self.families.get(self.job.family).and_then(Option::as_ref);
        let open = family.and_then(|family| {
            let part = family.split.parts.get(self.job.part)?;
            family
                .open
                .as_ref()
                .filter(|_| part.delivery == Delivery::Xcast)
                .map(AsFd::as_fd)
        });
        open.unwrap_or(self.socket.as_fd())
    }

    /// The families that have a way to a router.
    fn served(&self) -> impl Iterator<Item = &FamilySender> {
        self.families
            .iter()
            .flatten()
            .filter(|family| family.is_served())
    }

    /// The first that waits for its router.
    fn waiting(&self, now: Instant) -> Option<&FamilySender> {
        self.served().find(|family| family.check(now).is_err())
    }

    /// What becomes readable when the router answers that is waited for, while it is asked.
    pub fn answer_from(&self, now: Instant) -> Option<BorrowedFd<'_>> {
        self.waiting(now)?.answer_from()
    }

    /// When the router that is waited for is asked next; `None` if never, or at once.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.waiting(now)?.deadline()
    }

    /// When a router is asked next; `None` if never, or at once.
    pub fn next_probe(&self) -> Option<Instant> {
        self.served().filter_map(FamilySender::deadline).min()
    }

    /// Whether messages of every family go by a router at this time that could.
    pub fn check(&self, now: Instant) -> Result<(), UnicastCause> {
        match (self.served().next(), self.waiting(now)) {
            (None, _) => Err(UnicastCause::Configured),
            (_, Some(family)) => family.check(now),
            (_, None) => Ok(()),
        }
    }

    /// Whether messages to this address go by a router at this time.
    pub fn check_for(&self, address: IpAddr, now: Instant) -> Result<(), UnicastCause> {
        match &self.families[usize::from(address.to_canonical().is_ipv6())] {
            Some(family) => family.check(now),
            None => Err(UnicastCause::Configured),
        }
    }

    /// How messages to this address and others of its family leave.
    pub fn uplink_for(&mut self, address: IpAddr, now: Instant) -> UplinkState {
        match &mut self.families[usize::from(address.to_canonical().is_ipv6())] {
            Some(family) => family.uplink_state(now),
            None => UplinkState::Down(UnicastCause::Configured),
        }
    }

    /// The IP source of Xcast packets to this address and others of its family, while they go by a
    /// router.
    pub fn source_for(&self, address: IpAddr, now: Instant) -> Option<IpAddr> {
        let family = self.families[usize::from(address.to_canonical().is_ipv6())].as_ref()?;
        family.check(now).ok()?;
        family.open.as_ref().map(|open| open.source)
    }

    /// Whether the uplink for this address has room for packets.
    pub fn has_room(&self, address: IpAddr) -> bool {
        let family = &self.families[usize::from(address.to_canonical().is_ipv6())];
        let open = family.as_ref().and_then(|family| family.open.as_ref());
        open.is_none_or(|open| {
            // An error is told when something is sent.
            let mut fds = [PollFd::new(open.as_fd(), PollFlags::POLLOUT)];
            poll(&mut fds, PollTimeout::ZERO) != Ok(0)
        })
    }

    /// Chooses the source towards this address, where there is a choice and nothing has been chosen.
    pub fn go_toward(&mut self, address: IpAddr) {
        if let Some(family) = &mut self.families[usize::from(address.to_canonical().is_ipv6())] {
            family.go_toward(address.to_canonical());
        }
    }

    /// The address and port that receivers of Xcast packets of this address's family see, while those go by a router.
    pub fn seen_from(&self, address: IpAddr, now: Instant) -> Option<SocketAddr> {
        let family = self.families[usize::from(address.to_canonical().is_ipv6())].as_ref()?;
        family.check(now).ok()?;
        let open = family.open.as_ref()?;
        Some(SocketAddr::new(
            open.source,
            open.source_port.unwrap_or(family.local_port()),
        ))
    }

    /// The next datagram that came to an address that receivers see and that is not the socket's own.
    pub fn take_reply(&mut self) -> Option<Reply> {
        let families = self.families.iter_mut().flatten();
        families
            .filter_map(|family| family.relays.as_mut())
            .find_map(RelayLink::take_reply)
    }

    /// What is known of the relays.
    pub fn relays(&self, now: Instant) -> Vec<RelayStatus> {
        let families = self.families.iter().flatten();
        let relays = families.filter_map(|family| family.relays.as_ref());
        relays.flat_map(|relays| relays.status(now)).collect()
    }

    /// Looks after the routers: takes in their answers and what they have refused, and asks again when
    /// it is time.
    pub fn tend(&mut self, now: Instant) {
        for family in self.families.iter_mut().flatten() {
            family.look(now);
            family.tend(now, &mut self.statistics, &mut self.probe);
        }
        // What has no room goes with the next message.
        self.send_again();
    }

    /// Sends datagrams in place of packets that were refused after they had left; whether all of them
    /// could be sent without waiting.
    fn send_again(&mut self) -> bool {
        let socket = self.socket.as_fd();
        for family in self.families.iter_mut().flatten() {
            while let Some(mut left) = family.again.pop_front() {
                while !left.entries.is_empty() {
                    let done = send_datagrams(
                        socket,
                        family,
                        &left.entries,
                        &left.options,
                        left.payload(),
                    );
                    let done = match done {
                        Ok(sent) => {
                            self.statistics.unicast_packets += sent as u64;
                            self.statistics.sent_again += sent as u64;
                            sent
                        }
                        Err(Errno::EINTR) => 0,
                        Err(Errno::EAGAIN) => {
                            family.again.push_front(left);
                            return false;
                        }
                        Err(errno) => {
                            debug!(%errno, "destination not reached");
                            self.statistics.failed += 1;
                            1
                        }
                    };
                    left.entries.drain(..done);
                }
            }
        }
        true
    }

    /// Sends a part as one packet; false if it is to be tried again, perhaps by unicast.
    fn send_xcast(&mut self, range: Range<usize>, payload: &[u8]) -> Result<bool, SendError> {
        let Some(family) = &mut self.families[self.job.family] else {
            return Ok(true);
        };
        let Some((open, template)) = family.xcast(&self.job.options) else {
            return self.fall_back(UnicastCause::Unavailable);
        };
        let entries = &family.split.entries[range.clone()];
        let payload = &open.content(payload)[..];
        match self.latest.as_mut().map(|latest| &mut latest.headers) {
            Some(Some(headers)) => template.emit_again(*headers, payload, &mut self.packet)?,
            headers => {
                template.emit(entries, payload, &mut self.packet)?;
                if let Some(headers) = headers {
                    *headers = Some(self.packet.len() - UDP_LEN - payload.len());
                }
            }
        }
        let now = self.job.began.unwrap_or_else(Instant::now);
        match open.send(&self.packet, self.job.options.dscp) {
            Ok(()) => {
                self.statistics.xcast_packets += 1;
                self.statistics.xcast_destinations += entries.len() as u64;
                self.statistics.xcast_octets += self.packet.len() as u64;
                self.job.sent.xcast_packets += 1;
                let (packet, options) = (&self.packet, &self.job.options);
                family.left(now, options, range, packet, payload.len());
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error.into()),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                debug!(octets = self.packet.len(), %error, "packet too large for the way");
                family.take_refused(now);
                self.fall_back(UnicastCause::PathMtu)
            }
            Err(error) => {
                let cause = family.lose(now, &error);
                self.fall_back(cause)
            }
        }
    }

    /// What is left of the message in this family leaves as unicast.
    fn fall_back(&mut self, cause: UnicastCause) -> Result<bool, SendError> {
        self.latest = None;
        if self.job.options.stay_xcast {
            return Err(SendError::NoXcast { cause });
        }
        if let Some(family) = &mut self.families[self.job.family] {
            family.split.fall_back(self.job.part, cause);
        }
        Ok(false)
    }

    /// Sends datagrams to destinations of a part; false while there are more.
    fn send_unicast(
        &mut self,
        range: Range<usize>,
        payload: &[u8],
        cause: UnicastCause,
    ) -> Result<bool, SendError> {
        let Some(family) = &mut self.families[self.job.family] else {
            return Ok(true);
        };
        let start = range.start.max(self.job.entry);
        let entries = &family.split.entries[start..range.end];
        let socket = self.socket.as_fd();
        let done = match send_datagrams(socket, family, entries, &self.job.options, payload) {
            Ok(sent) => {
                for _ in 0..sent {
                    self.statistics.count_unicast(cause);
                }
                self.job.sent.unicast_packets += sent;
                sent
            }
            Err(Errno::EINTR) => 0,
            Err(Errno::EAGAIN) => return Err(io::Error::from(Errno::EAGAIN).into()),
            Err(errno) => {
                let Entry { address, port, .. } = family.split.entries[start];
                debug!(%address, port, %errno, "destination not reached");
                self.statistics.failed += 1;
                self.job.failed.push(Unreached {
                    index: 0,
                    address: (address, port).into(),
                    error: errno.into(),
                });
                1
            }
        };
        self.job.entry = start + done;
        Ok(self.job.entry >= range.end)
    }
}

/// Sends datagrams to the first of these, without waiting; to how many, or why not to the first.
fn send_datagrams(
    socket: BorrowedFd<'_>,
    family: &FamilySender,
    entries: &[Entry],
    options: &Options,
    payload: &[u8],
) -> Result<usize, Errno> {
    let dscp = |entry: &Entry| entry.dscp.unwrap_or(options.dscp);
    let common = entries.first().map_or(0, dscp);
    let run = entries
        .iter()
        .take(BATCH)
        .take_while(|entry| dscp(entry) == common);
    let addresses: Vec<_> = run.map(|entry| family.address(entry)).collect();
    let hop_limit = libc::c_int::from(options.ttl);
    let (tos, traffic_class) = (common << 2, i32::from(common << 2));
    // With each datagram, so that the socket's own settings, which may be another's, stay.
    let control = match family.is_ipv6() {
        false => [
            ControlMessage::Ipv4Ttl(&hop_limit),
            ControlMessage::Ipv4Tos(&tos),
        ],
        true => [
            ControlMessage::Ipv6HopLimit(&hop_limit),
            ControlMessage::Ipv6TClass(&traffic_class),
        ],
    };
    send_batch(socket, &addresses, payload, &control)
}

/// Sends the payload to each, without waiting; how many it was sent to, or why not to the first.
fn send_batch(
    socket: BorrowedFd<'_>,
    to: &[SocketAddr],
    payload: &[u8],
    control: &[ControlMessage<'_>; 2],
) -> Result<usize, Errno> {
    let addresses: Vec<_> = to
        .iter()
        .map(|to| Some(SockaddrStorage::from(*to)))
        .collect();
    let space = cmsg_space!(libc::c_int, libc::c_int);
    let mut headers = MultiHeaders::preallocate(to.len(), Some(space));
    let part = [IoSlice::new(payload)];
    let sent = sendmmsg(
        socket.as_raw_fd(),
        &mut headers,
        iter::repeat_n(&part, to.len()),
        addresses,
        control,
        MsgFlags::MSG_DONTWAIT,
    )?;
    Ok(sent.count())
}
