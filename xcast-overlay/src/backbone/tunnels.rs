//! Which tunnels work, and how packets are to be carried through them.
//!
//! A tunnel carries traffic only while it is proven, by [probes](super::discovery) that the other router answers. Each
//! way in which packets may be carried is asked by itself, all the time, so that the next one is known to work when one
//! fails: a path that drops protocol 4 leaves UDP.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    discovery::{Discovery, Nonce, Probe, Timing},
    path_mtu::PathMtu,
};
use crate::runtime::Random;

/// How packets are carried, the cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Directly in IP (protocols 4 and 41).
    Ip,
    /// Inside UDP, for paths that drop those.
    Udp,
}

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ip, Self::Udp];
}

/// What a tunnel can do at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carriage {
    /// How to carry packets; `None` while nothing is proven.
    pub mode: Option<Mode>,
    /// The path MTU, in octets, if a router reported one.
    pub mtu_bytes: Option<u16>,
}

/// What is known of one way to carry packets through a tunnel; see [`Neighbour`](super::discovery::Neighbour).
pub type Way<K> = super::discovery::Neighbour<(K, Mode)>;

/// Asks tunnels, and judges their answers. Keys say which tunnel.
#[derive(Debug)]
pub struct Tunnels<K> {
    discovery: Discovery<(K, Mode)>,
    tunnels: BTreeMap<K, State>,
    changes: VecDeque<K>,
}

#[derive(Debug)]
struct State {
    is_ipv6: bool,
    modes: Vec<Mode>,
    /// Those that work.
    proven: Vec<Mode>,
    path_mtu: PathMtu,
}

impl State {
    fn carriage(&self) -> Carriage {
        Carriage {
            mode: self.proven.iter().min().copied(),
            mtu_bytes: self.path_mtu.bytes(),
        }
    }
}

impl<K: Copy + Ord> Tunnels<K> {
    /// Knows no tunnel yet.
    pub fn new(timing: Timing, random: Random) -> Self {
        Self {
            discovery: Discovery::new(timing, random),
            tunnels: BTreeMap::new(),
            changes: VecDeque::new(),
        }
    }

    /// From now on, this tunnel is asked in these ways. Its outer headers are of IPv6, or of IPv4.
    pub fn add(&mut self, now: Instant, tunnel: K, is_ipv6: bool, modes: &[Mode]) {
        for &mode in modes {
            self.discovery.add(now, (tunnel, mode));
        }
        self.tunnels.entry(tunnel).or_insert_with(|| State {
            is_ipv6,
            modes: modes.to_vec(),
            proven: Vec::new(),
            path_mtu: PathMtu::default(),
        });
    }

    /// Something happened to the way to the other router: the tunnel is asked at once.
    pub fn hurry(&mut self, now: Instant, tunnel: K) {
        for &mode in self
            .tunnels
            .get(&tunnel)
            .map_or(&[][..], |state| &state.modes)
        {
            self.discovery.hurry(now, (tunnel, mode));
        }
    }

    /// A probe was answered. Returns whether it was one of those under way.
    pub fn returned(&mut self, now: Instant, nonce: &Nonce) -> bool {
        let is_known = self.discovery.returned(now, nonce);
        self.take_changes();
        is_known
    }

    /// A router on the path reports that a packet was too big; see [`PathMtu::too_big`].
    pub fn too_big(&mut self, now: Instant, tunnel: K, mtu_bytes: u32) {
        if let Some(state) = self.tunnels.get_mut(&tunnel)
            && state.path_mtu.too_big(now, mtu_bytes, state.is_ipv6)
        {
            self.changes.push_back(tunnel);
        }
    }

