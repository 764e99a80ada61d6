//! `xcast-ctl run`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use tracing::warn;

use super::leave;
use crate::{
    config::Config,
    control::{self, Request},
    kernel,
    output::{Outcome, print},
    router,
};

/// File descriptors that a router needs at most, beside one for each port: some 60 for maps, programs
/// and sockets, 311 while the device maps of a group of slots are made, and those of clients.
const DESCRIPTORS: u64 = 448;

/// Run the router in the foreground
///
/// Validates the whole configuration, attaches to the ports, and follows the kernel's routes. Once
/// it has read them all it prints one line that starts with "ready". SIGTERM, SIGINT and
/// `xcast-ctl unload` stop it and detach it from the ports; with --keep, the signals leave everything forwarding.
///
/// A router that was killed, or left with --keep, goes on forwarding. The next one takes over without a packet lost.
/// SIGHUP reads the configuration again in the same way. Other signals that would end a process are ignored.
///
/// Logs go to standard error: warnings, more with --verbose, or what RUST_LOG asks for.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl run --config xcast.toml
  xcast-ctl run --config xcast.toml --keep --replace
  ip netns exec R1 xcast-ctl run --config r1.toml -v

EXIT STATUS
  0  stopped by a signal, by xcast-ctl unload, or replaced
  2  error")]
pub(super) struct Args {
    /// Configuration file (xcast-ctl init writes one)
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,

    /// On SIGTERM and SIGINT, leave everything attached and forwarding
    #[arg(long)]
    keep: bool,

    /// Take over from a router that runs; it ends, and nothing is lost
    #[arg(long)]
    replace: bool,

    /// Log more: -v for information, -vv for debugging, -vvv for everything
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

pub(super) fn run(args: &Args) -> Result<Outcome> {
    let config = Config::load(&args.config)?;
    let missing = kernel::missing_capabilities()?;
    if !missing.is_empty() {
        bail!(
            "this process lacks {}, which a router needs: run it as root, or give it these \
             capabilities",
            missing.join(" and ")
        );
    }
    kernel::raise_open_files(DESCRIPTORS + config.ports.len() as u64)?;
    // Who runs out of it is killed, and says nothing.
    if let Some(limit) = kernel::memory_limit("self")
        && limit.limit < kernel::ROUTER_NEEDS_BYTES
    {
        warn!(
            "the control group {} may use {} MiB of memory, and a router needs {} MiB to start: raise the limit \
             (MemoryMax= in the service's unit, or that of the container), or it may be killed",
            limit.group.display(),
            kernel::mebibytes(limit.limit),
            kernel::mebibytes(kernel::ROUTER_NEEDS_BYTES)
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        // First, so that a second router does not disturb a running one.
        let interface = &config.router.interface;
        if args.replace {
            leave::ask(interface, &Request::Leave)?;
        }
        let server = control::Server::bind(interface)?;
        let start = router::Start {
            config,
            path: args.config.clone(),
            keep: args.keep,
        };
        router::run(start, server, |line| {
            // Whoever wanted to know has gone; what is forwarded is not theirs alone.
            if let Err(error) = print(&format!("ready {line}\n")) {
                warn!("{error:#}");
            }
        })
        .await
    })?;
    Ok(Outcome::Done)
}
