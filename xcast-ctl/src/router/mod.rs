//! The router: one event loop that owns everything.
//!
//! Kernel events come in from netlink, go through [`RouteSync`](crate::sync::RouteSync), and leave
//! as edits to the datapath's maps. The same loop attaches `ports` as their interfaces come and
//! go, has device maps made for the sets of ports that traffic asks for, and gives `answers`.
//! Nothing that arrives while it runs ends it: what cannot be done is logged and shown, and the rest
//! goes on.
//!
//! `discovery` asks gateways whether they speak Xcast. `state` is what the loop owns. [`resolver`] talks to the kernel about gateways beside the
//! loop.

mod answers;
mod discovery;
mod explain;
mod own_interface;
mod pending;
mod ports;
pub mod resolver;
mod sources;
mod state;
mod survey;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use rtnetlink::Handle;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc},
    time::{Duration, MissedTickBehavior, interval},
};
use tracing::{info, warn};

use self::{resolver::Resolver, state::Router};
use crate::{
    config::Config,
    control::{self, Call, Request, Response},
    datapath::{
        generation::Generation,
        pin::Pins,
        rings::{DropLog, Following, Misses},
        veth::VethPair,
    },
    kernel::local_port,
    sync::{KernelEvent, Netlink, NetlinkOptions},
};

/// How often the loop looks for what no event tells: whether ports can send XDP frames, and which
/// neighbours packets use.
const TICK: Duration = Duration::from_secs(1);
/// Questions that may wait for an answer.
const CALLS: usize = 16;

/// What a router is started with.
#[derive(Debug)]
pub struct Start {
    /// Its configuration.
    pub config: Config,
    /// Where that was read, and is read again on SIGHUP.
    pub path: PathBuf,
    /// On SIGTERM and SIGINT, leave everything attached and forwarding, whatever the configuration says.
    pub keep: bool,
}

/// Runs the router until SIGTERM, SIGINT or a request to stop; calls `ready` once, with a summary,
/// when every copy of the configuration can be made. `server` is bound already: its
/// name is what keeps a second router out of this network namespace.
///
/// Programs that a predecessor left are replaced without a packet lost. SIGHUP reads the configuration again,
/// and other signals that would end a process are ignored.
///
/// # Errors
///
/// Fails only while starting: no privilege, a kernel that refuses the programs, an interface in
/// the way.
pub async fn run(start: Start, server: control::Server, ready: impl FnOnce(&str)) -> Result<()> {
    let mut signals = Signals::handle()?;
    let (connection, links, _) = rtnetlink::new_connection().context("cannot open netlink")?;
    tokio::spawn(connection);
    let (calls_in, mut calls) = mpsc::channel(CALLS);
    tokio::spawn(server.serve(calls_in));

    let mut running = Running::start(&start.config, &links).await?;
    let had_predecessor = running.router.datapath.generation().has_predecessor();
    let outcome = serve(
        &start,
        &links,
        &mut running,
        &mut signals,
        &mut calls,
        ready,
    )
    .await;
    let router = running.router;
    let keep = match outcome {
        Ok(Ending::Keep) => true,
        Ok(Ending::Detach) => false,
        // What the predecessor left still forwards.
        Err(_) => !router.ready && had_predecessor,
    };
    if keep {
        router.resolver.abandon();
    } else {
        let name = &router.config.router.interface;
        let peer = router.config.router.datapath_interface();
        router.resolver.stop().await;
        router.datapath.end();
        // Or it would make the pair again.
        drop(router.own_interface);
        if let Err(error) = VethPair::remove(&links, name, &peer).await {
            warn!("{error:#}");
        }
        running.reserved.iter().copied().for_each(give_back);
    }
    outcome.map(drop)
}

/// Keeps the port of Xcast inside UDP from programs that ask for any port: XDP would take the answers
/// they wait for. True if it was not kept before.
fn keep_from_others(port: u16) -> bool {
    local_port::reserve(port).unwrap_or_else(|error| {
        warn!("cannot put UDP port {port} into ip_local_reserved_ports: {error}");
        false
    })
}

/// Lets other programs have the port again.
fn give_back(port: u16) {
    if let Err(error) = local_port::release(port) {
        warn!("cannot take UDP port {port} out of ip_local_reserved_ports: {error}");
    }
}

/// How a router ends.
enum Ending {
    /// The programs are detached, and everything is removed that it made.
    Detach,
    /// Everything stays, and forwards.
    Keep,
}

/// What signals ask for.
enum Asked {
    End,
    Reload,
    Nothing,
}

/// The signals that a router handles.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    ignored: [Signal; 3],
}

impl Signals {
    fn handle() -> Result<Self> {
        let handle = |kind| signal(kind).context("cannot handle signals");
        Ok(Self {
            terminate: handle(SignalKind::terminate())?,
            interrupt: handle(SignalKind::interrupt())?,
            hangup: handle(SignalKind::hangup())?,
            ignored: [
                handle(SignalKind::quit())?,
                handle(SignalKind::user_defined1())?,
                handle(SignalKind::user_defined2())?,
            ],
        })
    }

    async fn next(&mut self) -> Asked {
        let [quit, first, second] = &mut self.ignored;
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hangup.recv() => Asked::Reload,
            _ = quit.recv() => Asked::Nothing,
            _ = first.recv() => Asked::Nothing,
            _ = second.recv() => Asked::Nothing,
        }
    }
}

