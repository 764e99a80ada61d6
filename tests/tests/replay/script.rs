//! What nodes of an overlay do, on a testbed and in the simulator alike.

use std::{
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tests::{daemon::PATIENCE, family::Family};
use xcast_overlay::{
    net::Driver,
    runtime::{Protocol, Random},
};
use xcast_sim::{
    address,
    fanout::{self, Network},
    replay::Bed,
    routing::{Routing, Ties},
    world::{Access, World, WorldSettings},
};

/// How long nodes work between two looks at what they tell.
const TURN: Duration = Duration::from_millis(20);

/// A message to several or one: its sender and its receivers.
pub type List = (SocketAddr, Vec<SocketAddr>);

/// An overlay, and what its nodes do.
pub trait Overlay {
    type Node: Protocol;
    const NAME: &'static str;
    /// Where its nodes are.
    const PORT: u16;
    /// How often the script is played on a testbed, by new nodes each time.
    const RUNS: usize = 1;
    /// The same in the simulator.
    const SIMULATED_RUNS: u64 = 5;

    /// The node of this number, at its address among all.
    fn node(number: usize, all: &[SocketAddr], now: Instant, random: Random) -> Self::Node;

    /// What the nodes at these addresses do, one step after the other.
    fn script(all: &[SocketAddr]) -> Vec<Step<Self::Node>>;

    /// One figure for each list of messages to several that is compared: how long it is.
    fn sizes(lists: &[List]) -> Vec<f64> {
        let several = lists.iter().filter(|(_, to)| to.len() > 1);
        several.map(|(_, to)| to.len() as f64).collect()
    }
}

type Command<P> = Box<dyn Fn(usize, &mut P, Instant)>;

/// Something that nodes do.
pub enum Step<P: Protocol> {
    /// These get a command, and the step ends when each has told this.
    Act(Range<usize>, Command<P>, fn(&P::Event) -> bool),
    /// These get a command.
    Say(Range<usize>, Command<P>),
    /// Until this is true of each node.
    Until(fn(&P, Instant) -> bool),
    /// They work for a while.
    Pause(Duration),
}

/// Has nodes on sockets do what a script says.
pub async fn play<P: Protocol>(drivers: &mut [Driver<P>], script: &[Step<P>]) -> Result<()> {
    for step in script {
        let deadline = Instant::now() + PATIENCE;
        let in_time = || {
            ensure!(Instant::now() < deadline, "a node does not get ready");
            Ok(())
        };
        match step {
            Step::Act(who, command, told) => {
                for at in who.clone() {
                    drivers[at].command(|node, now| command(at, node, now));
                }
                let mut left: Vec<usize> = who.clone().collect();
                while !left.is_empty() {
                    in_time()?;
                    for (at, event) in turn(drivers, TURN).await? {
                        left.retain(|left| *left != at || !told(&event));
                    }
                }
            }
            Step::Say(who, command) => {
                for at in who.clone() {
                    drivers[at].command(|node, now| command(at, node, now));
                }
            }
            Step::Until(is_true) => {
                while !drivers
                    .iter()
                    .all(|driver| is_true(driver.protocol(), Instant::now()))
                {
                    in_time()?;
                    turn(drivers, TURN).await?;
                }
            }
            Step::Pause(time) => {
                let end = Instant::now() + *time;
                while Instant::now() < end {
                    turn(drivers, TURN).await?;
                }
            }
        }
    }
    Ok(())
}

/// All nodes work at the same time, for a while; what they tell.
async fn turn<P: Protocol>(
    drivers: &mut [Driver<P>],
    time: Duration,
) -> Result<Vec<(usize, P::Event)>> {
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

/// The lists of nodes that do in the simulator what those on the testbed did.
pub fn simulated<O: Overlay>(bed: &Bed, family: Family, seed: u64) -> Result<Vec<List>> {
    let (topology, hosts) = bed.topology()?;
    let count = hosts.count();
    let network = Network {
        routing: Routing::new(&topology.graph, Ties::LinkCosts, seed),
        hosts,
    };
    let mut settings = WorldSettings::full(seed);
    settings.family = match family {
        Family::Ipv4 => fanout::Family::V4,
        Family::Ipv6 => fanout::Family::V6,
    };
    settings.access = Access::Udp;
    // As fast as a testbed: without delay.
    settings.links.latency_ns = 20_000;
    settings.access_links.latency_ns = 20_000;
    let mut world = World::new(network, settings);
    world.note();
    let address = |host: usize| address::of_host(host as u32, world.family());
    let addresses: Vec<SocketAddr> = (0..count).map(address).collect();
    for host in 0..count {
        let random = Random::from_number(seed << 16 | host as u64);
        let node = O::node(host, &addresses, world.now(), random);
        world.add(host as u32, node);
    }
    for step in O::script(&addresses) {
        let end = world.time() + PATIENCE.as_nanos() as u64;
        match step {
            Step::Act(who, command, told) => {
                let mut left: Vec<usize> = who.clone().collect();
                for at in who {
                    world.act(at as u32, |node, now| command(at, node, now));
                }
                while !left.is_empty() {
                    while let Some((host, event)) = world.poll_event() {
                        left.retain(|left| *left != host as usize || !told(&event));
                    }
                    let goes_on = left.is_empty() || world.step(end);
                    ensure!(goes_on, "a simulated node does not get ready");
                }
            }
            Step::Say(who, command) => {
                for at in who {
                    world.act(at as u32, |node, now| command(at, node, now));
                }
            }
            Step::Until(is_true) => {
                let is_ready = |world: &World<'_, O::Node>| {
                    let mut hosts = world.hosts();
                    hosts.all(|host| {
                        world
                            .node(host)
                            .is_some_and(|node| is_true(node, world.now()))
                    })
                };
                while !is_ready(&world) {
                    ensure!(world.step(end), "a simulated node does not get ready");
                }
            }
            Step::Pause(time) => world.run_for(time),
        }
    }
    let sent = world.take_log().into_iter();
    let lists = sent.map(|sent| {
        let to = sent.to.iter().map(|to| addresses[*to as usize]);
        (addresses[sent.source as usize], to.collect())
    });
    Ok(lists.collect())
}
