//! Transmission, whose DHT is jech/dht: BEP 5 and 32, not BEP 44.

use std::{
    cell::Cell,
    fs,
    future::pending,
    net::{IpAddr, SocketAddr},
    ops::{Range, RangeInclusive},
    path::Path,
    process::{Child, Command, Stdio},
    rc::Rc,
    time::Duration,
};

use anyhow::ensure;
use tempfile::TempDir;
use tokio::task::spawn_local;
use xcast_overlay::{id::Id, kademlia::Method};

use super::{
    namespace::address,
    ours::Ours,
    outcome::{Asker, Talk},
    services,
};

const NAME: &str = "Transmission";
const DAEMON: &str = "/usr/bin/transmission-daemon";
const PORT: u16 = 51413;
/// Nodes of ours that it knows: it announces nothing before it has heard of nine.
const CROWD: RangeInclusive<u8> = 10..=21;
/// A torrent without trackers (BEP 3), and what it is known by.
const TORRENT: &[u8] =
    b"d4:infod6:lengthi16384e4:name1:a12:piece lengthi16384e6:pieces20:--------------------ee";
const INFO: Range<usize> = 7..TORRENT.len() - 1;

/// It, and its directory.
struct Transmission {
    child: Child,
    _directory: TempDir,
}

impl Transmission {
    /// Starts it with one node to begin with.
    fn start(known: SocketAddr) -> Self {
        Self::start_with(&[known], &[], false)
    }

