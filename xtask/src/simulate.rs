//! `cargo xtask simulate`.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};
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
    let status = process::status(Command::new(program).args(&arguments.arguments))?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(code.clamp(0, 255) as u8)),
        None => bail!("xcast-sim was ended: {status}"),
    }
}
