//! What a program seldom does, and what else it may have been started with.

use std::net::IpAddr;
use std::process::Command;

use anyhow::ensure;
use tests::family::Family;
use tests::namespace::{self, Namespace};

use crate::hosts::exec;
use crate::waiting::{ALL, Program, arrived, cases};
use crate::wire::Wire;

/// Lengths of pieces whose sum does not fit are the kernel's to refuse, and nobody reads those pieces.
/// Sockets with numbers above those that are looked after send as ever.
#[test]
fn odd_lengths_and_high_numbers() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let wire = Wire::new(Family::Ipv4, false)?;
        let program = Program::new()?;
        let run = program.run(&wire, Some("own_overflow"))?;
        ensure!(cases(&run)?.contains_key("refused"), "{:?}", run.answers);
        ensure!(arrived(&run, "own_overflow") == ALL);
        let run = program.run(&wire, Some("own_high"))?;
        ensure!(cases(&run)?.contains_key("high"), "{:?}", run.answers);
        ensure!(arrived(&run, "high") == ALL);
        ensure!(!run.shared.contains_key(&b"high"[..]), "shared a packet");
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

/// A library that is loaded anyway stays.
#[test]
fn other_libraries_are_loaded_too() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let directory = tempfile::tempdir()?;
        let (source, other) = (
            directory.path().join("other.c"),
            directory.path().join("other.so"),
        );
        std::fs::write(&source, "int nothing_of_interest;\n")?;
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]);
        ensure!(compiler.arg(&other).arg(&source).status()?.success());
        let host = Namespace::new("exec")?;
        let router: IpAddr = "10.9.9.2".parse()?;
        let mut command = exec(&host, Some(router));
        command.env("LD_PRELOAD", &other);
        let output = command.args(["--", "cat", "/proc/self/maps"]).output()?;
        let maps = String::from_utf8_lossy(&output.stdout);
        for library in ["/other.so", "/libxcast_preload"] {
            ensure!(maps.contains(library), "{library} is not loaded: {maps}");
        }
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}
