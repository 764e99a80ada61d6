//! Whether there is a router that works: a state machine without I/O. The caller says what time it
//! is.
//!
//! A probe is an Xcast packet that is sent the way messages would be, and that only a working router
//! turns into something that is answered; see [`Uplink`](crate::Uplink). Until the first answer, and
//! when answers stay away, messages leave as unicast, so nothing is lost to a router that is not
//! there.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, TryLockError},
    thread,
    time::{Duration, Instant},
};

use super::cause::UnicastCause;

/// When to probe, and how long an answer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probing {
    /// Time between probes. A probe that is not answered within it is given up. A period below one
    /// second gains nothing in UDP: answers are ICMP messages, and Linux limits those to one a
    /// second. Default: 3 s.
    pub period: Duration,
    /// How long an answer counts, from when its probe was sent. Messages are lost for no longer
    /// than this when a router dies. Use a few periods, so that one lost probe does no harm.
    /// Default: 10 s.
    pub valid_for: Duration,
    /// By what both are multiplied while answers are scarce: from a probe that is not answered on, until
    /// 10 in a row are. A host that asks often has only some of its probes answered, and all of its
    /// senders share those answers. Default: 1.
    pub patience: u32,
}

/// So many answers in a row show that they are not scarce.
const PLENTY: u32 = 10;

impl Default for Probing {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(3),
            valid_for: Duration::from_secs(10),
            patience: 1,
        }
    }
}

impl Probing {
    /// Both times multiplied.
    fn patient(self) -> Self {
        Self {
            period: self.period * self.patience,
            valid_for: self.valid_for * self.patience,
            patience: self.patience,
        }
    }
}

/// How long a refusal counts where nothing is probed.
const REFUSAL: Duration = Duration::from_secs(3);

/// Whether the router is there, as far as probes tell.
#[derive(Clone, Debug)]
pub struct Liveness {
    probing: Option<Probing>,
    /// When the next probe is due; at once while `None`.
    next_probe: Option<Instant>,
    /// When the probe that waits for its answer was sent.
    outstanding: Option<Instant>,
    /// Probes in a row that were answered; `None` while none was missed.
    scarce: Option<u32>,
    /// The answer counts until then.
    up_until: Option<Instant>,
    /// A refusal, or a failure to send, counts until then, or until the next answer.
    down_until: Option<Instant>,
    cause: UnicastCause,
}

impl Liveness {
    /// A router that has not answered yet; without `probing`, one that is trusted until sending to
    /// it fails.
    pub fn new(probing: Option<Probing>) -> Self {
        Self {
            probing,
            next_probe: None,
            outstanding: None,
            scarce: None,
            up_until: None,
            down_until: None,
            cause: UnicastCause::NoAnswer,
        }
    }

    /// When to probe at present.
    fn probing(&self) -> Option<Probing> {
        match self.scarce {
            Some(_) => self.probing.map(Probing::patient),
            None => self.probing,
        }
    }

    /// Whether a probe is to be sent now. After `true`, it counts as sent.
    pub fn poll(&mut self, now: Instant) -> bool {
        if self.probing.is_none() || self.next_probe.is_some_and(|due| now < due) {
            return false;
        }
        if self.outstanding.is_some() {
            self.scarce = Some(0);
        }
        let Some(probing) = self.probing() else {
            return false;
        };
        self.next_probe = Some(now + probing.period);
        self.outstanding = Some(now);
        true
    }

    /// When the next probe is due; `None` if at once, or if never.
    pub fn deadline(&self) -> Option<Instant> {
        self.next_probe
    }

    /// Whether a probe waits for its answer.
    pub fn is_waiting(&self) -> bool {
        self.outstanding.is_some()
    }

    /// Takes in an answer to the latest probe. Answers to earlier ones must not be given here.
    pub fn answered(&mut self) {
        if let (Some(probing), Some(sent)) = (self.probing(), self.outstanding.take()) {
            self.scarce = self.scarce.map(|in_a_row| in_a_row + 1);
            self.scarce = self.scarce.filter(|in_a_row| *in_a_row < PLENTY);
            self.up_until = Some(sent + probing.valid_for);
            self.down_until = None;
            self.cause = UnicastCause::NoAnswer;
        }
    }

