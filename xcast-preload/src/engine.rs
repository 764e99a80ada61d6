//! Joins what the other modules decide: which datagrams are taken into groups, and how groups leave.
//!
//! It is divided into shards by descriptors, each behind a lock of its own, so that threads that send by
//! sockets of their own do not wait for each other. What has no part in groups does not come here at
//! all ([`table`]).

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
    os::fd::RawFd,
    sync::OnceLock,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use xcast_host::{Probing, SendError, Sender, Uplink, Watch};

use crate::{
    address::Address,
    group::{Call, Datagram, Group, Groups, Memory, Thread, within_call},
    kernel,
    lock::{self, Lock},
    raw::{Descriptor, Seat},
    settings::Settings,
    sockets::{Destinations, Headers, Obstacle, Standing, Traits, has_room, is_routed, judge},
    statistics::{Counter, count},
    table,
};

/// How often a router that does not answer yet is looked after, and a descriptor is looked at.
const TEND: Duration = Duration::from_millis(20);
/// How long after its latest repetition a socket's router is still asked whether it is there.
const REMEMBERED: Duration = Duration::from_secs(60);
/// When routers are asked whether they are there: what one is sent that has fallen silent is lost until
/// its answer does not count any more. To ask more often would use up what Linux answers to a host.
const PROBING: Probing = Probing {
    period: Duration::from_millis(1500),
    valid_for: Duration::from_secs(3),
    patience: 4,
};
/// Largest packet, in octets ([`xcast_host::PacketLimits`]).
const MTU: usize = 1500;
/// How many packets follow a look whether the uplink has room. A look that finds room finds at least 100 kB by Linux's
/// defaults, and a packet takes 2.3 kB at most.
const PACKETS_PER_LOOK: usize = 16;
/// Number of shards.
const SHARDS: usize = 16;

/// The locks of all shards, held.
pub type Held = [Guard; SHARDS];
/// The lock of a shard, held. There is nothing behind it if nothing is to be done.
pub type Guard = lock::Guard<'static, Option<Engine>>;

static SETTINGS: OnceLock<Settings> = OnceLock::new();
static ENGINES: [Lock<Option<Engine>>; SHARDS] = [const { Lock::new(None) }; SHARDS];

/// What the library knows: of some descriptors.
#[derive(Debug)]
pub struct Engine {
    settings: &'static Settings,
    /// Of the router: all engines', so that it is asked once for all sockets.
    watch: Watch,
    groups: Groups,
    /// Groups that have ended and are about to leave.
    ended: Vec<Group>,
    sockets: HashMap<RawFd, Record, RandomState>,
}

/// A socket that sends the same to several.
#[derive(Debug)]
struct Record {
    generation: u32,
    inode: u64,
    local: SocketAddr,
    headers: Headers,
    /// What the kernel said of it.
    traits: Traits,
    destinations: Destinations,
    /// Sources of packets of IPv4 and of IPv6, as of the latest datagram that was judged.
    sources: [Option<IpAddr>; 2],
    /// Of its latest group.
    memory: Memory,
    /// Datagrams that the sender has sent again.
    sent_again: u64,
    sender: Sender<Descriptor>,
    /// For how many packets more the uplink has room.
    room: usize,
    tend_at: Instant,
    look_at: Instant,
    used: Instant,
}

/// Starts to work by these settings.
pub fn start(settings: Settings) {
    let settings = SETTINGS.get_or_init(|| settings);
    if settings.uplink == Uplink::Unicast {
        return;
    }
    lock::prepare();
    let watch = Watch::default();
    for engine in &ENGINES {
        *engine.lock() = Some(Engine {
            settings,
            watch: watch.clone(),
            groups: Groups::default(),
            ended: Vec::new(),
            sockets: HashMap::default(),
        });
    }
}

/// How long a group may stay open; zero for as long as the program calls nothing.
pub fn max_delay() -> Duration {
    SETTINGS.get().map_or(Duration::ZERO, |it| it.max_delay)
}

fn shard(fd: RawFd) -> &'static Lock<Option<Engine>> {
    &ENGINES[fd.unsigned_abs() as usize % SHARDS]
}

/// Does something with the descriptor's engine, if there is one.
pub fn with<T>(fd: RawFd, work: impl FnOnce(&mut Engine) -> T) -> Option<T> {
    shard(fd).lock().as_mut().map(work)
}

