//! Whether a neighbour that speaks Xcast also forwards it: probes that have to pass through it (RFC 5058 section 11.2
//! leaves open what a returned ping is worth). Without I/O or clock.
//!
//! A neighbour may return what is for the sender itself and forward nothing: its routes, its filters or its other links may be
//! in the way. So where some host or router is known behind it, two echo requests go there together: one inside an
//! Xcast packet, which the neighbour has to make into unicast, and an ordinary one. If only the ordinary one is answered, the
//! neighbour swallowed the other. If neither is, nothing is known about the neighbour: the far end, or the way to it, is
//! at fault, and unicast fares no better.
//!
//! One verdict takes several rounds in a row, so that lost packets cause none, and it stands until rounds contradict it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use crate::runtime::Random;

/// What identifies one request, in octets as they are sent.
pub type Nonce = [u8; 8];

/// How often it is tried, and how many rounds decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between rounds that say what was known before; 25 % less to 25 % more of it.
    pub interval: Duration,
    /// How long a round waits for answers.
    pub timeout: Duration,
    /// Rounds in a row without the answer by Xcast, but with the other, until the neighbour counts as one that swallows.
    pub strikes: u32,
    /// Rounds in a row with the answer by Xcast until such a neighbour counts as one that forwards.
    pub proofs_after_loss: u32,
    /// Rounds in a row without any answer until a neighbour that was never tried does without.
    pub dark: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(2),
            timeout: Duration::from_millis(400),
            strikes: 5,
            proofs_after_loss: 3,
            dark: 5,
        }
    }
}

/// Two requests to send now, to the same far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round<K, F> {
    /// The neighbour that both go through.
    pub neighbour: K,
    /// Where they go.
    pub beyond: F,
    /// What the one inside an Xcast packet carries.
    pub xcast: Nonce,
    /// What the ordinary one carries.
    pub unicast: Nonce,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not tried often enough.
    Untried,
    /// What goes through it by Xcast arrives.
    Forwards,
    /// What goes through it by Xcast is lost, while unicast arrives.
    Swallows,
    /// Nobody known behind it answers unicast, so it cannot be tried.
    Dark,
}

impl Verdict {
    /// Whether lists may be sent through the neighbour, as far as this goes.
    pub fn allows_lists(self) -> bool {
        matches!(self, Self::Forwards | Self::Dark)
    }
}

/// Tries neighbours.
#[derive(Debug)]
pub struct Passage<K, F> {
    timing: Timing,
    random: Random,
    neighbours: BTreeMap<K, State<F>>,
    rounds: VecDeque<Round<K, F>>,
    changes: VecDeque<K>,
}

#[derive(Debug)]
struct State<F> {
    beyond: F,
    verdict: Verdict,
    next: Instant,
    open: Option<Open>,
    /// Rounds in a row that say the same: by Xcast answered, only by unicast answered, not answered.
    in_a_row: [u32; 3],
}

/// A round under way.
#[derive(Clone, Copy, Debug)]
struct Open {
    xcast: Nonce,
    unicast: Nonce,
    came: [bool; 2],
    until: Instant,
}

impl<K: Copy + Ord, F: Copy + PartialEq> Passage<K, F> {
    /// Knows no neighbour yet.
    pub fn new(timing: Timing, random: Random) -> Self {
        Self {
            timing,
            random,
            neighbours: BTreeMap::new(),
            rounds: VecDeque::new(),
            changes: VecDeque::new(),
        }
    }

    /// This far end is known to be behind the neighbour; `None` if nobody is. What was found out by another one stands.
    pub fn set_beyond(&mut self, now: Instant, neighbour: K, beyond: Option<F>) {
        let Some(beyond) = beyond else {
            if self.neighbours.remove(&neighbour).is_some() {
                self.changes.push_back(neighbour);
            }
            return;
        };
        match self.neighbours.get_mut(&neighbour) {
            Some(state) if state.beyond == beyond => {}
            Some(state) => {
                state.beyond = beyond;
                state.open = None;
                state.next = now;
            }
            None => {
                let state = State {
                    beyond,
                    verdict: Verdict::Untried,
                    next: now,
                    open: None,
                    in_a_row: [0; 3],
                };
                self.neighbours.insert(neighbour, state);
                self.changes.push_back(neighbour);
            }
        }
    }

