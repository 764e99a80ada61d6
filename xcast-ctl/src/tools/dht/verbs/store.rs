//! `xcast-ctl dht store`.

use anyhow::Result;
use xcast_overlay::id::Id;

use super::super::{
    compare::{AskArgs, ask},
    message::{Operation, Request},
    parse::key,
    render,
    socket::Node,
};
use crate::output::{Outcome, print, print_json};

/// Store this node's address under a key (announce_peer)
///
/// Others find it there with `lookup --peers`. Nodes of this kind are asked by one message with a list
/// of their tokens, others by one each.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl dht store text:anything --port 8080
  xcast-ctl dht store text:anything --keep
  xcast-ctl dht store text:anything --withdraw

EXIT STATUS
  0  stored
  1  no node stored it; with --withdraw, it was not kept alive
  2  error, also if no node runs here")]
pub(in super::super) struct Args {
    /// The key: 40 hexadecimal digits, or text:WORDS to hash (SHA-1)
    #[arg(value_name = "KEY", value_parser = key)]
    key: Id,

    /// Port to store (default: the node's own)
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,

    /// Store it again before it expires, as long as the node runs
    #[arg(long, conflicts_with = "compare")]
    keep: bool,

    /// No longer keep alive what is stored or published under this key; it expires
    #[arg(long, conflicts_with_all = ["compare", "keep", "port"])]
    withdraw: bool,

    #[command(flatten)]
    ask: AskArgs,
}

pub(in super::super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    if args.withdraw {
        return withdraw(args);
    }
    let operation = Operation::Store {
        key: args.key,
        port: args.port,
        keep: args.keep,
    };
    ask(&args.ask, router, operation, render::stored, |report| {
        report.stored > 0
    })
}

fn withdraw(args: &Args) -> Result<Outcome> {
    let key = args.key;
    let report = Node::named(args.ask.node()).done(&Request::Withdraw { key }, |_| {})?;
    if args.ask.json() {
        print_json(&report)?;
    } else {
        print(&format!("{} withdrawn\n", report.stored))?;
    }
    Ok(match report.stored {
        0 => Outcome::No,
        _ => Outcome::Done,
    })
}
