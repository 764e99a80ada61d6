//! A testbed of six routers and eight hosts, whose links are counted.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tests::{
    daemon::{self, PATIENCE},
    family::Family,
    layout::{GROUP, PORTS_OPTION, PROTOCOL},
    namespace::Namespace,
};
use xcast_host::{CodePoints, Ipv6CodePoints, Uplink};
use xcast_overlay::net::{Driver, Fanout, Settings};
use xcast_sim::replay::{Bed, Crossed, Replay, replay};
use xtask::testbed::{Options, RouterConfig, Routing, Testbed, Topology, Traffic};

use super::script::{Overlay, play};

/// Testbeds so far: tests run side by side.
static NUMBER: AtomicU32 = AtomicU32::new(0);
/// The UDP port at which routers take Xcast packets.
const ROUTER_PORT: u16 = 4242;

/// Five routers in a ring, so that there is one shortest path for each pair, and a sixth behind one of
/// them; two hosts at most of them.
fn topology() -> Result<Topology> {
    Topology::from_toml(
        "replay",
        r#"
        hosts = ["A", "B", "C", "D", "E", "F", "G", "H"]
        routers = ["R1", "R2", "R3", "R4", "R5", "R6"]
        link = [
            { ends = ["R1", "R2"] }, { ends = ["R2", "R3"] }, { ends = ["R3", "R4"] },
            { ends = ["R4", "R5"] }, { ends = ["R5", "R1"] }, { ends = ["R3", "R6"] },
            { ends = ["A", "R1"] }, { ends = ["B", "R1"] }, { ends = ["C", "R2"] },
            { ends = ["D", "R4"] }, { ends = ["E", "R5"] }, { ends = ["F", "R6"] },
            { ends = ["G", "R6"] }, { ends = ["H", "R3"] },
        ]"#,
    )
}

/// Which routers speak Xcast.
pub struct Deployment {
    pub capable: &'static [&'static str],
    /// The router that each host sends to, by the host's name.
    pub router_of: fn(&str) -> &'static str,
}

pub const FULL: Deployment = Deployment {
    capable: &["R1", "R2", "R3", "R4", "R5", "R6"],
    router_of: |host| match host {
        "A" | "B" => "R1",
        "C" => "R2",
        "D" => "R4",
        "E" => "R5",
        "H" => "R3",
        _ => "R6",
    },
};

/// Half of them: the others forward unicast only, and hosts behind them send to one further on.
pub const HALF: Deployment = Deployment {
    capable: &["R1", "R3", "R4"],
    router_of: |host| match host {
        "A" | "B" | "E" => "R1",
        "D" => "R4",
        _ => "R3",
    },
};

/// A testbed that is up, with the routers of a deployment.
pub struct Stage {
    pub family: Family,
    deployment: &'static Deployment,
    testbed: Testbed,
}

fn code_points() -> Result<CodePoints> {
    let ipv6 = Ipv6CodePoints {
        group: "ff02::114".parse()?,
        routing_type: PROTOCOL,
        ports_option: PORTS_OPTION,
    };
    Ok(CodePoints::new(PROTOCOL, GROUP)?.with_ipv6(ipv6)?)
}

impl Stage {
    pub fn up(deployment: &'static Deployment, family: Family) -> Result<Self> {
        let options = Options {
            routing: Routing::Static,
            quiet: true,
            ..Options::named(&format!(
                "xct-{}-replay{}",
                std::process::id(),
                NUMBER.fetch_add(1, Ordering::Relaxed)
            ))
        };
        let testbed = Testbed::up(&topology()?, &options)?;
        let mut stage = Self {
            family,
            deployment,
            testbed,
        };
        for router in deployment.capable {
            let config = stage.router_config(router)?;
            stage
                .testbed
                .start_router(router, daemon::program(), &config)?;
        }
        stage.warm_up()?;
        Ok(stage)
    }

    fn router_config(&self, router: &str) -> Result<RouterConfig> {
        let udp = [("port".to_owned(), i64::from(ROUTER_PORT).into())];
        let mut config = RouterConfig {
            udp: Some(udp.into_iter().collect()),
            ..RouterConfig::default()
        };
        // Neighbours that speak Xcast, by their addresses on the links to this one.
        let mut gateways: Vec<toml::Value> = Vec::new();
        for neighbour in self.deployment.capable {
            if let Ok(interface) = self.testbed.interface(neighbour, router) {
                let ipv4 = interface.address.map(IpAddr::from);
                let ipv6 = interface.address6.map(IpAddr::from);
                let both = ipv4.into_iter().chain(ipv6);
                gateways.extend(both.map(|address| address.to_string().into()));
            }
        }
        config.router.insert("gateways".to_owned(), gateways.into());
        Ok(config)
    }

    fn address(&self, node: &str) -> Result<IpAddr> {
        let node = self.testbed.node(node)?;
        let address = match self.family {
            Family::Ipv4 => node.address.map(IpAddr::V4),
            Family::Ipv6 => node.address6.map(IpAddr::V6),
        };
        address.context("no address")
    }