/// Does something for a thread that is likely to come again next.
pub fn with_again<T>(fd: RawFd, work: impl FnOnce(&mut Engine) -> T) -> Option<T> {
    let mut guard = shard(fd).lock();
    let result = guard.as_mut().map(work);
    guard.lean();
    result
}

/// Takes a datagram if it is the next one that the thread's group expects; `None` if this is nothing
/// to be said at once, without a system call.
#[inline]
pub fn follow(thread: Thread, seat: Seat, fd: RawFd, to: &Address, payload: &[u8]) -> Option<bool> {
    shard(fd).lean(seat, |engine| {
        let engine = engine.as_mut();
        engine.is_some_and(|engine| engine.follow(thread, fd, to, payload))
    })
}

/// Does something with all engines, one after the other.
pub fn with_all(mut work: impl FnMut(&mut Engine)) {
    for engine in &ENGINES {
        engine.lock().iter_mut().for_each(&mut work);
    }
}

/// Ends a thread's group of this descriptor's engine. Returns whether that could be done in this time: see
/// [`end_all_within`].
pub fn end_thread_within(fd: RawFd, thread: Thread, patience: Duration) -> bool {
    let Some(mut guard) = shard(fd).lock_until(Instant::now() + patience) else {
        return false;
    };
    if let Some(engine) = guard.as_mut() {
        engine.end_thread(thread);
    }
    true
}

/// Ends the groups of all threads, as far as locks can be had in this time: a thread that has one may be
/// stopped by a signal until the calling thread goes on, as in some garbage collectors.
pub fn end_all_within(patience: Duration) {
    let deadline = Instant::now() + patience;
    for engine in &ENGINES {
        if let Some(mut guard) = engine.lock_until(deadline) {
            guard.iter_mut().for_each(Engine::end_all);
        }
    }
}

/// The engines before a fork, with nothing left to send; to be dropped in parent and child.
pub fn hold() -> Held {
    let mut held = ENGINES.each_ref().map(Lock::lock);
    for engine in held.iter_mut().filter_map(|guard| guard.as_mut()) {
        engine.end_all();
    }
    held
}

/// In the child of a fork: the parent's groups are not its own, and neither are the parent's routers.
pub fn forked(held: Held) {
    lock::forked();
    let watch = Watch::default();
    for mut guard in held {
        if let Some(engine) = guard.as_mut() {
            engine.watch = watch.clone();
            engine.groups = Groups::default();
            engine.ended.clear();
            engine.sockets.clear();
        }
    }
}

/// Ends all groups when the process ends, whose other threads may never give a lock back. What is sent
/// from now on passes.
pub fn finish() {
    let stop = |mut guard: Guard| {
        if let Some(mut engine) = guard.take() {
            engine.end_all();
        }
    };
    let deadline = Instant::now() + Duration::from_millis(100);
    for engine in &ENGINES {
        engine.lock_until(deadline).map(stop);
    }
}

impl Engine {
    /// Takes a datagram if it is the next one that the thread's group expects.
    #[inline]
    pub fn follow(&mut self, thread: Thread, fd: RawFd, to: &Address, payload: &[u8]) -> bool {
        self.groups.follow(thread, fd, to, payload)
    }

    /// Takes a datagram into a group, or says that it is to pass. In either case, what has to leave
    /// before it has left.
    pub fn offer(&mut self, thread: Thread, fd: RawFd, to: SocketAddr, payload: &[u8]) -> bool {
        let opened = self.groups.admits(thread, fd, to, payload);
        if opened.is_none() {
            self.end_thread(thread);
        }
        // What holds for a group that is open holds for a datagram that joins it.
        let now = opened.unwrap_or_else(Instant::now);
        let len = payload.len();
        let is_known = opened.is_some() && self.is_fit(fd, to, len, now);
        if !is_known && let Err(why) = self.judge(fd, to, len, opened.is_none(), now) {
            count(why, 1);
            self.make_way(thread, fd, Some(to));
            return false;
        }
        let min = self.settings.min;
        let Self {
            groups,
            ended,
            sockets,
            ..
        } = self;
        if opened.is_some() {
            groups.join(thread, fd, to, ended);
        } else {
            let record = sockets.get_mut(&fd);
            let memory = record.map(|record| record.remember(to, len, min, now));
            let memory = memory.unwrap_or_default();
            groups.open(thread, fd, to, payload, memory, now, ended);
            table::hold(fd, true);
        }
        self.leave();
        true
    }

