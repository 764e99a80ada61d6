//! libtorrent, by its Python module.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use xcast_overlay::{kademlia::Method, krpc::signing_key};

use super::{
    namespace::address,
    ours::Ours,
    outcome::{Asker, Talk},
    program::Program,
    services,
};

const NAME: &str = "libtorrent";
const PYTHON: &str = "/usr/bin/python3";
const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/partners/libtorrent_node.py"
);

pub fn missing() -> &'static [&'static str] {
    let there = Command::new(PYTHON)
        .args(["-c", "import libtorrent"])
        .status();
    match there.is_ok_and(|status| status.success()) {
        true => &[],
        false => &["python3-libtorrent"],
    }
}

/// Starts it at address `n` of the namespace.
pub async fn start(ipv6: bool, n: u8) -> (Program, SocketAddr) {
    let local = address(ipv6, n, 6881);
    let arguments = [
        SCRIPT.to_owned(),
        local.ip().to_string(),
        local.port().to_string(),
    ];
    let mut partner = Program::start(PYTHON, arguments);
    assert_eq!(partner.line().await, "ready");
    (partner, local)
}

/// It answers all that we ask.
pub async fn we_ask(ipv6: bool) -> Talk {
    let mut talk = Talk::new(NAME, ipv6, Asker::We);
    let (_partner, local) = start(ipv6, 1).await;
    let mut ours = Ours::start(address(ipv6, 9, 6881), &[local]);
    ours.ask_bep5(&mut talk, local).await;
    ours.ask_bep44(&mut talk, local).await;
    let listed = ours.is_listed_by(local).await;
    talk.add("lists us", listed);
    ours.close().await;
    talk
}

/// What one of ours publishes, another one finds, though each knew only it.
pub async fn services(ipv6: bool) -> Talk {
    let mut talk = Talk::new(NAME, ipv6, Asker::We);
    let (_partner, local) = start(ipv6, 1).await;
    let ours = Ours::start(address(ipv6, 9, 6881), &[local]);
    let found = services::by_way_of(local, ours).await;
    talk.add(services::OPERATION, found);
    talk
}

/// It stays with us for so long.
pub async fn soak(ipv6: bool, time: Duration) -> Talk {
    let mut talk = Talk::new(NAME, ipv6, Asker::We);
    let (_partner, local) = start(ipv6, 1).await;
    let mut ours = Ours::start(address(ipv6, 9, 6881), &[local]);
    let soaked = ours.soak(local, time).await;
    talk.note("soak", soaked);
    talk
}

/// A partner that knows of us, and nobody else.
struct Theirs {
    partner: Program,
    local: SocketAddr,
    ours: Ours,
}

impl Theirs {
    async fn ask(&mut self, question: Value) -> Result<Value> {
        self.ours.ask(self.partner.ask(question)).await
    }

    async fn find_us(&mut self) -> Result<()> {
        let us = self.ours.address();
        let added = self
            .ask(json!(["add", us.ip().to_string(), us.port()]))
            .await?;
        ensure!(added == true, "{added}");
        self.ours.is_listed_by(self.local).await
    }

    async fn announce(&mut self, key: &str) -> Result<()> {
        self.ask(json!(["announce", key])).await?;
        self.ours
            .until("announce_peer", |ours| ours.stored().1 == 1)
            .await
    }

    async fn get_peers(&mut self, key: &str) -> Result<()> {
        let peers = self.ask(json!(["get_peers", key])).await?;
        ensure!(peers == json!([self.local.to_string()]), "{peers}");
        Ok(())
    }

    async fn immutable(&mut self) -> Result<()> {
        let stored = self.ask(json!(["put", "never changes"])).await?;
        // It may count itself.
        ensure!(stored[1].as_u64() >= Some(1), "{stored}");
        let got = self.ask(json!(["get", stored[0]])).await?;
        ensure!(got == "never changes", "{got}");
        Ok(())
    }

    async fn mutable(&mut self, salt: &str, value: &str) -> Result<()> {
        let secret = hex(&[7; 32]);
        let public = hex(&signing_key([7; 32]).verifying_key().to_bytes());
        let stored = self
            .ask(json!(["put_mutable", secret, public, value, salt]))
            .await?;
        ensure!(stored.as_u64() >= Some(1), "{stored}");
        let got = self.ask(json!(["get_mutable", public, salt])).await?;
        ensure!(got == json!([value, 1]), "{got}");
        Ok(())
    }
}

/// It finds us, lists us, and gets from us what it stored at us: nobody else is there.
pub async fn they_ask(ipv6: bool) -> Talk {
    let mut talk = Talk::new(NAME, ipv6, Asker::They);
    let (partner, local) = start(ipv6, 1).await;
    let ours = Ours::start(address(ipv6, 9, 6881), &[]);
    let mut theirs = Theirs {
        partner,
        local,
        ours,
    };
    let listed = theirs.find_us().await;
    talk.add("lists us", listed);
    let key = "11".repeat(20);
    let announced = theirs.announce(&key).await;
    let got = theirs.get_peers(&key).await;
    // It looks for nodes by `get_peers`, whose answers name them as well, and sends no `find_node`.
    let looked = theirs.ours.was_asked(Method::GetPeers);
    assert!(looked.is_ok(), "{looked:?}");
    talk.add("announce_peer", announced);
    talk.add("get_peers", got);
    let immutable = theirs.immutable().await;
    talk.add("put, get: immutable", immutable);
    let mutable = theirs.mutable("", "plain").await;
    talk.add("put, get: mutable", mutable);
    let salted = theirs.mutable("salt", "salted").await;
    talk.add("put, get: mutable, with salt", salted);
    theirs.ours.close().await;
    talk
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
