//! The simulator equals reality: what it makes of the senders' notes is what the interfaces counted.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    ops::Range,
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
    namespace::{self, Namespace},
};
use xcast_host::{CodePoints, Ipv6CodePoints, Uplink};
use xcast_overlay::{
    id::Id,
    kademlia::{Config, Event, Node},
    krpc,
    net::{Driver, Fanout, Settings},
    runtime::Random,
};
use xcast_sim::{
    address,
    fanout::Network,
    replay::{Bed, Crossed, Replay, replay},
    routing::{Routing as Routes, Ties},
    statistics::kolmogorov_smirnov,
    world::{Access, World, WorldSettings},
};
use xtask::testbed::{Options, RouterConfig, Routing, Testbed, Topology, Traffic};

const PORT: u16 = 6881;
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
struct Deployment {
    capable: &'static [&'static str],
    /// The router that each host sends to, by the host's name.
    router_of: fn(&str) -> &'static str,
}

const FULL: Deployment = Deployment {
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
const HALF: Deployment = Deployment {
    capable: &["R1", "R3", "R4"],
    router_of: |host| match host {
        "A" | "B" | "E" => "R1",
        "D" => "R4",
        _ => "R3",
    },
};

struct Run {
    family: Family,
    testbed: Testbed,
    log: Vec<Fanout>,
    counted: Vec<Traffic>,
}

fn code_points() -> Result<CodePoints> {
    let ipv6 = Ipv6CodePoints {
        group: "ff02::114".parse()?,
        routing_type: PROTOCOL,
        ports_option: PORTS_OPTION,
    };
    Ok(CodePoints::new(PROTOCOL, GROUP)?.with_ipv6(ipv6)?)
}

impl Run {
    /// Nodes join and look each other up; what they noted, and what the links counted meanwhile.
    fn of(deployment: &Deployment, family: Family) -> Result<Self> {
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
        let mut run = Self {
            family,
            testbed,
            log: Vec::new(),
            counted: Vec::new(),
        };
        for router in deployment.capable {
            let config = run.router_config(deployment, router)?;
            run.testbed
                .start_router(router, daemon::program(), &config)?;
        }
        run.warm_up()?;
        let before = run.silence()?;
        let nodes = run.nodes(deployment)?;
        let after = run.silence()?;
        run.log = nodes;
        run.counted = after
            .into_iter()
            .zip(before)
            .map(|(after, before)| after - before)
            .collect();
        Ok(run)
    }

    fn router_config(&self, deployment: &Deployment, router: &str) -> Result<RouterConfig> {
        let udp = [("port".to_owned(), i64::from(ROUTER_PORT).into())];
        let mut config = RouterConfig {
            udp: Some(udp.into_iter().collect()),
            ..RouterConfig::default()
        };
        // Neighbours that speak Xcast, by their addresses on the links to this one.
        let mut gateways: Vec<toml::Value> = Vec::new();
        for neighbour in deployment.capable {
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

    /// Runs a node on each host until each has joined and looked something up. Their notes.
    fn nodes(&self, deployment: &Deployment) -> Result<Vec<Fanout>> {
        let (notes, noted) = mpsc::channel();
        let hosts = self.hosts();
        let mut drivers = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let first = SocketAddr::new(self.address(&hosts[0])?, PORT);
        for host in &hosts {
            let local = SocketAddr::new(self.address(host)?, PORT);
            let router = self.address((deployment.router_of)(host))?;
            let uplink = Uplink::udp(code_points()?, SocketAddr::new(router, ROUTER_PORT));
            let mut settings = Settings::new(uplink);
            // Probes are not simulated.
            settings.sender.probing = None;
            settings.fanouts = Some(notes.clone());
            let family = krpc::Family::of(&local);
            let bootstrap = (local != first).then_some(first);
            let node =
                |now: Instant, random: Random| Node::new(now, config(family, bootstrap), random);
            let socket = self
                .namespace(host)?
                .enter(|| Ok(std::net::UdpSocket::bind(local)?))?;
            let enter = runtime.enter();
            drivers.push(Driver::on(socket, settings, node)?);
            drop(enter);
        }
        drop(notes);
        runtime.block_on(async {
            for at in 0..drivers.len() {
                drivers[at].command(|node, now| node.join(now));
                let joined = |event: &Event| matches!(event, Event::Joined { .. });
                work(&mut drivers, at..at + 1, joined).await?;
                // Whoever was asked has to see whether the newcomer answers.
                let end = tokio::time::Instant::now() + SETTLE;
                drive_until(&mut drivers, end).await?;
            }
            for round in 0..ROUNDS {
                for (number, driver) in drivers.iter_mut().enumerate() {
                    let target = target(round, number);
                    driver.command(|node, now| node.find_node(now, target));
                }
                let all = 0..drivers.len();
                work(&mut drivers, all, |event| {
                    matches!(event, Event::Finished { .. })
                })
                .await?;
            }
            // What is under way arrives, and is answered.
            let end = tokio::time::Instant::now() + Duration::from_secs(2);
            drive_until(&mut drivers, end).await
        })?;
        // The sockets stay open until the links are silent: no ICMP.
        self.silence()?;
        drop(drivers);
        Ok(noted.into_iter().collect())
    }

    /// By way of JSON, as files have it.
    fn bed(&self) -> Result<Bed> {
        Ok(serde_json::from_str(&serde_json::to_string(
            self.testbed.plan(),
        )?)?)
    }

    fn replayed(&self, deployment: &Deployment) -> Result<Vec<Crossed>> {
        let bed = self.bed()?;
        let log: Result<Vec<_>, _> = self
            .log
            .iter()
            .map(|fanout| serde_json::from_str(&serde_json::to_string(fanout)?))
            .collect();
        let capable = deployment.capable.iter().map(|name| (*name).to_owned());
        let settings = Replay {
            capable: Some(capable.collect()),
            bitmap: false,
        };
        Ok(replay(&bed, &settings, &log?)?)
    }
}

/// Pause after each join.
const SETTLE: Duration = Duration::from_millis(800);
/// Look-ups of each node.
const ROUNDS: u64 = 3;

/// What a node looks for.
fn target(round: u64, node: usize) -> Id {
    Id::random(&mut Random::from_number(round << 8 | node as u64))
}

/// How nodes are, on the testbed and in the simulator.
fn config(family: krpc::Family, bootstrap: Option<SocketAddr>) -> Config {
    let mut config = Config::own_network();
    config.families = vec![family];
    config.table.max_per_network = None;
    config.alpha = 3;
    // Nothing by itself while this lasts.
    config.tick = Duration::from_secs(3600);
    config.bootstrap.extend(bootstrap);
    config
}

/// How many receivers the messages to several have that nodes send in the simulator, doing what those on
/// the testbed did.
fn simulated(bed: &Bed, seed: u64) -> Result<Vec<f64>> {
    let (topology, hosts) = bed.topology()?;
    let count = hosts.count();
    let network = Network {
        routing: Routes::new(&topology.graph, Ties::LinkCosts, seed),
        hosts,
    };
    let mut settings = WorldSettings::full(seed);
    settings.access = Access::Udp;
    // As fast as a testbed: without delay.
    settings.links.latency_ns = 20_000;
    settings.access_links.latency_ns = 20_000;
    let mut world = World::new(network, settings);
    world.note();
    let first = address::of_host(0, world.family());
    for host in 0..count as u32 {
        let config = config(krpc::Family::Ipv4, (host > 0).then_some(first));
        let random = Random::from_number(seed << 16 | u64::from(host));
        let node = Node::new(world.now(), config, random);
        world.add(host, node);
    }
    // Gives a command to some, and goes on until each has told this.
    let run = |world: &mut World<'_, Node>,
               hosts: Range<u32>,
               command: &dyn Fn(u32, &mut Node, Instant),
               done: fn(&Event) -> bool|
     -> Result<()> {
        let mut left: BTreeSet<u32> = hosts.clone().collect();
        for host in hosts {
            world.act(host, |node, now| command(host, node, now));
        }
        let end = world.time() + PATIENCE.as_nanos() as u64;
        loop {
            while let Some((host, event)) = world.poll_event() {
                if done(&event) {
                    left.remove(&host);
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            ensure!(world.step(end), "a simulated node does not get ready");
        }
    };
    for host in 0..count as u32 {
        let joined = |event: &Event| matches!(event, Event::Joined { .. });
        let join = |_, node: &mut Node, now| node.join(now);
        run(&mut world, host..host + 1, &join, joined)?;
        world.run_for(SETTLE);
    }
    for round in 0..ROUNDS {
        let find = |host: u32, node: &mut Node, now| {
            node.find_node(now, target(round, host as usize));
        };
        let finished = |event: &Event| matches!(event, Event::Finished { .. });
        run(&mut world, 0..count as u32, &find, finished)?;
    }
    world.run_for(Duration::from_secs(2));
    Ok(sizes(world.take_log().iter().map(|sent| sent.to.len())))
}

fn sizes(lists: impl Iterator<Item = usize>) -> Vec<f64> {
    lists.filter(|len| *len > 1).map(|len| len as f64).collect()
}

/// Drives all nodes until each of some has told this.
async fn work(
    drivers: &mut [Driver<Node>],
    of: Range<usize>,
    done: fn(&Event) -> bool,
) -> Result<()> {
    let mut left: Vec<bool> = (0..drivers.len()).map(|at| of.contains(&at)).collect();
    let end = tokio::time::Instant::now() + PATIENCE;
    while left.contains(&true) {
        ensure!(
            tokio::time::Instant::now() < end,
            "a node does not get ready"
        );
        for (at, event) in turn(drivers, Duration::from_millis(20)).await? {
            if done(&event) {
                left[at] = false;
            }
        }
    }
    Ok(())
}

async fn drive_until(drivers: &mut [Driver<Node>], end: tokio::time::Instant) -> Result<()> {
    while tokio::time::Instant::now() < end {
        turn(drivers, Duration::from_millis(20)).await?;
    }
    Ok(())
}

/// All nodes work at the same time, for a while; what they tell.
async fn turn(drivers: &mut [Driver<Node>], time: Duration) -> Result<Vec<(usize, Event)>> {
    let work = drivers
        .iter_mut()
        .enumerate()
        .map(|(at, driver)| async move {
            let mut told = Vec::new();
            let end = tokio::time::Instant::now() + time;
            while let Ok(event) = tokio::time::timeout_at(end, driver.next()).await {
                told.push((at, event?));
            }
            anyhow::Ok(told)
        });
    let mut all = Vec::new();
    for told in futures_util::future::join_all(work).await {
        all.extend(told?);
    }
    Ok(all)
}

#[track_caller]
fn check(deployment: &Deployment, family: Family) {
    if !namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let run = Run::of(deployment, family)?;
        let crossed = run.replayed(deployment)?;
        let shared = run.log.iter().filter(|fanout| fanout.to.len() > 1).count();
        ensure!(
            shared > 10,
            "{shared} messages to several: too few to compare"
        );
        let mut wrong = Vec::new();
        for (link, counted) in crossed.iter().zip(&run.counted) {
            let simulated = (link.packets, link.frame_octets);
            let counted = (counted.packets, counted.bytes);
            if simulated != counted {
                wrong.push(format!(
                    "{}: simulated {simulated:?}, counted {counted:?}",
                    link.nodes.join("-")
                ));
            }
        }
        let packets: u64 = crossed.iter().map(|link| link.packets).sum();
        println!(
            "{family:?}: {} messages, {shared} of them to several; {packets} packets on {} links",
            run.log.len(),
            crossed.len()
        );
        ensure!(wrong.is_empty(), "{wrong:#?}");

        // Left to themselves, nodes in the simulator send such lists, too.
        let real = sizes(run.log.iter().map(|fanout| fanout.to.len()));
        let bed = run.bed()?;
        let mut free = Vec::new();
        for seed in 1..=5 {
            free.extend(simulated(&bed, seed)?);
        }
        let likely = kolmogorov_smirnov(&real, &free);
        println!(
            "{family:?}: {} lists, {} of five simulated runs; p = {likely:.3}",
            real.len(),
            free.len()
        );
        ensure!(likely > 0.001, "{real:?} and {free:?}: p = {likely}");
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{family:?}: {error:#}");
    }
}

#[test]
fn links_carry_what_the_simulator_says_in_a_full_deployment() {
    for family in Family::ALL {
        check(&FULL, family);
    }
}

#[test]
fn and_where_half_of_the_routers_speak_xcast() {
    for family in Family::ALL {
        check(&HALF, family);
    }
}
