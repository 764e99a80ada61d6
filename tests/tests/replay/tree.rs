//! A multicast tree: members join, get a stream, and one that others are below leaves meanwhile.

use std::{
    cell::Cell,
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use xcast_overlay::{
    krpc::signing_key,
    runtime::Random,
    tree::{Config, Member, Packets, Parents},
};

use super::script::{List, Overlay, Step};

/// Messages before the leave, and after it.
const MESSAGES: usize = 15;

pub struct Tree;

impl Overlay for Tree {
    type Node = Member;
    const NAME: &'static str = "tree";
    const PORT: u16 = 4200;
    const RUNS: usize = 3;
    const SIMULATED_RUNS: u64 = 20;

    fn node(number: usize, all: &[SocketAddr], now: Instant, random: Random) -> Member {
        let key = signing_key([3; 32]);
        let mut config = match number {
            0 => Config::source("replay", key, 1),
            _ => Config::receiver("replay", key.verifying_key().to_bytes(), vec![all[0]]),
        };
        // Three children each.
        config.packets = Packets {
            in_udp: true,
            max_destinations: 3,
            ..Packets::default()
        };
        config.packets_per_message = 1;
        // A busy machine is not to make the tree deeper than it has to be.
        config.parents = Parents::Latency {
            level: Duration::from_secs(10),
        };
        Member::new(now, config, random)
    }

    fn script(all: &[SocketAddr]) -> Vec<Step<Member>> {
        let stream = || {
            (0..MESSAGES).flat_map(|_| {
                let send = Box::new(|_, source: &mut Member, now| {
                    // A source that cannot send is noticed, since nothing crosses links.
                    let _ = source.send(now, b"a message of the stream");
                });
                [
                    Step::Say(0..1, send),
                    Step::Pause(Duration::from_millis(20)),
                ]
            })
        };
        let mut script = vec![Step::Until(Member::is_connected)];
        script.extend(stream());
        // One that others are below; there are some, since the source has three children only.
        let has_left = Cell::new(false);
        let leave = Box::new(move |_, member: &mut Member, now| {
            if !has_left.get() && member.children().next().is_some() {
                has_left.set(true);
                member.leave(now);
            }
        });
        script.push(Step::Say(1..all.len(), leave));
        script.extend(stream());
        script.push(Step::Pause(Duration::from_secs(3)));
        script
    }

    /// Each list of a member once, since it sends the same one again and again.
    fn sizes(lists: &[List]) -> Vec<f64> {
        let several = lists.iter().filter(|(_, to)| to.len() > 1);
        let different: BTreeSet<&List> = several.collect();
        different
            .into_iter()
            .map(|(_, to)| to.len() as f64)
            .collect()
    }
}
