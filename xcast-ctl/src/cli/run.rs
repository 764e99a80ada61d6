//! `xcast-ctl run`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{
    config::Config,
    control,
    output::{Outcome, print},
    router,
};

/// Run the router in the foreground
///
/// Validates the whole configuration, attaches to the ports, and follows the kernel's routes. Once
/// it has read them all it prints one line that starts with "ready". SIGTERM, SIGINT and
/// `xcast-ctl unload` stop it; it forwards packets until it is detached from the ports.
///
/// Logs go to standard error: warnings, more with --verbose, or what RUST_LOG asks for.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl run --config xcast.toml
  ip netns exec R1 xcast-ctl run --config r1.toml -v

EXIT STATUS
  0  stopped by a signal or by xcast-ctl unload, and detached from all ports
  2  error")]
pub(super) struct Args {
    /// Configuration file (xcast-ctl init writes one)
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,

    /// Log more: -v for information, -vv for debugging, -vvv for everything
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

pub(super) fn run(args: &Args) -> Result<Outcome> {
    let config = Config::load(&args.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        // First, so that a second router does not disturb a running one.
        let server = control::Server::bind(&config.router.interface)?;
        router::run(config, server, |line| print(&format!("ready {line}\n"))).await
    })?;
    Ok(Outcome::Done)
}
