//! `xcast-faults`: what `cargo xtask faults` runs. See `xcast-faults --help`.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use serde_json::json;
use tests::family::Family;
use tests::faults::catalogue::{self, FAULTS, Fault};
use tests::faults::measure::measure;
use tests::faults::row::{self, Row};

/// Measure what is lost when something fails: Xcast beside the kernel's unicast
///
/// A router between three hosts forwards some 400 Xcast packets a second, and beside each of them an
/// ordinary datagram to each of its destinations. Then a fault happens. "Lost" are messages that did
/// not come, for each destination by itself; "recovered" is the time from when they could come
/// again until the last one was lost. Everything is in network namespaces of its own. Needs root.
#[derive(Debug, Parser)]
#[command(
    name = "xcast-faults",
    bin_name = "cargo xtask faults",
    after_help = "EXAMPLES:\n  cargo xtask faults\n  cargo xtask faults --only killed,route-replaced --family 4\n  cargo xtask faults --json faults.json --markdown faults.md\n\nEXIT STATUS:\n  0  the router lost nothing that it promises to keep, doubled nothing, and recovered each time\n  1  it did not\n  2  error"
)]
struct Args {
    /// List the faults, and what each must not harm
    #[arg(long)]
    list: bool,
    /// Only these faults
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Which families to measure
    #[arg(long, value_enum, value_name = "4|6|both", hide_possible_values = true, default_value_t = Families::Both)]
    family: Families,
    /// Write everything measured to a file, or with "-" to standard output instead of the table
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Write the table to a file in Markdown, as in docs/reliability.md
    #[arg(long, value_name = "PATH")]
    markdown: Option<PathBuf>,
}

/// What `--family` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Families {
    /// IPv4.
    #[value(name = "4")]
    Ipv4,
    /// IPv6.
    #[value(name = "6")]
    Ipv6,
    /// First IPv4, then IPv6.
    Both,
}

impl Families {
    fn list(self) -> &'static [Family] {
        match self {
            Self::Ipv4 => &[Family::Ipv4],
            Self::Ipv6 => &[Family::Ipv6],
            Self::Both => &Family::ALL,
        }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("xcast-faults: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    if args.list {
        print(&list())?;
        return Ok(true);
    }
    let faults = chosen(&args.only)?;
    ensure!(
        nix::unistd::geteuid().is_root(),
        "this makes network namespaces and loads BPF programs, which needs root"
    );
    let json_only = args
        .json
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "-");
    let rows = measure_all(&faults, args.family.list(), !json_only)?;
    let document = json!({"faults": rows.iter().map(Row::json).collect::<Vec<_>>()});
    let document = format!("{document:#}\n");
    match &args.json {
        Some(_) if json_only => print(&document)?,
        Some(path) => write(path, &document)?,
        None => {}
    }
    if let Some(path) = &args.markdown {
        write(path, &row::markdown(&rows))?;
    }
    Ok(rows.iter().all(|row| row.failure().is_none()))
}

fn measure_all(faults: &[&Fault], families: &[Family], table: bool) -> Result<Vec<Row>> {
    if table {
        print(&row::heading())?;
    }
    let mut rows = Vec::new();
    let count = faults.len() * families.len();
    for fault in faults {
        for &family in families {
            progress(&format!(
                "{} of {count}: {} ({family:?})",
                rows.len() + 1,
                fault.what
            ));
            let measured = measure(fault, family);
            progress("");
            let row = measured.with_context(|| format!("{} ({family:?})", fault.name))?;
            if table {
                print(&row.text())?;
            }
            rows.push(row);
        }
    }
    Ok(rows)
}

fn chosen(names: &[String]) -> Result<Vec<&'static Fault>> {
    if names.is_empty() {
        return Ok(FAULTS.iter().filter(|fault| !fault.is_long).collect());
    }
    let find = |name: &String| match catalogue::named(name) {
        Some(fault) => Ok(fault),
        None => bail!("--only: there is no fault {name:?}; see: cargo xtask faults --list"),
    };
    names.iter().map(find).collect()
}

fn list() -> String {
    let mut text = String::new();
    for fault in FAULTS {
        let names: Vec<_> = fault.unharmed.iter().map(|target| target.name).collect();
        let unharmed = match names.as_slice() {
            [] => String::new(),
            names => format!("; nothing is lost to: {}", names.join(", ")),
        };
        let long = match fault.is_long {
            true => " (takes minutes: only with --only)",
            false => "",
        };
        text += &format!("{:<20} {}{long}{unharmed}\n", fault.name, fault.what);
    }
    text
}

/// What is going on, on standard error: on a terminal in one line, which the next one replaces.
fn progress(what: &str) {
    let mut stderr = io::stderr().lock();
    // Nobody is there to tell if standard error is gone.
    let _ = match (stderr.is_terminal(), what) {
        (true, what) => write!(stderr, "\r\x1b[K{what}").and_then(|()| stderr.flush()),
        (false, "") => Ok(()),
        (false, what) => writeln!(stderr, "{what}"),
    };
}

/// Prints; that nobody reads to the end is no error.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn write(path: &std::path::Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
