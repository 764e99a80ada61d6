//! The command line: a module per verb, each with its `Args` and `run`.

mod check;
mod explain;
mod family;
mod icmp;
mod init;
mod next_hops;
mod origin;
mod ping;
mod ports;
mod recv;
mod routes;
mod run;
mod send;
mod stats;
mod status;
mod table;
mod trace;
mod unload;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, error::ErrorKind};
use serde::Serialize;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{
    config::DEFAULT_INTERFACE,
    control::{self, Request, Response},
};

/// How a verb that did its work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; exit status 0.
    Done,
    /// The answer is no; exit status 1.
    No,
}

/// Explicit multicast (Xcast, RFC 5058) for Linux
///
/// A packet names all its receivers in a list; routers send one copy per next hop, and the last
/// router an ordinary unicast packet to each. This command runs such a router on this machine's
/// interfaces with XDP, shows what it does, and sends and receives packets to try it.
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
  1  the answer is no (check found a fault, recv got too little, ping or trace no answer)
  2  error; one line on stderr says what and why"
)]
pub struct Cli {
    /// Interface of the router to talk to
    ///
    /// Verbs find the router of the network namespace they run in by the name of its own
    /// interface. Only a router whose configuration gives another router.interface needs this.
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
    Ports(ports::Args),
    Explain(explain::Args),
    Ping(ping::Args),
    Trace(trace::Args),
    Send(send::Args),
    Recv(recv::Args),
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
    // Nobody may want to read it to its end.
    let _ = error.print();
    ExitCode::from(if no_verb { 2 } else { 0 })
}

fn failed(message: &str) -> ExitCode {
    // With stderr gone as well there is nobody left to tell.
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
    /// Does one verb.
    ///
    /// # Errors
    ///
    /// Whatever went wrong, with its causes.
    pub fn run(self) -> Result<Outcome> {
        let verbose = match &self.verb {
            Verb::Run(args) => args.verbose,
            _ => 0,
        };
        log_to_stderr(verbose);
        let router = &self.router;
        match self.verb {
            Verb::Init(args) => init::run(&args),
            Verb::Check(args) => check::run(&args),
            Verb::Run(args) => run::run(&args),
            Verb::Status(args) => status::run(&args, router),
            Verb::Stats(args) => stats::run(&args, router),
            Verb::Routes(args) => routes::run(&args, router),
            Verb::NextHops(args) => next_hops::run(&args, router),
            Verb::Ports(args) => ports::run(&args, router),
            Verb::Explain(args) => explain::run(&args, router),
            Verb::Ping(args) => ping::run(&args, router),
            Verb::Trace(args) => trace::run(&args, router),
            Verb::Send(args) => send::run(&args, router),
            Verb::Recv(args) => recv::run(&args),
            Verb::Unload(args) => unload::run(&args, router),
        }
    }
}

/// RUST_LOG rules; otherwise warnings, and more with each `--verbose`.
fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .from_env_lossy();
    // It fails where a test has installed another subscriber before: then that one is used.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
}

/// The error and its causes, each once. The verifier's log can be megabytes long: it begins with
/// the program and ends with what is wrong with it. `--verbose` shows the rest.
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

/// Standard output cannot be written to. A type of its own, so that a broken pipe there is told
/// from a broken connection elsewhere.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
struct OutputClosed(#[source] io::Error);

/// Writes to standard output, at once.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| OutputClosed(error).into())
}

/// Writes one JSON document, indented for people.
fn print_json(document: &impl Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(document)? + "\n"))
}

/// Writes one JSON document of a stream, on its own line.
fn print_json_line(document: &impl Serialize) -> Result<()> {
    print(&(serde_json::to_string(document)? + "\n"))
}

/// Asks the running router and takes the answer apart with `expected`.
fn ask<T>(
    router: &str,
    request: &Request,
    expected: impl FnOnce(Response) -> Option<T>,
) -> Result<T> {
    match expected(control::ask(router, request)?) {
        Some(report) => Ok(report),
        None => bail!("the router answered another question; is it of another version?"),
    }
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
        assert_eq!(verbs.len(), 14);
        for verb in verbs {
            let name = verb.get_name().to_owned();
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
        for verb in command.get_subcommands() {
            let has_json = verb.get_arguments().any(|arg| arg.get_id() == "json");
            assert_eq!(has_json, verb.get_name() != "run", "{}", verb.get_name());
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
