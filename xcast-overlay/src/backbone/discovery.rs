//! Which neighbours speak Xcast: the "Xcast ping" of RFC 5058 section 11.2, without I/O or clock.
//!
//! A probe is an Xcast packet whose only destination is the router that sends it. A neighbour that
//! speaks Xcast returns it as unicast (X2U); any other drops it. It carries a nonce of 8 random octets,
//! so nobody who did not see the probe can answer it.
//!
//! A neighbour counts as incapable until it has returned a probe. Each proof holds for
//! [`Timing::hold`], and is renewed long before. A probe that does not return is repeated soon, so
//! that losing a proof takes several losses in a row. Who lost its proof has to return several probes in
//! a row before it counts again: traffic does not follow each whim of a bad link.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use crate::runtime::Random;

/// What identifies one probe, in octets as they are sent.
pub type Nonce = [u8; 8];

/// Probes of a neighbour whose return is still of use.
const OUTSTANDING: usize = 8;

/// How often neighbours are asked, and how long an answer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between a proof and the next probe; 25 % less to 25 % more of it.
    pub interval: Duration,
    /// Until a probe that did not return is repeated.
    pub timeout: Duration,
    /// How long a proof holds.
    pub hold: Duration,
    /// Proofs in a row that a neighbour needs which lost its proof before.
    pub proofs_after_loss: u32,
    /// Longest time between probes of a neighbour that never answers.
    pub slowest: Duration,
    /// Least time between any two probes.
    pub spacing: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(2),
            timeout: Duration::from_millis(400),
            hold: Duration::from_secs(5),
            proofs_after_loss: 3,
            slowest: Duration::from_secs(16),
            spacing: Duration::from_millis(2),
        }
    }
}

/// A probe to send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe<K> {
    /// The neighbour to send it to.
    pub neighbour: K,
    /// What it carries.
    pub nonce: Nonce,
}

/// Why a neighbour counts as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It returned a probe lately.
    Proven,
    /// It was never asked yet.
    New,
    /// It never returned a probe.
    Silent,
    /// It returned probes before, but no more.
    Lost,
    /// It lost its proof, and has not returned enough probes in a row since.
    OnTrial,
}

impl Standing {
    /// Whether lists may be sent to it.
    pub fn is_capable(self) -> bool {
        self == Self::Proven
    }
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour<K> {
    /// Which one it is.
    pub neighbour: K,
    /// Why it counts as it does.
    pub standing: Standing,
    /// Time since the last proof.
    pub proven_ago: Option<Duration>,
    /// Smoothed round-trip time of probes (RFC 6298's weights).
    pub round_trip: Option<Duration>,
    /// Probes sent.
    pub sent: u64,
    /// Probes that returned.
    pub returned: u64,
    /// How often it lost its proof.
    pub losses: u64,
}

/// Asks neighbours, and judges their answers.
#[derive(Debug)]
pub struct Discovery<K> {
    timing: Timing,
    random: Random,
    neighbours: BTreeMap<K, State>,
    probes: VecDeque<Probe<K>>,
    changes: VecDeque<(K, bool)>,
    /// No probe before this time.
    paused_until: Option<Instant>,
}

#[derive(Debug)]
struct State {
    next_probe: Instant,
    proven: Option<Instant>,
    capable: bool,
    /// Newest last.
    outstanding: VecDeque<(Nonce, Instant)>,
    /// Probes since the last one that returned.
    unanswered: u32,
    in_a_row: u32,
    round_trip: Option<Duration>,
    sent: u64,
    returned: u64,
    losses: u64,
}

impl State {
    fn standing(&self) -> Standing {
        match (self.capable, self.proven, self.sent) {
            (true, ..) => Standing::Proven,
            (false, None, 0) => Standing::New,
            (false, None, _) => Standing::Silent,
            (false, Some(_), _) if self.in_a_row > 0 => Standing::OnTrial,
            (false, Some(_), _) => Standing::Lost,
        }
    }
}

impl<K: Copy + Ord> Discovery<K> {
    /// Knows no neighbour yet.
    pub fn new(timing: Timing, random: Random) -> Self {
        Self {
            timing,
            random,
            neighbours: BTreeMap::new(),
            probes: VecDeque::new(),
            changes: VecDeque::new(),
            paused_until: None,
        }
    }

    /// From now on, this neighbour is asked. One that is asked already goes on as it is.
    pub fn add(&mut self, now: Instant, neighbour: K) {
        // Not all at once after a start.
        let first = self.random.jitter(self.timing.timeout / 4, 1.0);
        self.neighbours.entry(neighbour).or_insert_with(|| State {
            next_probe: now + first,
            proven: None,
            capable: false,
            outstanding: VecDeque::new(),
            unanswered: 0,
            in_a_row: 0,
            round_trip: None,
            sent: 0,
            returned: 0,
            losses: 0,
        });
    }

    /// The same for one that somebody trustworthy found capable a moment ago: it counts as such, and has as long to prove
    /// it again as a proof holds.
    pub fn add_proven(&mut self, now: Instant, neighbour: K) {
        self.add(now, neighbour);
        if let Some(state) = self.neighbours.get_mut(&neighbour)
            && state.proven.is_none()
        {
            state.proven = Some(now);
            state.capable = true;
            self.changes.push_back((neighbour, true));
        }
    }

