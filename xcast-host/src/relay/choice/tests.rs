use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// What becomes of a question: nothing, or an answer after some time.
type Fate = Option<(Duration, bool)>;

/// Relays in simulated time.
struct World {
    start: Instant,
    now: Instant,
    choice: Choice,
    nonce: u64,
    under_way: Vec<(Instant, Answer)>,
    /// Which relay was used, after each step.
    used: Vec<Option<usize>>,
}

impl World {
    fn new(relays: usize, preference: Preference, source: SourceAddress) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            choice: Choice::new(relays, Timing::default(), preference, source),
            nonce: 0,
            under_way: Vec::new(),
            used: Vec::new(),
        }
    }

    fn answer(nonce: Nonce, way: Way, busy: bool) -> Answer {
        Answer {
            nonce,
            through: way != Way::Directly,
            busy,
            load_percent: if busy { 200 } else { 5 },
            seen: SocketAddr::from(([192, 0, 2, 1], 4000)),
            lifetime: 60 * SECOND,
            cookie: [1; 16],
            relayed: None,
            instance: 1,
        }
    }

    /// Lets time pass; `fate` says what becomes of a question at a time since the start.
    fn run(&mut self, time: Duration, mut fate: impl FnMut(Duration, &Ask) -> Fate) {
        let end = self.now + time;
        while self.now < end {
            self.under_way.sort_by_key(|(at, _)| *at);
            while let Some((at, answer)) = self.under_way.first().copied() {
                if at > self.now {
                    break;
                }
                self.under_way.remove(0);
                self.choice.answered(self.now, &answer);
            }
            loop {
                self.nonce += 1;
                let Some(ask) = self.choice.poll(self.now, self.nonce.to_be_bytes()) else {
                    break;
                };
                if let Some((delay, busy)) = fate(self.now - self.start, &ask) {
                    let answer = Self::answer(ask.nonce, ask.way, busy);
                    self.under_way.push((self.now + delay, answer));
                }
            }
            let current = self.choice.current(self.now).map(|(relay, _)| relay);
            self.used.push(current);
            let due = self.choice.deadline().unwrap_or(self.now);
            let arrives = self.under_way.iter().map(|(at, _)| *at).min();
            let next = arrives.map_or(due, |at| at.min(due));
            // What lapses without an event is looked at, too.
            self.now = next.clamp(self.now + MS, self.now + 100 * MS).min(end);
        }
    }

    fn uses(&self) -> Option<usize> {
        self.choice.current(self.now).map(|(relay, _)| relay)
    }

    fn standing(&self, relay: usize) -> Standing {
        self.choice.known(self.now, relay).standing
    }
}

#[test]
fn the_first_that_works_is_taken_and_another_when_it_dies() {
    let mut world = World::new(3, Preference::Listed, SourceAddress::Own);
    // The first is dead until a minute has passed, and the second dies then.
    let alive = |at: Duration, relay: usize| match relay {
        0 => at > 60 * SECOND,
        1 => at < 30 * SECOND,
        _ => true,
    };
    let fate = |at, ask: &Ask| alive(at, ask.relay).then_some((10 * MS, false));
    world.run(5 * SECOND, fate);
    assert_eq!(world.uses(), Some(1));
    assert_eq!(world.standing(0), Standing::Silent);
    world.run(25 * SECOND, fate);
    assert_eq!(world.uses(), Some(1));
    // Two questions to the datapath that stay without an answer, or an answer that has become old.
    world.run(12 * SECOND, fate);
    assert_eq!(world.uses(), Some(2));
    assert_eq!(world.standing(1), Standing::Lost);
    world.run(60 * SECOND, fate);
    assert_eq!(world.uses(), Some(0), "the first has come back");
    assert_eq!(world.choice.changes(), 2);
}

#[test]
fn nobody_is_used_without_an_answer_through_the_datapath() {
    let mut world = World::new(1, Preference::Listed, SourceAddress::Own);
    world.run(20 * SECOND, |_, ask| {
        (ask.way == Way::Directly).then_some((MS, false))
    });
    assert!(world.used.iter().all(Option::is_none));
    assert_eq!(world.standing(0), Standing::Losing);
    assert_eq!(world.choice.obstacle(world.now), Some(Standing::Losing));
}

#[test]
fn the_nearest_is_taken_once_it_is_nearer_for_a_while() {
    let mut world = World::new(2, Preference::Nearest, SourceAddress::Own);
    let fate = |at: Duration, ask: &Ask| {
        let near = if at < 30 * SECOND { 40 } else { 5 };
        let delays = [20 * MS, near * MS];
        Some((delays[ask.relay], false))
    };
    world.run(30 * SECOND, fate);
    assert_eq!(world.uses(), Some(0));
    world.run(60 * SECOND, fate);
    assert_eq!(world.uses(), Some(1));
    assert_eq!(world.choice.changes(), 1);
}

