//! `xcast-ctl unload`.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::{
    config::DATAPATH_SUFFIX,
    control::{self, ControlError, Request},
    kernel,
    output::{Outcome, print, print_json},
};

/// How long a router may take to detach from all its ports.
const PATIENCE: Duration = Duration::from_secs(20);

/// Stop the running router, and remove what a killed one left behind
///
/// The router detaches from its ports and ends, as on SIGTERM. A router that was killed leaves its
/// own interface behind, which does no harm: the next router would take it over.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl unload
  ip netns exec R1 xcast-ctl unload --json

EXIT STATUS
  0  no router runs here any more, also if none did
  2  error")]
pub(super) struct Args {
    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

/// The document of `xcast-ctl unload --json`.
#[derive(Debug, Default, Serialize)]
struct Unloaded {
    /// A running router was stopped.
    stopped: bool,
    /// Interfaces that were left behind and have been removed.
    removed: Vec<String>,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let unloaded = Unloaded {
        stopped: stop(router)?,
        removed: remove_leftovers(router)?,
    };
    if args.json {
        print_json(&unloaded)?;
    } else {
        print(&render(&unloaded))?;
    }
    Ok(Outcome::Done)
}

/// Stops the router and waits until it is gone; false if there was none.
fn stop(router: &str) -> Result<bool> {
    match control::ask(router, &Request::Stop) {
        Ok(_) => {}
        Err(ControlError::NotRunning(_)) => return Ok(false),
        Err(error) => return Err(error).context("cannot stop the router"),
    }
    let deadline = Instant::now() + PATIENCE;
    // It holds the control socket until it has detached. A request that fails for another reason
    // reached a router that is ending.
    while !matches!(
        control::ask(router, &Request::Status),
        Err(ControlError::NotRunning(_))
    ) {
        if Instant::now() > deadline {
            bail!(
                "the router was told to stop but still runs after {} s: see its log",
                PATIENCE.as_secs()
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(true)
}

fn remove_leftovers(router: &str) -> Result<Vec<String>> {
    let links = kernel::links()?;
    let find = |name: &str| links.iter().find(|link| link.name == name);
    let datapath = format!("{router}{DATAPATH_SUFFIX}");
    // Only with the right peer: an interface of the same name may belong to somebody else.
    match (find(router), find(&datapath)) {
        (Some(own), Some(peer)) if own.peer == Some(peer.ifindex) && !own.peer_elsewhere => {
            kernel::remove_link(own.ifindex).with_context(|| format!("cannot remove {router}"))?;
            Ok(vec![router.to_owned(), datapath])
        }
        _ => Ok(Vec::new()),
    }
}

fn render(unloaded: &Unloaded) -> String {
    let removed = format!("removed {}", unloaded.removed.join(" and "));
    match (unloaded.stopped, unloaded.removed.is_empty()) {
        (true, true) => "stopped the router\n".to_owned(),
        (true, false) => format!("stopped the router, {removed}\n"),
        (false, false) => {
            format!("no router was running; {removed}, left behind by one that was killed\n")
        }
        (false, true) => "no router was running, nothing to remove\n".to_owned(),
    }
}
