//! Figure 8 of RFC 5058: tunnels between three routers that speak Xcast, through six that do not, and BGP between the tunnels'
//! ends that fills the Xcast routing tables of figure 9.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use tests::daemon;
use tests::namespace;
use tests::trio::until;
use xtask::figure8::{CAPABLE, FIGURE_9, Figure8, RECEIVERS, SOURCE};
use xtask::messages::{Exchange, Family, Pace};

const MESSAGES: u64 = 100;

/// How many packets each link carried per message; keepalives and BGP are fewer than messages.
fn per_message(figure: &Figure8, family: Family) -> Result<Vec<u64>> {
    let ends = [SOURCE, CAPABLE[0]];
    let (testbed, config) = (&figure.testbed, &figure.config);
    let program = daemon::program();
    let mut exchange = Exchange::start(testbed, program, config, family, ends, &RECEIVERS)?;
    exchange.warm_up(&RECEIVERS)?;
    exchange.set_pace(Pace {
        is_noisy: true,
        ..Pace::default()
    });
    let outcome = exchange.by_xcast(&RECEIVERS, MESSAGES)?;
    for (host, delivery) in &outcome.inbox {
        ensure!(
            delivery.messages == MESSAGES && delivery.repeated == 0,
            "{host}: {delivery:?}"
        );
    }
    let counts = outcome.traffic.iter();
    Ok(counts.map(|link| link.packets / MESSAGES).collect())
}

/// Whether every routing table is as expected, by family.
fn are_tables(
    figure: &Figure8,
    family: Family,
    expected: &[(&str, &[(&str, &str)])],
) -> Result<bool> {
    for (router, rows) in expected {
        let found = figure.next_hops(daemon::program(), router, family)?;
        let found: BTreeSet<_> = found
            .iter()
            .map(|(host, via)| (host.as_str(), via.as_str()))
            .collect();
        if found != rows.iter().copied().collect() {
            return Ok(false);
        }
    }
    Ok(true)
}

#[test]
fn lists_go_by_tunnels_and_by_what_bgp_says() {
    if !namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let mut figure = Figure8::raise(&format!("xct-figure8-{}", std::process::id()))?;
        figure.start_with_tunnels(daemon::program())?;
        let families = [Family::Ipv4, Family::Ipv6];
        for family in families {
            let is_there = || are_tables(&figure, family, &FIGURE_9);
            ensure!(
                until(daemon::PATIENCE, is_there)?,
                "{family:?}: X1 has {:?}",
                figure.routes(daemon::program(), "X1")?
            );
            let counts = per_message(&figure, family)?;
            ensure!(counts == [1; 12], "{family:?}: {counts:?}");
        }
        // Nobody announces C and D any more: they are served by unicast from X1 on, and B with them.
        figure.end_bird("X7")?;
        for family in families {
            let without: [(&str, &[(&str, &str)]); 2] =
                [("X1", &[("B", "X3")]), ("X3", &[("A", "X1")])];
            let is_there = || are_tables(&figure, family, &without);
            ensure!(
                until(daemon::PATIENCE, is_there)?,
                "{family:?}: X3 has {:?}",
                figure.routes(daemon::program(), "X3")?
            );
            let counts = per_message(&figure, family)?;
            ensure!(
                counts == [1, 3, 3, 1, 1, 2, 2, 2, 1, 1, 1, 1],
                "{family:?}: {counts:?}"
            );
        }
        Ok(())
    };
    test().expect("lists follow the tables that BGP fills");
}
