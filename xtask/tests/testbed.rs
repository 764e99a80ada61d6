//! Testbeds on a real kernel. Needs root.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    path::Path,
    process::{self, Command, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::unistd::geteuid;
use xtask::testbed::{Ipv6Plan, Node, Options, Role, Testbed, Topology, ethtool, netns, plan};

/// A testbed's name that no other test has, or nothing where tests may be skipped.
fn instance(test: &str) -> Option<String> {
    if geteuid().is_root() {
        return Some(format!("t{}-{test}", process::id()));
    }
    assert!(
        std::env::var_os("XCAST_ALLOW_SKIP").is_some(),
        "this test needs root, for network namespaces"
    );
    eprintln!("SKIPPED: needs root, for network namespaces");
    None
}

fn exists(instance: &str, node: &str) -> bool {
    netns::path(&format!("xc-{instance}-{node}")).exists()
}

/// Sends a datagram from one node to another, by IPv4.
fn deliver(testbed: &Testbed, from: &str, to: &str) -> Result<()> {
    deliver_by(testbed, from, to, |node| node.address.map(IpAddr::from))
}

/// Sends a datagram from one node's address to another's.
fn deliver_by(
    testbed: &Testbed,
    from: &str,
    to: &str,
    address_of: impl Fn(&Node) -> Option<IpAddr>,
) -> Result<()> {
    let address = address_of(testbed.node(to)?).context("no address")?;
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let bind = || UdpSocket::bind(any);
    let receiver = testbed.in_namespace(to, bind)??;
    let sender = testbed.in_namespace(from, bind)??;
    receiver.set_read_timeout(Some(Duration::from_secs(10)))?;
    sender.send_to(b"datagram", (address, receiver.local_addr()?.port()))?;
    let mut buffer = [0; 16];
    let (len, source) = receiver
        .recv_from(&mut buffer)
        .with_context(|| format!("nothing from {from} reached {to}"))?;
    assert_eq!(&buffer[..len], b"datagram");
    assert_eq!(Some(source.ip()), address_of(testbed.node(from)?));
    Ok(())
}

fn xtask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .output()
        .expect("failed to start xtask")
}

#[test]
fn every_host_reaches_every_other() -> Result<()> {
    let Some(name) = instance("reach") else {
        return Ok(());
    };
    for topology in [
        Topology::fig3(),
        Topology::mesh(),
        Topology::lan(3),
        Topology::star(3),
        Topology::line(3),
    ] {
        let testbed = Testbed::up(&topology, &Options::named(&name))?;
        let hosts: Vec<_> = testbed
            .plan()
            .with_role(Role::Host)
            .map(|node| &node.name)
            .collect();
        for from in &hosts {
            for to in hosts.iter().filter(|to| *to != from) {
                deliver(&testbed, from, to).with_context(|| topology.name().to_owned())?;
                deliver_by(&testbed, from, to, |node| node.address6.map(IpAddr::from))
                    .with_context(|| format!("{} by IPv6", topology.name()))?;
            }
        }
    }
    Ok(())
}

/// Each link in a /64 of its own: paths of up to seven links.
#[test]
fn hosts_of_a_dht_reach_each_other() -> Result<()> {
    let Some(name) = instance("dht") else {
        return Ok(());
    };
    for base in [plan::BASE, Ipv4Addr::new(198, 18, 0, 0)] {
        let options = Options {
            base,
            ipv6: Ipv6Plan::own_networks(base),
            ..Options::named(&name)
        };
        let topology = Topology::dht(1).with_switch("W", "H1", "R6")?;
        let testbed = Testbed::up(&topology, &options)?;
        for to in ["H2", "H3", "H6"] {
            deliver(&testbed, "H1", to)?;
            deliver_by(&testbed, "H1", to, |node| node.address6.map(IpAddr::from))?;
        }
        let networks = testbed.plan().with_role(Role::Host);
        let networks: BTreeSet<_> = networks
            .filter_map(|node| Some(node.address6?.octets()[..8].to_vec()))
            .collect();
        assert_eq!(networks.len(), 10);
    }
    Ok(())
}

