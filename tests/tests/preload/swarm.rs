//! Transmission's DHT (jech/dht), in a swarm of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};
use tests::daemon::PATIENCE;
use tests::family::Family;
use tests::layout::PROTOCOL;
use tests::namespace;
use tests::packet::{ETHERNET_LEN, Ip, Xcast, protocol};
use tests::tap::Tap;

use crate::hosts::{Hosts, UDP_PORT, Way};
use crate::wire::udp;

/// Nodes besides the one that is looked at, and the port of all.
const OTHERS: usize = 12;
const PORT: u16 = 51413;
/// Torrents for each of which the node searches, and to how many nodes it announces itself.
const TORRENTS: usize = 20;
const ANNOUNCED: usize = 8;

struct Daemon {
    child: Child,
    _directory: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a node that has heard of these others, with torrents of these names.
fn start(
    mut command: Command,
    own: IpAddr,
    others: &[IpAddr],
    torrents: &[String],
) -> Result<Daemon> {
    let directory = tempfile::tempdir()?;
    let path = directory.path();
    let watched = path.join("torrents");
    fs::create_dir(&watched)?;
    let address = match own {
        IpAddr::V4(_) => "bind-address-ipv4",
        IpAddr::V6(_) => "bind-address-ipv6",
    };
    let settings = serde_json::json!({
        address: own, "peer-port": PORT, "rpc-enabled": false, "dht-enabled": true,
        "lpd-enabled": false, "port-forwarding-enabled": false, "utp-enabled": false,
        "watch-dir-enabled": true, "watch-dir": watched, "download-dir": path.join("files"),
        "download-queue-enabled": false,
    });
    fs::write(path.join("settings.json"), settings.to_string())?;
    fs::write(path.join("dht.dat"), known_nodes(own, others))?;
    for name in torrents {
        write_torrent(&watched, name)?;
    }
    command.args(["--foreground", "--config-dir"]).arg(path);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Ok(Daemon {
        child: command.spawn().context("transmission-daemon")?,
        _directory: directory,
    })
}

/// The file in which Transmission keeps its identifier and the nodes it knows (bencoding of BEP 3, and
/// compact node addresses).
fn known_nodes(own: IpAddr, others: &[IpAddr]) -> Vec<u8> {
    let mut file = b"d2:id20:".to_vec();
    file.extend(&Sha256::digest(own.to_string())[..20]);
    let list = others.iter().flat_map(|other| match other {
        IpAddr::V4(ip) => [&ip.octets()[..], &PORT.to_be_bytes()].concat(),
        IpAddr::V6(ip) => [&ip.octets()[..], &PORT.to_be_bytes()].concat(),
    });
    let list: Vec<u8> = list.collect();
    let name = if own.is_ipv4() { "nodes" } else { "nodes6" };
    file.extend(format!("{}:{name}{}:", name.len(), list.len()).bytes());
    file.extend(list);
    file.push(b'e');
    file
}

/// A torrent without trackers (BEP 3).
fn write_torrent(directory: &Path, name: &str) -> Result<()> {
    let mut torrent = format!(
        "d4:infod6:lengthi16384e4:name{}:{name}12:piece lengthi16384e6:pieces20:",
        name.len()
    )
    .into_bytes();
    torrent.extend([0; 20]);
    torrent.extend(b"ee");
    let path = directory.join(format!("{name}.torrent"));
    Ok(fs::write(path, torrent)?)
}

/// Contents by destination.
type Contents = BTreeMap<SocketAddr, Vec<Vec<u8>>>;

/// What a node has sent.
#[derive(Debug)]
struct Traffic {
    from: SocketAddr,
    /// As it left.
    sent: Contents,
    /// As it arrived.
    arrived: Contents,
    /// Requests for the peers of a torrent, and the packets that carried them.
    requests: usize,
    packets: usize,
    /// Whom each torrent has been announced to, by its info-hash.
    announced: BTreeMap<Vec<u8>, BTreeSet<SocketAddr>>,
}

impl Traffic {
    fn of(from: SocketAddr) -> Self {
        Self {
            from,
            sent: Contents::new(),
            arrived: Contents::new(),
            requests: 0,
            packets: 0,
            announced: BTreeMap::new(),
        }
    }

    /// The destinations and the content of what the node has sent, if that is in the frame.
    fn datagrams(&self, frame: &[u8]) -> Option<(Vec<SocketAddr>, Vec<u8>)> {
        let family = match self.from {
            SocketAddr::V4(_) => Family::Ipv4,
            SocketAddr::V6(_) => Family::Ipv6,
        };
        let (from, to, content) = datagrams(family, frame)?;
        (from == self.from).then_some((to, content))
    }

    /// Takes in a frame on its first link.
    fn note_sent(&mut self, frame: &[u8]) {
        let Some((to, content)) = self.datagrams(frame) else {
            return;
        };
        let after = |text: &[u8]| {
            let place = content.windows(text.len()).position(|part| part == text)?;
            content.get(place + text.len()..)
        };
        if after(b"1:q9:get_peers").is_some() {
            self.packets += 1;
            self.requests += to.len();
        }
        let hash = after(b"9:info_hash20:").and_then(|rest| rest.get(..20));
        if let (Some(hash), Some(_)) = (hash, after(b"1:q13:announce_peer")) {
            let announced = self.announced.entry(hash.to_vec()).or_default();
            announced.extend(&to);
        }
        for to in to {
            self.sent.entry(to).or_default().push(content.clone());
        }
    }

    /// Takes in a frame that came to another node.
    fn note_arrived(&mut self, frame: &[u8]) {
        if let Some((to, content)) = self.datagrams(frame) {
            for to in to {
                self.arrived.entry(to).or_default().push(content.clone());
            }
        }
    }

