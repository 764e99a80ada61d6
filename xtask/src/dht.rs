//! `cargo xtask dht` and `cargo xtask tree`.

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;

use crate::{build, process, setup, testbed};

/// Arguments of `dht`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Dht {
    /// Given to xcast-overlay-bench
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs `cargo xtask tree`.
///
/// # Errors
///
/// As [`run`].
pub fn tree(arguments: &Dht) -> Result<ExitCode> {
    let words = ["tree".to_owned()].into_iter();
    run(&Dht {
        arguments: words.chain(arguments.arguments.iter().cloned()).collect(),
    })
}

/// Runs `cargo xtask dht`.
///
/// # Errors
///
/// Not root, something is missing, or does not compile.
pub fn run(arguments: &Dht) -> Result<ExitCode> {
    setup::ensure(setup::Purpose::Demo, false)?;
    let asks_for_help = |word: &String| word == "--help" || word == "-h";
    eprintln!("building xcast-overlay-bench");
    let mut command = Command::new(build::package("xcast-overlay-bench", true)?);
    if !arguments.arguments.is_empty() && !arguments.arguments.iter().any(asks_for_help) {
        testbed::require_root()?;
        eprintln!("building xcast-ctl and the BPF programs");
        command.env("XCAST_CTL", build::package("xcast-ctl", true)?);
    }
    process::exit_code(command.args(&arguments.arguments))
}
