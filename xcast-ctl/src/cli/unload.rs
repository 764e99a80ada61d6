//! `xcast-ctl unload`.

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::leave;
use crate::{
    config::DATAPATH_SUFFIX,
    control::Request,
    datapath::{
        generation,
        ownership::{self, Pair},
        pin::{self, Pins},
    },
    kernel,
    output::{Outcome, print, print_json},
};

/// Stop the running router, and remove what a killed one left behind
///
/// The router detaches from its ports and ends, as on SIGTERM. A router that was killed, or left with --keep, leaves
/// its programs attached and forwarding: they are detached, and all else is removed that it made.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl unload
  xcast-ctl unload --abandoned
  ip netns exec R1 xcast-ctl unload --json

EXIT STATUS
  0  no router runs here any more, also if none did
  2  error")]
pub(super) struct Args {
    /// Only remove what is pinned in the BPF file system and of no use to anybody: of network namespaces that are gone, or
    /// of routers that ended while they started. What runs anywhere is left alone
    #[arg(long)]
    abandoned: bool,

    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

/// The document of `xcast-ctl unload --json`.
#[derive(Debug, Default, Serialize)]
struct Unloaded {
    /// A running router was stopped.
    stopped: bool,
    /// Programs that were left behind were detached.
    detached: bool,
    /// Neighbours that the kernel need not keep resolved any more.
    neighbours: usize,
    /// Interfaces that were left behind and have been removed.
    removed: Vec<String>,
    /// What was pinned and of no use to anybody: network namespace (its inode) and name of the router's own interface.
    abandoned: Vec<String>,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let abandoned = pin::remove_abandoned();
    let unloaded = if args.abandoned {
        Unloaded {
            abandoned,
            ..Unloaded::default()
        }
    } else {
        Unloaded {
            stopped: leave::ask(router, &Request::Stop)?,
            abandoned,
            ..remove_leftovers(router)?
        }
    };
    if args.json {
        print_json(&unloaded)?;
    } else {
        let text = match args.abandoned {
            true => String::new(),
            false => render(&unloaded),
        };
        print(&(text + &render_abandoned(&unloaded, args.abandoned)))?;
    }
    Ok(Outcome::Done)
}

/// Removes what a router left behind that was killed, or ended with --keep.
fn remove_leftovers(router: &str) -> Result<Unloaded> {
    // The interface first, so that senders on this host are told, and nothing of theirs is lost.
    let datapath = format!("{router}{DATAPATH_SUFFIX}");
    let mut removed = Vec::new();
    // An interface of the same name may belong to somebody else.
    if let Pair::Own(ifindex, _) = ownership::pair(router, &datapath)? {
        kernel::remove_link(ifindex).with_context(|| format!("cannot remove {router}"))?;
        removed = vec![router.to_owned(), datapath];
    }
    let detached = match Pins::open(router) {
        Ok(pins) => {
            let detached = pins.are_live()?;
            for port in generation::reserved(&pins) {
                let released = kernel::local_port::release(port);
                released.with_context(|| format!("cannot release UDP port {port}"))?;
            }
            pins.clear();
            detached
        }
        // Then nothing was pinned.
        Err(_) => false,
    };
    Ok(Unloaded {
        stopped: false,
        detached,
        removed,
        neighbours: kernel::release_managed(&pin::ports_of_others(router))?,
        abandoned: Vec::new(),
    })
}

/// What is said of abandoned pins; that there were none only to somebody who asked.
fn render_abandoned(unloaded: &Unloaded, is_asked: bool) -> String {
    match unloaded.abandoned.as_slice() {
        [] if is_asked => "nothing is pinned that nobody uses\n".to_owned(),
        [] => String::new(),
        names => format!(
            "removed the pins of {}, which nobody uses\n",
            names.join(", ")
        ),
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
