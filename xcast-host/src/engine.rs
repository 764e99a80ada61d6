//! What blocking and asynchronous senders share: every system call, none of which waits.

use std::{
    io::{self, IoSlice},
    iter,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    ops::Range,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::Arc,
    time::Instant,
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg},
};
use socket2::SockRef;
use thiserror::Error;
use tracing::{debug, trace, warn};

use crate::{
    Cause, CodePoints, Destination, Limits, Options, Outlet, Statistics, Unusable,
    liveness::{Liveness, Probing},
    outlet::{Exit, PROBE, Probe},
    packet::{Entry, MAX_DSCP, PacketError, Template},
    plan::{Form, Plan, Way},
    policy::{ArrivalOrder, Policy},
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
    local: SocketAddrV4,
    pub settings: Settings,
    liveness: Liveness,
    was_up: bool,
    exit: Option<Exit>,
    probe: Option<Probe>,
    pub statistics: Statistics,
    plan: Plan,
    job: Job,
    packet: Vec<u8>,
    /// TTL and DS field that the socket has now.
    applied: Option<(u8, u8)>,
}

/// How far a message has got.
#[derive(Debug, Default)]
struct Job {
    options: Options,
    /// The parcel to send next.
    parcel: usize,
    /// The destination to send to next, in a parcel of datagrams.
    entry: usize,
    sent: Sent,
    failed: Vec<Unreached>,
}