    /// Takes in that the router refuses, or that there is no way to it. Counts until the next answer;
    /// without probing, for 3 s.
    pub fn failed(&mut self, now: Instant, cause: UnicastCause) {
        self.up_until = None;
        self.outstanding = None;
        self.down_until = Some(now + self.probing.map_or(REFUSAL, |probing| probing.period));
        self.cause = cause;
    }

    /// Whether messages can go by the router at this time.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self, now: Instant) -> Result<(), UnicastCause> {
        let up = match self.probing {
            Some(_) => self.up_until.is_some_and(|until| now < until),
            None => self.down_until.is_none_or(|until| now >= until),
        };
        if up { Ok(()) } else { Err(self.cause) }
    }
}

/// What senders know together of a router: one of them asks, and its answer counts for all. Linux limits
/// what it answers to a host, so a host on which each sender asked would have few answers.
///
/// It is known for each source address by itself, since routes and filters may be by source. All
/// senders that share it are to have the same uplink and the same [`Probing`].
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<Mutex<BTreeMap<IpAddr, Liveness>>>);

/// How often the lock of a [`Watch`] is tried.
const TRIES: u32 = 1000;

impl Watch {
    /// Does something with what is known for this source. `None` if another thread does not give it back: one
    /// that a signal has stopped, which may be for as long as somebody waits here.
    fn with<T>(
        &self,
        source: IpAddr,
        probing: Option<Probing>,
        work: impl FnOnce(&mut Liveness) -> T,
    ) -> Option<T> {
        for _ in 0..TRIES {
            let mut known = match self.0.try_lock() {
                Ok(known) => known,
                Err(TryLockError::Poisoned(known)) => known.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    thread::yield_now();
                    continue;
                }
            };
            let liveness = known.entry(source);
            return Some(work(liveness.or_insert_with(|| Liveness::new(probing))));
        }
        None
    }
}

/// A sender's part in a [`Watch`].
#[derive(Debug)]
pub(super) struct Watcher {
    watch: Watch,
    source: IpAddr,
    probing: Option<Probing>,
    /// When this sender has asked.
    asked: Option<Instant>,
}

impl Watcher {
    pub(super) fn new(watch: Watch, source: IpAddr, probing: Option<Probing>) -> Self {
        Self {
            watch,
            source,
            probing,
            asked: None,
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Liveness) -> T) -> Option<T> {
        self.watch.with(self.source, self.probing, work)
    }

    /// As [`Liveness::poll`]: whether this sender is to ask.
    pub(super) fn poll(&mut self, now: Instant) -> bool {
        let asks = self.with(|liveness| liveness.poll(now)) == Some(true);
        if asks {
            self.asked = Some(now);
        }
        asks
    }

    /// The probe of this sender is answered. That does not count if another one has asked since.
    pub(super) fn answered(&mut self) {
        let asked = self.asked.take();
        self.with(|liveness| {
            if liveness.outstanding == asked {
                liveness.answered();
            }
        });
    }

    pub(super) fn failed(&self, now: Instant, cause: UnicastCause) {
        self.with(|liveness| liveness.failed(now, cause));
    }

