//! Transmission, whose DHT is jech/dht: BEP 5 and 32, not BEP 44.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use xcast_overlay::kademlia::Method;

use super::{
    namespace::address,
    ours::Ours,
    outcome::{Asker, Talk},
};

const NAME: &str = "Transmission";
const DAEMON: &str = "/usr/bin/transmission-daemon";
const PORT: u16 = 51413;

/// It, and its directory.
struct Transmission {
    child: Child,
    _directory: TempDir,
}

impl Transmission {
    /// Starts it with one node to begin with.
    fn start(known: SocketAddr) -> Self {
        let directory = TempDir::new().expect("a directory");
        let [ipv4, ipv6] = [false, true].map(|ipv6| address(ipv6, 1, PORT).ip());
        let settings = serde_json::json!({
            "bind-address-ipv4": ipv4, "bind-address-ipv6": ipv6, "peer-port": PORT,
            "rpc-enabled": false, "dht-enabled": true, "lpd-enabled": false,
            "port-forwarding-enabled": false, "utp-enabled": false,
        });
        let path = directory.path();
        fs::write(path.join("settings.json"), settings.to_string()).expect("settings");
        // It asks these before the bootstrap nodes of the Internet.
        let node = format!("{} {}\n", known.ip(), known.port());
        fs::write(path.join("dht.bootstrap"), node).expect("bootstrap nodes");
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