#[test]
fn routers_answer_on_their_own_addresses() -> Result<()> {
    let Some(name) = instance("own") else {
        return Ok(());
    };
    let testbed = Testbed::up(&Topology::fig3(), &Options::named(&name))?;
    let address = testbed.node("R7")?.address.context("no address")?;
    let receiver = testbed.in_namespace("R7", || UdpSocket::bind((address, 0)))??;
    let sender = testbed.in_namespace("A", || UdpSocket::bind("0.0.0.0:0"))??;
    receiver.set_read_timeout(Some(Duration::from_secs(10)))?;
    sender.send_to(b"x", receiver.local_addr()?)?;
    receiver.recv_from(&mut [0; 1])?;
    Ok(())
}

#[test]
fn interfaces_are_as_planned() -> Result<()> {
    let Some(name) = instance("interfaces") else {
        return Ok(());
    };
    let testbed = Testbed::up(&Topology::lan(2), &Options::named(&name))?;
    for node in &testbed.plan().nodes {
        for interface in &node.interfaces {
            let sys = format!("/sys/class/net/{}", interface.name);
            let cat = |file: &str| -> Result<String> {
                let output = testbed.exec(&node.name, &["cat", &format!("{sys}/{file}")])?;
                Ok(String::from_utf8(output.stdout)?.trim().to_owned())
            };
            assert_eq!(cat("address")?, interface.mac.to_string());
            assert_eq!(cat("ifindex")?, interface.index.to_string());
            assert_eq!(cat("operstate")?, "up");
        }
        let ipv6 = testbed.exec(&node.name, &["ip", "-6", "-o", "address", "show"])?;
        let ipv6 = String::from_utf8_lossy(&ipv6.stdout).into_owned();
        for interface in &node.interfaces {
            let there = |address: Ipv6Addr| ipv6.contains(&format!("{address}/120"));
            assert!(
                interface.address6.is_none_or(there),
                "{}: {ipv6}",
                node.name
            );
        }
        if node.role == Role::Switch {
            assert_eq!(ipv6, "", "{}", node.name);
        }
    }
    Ok(())
}

#[test]
fn traffic_is_counted_with_ethernet_headers() -> Result<()> {
    let Some(name) = instance("traffic") else {
        return Ok(());
    };
    let options = Options {
        quiet: true,
        ..Options::named(&name)
    };
    let testbed = Testbed::up(&Topology::line(2), &options)?;
    deliver(&testbed, "A", "B")?;
    deliver(&testbed, "B", "A")?;
    let before = testbed.traffic()?;
    deliver(&testbed, "A", "B")?;
    for (before, after) in before.into_iter().zip(testbed.traffic()?) {
        let traffic = after - before;
        assert_eq!(traffic.packets, 1);
        assert_eq!(traffic.bytes, 14 + 20 + 8 + 8);
    }
    let before = testbed.directed_traffic()?;
    deliver(&testbed, "B", "A")?;
    for (before, after) in before.into_iter().zip(testbed.directed_traffic()?) {
        // Links are named from A to B.
        let packets = [0, 1].map(|direction| (after[direction] - before[direction]).packets);
        assert_eq!(packets, [0, 1]);
    }
    Ok(())
}

#[test]
fn driver_statistics_have_names() -> Result<()> {
    let Some(name) = instance("statistics") else {
        return Ok(());
    };
    let testbed = Testbed::up(&Topology::line(1), &Options::named(&name))?;
    let statistics = testbed.in_namespace("A", || ethtool::statistics("to-R1"))??;
    assert!(
        statistics.contains_key("rx_queue_0_xdp_packets"),
        "{statistics:?}"
    );
    let error = testbed
        .in_namespace("A", || ethtool::statistics("lo"))?
        .expect_err("lo has statistics");
    assert!(format!("{error:#}").contains("lo"), "{error:#}");
    assert!(
        testbed
            .in_namespace("A", || ethtool::set_gro("none", true))?
            .is_err()
    );
    Ok(())
}

#[test]
fn up_and_down_may_come_twice() -> Result<()> {
    let Some(name) = instance("twice") else {
        return Ok(());
    };
    let options = Options::named(&name);
    let mut first = Testbed::up(&Topology::line(1), &options)?;
    first.keep();
    drop(first);
    assert!(exists(&name, "R1"));
    Testbed::attach(&name)?;
    let second = Testbed::up(&Topology::line(2), &options)?;
    deliver(&second, "A", "B")?;
    drop(second);
    assert!(!exists(&name, "R1"));
    assert!(Testbed::attach(&name).is_err());
    assert!(!Testbed::down(&name)?);
    Ok(())
}