    /// Does what is due: proofs and path MTUs lapse, and probes become due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.discovery.handle_timeout(now);
        self.take_changes();
        for (tunnel, state) in &mut self.tunnels {
            if state.path_mtu.lapse(now) {
                self.changes.push_back(*tunnel);
            }
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        let lapses = self.tunnels.values();
        let lapse = lapses.filter_map(|state| state.path_mtu.lapses_at()).min();
        [self.discovery.poll_timeout(), lapse]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next probe to send.
    pub fn poll_probe(&mut self) -> Option<Probe<(K, Mode)>> {
        self.discovery.poll_probe()
    }

    /// The next tunnel that can do something else than before.
    pub fn poll_change(&mut self) -> Option<(K, Carriage)> {
        let tunnel = self.changes.pop_front()?;
        Some((tunnel, self.carriage(tunnel)))
    }

    /// What a tunnel can do at present.
    pub fn carriage(&self, tunnel: K) -> Carriage {
        self.tunnels
            .get(&tunnel)
            .map(State::carriage)
            .unwrap_or_default()
    }

    /// What is known of each way through each tunnel, in order.
    pub fn ways(&self, now: Instant) -> impl Iterator<Item = Way<K>> {
        self.discovery.neighbours(now)
    }

    /// For how long a path MTU holds yet.
    pub fn mtu_lapses_in(&self, now: Instant, tunnel: K) -> Option<Duration> {
        let at = self.tunnels.get(&tunnel)?.path_mtu.lapses_at()?;
        Some(at.saturating_duration_since(now))
    }

    fn take_changes(&mut self) {
        while let Some(((tunnel, mode), proven)) = self.discovery.poll_change() {
            let Some(state) = self.tunnels.get_mut(&tunnel) else {
                continue;
            };
            let before = state.carriage();
            state.proven.retain(|&other| other != mode);
            if proven {
                state.proven.push(mode);
            }
            if state.carriage() != before {
                self.changes.push_back(tunnel);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that lets some modes through, for as long as a test wants.
    struct Path {
        tunnels: Tunnels<u8>,
        now: Instant,
        changes: Vec<Option<Mode>>,
    }

    impl Path {
        fn new() -> Self {
            let now = Instant::now();
            let mut tunnels = Tunnels::new(Timing::default(), Random::from_number(20));
            tunnels.add(now, 7, false, &Mode::ALL);
            Self {
                tunnels,
                now,
                changes: Vec::new(),
            }
        }

        fn run(&mut self, span: Duration, passes: &[Mode]) {
            let end = self.now + span;
            while let Some(next) = self.tunnels.poll_timeout().filter(|next| *next < end) {
                self.now = self.now.max(next);
                self.tunnels.handle_timeout(self.now);
                while let Some(probe) = self.tunnels.poll_probe() {
                    let (tunnel, mode) = probe.neighbour;
                    assert_eq!(tunnel, 7);
                    if passes.contains(&mode) {
                        assert!(self.tunnels.returned(self.now, &probe.nonce));
                    }
                }
                while let Some((_, carriage)) = self.tunnels.poll_change() {
                    self.changes.push(carriage.mode);
                }
            }
            self.now = end;
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_cheapest_way_that_passes_is_taken() {
        let mut path = Path::new();
        path.run(MINUTE, &[]);
        assert_eq!(path.changes, []);
        path.run(MINUTE, &[Mode::Udp]);
        assert_eq!(path.changes, [Some(Mode::Udp)]);
        path.run(MINUTE, &Mode::ALL);
        assert_eq!(path.changes[1..], [Some(Mode::Ip)]);
        path.run(MINUTE, &[Mode::Udp]);
        assert_eq!(path.changes[2..], [Some(Mode::Udp)]);
        path.run(MINUTE, &[]);
        assert_eq!(path.changes[3..], [None]);
    }

    /// The other way is known to work when one fails: there is no time without any.
    #[test]
    fn a_way_that_fails_is_replaced_at_once() {
        let mut path = Path::new();
        path.run(MINUTE, &Mode::ALL);
        let failed = path.now;
        path.changes.clear();
        while path.changes.is_empty() {
            path.run(Duration::from_millis(100), &[Mode::Udp]);
        }
        assert_eq!(path.changes, [Some(Mode::Udp)]);
        assert!(path.now - failed <= Timing::default().hold + Duration::from_millis(100));
    }

    #[test]
    fn a_path_mtu_is_told_and_lapses() {
        let mut path = Path::new();
        path.run(MINUTE, &Mode::ALL);
        path.tunnels.too_big(path.now, 7, 1400);
        path.tunnels.too_big(path.now, 8, 1400);
        let carriage = Carriage {
            mode: Some(Mode::Ip),
            mtu_bytes: Some(1400),
        };
        assert_eq!(path.tunnels.poll_change(), Some((7, carriage)));
        assert_eq!(path.tunnels.poll_change(), None);
        path.run(11 * MINUTE, &Mode::ALL);
        assert_eq!(path.tunnels.carriage(7).mtu_bytes, None);
        assert_eq!(path.tunnels.carriage(8), Carriage::default());
    }
}
