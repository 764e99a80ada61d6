//! `xcast-ctl dht get`.

use anyhow::Result;
use xcast_overlay::{id::Id, krpc::Item};

use super::super::{
    compare::{AskArgs, ask},
    message::Operation,
    parse::{key, public_key},
    render,
};
use crate::output::Outcome;

/// Find an item (BEP 44)
///
/// Prints its value. One that is not text is shown bencoded, in hexadecimal digits.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl dht get e5f96f6f38320f0f33959cb4d3d656452117aadb
  xcast-ctl dht get --public-key 77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548 \\
      --salt weather --json

EXIT STATUS
  0  found
  1  not found
  2  error, also if no node runs here")]
pub(in super::super) struct Args {
    /// Its key: 40 hexadecimal digits
    #[arg(value_name = "KEY", required_unless_present = "public_key", conflicts_with = "public_key", value_parser = key)]
    key: Option<Id>,

    /// Public key of the author of a mutable item: 64 hexadecimal digits
    #[arg(long, value_name = "KEY", value_parser = public_key)]
    public_key: Option<[u8; 32]>,

    /// Which of the author's items it is
    #[arg(long, value_name = "TEXT", default_value = "")]
    salt: String,

    #[command(flatten)]
    ask: AskArgs,
}

pub(in super::super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let of_author = |author| Item::mutable_target(author, args.salt.as_bytes());
    let key = args
        .key
        .or(args.public_key.as_ref().map(of_author))
        .unwrap_or_default();
    let salt = args.salt.clone();
    ask(
        &args.ask,
        router,
        Operation::Get { key, salt },
        render::found_item,
        |report| report.item.is_some(),
    )
}
