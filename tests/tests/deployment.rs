//! What lists save where only some routers speak Xcast: on a small network, `cargo xtask deployment` in short; and where it
//! pays first, one site behind a tunnel of others.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::bed::{Bed, To};
use tests::daemon;
use tests::family::{self, Family as Tested};
use tests::namespace;
use tests::trio::SOON;
use xtask::deployment::{Experiment, Mode, Network, Order};
use xtask::messages::Family;
use xtask::testbed::{RouterConfig, Routing, Topology};

#[test]
fn a_tunnelled_core_brings_nearly_everything() {
    if !namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let experiment = Experiment {
            xcast_ctl: daemon::program().to_owned(),
            network: Network::from_numbers(&[2, 1, 3])?,
            messages: 20,
            destinations: 4,
            sources: 1,
            shares: vec![20, 100],
            modes: vec![Mode::PrematureX2u, Mode::Tunnels],
            seed: 1,
        };
        let report = experiment.run(&[Family::Ipv4, Family::Ipv6], |_| {})?;
        ensure!(report.is_complete(), "{}", report.text());
        for family in report.families.values() {
            let row = |mode, order, share| {
                let mut rows = family.rows.iter();
                let found =
                    rows.find(|row| (row.mode, row.order, row.share) == (mode, order, share));
                found.map_or(i64::MIN, |row| row.saved_percent)
            };
            for mode in [Mode::PrematureX2u, Mode::Tunnels] {
                let all = row(mode, Order::Random, 100);
                ensure!(all > 0 && all == row(mode, Order::CoreFirst, 100));
                // The core alone brings most of it, and not more than everybody does.
                let core = row(mode, Order::CoreFirst, 20);
                ensure!((all * 3 / 5..=all).contains(&core), "{core} of {all}");
            }
            let core = |mode| row(mode, Order::CoreFirst, 20);
            ensure!(core(Mode::Tunnels) >= core(Mode::PrematureX2u));
            println!("{}", report.text());
        }
        Ok(())
    };
    test().expect("more routers save more");
}

/// Receivers behind the spoke.
const RECEIVERS: usize = 20;
const MESSAGES: u32 = 50;

/// ```text
/// A --- R1 (hub) === tunnel device === R2 (spoke) --- R3 (Xcast) --- H1 .. H20
/// ```
fn hub_and_spoke() -> Result<Topology> {
    let hosts: Vec<_> = (1..=RECEIVERS).map(|n| format!("\"H{n}\"")).collect();
    let links = hosts
        .iter()
        .map(|host| format!("{{ ends = [\"R3\", {host}] }}"));
    let text = format!(
        "hosts = [\"A\", {}]\nrouters = [\"R1\", \"R2\", \"R3\"]\nlink = [{{ ends = [\"A\", \"R1\"] }}, \
         {{ ends = [\"R1\", \"R2\"] }}, {{ ends = [\"R2\", \"R3\"] }}, {}]",
        hosts.join(", "),
        links.collect::<Vec<_>>().join(", ")
    );
    Topology::from_toml("hub", &text)
}

/// Joins hub and spoke by a tunnel device of the kernel, and has what is between the sites go by it. VXLAN stands for GRE and
/// WireGuard, which not every kernel has: for the routers on either side, each is a link with a smaller MTU.
fn join_by_tunnel(bed: &Bed) -> Result<()> {
    let family = Tested::under_test();
    let inside = |last| family.address([10, 99, 0, last]);
    let (hub, spoke) = (bed.namespace("R1")?, bed.namespace("R2")?);
    let outer = |node, peer| -> Result<Ipv4Addr> {
        let interface = bed.testbed.interface(node, peer)?;
        interface.address.context("no address")
    };
    let ends = (outer("R1", "R2")?, outer("R2", "R1")?);
    for (node, own, (local, remote)) in [(&hub, 1, ends), (&spoke, 2, (ends.1, ends.0))] {
        node.ip(&format!(
            "link add vpn0 type vxlan id 7 dstport 4789 local {local} remote {remote}"
        ))?;
        let nodad = if family == Tested::Ipv6 { " nodad" } else { "" };
        let len = family.prefix_len(24);
        node.ip(&format!(
            "address add {}/{len} dev vpn0{nodad}",
            inside(own)
        ))?;
        node.ip("link set vpn0 up")?;
    }
    let route = |to: &str, via| -> Result<String> {
        let (to, len) = (address(bed, to)?, family.prefix_len(32));
        let via = inside(via);
        Ok(format!("route replace {to}/{len} via {via} dev vpn0"))
    };
    for number in 1..=RECEIVERS {
        hub.ip(&route(&format!("H{number}"), 2)?)?;
    }
    hub.ip(&route("R3", 2)?)?;
    spoke.ip(&route("A", 1)?)?;
    Ok(())
}

