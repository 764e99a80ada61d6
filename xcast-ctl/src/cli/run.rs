//! `xcast-ctl run`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{Outcome, print};
use crate::{config::Config, control, router};

/// Run the router in the foreground
///
/// Validates the whole configuration, attaches to the ports, and follows the kernel's routes. Once
/// both are in step it prints one line that starts with "ready" and stays quiet. SIGTERM, SIGINT
/// and `xcast-ctl unload` detach it; until the ports are detached, packets keep flowing.
///
/// Logs go to standard error: warnings, more with --verbose, or what RUST_LOG asks for.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl run --config xcast.toml
  ip netns exec R1 xcast-ctl run --config r1.toml -v

EXIT STATUS
  0  stopped by a signal or by xcast-ctl unload, everything is detached
  2  error")]
pub(super) struct Args {
    /// Configuration file (xcast-ctl init writes one)
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,

    /// Log more: twice for debugging, three times for every message
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
        // First of all, so that a second router does no harm to a running one.
        let server = control::Server::bind(&config.router.interface)?;
        router::run(config, server, |line| print(&format!("ready {line}\n"))).await
    })?;
    Ok(Outcome::Done)
}
