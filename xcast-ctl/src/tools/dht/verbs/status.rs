//! `xcast-ctl dht status`.

use anyhow::Result;

use super::super::{render, socket::Node};
use crate::output::{Outcome, print_answer};

/// Show how the node of this network namespace does
///
/// Nodes per bucket, requests and answers by method, and nodes that were not taken, by reason. If a
/// table is empty, it says why.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl dht status
  ip netns exec H1 xcast-ctl dht status --json | jq '.node.families[].why_empty'

EXIT STATUS
  0  the node knows others
  1  it knows nobody, and says why
  2  error, also if no node runs here")]
pub(in super::super) struct Args {
    /// The node to ask, by the name it was given with --node
    #[arg(long, value_name = "NAME", default_value = "node")]
    node: String,

    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

pub(in super::super) fn run(args: &Args) -> Result<Outcome> {
    let status = Node::named(&args.node).status()?;
    print_answer(args.json, &status, render::status)?;
    Ok(match status.table.is_empty() {
        true => Outcome::No,
        false => Outcome::Done,
    })
}
