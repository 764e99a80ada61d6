//! What crosses the links, by the counters of the interfaces.
//!
//! Between any two nodes of the topology there is one shortest path, so all that a client sends
//! crosses links away from it, and all answers come the other way: counters by direction tell
//! requests from replies. ARP and neighbour discovery do not occur, because link-layer addresses are
//! known and never asked for again ([`xtask::testbed::Options::quiet`]); nodes other than the client
//! say nothing of their own meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, UdpSocket},
    ops::{Add, AddAssign},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde::Serialize;
use xcast_overlay::krpc::Family;
use xtask::testbed::{Plan, Role, Traffic, netns};

use crate::bed::{Bed, PATIENCE};

/// A port that nobody listens at.
const DISCARD: u16 = 9;
/// How long counters must stand still.
const SILENCE: Duration = Duration::from_millis(15);
/// The same where nobody says anything any more, and what was said is on its way, on a busy machine.
const ON_THE_WAY: Duration = Duration::from_millis(100);
/// The same where somebody may still think about pinging a new neighbour.
const LONG_SILENCE: Duration = Duration::from_millis(1200);

/// What crossed the links.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Packets away from the client, each link that one crosses counting.
    pub requests: u64,
    /// Packets towards the client, likewise.
    pub replies: u64,
    /// Octets of both, from the Ethernet header on.
    pub octets: u64,
    /// Of the requests, those on the client's own link.
    pub own_link: u64,
    /// Of the replies, those on the client's own link.
    pub own_replies: u64,
    /// Packets by link, both ways together; links without any are left out.
    pub links: BTreeMap<String, u64>,
}

impl Counts {
    /// Packets both ways.
    pub fn packets(&self) -> u64 {
        self.requests + self.replies
    }

    /// The same counts where the replies are known from `other`, which brought as many to the client
    /// by the same paths. A request that is tunnelled to a router that is not the first one, and comes
    /// back to a neighbour of the client, is otherwise taken for a reply.
    #[must_use]
    pub fn with_replies_of(mut self, other: &Self) -> Self {
        if self.own_replies == other.own_replies && self.replies > other.replies {
            self.requests = self.packets() - other.replies;
            self.replies = other.replies;
        }
        self
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.replies += other.replies;
        self.octets += other.octets;
        self.own_link += other.own_link;
        self.own_replies += other.own_replies;
        for (link, packets) in other.links {
            *self.links.entry(link).or_default() += packets;
        }
    }
}

/// Counts what a client causes.
#[derive(Debug)]
pub struct Meter<'a> {
    bed: &'a Bed,
    host: String,
    /// Of each link, which direction leads away from the client.
    away: Vec<usize>,
}

impl<'a> Meter<'a> {
    /// For the client on this host.
    pub fn new(bed: &'a Bed, host: &str) -> Self {
        let plan = bed.testbed.plan();
        let distances = distances(plan, host);
        let far = |name: &String| distances.get(name.as_str()).copied().unwrap_or(u32::MAX);
        let links = plan.links.iter();
        let away = links.map(|link| usize::from(far(&link.nodes[0]) > far(&link.nodes[1])));
        Self {
            bed,
            host: host.to_owned(),
            away: away.collect(),
        }
    }

    /// Does something, waits for silence, and says what crossed the links meanwhile.
    ///
    /// # Errors
    ///
    /// The work fails, or the links never fall silent.
    pub fn count<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Counts)> {
        let before = self.bed.testbed.directed_traffic()?;
        let done = work()?;
        let after = silent(self.bed, SILENCE)?;
        let mut counts = Counts::default();
        let links = &self.bed.testbed.plan().links;
        for (((link, away), before), after) in links.iter().zip(&self.away).zip(before).zip(after) {
            let [requests, replies] =
                [*away, 1 - *away].map(|direction| after[direction] - before[direction]);
            let both: Traffic = requests + replies;
            if both.packets == 0 {
                continue;
            }
            counts.requests += requests.packets;
            counts.replies += replies.packets;
            counts.octets += both.bytes;
            if link.nodes.contains(&self.host) {
                counts.own_link += requests.packets;
                counts.own_replies += replies.packets;
            }
            counts.links.insert(link.nodes.join("-"), both.packets);
        }
        Ok((done, counts))
    }
}

