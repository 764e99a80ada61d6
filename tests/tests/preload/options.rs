//! The options of `exec`.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::family::Family;
use tests::namespace;

use crate::hosts::{Program, script};
use crate::waiting;
use crate::wire::{INTERFACE, Run, Wire};

/// A round by a program under `exec` with these options.
fn command(wire: &Wire, options: &[&str], what: &[&str]) -> Command {
    let mut command = wire.exec(options);
    command.args(["--", "python3"]).arg(script("options.py"));
    command.arg(wire.own().to_string()).args(what);
    command
}

/// On a busy machine the usual time can end amid the round, so it has more.
fn round(wire: &Wire, options: &[&str], what: &str) -> Result<Run> {
    let options = [&["--max-delay", "1000"], options].concat();
    wire.run(true, &mut command(wire, &options, &[what]))
}

#[track_caller]
fn options_do_what_they_say(family: Family) {
    if !namespace::available() {
        return;
    }
    let test = || {
        let wire = Wire::new(family, false)?;
        let shared = |run: &Run| run.shared.get(&b"round"[..]).copied();

        // Fewest destinations.
        ensure!(shared(&round(&wire, &[], "two")?).is_none());
        ensure!(shared(&round(&wire, &["--min", "2"], "two")?) == Some(2));

        // Destinations in a list; others pass.
        let (network, pair, one) = match family {
            Family::Ipv4 => ("10.9.1.", "/31", "/32"),
            Family::Ipv6 => ("fd09:1::", "/127", "/128"),
        };
        let allowed = &format!("{network}4{pair},{network}6{one},{network}7{one}");
        let run = round(&wire, &["--allow", allowed], "everyone")?;
        let lists: BTreeSet<IpAddr> = run.shared_to.iter().map(|to| to.ip()).collect();
        let wanted = (4..=7).filter_map(|number| format!("{network}{number}").parse().ok());
        let wanted: BTreeSet<IpAddr> = wanted.collect();
        ensure!(lists == wanted, "{lists:?}");
        ensure!(run.streams.len() == 8 && shared(&run) == Some(4));

        // A program that calls nothing does not keep what it has sent.
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("go on");
        let path = file.to_string_lossy().into_owned();
        let mut spins = command(&wire, &["--max-delay", "100"], &["spin", &path]);
        let run = wire.run_and(true, &mut spins, |run| {
            if run.streams.len() == 8 {
                fs::write(&file, "")?;
            }
            Ok(())
        })?;
        ensure!(shared(&run) == Some(8));

        // Statistics on a signal, and at the end.
        let file = directory.path().join("statistics");
        let path = format!("--statistics={}", file.display());
        let run = round(&wire, &[&path, "--json", "--signal", "USR2"], "signal")?;
        ensure!(shared(&run) == Some(8));
        let text = fs::read_to_string(&file)?;
        let lines: Vec<Value> = text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .with_context(|| text.clone())?;
        let [on_signal, at_end] = &lines[..] else {
            anyhow::bail!("not two documents: {text}");
        };
        let value = |line: &Value, name: &str| line[name].as_u64().unwrap_or_default();
        ensure!(value(on_signal, "pid") == value(at_end, "pid"));
        // Whoever sends a signal, even to itself, lets go what is held.
        for name in ["sends", "taken", "shared", "xcast_packets"] {
            ensure!(value(at_end, name) > 0, "{name}: {text}");
            ensure!(value(at_end, name) == value(on_signal, name), "{text}");
        }
        // On a busy machine the time of a group can end before all of it is there. The first may be one short:
        // where the router has answered early, one destination is new then.
        let (shared, packets) = (value(at_end, "shared"), value(at_end, "xcast_packets"));
        let split = value(at_end, "ended_by_timer");
        ensure!(
            shared <= 8 * packets && shared + 1 + 8 * split >= 8 * packets,
            "{text}"
        );
        let sum = value(at_end, "shared") + value(at_end, "few") + value(at_end, "fell_back");
        ensure!(value(at_end, "taken") == sum, "{text}");
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{family:?}: {error:#}");
    }
}

/// Messages count by whatever call, also of sockets that are left alone, and whatever becomes of the process.
#[test]
fn all_messages_are_counted() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let wire = Wire::new(Family::Ipv4, false)?;
        let directory = tempfile::tempdir()?;
        let program = waiting::Program::new()?;
        for case in ["own_count", "own_count_exec"] {
            let file = directory.path().join(case);
            let path = format!("--statistics={}", file.display());
            let mut command = wire.exec(&[&path, "--json", "--"]);
            command.arg(program.path());
            command.args([INTERFACE, &wire.own().to_string(), case]);
            let mut program = Program::start(&mut command)?;
            program.say("go")?;
            program.end()?;
            let text = fs::read_to_string(&file)?;
            let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
            let sends = lines?
                .iter()
                .filter_map(|line| line["sends"].as_u64())
                .sum::<u64>();
            // Rounds to eight, and six.
            ensure!(sends % 8 == 6, "{case}: {text}");
        }
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

#[test]
fn options_do_what_they_say_ipv4() {
    options_do_what_they_say(Family::Ipv4);
}

#[test]
fn options_do_what_they_say_ipv6() {
    options_do_what_they_say(Family::Ipv6);
}
