//! `cargo xtask faults`.

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;

use crate::{build, process, setup, testbed};

/// Arguments of `faults`.
#[derive(Debug, Args)]
pub struct Faults {
    /// Fail instead of installing what is missing
    #[arg(long)]
    no_setup: bool,
    /// Measure a router that is optimised, as for an installation
    #[arg(long)]
    release: bool,
    /// Given to xcast-faults: --list, --only NAME, --family 4, --json PATH, --markdown PATH; all with --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs `cargo xtask faults`.
///
/// # Errors
///
/// Not root, something is missing, or does not compile.
pub fn run(arguments: &Faults) -> Result<ExitCode> {
    testbed::require_root()?;
    setup::ensure(setup::Purpose::Demo, arguments.no_setup)?;
    eprintln!("building the router and what measures it");
    let router = build::package("xcast-ctl", arguments.release)?;
    let program = build::program("tests", "xcast-faults", arguments.release)?;
    let mut command = Command::new(program);
    command.args(&arguments.arguments).env("XCAST_CTL", router);
    process::exit_code(&mut command)
}
