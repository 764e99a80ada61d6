//! D1HT: peers join one after the other, all hear of it by EDRA, look keys up, and some leave.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use xcast_overlay::{
    d1ht::{Config, Event, Grouping, Peer, Theta},
    ring::Position,
    runtime::Random,
};

use super::script::{Overlay, Step};

/// Length of an interval.
const THETA: Duration = Duration::from_millis(300);
/// Peers that leave in the end.
const LEAVERS: usize = 3;

pub struct D1ht;

impl Overlay for D1ht {
    type Node = Peer;
    const NAME: &'static str = "D1HT";
    const PORT: u16 = 4100;
    const RUNS: usize = 2;

    fn node(number: usize, all: &[SocketAddr], _: Instant, random: Random) -> Peer {
        let mut config = Config::new("replay", all[number]);
        config.theta = Theta::Fixed(THETA);
        // As the seed has it: one packet for all levels.
        config.grouping = Grouping::One;
        Peer::new(config, random)
    }

    fn script(all: &[SocketAddr]) -> Vec<Step<Peer>> {
        let (count, first) = (all.len(), all[0]);
        let joined = |event: &Event| matches!(event, Event::Joined);
        let mut script = Vec::new();
        for at in 0..count {
            let join = Box::new(move |at, peer: &mut Peer, now| match at {
                0 => peer.found_overlay(now),
                _ => peer.join(now, &[first]),
            });
            script.push(Step::Act(at..at + 1, join, joined));
            // Two intervals: not all events come together.
            script.push(Step::Pause(2 * THETA));
        }
        let look_up = Box::new(|at, peer: &mut Peer, now| {
            peer.lookup(now, Position::of_key(&[at as u8]));
        });
        let found = |event: &Event| matches!(event, Event::Found { .. });
        script.push(Step::Act(0..count, look_up, found));
        for at in (count - LEAVERS..count).rev() {
            let leave = Box::new(|_, peer: &mut Peer, now| peer.leave(now));
            let left = |event: &Event| matches!(event, Event::Left);
            script.push(Step::Act(at..at + 1, leave, left));
            script.push(Step::Pause(5 * THETA));
        }
        script
    }
}
