//! The benchmark's own test: every subject delivers, and the document has its form. Times are not
//! looked at.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::daemon::PATIENCE;
use xtask::testbed::netns;

/// Runs the benchmark as short as it gets, with these arguments; returns what it printed, and its
/// document.
fn shortest(arguments: &[&str]) -> Result<(String, Value)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("results.json");
    let output = Command::new(env!("CARGO_BIN_EXE_xcast-bench"))
        .args(arguments)
        .args(["--rounds", "1", "--run-ms", "1", "--json"])
        .arg(&path)
        .output()?;
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{stdout}{stderr}");
    let document = serde_json::from_slice(&fs::read(&path)?)?;
    Ok((stdout.into_owned(), document))
}

/// The rows of a list that have these values in these fields.
fn rows<'a>(list: &'a Value, fields: &[(&str, Value)]) -> Vec<&'a Value> {
    let has = |row: &&Value| fields.iter().all(|(field, value)| row[*field] == *value);
    list.as_array().into_iter().flatten().filter(has).collect()
}

#[test]
fn the_shortest_run_loses_nothing() {
    if !tests::namespace::available() {
        return;
    }
    let (stdout, document) = shortest(&["--quick"]).unwrap();
    let machine = &document["machine"];
    assert!(machine["kernel"].is_string() && machine["cores"].is_u64());
    for (family, suffix) in [(4, ""), (6, ", IPv6")] {
        for subject in [
            "generate",
            "broadcast",
            "broadcast, program",
            "xcast",
            "xcast-miss",
            "tc",
            "ipmr",
            "unicast",
        ] {
            let of_subject = [("subject", subject.into()), ("family", family.into())];
            let rows = rows(&document["results"], &of_subject);
            assert!(!rows.is_empty(), "no row of {subject}{suffix}: {document}");
            for row in rows {
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
        }
        for ratio in [
            "xcast/broadcast",
            "ipmr/xcast",
            "tc/xcast",
            "xcast-miss/broadcast",
            "lan/ports",
        ] {
            let ratio = format!("{ratio}{suffix}");
            assert!(
                document["ratios"][&ratio].is_number(),
                "{ratio}: {document}"
            );
            assert!(stdout.contains(&ratio), "{ratio} is not in:\n{stdout}");
        }
    }
}

#[test]
fn packets_and_copies_pass_tunnels() {
    if !tests::namespace::available() {
        return;
    }
    let (stdout, document) = shortest(&["--only", "tunnels"]).unwrap();
    for (family, suffix) in [(4, ""), (6, ", IPv6")] {
        for subject in [
            "no tunnel",
            "into IP in IP",
            "into UDP",
            "out of IP in IP",
            "out of UDP",
        ] {
            let fields = [("subject", subject.into()), ("family", family.into())];
            let found = rows(&document["results"], &fields);
            assert_eq!(found.len(), 1, "{fields:?}: {document}");
            assert_eq!(found[0]["delivered"], true, "{}", found[0]);
            assert!(found[0]["objection"].is_null(), "{}", found[0]);
            let ratio = format!("{subject}/no tunnel{suffix}");
            assert_eq!(
                stdout.contains(&ratio),
                subject != "no tunnel",
                "{ratio}: {stdout}"
            );
        }
    }
}

#[test]
fn full_lists_of_either_family_are_sent() {
    if !tests::namespace::available() {
        return;
    }
    let (_, document) = shortest(&["--only", "sender,stages"]).unwrap();
    for (family, most) in [(4, 127), (6, 125)] {
        let full = [("destinations", most.into()), ("family", family.into())];
        for (list, subject) in [
            ("sender", ("subject", "xcast".into())),
            ("sender", ("subject", "sendto".into())),
            ("sender", ("subject", "sendmmsg".into())),
            ("stages", ("stage", "send".into())),
        ] {
            let fields = [full.to_vec(), vec![subject]].concat();
            let found = rows(&document[list], &fields);
            assert_eq!(found.len(), 1, "{fields:?} in {list}: {document}");
            if list == "sender" {
                assert_eq!(found[0]["delivered"], true, "{}", found[0]);
            }
        }
    }
}

#[test]
fn one_family_is_measured_alone() {
    if !tests::namespace::available() {
        return;
    }
    let (_, document) = shortest(&["--only", "copies", "--family", "6"]).unwrap();
    assert!(!rows(&document["results"], &[("family", 6.into())]).is_empty());
    let others = rows(&document["results"], &[("family", 4.into())]);
    assert!(others.is_empty(), "{document}");
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
