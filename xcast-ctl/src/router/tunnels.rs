//! Keeps tunnels to other routers alive: the shell around [`tunnels`], which decides.

use std::{
    collections::HashMap,
    future,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tracing::{debug, info, warn};
use xcast_common::maps::{Tunnel as OuterHeaders, TunnelCookies, TunnelPeer};
use xcast_host::CodePoints;
use xcast_overlay::{
    backbone::{
        cookie::cookie,
        discovery::{Standing, Timing},
        tunnels::{self, Carriage, Mode, Way},
    },
    runtime::Random,
};

pub(super) use super::tunnel_frames::Heard;
use super::tunnel_frames::{filter, parse, probe};
use crate::{
    config::{Config, Secret},
    datapath::{Datapath, DatapathError},
    kernel::{self, PacketSocket},
    report,
    sync::{Edit, KernelEvent, Outer, RouteSync, TunnelSpec, tunnel_index},
};

/// Tunnels to other routers, and what is known of them.
pub(super) struct Tunnels {
    code_points: CodePoints,
    udp_port: Option<u16>,
    list: Vec<Tunnel>,
    state: tunnels::Tunnels<usize>,
    /// Absent if there are no tunnels, or none can be asked.
    socket: Option<PacketSocket>,
}

struct Tunnel {
    spec: TunnelSpec,
    modes: &'static [Mode],
    key: Secret,
    previous_key: Option<Secret>,
    /// What arrives by it.
    peer: Option<TunnelPeer>,
}

impl Tunnels {
    /// Opens what probes need, within a tokio runtime. If that cannot be had, no tunnel is used.
    ///
    /// # Errors
    ///
    /// A key cannot be read any more.
    pub(super) fn start(config: &Config) -> Result<Self> {
        let mut list = Vec::new();
        let mut state = tunnels::Tunnels::new(Timing::default(), random()?);
        for (number, tunnel) in config.tunnels.iter().enumerate() {
            let (key, previous_key) = tunnel.keys()?;
            // Without a port there is no UDP.
            let usable = tunnel.mode.modes().iter();
            let is_usable = |mode: &&Mode| **mode == Mode::Ip || config.udp.is_some();
            let modes: Vec<Mode> = usable.filter(is_usable).copied().collect();
            state.add(Instant::now(), number, tunnel.remote.is_ipv6(), &modes);
            list.push(Tunnel {
                spec: TunnelSpec {
                    name: tunnel.name.clone(),
                    remote: tunnel.remote,
                    local: tunnel.local,
                    destinations: tunnel.destinations.clone(),
                    kernel_device: tunnel.kernel_device.clone(),
                },
                modes: tunnel.mode.modes(),
                key,
                previous_key,
                peer: None,
            });
        }
        let socket = (!list.is_empty()).then(|| PacketSocket::open(&mut filter()));
        let socket = socket
            .transpose()
            .context("no tunnel can be asked, so none is used: CAP_NET_RAW is needed")
            .unwrap_or_else(|error| {
                warn!("{error:#}");
                None
            });
        Ok(Self {
            code_points: config.code_points,
            udp_port: config.udp.as_ref().map(|udp| udp.port.get()),
            list,
            state,
            socket,
        })
    }

    /// What routes have to know.
    pub(super) fn specs(&self) -> Vec<TunnelSpec> {
        self.list.iter().map(|tunnel| tunnel.spec.clone()).collect()
    }

    /// Writes what the datapath has to know of a tunnel whose address of this router is known now.
    pub(super) fn write(
        &mut self,
        tunnel: usize,
        local: IpAddr,
        macs: [u8; 12],
        datapath: &mut Datapath,
    ) -> Result<(), DatapathError> {
        let udp_port = self.udp_port;
        let Some(known) = self.list.get_mut(tunnel) else {
            return Ok(());
        };
        for mode in Mode::ALL {
            if let Some(headers) = known.headers(local, macs, mode, udp_port) {
                datapath.set_tunnel(tunnel_index(tunnel, mode), headers)?;
            }
        }
        let arriving =
            |key: &Secret| u64::from_ne_bytes(cookie(key.octets(), known.spec.remote, local));
        let new = arriving(&known.key);
        let cookies = [new, known.previous_key.as_ref().map_or(new, arriving)];
        let peer = TunnelPeer::new(known.spec.remote, local);
        datapath.set_tunnel_peer(peer, Some(TunnelCookies { cookies }))?;
        if let Some(old) = known.peer.replace(peer).filter(|old| *old != peer) {
            datapath.set_tunnel_peer(old, None)?;
        }
        Ok(())
    }

    /// A tunnel whose neighbour's link-layer address became known may work again.
    pub(super) fn note(&mut self, event: &KernelEvent) {
        if let KernelEvent::Neighbour(neighbour) = event
            && neighbour.resolved().is_some()
        {
            for (number, tunnel) in self.list.iter().enumerate() {
                let is_proven = self.state.carriage(number).mode.is_some();
                if tunnel.spec.remote == neighbour.address && !is_proven {
                    self.state.hurry(Instant::now(), number);
                }
            }
        }
    }

    /// Waits until something is heard, or something is due. Nothing is lost if this is cancelled.
    pub(super) async fn wait(&self) -> Option<Heard> {
        let Some(socket) = &self.socket else {
            return future::pending().await;
        };
        let due = self.state.poll_timeout();
        // A moment that never comes, unless there is one.
        let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => return None,
                frame = socket.receive() => match frame {
                    Ok(frame) => match parse(&frame, self.udp_port.unwrap_or(0)) {
                        Some(heard) => return Some(heard),
                        None => continue,
                    },
                    Err(error) => {
                        warn!("cannot receive what tunnels answer: {error}");
                        tokio::time::sleep_until(due.into()).await;
                        return None;
                    }
                },
            }
        }
    }

    /// Goes by what was heard, does what is due, and tells `sync` which tunnels carry traffic from now on.
    pub(super) fn advance(
        &mut self,
        heard: Option<Heard>,
        sync: &mut RouteSync,
        edits: &mut Vec<Edit>,
    ) {
        let now = Instant::now();
        match heard {
            Some(Heard::Answer(nonce)) => drop(self.state.returned(now, &nonce)),
            Some(Heard::TooBig {
                source,
                destination,
                mtu_bytes,
            }) => {
                for number in 0..self.list.len() {
                    let is_it = self.list[number].spec.remote == destination
                        && sync.outer(number).is_ok_and(|outer| outer.local == source);
                    if is_it {
                        self.state.too_big(now, number, mtu_bytes);
                    }
                }
            }
            None => {}
        }
        self.state.handle_timeout(now);
        while let Some(due) = self.state.poll_probe() {
            let (number, mode) = due.neighbour;
            if let Ok(outer) = sync.outer(number)
                && let Err(error) = self.send(number, mode, &outer, &due.nonce)
            {
                debug!(
                    "cannot ask tunnel {}: {error:#}",
                    self.list[number].spec.name
                );
            }
        }
        while let Some((number, carriage)) = self.state.poll_change() {
            self.tell(number, carriage);
            sync.set_carriage(number, carriage, edits);
        }
    }

    fn send(&self, number: usize, mode: Mode, outer: &Outer, nonce: &[u8; 8]) -> Result<()> {
        let tunnel = &self.list[number];
        let socket = self.socket.as_ref().context("no packet socket")?;
        let headers = tunnel
            .headers(outer.local, outer.macs(), mode, self.udp_port)
            .context("no such headers")?;
        let ends = (outer.local, tunnel.spec.remote);
        let frame = probe(&self.code_points, ends, &headers, nonce)
            .context("no code points of the family")?;
        socket.send(outer.neighbour.0, &frame)?;
        Ok(())
    }

    fn tell(&self, number: usize, carriage: Carriage) {
        let name = &self.list[number].spec.name;
        match carriage.mode {
            Some(mode) => {
                let mtu = carriage.mtu_bytes;
                let mtu = mtu.map(|mtu| format!(", {mtu} octets at most on the path"));
                info!(
                    "tunnel {name} works: {}{}",
                    mode_name(mode),
                    mtu.unwrap_or_default()
                );
            }
            None => info!("tunnel {name} does not work: nothing comes back from the other router"),
        }
    }

    /// For the `tunnels` verb.
    pub(super) fn report(&self, sync: &RouteSync) -> Vec<report::Tunnel> {
        let now = Instant::now();
        let mut ways: HashMap<usize, Vec<Way<usize>>> = HashMap::new();
        for way in self.state.ways(now) {
            ways.entry(way.neighbour.0).or_default().push(way);
        }
        let row = |(number, tunnel): (usize, &Tunnel)| {
            let ways = ways.remove(&number).unwrap_or_default();
            self.row(number, tunnel, &ways, sync)
        };
        self.list.iter().enumerate().map(row).collect()
    }

    fn row(
        &self,
        number: usize,
        tunnel: &Tunnel,
        ways: &[Way<usize>],
        sync: &RouteSync,
    ) -> report::Tunnel {
        let outer = sync.outer(number);
        let carriage = self.state.carriage(number);
        let in_use = ways
            .iter()
            .find(|way| carriage.mode == Some(way.neighbour.1));
        let outer_mtu = outer.ok().map(|outer| outer.entry.mtu_bytes);
        let path_mtu = match (outer_mtu, carriage.mtu_bytes) {
            (Some(link), Some(path)) => Some(link.min(path)),
            (link, path) => link.or(path),
        };
        let overhead = carriage.mode.map(|mode| {
            OuterHeaders::overhead(tunnel.spec.remote.is_ipv6(), mode == Mode::Udp) as u16
        });
        let working = carriage.mode.is_some() && outer.is_ok();
        report::Tunnel {
            name: tunnel.spec.name.clone(),
            remote: tunnel.spec.remote,
            local: outer.ok().map(|outer| outer.local).or(tunnel.spec.local),
            device: outer.ok().map(|outer| sync.link_name(outer.neighbour.0)),
            working,
            mode: carriage
                .mode
                .filter(|_| working)
                .map(|mode| mode_name(mode).to_owned()),
            why: self.why(tunnel, outer.err().map(|no_way| no_way.to_string()), ways),
            round_trip_us: in_use
                .and_then(|way| way.round_trip)
                .map(|time| time.as_micros().try_into().unwrap_or(u64::MAX)),
            proven_ms_ago: ways
                .iter()
                .filter_map(|way| way.proven_ago)
                .min()
                .map(|time| time.as_millis().try_into().unwrap_or(u64::MAX)),
            path_mtu,
            mtu: path_mtu
                .zip(overhead)
                .map(|(path, overhead)| path.saturating_sub(overhead)),
            ways: ways.iter().map(way_row).collect(),
            destinations: tunnel.spec.destinations.clone(),
        }
    }

    fn why(&self, tunnel: &Tunnel, no_way: Option<String>, ways: &[Way<usize>]) -> String {
        if let Some(no_way) = no_way {
            return no_way;
        }
        if self.socket.is_none() {
            return "this router cannot ask: CAP_NET_RAW is needed".to_owned();
        }
        let stands = |standing| ways.iter().any(|way| way.standing == standing);
        let of = |mode| ways.iter().find(|way| way.neighbour.1 == mode);
        if stands(Standing::Proven) {
            let ip = of(Mode::Ip).map(|way| way.standing);
            return match ip {
                Some(Standing::Silent | Standing::Lost) => {
                    "it answers inside UDP; IP in IP does not pass".to_owned()
                }
                _ => "it answers probes".to_owned(),
            };
        }
        if stands(Standing::OnTrial) {
            return "it begins to answer again".to_owned();
        }
        if stands(Standing::Lost) {
            return "it answered, but no more".to_owned();
        }
        if stands(Standing::Silent) {
            let udp = match self.udp_port {
                Some(port) if tunnel.modes.contains(&Mode::Udp) => format!(" and udp.port {port}"),
                _ => String::new(),
            };
            return format!(
                "it never answered: is there a router at {}, with the same key{udp}, this one as its remote, and does \
                 it answer ping?",
                tunnel.spec.remote
            );
        }
        "it was not asked yet".to_owned()
    }
}