    /// Divides a call with many datagrams into groups and those that pass; `None` if all pass.
    pub fn divide(&mut self, fd: RawFd, datagrams: &mut [Datagram<'_>]) -> Option<Call> {
        let now = Instant::now();
        for (place, datagram) in datagrams.iter_mut().enumerate() {
            let judged = self.judge(fd, datagram.to, datagram.content.len(), place == 0, now);
            judged.unwrap_or_else(|why| {
                count(why, 1);
                datagram.fit = false;
            });
        }
        let call = within_call(datagrams, self.settings.min);
        (!call.groups.is_empty()).then_some(call)
    }

    /// Sends a group of a call.
    pub fn send(&mut self, fd: RawFd, payload: &[u8], to: Vec<SocketAddr>) {
        let group = Group::whole(fd, payload, to, Instant::now());
        count(Counter::Taken, group.to().len());
        match self.sockets.get_mut(&fd) {
            Some(record) => {
                if !record.send(&group, self.settings.min) {
                    record.memory.fit = None;
                }
            }
            None => one_by_one(&group, group.to(), Counter::FellBack, |_| ()),
        }
    }

    /// The kernel has taken a datagram from the program.
    pub fn taken(&mut self, fd: RawFd, to: SocketAddr) {
        if let Some(record) = self.sockets.get_mut(&fd) {
            record.destinations.taken(to);
        }
    }

    /// A datagram leaves past the groups.
    pub fn make_way(&mut self, thread: Thread, fd: RawFd, to: Option<SocketAddr>) {
        let Self { groups, ended, .. } = self;
        groups.make_way(thread, fd, to, ended);
        self.leave();
    }

    /// Ends the thread's group.
    pub fn end_thread(&mut self, thread: Thread) {
        let Self { groups, ended, .. } = self;
        groups.end_thread(thread, ended);
        self.leave();
    }

    /// Ends all groups.
    pub fn end_all(&mut self) {
        let Self { groups, ended, .. } = self;
        groups.end_all(ended);
        self.leave();
    }

    /// The socket is closed or changed: its groups end, and nothing is known of it any more.
    pub fn forget(&mut self, fd: RawFd) {
        let Self { groups, ended, .. } = self;
        groups.end_socket(fd, ended);
        self.leave();
        self.sockets.remove(&fd);
    }

    /// Closes what the library has opened.
    pub fn forget_all(&mut self) {
        self.end_all();
        self.sockets.clear();
    }

    /// Ends groups that are older than this, and looks after the routers. Returns whether there is
    /// anything to come back for soon.
    pub fn tick(&mut self, age: Duration) -> bool {
        let now = Instant::now();
        let Self { groups, ended, .. } = self;
        if let Some(opened) = now.checked_sub(age) {
            groups.end_older(opened, ended);
        }
        let open = !groups.is_empty();
        count(Counter::EndedByTimer, self.ended.len());
        self.leave();
        for record in self.sockets.values_mut() {
            if now.saturating_duration_since(record.used) < REMEMBERED {
                record.tend(now);
            }
        }
        open
    }

    /// Whether a datagram may be taken while a group of the socket is open: its destination has been
    /// judged before, and like the group's.
    fn is_fit(&self, fd: RawFd, to: SocketAddr, payload: usize, now: Instant) -> bool {
        let record = self.sockets.get(&fd);
        record.is_some_and(|record| match record.destinations.standing(to, now) {
            Standing::Fit(path) => {
                let ipv6 = path.source.is_ipv6();
                record.sources[usize::from(ipv6)] == Some(path.source)
                    && has_room(payload, self.settings.min, ipv6, path.mtu.min(MTU))
            }
            _ => false,
        })
    }

    /// Whether a datagram may be taken.
    fn judge(
        &mut self,
        fd: RawFd,
        to: SocketAddr,
        payload: usize,
        opens: bool,
        now: Instant,
    ) -> Result<(), Counter> {
        let ip = to.ip();
        if !self.settings.allows(ip) {
            return Err(Counter::NotAllowed);
        }
        if !is_routed(to) {
            return Err(Counter::Destination);
        }
        let record = match self.sockets.entry(fd) {
            Entry::Occupied(record) => record.into_mut(),
            Entry::Vacant(place) => {
                place.insert(Record::open(fd, self.settings, &self.watch, now)?)
            }
        };
        if opens && !record.is_of(fd, now) {
            self.sockets.remove(&fd);
            return Err(Counter::Socket);
        }
        record.judge(fd, to, payload, self.settings.min, opens, now)
    }

    /// Sends the groups that have ended.
    fn leave(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        // Its memory serves the next time.
        let mut ended = std::mem::take(&mut self.ended);
        for group in ended.drain(..) {
            let fd = group.socket;
            table::hold(fd, self.groups.count(fd) > 0);
            count(Counter::Taken, group.to().len());
            if group.followed > 0 {
                table::count_sends(fd, group.followed);
                table::repeated(fd, group.followed);
            }
            match self.sockets.get_mut(&fd) {
                Some(record) => {
                    let all_taken = record.send(&group, self.settings.min);
                    record.keep(group, all_taken);
                }
                None => one_by_one(&group, group.to(), Counter::FellBack, |_| ()),
            }
        }
        self.ended = ended;
    }
}

impl Record {
    fn open(fd: RawFd, settings: &Settings, watch: &Watch, now: Instant) -> Result<Self, Counter> {
        let traits = kernel::traits(fd);
        let native = matches!(settings.uplink, Uplink::Native { .. });
        let headers = match judge(&traits, u8::from(native)) {
            Ok(headers) => headers,
            Err(obstacle) => {
                if obstacle == Obstacle::Unfit {
                    table::unfit(fd);
                }
                return Err(Counter::Socket);
            }
        };
        let host = xcast_host::Settings {
            probing: Some(PROBING),
            watch: Some(watch.clone()),
            ..xcast_host::Settings::new(settings.uplink.clone())
        };
        let sender = Sender::new(Descriptor(fd), host).map_err(|_| Counter::Socket)?;
        let generation = table::generation(fd);
        let (Some(inode), Some(local)) = (kernel::inode(fd), traits.local) else {
            return Err(Counter::Socket);
        };
        Ok(Self {
            generation,
            inode,
            local,
            headers,
            traits,
            destinations: Destinations::default(),
            sources: [None; 2],
            memory: Memory::default(),
            sent_again: 0,
            sender,
            room: 0,
            tend_at: now,
            look_at: now,
            used: now,
        })
    }

