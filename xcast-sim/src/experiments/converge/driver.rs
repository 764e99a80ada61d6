//! Growing a network, and what is done to it.

use std::{cell::RefCell, rc::Rc, time::Duration};

use serde::Serialize;
use xcast_overlay::{
    accordion::Accordion,
    chord::Chord,
    d1ht,
    epichord::EpiChord,
    kademlia,
    memory::{Faults, World},
    meridian,
    others::{can, flood, freenet, tapestry},
    ring::Position,
    runtime::Mode,
    tree::Member,
    walks::{gia, lms},
};

use super::{
    subject::{Newcomer, Subject, Truth, at},
    subjects::Overlay,
};
use crate::{experiments::work, statistics::Estimate};

/// What is right again, in percent of outcomes, unless it was less before.
const RIGHT_PERCENT: f64 = 99.0;
/// Operations of a batch after the blow.
const BATCH: usize = 100;
/// After so long nobody waits for an overlay to be right again.
const HOPELESS: Duration = Duration::from_secs(3 * 3600);

/// An experiment.
#[derive(Clone, Debug)]
pub struct Converge {
    /// Which overlay.
    pub overlay: Overlay,
    /// Nodes.
    pub peers: usize,
    /// One network for each.
    pub seeds: Vec<u64>,
    /// How long nodes stay, on average.
    pub session: Duration,
    /// How long there is churn.
    pub churn: Duration,
    /// Of a hundred datagrams, so many are lost meanwhile; and half as many packets on first links, for
    /// all of their receivers.
    pub loss_percent: f64,
    /// How much longer a datagram may take meanwhile.
    pub jitter: Duration,
    /// Of a hundred nodes, so many vanish at one moment.
    pub blow_percent: usize,
    /// Operations when calm, and as many under churn.
    pub operations: usize,
}

/// An overlay's result.
#[derive(Clone, Debug, Serialize)]
pub struct ConvergeRow {
    /// Which overlay.
    pub overlay: Overlay,
    /// Nodes.
    pub peers: usize,
    /// How long nodes stay, on average, in seconds.
    pub session_s: f64,
    /// Of a hundred datagrams, so many were lost.
    pub loss_percent: f64,
    /// How much longer a datagram took at most, in seconds.
    pub jitter_s: f64,
    /// Of a hundred nodes, so many vanished at one moment.
    pub blow_percent: usize,
    /// One network for each.
    pub seeds: Vec<u64>,
    /// Outcomes that were right while calm, in percent.
    pub calm_percent: Estimate,
    /// Under churn and loss.
    pub churn_percent: Estimate,
    /// The first batch of operations after the blow.
    pub blow_right_percent: Estimate,
    /// How long it took until operations were right again after it, in seconds; none if they never
    /// were in one of the networks.
    pub right_after_s: Option<Estimate>,
    /// Packets that left a node in a second under churn, operations included: a list is one.
    pub packets_per_s: Estimate,
    /// Their receivers, which are the packets without lists.
    pub receivers_per_s: Estimate,
}

/// Runs something with the kind of nodes that an overlay has.
macro_rules! with_nodes {
    ($overlay:expr, $s:ident => $run:expr) => {
        match $overlay {
            Overlay::Kademlia => with_nodes!(kademlia::Node, $s, $run),
            Overlay::D1ht => with_nodes!(d1ht::Peer, $s, $run),
            Overlay::Chord => with_nodes!(Chord, $s, $run),
            Overlay::EpiChord => with_nodes!(EpiChord, $s, $run),
            Overlay::Accordion => with_nodes!(Accordion, $s, $run),
            Overlay::Meridian => with_nodes!(meridian::Node, $s, $run),
            Overlay::Gia => with_nodes!(gia::Node, $s, $run),
            Overlay::Lms => with_nodes!(lms::Node, $s, $run),
            Overlay::Flooding => with_nodes!(flood::Node, $s, $run),
            Overlay::Tree => with_nodes!(Member, $s, $run),
            Overlay::Can => with_nodes!(can::Node, $s, $run),
            Overlay::Tapestry => with_nodes!(tapestry::Node, $s, $run),
            Overlay::Freenet => with_nodes!(freenet::Node, $s, $run),
        }
    };
    ($node:ty, $s:ident, $run:expr) => {{
        type $s = $node;
        $run
    }};
}