    fn hosts(&self) -> Vec<String> {
        let hosts = self.testbed.plan().with_role(xtask::testbed::Role::Host);
        hosts.map(|node| node.name.clone()).collect()
    }

    /// Makes everyone know link layer addresses: a message from each host to each. They are never
    /// asked for again on a quiet testbed.
    fn warm_up(&self) -> Result<()> {
        let any = match self.family {
            Family::Ipv4 => "0.0.0.0:0",
            Family::Ipv6 => "[::]:0",
        };
        let hosts = self.hosts();
        let mut receivers = Vec::new();
        for host in &hosts {
            let to = SocketAddr::new(self.address(host)?, 9999);
            let socket = self.namespace(host)?.enter(|| {
                let socket = std::net::UdpSocket::bind(to)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                Ok(socket)
            })?;
            receivers.push((to, socket));
        }
        for host in &hosts {
            let from = self
                .namespace(host)?
                .enter(|| Ok(std::net::UdpSocket::bind(any)?))?;
            for (to, socket) in &receivers {
                from.send_to(host.as_bytes(), to)?;
                let mut buffer = [0; 100];
                socket
                    .recv(&mut buffer)
                    .with_context(|| format!("{host} to {to}"))?;
            }
            // Routers' own addresses are asked for, too.
            for router in FULL.capable {
                let port = SocketAddr::new(self.address(router)?, 9998);
                from.send_to(b"warm", port)?;
            }
        }
        Ok(())
    }

    fn namespace(&self, node: &str) -> Result<Namespace> {
        Ok(Namespace::of(&self.testbed.node(node)?.namespace))
    }

    /// Counters of links after nothing has crossed them for a while.
    fn silence(&self) -> Result<Vec<Traffic>> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = self.testbed.traffic()?;
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(1500) {
            ensure!(Instant::now() < deadline, "the links do not fall silent");
            thread::sleep(Duration::from_millis(100));
            let now = self.testbed.traffic()?;
            if now != last {
                last = now;
                since = Instant::now();
            }
        }
        Ok(last)
    }

    /// Has nodes of an overlay do what its script says, each time anew: what they noted, and what the
    /// links counted meanwhile.
    pub fn played<O: Overlay>(&self) -> Result<(Vec<Fanout>, Vec<Traffic>)> {
        let before = self.silence()?;
        let mut log = Vec::new();
        for _ in 0..O::RUNS {
            log.extend(self.play::<O>()?);
        }
        let after = self.silence()?.into_iter();
        let counted = after.zip(before).map(|(after, before)| after - before);
        Ok((log, counted.collect()))
    }

    /// Runs a node on each host. Their notes.
    fn play<O: Overlay>(&self) -> Result<Vec<Fanout>> {
        let (notes, noted) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let hosts = self.hosts();
        let addresses = hosts
            .iter()
            .map(|host| Ok(SocketAddr::new(self.address(host)?, O::PORT)));
        let addresses = addresses.collect::<Result<Vec<_>>>()?;
        let mut drivers: Vec<Driver<O::Node>> = Vec::new();
        for (number, host) in hosts.iter().enumerate() {
            let router = self.address((self.deployment.router_of)(host))?;
            let uplink = Uplink::udp(code_points()?, SocketAddr::new(router, ROUTER_PORT));
            let mut settings = Settings::new(uplink);
            // Probes are not simulated.
            settings.sender.probing = None;
            settings.fanouts = Some(notes.clone());
            let local = addresses[number];
            let socket = self
                .namespace(host)?
                .enter(|| Ok(std::net::UdpSocket::bind(local)?))?;
            let enter = runtime.enter();
            let node = |now, random| O::node(number, &addresses, now, random);
            drivers.push(Driver::on(socket, settings, node)?);
            drop(enter);
        }
        drop(notes);
        runtime.block_on(play(&mut drivers, &O::script(&addresses)))?;
        // Nobody works any more, but sockets stay open until the links are silent: no ICMP.
        self.silence()?;
        drop(drivers);
        Ok(noted.into_iter().collect())
    }

    /// By way of JSON, as files have it.
    pub fn bed(&self) -> Result<Bed> {
        Ok(serde_json::from_str(&serde_json::to_string(
            self.testbed.plan(),
        )?)?)
    }

    /// What the simulator makes of notes, for each link.
    pub fn replayed(&self, log: &[Fanout]) -> Result<Vec<Crossed>> {
        let bed = self.bed()?;
        let log: Vec<_> = serde_json::from_str(&serde_json::to_string(log)?)?;
        let capable = self
            .deployment
            .capable
            .iter()
            .map(|name| (*name).to_owned());
        let settings = Replay {
            capable: Some(capable.collect()),
            bitmap: false,
        };
        Ok(replay(&bed, &settings, &log)?)
    }
}
