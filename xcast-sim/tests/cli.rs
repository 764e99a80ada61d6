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
