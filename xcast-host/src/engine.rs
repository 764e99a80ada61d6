//! What blocking and asynchronous senders share: every system call, none of which waits.

use std::{
    io::{self, IoSlice},
    iter,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    ops::Range,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::Arc,
    time::Instant,
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg},
};
use socket2::SockRef;
use thiserror::Error;
use tracing::{debug, trace};

use crate::{
    Cause, Destination, Limits, Options, Outlet, Statistics, Unusable,
    liveness::Probing,
    packet::{Entry, MAX_DSCP, PacketError},
    plan::Form,
    policy::{ArrivalOrder, Policy},
    side::Side,
};

/// Most datagrams in one system call.
const BATCH: usize = 64;

/// How a sender works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The way Xcast packets leave.
    pub outlet: Outlet,
    /// How messages are sent unless they say otherwise.
    pub options: Options,
    /// How large packets may be.
    pub limits: Limits,
    /// When to ask whether the router is there; `None` trusts that it is, unless it refuses.
    pub probing: Option<Probing>,
    /// Which destinations share a packet where a list is too long for one.
    pub policy: Arc<dyn Policy>,
}

impl Settings {
    /// The usual settings for this way out.
    pub fn new(outlet: Outlet) -> Self {
        Self {
            outlet,
            options: Options::default(),
            limits: Limits::default(),
            probing: Some(Probing::default()),
            policy: Arc::new(ArrivalOrder),
        }
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Xcast packets that left.
    pub xcast_packets: usize,
    /// Datagrams that left.
    pub unicast_packets: usize,
}

/// Why a message was not sent, or not to everyone.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SendError {
    /// A destination is none. Nothing was sent.
    #[error("destination {index}, {address}: {reason}")]
    Destination {
        /// Place in the list, from 0.
        index: usize,
        /// Its address.
        address: SocketAddr,
        /// What is wrong with it.
        reason: Unusable,
    },
    /// The payload does not fit a packet. Nothing was sent.
    #[error(
        "payload of {payload} octets: at most {largest} fit a packet, so shorten it or raise the \
         MTU limit"
    )]
    TooLarge {
        /// Its length, in octets.
        payload: usize,
        /// What would fit, in octets.
        largest: usize,
    },
    /// The message must stay Xcast ([`Options::stay_xcast`]), and there is no way for it, or not
    /// for all of it.
    #[error("a message that must stay xcast cannot be sent: {cause}")]
    NoXcast {
        /// Why not.
        cause: Cause,
    },
    /// The kernel refused datagrams to some destinations; the others were served.
    #[error("{} of {destinations} destinations not reached, the first of them {}", failed.len(), first(failed))]
    Unreached {
        /// Those that were not reached, at least one.
        failed: Vec<Unreached>,
        /// How many there were in all, repeats left out.
        destinations: usize,
    },
    /// The packet cannot be built; the options are wrong.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The sender was closed, or its task has ended.
    #[error("the sender is closed")]
    Closed,
    /// The socket failed.
    #[error("cannot use the socket to send")]
    Socket(#[from] io::Error),
}

/// A destination the kernel refused a datagram to.
#[derive(Debug)]
pub struct Unreached {
    /// Place in the list, from 0.
    pub index: usize,
    /// Its address.
    pub address: SocketAddr,
    /// What the kernel says.
    pub error: io::Error,
}

fn first(failed: &[Unreached]) -> String {
    failed.first().map_or_else(String::new, |unreached| {
        let Unreached {
            index,
            address,
            error,
        } = unreached;
        format!("destination {index}, {address}: {error}")
    })
}

/// What [`Engine::step`] came to.
pub(crate) enum Step {
    /// The message has been dealt with.
    Done(Result<Sent, SendError>),
    /// Go on when [`Engine::blocked_on`] can be written to.
    Blocked,
}

/// A sender without a way to wait.
#[derive(Debug)]
pub(crate) struct Engine {
    pub socket: UdpSocket,
    pub settings: Settings,
    pub statistics: Statistics,
    /// IPv4 and IPv6, if the socket can send there.
    sides: [Option<Side>; 2],
    job: Job,
    packet: Vec<u8>,
}

/// How far a message has got.
#[derive(Debug, Default)]
struct Job {
    options: Options,
    /// The side that is being served.
    side: usize,
    /// Its parcel to send next.
    parcel: usize,
    /// The destination to send to next, in a parcel of datagrams.
    entry: usize,
    sent: Sent,
    failed: Vec<Unreached>,
}