#[test]
fn leftovers_are_no_obstacle() -> Result<()> {
    let Some(name) = instance("leftovers") else {
        return Ok(());
    };
    // A namespace that was made but never furnished, one whose mount is missing, and another
    // testbed whose name begins like ours.
    let leftover = format!("xc-{name}-R1");
    assert!(
        Command::new("ip")
            .args(["netns", "add", &leftover])
            .status()?
            .success()
    );
    fs::write(netns::path(&format!("xc-{name}-A")), "")?;
    let other = format!("{name}-other");
    let _other = Testbed::up(&Topology::line(1), &Options::named(&other))?;
    assert!(Testbed::instances().contains(&name));
    let testbed = Testbed::up(&Topology::line(1), &Options::named(&name))?;
    deliver(&testbed, "A", "B")?;
    drop(testbed);
    assert!(!exists(&name, "A"));
    assert!(exists(&other, "A"));
    Ok(())
}

#[test]
fn what_runs_in_a_testbed_ends_with_it() -> Result<()> {
    let Some(name) = instance("processes") else {
        return Ok(());
    };
    let testbed = Testbed::up(&Topology::line(1), &Options::named(&name))?;
    // One that ends when asked, and one that has to be killed.
    let mut polite = testbed.command("A", "sleep")?.arg("600").spawn()?;
    let mut stubborn = testbed
        .command("B", "sh")?
        .args(["-c", "trap '' TERM; while :; do sleep 1; done"])
        .spawn()?;
    let started = Instant::now();
    while !(netns::occupied(&testbed.node("A")?.namespace)
        && netns::occupied(&testbed.node("B")?.namespace))
    {
        assert!(started.elapsed() < Duration::from_secs(10));
        thread::sleep(Duration::from_millis(10));
    }
    // They stay zombies, in no namespace any more, until waited for.
    drop(testbed);
    assert!(!polite.wait()?.success());
    assert!(!stubborn.wait()?.success());
    Ok(())
}

#[test]
fn the_command_line_shows_what_is_up() -> Result<()> {
    let Some(name) = instance("command") else {
        return Ok(());
    };
    let output = xtask(&["testbed", "up", "star", "2", "--name", &name]);
    assert!(output.status.success(), "{output:?}");
    let again = xtask(&["testbed", "up", "star", "2", "--name", &name]);
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("up already"),
        "{again:?}"
    );

    let list = xtask(&["testbed", "list", &name, "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout)?;
    assert_eq!(list[0]["instance"], name);
    let nodes = list[0]["nodes"].as_array().context("no nodes")?;
    let h2 = nodes
        .iter()
        .find(|node| node["name"] == "H2")
        .context("no H2")?;
    assert_eq!(h2["namespace"], format!("xc-{name}-H2"));
    assert_eq!(h2["interfaces"][0]["address"], "10.77.3.2");

    let exec = |words: &[&str]| {
        xtask(&[&["testbed", "exec", "H2", "--name", &name, "--"], words].concat())
    };
    let addresses = exec(&["ip", "-brief", "address"]);
    assert!(
        String::from_utf8_lossy(&addresses.stdout).contains("10.77.3.2/24"),
        "{addresses:?}"
    );
    assert_eq!(exec(&["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert!(
        Path::new("/run/xcast-testbed")
            .join(&name)
            .join("testbed.json")
            .exists()
    );

    assert!(xtask(&["testbed", "down", &name]).status.success());
    assert!(xtask(&["testbed", "down", &name]).status.success());
    assert!(!exists(&name, "H2"));
    let error = exec(&["true"]);
    assert_eq!(error.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&error.stderr).into_owned();
    assert!(
        stderr.starts_with("xtask: no testbed") && stderr.lines().count() == 1,
        "{stderr}"
    );
    Ok(())
}

#[test]
fn a_closed_pipe_is_no_error() -> Result<()> {
    let Some(_) = instance("pipe") else {
        return Ok(());
    };
    let script = format!(
        "set -o pipefail; {} testbed list --json | true",
        env!("CARGO_BIN_EXE_xtask")
    );
    assert!(
        Command::new("bash")
            .args(["-c", &script])
            .status()?
            .success()
    );
    Ok(())
}
