//! What other overlays of the application tell several at once, each in its manner.

use anyhow::Result;
use xcast_overlay::{
    others::{can, freenet, tapestry},
    ring::Position,
};

use super::crowd::{Crowd, Job, neighbours};
use crate::bed::Bed;

/// Each looks up whose a point is, by several ways at once.
pub(super) fn can(bed: &Bed, port: u16) -> Result<Job<'_>> {
    let crowd = Crowd::start(bed, port, |number, all, now, random| {
        let seeds = all[..number.min(1)].to_vec();
        can::Node::new(
            now,
            can::Config::new("together", all[number], seeds),
            random,
        )
    })?;
    crowd.until("everybody has a zone", |node, _| node.is_member())?;
    crowd.until("everybody has neighbours", |node, _| {
        node.neighbours().next().is_some()
    })?;
    Ok(Box::new(move || {
        let count = crowd.nodes.len();
        for (number, node) in crowd.nodes.iter().enumerate() {
            let key = Position::of(&crowd.addresses[(number + count / 2) % count]);
            node.act(move |node, now| node.lookup(now, key))?;
        }
        let mut done = 0;
        for node in &crowd.nodes {
            let owner = node.wait(|event| match event {
                can::Event::Found { owner, .. } => Some(owner),
                _ => None,
            })?;
            done += usize::from(owner.is_some_and(|owner| crowd.addresses.contains(&owner)));
        }
        crowd.end("CAN", "found whose a point is", count, done)
    }))
}

/// Each publishes something, and looks up the root of what the one on the other side has.
pub(super) fn tapestry(bed: &Bed, port: u16) -> Result<Job<'_>> {
    let crowd = Crowd::start(bed, port, |number, all, now, random| {
        let seeds = all[..number.min(1)].to_vec();
        tapestry::Node::new(
            now,
            tapestry::Config::new("together", all[number], seeds),
            random,
        )
    })?;
    let near = crowd.nodes.len().min(4) - 1;
    crowd.until("everybody has a place", move |node, _| {
        node.is_member() && node.known() >= near
    })?;
    Ok(Box::new(move || {
        let count = crowd.nodes.len();
        for (node, address) in crowd.nodes.iter().zip(&crowd.addresses) {
            let key = Position::of(address);
            node.act(move |node, now| node.publish(now, key))?;
        }
        for (number, node) in crowd.nodes.iter().enumerate() {
            let key = Position::of(&crowd.addresses[(number + count / 2) % count]);
            node.act(move |node, now| node.lookup(now, key))?;
        }
        let mut done = 0;
        for (number, node) in crowd.nodes.iter().enumerate() {
            let root = node.wait(|event| match event {
                tapestry::Event::Root { root, .. } => Some(root),
                _ => None,
            })?;
            let key = Position::of(&crowd.addresses[(number + count / 2) % count]);
            let right = tapestry::root_of(key, crowd.addresses.iter().copied());
            done += usize::from(root.is_some() && root == right);
        }
        crowd.end("Tapestry", "found the root of a key", count, done)
    }))
}

/// Each inserts something, and requests what another one has inserted.
pub(super) fn freenet(bed: &Bed, port: u16) -> Result<Job<'_>> {
    let crowd = Crowd::start(bed, port, |number, all, now, random| {
        let config = freenet::Config::new("together", all[number], neighbours(number, all));
        freenet::Node::new(now, config, random)
    })?;
    crowd.until("everybody knows somebody", |node, _| {
        node.known().next().is_some()
    })?;
    Ok(Box::new(move || {
        let count = crowd.nodes.len();
        for (number, node) in crowd.nodes.iter().enumerate() {
            let value = format!("value {number}");
            node.act(move |node, _| node.insert(number as u64, value))?;
        }
        for (number, node) in crowd.nodes.iter().enumerate() {
            let key = (number + 1) % count;
            node.act(move |node, now| node.request(now, key as u64))?;
        }
        let mut done = 0;
        for (number, node) in crowd.nodes.iter().enumerate() {
            let value = node.wait(|event| match event {
                freenet::Event::Found { value, .. } => Some(Some(value)),
                freenet::Event::NotFound { .. } => Some(None),
            })?;
            let expected = format!("value {}", (number + 1) % count);
            done += usize::from(value.is_some_and(|value| value == expected));
        }
        crowd.end("Freenet", "inserted, and found by another", count, done)
    }))
}