/// A router, and what it waits for.
struct Running {
    router: Router,
    events: mpsc::Receiver<Vec<KernelEvent>>,
    misses: Misses,
    settling: Arc<Notify>,
    /// The UDP port that it reserved.
    reserved: Option<u16>,
    /// Writes what the programs log for as long as it lives.
    _drop_log: Option<Following>,
    /// Follows the kernel for as long as it lives.
    _netlink: Netlink,
}

impl Running {
    /// Loads the programs and begins to follow the kernel.
    async fn start(config: &Config, links: &Handle) -> Result<Self> {
        let name = &config.router.interface;
        let peer = config.router.datapath_interface();
        let ipv6 = config.code_points.ipv6.is_some();
        let udp_port = config.udp.as_ref().map(|udp| udp.port.get());
        let pair = VethPair::create(links, name, &peer, config.router.address, ipv6).await?;
        let pins = Pins::open(name)
            .inspect_err(|error| warn!("forwarding will end with this process: {error:#}"))
            .ok();
        let mut owned = None;
        let outcome = async {
            let generation = Generation::next(pins)?;
            owned = Some(generation.has_predecessor());
            let resolver = Resolver::start(links.clone());
            let mut router = Router::start(config, &pair, resolver, generation)?;
            let (netlink, events) = Netlink::start(NetlinkOptions::default())
                .context("cannot follow the kernel's routes")?;
            Ok(Self {
                _drop_log: router.datapath.take_drop_log().map(DropLog::follow),
                events,
                misses: router.datapath.take_misses()?,
                settling: router.datapath.settling(),
                reserved: udp_port.filter(|port| keep_from_others(*port)),
                router,
                _netlink: netlink,
            })
        }
        .await;
        // A predecessor's stays, for it forwards.
        if outcome.is_err() && owned == Some(false) {
            if let Ok(pins) = Pins::open(name) {
                pins.clear();
            }
            if let Err(error) = VethPair::remove(links, name, &peer).await {
                warn!("{error:#}");
            }
        }
        outcome
    }

    /// Waits until something happens, and acts. Nothing is lost if this is cancelled.
    async fn step(&mut self) -> Result<()> {
        tokio::select! {
            events = self.events.recv() => {
                let events = events.context("lost the connection to the kernel's routes")?;
                self.router.take_in(events);
            }
            keys = self.misses.next() => {
                let keys = keys.context("cannot poll a BPF ring")?;
                self.router.datapath.install_subsets(keys);
            }
            () = self.settling.notified() => self.router.look_at_ports(),
            () = self.router.ports.surveyor.changed() => self.router.look_at_ports(),
            pair = self.router.own_interface.replaced() => self.router.replace_pair(&pair),
            returned = self.router.discovery.wait() => self.router.discover(returned),
        }
        self.router.advance()
    }

    /// The same, until it has taken over from a predecessor.
    async fn take_over(&mut self) -> Result<()> {
        while !self.router.ready {
            self.step().await?;
        }
        Ok(())
    }
}

/// The loop. It ends when it is asked to, or when nobody can ask any more.
async fn serve(
    start: &Start,
    links: &Handle,
    running: &mut Running,
    signals: &mut Signals,
    calls: &mut mpsc::Receiver<Call>,
    ready: impl FnOnce(&str),
) -> Result<Ending> {
    let mut ready = Some(ready);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            stepped = running.step() => {
                stepped?;
                if running.router.ready && let Some(ready) = ready.take() {
                    ready(&running.router.summary());
                }
            }
            _ = tick.tick() => {
                running.router.live_on();
                running.router.ports.surveyor.ask();
                running.router.tend();
            }
            asked = signals.next() => match asked {
                Asked::Nothing => {}
                Asked::End if start.keep || running.router.config.router.keep => {
                    return Ok(Ending::Keep);
                }
                Asked::End => return Ok(Ending::Detach),
                Asked::Reload => {
                    if let Err(error) = reload(&start.path, links, running).await {
                        warn!("the configuration stays as it was: {error:#}");
                    }
                }
            },
            call = calls.recv() => {
                let Some(call) = call else { return Ok(Ending::Detach) };
                let response = running
                    .router
                    .answer(&call.request)
                    .unwrap_or_else(|error| Response::Error(format!("{error:#}")));
                let stopping = response == Response::Stopping;
                // A client that went away is no error.
                let _ = call.reply.send(response);
                match call.request {
                    Request::Stop if stopping => return Ok(Ending::Detach),
                    Request::Leave if stopping => return Ok(Ending::Keep),
                    _ => {}
                }
            }
        }
    }
}

/// Has a new generation take over that is configured as the file says by now. The old one forwards until then, and goes
/// on if that fails.
async fn reload(path: &Path, links: &Handle, running: &mut Running) -> Result<()> {
    let config = Config::load(path)?;
    let old = &running.router;
    if config.router.interface != old.config.router.interface {
        bail!("router.interface cannot be changed while the router runs: restart it");
    }
    if !old.ready || !old.datapath.generation().is_pinned() {
        bail!("nothing is pinned that another generation could take over: restart the router");
    }
    let mut new = Running::start(&config, links).await?;
    new.take_over().await?;
    let old = std::mem::replace(running, new);
    if let Some(port) = old.reserved {
        match running.router.config.udp.as_ref() {
            Some(udp) if udp.port.get() == port => running.reserved = Some(port),
            _ => give_back(port),
        }
    }
    old.router.resolver.abandon();
    info!("the configuration was read again");
    Ok(())
}
