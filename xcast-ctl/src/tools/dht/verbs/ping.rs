//! `xcast-ctl dht ping`.

use anyhow::Result;

use super::super::{
    compare::{AskArgs, ask},
    message::Operation,
    parse::{Endpoint, endpoint},
    render,
};
use crate::output::Outcome;

/// Ask nodes of the DHT whether they are there
///
/// One message to all nodes of a family. Who does not answer is asked twice more, by unicast.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl dht ping 10.77.3.2:6881 10.77.7.2:6881
  xcast-ctl dht ping --compare 20 --first-link eth0 10.77.3.2:6881 10.77.7.2:6881 10.77.8.2:6881

EXIT STATUS
  0  all have answered
  1  somebody has not
  2  error, also if no node runs here")]
pub(in super::super) struct Args {
    /// The nodes
    #[arg(value_name = "ADDRESS:PORT", required = true, value_parser = endpoint)]
    nodes: Vec<Endpoint>,

    #[command(flatten)]
    ask: AskArgs,
}

pub(in super::super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let to = args
        .nodes
        .iter()
        .filter_map(|node| node.0.first().copied())
        .collect();
    ask(
        &args.ask,
        router,
        Operation::Ping { to },
        render::found_nodes,
        |report| report.asked > 0 && report.answered == report.asked,
    )
}
