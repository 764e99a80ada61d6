//! The command as a script sees it: exit status, what goes to standard output, what to error.

use std::{
    io::Read as _,
    process::{Command, Output, Stdio},
};

fn xcast_ctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xcast-ctl"));
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    xcast_ctl(arguments).output().expect("xcast-ctl starts")
}

/// Expects exit status 2, nothing on standard output, and one line on standard error.
#[track_caller]
fn assert_error(arguments: &[&str], says: &str) {
    let output = output(arguments);
    let stderr = String::from_utf8(output.stderr).expect("errors are text");
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(
        stderr.starts_with("xcast-ctl: ") && stderr.contains(says),
        "{stderr}"
    );
    assert_eq!(stderr.matches('\n').count(), 1, "{stderr}");
}

#[test]
fn errors_are_one_line_and_status_2() {
    let running = "no xcast router is running in this network namespace (no control socket @xcast/";
    for verb in ["status", "stats", "routes", "next-hops", "ports"] {
        assert_error(&[verb, "--router", "nobody"], running);
        assert_error(&[verb, "--router", "nobody", "--json"], running);
    }
    assert_error(
        &["explain", "--router", "nobody", "10.0.0.1", "10.0.0.2"],
        running,
    );
    assert_error(
        &["run", "--config", "/nonexistent/file"],
        "cannot read the configuration file",
    );
    assert_error(&["frobnicate"], "unrecognized subcommand");
    assert_error(&["send", "10.0.0.1"], "write 10.0.0.1:PORT");
}

/// What members keep has to be enough for what is lost until they notice that one has died.
#[test]
fn a_stream_too_fast_to_be_repaired_is_refused() {
    let key = std::env::temp_dir().join(format!("xcast-{}.key", std::process::id()));
    let file = key.display().to_string();
    let refused = |rate: &'static str, arguments: &[&str], most: &str| {
        let all = [&["tree", "news", "--key", &file, "--rate", rate], arguments].concat();
        assert_error(&all, most);
    };
    refused(
        "20000",
        &[],
        "at most 15334 with --keep 16 and --payload 914",
    );
    refused("16000", &["--payload", "100"], "at most 3276 with");
    refused("8000", &["--keep", "8"], "at most 7666 with --keep 8");
    std::fs::remove_file(&key).expect("the key was made");
}

#[test]
fn nothing_to_unload_is_done() {
    let output = output(&["unload", "--router", "nobody"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"no router was running, nothing to remove\n");
}

#[test]
fn time_over_without_a_datagram_is_no() {
    let arguments = [
        "recv",
        "--address",
        "127.0.0.1",
        "--port",
        "0",
        "--timeout",
        "0.05",
    ];
    let output = output(&arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
}

#[test]
fn help_is_asked_for_and_goes_to_standard_output() {
    let short = output(&["send", "-h"]);
    let long = output(&["send", "--help"]);
    for help in [&short, &long] {
        assert_eq!(help.status.code(), Some(0));
        assert!(help.stderr.is_empty());
    }
    assert!(long.stdout.len() > short.stdout.len());
    let none = output(&[]);
    assert_eq!(none.status.code(), Some(2));
    assert!(none.stdout.is_empty());
}

#[test]
fn a_configuration_that_was_written_can_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("xcast.toml");
    let path = path.to_str().unwrap();
    let written = output(&[
        "init",
        "--output",
        path,
        "--interface",
        "no-such-if",
        "--json",
    ]);
    assert_eq!(written.status.code(), Some(0));
    let document: serde_json::Value = serde_json::from_slice(&written.stdout).unwrap();
    assert_eq!(document["ports"][0], "no-such-if");
    assert_error(&["init", "--output", path], "--force");

    let checked = output(&["check", "--config", path, "--json"]);
    assert_eq!(checked.status.code(), Some(1), "there is no such interface");
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let missing = findings
        .iter()
        .find(|finding| finding["check"] == "exists")
        .unwrap();
    assert_eq!(
        (&missing["severity"], &missing["interface"]),
        (&"fault".into(), &"no-such-if".into())
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = xcast_ctl(&["stats", "--explain"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Whether the pipe breaks before or after it was written to: neither is an error.
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}
