//! The command line. Each verb is a module with its `Args` and `run`: those about a router are
//! here, those that a host without a router has use for are in `tools`.

mod ask;
mod check;
mod explain;
mod family;
mod init;
mod leave;
mod neighbors;
mod next_hops;
mod ports;
mod routes;
mod run;
mod stats;
mod status;
mod tunnels;
mod unload;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand, error::ErrorKind};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{
    config::DEFAULT_INTERFACE,
    log::{Flush, LossyLog},
    output::{Outcome, OutputClosed},
    tools::{backbone, dht, exec, ping, recv, send, trace, tree},
};

/// Explicit multicast (Xcast, RFC 5058) for Linux
///
/// An Xcast packet lists all its receivers. Routers send one copy per next hop, and the last router
/// sends an ordinary unicast packet to each receiver. This command runs such a router on this
/// machine's interfaces with XDP, shows what it does, and sends and receives packets to try it.
#[derive(Debug, Parser)]
#[command(
    name = "xcast-ctl",
    version,
    disable_help_subcommand = true,
    after_long_help = "\
EXAMPLE
  xcast-ctl init --output xcast.toml --interface eth0 --interface eth1
  xcast-ctl check --config xcast.toml
  xcast-ctl run --config xcast.toml

EXIT STATUS
  0  done
  1  the answer is no: check found a fault, recv got too little, ping or trace got no answer,
     a tree's stream did not come whole
  2  error; one line on stderr says what and why"
)]
struct Cli {
    /// The router's own interface
    ///
    /// Verbs find the router of their network namespace by the name of its own interface. Only
    /// needed if the configuration sets router.interface.
    #[arg(long, global = true, value_name = "NAME", default_value = DEFAULT_INTERFACE)]
    router: String,

    /// What to do
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Init(init::Args),
    Check(check::Args),
    Run(run::Args),
    Status(status::Args),
    Stats(stats::Args),
    Routes(routes::Args),
    NextHops(next_hops::Args),
    Neighbors(neighbors::Args),
    Tunnels(tunnels::Args),
    Backbone(backbone::Args),
    Ports(ports::Args),
    Explain(explain::Args),
    Ping(ping::Args),
    Trace(trace::Args),
    Send(send::Args),
    Recv(recv::Args),
    Dht(dht::Args),
    Exec(exec::Args),
    Tree(tree::Args),
    Unload(unload::Args),
}

/// Does what the process's arguments say.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_a_verb(&error),
    };
    match cli.run() {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => failed(&one_line(&error)),
    }
}

/// Help, the version, or a wrong command line.
fn not_a_verb(error: &clap::Error) -> ExitCode {
    let no_verb = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if error.use_stderr() && !no_verb {
        return failed(&usage(error));
    }
    // The reader may close the pipe early.
    let _ = error.print();
    ExitCode::from(if no_verb { 2 } else { 0 })
}

fn failed(message: &str) -> ExitCode {
    // If standard error is closed, too, there is no place for the message.
    let _ = writeln!(io::stderr(), "xcast-ctl: {message}");
    ExitCode::from(2)
}

/// What is wrong with the command line, without the paragraphs around it.
fn usage(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = first.split_whitespace().collect();
    let message = words.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    format!("{message} (try --help)")
}

impl Cli {
    /// Does what the verb says.
    fn run(self) -> Result<Outcome> {
        let verbose = match &self.verb {
            Verb::Run(args) => args.verbose,
            Verb::Dht(args) => args.verbose(),
            _ => 0,
        };
        let _flush = log_to_stderr(verbose);
        let router = &self.router;
        match self.verb {
            Verb::Init(args) => init::run(&args),
            Verb::Check(args) => check::run(&args),
            Verb::Run(args) => run::run(&args),
            Verb::Status(args) => status::run(&args, router),
            Verb::Stats(args) => stats::run(&args, router),
            Verb::Routes(args) => routes::run(&args, router),
            Verb::Neighbors(args) => neighbors::run(&args, router),
            Verb::Tunnels(args) => tunnels::run(&args, router),
            Verb::Backbone(args) => backbone::run(&args, router),
            Verb::NextHops(args) => next_hops::run(&args, router),
            Verb::Ports(args) => ports::run(&args, router),
            Verb::Explain(args) => explain::run(&args, router),
            Verb::Ping(args) => ping::run(&args, router),
            Verb::Trace(args) => trace::run(&args, router),
            Verb::Send(args) => send::run(&args, router),
            Verb::Recv(args) => recv::run(&args),
            Verb::Dht(args) => dht::run(&args, router),
            Verb::Exec(args) => exec::run(&args, router),
            Verb::Tree(args) => tree::run(&args, router),
            Verb::Unload(args) => unload::run(&args, router),
        }
    }
}

