//! Whole networks: who receives what, and what it costs on each link.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use tests::bed::Bed;
use tests::daemon::{self, Counters};
use tests::family::{self, Family};
use tests::namespace;
use xtask::testbed::{RouterConfig, Routing, Topology, Traffic};

/// Runs a test with every router of a topology running, for IPv4 and for IPv6.
#[track_caller]
fn with(topology: &Topology, test: impl Fn(&mut Bed) -> Result<()>) {
    if !namespace::available() {
        return;
    }
    let run = || -> Result<()> {
        let mut bed = Bed::up(topology, Routing::Static)?;
        bed.start_routers()?;
        test(&mut bed)
    };
    for family in Family::ALL {
        if let Err(error) = family::with(family, run) {
            panic!("{family:?}: {error:#}");
        }
    }
}

/// Packets that cross each link while `work` is done.
fn packets(
    bed: &mut Bed,
    work: impl FnOnce(&mut Bed) -> Result<()>,
) -> Result<BTreeMap<String, u64>> {
    let before = bed.testbed.traffic()?;
    work(bed)?;
    let difference = |(after, before): (Traffic, Traffic)| (after - before).packets;
    let counts = bed
        .testbed
        .traffic()?
        .into_iter()
        .zip(before)
        .map(difference);
    let names = bed
        .testbed
        .plan()
        .links
        .iter()
        .map(|link| link.nodes.join("-"));
    Ok(names.zip(counts).collect())
}

/// Figure 3 of the idea's first description: each link is crossed once.
#[test]
fn fig3() {
    with(&Topology::fig3(), |bed| {
        // The first message goes where nobody has asked for link layer addresses yet.
        bed.send_and_receive(3)?;
        let routers = ["R1", "R2", "R4", "R5", "R6", "R7"];
        let read = |bed: &Bed| -> Result<Vec<_>> {
            let counters = |router| Counters::read(&bed.namespace(router)?);
            routers.into_iter().map(counters).collect()
        };
        let before = read(bed)?;
        let counts = packets(bed, |bed| bed.send_and_receive(20))?;
        ensure!(counts.len() == 9);
        ensure!(counts.values().all(|&count| count == 20), "{counts:?}");

        // R2 converts B's packet, so R4 sees ordinary unicast; R7 converts those for C and D.
        let expected = [(20, 0), (40, 20), (0, 0), (20, 0), (20, 0), (40, 40)];
        for (index, (sent, x2u)) in expected.into_iter().enumerate() {
            let counted = read(bed)?[index].since(&before[index]);
            let value = |name| counted.get(name).copied().unwrap_or(0);
            let router = routers[index];
            ensure!(
                value("sent") == sent && value("planned") == sent,
                "{router}: {counted:?}"
            );
            ensure!(value("x2u") == x2u, "{router}: {counted:?}");
            let dropped = counted.keys().any(|name| name.starts_with("drop_"));
            ensure!(!dropped, "{router}: {counted:?}");
        }
        Ok(())
    });
}

/// Unmodified hosts on one LAN, behind one port: each gets its own packet, and only that.
#[test]
fn lan() {
    with(&Topology::lan(12), |bed| {
        bed.send_and_receive(2)?;
        let counts = packets(bed, |bed| bed.send_and_receive(10))?;
        ensure!(
            counts["A-R1"] == 10 && counts["R1-lan"] == 120,
            "{counts:?}"
        );
        for host in 1..=12 {
            ensure!(counts[&format!("H{host}-lan")] == 10, "{counts:?}");
        }
        Ok(())
    });
}

/// Two equal paths: one flow stays on one of them with a single copy; many flows use both.
#[test]
fn mesh() {
    with(&Topology::mesh(), |bed| {
        bed.send_and_receive(2)?;
        let counts = packets(bed, |bed| bed.send_and_receive(10))?;
        let by = [counts["R1-R2"], counts["R1-R3"]];
        ensure!(by == [10, 0] || by == [0, 10], "{counts:?}");
        ensure!(
            counts["R2-R4"] == by[0] && counts["R3-R4"] == by[1],
            "{counts:?}"
        );
        ensure!(counts["R4-B"] == 10 && counts["R4-C"] == 10, "{counts:?}");
        let counts = packets(bed, |bed| {
            for flow in 0..64 {
                let number = bed.send(flow)?;
                bed.delivered(number)?;
            }
            Ok(())
        })?;
        let by = [counts["R1-R2"], counts["R1-R3"]];
        ensure!(
            by[0] + by[1] == 64 && by[0] > 10 && by[1] > 10,
            "{counts:?}"
        );
        Ok(())
    });
}

/// A single router that speaks Xcast, among some that do not.
#[test]
fn one_router_that_speaks_xcast() {
    if !namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let topology = Topology::from_toml(
            "mixed",
            r#"
            hosts = ["A", "B", "C"]
            routers = ["R1", "R2", "R3"]
            link = [
                { ends = ["A", "R1"] }, { ends = ["R1", "R2"] }, { ends = ["R2", "R3"] },
                { ends = ["R3", "B"] }, { ends = ["R3", "C"] },
            ]"#,
        )?;
        let mut bed = Bed::up(&topology, Routing::Static)?;
        let mut config = RouterConfig::default();
        config.router.insert("gateways".to_owned(), "none".into());
        bed.testbed.start_router("R1", daemon::program(), &config)?;
        bed.send_and_receive(5)?;
        let counts = packets(&mut bed, |bed| bed.send_and_receive(5))?;
        ensure!(counts["A-R1"] == 5 && counts["R1-R2"] == 10, "{counts:?}");
        Ok(())
    };
    for family in Family::ALL {
        family::with(family, test).expect("one router is enough");
    }
}
