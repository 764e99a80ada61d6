//! The router: one event loop that owns everything.
//!
//! Kernel events come in from netlink, go through [`RouteSync`], and leave as edits to the
//! datapath's maps. The same loop attaches ports as their interfaces come and go, hands subsets of
//! ports that traffic asked for to the keeper of device maps, and answers questions. Nothing that
//! arrives while it runs ends it: what cannot be done is logged and shown, and the rest goes on.

mod explain;
mod gateways;
mod ports;

use std::{
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Duration, MissedTickBehavior, interval},
};
use tracing::{debug, warn};
use xcast_common::maps::{
    FanoutKey, PORT_RECIRCULATE, PORT_STACK, PORT_TRUSTED, Port as PortEntry, PortCounters,
};

use self::{gateways::Gateways, ports::Ports};
use crate::{
    config::Config,
    control::{self, Call, Request, Response},
    datapath::{Datapath, DatapathError, drops::DropLog, pair::Pair},
    report,
    sync::{Edit, KernelEvent, Netlink, NetlinkOptions, RouteSync, SyncConfig},
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
        let mut router = Router::start(&config, &pair)?;
        let (calls_in, calls) = mpsc::channel(CALLS);
        tokio::spawn(server.serve(calls_in));
        let outcome = tokio::select! {
            outcome = router.run(calls, ready) => outcome,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        router.gateways.stop().await;
        outcome
    }
    .await;
    // The programs detached when the router was dropped.
    if let Err(error) = Pair::remove(&links, &name).await {
        warn!("{error:#}");
    }
    outcome
}

/// Everything the loop owns.
struct Router {
    config: Config,
    started: Instant,
    ready: bool,
    resyncs: u64,
    datapath: Datapath,
    sync: RouteSync,
    ports: Ports,
    gateways: Gateways,
    events: mpsc::Receiver<Vec<KernelEvent>>,
    misses: AsyncFd<RingBuf<MapData>>,
}

impl Router {
    fn start(config: &Config, pair: &Pair) -> Result<Self> {
        let settings = config.settings([random()?, random()?]);
        let mut datapath = Datapath::load(&settings, config.router.subsets, pair.macs)?;
        for peer in config.udp.iter().flat_map(|udp| &udp.peers) {
            for source in &peer.sources {
                datapath.allow_source(peer.address, *source)?;
            }
        }
        let port = |slot, flags, mac| PortEntry {
            slot,
            flags,
            mac,
            ..PortEntry::default()
        };
        let recirculate = port(PORT_RECIRCULATE, 0, pair.macs.destination);
        datapath.add_device(pair.host, recirculate)?;
        let stack = port(PORT_STACK, PORT_TRUSTED, pair.macs.source);
        datapath.add_device(pair.datapath, stack)?;

        let mut tables = SyncConfig::default().tables;
        tables.extend(&config.router.tables);
        let sync = RouteSync::new(SyncConfig {
            gateways: config.router.gateways.clone(),
            anycast: config.router.anycast.clone(),
            tables,
            ipv6: config.code_points.ipv6.is_some(),
        });
        let (netlink, events) = Netlink::start(NetlinkOptions::default())
            .context("cannot follow the kernel's routes")?;
        if let Some(log) = datapath.take_drop_log() {
            tokio::spawn(follow(log));
        }
        let misses = poll_on(datapath.take_misses()?).context("cannot poll a BPF ring")?;
        let mut router = Self {
            config: config.clone(),
            started: Instant::now(),
            ready: false,
            resyncs: 0,
            ports: Ports::new(&config.ports),
            datapath,
            sync,
            gateways: Gateways::start(Arc::new(netlink)),
            events,
            misses,
        };
        // The entries that are always there, before the first packet.
        let mut edits = Vec::new();
        router.sync.apply_all([], &mut edits);
        router.carry_out(edits);
        router
            .datapath
            .attach(PORT_STACK, pair.datapath)
            .with_context(|| format!("cannot attach to {}", config.router.datapath_interface()))?;
        Ok(router)
    }