impl Tunnel {
    /// The outer headers of what is sent.
    fn headers(
        &self,
        local: IpAddr,
        macs: [u8; 12],
        mode: Mode,
        udp_port: Option<u16>,
    ) -> Option<OuterHeaders> {
        let remote = self.spec.remote;
        let port = match mode {
            Mode::Ip => None,
            Mode::Udp => Some(udp_port?),
        };
        let cookie = cookie(self.key.octets(), local, remote);
        OuterHeaders::new(local, remote, port, cookie, macs)
    }
}

fn random() -> Result<Random> {
    let mut seed = [0; 32];
    for octets in seed.chunks_exact_mut(8) {
        octets.copy_from_slice(&kernel::random()?.to_ne_bytes());
    }
    Ok(Random::new(seed))
}

fn way_row(way: &Way<usize>) -> report::TunnelWay {
    report::TunnelWay {
        mode: mode_name(way.neighbour.1).to_owned(),
        standing: match way.standing {
            Standing::Proven => "proven",
            Standing::New => "new",
            Standing::Silent => "silent",
            Standing::Lost => "lost",
            Standing::OnTrial => "on trial",
        }
        .to_owned(),
        probes_sent: way.sent,
        probes_returned: way.returned,
        losses: way.losses,
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Ip => "ip",
        Mode::Udp => "udp",
    }
}
