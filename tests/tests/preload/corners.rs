//! What a program seldom does, and what else it may have been started with.

use std::net::IpAddr;
use std::process::Command;
use std::time::Instant;

use anyhow::ensure;
use tests::family::Family;
use tests::namespace::{self, Namespace};

use crate::hosts::{exec, script};
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

/// One question to the router serves all sockets: it answers a host no more than once a second.
#[test]
fn many_sockets_ask_once() {
    if !namespace::available() {
        return;
    }
    const SOCKETS: usize = 16;
    let test = |native| {
        let wire = Wire::new(Family::Ipv4, native)?;
        let mut command = wire.exec(&["--", "python3"]);
        command.arg(script("sockets.py")).arg(wire.own().to_string());
        command.args([&SOCKETS.to_string(), "4"]);
        let start = Instant::now();
        let run = wire.run(true, &mut command)?;
        for number in 0..SOCKETS {
            let name = format!("s{number}");
            let shared = run.shared.get(name.as_bytes());
            ensure!(shared.is_some(), "{name} shares no packet");
        }
        // Every 1.5 seconds, and once more at each end.
        let most = (start.elapsed().as_secs_f64() / 1.5) as usize + 2;
        ensure!(run.probes <= most, "{} probes, not {most}", run.probes);
        Ok(())
    };
    for native in [false, true] {
        if let Err(error) = test(native) {
            panic!("natively: {native}: {error:#}");
        }
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