/// A message that left a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentList {
    /// Whose, by the order in which nodes came.
    pub from: usize,
    /// To whom.
    pub to: Vec<usize>,
    /// Length of the payload, in octets: of the longest, if they differ.
    pub octets: u32,
    /// Whether it may leave as one packet.
    pub shared: bool,
    /// What it is for, where its overlay has several kinds of lists.
    pub purpose: Option<&'static str>,
}

/// What so many nodes of an overlay send under churn: each that goes, after an hour on average, is
/// replaced, and one after the other does what the overlay is for. Gives back how many nodes there were in
/// all, too.
pub fn sent_lists(
    overlay: Overlay,
    peers: usize,
    seed: u64,
    operations: usize,
    progress: &mut dyn FnMut(&str),
) -> (usize, Vec<SentList>) {
    with_nodes!(overlay, S => {
        let mut run = Run::<S>::grown(peers, seed, progress);
        let noted = Rc::new(RefCell::new(Vec::new()));
        let notes = Rc::clone(&noted);
        run.world.watch = Some(Box::new(move |_, from, transmit| {
            notes.borrow_mut().push((from, transmit.clone()));
        }));
        let pause = Duration::from_millis(200);
        run.work(operations, pause, Some(Duration::from_secs(3600)));
        let sent = noted.take().into_iter().map(|(from, transmit)| SentList {
            from,
            to: transmit.to.iter().filter_map(|to| run.world.place(*to)).collect(),
            octets: (0..transmit.to.len())
                .map(|at| transmit.datagram(at).len() as u32)
                .max()
                .unwrap_or_default(),
            shared: transmit.mode == Mode::Shared && transmit.body.is_same_for_all(),
            purpose: S::purpose(&transmit.datagram(0)),
        });
        (run.world.nodes.len(), sent.filter(|sent| !sent.to.is_empty()).collect())
    })
}

/// What a seed brings.
struct Sample {
    calm: f64,
    churn: f64,
    blow: f64,
    right_after: Option<f64>,
    packets: f64,
    receivers: f64,
}

impl Converge {
    /// Runs it; `progress` is told of each step.
    pub fn run(&self, mut progress: impl FnMut(&str)) -> Option<ConvergeRow> {
        let samples: Vec<Sample> = self
            .seeds
            .iter()
            .map(|seed| self.sample_of(*seed, &mut progress))
            .collect();
        let of = |value: fn(&Sample) -> f64| {
            Estimate::of(&samples.iter().map(value).collect::<Vec<_>>())
        };
        let right_after: Option<Vec<f64>> = samples.iter().map(|s| s.right_after).collect();
        Some(ConvergeRow {
            overlay: self.overlay,
            peers: self.peers,
            session_s: self.session.as_secs_f64(),
            loss_percent: self.loss_percent,
            jitter_s: self.jitter.as_secs_f64(),
            blow_percent: self.blow_percent,
            seeds: self.seeds.clone(),
            calm_percent: of(|sample| sample.calm)?,
            churn_percent: of(|sample| sample.churn)?,
            blow_right_percent: of(|sample| sample.blow)?,
            right_after_s: right_after.and_then(|times| Estimate::of(&times)),
            packets_per_s: of(|sample| sample.packets)?,
            receivers_per_s: of(|sample| sample.receivers)?,
        })
    }

    fn sample_of(&self, seed: u64, progress: &mut dyn FnMut(&str)) -> Sample {
        with_nodes!(self.overlay, S => self.sample::<S>(seed, progress))
    }