    pub(super) fn check(&self, now: Instant) -> Result<(), UnicastCause> {
        self.with(|liveness| liveness.check(now))
            .unwrap_or(Err(UnicastCause::NoAnswer))
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.with(|liveness| liveness.deadline()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sender_asks_for_all_with_its_source() {
        let start = Instant::now();
        let (watch, probing) = (Watch::default(), Some(Probing::default()));
        let watcher = |last| Watcher::new(watch.clone(), [10, 0, 0, last].into(), probing);
        let (mut first, mut second, mut other) = (watcher(1), watcher(1), watcher(2));
        assert!(first.poll(start) && !second.poll(start) && other.poll(start));
        // Who has not asked has no answer to give.
        second.answered();
        assert!(second.check(start).is_err());
        first.answered();
        assert_eq!(second.check(start), Ok(()));
        assert!(other.check(start).is_err());
        // The second asks next; an answer that is as late as this is none to its question.
        let next = start + 3 * SECOND;
        assert!(second.poll(next) && !first.poll(next));
        let again = next + 3 * SECOND;
        assert!(first.poll(again) && !second.poll(again));
        second.answered();
        assert!(first.check(start + 10 * SECOND).is_err());
        first.answered();
        assert_eq!(second.check(start + 10 * SECOND), Ok(()));
        second.failed(start + 10 * SECOND, UnicastCause::Refused);
        let refused = first.check(start + 10 * SECOND);
        assert_eq!(refused, Err(UnicastCause::Refused));
    }

    #[test]
    fn nobody_waits_for_who_keeps_the_lock() {
        let watch = Watch::default();
        let watcher = Watcher::new(watch.clone(), [10, 0, 0, 1].into(), None);
        assert_eq!(watcher.check(Instant::now()), Ok(()));
        let _kept = watch.0.lock().unwrap();
        assert!(watcher.check(Instant::now()).is_err());
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn up_while_probes_are_answered() {
        let start = Instant::now();
        let mut liveness = Liveness::new(Some(Probing::default()));
        assert_eq!(liveness.check(start), Err(UnicastCause::NoAnswer));
        assert!(liveness.poll(start));
        assert!(!liveness.poll(start + SECOND));
        assert_eq!(liveness.check(start + SECOND), Err(UnicastCause::NoAnswer));
        liveness.answered();
        assert_eq!(liveness.check(start + SECOND), Ok(()));
        assert_eq!(liveness.deadline(), Some(start + 3 * SECOND));
        // One probe is lost, the next is answered.
        assert!(liveness.poll(start + 3 * SECOND));
        assert!(liveness.poll(start + 6 * SECOND));
        liveness.answered();
        assert_eq!(liveness.check(start + 15 * SECOND), Ok(()));
        assert_eq!(
            liveness.check(start + 16 * SECOND),
            Err(UnicastCause::NoAnswer)
        );
    }

    #[test]
    fn probes_are_fewer_while_answers_are_scarce() {
        let start = Instant::now();
        let mut liveness = Liveness::new(Some(Probing {
            period: SECOND,
            valid_for: 2 * SECOND,
            patience: 3,
        }));
        assert!(liveness.poll(start));
        liveness.answered();
        assert!(liveness.poll(start + SECOND));
        // It was not answered, and what is known by then does not count for longer.
        assert!(liveness.poll(start + 2 * SECOND));
        let down = liveness.check(start + 2 * SECOND);
        assert_eq!(down, Err(UnicastCause::NoAnswer));
        assert_eq!(liveness.deadline(), Some(start + 5 * SECOND));
        liveness.answered();
        assert_eq!(liveness.check(start + 7 * SECOND), Ok(()));
        assert!(liveness.check(start + 8 * SECOND).is_err());
        for answer in 1..PLENTY {
            assert!(liveness.poll(start + (2 + 3 * answer) * SECOND));
            liveness.answered();
        }
        let now = liveness.deadline().unwrap();
        assert!(liveness.poll(now));
        assert_eq!(liveness.deadline(), Some(now + SECOND));
    }

    #[test]
    fn a_refusal_counts_until_the_next_answer() {
        let start = Instant::now();
        let mut liveness = Liveness::new(Some(Probing::default()));
        assert!(liveness.poll(start));
        liveness.answered();
        liveness.failed(start + SECOND, UnicastCause::Refused);
        // Nothing is waiting, so a second answer to the same probe is none.
        liveness.answered();
        assert_eq!(liveness.check(start + SECOND), Err(UnicastCause::Refused));
        assert!(liveness.poll(start + 3 * SECOND));
        liveness.answered();
        assert_eq!(liveness.check(start + 3 * SECOND), Ok(()));
    }

    #[test]
    fn without_probes_a_router_is_trusted() {
        let start = Instant::now();
        let mut liveness = Liveness::new(None);
        assert!(!liveness.poll(start));
        assert_eq!(liveness.check(start), Ok(()));
        liveness.failed(start, UnicastCause::Refused);
        assert_eq!(liveness.check(start + SECOND), Err(UnicastCause::Refused));
        assert_eq!(liveness.check(start + 3 * SECOND), Ok(()));
    }
}
