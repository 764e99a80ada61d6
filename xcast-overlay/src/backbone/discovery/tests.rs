use super::*;

/// One neighbour on a link that loses probes, for as long as a test wants.
struct Link {
    discovery: Discovery<u32>,
    random: Random,
    start: Instant,
    now: Instant,
    /// Answers on their way.
    answers: VecDeque<(Instant, Nonce)>,
    changes: Vec<(Duration, bool)>,
    probes: Vec<Instant>,
}

const NEIGHBOUR: u32 = 7;
const DELAY: Duration = Duration::from_millis(3);

impl Link {
    fn new(seed: u64) -> Self {
        let start = Instant::now();
        let mut discovery = Discovery::new(Timing::default(), Random::from_number(seed));
        discovery.add(start, NEIGHBOUR);
        Self {
            discovery,
            random: Random::from_number(!seed),
            start,
            now: start,
            answers: VecDeque::new(),
            changes: Vec::new(),
            probes: Vec::new(),
        }
    }

    /// Goes on for `span`; of 1000 probes, `lost` do not return.
    fn run(&mut self, span: Duration, lost: usize) {
        let end = self.now + span;
        loop {
            let timer = self.discovery.poll_timeout();
            let answer = self.answers.front().map(|(at, _)| *at);
            let next = [timer, answer].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next < end) else {
                break;
            };
            self.now = self.now.max(next);
            if answer.is_some_and(|at| at <= self.now)
                && let Some((_, nonce)) = self.answers.pop_front()
            {
                assert!(self.discovery.returned(self.now, &nonce));
            }
            self.discovery.handle_timeout(self.now);
            while let Some(probe) = self.discovery.poll_probe() {
                self.probes.push(self.now);
                if self.random.below(1000) >= lost {
                    self.answers.push_back((self.now + DELAY, probe.nonce));
                }
            }
            while let Some((neighbour, capable)) = self.discovery.poll_change() {
                assert_eq!(neighbour, NEIGHBOUR);
                self.changes.push((self.now - self.start, capable));
            }
        }
        self.now = end;
    }

    fn state(&self) -> Neighbour<u32> {
        self.discovery.neighbours(self.now).next().unwrap()
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_neighbour_is_incapable_until_it_returns_a_probe() {
    let mut link = Link::new(1);
    assert_eq!(link.state().standing, Standing::New);
    link.run(MINUTE, 1000);
    assert_eq!(link.state().standing, Standing::Silent);
    assert_eq!(link.changes, []);
    // It is asked less and less often.
    let asked = link.probes.len();
    link.run(10 * MINUTE, 1000);
    let rate = link.probes.len() - asked;
    assert!((30..=60).contains(&rate), "{rate} probes in ten minutes");
    link.run(MINUTE, 0);
    assert_eq!(link.state().standing, Standing::Proven);
    assert_eq!(link.state().round_trip, Some(DELAY));
}

#[test]
fn one_percent_of_loss_never_flaps() {
    for seed in 0..200 {
        let mut link = Link::new(seed);
        // One in a hundred of probes, and of those that return.
        link.run(30 * MINUTE, 20);
        assert!(
            matches!(link.changes[..], [(at, true)] if at < Duration::from_secs(3)),
            "seed {seed}: {:?}",
            link.changes
        );
    }
}

#[test]
fn who_stops_is_lost_quickly_and_returns_on_trial() {
    for seed in 0..200 {
        let mut link = Link::new(seed);
        link.run(MINUTE, 0);
        let stopped = link.now - link.start;
        link.run(MINUTE, 1000);
        let [_, (lost, false)] = link.changes[..] else {
            panic!("{:?}", link.changes);
        };
        // Two probes and a half go by, or it would flap.
        let found_after = lost - stopped;
        assert!(found_after <= Duration::from_secs(5), "{found_after:?}");
        assert_eq!(link.state().standing, Standing::Lost);
        link.run(MINUTE, 0);
        assert_eq!(link.state().standing, Standing::Proven);
        assert_eq!(link.state().losses, 1);
    }
}

/// Half of the probes are lost: such a link is used only as long as it is at its best.
#[test]
fn a_bad_link_is_not_followed_at_each_whim() {
    for seed in 0..50 {
        let mut link = Link::new(seed);
        link.run(30 * MINUTE, 500);
        assert!(link.changes.len() < 120, "{} changes", link.changes.len());
    }
}

#[test]
fn probes_keep_their_distance() {
    let start = Instant::now();
    let timing = Timing::default();
    let mut discovery = Discovery::new(timing, Random::from_number(3));
    for neighbour in 0..500_u32 {
        discovery.add(start, neighbour);
    }
    let (mut now, mut sent) = (start, Vec::new());
    while now < start + Duration::from_secs(10) {
        discovery.handle_timeout(now);
        while discovery.poll_probe().is_some() {
            sent.push(now);
        }
        now = discovery.poll_timeout().unwrap().max(now);
    }
    assert!(
        sent.windows(2)
            .all(|pair| pair[1] - pair[0] >= timing.spacing)
    );
    assert!(
        discovery
            .neighbours(now)
            .all(|neighbour| neighbour.sent > 2)
    );
}

#[test]
fn nobody_else_can_answer() {
    let mut link = Link::new(4);
    link.run(MINUTE, 1000);
    assert!(!link.discovery.returned(link.now, &[0; 8]));
    link.discovery.hurry(link.now, NEIGHBOUR);
    link.discovery.handle_timeout(link.now);
    let probe = link.discovery.poll_probe().unwrap();
    assert!(link.discovery.returned(link.now, &probe.nonce));
    // Each counts once.
    assert!(!link.discovery.returned(link.now, &probe.nonce));
    assert_eq!(link.discovery.poll_change(), Some((NEIGHBOUR, true)));
    link.discovery.remove(NEIGHBOUR);
    assert_eq!(link.discovery.poll_change(), Some((NEIGHBOUR, false)));
    assert_eq!(link.discovery.poll_timeout(), None);
}

#[test]
fn who_was_proven_for_somebody_else_has_as_long_as_a_proof_holds() {
    let hold = Timing::default().hold;
    for (lost, is_proven) in [(0, true), (1000, false)] {
        let mut link = Link::new(5);
        link.discovery.remove(NEIGHBOUR);
        link.discovery.add_proven(link.start, NEIGHBOUR);
        assert!(link.discovery.is_capable(NEIGHBOUR));
        link.run(hold - DELAY, lost);
        assert!(link.discovery.is_capable(NEIGHBOUR));
        link.run(hold, lost);
        assert_eq!(link.discovery.is_capable(NEIGHBOUR), is_proven);
        // Said again, it proves nothing.
        link.discovery.add_proven(link.now, NEIGHBOUR);
        assert_eq!(link.discovery.is_capable(NEIGHBOUR), is_proven);
    }
}
