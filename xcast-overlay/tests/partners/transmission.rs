//! Transmission, whose DHT is jech/dht: BEP 5 and 32, not BEP 44.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use tempfile::TempDir;

use super::{
    namespace::{address, in_namespace},
    ours::Ours,
};

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

fn missing() -> &'static [&'static str] {
    match Path::new(DAEMON).exists() {
        true => &[],
        false => &["transmission-daemon"],
    }
}

/// It answers what we ask, asks us, and lists us.
async fn both_ways(ipv6: bool) {
    let local = address(ipv6, 1, PORT);
    let mut ours = Ours::start(address(ipv6, 9, 6881), &[local], 8);
    let _partner = Transmission::start(ours.address());
    ours.until("it has asked us", |ours| {
        ours.node().status(Instant::now()).served.answered > 0
    })
    .await;
    ours.ask_bep5(local).await;
    ours.is_listed_by(local).await;
    ours.close().await;
}

#[test]
fn transmission_both_ways() {
    in_namespace(missing(), async || both_ways(false).await);
}

#[test]
fn transmission_both_ways_over_ipv6() {
    in_namespace(missing(), async || both_ways(true).await);
}
