//! `cargo xtask demo`: the same messages by Xcast and by unicast, counted link by link.

mod receivers;
mod report;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

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
    /// Address families to send by
    #[arg(long, value_enum, default_value_t = Families::Both)]
    family: Families,
    /// Print one JSON document instead of the picture
    ///
    /// For each family, as "ipv4" and "ipv6": {"messages", "xcast": {"link_packets", "link_bytes", "first_link_packets"}, "unicast": {..},
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

/// What `--family` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Families {
    /// IPv4.
    #[value(name = "4")]
    Ipv4,
    /// IPv6.
    #[value(name = "6")]
    Ipv6,
    /// First IPv4, then IPv6.
    Both,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }
}

impl Families {
    fn all(self) -> &'static [Family] {
        match self {
            Self::Ipv4 => &[Family::Ipv4],
            Self::Ipv6 => &[Family::Ipv6],
            Self::Both => &[Family::Ipv4, Family::Ipv6],
        }
    }
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

    let mut complete = true;
    let mut documents = serde_json::Map::new();
    for &family in arguments.family.all() {
        let report = compare(&testbed, &xcast_ctl, &config, family, arguments.messages)?;
        complete &= report.complete();
        if arguments.json {
            documents.insert(family.name().to_lowercase(), report.json()?);
        } else {
            crate::print(&format!("{}\n\n{}", family.name(), report.text()))?;
        }
    }
    if arguments.json {
        crate::print(&serde_json::to_string_pretty(&documents)?)?;
    }
    if arguments.keep {
        eprintln!("\nthe network is still up; look around, and take it down in the end:");
        eprintln!(
            "  cargo xtask testbed exec {FIRST_ROUTER} --name {INSTANCE} -- {} stats",
            xcast_ctl.display()
        );
        eprintln!("  cargo xtask testbed down {INSTANCE}");
    }
    Ok(match complete {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Sends the messages both ways and counts.
fn compare(
    testbed: &Testbed,
    xcast_ctl: &Path,
    config: &RouterConfig,
    family: Family,
    messages: u64,
) -> Result<Report> {
    let address = |node: &testbed::Node| match family {
        Family::Ipv4 => node.address.map(IpAddr::from),
        Family::Ipv6 => node.address6.map(IpAddr::from),
    };
    let addresses = HOSTS
        .map(|host| testbed.node(host).map(address))
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
    let name = family.name();
    eprintln!(
        "sending {messages} messages from {SOURCE} to {whom} by {name}: one Xcast packet each"
    );
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
    addresses: &[IpAddr],
    messages: u64,
) -> Result<()> {
    let router = testbed.interface(FIRST_ROUTER, SOURCE)?;
    let via = match addresses {
        [IpAddr::V6(_), ..] => router.address6.map(IpAddr::from),
        _ => router.address.map(IpAddr::from),
    };
    let via = via.context("the first router has no address")?;
    let code_points = &config.code_points;
    let mut command = testbed.command(SOURCE, xcast_ctl)?;
    command
        .args(["send", "--via", &via.to_string()])
        .args(["--protocol", &code_points.protocol.to_string()])
        .args(["--group", &code_points.group.to_string()])
        .args(["--group6", &code_points.group6.to_string()])
        .args(["--routing-type", &code_points.routing_type.to_string()])
        .args(["--ports-option", &code_points.ports_option.to_string()])
        .args(["--count", &messages.to_string()])
        .args(["--interval", &INTERVAL.as_millis().to_string()])
        .args(["--payload", &message("{n}")])
        .args(
            addresses
                .iter()
                .map(|address| SocketAddr::new(*address, PORT).to_string()),
        );
    process::output(&mut command).context("failed to send by Xcast")?;
    Ok(())
}

fn send_unicast(testbed: &Testbed, addresses: &[IpAddr], messages: u64) -> Result<()> {
    let any = match addresses {
        [IpAddr::V6(_), ..] => "[::]:0",
        _ => "0.0.0.0:0",
    };
    let socket = testbed
        .in_namespace(SOURCE, || UdpSocket::bind(any))?
        .context("failed to open a socket to send from")?;
    for n in 1..=messages {
        for &address in addresses {
            let to = SocketAddr::new(address, PORT);
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
