//! `cargo xtask demo`: the same messages by Xcast and by unicast, counted link by link.

mod receivers;
mod report;

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::{
    receivers::{Inbox, Receivers},
    report::{Link, Report},
};
use crate::{
    build, process, setup,
    testbed::{self, Options, RouterConfig, Testbed, Topology, Traffic},
};

/// Name of the demo's testbed.
const INSTANCE: &str = "demo";
const SOURCE: &str = "A";
const FIRST_ROUTER: &str = "R1";
const HOSTS: [&str; 3] = ["B", "C", "D"];
/// Port that the receivers listen on.
const PORT: u16 = 5058;
/// Time between messages: this is about packets, not about speed.
const INTERVAL: Duration = Duration::from_millis(1);
/// How long messages may take to arrive, and links to fall silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long counters must stand still before they count as silent.
const SILENCE: Duration = Duration::from_millis(100);
/// How often to count again when something else crossed the links meanwhile.
const ATTEMPTS: u32 = 5;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Number of messages to send
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    messages: u64,
    /// Print one JSON document instead of the picture
    ///
    /// {"messages", "xcast": {"link_packets", "link_bytes", "first_link_packets"}, "unicast": {..},
    /// "links": [{"from", "to", "xcast_packets", "xcast_bytes", "unicast_packets", "unicast_bytes"}],
    /// "delivered": {"B", "C", "D"}}: figures of links per message, delivered in messages.
    #[arg(long)]
    json: bool,
    /// Leave the testbed and its routers running
    #[arg(long)]
    keep: bool,
    /// Fail instead of installing what is missing
    #[arg(long)]
    no_setup: bool,
}