impl Engine {
    pub fn new(socket: UdpSocket, settings: Settings) -> io::Result<Self> {
        let SocketAddr::V4(local) = socket.local_addr()? else {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the socket is an IPv6 socket, which is not supported yet: bind an IPv4 one",
            ));
        };
        Ok(Self {
            socket,
            local,
            liveness: Liveness::new(settings.probing),
            settings,
            was_up: false,
            exit: None,
            probe: None,
            statistics: Statistics::default(),
            plan: Plan::default(),
            job: Job::default(),
            packet: Vec::new(),
            applied: None,
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
        self.plan.start(to.iter().map(|to| (*to).into()))?;
        self.tend(now);
        let way = self.way(now);
        let Settings { limits, policy, .. } = &self.settings;
        self.plan
            .divide(way, payload, options, limits, policy.as_ref())?;
        trace!(
            ?way,
            destinations = to.len(),
            parcels = self.plan.parcels.len(),
            "message"
        );
        self.statistics.messages += 1;
        self.job = Job {
            options: options.clone(),
            ..Job::default()
        };
        Ok(())
    }

    /// Sends as much of the message as can be sent without waiting.
    pub fn step(&mut self, payload: &[u8]) -> Step {
        while let Some(parcel) = self.plan.parcels.get(self.job.parcel) {
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
        Step::Done(match job.failed.is_empty() {
            true => Ok(job.sent),
            false => Err(SendError::Unreached {
                failed: job.failed,
                destinations: self.plan.entries.len(),
            }),
        })
    }

    /// What a step that is blocked waits to be able to write to.
    pub fn blocked_on(&self) -> BorrowedFd<'_> {
        let parcel = self.plan.parcels.get(self.job.parcel);
        match (&self.exit, parcel.map(|parcel| parcel.form)) {
            (Some(exit), Some(Form::Xcast)) => exit.as_fd(),
            _ => self.socket.as_fd(),
        }
    }

    /// What becomes readable when the router answers, while it is asked.
    pub fn answer_from(&self) -> Option<BorrowedFd<'_>> {
        self.probe.as_ref().map(|probe| probe.as_fd())
    }

    /// Whether messages go by a router at this time.
    pub fn check(&self, now: Instant) -> Result<(), Cause> {
        match self.settings.outlet {
            Outlet::Unicast => Err(Cause::Configured),
            _ => self.liveness.check(now),
        }
    }

    /// When the router is asked next; `None` if never, or at once.
    pub fn deadline(&self) -> Option<Instant> {
        self.liveness.deadline()
    }

    /// Looks after the router: takes its answer in, and asks again when it is time.
    pub fn tend(&mut self, now: Instant) {
        if self.settings.outlet == Outlet::Unicast {
            return;
        }
        if self.probe.as_ref().is_some_and(Probe::is_answered) {
            self.probe = None;
            self.liveness.answered();
            self.statistics.answers += 1;
        }
        if self.liveness.poll(now) {
            self.probe = None;
            match self.ask(now) {
                Ok(()) => self.statistics.probes += 1,
                Err(error) => {
                    self.lose(now, &error);
                }
            }
        }
        let up = self.liveness.check(now).is_ok();
        if up != self.was_up {
            self.was_up = up;
            self.statistics.lost += u64::from(!up);
            let outlet = &self.settings.outlet;
            if up {
                debug!(?outlet, "the router answers");
            } else {
                warn!(?outlet, "the router is lost: sending unicast");
            }
        }
    }

    /// Sends a probe, by an exit opened anew unless it is known to work.
    fn ask(&mut self, now: Instant) -> io::Result<()> {
        if self.exit.is_none() || self.liveness.check(now).is_err() {
            self.open()?;
        }
        let (Some(exit), Some(code_points)) = (&self.exit, self.settings.outlet.code_points())
        else {
            return Ok(());
        };
        let (probe, port, entry) = exit.probe()?;
        template(code_points, exit.source, port, &Options::default())
            .emit(&[entry], PROBE, &mut self.packet)
            .map_err(io::Error::other)?;
        exit.send(&self.packet)?;
        trace!(to = %entry.address, port = entry.port, "probe");
        self.probe = Some(probe);
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        // Without a destination yet, any address that is not special stands for the way out.
        let toward = self.plan.entries.iter().filter_map(Entry::ipv4);
        let toward = toward
            .filter(|address| !address.is_loopback())
            .chain(iter::once(Ipv4Addr::new(198, 51, 100, 1)))
            .next()
            .unwrap_or(Ipv4Addr::LOCALHOST);
        self.exit = Exit::open(&self.settings.outlet, *self.local.ip(), toward)?;
        Ok(())
    }

    /// The router, or the way to it, does not work.
    fn lose(&mut self, now: Instant, error: &io::Error) -> Cause {
        let cause = match error.kind() {
            io::ErrorKind::ConnectionRefused => Cause::Refused,
            _ => Cause::Unavailable,
        };
        debug!(outlet = ?self.settings.outlet, %error, "cannot send to the router");
        self.exit = None;
        self.probe = None;
        self.liveness.failed(now, cause);
        cause
    }

    fn way(&mut self, now: Instant) -> Way {
        if let Err(cause) = self.check(now) {
            return Way::Unicast(cause);
        }
        if self.exit.is_none()
            && let Err(error) = self.open()
        {
            return Way::Unicast(self.lose(now, &error));
        }
        match &self.exit {
            Some(exit) => Way::Xcast {
                overhead: exit.overhead(),
                source: exit.source,
            },
            None => Way::Unicast(Cause::Configured),
        }
    }

    /// Sends a parcel as one packet; false if it is to be tried again, perhaps in another form.
    fn send_xcast(&mut self, range: Range<usize>, payload: &[u8]) -> Result<bool, SendError> {
        let (Some(exit), Some(code_points)) = (&self.exit, self.settings.outlet.code_points())
        else {
            return self.fall_back(Cause::Unavailable);
        };
        let entries = &self.plan.entries[range];
        template(
            code_points,
            exit.source,
            self.local.port(),
            &self.job.options,
        )
        .emit(entries, payload, &mut self.packet)?;
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
                let cause = self.lose(Instant::now(), &error);
                self.fall_back(cause)
            }
        }
    }

    /// What is left of the message leaves as unicast.
    fn fall_back(&mut self, cause: Cause) -> Result<bool, SendError> {
        if self.job.options.stay_xcast {
            return Err(SendError::NoXcast { cause });
        }
        self.plan.fall_back(self.job.parcel, cause);
        Ok(false)
    }

    /// Sends datagrams to destinations of a parcel; false while there are more.
    fn send_unicast(
        &mut self,
        range: Range<usize>,
        payload: &[u8],
        cause: Cause,
    ) -> Result<bool, SendError> {
        let start = range.start.max(self.job.entry);
        let options = &self.job.options;
        let dscp = |entry: &Entry| entry.dscp.unwrap_or(options.dscp);
        let entries = &self.plan.entries[start..range.end];
        let common = entries.first().map_or(0, dscp);
        let run = entries
            .iter()
            .take(BATCH)
            .take_while(|entry| dscp(entry) == common);
        let run = run.count();
        let wanted = (options.ttl, common << 2);
        if self.applied != Some(wanted) {
            let socket = SockRef::from(&self.socket);
            socket.set_ttl_v4(wanted.0.into())?;
            socket.set_tos_v4(wanted.1.into())?;
            self.applied = Some(wanted);
        }
        let done = match send_batch(&self.socket, &entries[..run], payload) {
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
                let Entry { address, port, .. } = entries[0];
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
        if let Self::Unreached { failed, .. } = &mut self {
            for unreached in failed {
                let mut given = to.iter().map(|to| Into::<Destination>::into(*to).address);
                let index = given.position(|address| address == unreached.address);
                unreached.index = index.unwrap_or_default();
            }
        }
        self
    }
}

fn template(
    code_points: CodePoints,
    source: Ipv4Addr,
    source_port: u16,
    options: &Options,
) -> Template {
    Template {
        code_points,
        source: source.into(),
        to: code_points.group.into(),
        ttl: options.ttl,
        dscp: options.dscp,
        channel: options.channel,
        x: options.stay_xcast,
        anonymous: options.anonymous,
        source_port,
        port_list: false,
    }
}

/// Sends the payload to each, without waiting; how many it was sent to, or why not to the first.
fn send_batch(socket: &UdpSocket, entries: &[Entry], payload: &[u8]) -> Result<usize, Errno> {
    let addresses: Vec<_> = entries
        .iter()
        .map(|entry| {
            let address = entry.ipv4()?;
            Some(SockaddrIn::from(SocketAddrV4::new(address, entry.port)))
        })
        .collect();
    let mut headers = MultiHeaders::preallocate(entries.len(), None);
    let part = [IoSlice::new(payload)];
    let sent = sendmmsg(
        socket.as_raw_fd(),
        &mut headers,
        iter::repeat_n(&part, entries.len()),
        addresses,
        [],
        MsgFlags::MSG_DONTWAIT,
    )?;
    Ok(sent.count())
}
