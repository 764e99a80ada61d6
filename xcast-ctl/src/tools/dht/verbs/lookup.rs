//! `xcast-ctl dht lookup`.

use anyhow::Result;
use xcast_overlay::id::Id;

use super::super::{
    compare::{AskArgs, ask},
    message::Operation,
    parse::key,
    render,
};
use crate::output::Outcome;

/// Find the closest nodes to a key, or who is stored under it
///
/// With several keys, they are asked for by common questions (xc_get_many), which only nodes of this
/// kind answer.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl dht lookup 2aae6c35c94fcfb415dbe95f408b9ce91ee846ed
  xcast-ctl dht lookup --peers 2aae6c35c94fcfb415dbe95f408b9ce91ee846ed --json
  xcast-ctl dht lookup text:one text:two --compare 20

EXIT STATUS
  0  found
  1  not found: nobody answered, or with --peers, nobody is stored
  2  error, also if no node runs here")]
pub(in super::super) struct Args {
    /// Keys: 40 hexadecimal digits, or text:WORDS to hash (SHA-1)
    #[arg(value_name = "KEY", required = true, num_args = 1..=16, value_parser = key)]
    keys: Vec<Id>,

    /// Find who is stored (get_peers) instead of the closest nodes (find_node)
    #[arg(long)]
    peers: bool,

    #[command(flatten)]
    ask: AskArgs,
}

pub(in super::super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let peers = args.peers;
    match args.keys[..] {
        [key] => ask(
            &args.ask,
            router,
            Operation::Lookup { key, peers },
            if peers {
                render::found_peers
            } else {
                render::found_nodes
            },
            |report| match peers {
                true => !report.peers.is_empty(),
                false => !report.nodes.is_empty(),
            },
        ),
        _ => {
            let keys = args.keys.clone();
            let operation = Operation::LookupMany { keys };
            ask(
                &args.ask,
                router,
                operation,
                render::found_under_keys,
                |report| {
                    let found = |of: &super::super::message::UnderKey| match peers {
                        true => !of.peers.is_empty(),
                        false => !of.nodes.is_empty(),
                    };
                    report.keys.values().all(found)
                },
            )
        }
    }
}
