//! Kademlia: nodes join one after the other, and look each other up.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use xcast_overlay::{
    id::Id,
    kademlia::{Config, Event, Node},
    krpc::Family,
    runtime::Random,
};

use super::script::{Overlay, Step};

/// Pause after each join: whoever was asked has to see whether the newcomer answers.
const SETTLE: Duration = Duration::from_millis(800);
/// Look-ups of each node.
const ROUNDS: u64 = 3;

pub struct Kademlia;

impl Overlay for Kademlia {
    type Node = Node;
    const NAME: &'static str = "Kademlia";
    const PORT: u16 = 6881;

    fn node(number: usize, all: &[SocketAddr], now: Instant, mut random: Random) -> Node {
        let mut config = Config::own_network();
        // A node without one takes another as soon as it hears its address (BEP 42), unless that is a private one as on
        // the testbed, and joins again.
        config.id = Some(Id::random(&mut random));
        config.families = vec![Family::of(&all[number])];
        config.table.max_per_network = None;
        config.alpha = 3;
        // Nothing by itself while this lasts.
        config.tick = Duration::from_secs(3600);
        config.bootstrap.extend((number > 0).then_some(all[0]));
        Node::new(now, config, random)
    }

    fn script(all: &[SocketAddr]) -> Vec<Step<Node>> {
        let count = all.len();
        let mut script = Vec::new();
        for at in 0..count {
            let join = Box::new(|_, node: &mut Node, now| node.join(now));
            let joined = |event: &Event| matches!(event, Event::Joined { .. });
            script.push(Step::Act(at..at + 1, join, joined));
            script.push(Step::Pause(SETTLE));
        }
        for round in 0..ROUNDS {
            let find = Box::new(move |at, node: &mut Node, now| {
                node.find_node(now, target(round, at));
            });
            let finished = |event: &Event| matches!(event, Event::Finished { .. });
            script.push(Step::Act(0..count, find, finished));
        }
        // What is under way arrives, and is answered.
        script.push(Step::Pause(Duration::from_secs(2)));
        script
    }
}

/// What a node looks for.
fn target(round: u64, node: usize) -> Id {
    Id::random(&mut Random::from_number(round << 8 | node as u64))
}