impl Engine {
    pub fn new(socket: UdpSocket, settings: Settings) -> io::Result<Self> {
        let refused = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        settings.outlet.check().map_err(refused)?;
        let local = socket.local_addr()?;
        let side = |ip, mapped| {
            Some(Side::new(
                SocketAddr::new(ip, local.port()),
                mapped,
                &settings,
            ))
        };
        let sides = match (local.ip(), local.ip().to_canonical()) {
            (IpAddr::V4(_), ip) => [side(ip, false), None],
            (IpAddr::V6(_), ip @ IpAddr::V4(_)) => [side(ip, true), None],
            (IpAddr::V6(ip), _) => {
                // A socket that is bound to no address in particular may serve IPv4 as well.
                let both = ip.is_unspecified() && !SockRef::from(&socket).only_v6()?;
                let ipv4 = both.then(|| side(Ipv4Addr::UNSPECIFIED.into(), true));
                [ipv4.flatten(), side(ip.into(), false)]
            }
        };
        Ok(Self {
            socket,
            settings,
            statistics: Statistics::default(),
            sides,
            job: Job::default(),
            packet: Vec::new(),
        })
    }

    /// Takes a message; [`step`](Self::step) then sends it.
    pub fn begin<D: Into<Destination> + Copy>(
        &mut self,
        now: Instant,
        to: &[D],
        payload: usize,
        options: &Options,
    ) -> Result<(), SendError> {
        if options.dscp > MAX_DSCP {
            return Err(PacketError::Dscp(options.dscp).into());
        }
        self.sort(to)?;
        for side in self.sides.iter_mut().flatten() {
            if side.plan.entries.is_empty() {
                continue;
            }
            side.tend(now, &mut self.statistics, &mut self.packet);
            let way = side.way(now);
            let Settings { limits, policy, .. } = &self.settings;
            side.plan
                .divide(way, payload, options, limits, policy.as_ref())
                .map_err(|error| error.locate(to))?;
            trace!(
                ?way,
                destinations = side.plan.entries.len(),
                parcels = side.plan.parcels.len(),
                "message"
            );
        }
        self.statistics.messages += 1;
        self.job = Job {
            options: options.clone(),
            ..Job::default()
        };
        Ok(())
    }

    /// Splits a list by family: a packet has addresses of one.
    fn sort<D: Into<Destination> + Copy>(&mut self, to: &[D]) -> Result<(), SendError> {
        for side in self.sides.iter_mut().flatten() {
            side.start();
        }
        for (index, destination) in to.iter().enumerate() {
            let destination: Destination = (*destination).into();
            let mut take = || {
                let entry = destination.entry()?;
                match &mut self.sides[usize::from(entry.address.is_ipv6())] {
                    Some(side) => side.take(entry, destination.scope()),
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
        while let Some(side) = self.sides.get(self.job.side) {
            let parcels = side.as_ref().map_or(&[][..], |side| &side.plan.parcels);
            let Some(parcel) = parcels.get(self.job.parcel) else {
                self.job.side += 1;
                self.job.parcel = 0;
                continue;
            };
            let range = parcel.range.clone();
            let outcome = match parcel.form {
                Form::Xcast => self.send_xcast(range, payload),
                Form::Unicast(cause) => self.send_unicast(range, payload, cause),
            };
            match outcome {
                Ok(true) => {
                    self.job.parcel += 1;
                    self.job.entry = 0;
                }
                Ok(false) => {}
                Err(SendError::Socket(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Step::Blocked;
                }
                Err(error) => return Step::Done(Err(error)),
            }
        }
        let job = std::mem::take(&mut self.job);
        let sides = self.sides.iter().flatten();
        Step::Done(match job.failed.is_empty() {
            true => Ok(job.sent),
            false => Err(SendError::Unreached {
                failed: job.failed,
                destinations: sides.map(|side| side.plan.entries.len()).sum(),
            }),
        })
    }

    /// What a step that is blocked waits to be able to write to.
    pub fn blocked_on(&self) -> BorrowedFd<'_> {
        let side = self.sides.get(self.job.side).and_then(Option::as_ref);
        let exit = side.and_then(|side| {
            let parcel = side.plan.parcels.get(self.job.parcel)?;
            side.exit
                .as_ref()
                .filter(|_| parcel.form == Form::Xcast)
                .map(AsFd::as_fd)
        });
        exit.unwrap_or(self.socket.as_fd())
    }

    /// The sides that have a way to a router.
    fn served(&self) -> impl Iterator<Item = &Side> {
        self.sides.iter().flatten().filter(|side| side.is_served())
    }

    /// The first that waits for its router.
    fn waiting(&self, now: Instant) -> Option<&Side> {
        self.served().find(|side| side.check(now).is_err())
    }

    /// What becomes readable when the router answers that is waited for, while it is asked.
    pub fn answer_from(&self, now: Instant) -> Option<BorrowedFd<'_>> {
        self.waiting(now)?.answer_from()
    }

    /// When the router that is waited for is asked next; `None` if never, or at once.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.waiting(now)?.deadline()
    }

    /// Whether messages of every family go by a router at this time that could.
    pub fn check(&self, now: Instant) -> Result<(), Cause> {
        match (self.served().next(), self.waiting(now)) {
            (None, _) => Err(Cause::Configured),
            (_, Some(side)) => side.check(now),
            (_, None) => Ok(()),
        }
    }

    /// Whether messages to this address go by a router at this time.
    pub fn check_for(&self, address: IpAddr, now: Instant) -> Result<(), Cause> {
        match &self.sides[usize::from(address.to_canonical().is_ipv6())] {
            Some(side) => side.check(now),
            None => Err(Cause::Configured),
        }
    }

    /// Looks after the routers: takes their answers in, and asks again when it is time.
    pub fn tend(&mut self, now: Instant) {
        for side in self.sides.iter_mut().flatten() {
            side.tend(now, &mut self.statistics, &mut self.packet);
        }
    }

    /// Sends a parcel as one packet; false if it is to be tried again, perhaps in another form.
    fn send_xcast(&mut self, range: Range<usize>, payload: &[u8]) -> Result<bool, SendError> {
        let Some(side) = &mut self.sides[self.job.side] else {
            return Ok(true);
        };
        let Some((exit, template)) = side.xcast(&self.job.options) else {
            return self.fall_back(Cause::Unavailable);
        };
        let entries = &side.plan.entries[range];
        template.emit(entries, payload, &mut self.packet)?;
        match exit.send(&self.packet) {
            Ok(()) => {
                self.statistics.xcast_packets += 1;
                self.statistics.xcast_destinations += entries.len() as u64;
                self.statistics.xcast_octets += self.packet.len() as u64;
                self.job.sent.xcast_packets += 1;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error.into()),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                debug!(octets = self.packet.len(), %error, "packet too large for the way");
                self.fall_back(Cause::PathMtu)
            }
            Err(error) => {
                let cause = side.lose(Instant::now(), &error);
                self.fall_back(cause)
            }
        }
    }