#[test]
fn one_with_too_much_to_do_is_left_for_another_and_kept_if_there_is_none() {
    let busy = |at: Duration| at > 10 * SECOND && at < 60 * SECOND;
    let fate = |at, ask: &Ask| Some((MS, ask.relay == 0 && busy(at)));
    let mut world = World::new(2, Preference::Listed, SourceAddress::Own);
    world.run(10 * SECOND, fate);
    assert_eq!(world.uses(), Some(0));
    world.run(10 * SECOND, fate);
    assert_eq!((world.uses(), world.standing(0)), (Some(1), Standing::Busy));
    world.run(100 * SECOND, fate);
    assert_eq!(world.uses(), Some(0));
    assert_eq!(world.choice.changes(), 2);
    let mut alone = World::new(1, Preference::Listed, SourceAddress::Own);
    alone.run(30 * SECOND, fate);
    assert_eq!(alone.uses(), Some(0));
}

#[test]
fn one_that_loses_what_goes_through_it_is_left() {
    let fate = |at: Duration, ask: &Ask| {
        let loses = ask.relay == 0 && ask.way == Way::Through && at > 10 * SECOND;
        (!loses).then_some((MS, false))
    };
    let mut world = World::new(2, Preference::Listed, SourceAddress::Own);
    world.run(10 * SECOND, fate);
    assert_eq!(world.uses(), Some(0));
    world.run(8 * SECOND, fate);
    assert_eq!(world.uses(), Some(1));
}

#[test]
fn a_filter_is_found_and_named() {
    let fate = |_, ask: &Ask| (ask.way != Way::Past).then_some((MS, false));
    let mut world = World::new(1, Preference::Listed, SourceAddress::Tested);
    world.run(20 * SECOND, fate);
    assert_eq!(world.standing(0), Standing::Filtered);
    let says = Standing::Filtered.to_string();
    assert!(says.contains("rp_filter") && says.contains("BCP 38"));
    world.run(20 * SECOND, |_, _| Some((MS, false)));
    assert_eq!(world.uses(), Some(0));
    assert!(!world.choice.is_relayed(world.now, 0));
}

#[test]
fn a_relay_without_a_port_for_the_source_is_not_used() {
    for source in [SourceAddress::Relayed, SourceAddress::Enveloped] {
        let mut world = World::new(1, Preference::Listed, source);
        world.run(10 * SECOND, |_, _| Some((MS, false)));
        assert_eq!(
            (world.uses(), world.standing(0)),
            (None, Standing::NotRelayed)
        );
    }
}

#[test]
fn answers_count_once_and_forged_ones_never() {
    let now = Instant::now();
    let mut choice = Choice::new(1, Timing::default(), Preference::Listed, SourceAddress::Own);
    let ask = choice.poll(now, [1; 8]).unwrap();
    assert!(!choice.answered(now, &World::answer([2; 8], ask.way, false)));
    assert!(choice.answered(now, &World::answer([1; 8], ask.way, false)));
    assert!(!choice.answered(now, &World::answer([1; 8], ask.way, false)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// One question or answer in a hundred is lost, and round trips vary by a tenth: half an hour without a change.
    #[test]
    fn neither_losses_nor_jitter_make_it_change(seed: u64) {
        let mut state = seed | 1;
        let mut random = move || {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut world = World::new(2, Preference::Nearest, SourceAddress::Own);
        world.run(1800 * SECOND, |_, _| {
            let jitter = Duration::from_micros(random() % 4000);
            (random() % 100 != 0).then_some((18 * MS + jitter, false))
        });
        prop_assert_eq!(world.choice.changes(), 0);
        let first = world.used.iter().position(Option::is_some).unwrap();
        prop_assert!(world.used[first..].iter().all(Option::is_some));
    }

    /// Whatever happens: who is used has answered through its datapath within the time that such an answer counts, and
    /// questions stay few.
    #[test]
    fn who_is_used_has_proven_itself(
        fates in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 1..60),
        nearest: bool,
    ) {
        let preference = if nearest { Preference::Nearest } else { Preference::Listed };
        let mut world = World::new(3, preference, SourceAddress::Own);
        let mut number = 0;
        world.run(300 * SECOND, |_, ask| {
            number += 1;
            let (answers, is_busy, is_slow) = fates[(number + ask.relay) % fates.len()];
            let delay = if is_slow { 300 * MS } else { MS };
            answers.then_some((delay, is_busy))
        });
        let hold = Timing::default().hold;
        for relay in 0..3 {
            let known = world.choice.known(world.now, relay);
            if known.standing == Standing::Used {
                prop_assert!(known.proven_ago.is_some_and(|ago| ago < hold));
            }
            // Two in three seconds, and two for each that is lost.
            prop_assert!(known.asked < 300 * 5, "{known:?}");
            prop_assert!(known.answered <= known.asked);
        }
    }
}