    /// One seed's result, with nodes of this kind.
    fn sample<S: Subject>(&self, seed: u64, progress: &mut dyn FnMut(&str)) -> Sample {
        let mut run = Run::<S>::grown(self.peers, seed, progress);
        progress("calm");
        let pause = Duration::from_millis(100);
        let calm = run.work(self.operations, pause, None);
        progress("churn");
        let loss = self.loss_percent * 10.0;
        run.world.faults = Faults {
            first_link_loss: (loss / 2.0).round() as usize,
            loss: loss.round() as usize,
            duplicates: loss.round() as usize,
            jitter: self.jitter,
            ..Faults::default()
        };
        let (began, sent) = (run.world.now, run.world.sent);
        let pause = self.churn / self.operations.max(1) as u32;
        let churn = run.work(self.operations, pause, Some(self.session));
        let seconds = (run.world.now - began).as_secs_f64() * self.peers as f64;
        let packets = (run.world.sent.packets() - sent.packets()) as f64 / seconds;
        let receivers = (run.world.sent.receivers() - sent.receivers()) as f64 / seconds;
        run.world.faults = Faults::default();
        progress("blow");
        let living = run.world.living();
        for place in living.into_iter().filter(|place| *place != 0) {
            if run.world.random.below(100) < self.blow_percent {
                run.kill(place);
            }
        }
        let blown = run.world.now;
        let wanted = calm.min(RIGHT_PERCENT);
        let mut first = None;
        let right_after = loop {
            let began = run.world.now - blown;
            let right = run.work(BATCH, Duration::from_millis(100), None);
            first.get_or_insert(right);
            if right >= wanted {
                break Some(began.as_secs_f64());
            }
            if began > HOPELESS {
                break None;
            }
        };
        Sample {
            calm,
            churn,
            blow: first.unwrap_or_default(),
            right_after,
            packets,
            receivers,
        }
    }
}

struct Run<S: Subject> {
    world: World<S>,
    truth: Truth,
    count: usize,
    seed: u64,
    /// By place: the number that says where it is.
    identities: Vec<usize>,
    next_identity: usize,
    /// By place: outcomes that are waited for.
    waited: Vec<u32>,
}

impl<S: Subject> Run<S> {
    fn grown(count: usize, seed: u64, progress: &mut dyn FnMut(&str)) -> Self {
        let mut run = Self {
            world: World::new(seed),
            truth: Truth::default(),
            count,
            seed,
            identities: Vec::new(),
            next_identity: 0,
            waited: Vec::new(),
        };
        S::prepare(&mut run.world, count, seed);
        for number in 0..count {
            let identity = run.next_identity;
            run.next_identity += 1;
            run.join(identity);
            if !S::TOGETHER {
                run.world.run_for(S::join_pause(number));
                run.world.events.clear();
            }
            if (number + 1) % (count / 10).max(1) == 0 {
                progress(&format!("{} of {count} have joined", number + 1));
            }
        }
        run.world.run_for(S::SETTLE);
        run.world.events.clear();
        run
    }

    fn join(&mut self, identity: usize) {
        let mut by = Vec::new();
        for _ in 0..3 {
            let ready = |run: &mut Self| {
                let place = run.world.random.below(run.world.nodes.len());
                let node = run.world.nodes[place].as_ref()?;
                node.is_ready(run.world.now).then_some(place)
            };
            let found = (!self.world.nodes.is_empty())
                .then(|| (0..50).find_map(|_| ready(self)))
                .flatten();
            by.extend(found.map(|place| at(self.identities[place])));
        }
        if by.is_empty() && identity > 0 {
            by.push(at(0));
        }
        let newcomer = Newcomer {
            identity,
            by: &by,
            count: self.count,
            seed: self.seed,
        };
        let place = self.world.add(at(identity), |now, random| {
            S::create(now, random, &newcomer)
        });
        self.identities.push(identity);
        self.waited.push(0);
        self.truth
            .ring
            .insert(Position::of(&at(identity)), at(identity));
        self.world.act(place, |node, now| node.start(now, &by));
    }

    fn kill(&mut self, place: usize) {
        let address = at(self.identities[place]);
        self.truth.ring.remove(&Position::of(&address));
        self.world.kill(place);
    }

