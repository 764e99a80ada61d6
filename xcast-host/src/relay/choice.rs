//! Which relay to use, and whom to ask when: without I/O or clock.
//!
//! Every relay is asked from time to time, first directly, for a cookie and the round-trip time, and then through its
//! datapath. A relay can be used while answers of the second kind come. Of those that can, the preferred one is taken,
//! and left when it is lost, when it says that it has too much to do, or when it loses what goes through it. For
//! another that is only better, it is left after that has been better several times in a row: traffic does not follow each
//! whim of a measurement.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::message::{Answer, Nonce};

/// Which of several relays is preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// The one that comes first in the list.
    #[default]
    Listed,
    /// The one with the shortest round-trip time.
    Nearest,
}

/// What address and port packets come from that a relay has copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceAddress {
    /// The sender's own, as the relay sees it. A reverse-path filter between relay and receivers drops them, unless it
    /// takes the relay's link for a way back to the sender.
    #[default]
    Own,
    /// An address and port of the relay, which hands on what is sent to it there.
    Relayed,
    /// The relay's, and the port that all such senders share; each message is in an envelope that names its sender, as the relay sees
    /// it. For receivers that open envelopes of that relay ([`Receiver::from_relays`](crate::Receiver::from_relays)), and reply to
    /// the sender by themselves.
    Enveloped,
    /// The sender's own if a question that is relayed to the witness is answered; the relay's if not.
    Tested,
}

/// How often relays are asked, and how long answers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between an answer through the datapath and the next question.
    pub interval: Duration,
    /// Until a question without an answer is repeated. Doubled each time, up to `slowest`.
    pub timeout: Duration,
    /// Longest time between questions to a relay that does not answer.
    pub slowest: Duration,
    /// How long an answer through the datapath counts.
    pub hold: Duration,
    /// How long a relay is avoided that had too much to do.
    pub calm: Duration,
    /// How often in a row another relay has to be better.
    pub patience: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(3),
            timeout: Duration::from_millis(500),
            slowest: Duration::from_secs(16),
            hold: Duration::from_secs(10),
            calm: Duration::from_secs(20),
            patience: 3,
        }
    }
}

/// How a question goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the relay, by itself.
    Directly,
    /// By an Xcast packet through the relay, to the relay.
    Through,
    /// By an Xcast packet through the relay, to the witness.
    Past,
}

/// A question to send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Place of the relay in the list.
    pub relay: usize,
    /// What the answer repeats.
    pub nonce: Nonce,
    /// How it goes.
    pub way: Way,
}

/// Why a relay is used or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the one that is used.
    Used,
    /// It could be used.
    Ready,
    /// It was not asked yet, or has had no time to answer.
    New,
    /// It never answered.
    Silent,
    /// It answered before, but no more.
    Lost,
    /// It answers, but what goes through it does not arrive.
    Losing,
    /// It says that it has too much to do, or said so a moment ago.
    Busy,
    /// It forwards, but not to the witness, and has no relayed port for this source.
    Filtered,
    /// It answers, but has no port of its own for this source.
    NotRelayed,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Used => "used",
            Self::Ready => "it could be used",
            Self::New => "it has not answered yet",
            Self::Silent => "it never answered",
            Self::Lost => "it answered, but no more",
            Self::Losing => "it answers, but what goes through it does not arrive",
            Self::Busy => "it has too much to do",
            Self::Filtered => {
                "copies with this host's address do not get past it: a reverse-path filter (rp_filter) or an \
                 ingress filter (BCP 38) drops them; have the relay send from its own address \
                 (relay.relayed_ports), or use one near the receivers"
            }
            Self::NotRelayed => {
                "it sends nothing from its own address (relay.relayed_ports, relay.envelopes), or has no port left"
            }
        })
    }
}

/// What is known of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Why it is used or not.
    pub standing: Standing,
    /// Smoothed round-trip time of direct questions (RFC 6298's weights).
    pub round_trip: Option<Duration>,
    /// Time since the last answer through the datapath.
    pub proven_ago: Option<Duration>,
    /// How much it has to do, in percent.
    pub load_percent: Option<u8>,
    /// Questions sent.
    pub asked: u64,
    /// Questions answered.
    pub answered: u64,
    /// Which of the relays with this address answered last.
    pub instance: Option<u64>,
}