/// Logs what RUST_LOG asks for; otherwise warnings, and more with each `--verbose`. What is returned
/// has what was logged written when it is dropped.
fn log_to_stderr(verbose: u8) -> Option<Flush> {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .from_env_lossy();
    // Without a thread there is no log, and everything else works.
    let (log, flush) = LossyLog::start(io::stderr()).ok()?;
    // Fails if a test has installed a subscriber before; then that one is used.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log)
        .with_ansi(io::stderr().is_terminal())
        // Its way to tell that a line cannot be written is to print another one, or to panic.
        .log_internal_errors(false)
        .try_init();
    Some(flush)
}

/// The error and its causes, each once. The verifier's log can be megabytes long, so only its
/// beginning and its end are kept; `--verbose` shows all of it.
fn one_line(error: &anyhow::Error) -> String {
    const KEPT: usize = 500;
    let line = format!("{error:#}").replace('\n', " ");
    let length = line.chars().count();
    if length <= 2 * KEPT {
        return line;
    }
    tracing::info!("{error:#}");
    let head: String = line.chars().take(KEPT).collect();
    let tail: String = line.chars().skip(length - KEPT).collect();
    format!("{head} [...] {tail}")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<OutputClosed>()
            .is_some_and(|OutputClosed(error)| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_long_help_with_an_example_and_its_exit_status() {
        let mut command = Cli::command();
        command.build();
        let mut gaps = Vec::new();
        let verbs = command.get_subcommands_mut().collect::<Vec<_>>();
        assert_eq!(verbs.len(), 20);
        let mut named = Vec::new();
        for verb in verbs {
            let name = verb.get_name().to_owned();
            for part in verb.get_subcommands() {
                named.push((format!("{name} {}", part.get_name()), part.clone()));
            }
            named.push((name, verb.clone()));
        }
        assert_eq!(named.len(), 20 + 11);
        for (name, mut verb) in named {
            let help = verb.render_long_help().to_string();
            let example = format!("  xcast-ctl {name}");
            for (wanted, what) in [
                ("\nEXAMPLE", "an example"),
                (&example[..], "an example of itself"),
                ("\nEXIT STATUS\n  0  ", "its exit status"),
                ("\n  2  ", "what an error exits with"),
            ] {
                if !help.contains(wanted) {
                    gaps.push(format!("{name} lacks {what}"));
                }
            }
            if verb.get_about().is_none() || verb.get_long_about().is_none() {
                gaps.push(format!("{name} lacks a description"));
            }
            for argument in verb.get_arguments() {
                if argument.get_help().is_none() {
                    gaps.push(format!("{name} lacks help on {}", argument.get_id()));
                }
            }
        }
        assert!(gaps.is_empty(), "{gaps:#?}");
    }

    #[test]
    fn reading_verbs_have_json() {
        let command = Cli::command();
        let parts = command
            .get_subcommands()
            .flat_map(clap::Command::get_subcommands);
        let verbs = command
            .get_subcommands()
            .filter(|verb| !verb.has_subcommands());
        for verb in verbs.chain(parts) {
            let has_json = verb.get_arguments().any(|arg| arg.get_id() == "json");
            let runs = verb.get_name() == "run";
            assert_eq!(has_json, !runs, "{}", verb.get_name());
        }
    }

    #[test]
    fn errors_are_one_line_with_their_causes() {
        let error = Err::<(), _>(io::Error::other("first\nsecond"))
            .context("outer")
            .unwrap_err();
        assert_eq!(one_line(&error), "outer: first second");
        let long = anyhow::anyhow!("first {} last", "\u{e9}".repeat(10_000));
        let line = one_line(&long);
        assert!(line.starts_with("first") && line.ends_with("last") && line.len() < 2100);
    }

    #[test]
    fn a_wrong_command_line_is_one_line_too() {
        let says = |line: &str| usage(&Cli::try_parse_from(line.split(' ')).unwrap_err());
        assert_eq!(
            says("xcast-ctl frob"),
            "unrecognized subcommand 'frob' (try --help)"
        );
        let missing = says("xcast-ctl run");
        assert_eq!(
            missing,
            "the following required arguments were not provided: --config <FILE> (try --help)"
        );
        let wrong = says("xcast-ctl send 10.0.0.1");
        assert!(
            wrong.contains("write 10.0.0.1:PORT") && !wrong.contains('\n'),
            "{wrong}"
        );
    }

    #[test]
    fn only_a_broken_pipe_of_standard_output_is_success() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&OutputClosed(broken()).into()));
        assert!(!is_broken_pipe(&broken().into()));
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(!is_broken_pipe(&OutputClosed(full).into()));
    }
}