/// Makes everybody know the link layer addresses of neighbours, by a datagram from each host to each
/// router: nobody asks for them again later.
///
/// # Errors
///
/// A host cannot send.
pub fn warm_up(bed: &Bed) -> Result<()> {
    let routers = bed.testbed.plan().with_role(Role::Router);
    let routers: Vec<SocketAddr> = routers
        .filter_map(|node| match bed.setup().family {
            Family::Ipv4 => node.address.map(IpAddr::from),
            Family::Ipv6 => node.address6.map(IpAddr::from),
        })
        .map(|ip| SocketAddr::new(ip, DISCARD))
        .collect();
    for host in bed.hosts() {
        let from = SocketAddr::new(bed.address(&host)?, 0);
        netns::enter(bed.namespace(&host)?, || -> Result<()> {
            let socket = UdpSocket::bind(from)?;
            for router in &routers {
                // That a router says that nobody listens there is what is expected.
                let _ = socket.send_to(b"warm", router);
            }
            Ok(())
        })??;
    }
    wait_for_silence(bed)
}

/// Does something, waits until nobody says anything any more, and says what crossed each link
/// meanwhile, in the order of the testbed's links.
///
/// # Errors
///
/// The work fails, or the links never fall silent.
pub fn count_all<T>(bed: &Bed, work: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Traffic>)> {
    let before = bed.testbed.traffic()?;
    let done = work()?;
    wait_for_silence(bed)?;
    let after = bed.testbed.traffic()?.into_iter();
    Ok((
        done,
        after
            .zip(before)
            .map(|(after, before)| after - before)
            .collect(),
    ))
}

/// What has crossed each link so far, in the order of the testbed's links, once what is on its way has
/// arrived: for nodes that stand still.
///
/// # Errors
///
/// The links never fall silent.
pub fn when_arrived(bed: &Bed) -> Result<Vec<Traffic>> {
    let counted = silent(bed, ON_THE_WAY)?.into_iter();
    Ok(counted.map(|[there, back]| there + back).collect())
}

/// Waits until nodes that have just joined have nothing more to say.
///
/// # Errors
///
/// They never stop.
pub fn wait_for_silence(bed: &Bed) -> Result<()> {
    silent(bed, LONG_SILENCE).map(drop)
}

/// What has come to a host so far.
///
/// # Errors
///
/// It has no link.
pub fn to_host(bed: &Bed, host: &str) -> Result<Traffic> {
    let links = bed.testbed.plan().links.iter();
    let traffic = bed.testbed.directed_traffic()?;
    for (link, [there, back]) in links.zip(traffic) {
        match link.nodes.each_ref().map(String::as_str) {
            [_, other] if other == host => return Ok(there),
            [one, _] if one == host => return Ok(back),
            _ => {}
        }
    }
    bail!("{host} has no link")
}

fn silent(bed: &Bed, silence: Duration) -> Result<Vec<[Traffic; 2]>> {
    let started = Instant::now();
    let mut last = bed.testbed.directed_traffic()?;
    loop {
        thread::sleep(silence);
        let now = bed.testbed.directed_traffic()?;
        if now == last {
            return Ok(now);
        }
        if started.elapsed() > PATIENCE {
            bail!("the links do not fall silent");
        }
        last = now;
    }
}

fn distances<'a>(plan: &'a Plan, host: &'a str) -> BTreeMap<&'a str, u32> {
    let mut distances = BTreeMap::from([(host, 0)]);
    let mut here = BTreeSet::from([host]);
    for distance in 1.. {
        let mut next = BTreeSet::new();
        for link in &plan.links {
            let [one, other] = link.nodes.each_ref().map(String::as_str);
            for (from, to) in [(one, other), (other, one)] {
                if here.contains(from) && !distances.contains_key(to) {
                    next.insert(to);
                }
            }
        }
        if next.is_empty() {
            break;
        }
        distances.extend(next.iter().map(|name| (*name, distance)));
        here = next;
    }
    distances
}
