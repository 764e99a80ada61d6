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