    /// The same with several, with nodes that it knows from before, and a torrent whose peers it looks for.
    fn start_with(known: &[SocketAddr], before: &[SocketAddr], torrent: bool) -> Self {
        let directory = TempDir::new().expect("a directory");
        let [ipv4, ipv6] = [false, true].map(|ipv6| address(ipv6, 1, PORT).ip());
        let settings = serde_json::json!({
            "bind-address-ipv4": ipv4, "bind-address-ipv6": ipv6, "peer-port": PORT,
            "rpc-enabled": false, "dht-enabled": true, "lpd-enabled": false,
            "port-forwarding-enabled": false, "utp-enabled": false,
            "watch-dir-enabled": torrent, "watch-dir": directory.path(),
            "download-dir": directory.path().join("files"),
        });
        let path = directory.path();
        if torrent {
            fs::write(path.join("a.torrent"), TORRENT).expect("a torrent");
        }
        if !before.is_empty() {
            fs::write(path.join("dht.dat"), known_nodes(before)).expect("nodes");
        }
        fs::write(path.join("settings.json"), settings.to_string()).expect("settings");
        // It asks these before the bootstrap nodes of the Internet.
        let nodes = known
            .iter()
            .map(|node| format!("{} {}\n", node.ip(), node.port()));
        let nodes: String = nodes.collect();
        fs::write(path.join("dht.bootstrap"), nodes).expect("bootstrap nodes");
        let child = Command::new(DAEMON)
            .args(["--foreground", "--config-dir"])
            .arg(path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self {
            child: child.expect(DAEMON),
            _directory: directory,
        }
    }
}

impl Drop for Transmission {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn missing() -> &'static [&'static str] {
    match Path::new(DAEMON).exists() {
        true => &[],
        false => &["transmission-daemon"],
    }
}

/// It asks us, answers what we ask, and lists us. Without torrents it asks for nodes only.
pub async fn both_ways(ipv6: bool) -> [Talk; 2] {
    let [mut we, mut they] = [Asker::We, Asker::They].map(|asker| Talk::new(NAME, ipv6, asker));
    let local = address(ipv6, 1, PORT);
    let mut ours = Ours::start(address(ipv6, 9, 6881), &[local]);
    let _partner = Transmission::start(ours.address());
    let asked = ours.until("it asks for nodes", |ours| {
        ours.was_asked(Method::FindNode).is_ok()
    });
    they.add("find_node", asked.await);
    ours.ask_bep5(&mut we, local).await;
    let listed = ours.is_listed_by(local).await;
    we.add("lists us", listed);
    ours.close().await;
    [we, they]
}

/// What one of ours publishes, another one finds, though that one knew only it.
pub async fn services(ipv6: bool) -> Talk {
    let mut talk = Talk::new(NAME, ipv6, Asker::We);
    let local = address(ipv6, 1, PORT);
    let ours = Ours::start(address(ipv6, 9, 6881), &[local]);
    // Who asks it is listed only when it has asked back, which takes it half a minute.
    let both = [ours.address(), services::second(ipv6)];
    let _partner = Transmission::start_with(&both, &[], false);
    let found = services::by_way_of(local, ours).await;
    talk.add(services::OPERATION, found);
    talk
}

/// The file in which it keeps its identifier and nodes: bencoded, with compact addresses.
fn known_nodes(nodes: &[SocketAddr]) -> Vec<u8> {
    let name = match nodes.first() {
        Some(SocketAddr::V6(_)) => "6:nodes6",
        _ => "5:nodes",
    };
    let compact = nodes.iter().flat_map(|node| {
        let ip = match node.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        [&ip[..], &node.port().to_be_bytes()].concat()
    });
    let compact: Vec<u8> = compact.collect();
    let id = Id::hash_of(&[b"Transmission"]);
    let before = [b"d2:id20:", &id.octets()[..], name.as_bytes()].concat();
    let length = format!("{}:", compact.len());
    [&before[..], length.as_bytes(), &compact, b"e"].concat()
}

/// With a torrent, it looks for peers at us, and announces itself to us: whoever looks for it finds it.
pub async fn with_a_torrent(ipv6: bool) -> Talk {
    let mut talk = Talk::new(NAME, ipv6, Asker::They);
    let local = address(ipv6, 1, PORT);
    let mut ours = Ours::start(address(ipv6, 9, 6881), &[]);
    let mut all = vec![ours.address()];
    let announced = Rc::new(Cell::new(false));
    for n in CROWD {
        let mut one = Ours::start(address(ipv6, n, 6881), &[ours.address()]);
        all.push(one.address());
        let announced = Rc::clone(&announced);
        // Each works on its own from now on.
        spawn_local(async move {
            let asked = one.until("it announces itself", |one| {
                one.was_asked(Method::AnnouncePeer).is_ok()
            });
            if asked.await.is_ok() {
                announced.set(true);
            }
            one.during(pending::<()>()).await;
        });
    }
    let _partner = Transmission::start_with(&[ours.address()], &all, true);
    let asked = ours.until("it asks for peers", |ours| {
        ours.was_asked(Method::GetPeers).is_ok()
    });
    talk.add("get_peers", asked.await);
    // It announces itself to the closest of all of us.
    let announced = ours.until("it announces itself", |ours| {
        announced.get() || ours.was_asked(Method::AnnouncePeer).is_ok()
    });
    let announced = announced.await;
    let key = Id::hash_of(&[&TORRENT[INFO]]);
    let found = ours.run(|node, now| node.find_peers(now, key)).await;
    let found = found.and_then(|(found, _)| {
        ensure!(found.peers.contains(&local), "{found:?}");
        Ok(())
    });
    talk.add("announce_peer", announced.and(found));
    ours.close().await;
    talk
}

/// It stays with us for so long.
pub async fn soak(ipv6: bool, time: Duration) -> Talk {
    let mut talk = Talk::new(NAME, ipv6, Asker::We);
    let local = address(ipv6, 1, PORT);
    let mut ours = Ours::start(address(ipv6, 9, 6881), &[local]);
    let _partner = Transmission::start(ours.address());
    let asked = ours.until("it asks for nodes", |ours| {
        ours.was_asked(Method::FindNode).is_ok()
    });
    let soaked = match asked.await {
        Ok(()) => ours.soak(local, time).await,
        Err(error) => Err(error),
    };
    talk.note("soak", soaked);
    talk
}