/// Runs `cargo xtask demo`. The answer is no when a host misses a message or gets one twice.
///
/// # Errors
///
/// Not root, something is missing or does not compile, or the routers do not start.
pub fn run(arguments: &Demo) -> Result<ExitCode> {
    testbed::require_root()?;
    setup::ensure(setup::Purpose::Demo, arguments.no_setup)?;
    eprintln!("building xcast-ctl and the XDP programs");
    let xcast_ctl = build::xcast_ctl()?;

    let topology = Topology::fig3();
    let options = Options {
        quiet: true,
        ..Options::named(INSTANCE)
    };
    eprintln!("raising the network: {} namespaces", topology.nodes().len());
    let mut testbed = Testbed::up(&topology, &options)?;
    if arguments.keep {
        testbed.keep();
    }
    eprintln!("starting the routers");
    let config = RouterConfig::default();
    testbed.start_routers(&xcast_ctl, &config)?;

    let report = compare(&testbed, &xcast_ctl, &config, arguments.messages)?;
    if arguments.json {
        crate::print(&report.json()?)?;
    } else {
        crate::print(&report.text())?;
    }
    if arguments.keep {
        eprintln!("\nthe network is still up; look around, and take it down in the end:");
        eprintln!(
            "  cargo xtask testbed exec {FIRST_ROUTER} --name {INSTANCE} -- {} stats",
            xcast_ctl.display()
        );
        eprintln!("  cargo xtask testbed down {INSTANCE}");
    }
    Ok(match report.complete() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Sends the messages both ways and counts.
fn compare(
    testbed: &Testbed,
    xcast_ctl: &Path,
    config: &RouterConfig,
    messages: u64,
) -> Result<Report> {
    let addresses = HOSTS
        .map(|host| testbed.node(host).map(|node| node.address))
        .into_iter()
        .collect::<Result<Option<Vec<_>>>>()?
        .context("a host has no address")?;
    let receivers = Receivers::start(testbed, &HOSTS, PORT)?;
    let unicast = |messages| send_unicast(testbed, &addresses, messages);
    let xcast = |messages| send_xcast(testbed, xcast_ctl, config, &addresses, messages);

    // Everybody gets to know everybody's link layer address first, so that only messages count.
    unicast(1)?;
    receivers.collect(1, PATIENCE);
    xcast(1)?;
    receivers.collect(1, PATIENCE);

    let whom = HOSTS.join(", ");
    eprintln!("sending {messages} messages from {SOURCE} to {whom}: one Xcast packet each");
    let (xcast_traffic, inbox) = measure(testbed, &receivers, messages, xcast)?;
    eprintln!("sending them again: a unicast packet for each of {whom}");
    let (unicast_traffic, unicast_inbox) = measure(testbed, &receivers, messages, unicast)?;
    for (host, delivery) in unicast_inbox {
        if delivery.messages != messages {
            bail!(
                "{host} received only {} of {messages} unicast messages, so there is nothing to compare with",
                delivery.messages
            );
        }
    }

    let links = testbed.plan().links.iter();
    let links = links.zip(xcast_traffic.into_iter().zip(unicast_traffic));
    Ok(Report {
        messages,
        // The topology lists its links from the source on, nearer end first.
        links: links
            .map(|(link, (xcast, unicast))| Link {
                from: link.nodes[0].clone(),
                to: link.nodes[1].clone(),
                xcast,
                unicast,
            })
            .collect(),
        delivered: inbox,
    })
}

/// Has messages sent; returns what crossed the links meanwhile, and what arrived.
fn measure(
    testbed: &Testbed,
    receivers: &Receivers,
    messages: u64,
    send: impl Fn(u64) -> Result<()>,
) -> Result<(Vec<Traffic>, Inbox)> {
    let mut attempt = 1;
    loop {
        let before = silence(testbed)?;
        receivers.drain();
        send(messages)?;
        let inbox = receivers.collect(messages, PATIENCE);
        let after = silence(testbed)?;
        let traffic: Vec<_> = after
            .iter()
            .zip(before)
            .map(|(&after, before)| after - before)
            .collect();
        let arrived = inbox.values().all(|delivery| delivery.messages == messages);
        let even = traffic
            .iter()
            .all(|link| link.packets.is_multiple_of(messages));
        if even || !arrived || attempt == ATTEMPTS {
            return Ok((traffic, inbox));
        }
        eprintln!("something else crossed the links meanwhile; counting again");
        attempt += 1;
    }
}

/// Waits until nothing crosses the links any more, and returns what has.
fn silence(testbed: &Testbed) -> Result<Vec<Traffic>> {
    let started = Instant::now();
    let mut last = testbed.traffic()?;
    loop {
        thread::sleep(SILENCE);
        let now = testbed.traffic()?;
        if now == last || started.elapsed() > PATIENCE {
            return Ok(now);
        }
        last = now;
    }
}

fn send_xcast(
    testbed: &Testbed,
    xcast_ctl: &Path,
    config: &RouterConfig,
    addresses: &[Ipv4Addr],
    messages: u64,
) -> Result<()> {
    let via = testbed
        .interface(FIRST_ROUTER, SOURCE)?
        .address
        .context("the first router has no address")?;
    let mut command = testbed.command(SOURCE, xcast_ctl)?;
    command
        .args(["send", "--via", &via.to_string()])
        .args(["--protocol", &config.code_points.protocol.to_string()])
        .args(["--group", &config.code_points.group.to_string()])
        .args(["--count", &messages.to_string()])
        .args(["--interval", &INTERVAL.as_millis().to_string()])
        .args(["--payload", &message("{n}")])
        .args(addresses.iter().map(|address| format!("{address}:{PORT}")));
    process::output(&mut command).context("failed to send by Xcast")?;
    Ok(())
}

fn send_unicast(testbed: &Testbed, addresses: &[Ipv4Addr], messages: u64) -> Result<()> {
    let socket = testbed
        .in_namespace(SOURCE, || UdpSocket::bind("0.0.0.0:0"))?
        .context("failed to open a socket to send from")?;
    for n in 1..=messages {
        for &address in addresses {
            let to = SocketAddrV4::new(address, PORT);
            socket
                .send_to(message(&n.to_string()).as_bytes(), to)
                .with_context(|| format!("failed to send to {to}"))?;
        }
        thread::sleep(INTERVAL);
    }
    Ok(())
}

fn message(number: &str) -> String {
    format!("message {number}")
}
