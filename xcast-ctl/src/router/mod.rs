//! The router: one event loop that owns everything.
//!
//! Kernel events come in from netlink, go through [`RouteSync`](crate::sync::RouteSync), and leave
//! as edits to the datapath's maps. The same loop attaches `ports` as their interfaces come and
//! go, has device maps made for the sets of ports that traffic asks for, and gives `answers`.
//! Nothing that arrives while it runs ends it: what cannot be done is logged and shown, and the rest
//! goes on.
//!
//! `discovery` asks gateways whether they speak Xcast. `tunnels` asks the other ends of tunnels whether they answer, by
//! frames from `tunnel_frames`. `relay` answers sources that ask to be served. `state` is what the loop owns.
//! [`resolver`] talks to the kernel about gateways beside the loop.

mod answers;
mod discovery;
mod explain;
mod own_interface;
mod passage;
mod pending;
mod ports;
mod probe;
mod relay;
pub mod resolver;
mod signals;
mod sources;
mod stacked;
mod state;
mod survey;
mod tunnel_frames;
mod tunnels;
mod udp_port;

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    rc::Rc,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use rtnetlink::Handle;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Duration, MissedTickBehavior, interval},
};
use tracing::{info, warn};

use self::{
    resolver::Resolver,
    signals::{Asked, Signals},
    state::Router,
};
use crate::{
    config::Config,
    control::{self, Call, Request, Response},
    datapath::{
        generation::{Generation, reserved},
        pin::Pins,
        rings::{DropLog, Following, Misses},
        veth::VethPair,
    },
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
    let (readers, told) = watch::channel(start.config.router.readers);
    tokio::spawn(server.serve(calls_in, told));

    let mut running = Running::start(&start.config, &links).await?;
    let had_predecessor = running.router.datapath.generation().has_predecessor();
    let outcome = serve(
        &start,
        &links,
        &mut running,
        &mut signals,
        &mut calls,
        &readers,
        ready,
    )
    .await;
    let mut router = running.router;
    let keep = match outcome {
        Ok(Ending::Keep) => true,
        Ok(Ending::Detach) => false,
        // What is pinned, here or by the predecessor, forwards as well as without a controller.
        Err(_) => had_predecessor || router.ready && router.datapath.generation().is_pinned(),
    };
    let outcome =
        match outcome {
            Err(error) if keep => Err(error
                .context("the controller ends, and forwarding goes on without it: start it again")),
            outcome => outcome,
        };
    if keep {
        router.resolver.abandon();
    } else {
        let name = &router.config.router.interface;
        let peer = router.config.router.datapath_interface();
        udp_port::give_back(router.datapath.generation_mut(), None);
        router.resolver.stop().await;
        // Or it would make the pair again.
        drop(router.own_interface);
        // Before the programs go, so that senders on this host are told, and nothing of theirs is lost.
        if let Err(error) = VethPair::remove(name, &peer) {
            warn!("{error:#}");
        }
        router.datapath.end();
    }
    outcome.map(drop)
}

/// How a router ends.
enum Ending {
    /// The programs are detached, and everything is removed that it made.
    Detach,
    /// Everything stays, and forwards.
    Keep,
}

/// A router, and what it waits for.
struct Running {
    router: Router,
    events: mpsc::Receiver<Vec<KernelEvent>>,
    misses: Misses,
    settling: Arc<Notify>,
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
        let pair = VethPair::create(links, name, &peer, config.router.address, ipv6).await?;
        let pins = Pins::open(name)
            .inspect_err(|error| warn!("forwarding will end with this process: {error:#}"))
            .ok();
        let mut owned = None;
        let outcome = async {
            let generation = Generation::next(pins)?;
            owned = Some(generation.has_predecessor());
            let resolver = Resolver::start(links.clone());
            let mut router = Router::start(config, &pair, resolver, generation).await?;
            let (netlink, events) = Netlink::start(NetlinkOptions::default())
                .context("cannot follow the kernel's routes")?;
            Ok(Self {
                _drop_log: router.datapath.take_drop_log().map(DropLog::follow),
                events,
                misses: router.datapath.take_misses()?,
                settling: router.datapath.settling(),
                router,
                _netlink: netlink,
            })
        }
        .await;
        // A predecessor's stays, for it forwards.
        if outcome.is_err() && owned == Some(false) {
            if let Ok(pins) = Pins::open(name) {
                reserved(&pins).into_iter().for_each(udp_port::release);
                pins.clear();
            }
            if let Err(error) = VethPair::remove(name, &peer) {
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
            () = self.settling.notified() => {
                self.router.take_attachments()?;
                self.router.look_at_ports();
            }
            () = self.router.ports.surveyor.changed() => self.router.look_at_ports(),
            change = self.router.own_interface.changed() => self.router.follow_pair(&change),
            returned = self.router.discovery.wait() => self.router.discover(returned),
            heard = self.router.tunnels.wait() => self.router.tend_tunnels(heard),
        }
        self.router.advance()
    }

