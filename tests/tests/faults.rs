//! The short form of `cargo xtask faults`: that what it measures is true of a few faults.

use anyhow::{Context, Result, ensure};
use tests::family::Family;
use tests::faults::catalogue;
use tests::faults::measure::measure;
use tests::faults::row::Row;
use tests::namespace;

fn measured(name: &str, family: Family) -> Result<Row> {
    let fault = catalogue::named(name).context("no such fault")?;
    let row = measure(fault, family)?;
    ensure!(row.sent > 100, "only {} messages were sent", row.sent);
    match row.failure() {
        Some(failure) => anyhow::bail!("{name} ({family:?}): {failure}: {row:?}"),
        None => Ok(row),
    }
}

/// The controller is killed and started again: nothing is lost, of either family, nor doubled.
#[test]
fn controller_restarted() {
    if !namespace::available() {
        return;
    }
    for family in Family::ALL {
        let row = measured("restarted", family).unwrap();
        assert_eq!((row.xcast.lost(), row.unicast.lost()), (0, 0), "{row:?}");
    }
}

/// A port that is away harms its own copies, as it harms unicast, and no others.
#[test]
fn port_down_and_up() {
    if !namespace::available() {
        return;
    }
    let row = measured("port-down", Family::Ipv4).unwrap();
    for side in [&row.xcast, &row.unicast] {
        assert!(
            side.lost() > 0,
            "a port was down, and nothing was lost: {row:?}"
        );
    }
}

/// A route that is withdrawn harms who is behind it, until it is back.
#[test]
fn route_withdrawn() {
    if !namespace::available() {
        return;
    }
    let row = measured("route-withdrawn", Family::Ipv6).unwrap();
    let lost: Vec<_> = row
        .xcast
        .shares
        .iter()
        .map(|share| share.lost > 0)
        .collect();
    assert_eq!(lost, [false, true], "{row:?}");
}
