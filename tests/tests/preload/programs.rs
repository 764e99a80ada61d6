//! Debian's own programs.

use std::io::Write as _;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use tests::family::Family;
use tests::namespace;

use crate::hosts::{Hosts, RECEIVERS, exec};

/// Octets of a buffer, and their number.
const BUFFER: usize = 1000;
const BUFFERS: usize = 150;
/// Those at the end, when all is known.
const LAST: usize = 50;

/// GStreamer's `multiudpsink` with 20 clients: one packet on the first link instead of 20, and every
/// client receives the octets of the file, with and without.
#[test]
fn gstreamer_to_20_clients() {
    if !namespace::available() {
        return;
    }
    // Its list of clients has no IPv6: it takes what is behind the first colon for the port.
    if let Err(error) = gstreamer() {
        panic!("{error:#}");
    }
}

fn gstreamer() -> Result<()> {
    let hosts = Hosts::up(Family::Ipv4)?;
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
        // How many packets carried each buffer, and the octets of the last ones.
        let mut counts = vec![0; BUFFERS];
        let mut octets = 0;
        while let Some(frame) = tap.take()? {
            let content = frame.len().checked_sub(BUFFER).map(|at| &frame[at..at + 5]);
            let number = content.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
            let Some(number) = number.filter(|number: &usize| *number < BUFFERS) else {
                continue;
            };
            counts[number] += 1;
            octets += if number < BUFFERS - LAST {
                0
            } else {
                frame.len()
            };
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
        println!(
            "{octets} octets on the first link for {} of content",
            LAST * BUFFER
        );
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

const READERS: usize = 6;
/// Samples that each reader receives at the least.
const SAMPLES: usize = 500;

/// Cyclone DDS without multicast: a writer with 6 readers puts at most a fourth of the packets on the
/// first link, and all readers receive its samples.
#[test]
fn dds_to_6_readers() {
    if !namespace::available() {
        return;
    }
    if let Err(error) = dds() {
        panic!("{error:#}");
    }
}

fn dds() -> Result<()> {
    let hosts = Hosts::up(Family::Ipv4)?;
    let router = hosts.address("R1", "A")?;
    let writer = hosts.address("A", "R1")?;
    let readers: Vec<_> = hosts.to.iter().take(READERS).map(|to| to.ip()).collect();
    let peers: String = readers
        .iter()
        .chain([&writer])
        .map(|peer| format!("<Peer address=\"{peer}\"/>"))
        .collect();
    let configuration = |own| {
        format!(
            "<CycloneDDS><Domain><General><AllowMulticast>false</AllowMulticast><Interfaces>\
             <NetworkInterface address=\"{own}\"/></Interfaces></General><Discovery>\
             <ParticipantIndex>auto</ParticipantIndex><Peers>{peers}</Peers></Discovery>\
             </Domain></CycloneDDS>"
        )
    };
    let namespace = hosts.bed.namespace("A")?;
    let link = hosts.bed.testbed.interface("A", "R1")?.name.clone();
    let path = format!("/sys/class/net/{link}/statistics/tx_packets");
    let mut packets = Vec::new();
    for with in [false, true] {
        let mut running = Running::default();
        for (number, reader) in readers.iter().enumerate() {
            let mut command = hosts
                .bed
                .namespace(&format!("H{}", number + 1))?
                .command("ddsperf");
            command.env("CYCLONEDDS_URI", configuration(*reader));
            let criterion = format!("-Qsamples:{SAMPLES}");
            command.args([&criterion, "-Qminmatch:1", "-D14", "sub"]);
            running.0.push(command.stdout(Stdio::null()).spawn()?);
        }
        let mut command = match with {
            true => {
                let mut command = exec(&namespace, Some(router));
                command.args(["--", "ddsperf"]);
                command
            }
            false => namespace.command("ddsperf"),
        };
        command.env("CYCLONEDDS_URI", configuration(writer));
        let match_all = format!("-Qminmatch:{READERS}");
        command.args([
            &match_all,
            "-Qinitwait:30",
            "-D5",
            "pub",
            "200Hz",
            "size",
            "500",
        ]);
        let count =
            || -> Result<u64> { Ok(namespace.run(&format!("cat {path}"))?.trim().parse()?) };
        let before = count()?;
        let status = command.stdout(Stdio::null()).status()?;
        ensure!(status.success(), "the writer ended with {status}");
        packets.push(count()? - before);
        for reader in &mut running.0 {
            let status = reader.wait()?;
            ensure!(status.success(), "a reader ended with {status}");
        }
    }
    println!("packets on the first link, without and with: {packets:?}");
    ensure!(packets[0] > 4 * packets[1], "{packets:?} packets");
    Ok(())
}

/// Programs that do not outlive the test.
#[derive(Default)]
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
