//! Searches: for who is near, and for who has something.

use std::time::Duration;

use anyhow::Result;
use xcast_overlay::{
    meridian::{self, Goal},
    others::flood,
    walks::{gia, lms},
};

use super::crowd::{Crowd, Job, neighbours};
use crate::bed::Bed;

/// Each looks for the node that is closest to another one, which is a node of the overlay.
pub(super) fn meridian(bed: &Bed, port: u16) -> Result<Job<'_>> {
    let crowd = Crowd::start(bed, port, |number, all, now, random| {
        let seeds = all[..1].iter().copied().filter(|one| *one != all[number]);
        let mut config = meridian::Config::new("together", seeds.collect());
        config.first_gossip = Duration::from_secs(1);
        meridian::Node::new(now, config, random)
    })?;
    let count = crowd.nodes.len();
    crowd.until("everybody knows a few", move |node, _| {
        let rings = node.status().rings;
        let known: usize = rings.iter().map(|(one, other)| one + other).sum();
        known >= 4.min(count - 1)
    })?;
    Ok(Box::new(move || {
        for (number, node) in crowd.nodes.iter().enumerate() {
            let target = crowd.addresses[(number + 1) % count];
            node.act(move |node, now| node.query(now, Goal::closest(target)))?;
        }
        let mut done = 0;
        for node in &crowd.nodes {
            let best = node.wait(|event| match event {
                meridian::Event::Found { best, .. } => Some(best),
                meridian::Event::NotFound { .. } => Some(None),
            })?;
            done += usize::from(best.is_some_and(|best| crowd.addresses.contains(&best)));
        }
        crowd.end("Meridian", "looked for the closest node", count, done)
    }))
}

/// Each has something of its own, and looks for what the one on the other side has.
pub(super) fn gia(bed: &Bed, port: u16) -> Result<Job<'_>> {
    let crowd = Crowd::start(bed, port, |number, all, now, random| {
        let seeds = all[..number].iter().rev().take(3).copied().collect();
        let mut config = gia::Config::new("together", all[number], seeds, 100);
        config.walkers = 3;
        gia::Node::new(now, config, random)
    })?;
    crowd.until("everybody has neighbours", |node, _| {
        !node.status().neighbours.is_empty()
    })?;
    Ok(Box::new(move || {
        let count = crowd.nodes.len();
        for (number, node) in crowd.nodes.iter().enumerate() {
            node.act(move |node, now| node.share(now, [number as u64]))?;
        }
        for (number, node) in crowd.nodes.iter().enumerate() {
            let key = (number + count / 2) % count;
            node.act(move |node, now| node.search(now, key as u64))?;
        }
        let mut done = 0;
        for (number, node) in crowd.nodes.iter().enumerate() {
            let holders = node.wait(|event| match event {
                gia::Event::Found { holders, .. } => Some(holders),
                gia::Event::NotFound { .. } => Some(Vec::new()),
            })?;
            done += usize::from(holders == [crowd.addresses[(number + count / 2) % count]]);
        }
        crowd.end("Gia", "found by walkers", count, done)
    }))
}

/// Each leaves something at local minima, and finds what another one left.
pub(super) fn lms(bed: &Bed, port: u16) -> Result<Job<'_>> {
    let crowd = Crowd::start(bed, port, |number, all, now, random| {
        let mut config = lms::Config::new("together", all[number], neighbours(number, all));
        config.hello = Duration::from_secs(1);
        lms::Node::new(now, config, random)
    })?;
    let near = crowd.nodes.len().min(6);
    crowd.until("everybody knows those within two hops", move |node, _| {
        node.neighbourhood() >= near
    })?;
    Ok(Box::new(move || {
        let count = crowd.nodes.len();
        for (number, node) in crowd.nodes.iter().enumerate() {
            let value = format!("value {number}");
            node.act(move |node, now| node.store(now, number as u64, value, 2))?;
        }
        for node in &crowd.nodes {
            node.wait(|event| matches!(event, lms::Event::Ended { .. }).then_some(()))?;
        }
        for (number, node) in crowd.nodes.iter().enumerate() {
            let key = (number + 1) % count;
            node.act(move |node, now| node.find(now, key as u64, 4))?;
        }
        let mut done = 0;
        for (number, node) in crowd.nodes.iter().enumerate() {
            let value = node.wait(|event| match event {
                lms::Event::Found { value, .. } => Some(Some(value)),
                lms::Event::Ended { .. } => Some(None),
            })?;
            let expected = format!("value {}", (number + 1) % count);
            done += usize::from(value.is_some_and(|value| value == expected));
        }
        crowd.end("LMS", "left, and found by another", count, done)
    }))
}

/// Each has something of its own, and looks for what the one on the other side has.
pub(super) fn flooding(bed: &Bed, port: u16) -> Result<Job<'_>> {
    let crowd = Crowd::start(bed, port, |number, all, now, random| {
        let config = flood::Config::new("together", all[number], neighbours(number, all));
        flood::Node::new(now, config, random)
    })?;
    Ok(Box::new(move || {
        let count = crowd.nodes.len();
        for (number, node) in crowd.nodes.iter().enumerate() {
            node.act(move |node, _| node.share([number as u64]))?;
        }
        for (number, node) in crowd.nodes.iter().enumerate() {
            let key = (number + count / 2) % count;
            node.act(move |node, now| node.search(now, key as u64))?;
        }
        let mut done = 0;
        for (number, node) in crowd.nodes.iter().enumerate() {
            let holders = node.wait(|event| match event {
                flood::Event::Found { holders, .. } => Some(holders),
                flood::Event::NotFound { .. } => Some(Vec::new()),
                flood::Event::Here { .. } => None,
            })?;
            done += usize::from(holders == [crowd.addresses[(number + count / 2) % count]]);
        }
        crowd.end("flooding", "found by a flood", count, done)
    }))
}