    fn judge(
        &mut self,
        fd: RawFd,
        to: SocketAddr,
        payload: usize,
        min: usize,
        opens: bool,
        now: Instant,
    ) -> Result<(), Counter> {
        let ip = to.ip().to_canonical();
        self.used = now;
        self.tend(now);
        let mut standing = self.destinations.standing(to, now);
        if standing == Standing::New {
            return Err(Counter::NewDestination);
        }
        self.sender.source_for(ip).ok_or(Counter::NoRouter)?;
        self.sources[usize::from(ip.is_ipv6())] = None;
        if standing == Standing::Taken {
            self.destinations
                .looked(to, kernel::look(self.local.ip(), to), now);
            standing = self.destinations.standing(to, now);
        }
        let Standing::Fit(path) = standing else {
            return Err(Counter::Destination);
        };
        self.sender.go_toward(ip);
        let source = self.sender.source_for(ip).ok_or(Counter::NoRouter)?;
        if path.source != source {
            return Err(Counter::Destination);
        }
        if self.headers[usize::from(ip.is_ipv6())].is_none() {
            return Err(Counter::Socket);
        }
        if !has_room(payload, min, ip.is_ipv6(), path.mtu.min(MTU)) {
            return Err(Counter::Size);
        }
        if opens && self.traits.errors && kernel::has_error(fd) {
            return Err(Counter::Socket);
        }
        // What is taken cannot wait for room any more, nor can the program be told that there is none.
        if opens && self.room == 0 {
            if !self.sender.has_room(ip) {
                return Err(Counter::Congestion);
            }
            self.room = PACKETS_PER_LOOK;
        }
        self.sources[usize::from(ip.is_ipv6())] = Some(source);
        Ok(())
    }

