//! `cargo xtask build`.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{process, setup, workspace};

/// Arguments of `build`.
#[derive(Debug, Args)]
pub struct Build {
    /// Fail instead of installing what is missing
    #[arg(long)]
    no_setup: bool,
    /// Optimise, as for an installation
    #[arg(long)]
    release: bool,
}

/// Runs `cargo xtask build`: prints where `xcast-ctl` is.
///
/// # Errors
///
/// Something is missing, or does not compile.
pub fn run(arguments: &Build) -> Result<ExitCode> {
    setup::ensure(setup::Purpose::Build, arguments.no_setup)?;
    let path = package("xcast-ctl", arguments.release)?;
    crate::print(&path.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// Builds `xcast-ctl`, BPF programs included, and returns where it is.
///
/// # Errors
///
/// It does not compile.
pub fn xcast_ctl() -> Result<PathBuf> {
    package("xcast-ctl", false)
}

/// A cargo command in the workspace, by the cargo that runs us.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Builds the program of a package of the workspace, which has the package's name, BPF programs
/// included, and returns where it is.
///
/// # Errors
///
/// It does not compile.
pub fn package(name: &str, release: bool) -> Result<PathBuf> {
    program(name, name, release)
}

/// The same for a program that has another name than its package.
///
/// # Errors
///
/// It does not compile.
pub fn program(package: &str, name: &str, release: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args([
        "build",
        "--package",
        package,
        "--bin",
        name,
        "--message-format",
        "json-render-diagnostics",
    ]);
    if release {
        command.arg("--release");
    }
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start `{}`", process::name(&command)))?;
    let stdout = child
        .stdout
        .take()
        .context("cargo has no standard output")?;
    let mut executable = None;
    for line in BufReader::new(stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(&line?).unwrap_or_default();
        if message["target"]["name"] == name
            && let Some(path) = message["executable"].as_str()
        {
            executable = Some(PathBuf::from(path));
        }
    }
    if !child.wait()?.success() {
        bail!("{name} does not compile");
    }
    executable.with_context(|| format!("cargo did not say where {name} is"))
}
