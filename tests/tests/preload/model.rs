//! Random sequences of socket calls, with the library and without.

use anyhow::{Context, Result, ensure};
use tests::family::Family;
use tests::namespace;

use crate::hosts::script;
use crate::wire::{Run, Wire};

/// Sequences of one run of the program.
const EACH: u64 = 5000;

/// Runs sequences of the model, with the library or without.
fn run(wire: &Wire, with: bool, first: u64, count: u64) -> Result<Run> {
    let mut command = wire.command(with, "python3");
    command.arg(script("model.py")).arg(wire.own().to_string());
    command.args([first.to_string(), count.to_string()]);
    wire.run(with, &mut command)
}

/// Random sequences of socket calls, threads and forks, with the library and without: calls answer the
/// same, and every destination gets the same octets from the same source, in the same order, with the
/// same TTL and DS byte.
///
/// `XCAST_MODEL` is the number of sequences; 100000 are some minutes.
#[track_caller]
fn programs_and_receivers_notice_nothing(family: Family, native: bool) {
    if !namespace::available() {
        return;
    }
    let sequences = std::env::var("XCAST_MODEL").ok();
    let sequences: u64 = sequences.map_or(500, |number| number.parse().expect("a number"));
    let test = || {
        let wire = Wire::new(family, native)?;
        let mut shared = 0;
        for first in (0..sequences).step_by(EACH as usize) {
            let count = EACH.min(sequences - first);
            let without = run(&wire, false, first, count)?;
            let with = run(&wire, true, first, count)?;
            ensure!(without.shared() == 0);
            shared += with.shared();
            let compared = without.compare(&with);
            compared.with_context(|| format!("sequences from {first}"))?;
            println!("{family:?}, natively: {native}: up to {}", first + count);
        }
        // The comparison was about something.
        ensure!(
            shared as u64 > sequences,
            "{shared} datagrams shared packets"
        );
        println!("{sequences} sequences, {shared} datagrams shared packets");
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{family:?}, natively: {native}: {error:#}");
    }
}

#[test]
fn programs_and_receivers_notice_nothing_in_udp_ipv4() {
    programs_and_receivers_notice_nothing(Family::Ipv4, false);
}

#[test]
fn programs_and_receivers_notice_nothing_in_udp_ipv6() {
    programs_and_receivers_notice_nothing(Family::Ipv6, false);
}

#[test]
fn programs_and_receivers_notice_nothing_natively_ipv4() {
    programs_and_receivers_notice_nothing(Family::Ipv4, true);
}

#[test]
fn programs_and_receivers_notice_nothing_natively_ipv6() {
    programs_and_receivers_notice_nothing(Family::Ipv6, true);
}