    /// What is left of the message in this family leaves as unicast.
    fn fall_back(&mut self, cause: Cause) -> Result<bool, SendError> {
        if self.job.options.stay_xcast {
            return Err(SendError::NoXcast { cause });
        }
        if let Some(side) = &mut self.sides[self.job.side] {
            side.plan.fall_back(self.job.parcel, cause);
        }
        Ok(false)
    }

    /// Sends datagrams to destinations of a parcel; false while there are more.
    fn send_unicast(
        &mut self,
        range: Range<usize>,
        payload: &[u8],
        cause: Cause,
    ) -> Result<bool, SendError> {
        let Some(side) = &mut self.sides[self.job.side] else {
            return Ok(true);
        };
        let start = range.start.max(self.job.entry);
        let options = &self.job.options;
        let dscp = |entry: &Entry| entry.dscp.unwrap_or(options.dscp);
        let entries = &side.plan.entries[start..range.end];
        let common = entries.first().map_or(0, dscp);
        let run = entries
            .iter()
            .take(BATCH)
            .take_while(|entry| dscp(entry) == common);
        let run = run.count();
        let addresses = entries[..run].iter().map(|entry| side.address(entry));
        let addresses: Vec<_> = addresses.collect();
        side.apply(&self.socket, options.ttl, common)?;
        let done = match send_batch(&self.socket, &addresses, payload) {
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
                let Entry { address, port, .. } = side.plan.entries[start];
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

impl SendError {
    /// Fills in places in the list as it was given.
    pub(crate) fn locate<D: Into<Destination> + Copy>(mut self, to: &[D]) -> Self {
        let find = |found: SocketAddr, index: &mut usize| {
            let given = to.iter().map(|to| Into::<Destination>::into(*to).address);
            let at = |address: SocketAddr| (address.ip().to_canonical(), address.port());
            let place = given.map(at).position(|address| address == at(found));
            *index = place.unwrap_or_default();
        };
        match &mut self {
            Self::Unreached { failed, .. } => {
                for unreached in failed {
                    find(unreached.address, &mut unreached.index);
                }
            }
            Self::Destination { index, address, .. } => find(*address, index),
            _ => {}
        }
        self
    }
}

/// Sends the payload to each, without waiting; how many it was sent to, or why not to the first.
fn send_batch(socket: &UdpSocket, to: &[SocketAddr], payload: &[u8]) -> Result<usize, Errno> {
    let addresses: Vec<_> = to
        .iter()
        .map(|to| Some(SockaddrStorage::from(*to)))
        .collect();
    let mut headers = MultiHeaders::preallocate(to.len(), None);
    let part = [IoSlice::new(payload)];
    let sent = sendmmsg(
        socket.as_raw_fd(),
        &mut headers,
        iter::repeat_n(&part, to.len()),
        addresses,
        [],
        MsgFlags::MSG_DONTWAIT,
    )?;
    Ok(sent.count())
}
