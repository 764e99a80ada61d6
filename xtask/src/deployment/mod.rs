//! `cargo xtask deployment`: what lists save where only some routers speak Xcast (RFC 5058 section 11), counted on the
//! links of a network of 40 routers.

mod experiment;
mod network;
mod report;
mod row;
mod tunnels;

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

pub use self::{
    experiment::Experiment,
    network::{Network, Order},
    report::Report,
    row::{Mode, Row},
};
use crate::{build, messages::Families, setup, testbed};

/// Arguments of `deployment`.
#[derive(Debug, Args)]
pub struct Deployment {
    /// Messages of each source
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    messages: u64,
    /// Destinations of each message
    #[arg(long, default_value_t = 10)]
    destinations: usize,
    /// Hosts that send, one after the other, each to hosts of its own
    #[arg(long, default_value_t = 4)]
    sources: usize,
    /// Shares of the routers that speak Xcast, in percent
    #[arg(long, value_delimiter = ',', default_values_t = [10, 25, 50, 75, 100], value_parser = clap::value_parser!(u32).range(1..=100))]
    shares: Vec<u32>,
    /// How routers serve what is behind others
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Mode::PrematureX2u, Mode::Tunnels])]
    modes: Vec<Mode>,
    /// Address family to send by
    #[arg(long, value_enum, default_value_t = Families::Ipv4)]
    family: Families,
    /// Chooses sources, destinations and the random routers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Core routers, routers behind each of them, and edge routers behind each of those
    #[arg(long, value_delimiter = ',', num_args = 1, default_values_t = [4, 3, 2])]
    network: Vec<usize>,
    /// Print one JSON document instead of a table
    ///
    /// {"routers", "hosts", "links", "destinations", "messages", "families": {"ipv4": {"unicast", "rows": [{"mode", "order", "share",
    /// "routers", "packets", "saved_percent", "complete"}]}}}: packets are link transmissions of all messages.
    #[arg(long)]
    json: bool,
    /// Fail instead of installing what is missing
    #[arg(long)]
    no_setup: bool,
}

/// Runs `cargo xtask deployment`. The answer is no when a host misses a message or gets one twice.
///
/// # Errors
///
/// Not root, something is missing or does not compile, or the routers do not start.
pub fn run(arguments: &Deployment) -> Result<ExitCode> {
    testbed::require_root()?;
    let network = Network::from_numbers(&arguments.network)?;
    setup::ensure(setup::Purpose::Demo, arguments.no_setup)?;
    eprintln!("building xcast-ctl and the XDP programs");
    let experiment = Experiment {
        xcast_ctl: build::xcast_ctl()?,
        network,
        messages: arguments.messages,
        destinations: arguments.destinations,
        sources: arguments.sources,
        shares: arguments.shares.clone(),
        modes: arguments.modes.clone(),
        seed: arguments.seed,
    };
    let report = experiment.run(arguments.family.all(), |what| eprintln!("{what}"))?;
    crate::print(&match arguments.json {
        true => serde_json::to_string_pretty(&report)?,
        false => report.text(),
    })?;
    Ok(match report.is_complete() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
