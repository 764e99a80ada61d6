//! Debian's own programs.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use tests::daemon::PATIENCE;
use tests::family::Family;
use tests::namespace;

use crate::hosts::{Hosts, RECEIVERS, exec, frames};

/// Octets of a buffer, and their number.
const BUFFER: usize = 1000;
const BUFFERS: usize = 150;

/// GStreamer's `multiudpsink` with 20 clients: one packet on the first link instead of 20, and every
/// client receives the octets of the file, with and without.
#[test]
fn gstreamer_to_20_clients() {
    if !namespace::available() {
        return;
    }
    for family in Family::ALL {
        if let Err(error) = gstreamer(family) {
            panic!("{family:?}: {error:#}");
        }
    }
}

fn gstreamer(family: Family) -> Result<()> {
    let hosts = Hosts::up(family)?;
    let (own, router) = (hosts.address("A", "R1")?, hosts.address("R1", "A")?);
    for receiver in &hosts.receivers {
        setsockopt(receiver, RcvBufForce, &(8 << 20))?;
    }
    let mut media = tempfile::NamedTempFile::new()?;
    // Each buffer has a content of its own.
    for number in 0..BUFFERS {
        let buffer = format!("{number:05} ").repeat(BUFFER);
        media.write_all(&buffer.as_bytes()[..BUFFER])?;
    }
    let clients: Vec<_> = hosts
        .to
        .iter()
        .map(|to| format!("{}:{}", to.ip(), to.port()))
        .collect();
    let namespace = hosts.bed.namespace("A")?;
    let tap = hosts.tap("A", "R1")?;
    let mut packets = Vec::new();
    for with in [false, true] {
        let mut command = match with {
            true => {
                let mut command = exec(&namespace, Some(router));
                command.args(["--", "gst-launch-1.0"]);
                command
            }
            false => namespace.command("gst-launch-1.0"),
        };
        command.arg("-q").arg("filesrc");
        command.arg(format!("location={}", media.path().display()));
        command.arg(format!("blocksize={BUFFER}"));
        command.args([
            "!",
            "identity",
            "sleep-time=5000",
            "!",
            "multiudpsink",
            "sync=false",
        ]);
        command.arg(format!("bind-address={own}"));
        command.arg(format!("clients={}", clients.join(",")));
        let status = command.status().context("gst-launch-1.0")?;
        ensure!(status.success(), "gst-launch-1.0 ended with {status}");
        // How many packets carried each buffer.
        let mut counts = vec![0; BUFFERS];
        while let Some(frame) = tap.take()? {
            let content = frame.len().checked_sub(BUFFER).map(|at| &frame[at..at + 5]);
            let number = content.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
            if let Some(count) = number.and_then(|number: usize| counts.get_mut(number)) {
                *count += 1;
            }
        }
        for receiver in &hosts.receivers {
            for number in 0..BUFFERS {
                let mut buffer = [0; 2000];
                let len = receiver
                    .recv(&mut buffer)
                    .with_context(|| format!("buffer {number}"))?;
                let wanted = format!("{number:05} ").repeat(BUFFER);
                ensure!(
                    buffer[..len] == wanted.as_bytes()[..BUFFER],
                    "buffer {number} differs"
                );
            }
        }
        packets.push(counts);
    }
    ensure!(
        packets[0].iter().all(|count| *count == RECEIVERS),
        "{:?}",
        packets[0]
    );
    let shared = packets[1].iter().filter(|count| **count == 1).count();
    // All from when the router has answered and each client is known.
    ensure!(
        packets[1]
            .iter()
            .all(|count| [1, RECEIVERS].contains(count)),
        "{:?}",
        packets[1]
    );
    ensure!(shared > BUFFERS / 2, "{:?}", packets[1]);
    Ok(())
}
