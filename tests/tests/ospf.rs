//! A routing daemon decides, the kernel's tables say so, and Xcast follows: figure 3 with a spare
//! link, OSPF by BIRD on every router, and a cut.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::bed::Bed;
use tests::bird::Bird;
use tests::daemon::PATIENCE;
use tests::family::{self, Family};
use tests::namespace;
use xtask::testbed::{Node, Role, Routing, Topology};

/// Figure 3 and R4 - R7, which costs too much to be used while there is another way.
const TOPOLOGY: &str = r#"
    hosts = ["A", "B", "C", "D"]
    routers = ["R1", "R2", "R4", "R5", "R6", "R7"]
    link = [
        { ends = ["A", "R1"] }, { ends = ["R1", "R2"] }, { ends = ["R2", "R4"] },
        { ends = ["R4", "B"] }, { ends = ["R2", "R5"] }, { ends = ["R5", "R6"] },
        { ends = ["R6", "R7"] }, { ends = ["R7", "C"] }, { ends = ["R7", "D"] },
        { ends = ["R4", "R7"] },
    ]"#;

const RECEIVERS: [&str; 3] = ["B", "C", "D"];

/// How often a message is sent.
const INTERVAL: Duration = Duration::from_millis(10);

/// OSPF between routers, version 2 for IPv4 and 3 for IPv6; links to hosts are only told about.
fn configuration(router: &Node) -> Result<String> {
    let (channel, version) = match Family::under_test() {
        Family::Ipv4 => ("ipv4", "v2"),
        Family::Ipv6 => ("ipv6", "v3"),
    };
    let id = router.address.context("a router without address")?;
    let mut interfaces = String::new();
    for interface in &router.interfaces {
        let spare = matches!(
            (&*router.name, &*interface.peer),
            ("R4", "R7") | ("R7", "R4")
        );
        let options = match (&*interface.peer, spare) {
            ("A" | "B" | "C" | "D", _) => "stub;".to_owned(),
            (_, spare) => {
                let cost = if spare { 100 } else { 10 };
                format!("type ptp; hello 1; dead count 4; retransmit 2; cost {cost};")
            }
        };
        interfaces += &format!("interface \"{}\" {{ {options} }};\n", interface.name);
    }
    Ok(format!(
        "router id {id};\n\
         log stderr {{ warning, error, fatal, bug }};\n\
         protocol device {{ scan time 1; }}\n\
         protocol kernel {{ {channel} {{ import none; export all; }}; }}\n\
         protocol ospf {version} {{\n\
         {channel} {{ import all; export none; }};\n\
         area 0 {{\n{interfaces}}};\n}}\n"
    ))
}

/// Sends messages until one of them has reached everyone; returns its number.
fn until_delivered(bed: &mut Bed) -> Result<u32> {
    let deadline = Instant::now() + PATIENCE;
    let first = bed.send(0)?;
    let mut last = first;
    loop {
        std::thread::sleep(INTERVAL);
        bed.collect()?;
        let reached = |number: &u32| RECEIVERS.iter().all(|name| bed.has(name, *number));
        if let Some(number) = (first..=last).find(reached) {
            return Ok(number);
        }
        ensure!(Instant::now() < deadline, "none of {first}..={last} came");
        last = bed.send(0)?;
    }
}

/// By how many messages Xcast's way to D was mended later than that of unicast, both having been
/// cut before message `cut`.
fn lag_behind_unicast(bed: &mut Bed, cut: u32) -> Result<u32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let number = bed.send(0)?;
        bed.send_plain("D", number)?;
        std::thread::sleep(INTERVAL);
        bed.collect()?;
        let receiver = bed.receiver("D")?;
        let xcast = receiver.messages.range(cut + 1..).next();
        let unicast = receiver.plain.range(cut + 1..).next();
        if let (Some((xcast, _)), Some(unicast)) = (xcast, unicast) {
            return Ok(xcast.saturating_sub(*unicast));
        }
        ensure!(Instant::now() < deadline, "D is not reached any more");
    }
}

/// Every one of `count` messages reaches everyone, once.
fn flows(bed: &mut Bed, count: u32) -> Result<()> {
    for _ in 0..count {
        bed.send(0)?;
        std::thread::sleep(INTERVAL);
        bed.collect()?;
    }
    let last = bed.send(0)?;
    bed.delivered(last)?;
    for number in last - count..last {
        for name in RECEIVERS {
            ensure!(
                bed.has(name, number),
                "{name} never received message {number}"
            );
        }
    }
    Ok(())
}

#[test]
fn reconvergence_ipv4() {
    family::with(Family::Ipv4, reconvergence);
}

/// With OSPFv3, whose next hops are link-local.
#[test]
fn reconvergence_ipv6() {
    family::with(Family::Ipv6, reconvergence);
}

fn reconvergence() {
    if !namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let topology = Topology::from_toml("ospf", TOPOLOGY)?;
        let mut bed = Bed::up(&topology, Routing::None)?;
        // The routers first: they find out about every route while it appears.
        bed.start_routers()?;
        let routers = bed.testbed.plan().with_role(Role::Router);
        let _birds = routers
            .map(|node| Bird::start(&bed.namespace(&node.name)?, &configuration(node)?))
            .collect::<Result<Vec<_>>>()?;
        until_delivered(&mut bed)?;
        // Convergence may still be under way somewhere else.
        settled(&mut bed)?;
        flows(&mut bed, 50).context("before the cut")?;

        let cut = bed.testbed.interface("R5", "R6")?.name.clone();
        bed.namespace("R5")?.ip(&format!("link set {cut} down"))?;
        let before = bed.send(0)?;
        let lag = lag_behind_unicast(&mut bed, before)?;
        ensure!(lag < 500, "Xcast followed {lag} messages after unicast");
        let number = until_delivered(&mut bed)?;
        settled(&mut bed)?;
        flows(&mut bed, 50).context("after the cut")?;
        // B's way was never cut.
        for number in before..=number {
            ensure!(
                bed.has("B", number),
                "B, whose way was not cut, never received message {number}"
            );
        }
        // By way of the spare link: R4 gets one copy for all three.
        let counters = tests::daemon::Counters::read(&bed.namespace("R4")?)?;
        ensure!(counters.value("received") >= 50);

        // And back.
        bed.namespace("R5")?.ip(&format!("link set {cut} up"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let received = |bed: &Bed| -> Result<u64> {
                let counters = tests::daemon::Counters::read(&bed.namespace("R4")?)?;
                Ok(counters.value("received"))
            };
            let earlier = received(&bed)?;
            until_delivered(&mut bed)?;
            if received(&bed)? == earlier {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "the way of lower cost is not taken"
            );
        }
        settled(&mut bed)?;
        flows(&mut bed, 50).context("after the link came back")
    };
    test().expect("Xcast follows OSPF");
}

/// Waits until a row of messages arrives complete: whatever was converging is done.
fn settled(bed: &mut Bed) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut row = 0;
    while row < 100 {
        let number = bed.send(0)?;
        std::thread::sleep(INTERVAL);
        bed.collect()?;
        let complete = RECEIVERS.iter().all(|name| bed.has(name, number - 1));
        row = if complete { row + 1 } else { 0 };
        ensure!(Instant::now() < deadline, "messages get lost all the time");
    }
    Ok(())
}
