//! The program writes rows and a plot, the same ones every time.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

fn deployment(out: &Path) -> (String, Vec<u8>) {
    let output = Command::new(env!("CARGO_BIN_EXE_xcast-sim"))
        .args(["deployment", "--seeds", "1", "--messages", "2", "--out"])
        .arg(out)
        .output()
        .expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("graph 1 of 1"), "no progress: {errors}");
    let rows = fs::read_to_string(out.join("deployment.json")).expect("it is written");
    let plot = fs::read(out.join("deployment.svg")).expect("it is written");
    (rows, plot)
}

#[test]
fn rows_and_plot_of_a_partial_deployment() {
    let directory = tempfile::tempdir().expect("there is room");
    let (rows, plot) = deployment(&directory.path().join("a"));
    assert_eq!(
        deployment(&directory.path().join("b")),
        (rows.clone(), plot)
    );
    let rows: Vec<Value> = serde_json::from_str(&rows).expect("it is JSON");
    let links = |row: &Value| row["saved_percent"]["links"]["mean"].as_f64();
    let full = links(&rows[0]).expect("it is a number");
    assert!(full > 20.0, "{full}");
    let all = |row: &&Value| row["variant"]["deployment"]["share"] == 1.0;
    let placed: Vec<_> = rows.iter().filter(all).collect();
    assert_eq!(placed.len(), 4);
    for row in placed {
        assert_eq!(links(row), Some(full), "{row}");
        assert_eq!(row["difference"]["links"]["mean"], 0.0);
    }
}

#[test]
fn savings_on_a_map() {
    let directory = tempfile::tempdir().expect("there is room");
    let map = directory.path().join("square.txt");
    fs::write(&map, "a b\nb c\nc d\nd a\n").expect("there is room");
    let run = |map: &Path| {
        Command::new(env!("CARGO_BIN_EXE_xcast-sim"))
            .args(["savings", "--seeds", "2", "--messages", "5", "--graph"])
            .arg(map)
            .arg("--out")
            .arg(directory.path())
            .output()
            .expect("it starts")
    };
    let output = run(&map);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let rows = fs::read(directory.path().join("savings.json")).expect("it is written");
    let rows: Vec<Value> = serde_json::from_slice(&rows).expect("it is JSON");
    // Two and three destinations, four variants each: there are hosts for no more.
    assert_eq!(rows.len(), 8);
    assert!(
        rows.iter()
            .all(|row| row["topology"] == "square" && row["model"].is_null())
    );
    let plot = fs::read_to_string(directory.path().join("savings-links.svg"));
    assert!(plot.expect("it is written").contains("formula 1 - m^-0.18"));

    fs::write(&map, "a b\nc d\n").expect("there is room");
    let output = run(&map);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(errors.contains("not connected"), "{errors}");
}

/// Runs the program, which has to succeed: what it printed.
fn run(arguments: &[&str], out: Option<&Path>) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xcast-sim"));
    command.args(arguments);
    if let Some(out) = out {
        command.arg("--out").arg(out);
    }
    let output = command.output().expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("it is text")
}

/// Short forms of all that is simulated: the same seed gives the same bytes, in rows and in plots.
#[test]
fn the_same_seed_gives_the_same_bytes() {
    let directory = tempfile::tempdir().expect("there is room");
    let experiments: [(&[&str], &[&str]); 8] = [
        (
            &[
                "tree",
                "--members",
                "60",
                "--destinations",
                "5",
                "--topology",
                "random-tree",
                "--seeds",
                "2",
            ],
            &["tree.json", "tree.svg"],
        ),
        (
            &[
                "d1ht",
                "--peers",
                "40",
                "--intervals",
                "3",
                "--topology",
                "random-tree",
                "--seeds",
                "1",
                "--own-tables",
            ],
            &["d1ht.json"],
        ),
        (
            &["edra", "--peers", "2000", "--events", "3", "--seeds", "1"],
            &["edra.json"],
        ),
        (
            &[
                "gia",
                "--nodes",
                "60",
                "--load",
                "0.1",
                "--load",
                "3",
                "--seconds",
                "5",
                "--warm-up",
                "5",
                "--seeds",
                "1",
            ],
            &["gia.json", "gia.svg"],
        ),
        (
            &[
                "converge",
                "--overlay",
                "CAN",
                "--peers",
                "30",
                "--operations",
                "20",
                "--churn",
                "1",
                "--seeds",
                "1",
            ],
            &["converge.json"],
        ),
        (
            &[
                "lists",
                "--overlay",
                "Tapestry",
                "--peers",
                "20",
                "--operations",
                "10",
                "--topology",
                "random-tree",
                "--seeds",
                "1",
            ],
            &["lists.json"],
        ),
        (
            &[
                "payload",
                "--messages",
                "2",
                "--payload",
                "100",
                "--destinations",
                "10",
                "--seeds",
                "1",
            ],
            &["payload.json", "payload.svg"],
        ),
        (
            &[
                "loss",
                "--nodes",
                "25",
                "--lookups",
                "10",
                "--loss",
                "0",
                "--loss",
                "2",
                "--seeds",
                "1",
            ],
            &["loss.json", "loss.svg"],
        ),
    ];
    for (arguments, files) in experiments {
        let [one, other] = ["a", "b"].map(|name| {
            let out = directory.path().join(name);
            let printed = run(arguments, Some(&out));
            let files = files
                .iter()
                .map(|file| fs::read(out.join(file)).expect("it is written"));
            (printed, files.collect::<Vec<_>>())
        });
        assert!(one == other, "{arguments:?} is not the same every time");
        assert!(one.1.iter().all(|file| file.len() > 100), "{arguments:?}");
    }
}

/// A short form of a day: memory does not grow, of a network that is at rest and of one under churn.
#[test]
fn memory_is_flat() {
    for arguments in [
        [
            "soak",
            "--overlay",
            "kademlia",
            "--nodes",
            "25",
            "--hours",
            "4",
            "--flat",
            "--json",
        ],
        [
            "soak",
            "--overlay",
            "d1ht",
            "--nodes",
            "30",
            "--hours",
            "4",
            "--flat",
            "--json",
        ],
    ] {
        let printed = run(&arguments, None);
        let hours: Vec<Value> = printed
            .lines()
            .map(|line| serde_json::from_str(line).expect("it is JSON"))
            .collect();
        assert_eq!(hours.len(), 4);
        assert!(
            hours
                .iter()
                .all(|hour| hour["messages"].as_u64() > Some(100)),
            "{printed}"
        );
    }
}

/// A number that makes no sense is refused before anything runs, with what it has to be.
#[test]
fn numbers_without_sense_are_refused() {
    for (arguments, option) in [
        ("d1ht --session NaN", "--session"),
        ("edra --session inf", "--session"),
        ("converge --session 0", "--session"),
        ("converge --loss 101", "--loss"),
        ("kademlia --loss NaN", "--loss"),
        ("kademlia --share 1000", "--share"),
        ("loss --loss inf", "--loss"),
        ("gia --load 1e-300", "--load"),
        ("gia --load 0", "--load"),
        ("savings --payload 4294967295", "--payload"),
        ("savings --seeds 18446744073709551614", "--seeds"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_xcast-sim"))
            .args(arguments.split(' '))
            .output()
            .expect("it starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {errors}");
        assert!(errors.contains(option), "{arguments}: {errors}");
    }
}