    async fn run(
        &mut self,
        mut calls: mpsc::Receiver<Call>,
        ready: impl FnOnce(&str) -> Result<()>,
    ) -> Result<()> {
        let mut ready = Some(ready);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                events = self.events.recv() => {
                    let events = events.context("lost the connection to the kernel's routes")?;
                    self.take_in(events);
                    if self.ready && let Some(ready) = ready.take() {
                        self.datapath.wait_for_fanouts();
                        ready(&self.summary())?;
                    }
                }
                guard = self.misses.readable_mut() => {
                    let mut guard = guard.context("cannot poll a BPF ring")?;
                    let keys = drain(guard.get_inner_mut());
                    guard.clear_ready();
                    self.datapath.install_subsets(keys);
                }
                _ = tick.tick() => self.look_at_ports(),
                call = calls.recv() => {
                    let Some(call) = call else { return Ok(()) };
                    if call.request == Request::Stop {
                        let _ = call.reply.send(Response::Stopping);
                        return Ok(());
                    }
                    let response = self
                        .answer(&call.request)
                        .unwrap_or_else(|error| Response::Error(format!("{error:#}")));
                    // A client that went away is no error.
                    let _ = call.reply.send(response);
                }
            }
        }
    }

    /// Kernel events become edits; links that are ports come and go on the way.
    fn take_in(&mut self, events: Vec<KernelEvent>) {
        let mut edits = Vec::new();
        let links_changed = events.iter().any(|event| {
            matches!(
                event,
                KernelEvent::Link(_) | KernelEvent::LinkRemoved { .. } | KernelEvent::ResyncEnd
            )
        });
        let ended = events.contains(&KernelEvent::ResyncEnd);
        for event in &events {
            self.ports.note(event);
        }
        self.sync.apply_all(events, &mut edits);
        if links_changed && !self.sync.resyncing() {
            self.ports
                .reconcile(&mut self.datapath, &mut self.sync, &mut edits);
        }
        self.carry_out(edits);
        if ended {
            self.resyncs += u64::from(self.ready);
            self.ready = true;
        }
    }

    /// Ports whose drivers learned, or unlearned, to send XDP frames.
    fn look_at_ports(&mut self) {
        if self.sync.resyncing() {
            return;
        }
        let mut edits = Vec::new();
        self.ports
            .reconcile(&mut self.datapath, &mut self.sync, &mut edits);
        self.carry_out(edits);
    }

    fn carry_out(&mut self, edits: Vec<Edit>) {
        for edit in edits {
            if let Err(error) = self.carry_out_one(&edit) {
                warn!("{:#}; affected: {edit:?}", anyhow::Error::from(error));
            }
        }
        if let Err(error) = self.datapath.publish_routes() {
            warn!("{:#}; it is tried again", anyhow::Error::from(error));
        }
    }

    fn carry_out_one(&mut self, edit: &Edit) -> Result<(), DatapathError> {
        match *edit {
            Edit::NextHop { id, entry } => self.datapath.set_next_hop(id, entry),
            Edit::Ecmp { group, ref buckets } => self.datapath.set_ecmp(group, buckets),
            Edit::Route { prefix, next_hop } => self.datapath.set_route(prefix, Some(next_hop)),
            Edit::RemoveRoute { prefix } => self.datapath.set_route(prefix, None),
            Edit::OwnAddress { address, flags } => self.datapath.set_address(address, Some(flags)),
            Edit::RemoveOwnAddress { address } => self.datapath.set_address(address, None),
            Edit::Resolve { ifindex, gateway } => {
                self.gateways.resolve(ifindex, gateway);
                Ok(())
            }
            Edit::Release { ifindex, gateway } => {
                self.gateways.release(ifindex, gateway);
                Ok(())
            }
        }
    }

    fn answer(&self, request: &Request) -> Result<Response> {
        Ok(match request {
            Request::Status => Response::Status(self.status()),
            Request::Stats => Response::Stats(self.stats()?),
            Request::Routes { limit, ipv6 } => {
                let limit = limit.unwrap_or(usize::MAX);
                let of_family = |route: &report::Route| {
                    ipv6.is_none_or(|ipv6| route.prefix.addr().is_ipv6() == ipv6)
                };
                let routes = self.sync.routes().filter(of_family);
                Response::Routes(routes.take(limit).collect())
            }
            Request::NextHops => Response::NextHops(self.sync.next_hops().collect()),
            Request::Ports => Response::Ports(self.ports.report()),
            Request::Explain(request) => Response::Explain(explain::explain(
                request,
                &self.config,
                &self.sync,
                &self.ports,
                |subset| self.datapath.has_subset(subset),
            )?),
            Request::Stop => Response::Stopping,
        })
    }

    fn summary(&self) -> String {
        format!(
            "{} ports, {} routes, group {}, protocol {}",
            self.ports.attached(),
            self.sync.route_count(),
            self.config.code_points.group,
            self.config.code_points.protocol
        )
    }

    fn status(&self) -> report::Status {
        report::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ready: self.ready,
            interface: self.config.router.interface.clone(),
            protocol: self.config.code_points.protocol,
            group: self.config.code_points.group,
            ipv6: self.config.code_points.ipv6.map(Into::into),
            ports: self.ports.attached(),
            routes: self.sync.route_count(),
            next_hops: self.sync.next_hop_count(),
            subsets_installed: self.datapath.subsets_installed(),
            resyncs: self.resyncs,
            kernel: nix::sys::utsname::uname().map_or_else(
                |_| "unknown".to_owned(),
                |name| name.release().to_string_lossy().into_owned(),
            ),
            prune: crate::config::prune_name(self.config.router.prune).to_owned(),
            gateways: self.config.router.gateways.clone(),
            udp_port: self.config.udp.as_ref().map(|udp| udp.port.get()),
        }
    }

    fn stats(&self) -> Result<report::Stats> {
        let counters = self.datapath.counters()?;
        let values = |slot: u8| -> report::Counters {
            let zero = PortCounters::default();
            let counts = &counters.get(slot as usize).unwrap_or(&zero).counts;
            let mut values = [0; xcast_common::maps::counter::COUNT];
            for (value, count) in values.iter_mut().zip(counts) {
                *value = *count;
            }
            report::counters(&values)
        };
        let mut ports = vec![report::PortStats {
            name: self.config.router.interface.clone(),
            slot: PORT_STACK,
            ifindex: nix::net::if_::if_nametoindex(self.config.router.interface.as_str())
                .unwrap_or(0),
            counters: values(PORT_STACK),
            driver_drops: None,
        }];
        ports.extend(self.ports.stats(values));
        Ok(report::Stats::new(ports))
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
fn drain(ring: &mut RingBuf<MapData>) -> Vec<FanoutKey> {
    let mut keys = Vec::new();
    while let Some(item) = ring.next() {
        let mut key = FanoutKey::EMPTY;
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

/// A random number from the kernel.
fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    let mut file = std::fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    std::io::Read::read_exact(&mut file, &mut bytes).context("cannot read /dev/urandom")?;
    Ok(u64::from_ne_bytes(bytes))
}