    /// Asks this neighbour no more. If it was capable, it is not any longer.
    pub fn remove(&mut self, neighbour: K) {
        if let Some(state) = self.neighbours.remove(&neighbour)
            && state.capable
        {
            self.changes.push_back((neighbour, false));
        }
    }

    /// Whether this neighbour is asked.
    pub fn is_asked(&self, neighbour: K) -> bool {
        self.neighbours.contains_key(&neighbour)
    }

    /// Whether this neighbour is asked, and counts as capable.
    pub fn is_capable(&self, neighbour: K) -> bool {
        let state = self.neighbours.get(&neighbour);
        state.is_some_and(|state| state.capable)
    }

    /// Something happened to the neighbour (its link came up, its link-layer address is known): it is asked at once.
    pub fn hurry(&mut self, now: Instant, neighbour: K) {
        if let Some(state) = self.neighbours.get_mut(&neighbour) {
            state.next_probe = state.next_probe.min(now);
            state.unanswered = 0;
        }
    }

    /// A probe returned from the interface of `neighbour`. Returns whether it was one of those under way: an answer
    /// counts once.
    pub fn returned(&mut self, now: Instant, nonce: &Nonce) -> bool {
        let timing = self.timing;
        let random = &mut self.random;
        let asked = self.neighbours.iter_mut().find_map(|(key, state)| {
            let at = state
                .outstanding
                .iter()
                .position(|(known, _)| known == nonce)?;
            Some((*key, state, at))
        });
        let Some((key, state, at)) = asked else {
            return false;
        };
        let Some((_, sent)) = state.outstanding.remove(at) else {
            return false;
        };
        // Older ones are lost, or late: either way this one says more.
        state.outstanding.drain(..at);
        let measured = now.saturating_duration_since(sent);
        state.round_trip = Some(match state.round_trip {
            None => measured,
            Some(smoothed) => (smoothed * 7 + measured) / 8,
        });
        state.returned += 1;
        state.in_a_row = match state.unanswered {
            // The one that returned is counted as unanswered until now.
            0 | 1 => state.in_a_row + 1,
            _ => 1,
        };
        state.unanswered = 0;
        state.proven = Some(now);
        let needed = match state.losses {
            0 => 1,
            _ => timing.proofs_after_loss,
        };
        if !state.capable && state.in_a_row >= needed {
            state.capable = true;
            self.changes.push_back((key, true));
        }
        // Whoever is on trial is asked soon again.
        let wait = if state.capable {
            timing.interval
        } else {
            timing.timeout
        };
        state.next_probe = now + random.jitter(wait, 0.25);
        true
    }

    /// Does what is due: proofs lapse, and probes become due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (key, state) in &mut self.neighbours {
            let lapsed = |proven: Instant| now >= proven + self.timing.hold;
            if state.capable && state.proven.is_some_and(lapsed) {
                state.capable = false;
                state.in_a_row = 0;
                state.losses += 1;
                // The back-off begins here, not when the losses did.
                state.unanswered = 0;
                self.changes.push_back((*key, false));
            }
        }
        while self.paused_until.is_none_or(|until| until <= now) {
            let due = self
                .neighbours
                .iter_mut()
                .filter(|(_, state)| state.next_probe <= now);
            let Some((key, state)) = due.min_by_key(|(_, state)| state.next_probe) else {
                break;
            };
            let nonce = self.random.octets();
            if state.outstanding.len() == OUTSTANDING {
                state.outstanding.pop_front();
            }
            state.outstanding.push_back((nonce, now));
            state.sent += 1;
            state.unanswered += 1;
            if state.unanswered > 1 && !state.capable {
                state.in_a_row = 0;
            }
            let wait = if state.capable {
                self.timing.timeout
            } else {
                let doubled = self.timing.timeout * (1 << (state.unanswered - 1).min(10));
                doubled.min(self.timing.slowest)
            };
            state.next_probe = now + self.random.jitter(wait, 0.25);
            self.probes.push_back(Probe {
                neighbour: *key,
                nonce,
            });
            self.paused_until = Some(now + self.timing.spacing);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        let probe = self.neighbours.values().map(|state| state.next_probe).min();
        let probe = probe.map(|at| self.paused_until.map_or(at, |until| at.max(until)));
        let capable = self.neighbours.values().filter(|state| state.capable);
        let lapse = capable.filter_map(|state| state.proven).min();
        let lapse = lapse.map(|proven| proven + self.timing.hold);
        [probe, lapse].into_iter().flatten().min()
    }

    /// The next probe to send.
    pub fn poll_probe(&mut self) -> Option<Probe<K>> {
        self.probes.pop_front()
    }

    /// The next neighbour that counts as capable from now on, or does so no longer.
    pub fn poll_change(&mut self) -> Option<(K, bool)> {
        self.changes.pop_front()
    }

    /// What is known of each neighbour, in their order.
    pub fn neighbours(&self, now: Instant) -> impl Iterator<Item = Neighbour<K>> {
        self.neighbours.iter().map(move |(key, state)| Neighbour {
            neighbour: *key,
            standing: state.standing(),
            proven_ago: state
                .proven
                .map(|proven| now.saturating_duration_since(proven)),
            round_trip: state.round_trip,
            sent: state.sent,
            returned: state.returned,
            losses: state.losses,
        })
    }
}

#[cfg(test)]
mod tests;
