//! What a testbed's senders sent, counted on its links.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;
use xcast_sim::replay::{Bed, Fanout, Replay, replay as count};

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The testbed, as `cargo xtask testbed list --json` prints it
    #[arg(long, value_name = "FILE")]
    bed: PathBuf,
    /// Name of the testbed, if the file has several
    #[arg(long)]
    name: Option<String>,
    /// What was sent: a JSON object a line, of any senders in any order; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    log: Vec<PathBuf>,
    /// Routers that speak Xcast, if not all do; may be given several times
    #[arg(long, value_name = "ROUTER")]
    capable: Vec<String>,
    /// Routers keep lists whole, with bits cleared
    #[arg(long)]
    bitmap: bool,
    /// Print a JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn replay(args: &ReplayArgs) -> Result<()> {
    let bed = bed(&args.bed, args.name.as_deref())?;
    let mut log: Vec<Fanout> = Vec::new();
    for path in &args.log {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let place = || format!("{}, line {}", path.display(), number + 1);
            let line = line.with_context(place)?;
            if !line.trim().is_empty() {
                log.push(serde_json::from_str(&line).with_context(place)?);
            }
        }
    }
    let settings = Replay {
        capable: (!args.capable.is_empty()).then(|| args.capable.clone()),
        bitmap: args.bitmap,
    };
    let links = count(&bed, &settings, &log)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&links)?)?;
        return Ok(());
    }
    writeln!(
        out,
        "{:<24} {:>10} {:>12} {:>12}",
        "link", "packets", "octets", "in frames"
    )?;
    for link in links {
        let name = link.nodes.join(" - ");
        let (packets, octets, frames) = (link.packets, link.octets, link.frame_octets);
        writeln!(out, "{name:<24} {packets:>10} {octets:>12} {frames:>12}")?;
    }
    Ok(())
}

/// The testbed of that name in a file with one of them, or a list.
fn bed(path: &Path, name: Option<&str>) -> Result<Bed> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let value: Value = serde_json::from_reader(BufReader::new(file))
        .with_context(|| format!("{} is not JSON", path.display()))?;
    let beds = match value {
        Value::Array(beds) => beds,
        one => vec![one],
    };
    let mut fitting = beds
        .into_iter()
        .filter(|bed| name.is_none_or(|name| bed["instance"] == name));
    let Some(bed) = fitting.next() else {
        bail!("{} has no such testbed", path.display());
    };
    if fitting.next().is_some() {
        bail!(
            "{} has several testbeds: say which with --name",
            path.display()
        );
    }
    serde_json::from_value(bed).with_context(|| format!("{} describes no testbed", path.display()))
}
