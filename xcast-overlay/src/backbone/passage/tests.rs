use super::*;

/// A neighbour and a far end behind it, on a path that loses packets.
struct Path {
    passage: Passage<u32, u8>,
    random: Random,
    start: Instant,
    now: Instant,
    answers: VecDeque<(Instant, Nonce)>,
    verdicts: Vec<(Duration, Verdict)>,
    rounds: u64,
}

const NEIGHBOUR: u32 = 7;
const DELAY: Duration = Duration::from_millis(30);
const MINUTE: Duration = Duration::from_secs(60);

/// What happens to requests on the path.
#[derive(Clone, Copy)]
struct Fate {
    /// Of 1000 packets, so many are lost each way.
    lost: usize,
    forwards: bool,
    answers: bool,
}

const GOOD: Fate = Fate {
    lost: 0,
    forwards: true,
    answers: true,
};
const SWALLOWING: Fate = Fate {
    forwards: false,
    ..GOOD
};
const DARK: Fate = Fate {
    answers: false,
    ..GOOD
};

impl Path {
    fn new(seed: u64) -> Self {
        let start = Instant::now();
        let mut passage = Passage::new(Timing::default(), Random::from_number(seed));
        passage.set_beyond(start, NEIGHBOUR, Some(1));
        Self {
            passage,
            random: Random::from_number(!seed),
            start,
            now: start,
            answers: VecDeque::new(),
            verdicts: Vec::new(),
            rounds: 0,
        }
    }

    fn run(&mut self, span: Duration, fate: Fate) {
        let end = self.now + span;
        loop {
            let timer = self.passage.poll_timeout();
            let answer = self.answers.front().map(|(at, _)| *at);
            let next = [timer, answer].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next < end) else {
                break;
            };
            self.now = self.now.max(next);
            while self.answers.front().is_some_and(|(at, _)| *at <= self.now)
                && let Some((_, nonce)) = self.answers.pop_front()
            {
                self.passage.returned(self.now, &nonce);
            }
            self.passage.handle_timeout(self.now);
            while let Some(round) = self.passage.poll_round() {
                self.rounds += 1;
                let mut arrives = |yes: bool| {
                    // There and back again.
                    let lost = (0..2).any(|_| self.random.below(1000) < fate.lost);
                    yes && fate.answers && !lost
                };
                if arrives(fate.forwards) {
                    self.answers.push_back((self.now + DELAY, round.xcast));
                }
                if arrives(true) {
                    self.answers.push_back((self.now + DELAY, round.unicast));
                }
            }
            while let Some(neighbour) = self.passage.poll_change() {
                let verdict = self.passage.verdict(neighbour).unwrap();
                self.verdicts.push((self.now - self.start, verdict));
            }
        }
        self.now = end;
    }

    fn verdict(&self) -> Verdict {
        self.passage.verdict(NEIGHBOUR).unwrap()
    }
}

#[test]
fn who_forwards_counts_after_one_round() {
    let mut path = Path::new(1);
    assert_eq!(path.verdict(), Verdict::Untried);
    assert!(!path.verdict().allows_lists());
    path.run(Duration::from_millis(100), GOOD);
    assert_eq!(path.verdict(), Verdict::Forwards);
    path.run(MINUTE, GOOD);
    assert!((20..=50).contains(&path.rounds), "{}", path.rounds);
}

#[test]
fn one_percent_of_loss_never_changes_a_verdict() {
    for seed in 0..200 {
        let mut path = Path::new(seed);
        path.run(30 * MINUTE, Fate { lost: 10, ..GOOD });
        let settled: Vec<_> = path.verdicts.iter().map(|(_, verdict)| *verdict).collect();
        assert!(
            matches!(
                settled[..],
                [Verdict::Forwards] | [Verdict::Untried, Verdict::Forwards]
            ),
            "seed {seed}: {:?}",
            path.verdicts
        );
    }
}

#[test]
fn who_swallows_is_found_out_and_has_to_prove_itself_again() {
    for seed in 0..200 {
        let mut path = Path::new(seed);
        path.run(MINUTE, GOOD);
        let began = path.now - path.start;
        path.run(MINUTE, SWALLOWING);
        assert_eq!(path.verdict(), Verdict::Swallows);
        let (at, _) = *path.verdicts.last().unwrap();
        assert!(at - began < Duration::from_secs(6), "{:?}", at - began);
        path.run(MINUTE, GOOD);
        assert_eq!(path.verdict(), Verdict::Forwards);
    }
}

#[test]
fn who_never_forwarded_never_counts() {
    let mut path = Path::new(3);
    path.run(MINUTE, SWALLOWING);
    assert_eq!(path.verdict(), Verdict::Swallows);
    assert!(
        path.verdicts
            .iter()
            .all(|(_, verdict)| !verdict.allows_lists())
    );
}

#[test]
fn a_far_end_that_does_not_answer_says_nothing_about_the_neighbour() {
    let mut path = Path::new(4);
    path.run(MINUTE, DARK);
    assert_eq!(path.verdict(), Verdict::Dark);
    assert!(path.verdict().allows_lists());
    // What was found out stands when the far end goes dark.
    for (fate, verdict) in [(GOOD, Verdict::Forwards), (SWALLOWING, Verdict::Swallows)] {
        path.run(MINUTE, fate);
        assert_eq!(path.verdict(), verdict);
        path.run(MINUTE, DARK);
        assert_eq!(path.verdict(), verdict);
    }
}

#[test]
fn nobody_behind_is_nothing_to_try() {
    let mut path = Path::new(5);
    path.run(MINUTE, SWALLOWING);
    path.passage.set_beyond(path.now, NEIGHBOUR, None);
    assert_eq!(path.passage.poll_change(), Some(NEIGHBOUR));
    assert_eq!(path.passage.verdict(NEIGHBOUR), None);
    assert_eq!(path.passage.poll_timeout(), None);
    // An answer that comes late is nobody's.
    assert!(!path.passage.returned(path.now, &[0; 8]));
}
