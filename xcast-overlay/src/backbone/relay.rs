//! What a relay grants to sources that ask it, without I/O or clock: cookies, and ports of its own.
//!
//! A relay serves whoever proves that it receives at the address that it sends from, by a cookie as in DNS (RFC 7873,
//! RFC 9018): a hash under a key that only relays have. Nothing is kept for a source, so there is nothing that a flood could
//! fill. The key follows from a secret and the number of an epoch, so relays with the same secret and the same time
//! take each other's cookies, as those behind one anycast address have to.
//!
//! A relayed port is the exception: a source that wants its packets to come from the relay's own address gets a port there
//! (as an allocation of TURN, RFC 8656), and what is sent to that port is handed on to it. There are only so many.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use xcast_common::{
    maps::{COOKIE_KEYS, CookieKey},
    wire::{
        Be32, Be128,
        cookie::{self, Wanted},
    },
};

/// How long the key of an epoch is the newest one, in seconds. Cookies hold for one to two epochs.
pub const EPOCH_SECONDS: u64 = 120;
/// How long a relayed port stays with a source that does not ask any more.
pub const PORT_LIFETIME: Duration = Duration::from_secs(120);

/// How long a cookie holds that is made now: at least as long as this.
const LIFETIME: Duration = Duration::from_secs(EPOCH_SECONDS);

/// What a relay is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Known to nobody else than the relays with the same address.
    pub secret: [u8; 16],
    /// A number of this relay's own, the same for those that take over from it.
    pub instance: u32,
    /// Questions answered in a second, at most.
    pub questions_per_second: u32,
    /// Ports for packets that come from the relay's own address, if it has any.
    pub relayed_ports: Option<RangeInclusive<u16>>,
    /// The port of Xcast inside UDP, if packets with envelopes may come from there.
    pub envelope_port: Option<u16>,
    /// Copies in a second from which on the relay says that it has too much to do.
    pub capacity: u32,
}

/// What a source asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Where the question came from.
    pub source: SocketAddr,
    /// The address of the relay that it came to.
    pub at: IpAddr,
    /// The cookie that the source has already; zeroes for none.
    pub cookie: [u8; cookie::LEN],
    /// The source wants its packets to come from the relay's own address.
    pub wants: Option<Wanted>,
}

/// What a source gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The cookie for packets with the source's own address.
    pub cookie: [u8; cookie::LEN],
    /// The cookie for packets from a port of the relay.
    pub relayed: Option<[u8; cookie::LEN]>,
    /// How long both hold.
    pub lifetime: Duration,
}

/// A relayed port that a source has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The port.
    pub port: u16,
    /// The relay's address that it is at: the one that was asked.
    pub at: IpAddr,
    /// To whom what comes there is handed on.
    pub source: SocketAddr,
}

/// A change of the relayed ports that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A socket is to be opened for this one.
    Open(Allocation),
    /// That of this port is to be closed.
    Close(u16),
}

/// What a relay had to do in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Copies made.
    pub copies: u64,
    /// Copies and packets lost because there were too many.
    pub lost: u64,
}

/// The state of a relay.
#[derive(Debug)]
pub struct Relay {
    settings: Settings,
    /// By the source's address.
    allocations: BTreeMap<SocketAddr, (Allocation, Instant)>,
    changes: Vec<Change>,
    /// Answers in the second that began at this time.
    answers: (Option<Instant>, u32),
    /// Copies in a second, smoothed, and whether any were lost lately.
    copies_per_second: f64,
    losing: bool,
    statistics: Statistics,
}

/// What a relay has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Questions answered.
    pub answered: u64,
    /// Questions not answered, because there were too many.
    pub ignored: u64,
    /// Wishes for a port of the relay that could not be fulfilled.
    pub without_port: u64,
    /// Time since the last answer.
    pub last_answer: Option<Instant>,
}

