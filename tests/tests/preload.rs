//! `xcast-ctl exec`: programs that know nothing of Xcast.

#[path = "preload/cluster.rs"]
mod cluster;
#[path = "preload/corners.rs"]
mod corners;
#[path = "preload/errors.rs"]
mod errors;
#[path = "preload/going.rs"]
mod going;
#[path = "preload/guide.rs"]
mod guide;
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

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::daemon::{self, PATIENCE};
use tests::family::Family;
use tests::namespace::{self, Namespace};
use tests::packet::{ETHERNET_LEN, Ip};
use tests::tap::Tap;

use crate::hosts::{Hosts, PORT, Program, RECEIVERS, Way, exec, frames, script};

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
        let link = hosts.bed.testbed.interface("H1", "R2")?.name.clone();
        let arrivals = Tap::open(&hosts.bed.namespace("H1")?, &link)?;
        for way in [Way::InUdp, Way::Natively] {
            let own = hosts.own(way)?;
            let taps = hosts.taps(way)?;
            for how in ["loop", "sendmsg", "sendmmsg"] {
                let context = || format!("{how}, {way:?}");
                let mut command = hosts.exec(way)?;
                command.args(["--", "python3"]).arg(script("fan.py"));
                command.args([how, &own.to_string(), &PORT.to_string()]);
                command.args(hosts.to.iter().map(|to| to.ip().to_string()));
                let mut program = Program::start(&mut command)?;
                let port: u16 = program.line()?.parse().with_context(context)?;
                let mut number = 0;
                let mut send = |program: &mut Program| -> Result<usize> {
                    number += 1;
                    let message = format!("{how} message {number:05}, {way:?}");
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
                // Whatever way they came, TTL and DS byte are those of a datagram.
                let mut headers = BTreeSet::new();
                while let Some(frame) = arrivals.take()? {
                    if let Some((ip, rest)) = Ip::parse(family, &frame[ETHERNET_LEN..])
                        && rest.ends_with(format!(", {way:?}").as_bytes())
                    {
                        headers.insert((ip.ttl, ip.ds));
                    }
                }
                ensure!(headers.len() == 1, "{}: TTL and DS {headers:?}", context());
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
        // A library that is loaded anyway still is.
        let mut command = exec(&host, Some(router));
        command.args(["--", "sh", "-c", "echo $LD_PRELOAD"]);
        let output = command.env("LD_PRELOAD", "libm.so.6").output()?;
        let loaded = String::from_utf8_lossy(&output.stdout).into_owned();
        let (first, second) = loaded.trim().split_once(':').unwrap_or_default();
        ensure!(
            first.contains("xcast_preload") && second == "libm.so.6",
            "{loaded}"
        );
        // What no library gets into is told so, and runs.
        let directory = tempfile::tempdir()?;
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755))?;
        let others = |name: &str, owner, group, mode| -> Result<String> {
            let path = directory.path().join(name);
            std::fs::copy("/bin/true", &path)?;
            std::os::unix::fs::chown(&path, owner, group)?;
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode))?;
            Ok(path.to_string_lossy().into_owned())
        };
        let nobody = Some(65534);
        for (program, why) in [
            (&["/sbin/ldconfig", "--version"][..], "statically"),
            (&["gron", "--version"][..], "Go program"),
            (&[&*others("setuid", nobody, None, 0o4755)?][..], "setuid"),
            (&[&*others("setgid", None, nobody, 0o2755)?][..], "setgid"),
        ] {
            told(&run(program)?, why)?;
        }
        // A sanitizer ends a program into which another library comes before it.
        let compile = |options: &[&str], source: &str, name: &str| -> Result<String> {
            let path = directory.path().join(name).to_string_lossy().into_owned();
            std::fs::write(format!("{path}.c"), source)?;
            let mut compiler = Command::new("cc");
            compiler
                .args(["-o", &path, &format!("{path}.c")])
                .args(options);
            ensure!(compiler.status()?.success(), "{name}");
            Ok(path)
        };
        let sanitizer = compile(
            &["-shared", "-Wl,-soname,libasan.so.8"],
            "int checks;\n",
            "libasan.so.8",
        )?;
        let path = format!("-Wl,-rpath,{}", directory.path().display());
        let source = "extern int checks; int main() { return checks; }\n";
        let checked = compile(&[&sanitizer, &path], source, "checked")?;
        told(&run(&[&checked])?, "sanitizer")?;
        // Capabilities of a file are nothing new to root.
        let capable = others("capable", None, None, 0o755)?;
        host.run(&format!("setcap cap_net_raw+ep {capable}"))?;
        let output = run(&[&*capable])?;
        ensure!(output.stderr.is_empty(), "{output:?}");
        let ours = directory.path().join("xcast-ctl");
        std::fs::copy(daemon::program(), &ours)?;
        let mut command = host.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(&ours);
        // Behind the namespace, and who is entered there.
        command.args(exec(&host, Some(router)).get_args().skip(4));
        told(&command.args(["--", &capable]).output()?, "capabilities")?;
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

/// A program finds signals that are ignored and streams that are closed as who started it left them: a
/// service of systemd has SIGPIPE ignored.
#[test]
fn the_program_inherits_what_it_would() {
    if !namespace::available() {
        return;
    }
    let test = || {
        let host = Namespace::new("exec")?;
        let router: IpAddr = "10.9.9.2".parse()?;
        let show = "for fd in 0 1 2; do [ -e /proc/$$/fd/$fd ] && echo $fd; done; \
                    grep SigIgn: /proc/$$/status";
        let run = |before: &str, with: bool| -> Result<String> {
            let mut command = host.command("sh");
            command.args(["-c", &format!("{before} exec \"$@\""), "sh"]);
            if with {
                command.arg(daemon::program());
                // Behind the namespace, and who is entered there.
                command.args(exec(&host, Some(router)).get_args().skip(4));
                command.arg("--");
            }
            let output = command.args(["sh", "-c", show]).output()?;
            let shown = String::from_utf8(output.stdout)?;
            let (streams, ignored) = shown.split_once("SigIgn:").context("no signals")?;
            // Above are those of libc itself.
            let ignored = u64::from_str_radix(ignored.trim(), 16)? & 0x7fff_ffff;
            Ok(format!("{streams}{ignored:x}"))
        };
        for before in [
            "",
            "trap '' PIPE;",
            "exec 0<&-;",
            "exec 2>&-;",
            "trap '' PIPE HUP; exec 0<&- 2>&-;",
        ] {
            let (without, with) = (run(before, false)?, run(before, true)?);
            ensure!(without == with, "{before} {with} instead of {without}");
        }
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

/// A program says why the library is not in it, and has run.
fn told(output: &Output, why: &str) -> Result<()> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{output:?}");
    ensure!(
        stderr.contains(why) && stderr.lines().count() == 1,
        "{stderr} instead of {why}"
    );
    Ok(())
}
