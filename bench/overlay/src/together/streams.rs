//! A multicast tree: all get what the source sends.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use xcast_overlay::{
    krpc::signing_key,
    tree::{Config, Event, Member, Packets},
};

use super::crowd::{Crowd, Job};
use crate::bed::Bed;

const MESSAGES: u64 = 50;

/// All join, and get all messages, each once.
pub(super) fn tree(bed: &Bed, port: u16) -> Result<Job<'_>> {
    let crowd = Crowd::start(bed, port, |number, all, now, random| {
        let key = signing_key([7; 32]);
        let mut config = match number {
            0 => Config::source("together", key, 1),
            _ => Config::receiver("together", key.verifying_key().to_bytes(), vec![all[0]]),
        };
        // Three children each, so that there are inner members.
        config.packets = Packets {
            in_udp: true,
            max_destinations: 3,
            ..Packets::default()
        };
        config.packets_per_message = 1;
        Member::new(now, config, random)
    })?;
    crowd.until("everybody has a place", |member: &Member, now: Instant| {
        member.is_connected(now)
    })?;
    Ok(Box::new(move || {
        for number in 1..=MESSAGES {
            let sent =
                crowd.nodes[0].act(move |source, now| source.send(now, &number.to_be_bytes()))?;
            sent.map_err(|error| anyhow!("{error}"))?;
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut done = 0;
        for node in &crowd.nodes[1..] {
            let mut got = Vec::new();
            while got.len() < MESSAGES as usize {
                let next = node.wait(|event| match event {
                    Event::Message { payload, .. } => Some(Some(payload)),
                    Event::Lost { .. } => Some(None),
                    _ => None,
                })?;
                got.push(next);
            }
            let expected = (1..=MESSAGES).map(|number| number.to_be_bytes().to_vec());
            let right = got.iter().zip(expected);
            done += right
                .filter(|(got, expected)| got.as_deref() == Some(expected))
                .count();
        }
        let asked = (crowd.nodes.len() - 1) * MESSAGES as usize;
        crowd.end("tree", "delivered, each once and in order", asked, done)
    }))
}
