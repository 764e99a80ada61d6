//! The benchmark's own test: every subject delivers, and the document has its form. Times are not
//! looked at.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::daemon::PATIENCE;
use xtask::testbed::netns;

#[test]
fn the_shortest_run_loses_nothing() {
    if !tests::namespace::available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("results.json");
    let output = Command::new(env!("CARGO_BIN_EXE_xcast-bench"))
        .args(["--quick", "--rounds", "1", "--run-ms", "1", "--json"])
        .arg(&path)
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stdout}{stderr}");

    let document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let machine = &document["machine"];
    assert!(machine["kernel"].is_string() && machine["cores"].is_u64());
    let results = document["results"].as_array().unwrap();
    for subject in [
        "generate",
        "broadcast",
        "xcast",
        "xcast-miss",
        "tc",
        "ipmr",
        "unicast",
    ] {
        let row = results.iter().find(|row| row["subject"] == subject);
        let row = row.unwrap_or_else(|| panic!("no row of {subject}: {document}"));
        for field in ["copies", "destinations", "payload_bytes", "routes"] {
            assert!(row[field].is_u64(), "{field} in {row}");
        }
        for field in ["min", "median", "max"] {
            let ns = row["ns_per_packet"][field].as_f64();
            assert!(ns.is_some_and(|ns| ns > 0.0), "{field} in {row}");
        }
        assert_eq!(row["delivered"], true, "{row}");
        assert_eq!(row["lost"], 0, "{row}");
        assert!(row["objection"].is_null(), "{row}");
    }
    for ratio in [
        "xcast/broadcast",
        "ipmr/xcast",
        "tc/xcast",
        "xcast-miss/broadcast",
        "lan/ports",
    ] {
        assert!(document["ratios"][ratio].is_number(), "{ratio}: {document}");
        assert!(stdout.contains(ratio), "{ratio} is not in:\n{stdout}");
    }
}

#[test]
fn an_interrupted_run_removes_its_namespaces() {
    if !tests::namespace::available() {
        return;
    }
    let mut bench = Command::new(env!("CARGO_BIN_EXE_xcast-bench"))
        .args(["--quick", "--rounds", "1000"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(bench.id() as i32);
    let prefix = format!("xct-{pid}-");
    let namespaces = || {
        let names = netns::names().into_iter();
        names.filter(|name| name.starts_with(&prefix)).count()
    };
    let deadline = Instant::now() + PATIENCE;
    while namespaces() < 4 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    let made = namespaces();
    kill(pid, Signal::SIGINT).unwrap();
    let status = bench.wait().unwrap();
    assert!(made >= 4, "only {made} namespaces were made");
    assert_eq!(status.code(), Some(2), "{status}");
    assert_eq!(namespaces(), 0);
}