    /// Whether the descriptor is still the same socket. It may have been closed behind the library's
    /// back, so the kernel is asked now and then. A process on the other side of a fork may change it at any time.
    fn is_of(&mut self, fd: RawFd, now: Instant) -> bool {
        if self.generation != table::generation(fd) {
            return false;
        }
        if table::is_inherited(fd) && kernel::traits(fd) != self.traits {
            return false;
        }
        if now < self.look_at {
            return true;
        }
        self.look_at = now + TEND;
        kernel::inode(fd) == Some(self.inode)
    }

    /// What is remembered for a group with this first destination.
    fn remember(&mut self, to: SocketAddr, payload: usize, min: usize, now: Instant) -> Memory {
        let mut memory = std::mem::take(&mut self.memory);
        let ipv6 = to.ip().to_canonical().is_ipv6();
        let source = self.sources[usize::from(ipv6)];
        memory.fit = memory.fit.filter(|fit| {
            now < fit.until
                && source == Some(fit.path.source)
                && has_room(payload, min, ipv6, fit.path.mtu.min(MTU))
        });
        memory
    }

    /// Keeps what a group leaves behind, whose datagrams the kernel has all taken, or not.
    fn keep(&mut self, group: Group, all_taken: bool) {
        let opened = group.opened;
        let mut memory = group.into_memory();
        // A destination that was refused is to be looked at.
        memory.fit = memory.fit.filter(|_| all_taken);
        if memory.fit.is_none() {
            memory.fit = self.destinations.fit(&memory.list, opened);
        }
        self.memory = memory;
    }

    /// Looks after the router, now and then.
    fn tend(&mut self, now: Instant) {
        if now >= self.tend_at {
            self.sender.tend();
            self.tend_at = now + TEND;
            self.count_sent_again();
        }
    }

    /// Counts what the router refused after it had left.
    fn count_sent_again(&mut self) {
        let all = self.sender.statistics().sent_again;
        count(Counter::SentAgain, (all - self.sent_again) as usize);
        self.sent_again = all;
    }

    /// Sends a group. Returns whether no destination was refused.
    fn send(&mut self, group: &Group, min: usize) -> bool {
        let destinations = &mut self.destinations;
        let mut all_taken = true;
        let mut refused = |to| {
            destinations.refused(to);
            all_taken = false;
        };
        let to = group.to();
        let family = to.first().map(|to| to.ip().to_canonical().is_ipv6());
        let options = self.headers[usize::from(family == Some(true))].as_ref();
        let Some(options) = options.filter(|_| to.len() >= min) else {
            one_by_one(group, to, Counter::Few, refused);
            return all_taken;
        };
        match self.sender.try_send_with(options, to, group.payload()) {
            Ok(sent) => {
                self.room = self.room.saturating_sub(sent.xcast_packets);
                count(Counter::XcastPackets, sent.xcast_packets);
                count(Counter::FellBack, sent.unicast_packets);
                count(Counter::Shared, to.len() - sent.unicast_packets);
            }
            Err(SendError::Unreached { failed, .. }) => {
                count(Counter::Failed, failed.len());
                count(Counter::FellBack, to.len() - failed.len());
                failed
                    .iter()
                    .map(|unreached| unreached.address)
                    .for_each(&mut refused);
            }
            Err(SendError::WouldBlock {
                sent, failed, rest, ..
            }) => {
                self.room = 0;
                count(Counter::XcastPackets, sent.xcast_packets);
                count(Counter::Failed, failed.len());
                let left = rest.len() + failed.len();
                count(Counter::Shared, to.len().saturating_sub(left));
                let is_left = |to: &&SocketAddr| {
                    let at = (to.ip().to_canonical(), to.port());
                    rest.iter()
                        .any(|rest| (rest.address.ip().to_canonical(), rest.address.port()) == at)
                };
                let rest: Vec<_> = to.iter().filter(is_left).copied().collect();
                one_by_one(group, &rest, Counter::FellBack, refused);
            }
            // Nothing has been sent.
            Err(_) => one_by_one(group, to, Counter::FellBack, refused),
        }
        all_taken
    }
}

/// Sends datagrams as the program would have.
fn one_by_one(
    group: &Group,
    to: &[SocketAddr],
    counter: Counter,
    mut refused: impl FnMut(SocketAddr),
) {
    for &to in to {
        match kernel::send(group.socket, to, group.payload()) {
            Ok(()) => count(counter, 1),
            Err(_) => {
                count(Counter::Failed, 1);
                refused(to);
            }
        }
    }
}
