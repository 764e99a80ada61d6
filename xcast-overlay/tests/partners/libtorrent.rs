//! libtorrent, by its Python module.

use std::process::Command;

use serde_json::json;
use xcast_overlay::krpc::signing_key;

use super::{
    namespace::{address, in_namespace},
    ours::Ours,
    program::Program,
};

const PYTHON: &str = "/usr/bin/python3";
const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/partners/libtorrent_node.py"
);

fn missing() -> &'static [&'static str] {
    let there = Command::new(PYTHON)
        .args(["-c", "import libtorrent"])
        .status();
    match there.is_ok_and(|status| status.success()) {
        true => &[],
        false => &["python3-libtorrent"],
    }
}

async fn start(ipv6: bool) -> Program {
    let local = address(ipv6, 1, 6881);
    let arguments = [
        SCRIPT.to_owned(),
        local.ip().to_string(),
        local.port().to_string(),
    ];
    let mut partner = Program::start(PYTHON, arguments);
    assert_eq!(partner.line().await, "ready");
    partner
}

/// It answers all that we ask.
async fn we_ask(ipv6: bool) {
    let _partner = start(ipv6).await;
    let local = address(ipv6, 1, 6881);
    let mut ours = Ours::start(address(ipv6, 9, 6881), &[local], 8);
    ours.ask_bep5(local).await;
    ours.ask_bep44(local).await;
    ours.is_listed_by(local).await;
    ours.close().await;
}

/// It finds us, lists us, and gets from us what it stored at us: nobody else is there.
async fn they_ask(ipv6: bool) {
    let mut partner = start(ipv6).await;
    let local = address(ipv6, 1, 6881);
    let mut ours = Ours::start(address(ipv6, 9, 6881), &[], 8);
    let (ip, port) = (ours.address().ip().to_string(), ours.address().port());
    assert_eq!(
        ours.during(partner.ask(json!(["add", ip, port]))).await,
        true
    );
    ours.is_listed_by(local).await;

    let key = "11".repeat(20);
    ours.during(partner.ask(json!(["announce", key]))).await;
    ours.until("announce_peer", |ours| ours.stored().1 == 1)
        .await;
    let peers = ours.during(partner.ask(json!(["get_peers", key]))).await;
    assert_eq!(peers, json!([local.to_string()]));

    let stored = ours
        .during(partner.ask(json!(["put", "never changes"])))
        .await;
    // It may count itself.
    assert!(stored[1].as_u64() >= Some(1), "{stored}");
    let got = ours.during(partner.ask(json!(["get", stored[0]]))).await;
    assert_eq!(got, "never changes");

    let secret = hex(&[7; 32]);
    let public = hex(&signing_key([7; 32]).verifying_key().to_bytes());
    for (salt, value) in [("", "plain"), ("salt", "salted")] {
        let put = json!(["put_mutable", secret, public, value, salt]);
        let stored = ours.during(partner.ask(put)).await;
        assert!(stored.as_u64() >= Some(1), "{stored}");
        let got = ours
            .during(partner.ask(json!(["get_mutable", public, salt])))
            .await;
        assert_eq!(got, json!([value, 1]));
    }
    assert_eq!(ours.stored().2, 3);
    ours.close().await;
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[test]
fn libtorrent_answers_us() {
    in_namespace(missing(), async || we_ask(false).await);
}

#[test]
fn libtorrent_answers_us_over_ipv6() {
    in_namespace(missing(), async || we_ask(true).await);
}

#[test]
fn we_answer_libtorrent() {
    in_namespace(missing(), async || they_ask(false).await);
}

#[test]
fn we_answer_libtorrent_over_ipv6() {
    in_namespace(missing(), async || they_ask(true).await);
}
