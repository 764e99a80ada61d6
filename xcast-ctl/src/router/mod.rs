//! The router: one event loop that owns everything.
//!
//! Kernel events come in from netlink, go through [`RouteSync`](crate::sync::RouteSync), and leave
//! as edits to the datapath's maps. The same loop attaches `ports` as their interfaces come and
//! go, has device maps made for the sets of ports that traffic asks for, and gives `answers`.
//! Nothing that arrives while it runs ends it: what cannot be done is logged and shown, and the rest
//! goes on.
//!
//! `state` is what the loop owns. [`resolver`] talks to the kernel about gateways beside the
//! loop.

mod answers;
mod explain;
mod ports;
pub mod resolver;
mod sources;
mod state;

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Duration, MissedTickBehavior, interval},
};
use tracing::warn;

use self::{resolver::Resolver, state::Router};
use crate::{
    config::Config,
    control::{self, Call, Request, Response},
    datapath::{rings::Misses, veth::VethPair},
    sync::{KernelEvent, Netlink, NetlinkOptions},
};

/// How often the loop looks for what no event tells: whether ports can send XDP frames.
const TICK: Duration = Duration::from_secs(1);
/// Questions that may wait for an answer.
const CALLS: usize = 16;

/// Runs the router until SIGTERM, SIGINT or a request to stop; calls `ready` once, with a summary,
/// when the maps are in step with the kernel for the first time. `server` is bound already: its
/// name is what keeps a second router out of this network namespace.
///
/// # Errors
///
/// Fails only while starting: no privilege, a kernel that refuses the programs, an interface in
/// the way.
pub async fn run(
    config: Config,
    server: control::Server,
    ready: impl FnOnce(&str) -> Result<()>,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;

    let (connection, links, _) = rtnetlink::new_connection().context("cannot open netlink")?;
    tokio::spawn(connection);
    let name = config.router.interface.clone();
    let peer = config.router.datapath_interface();
    let ipv6 = config.code_points.ipv6.is_some();
    let pair = VethPair::create(&links, &name, &peer, config.router.address, ipv6).await?;
    let outcome = async {
        let mut router = Router::start(&config, &pair, Resolver::start(links.clone()))?;
        let (_netlink, events) = Netlink::start(NetlinkOptions::default())
            .context("cannot follow the kernel's routes")?;
        if let Some(log) = router.datapath.take_drop_log() {
            tokio::spawn(log.follow());
        }
        let misses = router.datapath.take_misses()?;
        let (calls_in, calls) = mpsc::channel(CALLS);
        tokio::spawn(server.serve(calls_in));
        let inputs = Inputs {
            events,
            misses,
            calls,
        };
        let outcome = tokio::select! {
            outcome = serve(&mut router, inputs, ready) => outcome,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        router.resolver.stop().await;
        outcome
    }
    .await;
    // The programs detached when the router was dropped.
    if let Err(error) = VethPair::remove(&links, &name).await {
        warn!("{error:#}");
    }
    outcome
}

/// What the loop waits for.
struct Inputs {
    events: mpsc::Receiver<Vec<KernelEvent>>,
    misses: Misses,
    calls: mpsc::Receiver<Call>,
}

/// The loop. It ends when it is asked to, or when nobody can ask any more.
async fn serve(
    router: &mut Router,
    mut inputs: Inputs,
    ready: impl FnOnce(&str) -> Result<()>,
) -> Result<()> {
    let mut ready = Some(ready);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            events = inputs.events.recv() => {
                let events = events.context("lost the connection to the kernel's routes")?;
                router.take_in(events);
                if router.ready && let Some(ready) = ready.take() {
                    router.datapath.wait_for_fanouts();
                    ready(&router.summary())?;
                }
            }
            keys = inputs.misses.next() => {
                let keys = keys.context("cannot poll a BPF ring")?;
                router.datapath.install_subsets(keys);
            }
            _ = tick.tick() => router.look_at_ports(),
            call = inputs.calls.recv() => {
                let Some(call) = call else { return Ok(()) };
                if call.request == Request::Stop {
                    let _ = call.reply.send(Response::Stopping);
                    return Ok(());
                }
                let response = router
                    .answer(&call.request)
                    .unwrap_or_else(|error| Response::Error(format!("{error:#}")));
                // A client that went away is no error.
                let _ = call.reply.send(response);
            }
        }
    }
}
