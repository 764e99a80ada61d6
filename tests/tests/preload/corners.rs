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

/// Addresses that no program has, and lengths of addresses that are too long, are refused as without the
/// library.
#[test]
fn bad_addresses_are_refused() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let wire = Wire::new(Family::Ipv4, false)?;
        let run = Program::new()?.run(&wire, Some("own_bad"))?;
        let wanted = "refused EFAULT EFAULT EINVAL EFAULT EFAULT EFAULT EFAULT";
        ensure!(run.answers == [wanted], "{:?}", run.answers);
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

/// A socket that others have, too, is left alone if it was handed over by any message of a `sendmmsg`.
#[test]
fn a_socket_is_handed_over_by_sendmmsg() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let wire = Wire::new(Family::Ipv4, false)?;
        let run = Program::new()?.run(&wire, Some("own_given"))?;
        ensure!(run.answers == ["given 2"], "{:?}", run.answers);
        ensure!(arrived(&run, "alone") == ALL);
        ensure!(!run.shared.contains_key(&b"alone"[..]), "shared a packet");
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

/// A destination that was refused once is not taken again without a look, so the program is told of the
/// next one.
#[test]
fn a_refusal_is_told_with_the_next_datagram() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let wire = Wire::new(Family::Ipv4, false)?;
        let run = Program::new()?.run(&wire, Some("own_prohibited"))?;
        let rounds = run.answers.iter();
        let mut rounds = rounds.filter_map(|line| line.strip_prefix("told 0 "));
        let round: usize = rounds.next().unwrap_or_default().parse()?;
        ensure!(round <= 3, "told in round {round}");
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

/// What a child changes of a socket that it shares with its parent holds for what the parent sends.
#[test]
fn a_child_changes_its_parents_socket() {
    if !namespace::available() {
        return;
    }
    let test = |native| {
        let wire = Wire::new(Family::Ipv4, native)?;
        let run = Program::new()?.run(&wire, Some("own_changed"))?;
        let sent = run.streams.values().flatten();
        let sent = sent.filter(|sent| sent.content.starts_with(b"after "));
        let hops: Vec<_> = sent.map(|sent| sent.ttl).collect();
        ensure!(hops == [33; ALL], "TTLs {hops:?}");
        Ok(())
    };
    for native in [false, true] {
        if let Err(error) = test(native) {
            panic!("natively: {native}: {error:#}");
        }
    }
}

/// A thread that is stopped by a signal, wherever it is, goes on by the next one.
#[test]
fn threads_are_stopped_by_signals() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let wire = Wire::new(Family::Ipv4, false)?;
        let script = "timeout --signal KILL 60 \"$@\"; echo ended $?";
        let run = Program::new()?.run_by(&wire, script, Some("own_stops"))?;
        ensure!(run.answers == ["ended 0", "stopped"], "{:?}", run.answers);
        ensure!(arrived(&run, "beside") == 50 * ALL);
        ensure!(run.shared.contains_key(&b"on"[..]), "nothing is shared");
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

/// A program that has a filter refuse what locks need does without, and loses nothing.
#[test]
fn a_filter_of_system_calls_comes_later() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let wire = Wire::new(Family::Ipv4, false)?;
        let run = Program::new()?.run(&wire, Some("own_filtered"))?;
        let refused = run.answers.iter();
        let mut refused = refused.filter_map(|line| line.strip_prefix("filtered 0 "));
        let refused: usize = refused.next().unwrap_or_default().parse()?;
        // Once for each lock that leant.
        ensure!((1..=16).contains(&refused), "refused {refused} times");
        ensure!(arrived(&run, "turn") == 200 * ALL);
        ensure!(run.shared.get(&b"turn"[..]) == Some(&(200 * ALL)));
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

/// On a link that is slower than the program, what the program was told to be sent is sent, and the rest is
/// refused to a socket that does not wait.
#[test]
fn a_slow_link() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let wire = Wire::new(Family::Ipv4, false)?;
        let run = Program::new()?.run(&wire, Some("own_slow"))?;
        let said = run.answers.iter();
        let mut said = said.filter_map(|line| line.strip_prefix("said 0 "));
        let said: usize = said.next().unwrap_or_default().parse()?;
        ensure!(said < 300 * ALL, "nothing was refused");
        let arrived = arrived(&run, "slow");
        ensure!(arrived == said, "{arrived} of {said} arrived");
        ensure!(run.shared.contains_key(&b"slow"[..]), "nothing is shared");
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
        command
            .arg(script("sockets.py"))
            .arg(wire.own().to_string());
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