    /// Lets nodes do what the overlay is for, one after the other: how many outcomes are right, in
    /// percent. With churn, nodes go and come meanwhile.
    fn work(&mut self, operations: usize, pause: Duration, session: Option<Duration>) -> f64 {
        let (mut right, mut expected) = (0.0, 0_u64);
        self.waited.fill(0);
        let rate = session.map(|session| self.count as f64 / session.as_secs_f64());
        let mut next_change =
            rate.map(|rate| self.world.now + work::wait(&mut self.world.random, rate));
        for _ in 0..operations {
            let end = self.world.now + pause;
            while let (Some(rate), Some(change)) = (rate, next_change)
                && change <= end
            {
                self.go_on(change - self.world.now, &mut right);
                expected -= u64::from(self.change());
                next_change = Some(change + work::wait(&mut self.world.random, rate));
            }
            self.go_on(end - self.world.now, &mut right);
            let asker = loop {
                let place = self.world.random_living();
                if self.world.node(place).is_ready(self.world.now) {
                    break place;
                }
            };
            self.truth.serial += 1;
            for place in S::ask(&mut self.world, &self.truth, asker) {
                self.waited[place] += 1;
                expected += 1;
            }
            self.take(&mut right);
        }
        self.go_on(S::PATIENCE, &mut right);
        100.0 * right / expected.max(1) as f64
    }

    /// One node goes, and another comes: how many outcomes are therefore not to be waited for.
    fn change(&mut self) -> u32 {
        let place = loop {
            let place = self.world.random_living();
            if place != 0 {
                break place;
            }
        };
        self.kill(place);
        let identity = if S::RESTARTS {
            self.identities[place]
        } else {
            self.next_identity += 1;
            self.next_identity - 1
        };
        self.join(identity);
        std::mem::take(&mut self.waited[place])
    }

    fn go_on(&mut self, time: Duration, right: &mut f64) {
        self.world.run_for(time);
        self.take(right);
    }

    fn take(&mut self, right: &mut f64) {
        for (_, place, event) in std::mem::take(&mut self.world.events) {
            if self.world.nodes[place].is_some()
                && self.waited[place] > 0
                && let Some(outcome) = S::outcome(&self.world, &self.truth, place, &event)
            {
                self.waited[place] -= 1;
                *right += outcome;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every overlay is right when calm, mostly right under mild churn, and right again after a blow.
    #[test]
    fn all_overlays_come_through() {
        for overlay in Overlay::ALL {
            let experiment = Converge {
                overlay,
                peers: 60,
                seeds: vec![1],
                session: Duration::from_secs(3600),
                churn: Duration::from_secs(120),
                loss_percent: 1.0,
                jitter: Duration::from_millis(40),
                blow_percent: 10,
                operations: 40,
            };
            let row = experiment.run(|_| {}).expect("a seed");
            println!("{row:?}");
            // Flooding finds what its time to live reaches.
            let calm = if overlay == Overlay::Flooding {
                60.0
            } else {
                80.0
            };
            assert!(row.calm_percent.mean >= calm, "{row:?}");
            assert!(row.churn_percent.mean >= 60.0, "{row:?}");
            assert!(row.right_after_s.is_some(), "{row:?}");
        }
    }

    /// A tenth of a large network's growth takes as long as a tenth of a small one's.
    #[test]
    fn a_large_network_takes_more_newcomers_in() {
        let grown = |from, to| (from..to).map(Accordion::join_pause).sum::<Duration>();
        let (small, large) = (grown(200, 220), grown(5000, 5500));
        assert!(small.abs_diff(large) < small / 100, "{small:?} {large:?}");
        assert_eq!(Chord::join_pause(5000), Chord::join_pause(50));
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let text = || {
            let experiment = Converge {
                overlay: Overlay::EpiChord,
                peers: 30,
                seeds: vec![1, 2],
                session: Duration::from_secs(600),
                churn: Duration::from_secs(60),
                loss_percent: 2.0,
                jitter: Duration::from_millis(40),
                blow_percent: 10,
                operations: 20,
            };
            serde_json::to_string(&experiment.run(|_| {})).expect("rows have text keys")
        };
        assert_eq!(text(), text());
    }
}
