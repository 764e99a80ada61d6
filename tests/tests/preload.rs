//! `xcast-ctl exec`: programs that know nothing of Xcast.

#[path = "preload/cluster.rs"]
mod cluster;
#[path = "preload/corners.rs"]
mod corners;
#[path = "preload/going.rs"]
mod going;
#[path = "preload/hosts.rs"]
mod hosts;
#[path = "preload/kinds.rs"]
mod kinds;
#[path = "preload/model.rs"]
mod model;
#[path = "preload/options.rs"]
mod options;
#[path = "preload/programs.rs"]
mod programs;
#[path = "preload/swarm.rs"]
mod swarm;
#[path = "preload/vpn.rs"]
mod vpn;
#[path = "preload/waiting.rs"]
mod waiting;
#[path = "preload/wire.rs"]
mod wire;

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::daemon::PATIENCE;
use tests::family::Family;
use tests::namespace::{self, Namespace};
use tests::tap::Tap;

use crate::hosts::{Hosts, PORT, Program, RECEIVERS, exec, frames, script};

/// A loop of sendto, one of sendmsg, and a single sendmmsg to 20 receivers put one packet on the first
/// link: from a host inside UDP, and from a router natively. Receivers get the same octets from the
/// program's own address and port. Without the router everyone is served one by one.
#[track_caller]
fn one_packet_instead_of_20(family: Family) {
    if !namespace::available() {
        return;
    }
    let test = || {
        let mut hosts = Hosts::up(family)?;
        let ways = [("A", "R1", true), ("R1", "R2", false)];
        for (node, peer, in_udp) in ways {
            let (own, router) = (hosts.address(node, peer)?, hosts.address("R1", "A")?);
            let mut taps = vec![hosts.tap(node, peer)?];
            if !in_udp {
                // What a router sends by XDP is seen nowhere else on its host.
                let own = hosts.bed.namespace(node)?;
                taps.push(Tap::open_for_sent(&own, "xcast0")?);
            }
            for how in ["loop", "sendmsg", "sendmmsg"] {
                let context = || format!("{how} on {node}");
                let namespace = hosts.bed.namespace(node)?;
                let mut command = exec(&namespace, in_udp.then_some(router));
                command.args(["--", "python3"]).arg(script("fan.py"));
                command.args([how, &own.to_string(), &PORT.to_string()]);
                command.args(hosts.to.iter().map(|to| to.ip().to_string()));
                let mut program = Program::start(&mut command)?;
                let port: u16 = program.line()?.parse().with_context(context)?;
                let mut number = 0;
                let mut send = |program: &mut Program| -> Result<usize> {
                    number += 1;
                    let message = format!("{how} message {number:05} of {node}");
                    program.say(&message)?;
                    hosts.receive(&message, (own, port).into())?;
                    taps.iter().map(|tap| frames(tap, &message)).sum()
                };
                // Unicast until the router has answered and everyone is known.
                let deadline = Instant::now() + PATIENCE;
                ensure!(send(&mut program)? == RECEIVERS, "{}: the first", context());
                while send(&mut program)? != 1 {
                    ensure!(Instant::now() < deadline, "{}: never shared", context());
                    std::thread::sleep(Duration::from_millis(10));
                }
                for _ in 0..20 {
                    let count = send(&mut program)?;
                    ensure!(count == 1, "{}: {count} packets", context());
                }
                program.end().with_context(context)?;
            }
        }
        // Nobody there: the same program, one by one.
        hosts
            .bed
            .testbed
            .stop_router("R1", nix::sys::signal::Signal::SIGTERM)?;
        let namespace = hosts.bed.namespace("A")?;
        let (own, router) = (hosts.address("A", "R1")?, hosts.address("R1", "A")?);
        let mut command = exec(&namespace, Some(router));
        command.args(["--", "python3"]).arg(script("fan.py"));
        command.args(["loop", &own.to_string(), &PORT.to_string()]);
        command.args(hosts.to.iter().map(|to| to.ip().to_string()));
        let mut program = Program::start(&mut command)?;
        let port: u16 = program.line()?.parse()?;
        let tap = hosts.tap("A", "R1")?;
        for number in 0..5 {
            let message = format!("unicast {number}");
            program.say(&message)?;
            hosts.receive(&message, (own, port).into())?;
            ensure!(frames(&tap, &message)? == RECEIVERS, "not one by one");
        }
        program.end()?;
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{family:?}: {error:#}");
    }
}

#[test]
fn one_packet_instead_of_20_ipv4() {
    one_packet_instead_of_20(Family::Ipv4);
}

#[test]
fn one_packet_instead_of_20_ipv6() {
    one_packet_instead_of_20(Family::Ipv6);
}

/// An error that comes back for one destination of a list is the program's, as for a datagram.
#[track_caller]
fn errors_come_back(family: Family) {
    if !namespace::available() {
        return;
    }
    let test = || {
        let mut hosts = Hosts::with(family, 5)?;
        let (own, router) = (hosts.address("A", "R1")?, hosts.address("R1", "A")?);
        // Nobody receives there.
        let gone = hosts.to[2];
        drop(hosts.receivers.remove(2));
        let tap = hosts.tap("A", "R1")?;
        let mut command = exec(&hosts.bed.namespace("A")?, Some(router));
        command.args(["--", "python3"]).arg(script("errors.py"));
        command.args([own.to_string(), PORT.to_string()]);
        command.args(hosts.to.iter().map(|to| to.ip().to_string()));
        let mut program = Program::start(&mut command)?;
        program.line()?;
        let deadline = Instant::now() + PATIENCE;
        // ECONNREFUSED.
        let error = format!("{} {} 111 ", gone.ip(), gone.port());
        // The kernel limits how often a host says so.
        for number in 0.. {
            ensure!(Instant::now() < deadline, "no error for a shared packet");
            let message = format!("message {number}");
            program.say(&message)?;
            let errors = program.line()?;
            if frames(&tap, &message)? == 1 && errors == format!("{error}{message}") {
                break;
            }
            ensure!(
                errors
                    .split(';')
                    .all(|it| it.is_empty() || it.starts_with(&error)),
                "{errors}"
            );
        }
        program.end()?;
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{family:?}: {error:#}");
    }
}

#[test]
fn errors_come_back_ipv4() {
    errors_come_back(Family::Ipv4);
}

#[test]
fn errors_come_back_ipv6() {
    errors_come_back(Family::Ipv6);
}

/// The program's own exit status and standard streams, and what it is told where nothing can be done.
#[test]
fn the_program_is_what_runs() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let host = Namespace::new("exec")?;
        let router: IpAddr = "10.9.9.2".parse()?;
        let run = |program: &[&str]| -> Result<_> {
            let mut command = exec(&host, Some(router));
            Ok(command.arg("--").args(program).output()?)
        };
        let output = run(&["sh", "-c", "echo out; echo err >&2; exit 7"])?;
        ensure!(output.status.code() == Some(7), "{output:?}");
        ensure!(
            output.stdout == b"out\n" && output.stderr == b"err\n",
            "{output:?}"
        );
        let output = run(&["no-such-program"])?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2), "{output:?}");
        ensure!(
            stderr.contains("no-such-program") && stderr.lines().count() == 1,
            "{stderr}"
        );
        // What no library gets into is told so, and runs.
        let directory = tempfile::tempdir()?;
        let others = directory.path().join("others");
        std::fs::copy("/bin/true", &others)?;
        std::os::unix::fs::chown(&others, Some(65534), None)?;
        std::fs::set_permissions(&others, PermissionsExt::from_mode(0o4755))?;
        let others = others.to_string_lossy();
        for (program, why) in [
            (&["/sbin/ldconfig", "--version"][..], "statically"),
            (&[&*others][..], "setuid"),
        ] {
            let output = run(program)?;
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "{output:?}");
            ensure!(
                stderr.contains(why) && stderr.lines().count() == 1,
                "{stderr}"
            );
        }
        // Without a router here or on the network there is nothing to do.
        let output = exec(&host, None).args(["--", "true"]).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(2) && stderr.contains("--protocol"),
            "{stderr}"
        );
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}