impl Relay {
    /// A relay that nobody has asked yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            allocations: BTreeMap::new(),
            changes: Vec::new(),
            answers: (None, 0),
            copies_per_second: 0.0,
            losing: false,
            statistics: Statistics::default(),
        }
    }

    /// The keys by their [places](CookieKey::place), at this number of seconds since 1970: of the current epoch, of the
    /// one before, and of the next one, which cookies have from the moment at which it begins.
    pub fn keys(&self, unix_seconds: u64) -> [CookieKey; COOKIE_KEYS] {
        let mut keys = [CookieKey::default(); COOKIE_KEYS];
        let epoch = epoch(unix_seconds);
        for epoch in epoch - 1..=epoch + 1 {
            keys[CookieKey::place(epoch) as usize] = self.key(epoch);
        }
        keys
    }

    fn key(&self, epoch: u32) -> CookieKey {
        let [high, low] = self.secret();
        // SipHash as a pseudorandom function of the epoch.
        let word = |number| cookie::siphash([high, low], [number, epoch.into(), 0]);
        CookieKey {
            epoch,
            instance: self.settings.instance,
            key: [word(0), word(1)],
        }
    }

    fn secret(&self) -> [u64; 2] {
        let secret = u128::from_be_bytes(self.settings.secret);
        [(secret >> 64) as u64, secret as u64]
    }

    /// Answers a question that came from `source` to this relay's address `at`; `None` if it has answered enough for
    /// now. Who has a cookie already is answered in any case: a flood with forged addresses keeps no source from
    /// what it has.
    pub fn ask(&mut self, now: Instant, unix_seconds: u64, wish: &Wish) -> Option<Grant> {
        let Wish {
            source,
            at,
            cookie,
            wants,
        } = *wish;
        if !self.is_cookie(unix_seconds, source, &cookie) && !self.may_answer(now) {
            self.statistics.ignored += 1;
            return None;
        }
        self.statistics.answered += 1;
        self.statistics.last_answer = Some(now);
        let port = wants.and_then(|wanted| {
            let port = match wanted {
                Wanted::Port => self.allocate(now, source, at),
                Wanted::Envelopes => self.settings.envelope_port,
            };
            self.statistics.without_port += u64::from(port.is_none());
            port
        });
        let key = self.key(epoch(unix_seconds));
        Some(Grant {
            cookie: make(&key, source, 0),
            relayed: port.map(|port| make(&key, source, port)),
            lifetime: LIFETIME,
        })
    }

    /// Whether the datapath takes this for a cookie of the source.
    fn is_cookie(&self, unix_seconds: u64, source: SocketAddr, octets: &[u8; cookie::LEN]) -> bool {
        let [.., a, b, c, d] = octets[..cookie::HASH] else {
            return false;
        };
        let given = u32::from_be_bytes([a, b, c, d]);
        let key = self.keys(unix_seconds)[CookieKey::place(given) as usize];
        let port = u16::from_be_bytes([
            octets[cookie::RELAYED_PORT],
            octets[cookie::RELAYED_PORT + 1],
        ]);
        key.epoch != 0 && key.epoch == given && *octets == make(&key, source, port)
    }

    /// Whether one more who has not proven anything is answered now; counts it, if so.
    fn may_answer(&mut self, now: Instant) -> bool {
        let (began, count) = &mut self.answers;
        if began.is_none_or(|began| now >= began + Duration::from_secs(1)) {
            (*began, *count) = (Some(now), 0);
        }
        let may = *count < self.settings.questions_per_second;
        *count += u32::from(may);
        may
    }

    /// The source's port, or a free one for it.
    fn allocate(&mut self, now: Instant, source: SocketAddr, at: IpAddr) -> Option<u16> {
        self.expire(now);
        let ports = self.settings.relayed_ports.clone()?;
        if let Some((allocation, until)) = self.allocations.get_mut(&source)
            && allocation.at == at
        {
            *until = now + PORT_LIFETIME;
            return Some(allocation.port);
        }
        if let Some((old, _)) = self.allocations.remove(&source) {
            self.changes.push(Change::Close(old.port));
        }
        let taken = |port: &u16| {
            let mut allocations = self.allocations.values();
            allocations.any(|(allocation, _)| allocation.port == *port)
        };
        let port = ports.into_iter().find(|port| !taken(port))?;
        let allocation = Allocation { port, at, source };
        self.allocations
            .insert(source, (allocation, now + PORT_LIFETIME));
        self.changes.push(Change::Open(allocation));
        Some(port)
    }

    /// Takes ports from sources that do not ask any more.
    pub fn expire(&mut self, now: Instant) {
        let changes = &mut self.changes;
        self.allocations.retain(|_, (allocation, until)| {
            let stays = now < *until;
            if !stays {
                changes.push(Change::Close(allocation.port));
            }
            stays
        });
    }

    /// Changes of relayed ports since this was last asked, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// A socket could not be opened: the source gets its port no longer.
    pub fn give_up(&mut self, port: u16) {
        self.allocations
            .retain(|_, (allocation, _)| allocation.port != port);
    }

    /// Takes note of what there was to do in some time.
    pub fn note(&mut self, work: Work, time: Duration) {
        let seconds = time.as_secs_f64();
        if seconds > 0.0 {
            let measured = work.copies as f64 / seconds;
            self.copies_per_second = (self.copies_per_second + measured) / 2.0;
        }
        // One in a hundred is no trouble.
        self.losing = work.lost * 100 > work.copies;
    }

    /// How much there is to do, in percent of the capacity.
    pub fn load_percent(&self) -> u8 {
        let capacity = f64::from(self.settings.capacity.max(1));
        (100.0 * self.copies_per_second / capacity).min(255.0) as u8
    }

    /// Whether that is too much.
    pub fn is_busy(&self) -> bool {
        self.losing || self.load_percent() >= 100
    }

    /// The relayed ports that sources have, in the order of sources.
    pub fn allocations(&self) -> impl Iterator<Item = &Allocation> {
        self.allocations.values().map(|(allocation, _)| allocation)
    }

    /// What was done so far.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }
}

