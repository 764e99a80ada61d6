//! Transmission's DHT (jech/dht), in a swarm of its own.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::daemon::PATIENCE;
use tests::family::Family;
use tests::layout::PROTOCOL;
use tests::namespace;
use tests::packet::{Ip, Xcast};

use crate::hosts::{Hosts, UDP_PORT, exec};

/// Nodes besides the one that is looked at, and the port of all.
const OTHERS: usize = 12;
const PORT: u16 = 51413;
/// Torrents for each of which the node searches peers.
const TORRENTS: usize = 12;

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

/// Starts a node that has heard of these others, with so many torrents.
fn start(mut command: Command, own: IpAddr, others: &[IpAddr], torrents: usize) -> Result<Daemon> {
    let directory = tempfile::tempdir()?;
    let path = directory.path();
    let watched = path.join("torrents");
    fs::create_dir(&watched)?;
    let settings = serde_json::json!({
        "bind-address-ipv4": own, "peer-port": PORT, "rpc-enabled": false, "dht-enabled": true,
        "lpd-enabled": false, "port-forwarding-enabled": false, "utp-enabled": false,
        "watch-dir-enabled": true, "watch-dir": watched, "download-dir": path.join("files"),
    });
    fs::write(path.join("settings.json"), settings.to_string())?;
    fs::write(path.join("dht.dat"), known_nodes(own, others))?;
    for number in 0..torrents {
        write_torrent(&watched, number)?;
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
    let octets = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(_) => [0; 4],
    };
    // Identifiers that are spread.
    let mut file = b"d2:id20:".to_vec();
    let seed = octets(&own).map(|octet| octet.wrapping_mul(89).rotate_left(3));
    file.extend((0..20).map(|place| seed[place % 4].wrapping_mul(2 * place as u8 + 7)));
    file.extend(format!("5:nodes{}:", 6 * others.len()).bytes());
    for other in others {
        file.extend(octets(other));
        file.extend(PORT.to_be_bytes());
    }
    file.push(b'e');
    file
}

/// A torrent without trackers (BEP 3).
fn write_torrent(directory: &Path, number: usize) -> Result<()> {
    let name = format!("file{number:02}");
    let mut torrent = format!(
        "d4:infod6:lengthi16384e4:name{}:{name}12:piece lengthi16384e6:pieces20:",
        name.len()
    )
    .into_bytes();
    torrent.extend([number as u8; 20]);
    torrent.extend(b"ee");
    Ok(fs::write(
        directory.join(format!("{name}.torrent")),
        torrent,
    )?)
}

/// What a node's searches sent.
#[derive(Debug, Default)]
struct Counts {
    packets: usize,
    datagrams: usize,
    /// Of each search, by its info-hash.
    searches: BTreeMap<Vec<u8>, usize>,
}

impl Counts {
    fn note(&mut self, frame: &[u8]) {
        let find = |text: &[u8]| {
            let place = frame.windows(text.len()).position(|part| part == text)?;
            frame.get(place + text.len()..)
        };
        let (Some(_), Some(hash)) = (find(b"9:get_peers"), find(b"9:info_hash20:")) else {
            return;
        };
        let datagrams = list(frame).unwrap_or(1);
        self.packets += 1;
        self.datagrams += datagrams;
        let hash = hash.get(..20).unwrap_or_default().to_vec();
        *self.searches.entry(hash).or_default() += datagrams;
    }
}

/// How many destinations an Xcast packet inside UDP has.
fn list(frame: &[u8]) -> Option<usize> {
    let (_, udp) = Ip::parse(Family::Ipv4, frame.get(14..)?)?;
    if udp.get(2..4)? != UDP_PORT.to_be_bytes() {
        return None;
    }
    let (ip, rest) = Ip::parse(Family::Ipv4, udp.get(8..)?)?;
    let (list, _) = Xcast::parse(Family::Ipv4, rest).filter(|_| ip.protocol == PROTOCOL)?;
    Some(list.destinations.len())
}

/// A node of a swarm searches peers for its torrents: what a search sends at first goes to several
/// nodes at once.
#[test]
fn transmission_in_a_swarm() {
    if !namespace::available() {
        return;
    }
    if let Err(error) = swarm() {
        panic!("{error:#}");
    }
}

fn swarm() -> Result<()> {
    let hosts = Hosts::with(Family::Ipv4, OTHERS)?;
    let own = hosts.address("A", "R1")?;
    let all: Vec<_> = hosts.to.iter().map(|to| to.ip()).collect();
    let mut daemons = Vec::new();
    for (number, address) in all.iter().enumerate() {
        let name = format!("H{}", number + 1);
        let command = hosts.bed.namespace(&name)?.command("transmission-daemon");
        let others: Vec<_> = all.iter().filter(|it| *it != address).copied().collect();
        daemons.push(start(command, *address, &others, 0)?);
    }
    let tap = hosts.tap("A", "R1")?;
    let mut command = exec(&hosts.bed.namespace("A")?, Some(hosts.address("R1", "A")?));
    command.args(["--", "transmission-daemon"]);
    daemons.push(start(command, own, &all, TORRENTS)?);
    // A search asks 8 nodes at the least, where there are so many.
    let mut counts = Counts::default();
    let deadline = Instant::now() + 2 * PATIENCE;
    let is_over = |counts: &Counts| {
        counts.searches.len() == TORRENTS && counts.searches.values().all(|count| *count >= 8)
    };
    while !is_over(&counts) {
        ensure!(Instant::now() < deadline, "no searches: {counts:?}");
        if let Some(frame) = tap.receive(Instant::now() + Duration::from_millis(100))? {
            counts.note(&frame);
        }
    }
    let Counts {
        packets, datagrams, ..
    } = counts;
    println!("{TORRENTS} searches: {datagrams} datagrams in {packets} packets");
    // Of each search but a few, the first three are one.
    ensure!(
        packets + TORRENTS < datagrams,
        "{packets} packets for {datagrams} datagrams"
    );
    Ok(())
}
