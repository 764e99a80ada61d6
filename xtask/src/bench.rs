//! `cargo xtask bench`.

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;

use crate::{build, process, setup, testbed};

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Fail instead of installing what is missing
    #[arg(long)]
    no_setup: bool,
    /// Given to xcast-bench: --quick, --json PATH, --out DIR; all with --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs `cargo xtask bench`.
///
/// # Errors
///
/// Not root, something is missing, or does not compile.
pub fn run(arguments: &Bench) -> Result<ExitCode> {
    testbed::require_root()?;
    setup::ensure(setup::Purpose::Demo, arguments.no_setup)?;
    eprintln!("building xcast-bench and the BPF programs");
    let program = build::package("xcast-bench", true)?;
    process::exit_code(Command::new(program).args(&arguments.arguments))
}