/// Number of the epoch; never 0, which stands for no key.
fn epoch(unix_seconds: u64) -> u32 {
    ((unix_seconds / EPOCH_SECONDS) as u32).max(2)
}

fn make(key: &CookieKey, source: SocketAddr, relayed_port: u16) -> [u8; cookie::LEN] {
    let hash = match source.ip() {
        IpAddr::V4(address) => key.hash(Be32::from(address), source.port(), relayed_port),
        IpAddr::V6(address) => key.hash(Be128::from(address), source.port(), relayed_port),
    };
    let mut octets = [0; cookie::LEN];
    octets[0] = cookie::KIND;
    octets[cookie::RELAYED_PORT..cookie::EPOCH].copy_from_slice(&relayed_port.to_be_bytes());
    octets[cookie::EPOCH..cookie::HASH].copy_from_slice(&key.epoch.to_be_bytes());
    octets[cookie::HASH..].copy_from_slice(&hash.to_be_bytes());
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn settings() -> Settings {
        Settings {
            secret: [7; 16],
            instance: 1,
            questions_per_second: 3,
            relayed_ports: Some(5000..=5001),
            envelope_port: Some(4242),
            capacity: 1000,
        }
    }

    fn source(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 4000).into()
    }

    fn at() -> IpAddr {
        [198, 51, 100, 1].into()
    }

    fn wish(last: u8, wants: Option<Wanted>) -> Wish {
        Wish {
            source: source(last),
            at: at(),
            cookie: [0; 16],
            wants,
        }
    }

    /// Whether the datapath would take a cookie, which has these keys.
    fn holds(keys: [CookieKey; COOKIE_KEYS], octets: &[u8; 16], source: SocketAddr) -> bool {
        let be16 = |at: usize| u16::from_be_bytes([octets[at], octets[at + 1]]);
        let epoch = u32::from_be_bytes(octets[4..8].try_into().unwrap());
        let hash = u64::from_be_bytes(octets[8..].try_into().unwrap());
        let IpAddr::V4(address) = source.ip() else {
            return false;
        };
        let key = keys.into_iter().find(|key| key.epoch == epoch);
        key.is_some_and(|key| key.hash(Be32::from(address), source.port(), be16(2)) == hash)
    }

    #[test]
    fn a_cookie_holds_for_its_source_and_for_one_to_two_epochs() {
        let now = Instant::now();
        let mut relay = Relay::new(settings());
        let grant = relay.ask(now, NOW, &wish(1, None)).unwrap();
        assert_eq!(grant.relayed, None);
        let later = |seconds| relay.keys(NOW + seconds);
        assert!(holds(later(0), &grant.cookie, source(1)));
        assert!(!holds(later(0), &grant.cookie, source(2)));
        let other_port = SocketAddr::new(source(1).ip(), 4001);
        assert!(!holds(later(0), &grant.cookie, other_port));
        assert!(holds(
            later(grant.lifetime.as_secs()),
            &grant.cookie,
            source(1)
        ));
        assert!(!holds(later(2 * EPOCH_SECONDS), &grant.cookie, source(1)));
        let other = Relay::new(Settings {
            secret: [8; 16],
            ..settings()
        });
        assert!(!holds(other.keys(NOW), &grant.cookie, source(1)));
        // Another instance with the same secret.
        assert!(holds(
            Relay::new(settings()).keys(NOW),
            &grant.cookie,
            source(1)
        ));
        // One field changed.
        let mut forged = grant.cookie;
        forged[3] = 1;
        assert!(!holds(later(0), &forged, source(1)));
    }

    #[test]
    fn only_so_many_questions_are_answered() {
        let now = Instant::now();
        let mut relay = Relay::new(settings());
        let mut ask = |now, wish: &Wish| relay.ask(now, NOW, wish);
        let stranger = wish(1, None);
        let cookie = ask(now, &stranger).unwrap().cookie;
        assert!(ask(now, &stranger).is_some() && ask(now, &stranger).is_some());
        assert_eq!(ask(now, &stranger), None);
        // Who has a cookie of its own is answered, and nobody else with it.
        let known = Wish { cookie, ..stranger };
        assert!(ask(now, &known).is_some());
        let thief = Wish {
            cookie,
            ..wish(2, None)
        };
        assert_eq!(ask(now, &thief), None);
        assert!(ask(now + Duration::from_secs(1), &stranger).is_some());
        assert_eq!(relay.statistics().ignored, 2);
    }

    #[test]
    fn relayed_ports_are_kept_while_they_are_asked_for_and_then_free() {
        let start = Instant::now();
        let mut relay = Relay::new(settings());
        let mut port = |now, last| {
            let grant = relay
                .ask(now, NOW, &wish(last, Some(Wanted::Port)))
                .unwrap();
            let port = grant
                .relayed
                .map(|octets| u16::from_be_bytes([octets[2], octets[3]]));
            (port, relay.take_changes())
        };
        let open = |port, last| {
            Change::Open(Allocation {
                port,
                at: at(),
                source: source(last),
            })
        };
        assert_eq!(port(start, 1), (Some(5000), vec![open(5000, 1)]));
        assert_eq!(port(start, 2), (Some(5001), vec![open(5001, 2)]));
        assert_eq!(port(start, 3), (None, vec![]));
        let later = start + PORT_LIFETIME / 2;
        assert_eq!(port(later, 1), (Some(5000), vec![]));
        let end = start + PORT_LIFETIME;
        let changes = vec![Change::Close(5001), open(5001, 3)];
        assert_eq!(port(end, 3), (Some(5001), changes));
        assert_eq!(relay.allocations().count(), 2);
        assert_eq!(relay.statistics().without_port, 1);
    }

    #[test]
    fn the_port_of_envelopes_is_shared_by_all() {
        let now = Instant::now();
        let mut relay = Relay::new(settings());
        for last in 1..=3 {
            let wish = wish(last, Some(Wanted::Envelopes));
            let cookie = relay.ask(now, NOW, &wish).unwrap().relayed.unwrap();
            assert_eq!(cookie[2..4], 4242_u16.to_be_bytes());
            assert!(holds(relay.keys(NOW), &cookie, source(last)));
        }
        assert_eq!(
            (relay.allocations().count(), relay.take_changes()),
            (0, vec![])
        );
        let mut without = Relay::new(Settings {
            envelope_port: None,
            ..settings()
        });
        let wish = wish(1, Some(Wanted::Envelopes));
        assert_eq!(without.ask(now, NOW, &wish).unwrap().relayed, None);
        assert_eq!(without.statistics().without_port, 1);
    }

    #[test]
    fn a_port_is_one_of_the_relay_that_gave_it() {
        let now = Instant::now();
        let [mut one, other] = [1, 2].map(|instance| {
            Relay::new(Settings {
                instance,
                ..settings()
            })
        });
        let grant = one.ask(now, NOW, &wish(1, Some(Wanted::Port))).unwrap();
        // Those with one anycast address have the same secret.
        assert!(holds(other.keys(NOW), &grant.cookie, source(1)));
        let relayed = grant.relayed.unwrap();
        assert!(holds(one.keys(NOW), &relayed, source(1)));
        assert!(!holds(other.keys(NOW), &relayed, source(1)));
    }

    #[test]
    fn it_is_busy_at_its_capacity_or_while_it_loses() {
        let mut relay = Relay::new(settings());
        let second = Duration::from_secs(1);
        let work = |copies, lost| Work { copies, lost };
        relay.note(work(100, 0), second);
        assert!(!relay.is_busy() && relay.load_percent() == 5);
        for _ in 0..10 {
            relay.note(work(1100, 0), second);
        }
        assert!(relay.is_busy());
        for _ in 0..10 {
            relay.note(work(100, 0), second);
        }
        assert!(!relay.is_busy());
        relay.note(work(100, 2), second);
        assert!(relay.is_busy());
    }
}