    /// The same, until it has taken over from a predecessor. Says when it begins to.
    async fn take_over(&mut self, begins: &Notify) -> Result<()> {
        while !self.router.ready {
            self.step().await?;
            if self.router.has_begun() {
                begins.notify_one();
            }
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
    readers: &watch::Sender<Option<u32>>,
    ready: impl FnOnce(&str),
) -> Result<Ending> {
    let mut ready = Some(ready);
    let mut reload = Reload::default();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Once the next generation's programs run, nothing is to be put right here.
            stepped = running.step(), if !reload.has_begun => {
                stepped?;
                if running.router.ready && let Some(ready) = ready.take() {
                    running.router.tidy(links);
                    ready(&running.router.summary());
                }
            }
            progress = reload.progress() => {
                match progress {
                    None => continue,
                    Some(Ok(new)) => {
                        replace(running, new, links);
                        readers.send_replace(running.router.config.router.readers);
                    }
                    Some(Err(error)) => {
                        warn!("the configuration stays as it was: {error:#}");
                        running.router.expect_programs();
                    }
                }
                reload.go_on(&start.path, links, &running.router);
            }
            _ = tick.tick() => {
                running.router.live_on();
                running.router.ports.surveyor.ask();
                running.router.tend();
            }
            asked = signals.next() => match asked {
                Asked::End if start.keep || running.router.config.router.keep => {
                    return Ok(Ending::Keep);
                }
                Asked::End => return Ok(Ending::Detach),
                Asked::Reload => {
                    reload.ask();
                    reload.go_on(&start.path, links, &running.router);
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

/// A generation that is being made, configured as the file says by now, and whether another one is asked for.
#[derive(Default)]
struct Reload {
    new: Option<Pin<Box<dyn Future<Output = Result<Running>>>>>,
    /// Told when its programs begin to take the places of the old ones.
    begins: Rc<Notify>,
    has_begun: bool,
    is_asked: bool,
}

impl Reload {
    fn ask(&mut self) {
        self.is_asked = true;
    }

    /// Begins what was asked for, unless something is under way. The old generation forwards until the new one has
    /// taken over, and goes on if that fails.
    fn go_on(&mut self, path: &Path, links: &Handle, old: &Router) {
        if self.new.is_some() || !std::mem::take(&mut self.is_asked) {
            return;
        }
        match reloadable(path, old) {
            Ok(config) => {
                let (links, begins) = (links.clone(), Rc::new(Notify::new()));
                self.begins = Rc::clone(&begins);
                old.own_interface.expect_program(None);
                self.new = Some(Box::pin(async move {
                    let mut new = Running::start(&config, &links).await?;
                    match new.take_over(&begins).await {
                        Ok(()) => Ok(new),
                        Err(error) => {
                            // The gateways that it asked for are those of the generation that goes on.
                            new.router.resolver.abandon();
                            Err(error)
                        }
                    }
                }));
            }
            Err(error) => warn!("the configuration stays as it was: {error:#}"),
        }
    }

    /// Waits for the new generation; for ever, if none is under way. `None`: it begins to take over.
    async fn progress(&mut self) -> Option<Result<Running>> {
        let Some(new) = &mut self.new else {
            return std::future::pending().await;
        };
        let outcome = tokio::select! {
            biased;
            outcome = new => Some(outcome),
            () = self.begins.notified(), if !self.has_begun => None,
        };
        self.has_begun = outcome.is_none();
        if outcome.is_some() {
            self.new = None;
        }
        outcome
    }
}

/// The configuration as the file says by now, if another generation can go by it.
fn reloadable(path: &Path, old: &Router) -> Result<Config> {
    let config = Config::load(path)?;
    if config.router.interface != old.config.router.interface {
        bail!("router.interface cannot be changed while the router runs: restart it");
    }
    if !old.ready || !old.datapath.generation().is_pinned() {
        bail!("nothing is pinned that another generation could take over: restart the router");
    }
    Ok(config)
}

/// Goes on with the generation that has taken over.
fn replace(running: &mut Running, new: Running, links: &Handle) {
    let old = std::mem::replace(running, new);
    old.router.resolver.abandon();
    // Or it would put right what is no longer wanted.
    drop(old.router.own_interface);
    running.router.tidy(links);
    info!("the configuration was read again");
}
