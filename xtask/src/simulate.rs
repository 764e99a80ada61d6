//! `cargo xtask simulate`.

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;

use crate::{build, process};

/// Arguments of `simulate`.
#[derive(Debug, Args)]
pub struct Simulate {
    /// Given to xcast-sim: a verb and its arguments; all with --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs `cargo xtask simulate`. It needs nothing but the compiler: no root, no BPF programs.
///
/// # Errors
///
/// It does not compile.
pub fn run(arguments: &Simulate) -> Result<ExitCode> {
    let program = build::package("xcast-sim", true)?;
    process::exit_code(Command::new(program).args(&arguments.arguments))
}
