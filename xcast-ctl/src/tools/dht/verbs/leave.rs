//! `xcast-ctl dht leave`.

use anyhow::Result;

use super::super::{message::Request, progress::Line, socket::Node};
use crate::output::{Outcome, print, print_json};

/// End the node of this network namespace
///
/// It hands the items that it stores for others to those that are now closest, finishes what is under
/// way, keeps nodes to begin with in its state file, and ends. The DHT has no message that says so:
/// others notice that it is silent.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl dht leave
  xcast-ctl dht leave --node second --json

EXIT STATUS
  0  the node has ended
  2  error, also if no node runs here")]
pub(in super::super) struct Args {
    /// The node to end, by the name it was given with --node
    #[arg(long, value_name = "NAME", default_value = "node")]
    node: String,

    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

pub(in super::super) fn run(args: &Args) -> Result<Outcome> {
    let mut line = Line::new();
    let left = Node::named(&args.node).done(&Request::Leave, |_| line.show("leaving"))?;
    line.clear();
    if args.json {
        print_json(&left)?;
    } else {
        print(&format!(
            "the node has left; it knew {} good nodes, and sent {} packets in all\n",
            left.stored,
            left.sent.packets()
        ))?;
    }
    Ok(Outcome::Done)
}
