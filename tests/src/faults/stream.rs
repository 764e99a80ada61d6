//! Two streams of numbered messages, and who got which.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::catalogue::Target;
use crate::family::{self, Family};
use crate::tap::Tap;
use crate::trio::{self, A, Trio};

/// Time between two messages of a stream.
pub(super) const PACE: Duration = Duration::from_millis(2);
/// Where the numbers of messages say which stream they belong to: below is the place in it.
const STREAM: u32 = 1 << 24;
/// How long a message may be under way on a busy machine.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// Messages in a row that have to arrive everywhere for a stream to be well.
const WELL: usize = 100;

/// How a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// In one packet with those to the other targets.
    Xcast,
    /// By itself, for the kernel to forward.
    Unicast,
}

/// What a target got of one stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// When the messages were sent that never came.
    pub(super) lost: Vec<Instant>,
    /// Messages that came more than once.
    pub(super) twice: usize,
}

/// Both streams to some targets.
pub(super) struct Stream<'a> {
    targets: &'a [Target],
    /// When each message was sent.
    sent: Mutex<Vec<Instant>>,
    /// How often each message came to each host.
    came: Mutex<HashMap<(usize, u32), usize>>,
    /// No more is to be sent.
    is_over: AtomicBool,
    /// No more is to be received.
    is_closed: AtomicBool,
}

/// Its threads.
pub(super) struct Threads<'scope> {
    sender: ScopedJoinHandle<'scope, Result<()>>,
    receivers: Vec<ScopedJoinHandle<'scope, Result<()>>>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(targets: &'a [Target]) -> Self {
        Self {
            targets,
            sent: Mutex::default(),
            came: Mutex::default(),
            is_over: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        }
    }

    /// Begins to send and to receive.
    pub(super) fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        trio: &Trio,
    ) -> Result<Threads<'scope>> {
        let mut receivers = Vec::new();
        for (place, host) in [&trio.b, &trio.c, &trio.r].into_iter().enumerate() {
            let socket = host.socket()?;
            receivers.push(scope.spawn(move || self.receive(place, &socket)));
        }
        let tap = Tap::open(&trio.a.namespace, "a0")?;
        let of = trio.family;
        Ok(Threads {
            sender: scope.spawn(move || family::with(of, || self.send(of, &tap))),
            receivers,
        })
    }

    /// Ends it; what is under way arrives first.
    pub(super) fn end(&self, threads: Threads<'_>) -> Result<()> {
        let join = |thread: ScopedJoinHandle<'_, Result<()>>| {
            let outcome = thread.join();
            outcome.map_err(|_| anyhow!("a thread of the stream"))?
        };
        self.is_over.store(true, Ordering::Relaxed);
        let sent = join(threads.sender);
        thread::sleep(UNDER_WAY);
        self.is_closed.store(true, Ordering::Relaxed);
        let received = threads.receivers.into_iter().try_for_each(join);
        sent.and(received)
    }

    fn send(&self, family: Family, tap: &Tap) -> Result<()> {
        let addresses: Vec<Ipv4Addr> = self.targets.iter().map(|target| target.address).collect();
        let mut index = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            let xcast = trio::xcast(A, &addresses, number(Kind::Xcast, 0, index), 0).frame();
            lock(&self.sent).push(Instant::now());
            tap.send(&xcast)?;
            for (at, target) in self.targets.iter().enumerate() {
                let number = number(Kind::Unicast, at, index);
                tap.send(&trio::datagram(family, A, target.unicast, number, 0, 0))?;
            }
            index += 1;
            thread::sleep(PACE);
        }
        Ok(())
    }

    fn receive(&self, place: usize, socket: &UdpSocket) -> Result<()> {
        let mut buffer = [0; 2048];
        while !self.is_closed.load(Ordering::Relaxed) {
            match socket.recv_from(&mut buffer) {
                Ok((len, _)) => {
                    let bytes = buffer[..len].first_chunk().context("a short message")?;
                    let message = (place, u32::from_be_bytes(*bytes));
                    *lock(&self.came).entry(message).or_default() += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut polled, PollTimeout::from(20_u8));
                }
                Err(error) => return Err(error).context("receive"),
            }
        }
        Ok(())
    }

    /// How often a message came to a target.
    fn times(&self, kind: Kind, at: usize, index: usize) -> usize {
        let number = number(kind, at, index as u32);
        let came = lock(&self.came);
        let hosts = self.targets[at].hosts.iter();
        hosts
            .filter_map(|host| came.get(&(*host as usize, number)))
            .sum()
    }

    /// Whether the last messages, apart from those under way, came to all targets, and all of these were sent after
    /// a moment.
    pub(super) fn is_well_since(&self, moment: Instant) -> bool {
        let now = Instant::now();
        let (before, arrived) = {
            let sent = lock(&self.sent);
            let before = sent.partition_point(|at| *at < moment);
            (before, sent.partition_point(|at| now - *at >= UNDER_WAY))
        };
        arrived >= before + WELL
            && (arrived - WELL..arrived).all(|index| {
                (0..self.targets.len()).all(|at| {
                    let came = |kind| self.times(kind, at, index) > 0;
                    came(Kind::Xcast) && came(Kind::Unicast)
                })
            })
    }

    /// Messages sent so far.
    pub(super) fn sent(&self) -> usize {
        lock(&self.sent).len()
    }

    /// What a target got. For the time after [`end`](Self::end).
    pub(super) fn outcome(&self, kind: Kind, at: usize) -> Outcome {
        let sent = lock(&self.sent).clone();
        let mut outcome = Outcome::default();
        for (index, when) in sent.into_iter().enumerate() {
            match self.times(kind, at, index) {
                0 => outcome.lost.push(when),
                1 => {}
                _ => outcome.twice += 1,
            }
        }
        outcome
    }
}

/// The number of a message: all targets of an Xcast packet get the same one.
fn number(kind: Kind, at: usize, index: u32) -> u32 {
    let stream = match kind {
        Kind::Xcast => 1,
        Kind::Unicast => 2 + at as u32,
    };
    stream * STREAM + index
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
