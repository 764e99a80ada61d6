//! Command lines of docs/unmodified-programs.md, as a reader would type them.

use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::daemon::{self, PATIENCE};
use tests::family::Family;
use tests::namespace::{self, Namespace};

use crate::hosts::{Hosts, Running, UDP_PORT, Way};

/// What the page says in place of the reader's own network.
const ROUTER: &str = "10.77.0.1:4242";
const NUMBERS: &str = "--protocol 253 --group 224.0.0.254";

fn page() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/unmodified-programs.md");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The command of the page with this in it, on one line.
fn line(with: &str) -> Result<String> {
    let page = page()?.replace("\\\n", " ");
    let commands = page
        .split("```console\n")
        .skip(1)
        .filter_map(|block| block.split("```").next())
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")));
    let mut found = commands.filter(|command| command.contains(with));
    let command = found
        .next()
        .with_context(|| format!("no command with {with}"))?;
    ensure!(found.next().is_none(), "two commands with {with}");
    Ok(command.to_owned())
}

/// Replaces what has to be there.
fn replace(line: &str, from: &str, to: &str) -> Result<String> {
    ensure!(line.contains(from), "no {from:?} in {line:?}");
    Ok(line.replace(from, to))
}

/// The command of the page that runs this program under `exec`: inside UDP to this router, or natively.
pub fn exec(program: &str, router: Option<IpAddr>) -> Result<String> {
    let line = line(&format!(" {program}"))?;
    let named = format!("--udp {ROUTER} {NUMBERS} ");
    let Some(router) = router else {
        return replace(&line, &named, "");
    };
    let more = match router {
        IpAddr::V4(_) => String::new(),
        IpAddr::V6(_) => {
            let page = page()?;
            let begins = page.split('`').find(|text| text.starts_with("--group6 "));
            format!("{} ", begins.context("no options for IPv6")?)
        }
    };
    let router = SocketAddr::new(router, UDP_PORT);
    replace(&line, &named, &format!("--udp {router} {NUMBERS} {more}"))
}

/// A shell that becomes what is typed there, where `xcast-ctl` is installed.
pub fn shell(namespace: &Namespace, line: &str) -> Result<Command> {
    let directory = daemon::program().parent().context("no directory")?;
    let path = std::env::var("PATH")?;
    let mut command = namespace.command("sh");
    command.env("PATH", format!("{}:{path}", directory.display()));
    command.args(["-c", &format!("exec {line}")]);
    Ok(command)
}

/// The video call: what the page types at the sender and at players, without camera and screen.
#[test]
fn a_video_call() {
    if !namespace::available() {
        return;
    }
    if let Err(error) = video_call() {
        panic!("{error:#}");
    }
}

fn video_call() -> Result<()> {
    const PLAYERS: usize = 3;
    // In the testbed somebody has the port of the page.
    const FREE: u16 = 5600;
    let hosts = Hosts::with(Family::Ipv4, PLAYERS)?;
    let player = replace(&line("udpsrc")?, "autovideosink", "fakesink num-buffers=20")?;
    let player = replace(&player, "port=5000", &format!("port={FREE}"))?;
    let is_up = format!(":{FREE:04X} ");
    for way in [Way::InUdp, Way::Natively] {
        let mut players = Running(Vec::new());
        for number in 1..=PLAYERS {
            let namespace = hosts.bed.namespace(&format!("H{number}"))?;
            let mut command = shell(&namespace, &player)?;
            players.0.push(command.stdout(Stdio::null()).spawn()?);
            // The first picture is the one that others refer to.
            let deadline = Instant::now() + PATIENCE;
            while !namespace.run("cat /proc/net/udp")?.contains(&is_up) {
                ensure!(Instant::now() < deadline, "a player does not come up");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let clients: Vec<_> = hosts
            .to
            .iter()
            .map(|to| format!("{}:{FREE}", to.ip()))
            .collect();
        let sender = exec("gst-launch-1.0", hosts.router(way)?)?;
        let sender = replace(&sender, "v4l2src", "videotestsrc is-live=true")?;
        let named = "10.77.3.2:5000,10.77.7.2:5000,10.77.8.2:5000";
        let sender = replace(&sender, named, &clients.join(","))?;
        let mut command = shell(&hosts.namespace(way)?, &sender)?;
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut sender = Running(vec![command.spawn()?]);
        let deadline = Instant::now() + PATIENCE;
        for player in &mut players.0 {
            let status = loop {
                if let Some(status) = player.try_wait()? {
                    break status;
                }
                ensure!(Instant::now() < deadline, "{way:?}: a player sees nothing");
                std::thread::sleep(Duration::from_millis(20));
            };
            ensure!(status.success(), "{way:?}: a player ended with {status}");
        }
        let child = &mut sender.0[0];
        kill(Pid::from_raw(child.id().try_into()?), Signal::SIGINT)?;
        let mut said = String::new();
        let mut errors = child.stderr.take().context("no standard error")?;
        errors.read_to_string(&mut said)?;
        child.wait()?;
        let statistics = said.lines().find(|line| line.starts_with("xcast: process"));
        let statistics = statistics.with_context(|| format!("no statistics: {said}"))?;
        println!("{way:?}: {statistics}");
        ensure!(statistics.contains(" xcast_packets "), "{statistics}");
    }
    Ok(())
}
