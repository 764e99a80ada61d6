//! `cargo xtask demo`: the same messages by Xcast and by unicast, counted link by link.

mod partial;
mod report;
mod uplink;

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use clap::Args;

use self::report::{Link, Report};
use crate::{
    build,
    messages::{Exchange, Families, Family},
    setup,
    testbed::{self, Options, RouterConfig, Testbed, Topology},
};

/// Name of the demo's testbed.
const INSTANCE: &str = "demo";
/// Name of the testbed of figure 8.
const PARTIAL_INSTANCE: &str = "figure8";
/// Name of the testbed with a thin link.
const UPLINK_INSTANCE: &str = "uplink";
const SOURCE: &str = "A";
const FIRST_ROUTER: &str = "R1";
const HOSTS: [&str; 3] = ["B", "C", "D"];

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
    /// Show figure 8 of RFC 5058: most routers know nothing of Xcast, and tunnels join those that do
    ///
    /// The JSON document has, for each family, "unicast", "premature_x2u" and "tunnels": for each link "from", "to" and
    /// "packets" per message.
    #[arg(long, conflicts_with_all = ["keep", "uplink"])]
    partial: bool,
    /// Show where it pays first: 20 receivers behind one thin link, and a single router that speaks Xcast at its far end
    ///
    /// Sends 50 messages of 1000 octets per second. The JSON document has "receivers", "messages", "rate_kbit", and
    /// for "unicast" and "xcast" what crosses that link: "packets", "octets", "needed_kbit" and "delivered_percent".
    #[arg(long, conflicts_with = "keep")]
    uplink: bool,
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
    let purpose = match arguments.partial {
        true => setup::Purpose::Partial,
        false => setup::Purpose::Demo,
    };
    setup::ensure(purpose, arguments.no_setup)?;
    eprintln!("building xcast-ctl and the XDP programs");
    let xcast_ctl = build::xcast_ctl()?;
    if arguments.partial {
        let families = arguments.family.all();
        let partial = partial::run(&xcast_ctl, PARTIAL_INSTANCE, families, arguments.messages)?;
        crate::print(&match arguments.json {
            true => serde_json::to_string_pretty(&partial.json)?,
            false => partial.text,
        })?;
        return Ok(match partial.is_complete {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        });
    }
    if arguments.uplink {
        let (family, messages) = (arguments.family, arguments.messages);
        let uplink = uplink::run(&xcast_ctl, UPLINK_INSTANCE, family, messages)?;
        crate::print(&match arguments.json {
            true => serde_json::to_string_pretty(&uplink)?,
            false => uplink.text(),
        })?;
        return Ok(match uplink.is_complete() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        });
    }

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
    let ends = [SOURCE, FIRST_ROUTER];
    let exchange = Exchange::start(testbed, xcast_ctl, config, family, ends, &HOSTS)?;
    // Everybody gets to know everybody's link layer address first, so that only messages count.
    exchange.warm_up(&HOSTS)?;
    let whom = HOSTS.join(", ");
    let name = family.name();
    eprintln!(
        "sending {messages} messages from {SOURCE} to {whom} by {name}: one Xcast packet each"
    );
    let xcast = exchange.by_xcast(&HOSTS, messages)?;
    eprintln!("sending them again: a unicast packet for each of {whom}");
    let unicast = exchange.by_unicast(&HOSTS, messages)?;
    let links = testbed.plan().links.iter();
    let links = links.zip(xcast.traffic.into_iter().zip(unicast.traffic));
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
        delivered: xcast.inbox,
    })
}