/// Asks relays, and chooses one.
#[derive(Debug)]
pub struct Choice {
    timing: Timing,
    preference: Preference,
    source: SourceAddress,
    relays: Vec<State>,
    current: Option<usize>,
    changes: u64,
}

#[derive(Debug, Default)]
struct State {
    /// At once while `None`.
    next: Option<Instant>,
    /// The question that waits for its answer.
    outstanding: Option<(Nonce, Way, Instant)>,
    /// How the next question goes.
    due: Option<Way>,
    /// The last direct answer, and when it came.
    answer: Option<(Answer, Instant)>,
    proven: Option<Instant>,
    /// When the witness answered last.
    passed: Option<Instant>,
    /// Questions without an answer, in a row: of all ways, through the datapath, and to the witness.
    missed: u32,
    missed_through: u32,
    missed_past: u32,
    busy_until: Option<Instant>,
    round_trip: Option<Duration>,
    /// How often in a row it was better than the one that is used.
    lead: u32,
    asked: u64,
    answered: u64,
}

/// Questions that may be lost in a row before a way counts as one that loses.
/// With one in a hundred lost, so many in a row are lost once in a hundred million times.
const TOLERATED: u32 = 4;

impl State {
    fn is_fresh(at: Option<Instant>, hold: Duration, now: Instant) -> bool {
        at.is_some_and(|at| now < at + hold)
    }

    /// The last direct answer, while its cookie holds.
    fn answer(&self, now: Instant) -> Option<&Answer> {
        let (answer, at) = self.answer.as_ref()?;
        (now < *at + answer.lifetime).then_some(answer)
    }

    /// Why it cannot be used, if so; without regard to others, or to how much it has to do.
    fn obstacle(&self, source: SourceAddress, hold: Duration, now: Instant) -> Option<Standing> {
        let Some(answer) = self.answer(now) else {
            return Some(match (self.answered, self.missed) {
                (0, 0) => Standing::New,
                (0, _) => Standing::Silent,
                _ => Standing::Lost,
            });
        };
        if !Self::is_fresh(self.proven, hold, now) {
            let answers = Self::is_fresh(self.answer.map(|(_, at)| at), hold, now);
            return Some(match (self.proven, self.missed_through) {
                (_, TOLERATED..) if answers => Standing::Losing,
                (None, _) if answers => Standing::New,
                _ => Standing::Lost,
            });
        }
        let passes = Self::is_fresh(self.passed, hold, now);
        match source {
            SourceAddress::Own => None,
            SourceAddress::Relayed | SourceAddress::Enveloped if answer.relayed.is_some() => None,
            SourceAddress::Relayed | SourceAddress::Enveloped => Some(Standing::NotRelayed),
            SourceAddress::Tested if passes => None,
            SourceAddress::Tested if self.missed_past < TOLERATED => Some(Standing::New),
            SourceAddress::Tested if answer.relayed.is_some() => None,
            SourceAddress::Tested => Some(Standing::Filtered),
        }
    }

    fn is_busy(&self, now: Instant) -> bool {
        self.busy_until.is_some_and(|until| now < until)
    }

    fn ask_next(&mut self, way: Way, now: Instant) {
        self.due = Some(way);
        self.next = Some(now);
    }

    /// A question was not answered in time.
    fn miss(&mut self, way: Way, timing: &Timing, now: Instant) {
        self.missed += 1;
        match way {
            Way::Directly => {}
            Way::Through => {
                self.missed_through += 1;
                if self.missed_through >= TOLERATED {
                    self.busy_until = Some(now + timing.calm);
                }
            }
            Way::Past => {
                self.missed_past += 1;
                // The witness's silence says nothing about the relay.
                self.missed = 0;
            }
        }
    }
}

impl Choice {
    /// Knows nothing of `count` relays yet.
    pub fn new(
        count: usize,
        timing: Timing,
        preference: Preference,
        source: SourceAddress,
    ) -> Self {
        Self {
            timing,
            preference,
            source,
            relays: (0..count).map(|_| State::default()).collect(),
            current: None,
            changes: 0,
        }
    }

