//! `xcast-bench`: see `xcast-bench --help`, and docs/performance.md for how to read what it says.
//!
//! [`generator`] sends live frames into a [`site`], whose [`sinks`] count what arrives; in between
//! is a [`subject`]. [`measure`] runs cases of several subjects in turns, [`sweep`] says which, and
//! [`report`] what came of it.

mod changes;
mod combining;
mod family;
mod generator;
mod lookup;
mod machine;
mod measure;
mod plot;
mod plots;
mod programs;
mod progress;
mod report;
mod routes;
mod routes6;
mod sender;
#[path = "../ebpf/src/shared.rs"]
#[expect(dead_code, reason = "some of it is for the BPF side alone")]
mod shared;
mod sinks;
mod site;
mod stages;
mod subject;
mod sweep;
mod sys;
mod table;
mod unmodified;

use std::{env, fs, io, path::PathBuf, process::ExitCode, sync::atomic::Ordering, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum as _};
use nix::{
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    unistd::geteuid,
};

use crate::{
    family::Families,
    generator::Generator,
    machine::Machine,
    measure::{Effort, INTERRUPTED},
    progress::Progress,
    report::Report,
    sweep::{Bench, Section},
};

/// Tells a child of this process that it is to be `xcast-ctl`: the router under test is this very
/// file, so that it is compiled from the same sources with the same options.
const AS_XCAST_CTL: &str = "XCAST_BENCH_AS_XCAST_CTL";

/// Measure the router side by side with every other way to make copies
///
/// Everything happens in network namespaces of its own; the machine's interfaces are not touched.
/// Needs root and Linux 5.18. One CPU does all the work, so that times add up; best on a machine
/// that has nothing else to do.
#[derive(Debug, Parser)]
#[command(
    name = "xcast-bench",
    after_help = "EXAMPLES:\n  xcast-bench --quick\n  xcast-bench --json results.json --out docs/performance"
)]
struct Args {
    /// Only the headline: eight copies by everything, of both families, under a minute
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<Section>,
    /// Which families to measure, wherever packets are forwarded or sent
    ///
    /// Look-ups are of both in any case; the combining queue, which sends nothing, of IPv4 only. What IPv6
    /// comes to has names of its own, which end in ", IPv6".
    #[arg(long, value_enum, value_name = "4|6|both", hide_possible_values = true, default_value_t = Families::Both)]
    family: Families,
    /// Write everything measured to a file
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Write plots into a directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Rounds; each gives one value to each row
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// How long a subject's turn in a round takes, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 20)]
    run_ms: u64,
    /// CPU to do the work on; the last one unless given
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
}

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() == Some(unmodified::AS_PROGRAM) {
        return match unmodified::program(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{}: {error:#}", unmodified::AS_PROGRAM);
                ExitCode::from(2)
            }
        };
    }
    if env::var_os(AS_XCAST_CTL).is_some() {
        return xcast_ctl::cli::main();
    }
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xcast-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "this makes network namespaces and loads BPF programs, which needs root"
    );
    let own = env::current_exe().context("cannot find this program's own file")?;
    // SAFETY: this process has one thread yet.
    unsafe {
        env::set_var(AS_XCAST_CTL, "1");
        env::set_var("XCAST_CTL", own);
    }
    end_politely()?;

    let machine = Machine::this();
    let cpu = args.cpu.unwrap_or(machine.cores - 1);
    let effort = Effort {
        rounds: args
            .rounds
            .map_or(if args.quick { 15 } else { 31 }, usize::from),
        run: Duration::from_millis(args.run_ms),
    };
    let mut sections = args.only.clone();
    if sections.is_empty() {
        sections = match args.quick {
            true => vec![Section::Headline],
            false => Section::value_variants().to_vec(),
        };
    }
    xtask::print(&format!("{}\n", machine.line()))?;
    let mut bench = Bench {
        generator: Generator::new(cpu)?,
        families: args.family.list(),
        cpu,
        effort,
        progress: Progress::new(),
        report: Report::new(machine),
    };
    bench.run(&sections)?;
    let report = &bench.report;
    if let Some(directory) = &args.out {
        plots::write(report, directory)?;
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(report)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Has Ctrl-C end the benchmark between two runs, so that it removes what it made.
fn end_politely() -> io::Result<()> {
    extern "C" fn interrupted(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let action = SigAction::new(
        SigHandler::Handler(interrupted),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler stores to an atomic and does nothing else.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}
