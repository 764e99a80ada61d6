//! Sockets and calls of many kinds, with the library and without.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use tests::family::Family;
use tests::namespace;

use crate::hosts::script;
use crate::wire::{Run, Wire};

/// Destinations of a round.
const ALL: usize = 8;

/// How many datagrams of each kind share packets. All others pass.
const SHARED: [(&str, usize); 19] = [
    ("plain", ALL),
    ("pieces", ALL),
    ("dontwait", ALL),
    ("reversed", ALL),
    ("one_call", ALL),
    ("twice", 2 * ALL),
    ("do_not_fragment", ALL),
    ("hop_limit", ALL),
    ("dscp", ALL),
    ("received_timestamps", ALL),
    ("port_shared", ALL),
    ("any_address", ALL),
    ("by_a_thread", ALL),
    // The child's pass.
    ("by_a_child", ALL),
    ("spawned", ALL),
    // Those that are no broadcast.
    ("broadcast", ALL),
    // Before there were two descriptors.
    ("doubled_over", ALL),
    ("handed_over", ALL),
    // Before it was closed.
    ("closed", 5),
];

#[track_caller]
fn every_kind(family: Family, native: bool) {
    if !namespace::available() {
        return;
    }
    let test = || {
        let wire = Wire::new(family, native)?;
        let run = |with| -> Result<Run> {
            let mut command = match with {
                // On a busy machine the usual time can end amid a round.
                true => wire.exec(&["--max-delay", "1000", "--", "python3"]),
                false => wire.command(false, "python3"),
            };
            command.arg(script("kinds.py")).arg(wire.own().to_string());
            wire.run(with, &mut command)
        };
        let (without, with) = (run(false)?, run(true)?);
        without.compare(&with)?;
        ensure!(without.shared() == 0);
        let mut wanted: BTreeMap<String, usize> = SHARED
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        wanted.extend(match family {
            Family::Ipv4 => [("mapped".to_owned(), ALL)],
            Family::Ipv6 => [("ipv6_only".to_owned(), ALL)],
        });
        // Without its speciality each would have shared a packet.
        for line in &with.answers {
            let mut words = line.split(' ');
            let (Some(kind), Some(when)) = (words.next(), words.next()) else {
                continue;
            };
            if when == "now" || wanted.contains_key(kind) {
                wanted.insert(format!("{kind}-control"), ALL);
            }
        }
        let text = |(name, count): (&Vec<u8>, &usize)| {
            (String::from_utf8_lossy(name).into_owned(), *count)
        };
        let mut shared: BTreeMap<_, _> = with.shared.iter().map(text).collect();
        shared.remove("warm");
        let differ: Vec<_> = wanted
            .keys()
            .chain(shared.keys())
            .filter(|kind| wanted.get(*kind) != shared.get(*kind))
            .map(|kind| (kind, shared.get(kind), wanted.get(kind)))
            .collect();
        ensure!(differ.is_empty(), "shared, and should have: {differ:?}");
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{family:?}, natively: {native}: {error:#}");
    }
}

#[test]
fn every_kind_in_udp_ipv4() {
    every_kind(Family::Ipv4, false);
}

#[test]
fn every_kind_in_udp_ipv6() {
    every_kind(Family::Ipv6, false);
}

#[test]
fn every_kind_natively_ipv4() {
    every_kind(Family::Ipv4, true);
}

#[test]
fn every_kind_natively_ipv6() {
    every_kind(Family::Ipv6, true);
}