    /// The next question that is due, if any; `nonce` is for it, and not to be used again. After this, it counts as sent.
    pub fn poll(&mut self, now: Instant, nonce: Nonce) -> Option<Ask> {
        let due = |state: &State| state.next.is_none_or(|at| at <= now);
        let relay = self.relays.iter().position(due)?;
        let timing = self.timing;
        let state = &mut self.relays[relay];
        if let Some((_, way, _)) = state.outstanding.take() {
            state.miss(way, &timing, now);
        }
        let has_cookie = state.answer(now).is_some();
        // A relay that does not answer directly may have too many to answer, and still forward.
        let through = (state.missed % 2 == 1).then_some(Way::Through);
        let way = state.due.take().or(through).filter(|_| has_cookie);
        let way = way.unwrap_or(Way::Directly);
        state.outstanding = Some((nonce, way, now));
        state.asked += 1;
        let wait = timing.timeout * (1 << state.missed.min(10));
        let wait = match Self::is_usable(state, self.source, &timing, now) {
            // A witness that stays silent is not asked all the time.
            true if way == Way::Past && state.missed_past >= TOLERATED => timing.interval,
            true => wait.min(timing.interval),
            false => wait.min(timing.slowest),
        };
        state.next = Some(now + wait);
        self.choose(now);
        Some(Ask { relay, nonce, way })
    }

    /// Takes in an answer. Returns whether it was to a question that waits for one: an answer counts once.
    pub fn answered(&mut self, now: Instant, answer: &Answer) -> bool {
        let (timing, source) = (self.timing, self.source);
        let asked = self
            .relays
            .iter_mut()
            .enumerate()
            .find_map(|(relay, state)| {
                let (_, way, sent) = state
                    .outstanding
                    .take_if(|(nonce, ..)| *nonce == answer.nonce)?;
                Some((relay, state, way, sent))
            });
        let Some((relay, state, way, sent)) = asked else {
            return false;
        };
        state.answered += 1;
        state.missed = 0;
        match way {
            Way::Directly => {
                let measured = now.saturating_duration_since(sent);
                state.round_trip = Some(match state.round_trip {
                    None => measured,
                    Some(smoothed) => (smoothed * 7 + measured) / 8,
                });
                state.answer = Some((*answer, now));
                if answer.busy {
                    state.busy_until = Some(now + timing.calm);
                }
                state.ask_next(Way::Through, now);
                self.compare(now, relay);
            }
            Way::Through => {
                state.proven = Some(sent);
                state.missed_through = 0;
                match source {
                    SourceAddress::Tested => state.ask_next(Way::Past, now),
                    SourceAddress::Own | SourceAddress::Relayed | SourceAddress::Enveloped => {
                        state.next = Some(now + timing.interval);
                    }
                }
            }
            Way::Past => {
                state.passed = Some(sent);
                state.missed_past = 0;
                state.next = Some(now + timing.interval);
            }
        }
        self.choose(now);
        true
    }

    /// The relay that packets go to now, with its latest direct answer.
    pub fn current(&self, now: Instant) -> Option<(usize, &Answer)> {
        let state = &self.relays[self.current?];
        if !Self::is_usable(state, self.source, &self.timing, now) {
            return None;
        }
        Some((self.current?, state.answer(now)?))
    }

    /// The latest direct answer of a relay, while its cookie holds.
    pub fn answer(&self, now: Instant, relay: usize) -> Option<&Answer> {
        self.relays[relay].answer(now)
    }

    /// Whether packets by this relay are to come from the relay's own address.
    pub fn is_relayed(&self, now: Instant, relay: usize) -> bool {
        match self.source {
            SourceAddress::Own => false,
            SourceAddress::Relayed | SourceAddress::Enveloped => true,
            SourceAddress::Tested => {
                !State::is_fresh(self.relays[relay].passed, self.timing.hold, now)
            }
        }
    }