/// The address to reach a node by.
fn address(bed: &Bed, node: &str) -> Result<IpAddr> {
    let node = bed.testbed.node(node)?;
    let address = match Tested::under_test() {
        Tested::Ipv4 => node.address.map(IpAddr::from),
        Tested::Ipv6 => node.address6.map(IpAddr::from),
    };
    address.context("a node without address")
}

/// How many packets crossed each link per message, counted at its interfaces: from A to R3, and to the receivers. Neighbour
/// discovery crosses them, too, but less often than messages.
fn per_message(bed: &mut Bed, send: impl FnOnce(&mut Bed) -> Result<()>) -> Result<Vec<u64>> {
    let before = bed.testbed.traffic()?;
    send(bed)?;
    let after = bed.testbed.traffic()?;
    let crossed = after.into_iter().zip(before);
    let packets = crossed.map(|(after, before)| (after - before).packets);
    Ok(packets
        .map(|packets| packets / u64::from(MESSAGES))
        .collect())
}

/// Whether an ordinary message has come to all receivers.
fn has_plain(bed: &mut Bed, number: u32) -> Result<bool> {
    bed.collect()?;
    let mut hosts = (1..=RECEIVERS).map(|host| bed.receiver(&format!("H{host}")));
    Ok(hosts.all(|host| host.is_ok_and(|host| host.plain.contains(&number))))
}

/// Behind the hub, one packet serves all receivers of a site: it crosses the tunnel once, whatever their number, and is copied
/// by the only router that speaks Xcast, in that site.
fn a_site_behind_a_hub() {
    if !namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let mut bed = Bed::up(&hub_and_spoke()?, Routing::Static)?;
        join_by_tunnel(&bed)?;
        let router = address(&bed, "R3")?;
        bed.testbed
            .start_router("R3", daemon::program(), &RouterConfig::default())?;
        // Until all neighbours are known.
        bed.send_and_receive_by(To::Router(router), 3)?;
        let by_list = |bed: &mut Bed| bed.send_and_receive_by(To::Router(router), MESSAGES);
        let by_list = per_message(&mut bed, by_list)?;
        let by_unicast = per_message(&mut bed, |bed| {
            for number in 1..=MESSAGES {
                for host in 1..=RECEIVERS {
                    bed.send_plain(&format!("H{host}"), number)?;
                }
                let deadline = Instant::now() + SOON;
                while !has_plain(bed, number)? {
                    ensure!(Instant::now() < deadline, "unicast {number} is lost");
                    thread::sleep(Duration::from_millis(1));
                }
            }
            Ok(())
        })?;
        let receivers = [1; RECEIVERS];
        ensure!(
            by_list == [&[1; 3][..], &receivers].concat(),
            "lists: {by_list:?}"
        );
        ensure!(
            by_unicast == [&[RECEIVERS as u64; 3][..], &receivers].concat(),
            "unicast: {by_unicast:?}"
        );
        Ok(())
    };
    test().expect("one packet crosses the tunnel for all");
}

#[test]
fn a_site_behind_a_hub_ipv4() {
    family::with(Tested::Ipv4, a_site_behind_a_hub);
}

#[test]
fn a_site_behind_a_hub_ipv6() {
    family::with(Tested::Ipv6, a_site_behind_a_hub);
}
