//! `xcast-ctl dht put`.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result, ensure};
use xcast_overlay::krpc::{Item, MAX_SALT_OCTETS, MAX_VALUE_OCTETS};

use super::super::{
    compare::{AskArgs, ask},
    message::Operation,
    parse::to_hex,
    render,
};
use crate::output::Outcome;

/// Store an item (BEP 44)
///
/// An immutable item is found under the hash of its value. A mutable one is signed with the node's
/// key, which its state file keeps, and found under the hash of that and the salt; a larger sequence
/// number replaces it. Nodes of this kind are asked by one message with a list of their tokens, others
/// by one each.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl dht put 'never changes'
  xcast-ctl dht put --mutable --salt weather --seq 2 'it rains'
  xcast-ctl dht put --file item --keep

EXIT STATUS
  0  stored
  1  no node stored it
  2  error, such as a value that is too long, or no node here")]
pub(in super::super) struct Args {
    /// The value: text, which is stored as a byte string
    #[arg(
        value_name = "VALUE",
        required_unless_present = "file",
        conflicts_with = "file"
    )]
    value: Option<String>,

    /// Store the content of this file as a byte string; - for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// The value is bencoded already
    #[arg(long)]
    bencoded: bool,

    /// Sign it, so that it can be changed
    #[arg(long)]
    mutable: bool,

    /// Which of this node's mutable items it is
    #[arg(long, value_name = "TEXT", requires = "mutable", default_value = "")]
    salt: String,

    /// Sequence number (default: the seconds since 1970)
    #[arg(long, value_name = "N", requires = "mutable", value_parser = clap::value_parser!(i64).range(0..))]
    seq: Option<i64>,

    /// Only over an item with this sequence number
    #[arg(long, value_name = "N", requires = "mutable", conflicts_with = "keep")]
    cas: Option<i64>,

    /// Store it again before it expires, as long as the node runs
    #[arg(long, conflicts_with = "compare")]
    keep: bool,

    #[command(flatten)]
    ask: AskArgs,
}

pub(in super::super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let octets = match (&args.value, &args.file) {
        (Some(value), _) => value.as_bytes().to_vec(),
        (None, Some(path)) => read(path)?,
        (None, None) => Vec::new(),
    };
    let value = match args.bencoded {
        true => octets,
        false => [octets.len().to_string().as_bytes(), b":", &octets].concat(),
    };
    ensure!(
        value.len() <= MAX_VALUE_OCTETS,
        "VALUE has {} octets when bencoded; at most {MAX_VALUE_OCTETS} are stored",
        value.len()
    );
    let checked = Item::immutable(value.clone());
    checked
        .check()
        .map_err(|error| anyhow::anyhow!("VALUE: {}", error.message))?;
    ensure!(
        args.salt.len() <= MAX_SALT_OCTETS,
        "--salt has {} octets; at most {MAX_SALT_OCTETS} may be",
        args.salt.len()
    );
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let seq = args.seq.unwrap_or(since.as_secs() as i64);
    let operation = Operation::Put {
        value: to_hex(&value),
        mutable: args.mutable.then(|| (args.salt.clone(), seq)),
        cas: args.cas,
        keep: args.keep,
    };
    ask(&args.ask, router, operation, render::stored, |report| {
        report.stored > 0
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut octets = Vec::new();
    // One octet too many is enough for the error.
    let most = MAX_VALUE_OCTETS as u64 + 1;
    let read = match path == Path::new("-") {
        true => io::stdin().take(most).read_to_end(&mut octets),
        false => File::open(path).and_then(|file| file.take(most).read_to_end(&mut octets)),
    };
    read.with_context(|| format!("--file: cannot read {}", path.display()))?;
    Ok(octets)
}