    /// Why no relay is used, if none is: what is wrong with the one that came closest.
    pub fn obstacle(&self, now: Instant) -> Option<Standing> {
        if self.current(now).is_some() {
            return None;
        }
        let known = (0..self.relays.len()).map(|relay| self.known(now, relay).standing);
        known.min_by_key(|standing| match standing {
            Standing::Used | Standing::Ready => 0,
            Standing::Filtered => 1,
            Standing::NotRelayed => 2,
            Standing::Losing => 3,
            Standing::Busy => 4,
            Standing::Lost => 5,
            Standing::New => 6,
            Standing::Silent => 7,
        })
    }

    /// When to call [`poll`](Self::poll) next; `None` for at once, or never without relays.
    pub fn deadline(&self) -> Option<Instant> {
        let times = self.relays.iter().map(|state| state.next);
        times.min().flatten()
    }

    /// How often another relay was taken than before.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// What is known of a relay.
    pub fn known(&self, now: Instant, relay: usize) -> Known {
        let state = &self.relays[relay];
        let obstacle = state.obstacle(self.source, self.timing.hold, now);
        let standing = match obstacle {
            Some(obstacle) => obstacle,
            None if self.current == Some(relay) => Standing::Used,
            None if state.is_busy(now) => Standing::Busy,
            None => Standing::Ready,
        };
        let answer = state.answer.as_ref().map(|(answer, _)| answer);
        Known {
            standing,
            round_trip: state.round_trip,
            proven_ago: state.proven.map(|at| now.saturating_duration_since(at)),
            load_percent: answer.map(|answer| answer.load_percent),
            asked: state.asked,
            answered: state.answered,
            instance: answer.map(|answer| answer.instance),
        }
    }

    fn is_usable(state: &State, source: SourceAddress, timing: &Timing, now: Instant) -> bool {
        state.obstacle(source, timing.hold, now).is_none()
    }

    /// Counts how often a relay was better than the one that is used, now that it was measured.
    fn compare(&mut self, now: Instant, relay: usize) {
        let better = self.current.is_some_and(|current| {
            let (this, used) = (&self.relays[relay], &self.relays[current]);
            let better = match (self.preference, this.round_trip, used.round_trip) {
                (Preference::Listed, ..) => relay < current,
                // A fifth, and more than what a scheduler makes of it.
                (Preference::Nearest, Some(this), Some(used)) => {
                    this < used * 4 / 5 && used - this > Duration::from_millis(1)
                }
                (Preference::Nearest, ..) => false,
            };
            better && !this.is_busy(now) && Self::is_usable(this, self.source, &self.timing, now)
        });
        let state = &mut self.relays[relay];
        state.lead = if better { state.lead + 1 } else { 0 };
    }

    fn choose(&mut self, now: Instant) {
        let usable =
            |relay: &usize| Self::is_usable(&self.relays[*relay], self.source, &self.timing, now);
        let is_calm = |relay: &usize| !self.relays[*relay].is_busy(now);
        let distance = |relay: &usize| match self.preference {
            Preference::Listed => (Duration::ZERO, *relay),
            Preference::Nearest => {
                let round_trip = self.relays[*relay].round_trip;
                (round_trip.unwrap_or(Duration::MAX), *relay)
            }
        };
        let all = || (0..self.relays.len()).filter(usable);
        let best_calm = || all().filter(is_calm).min_by_key(distance);
        let current = self.current.filter(usable);
        let chosen = match current {
            Some(current) if is_calm(&current) => {
                let led = |relay: &usize| self.relays[*relay].lead >= self.timing.patience;
                let ahead = all().filter(is_calm).filter(led).min_by_key(distance);
                ahead.or(Some(current))
            }
            // Too much to do is better than nobody.
            Some(current) => best_calm().or(Some(current)),
            None => best_calm().or_else(|| all().min_by_key(distance)),
        };
        if chosen != self.current {
            self.changes += u64::from(chosen.is_some() && self.current.is_some());
            self.relays.iter_mut().for_each(|state| state.lead = 0);
            // One that is lost stays the one to compare with until there is another.
            self.current = chosen.or(self.current);
        }
    }
}

#[cfg(test)]
mod tests;