    /// Whether each torrent has been announced.
    fn is_over(&self) -> bool {
        let enough = |to: &BTreeSet<SocketAddr>| to.len() >= ANNOUNCED;
        self.announced.len() == TORRENTS && self.announced.values().all(enough)
    }

    /// Whether the same arrived as left, whatever the order.
    fn is_delivered(&mut self) -> bool {
        for contents in [&mut self.sent, &mut self.arrived] {
            contents.values_mut().for_each(|contents| contents.sort());
        }
        self.sent == self.arrived
    }
}

/// The source, the destinations and the content of a datagram, or of an Xcast packet, inside UDP or not.
fn datagrams(family: Family, frame: &[u8]) -> Option<(SocketAddr, Vec<SocketAddr>, Vec<u8>)> {
    frame
        .get(12..14)
        .filter(|it| *it == family.ether_type().to_be_bytes())?;
    let (mut ip, mut rest) = Ip::parse(family, frame.get(ETHERNET_LEN..)?)?;
    let marked = match family {
        Family::Ipv4 => PROTOCOL,
        Family::Ipv6 => protocol::ROUTING,
    };
    if ip.protocol != marked {
        let (from, to, payload) = udp(&ip, rest).filter(|_| ip.protocol == protocol::UDP)?;
        if to.port() != UDP_PORT {
            return Some((from, vec![to], payload.to_vec()));
        }
        (ip, rest) = Ip::parse(family, payload)?;
    }
    let (list, segment) = Xcast::parse(family, rest)?;
    let (from, common, content) = udp(&ip, segment)?;
    let port = |own| if list.p { own } else { common.port() };
    let to = list.destinations.iter();
    let to = to.map(|entry| SocketAddr::new(entry.address, port(entry.port)));
    Some((from, to.collect(), content.to_vec()))
}

/// A node finds others and announces its torrents with the library as without: everything it sends
/// arrives as it was. The requests that begin a search go to three nodes at once, with the same
/// octets, and share a packet.
#[track_caller]
fn transmission_in_a_swarm(family: Family) {
    if !namespace::available() {
        return;
    }
    if let Err(error) = swarm(family) {
        panic!("{family:?}: {error:#}");
    }
}

#[test]
fn transmission_in_a_swarm_ipv4() {
    transmission_in_a_swarm(Family::Ipv4);
}

#[test]
fn transmission_in_a_swarm_ipv6() {
    transmission_in_a_swarm(Family::Ipv6);
}

fn swarm(family: Family) -> Result<()> {
    let hosts = Hosts::with(family, OTHERS)?;
    let all: Vec<_> = hosts.to.iter().map(|to| to.ip()).collect();
    let (mut daemons, mut arrivals) = (Vec::new(), Vec::new());
    for (number, address) in all.iter().enumerate() {
        let name = format!("H{}", number + 1);
        let namespace = hosts.bed.namespace(&name)?;
        let link = &hosts.bed.testbed.interface(&name, "R2")?.name;
        arrivals.push(Tap::open(&namespace, link)?);
        let command = namespace.command("transmission-daemon");
        let others: Vec<_> = all.iter().filter(|it| *it != address).copied().collect();
        daemons.push(start(command, *address, &others, &[])?);
    }
    // Later ones know of the first.
    let link = &hosts.bed.testbed.interface("A", "R1")?.name;
    arrivals.push(Tap::open(&hosts.bed.namespace("A")?, link)?);
    for (way, with) in [
        (Way::InUdp, false),
        (Way::InUdp, true),
        (Way::Natively, true),
    ] {
        let context = || format!("{family:?}, {way:?}, under exec: {with}");
        let own = hosts.own(way)?;
        let mut departures = hosts.taps(way)?;
        if way == Way::Natively {
            departures.push(hosts.tap("R1", "A")?);
            // It takes the address that it would have on the Internet.
            let next = hosts.address("R2", "R1")?;
            hosts
                .bed
                .namespace("R1")?
                .ip(&format!("route replace default via {next}"))?;
        }
        let command = hosts.command(way, with, "transmission-daemon")?;
        let names = (0..TORRENTS).map(|n| format!("{way:?} {with} {n}"));
        let names: Vec<_> = names.collect();
        let before = hosts.packets(way)?;
        let mut node = Some(start(command, own, &all, &names)?);
        let mut traffic = Traffic::of((own, PORT).into());
        let deadline = Instant::now() + 3 * PATIENCE;
        loop {
            for tap in &departures {
                while let Some(frame) = tap.take()? {
                    traffic.note_sent(&frame);
                }
            }
            for tap in &arrivals {
                while let Some(frame) = tap.take()? {
                    traffic.note_arrived(&frame);
                }
            }
            // It ends, and what it sent last is still to be taken in.
            if traffic.is_over() && node.take().is_some() {
                continue;
            }
            if node.is_none() && traffic.is_delivered() {
                break;
            }
            let announced = traffic.announced.len();
            ensure!(
                Instant::now() < deadline,
                "{}: {announced} torrents announced, {} of {} datagrams arrived",
                context(),
                traffic.arrived.values().flatten().count(),
                traffic.sent.values().flatten().count()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let Traffic {
            requests, packets, ..
        } = traffic;
        println!(
            "{}: {TORRENTS} searches, {requests} requests in {packets} packets; {} datagrams, {} packets \
             on the link in all",
            context(),
            traffic.sent.values().flatten().count(),
            hosts.packets(way)? - before
        );
        // Of each search but a few, the first three are one.
        let saved = requests - packets;
        ensure!(
            if with { saved >= TORRENTS } else { saved == 0 },
            "{}: {packets} packets for {requests} requests",
            context()
        );
    }
    Ok(())
}