    /// Whom somebody is known behind.
    pub fn neighbours(&self) -> impl Iterator<Item = K> {
        self.neighbours.keys().copied()
    }

    /// What is known of a neighbour; `None` if nobody is known behind it.
    pub fn verdict(&self, neighbour: K) -> Option<Verdict> {
        Some(self.neighbours.get(&neighbour)?.verdict)
    }

    /// The far end that a neighbour is tried with.
    pub fn beyond(&self, neighbour: K) -> Option<F> {
        Some(self.neighbours.get(&neighbour)?.beyond)
    }

    /// An answer came. Returns whether it was to one of the requests under way: each counts once.
    pub fn returned(&mut self, now: Instant, nonce: &Nonce) -> bool {
        for (&neighbour, state) in &mut self.neighbours {
            let Some(open) = &mut state.open else {
                continue;
            };
            let asked = [open.xcast, open.unicast];
            let Some(which) = asked.iter().position(|known| known == nonce) else {
                continue;
            };
            if std::mem::replace(&mut open.came[which], true) {
                return false;
            }
            // The one by Xcast says it all.
            if open.came[0] {
                self.judge(now, neighbour);
            }
            return true;
        }
        false
    }

    /// Does what is due: rounds end, and others begin.
    pub fn handle_timeout(&mut self, now: Instant) {
        let neighbours: Vec<K> = self.neighbours.keys().copied().collect();
        for neighbour in neighbours {
            let Some(state) = self.neighbours.get_mut(&neighbour) else {
                continue;
            };
            if let Some(open) = state.open {
                if open.until <= now {
                    self.judge(now, neighbour);
                }
                continue;
            }
            if state.next > now {
                continue;
            }
            let open = Open {
                xcast: self.random.octets(),
                unicast: self.random.octets(),
                came: [false; 2],
                until: now + self.timing.timeout,
            };
            state.open = Some(open);
            self.rounds.push_back(Round {
                neighbour,
                beyond: state.beyond,
                xcast: open.xcast,
                unicast: open.unicast,
            });
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = |state: &State<F>| state.open.map_or(state.next, |open| open.until);
        self.neighbours.values().map(due).min()
    }

    /// The next requests to send.
    pub fn poll_round(&mut self) -> Option<Round<K, F>> {
        self.rounds.pop_front()
    }

    /// The next neighbour whose verdict may be another one now.
    pub fn poll_change(&mut self) -> Option<K> {
        self.changes.pop_front()
    }

    /// Ends a round.
    fn judge(&mut self, now: Instant, neighbour: K) {
        let timing = self.timing;
        let Some(state) = self.neighbours.get_mut(&neighbour) else {
            return;
        };
        let Some(open) = state.open.take() else {
            return;
        };
        let says = match open.came {
            [true, _] => 0,
            [false, true] => 1,
            [false, false] => 2,
        };
        for (which, count) in state.in_a_row.iter_mut().enumerate() {
            *count = if which == says { *count + 1 } else { 0 };
        }
        let [through, swallowed, dark] = state.in_a_row;
        let verdict = match state.verdict {
            Verdict::Untried | Verdict::Dark if through > 0 => Verdict::Forwards,
            Verdict::Swallows if through >= timing.proofs_after_loss => Verdict::Forwards,
            Verdict::Untried | Verdict::Dark | Verdict::Forwards if swallowed >= timing.strikes => {
                Verdict::Swallows
            }
            Verdict::Untried if dark >= timing.dark => Verdict::Dark,
            same => same,
        };
        if std::mem::replace(&mut state.verdict, verdict) != verdict {
            self.changes.push_back(neighbour);
        }
        let is_settled = match verdict {
            Verdict::Forwards => says == 0,
            Verdict::Swallows => says == 1,
            Verdict::Dark => says == 2,
            Verdict::Untried => false,
        };
        let wait = if is_settled {
            timing.interval
        } else {
            timing.timeout / 4
        };
        state.next = now + self.random.jitter(wait, 0.25);
    }
}

#[cfg(test)]
mod tests;
