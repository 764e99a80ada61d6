//! `examples/join.rs` among nodes of libtorrent.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{
    libtorrent,
    namespace::{PATIENCE, address},
};

/// Two nodes of libtorrent know each other, and one of them has announced itself; the example joins by
/// way of the other one, and finds it.
pub async fn join(ipv6: bool) -> Result<()> {
    let (mut other, others) = libtorrent::start(ipv6, 1).await;
    let (mut announcer, its) = libtorrent::start(ipv6, 2).await;
    let key = "22".repeat(20);
    let deadline = Instant::now() + PATIENCE;
    announcer
        .ask(json!(["add", others.ip().to_string(), others.port()]))
        .await;
    announcer.ask(json!(["announce", key])).await;
    // It asks the first one, which answers only who has announced itself.
    while other.ask(json!(["get_peers", key])).await != json!([its.to_string()]) {
        ensure!(
            Instant::now() < deadline,
            "libtorrent does not find it itself"
        );
        announcer.ask(json!(["announce", key])).await;
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut example = Command::new(env!("CARGO"));
    example.args(["run", "--quiet", "--package", "xcast-overlay"]);
    example.args(["--features", "net", "--example", "join", "--"]);
    example.arg(address(ipv6, 9, 6881).to_string());
    let output = example.arg(&key).arg(others.to_string()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    let joined = said.lines().next().context("it says nothing")?;
    ensure!(joined == "joined: 2 nodes", "{said}");
    ensure!(said.contains(&its.to_string()), "{said}");
    Ok(())
}
