//! The router: one event loop that owns everything.
//!
//! Kernel events come in from netlink, go through [`RouteSync`](crate::sync::RouteSync), and leave
//! as edits to the datapath's maps. The same loop attaches [`ports`] as their interfaces come and
//! go, has device maps made for the sets of ports that traffic asks for, and gives [`answers`].
//! Nothing that arrives while it runs ends it: what cannot be done is logged and shown, and the rest
//! goes on.
//!
//! [`state`] is what the loop owns. [`resolver`] talks to the kernel about gateways beside the
//! loop.

mod answers;
mod explain;
mod ports;
pub mod resolver;
mod state;

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Duration, MissedTickBehavior, interval},
};
use tracing::{debug, warn};
use xcast_common::maps::SubsetKey;

use self::{resolver::Resolver, state::Router};
use crate::{
    config::Config,
    control::{self, Call, Request, Response},
    datapath::{drops::DropLog, pair::Pair},
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
    let pair = Pair::create(&links, &name, &peer, config.router.address, ipv6).await?;
    let outcome = async {
        let mut router = Router::start(&config, &pair, Resolver::start(links.clone()))?;
        let (_netlink, events) = Netlink::start(NetlinkOptions::default())
            .context("cannot follow the kernel's routes")?;
        if let Some(log) = router.datapath.take_drop_log() {
            tokio::spawn(follow(log));
        }
        let misses = poll_on(router.datapath.take_misses()?).context("cannot poll a BPF ring")?;
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
    if let Err(error) = Pair::remove(&links, &name).await {
        warn!("{error:#}");
    }
    outcome
}

/// What the loop waits for.
struct Inputs {
    events: mpsc::Receiver<Vec<KernelEvent>>,
    misses: AsyncFd<RingBuf<MapData>>,
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
            guard = inputs.misses.readable_mut() => {
                let mut guard = guard.context("cannot poll a BPF ring")?;
                let keys = drain(guard.get_inner_mut());
                guard.clear_ready();
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

/// Has the event loop wait for a BPF ring.
fn poll_on<T: AsFd + AsRawFd>(ring: T) -> std::io::Result<AsyncFd<T>> {
    // SAFETY: rings own their file descriptor, always name the same one, and are owned by the
    // `AsyncFd` from here on: it is deregistered before it is closed.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(Into::into)
}

/// Shows the programs' log as long as the router runs.
async fn follow(log: DropLog) {
    let Ok(mut log) = poll_on(log) else {
        return;
    };
    while let Ok(mut guard) = log.readable_mut().await {
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}

/// The subsets that the programs reported since the last time.
fn drain(ring: &mut RingBuf<MapData>) -> Vec<SubsetKey> {
    let mut keys = Vec::new();
    while let Some(item) = ring.next() {
        let mut key = SubsetKey::EMPTY;
        if let Some(copies) = item.first_chunk() {
            key.copies = *copies;
            if !keys.contains(&key) {
                keys.push(key);
            }
        } else {
            debug!("a subset of {} octets was reported", item.len());
        }
    }
    keys
}
