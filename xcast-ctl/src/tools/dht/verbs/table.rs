//! `xcast-ctl dht table`.

use anyhow::Result;

use super::super::{render, socket::Node};
use crate::output::{Outcome, print_answer};

/// Show the nodes that the node of this network namespace knows
///
/// For each family, how many nodes each bucket has, what became of requests, which nodes were not
/// taken and why, and every node with its round-trip time. If a table is empty, it says why.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl dht table
  xcast-ctl dht table --json | jq -r '.table[].address'

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
    print_answer(args.json, &status, render::table)?;
    Ok(match status.table.is_empty() {
        true => Outcome::No,
        false => Outcome::Done,
    })
}
