//! Debian's own programs.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use tests::family::Family;
use tests::namespace;

use crate::hosts::{Hosts, RECEIVERS, Running, Way};

/// Octets of a buffer, and their number.
const BUFFER: usize = 1000;
const BUFFERS: usize = 150;
/// Packets on a link that are not the program's: fewer than this.
const OTHERS: u64 = 60;

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
    for receiver in &hosts.receivers {
        setsockopt(receiver, RcvBufForce, &(8 << 20))?;
    }
    let mut media = tempfile::NamedTempFile::new()?;
    for number in 0..BUFFERS {
        media.write_all(&content(number))?;
    }
    for way in [Way::InUdp, Way::Natively] {
        for with in [false, true] {
            let context = || format!("{way:?}, under exec: {with}");
            let packets = stream(&hosts, way, with, media.path()).with_context(context)?;
            let on_the_link: usize = packets.iter().sum();
            println!("{}: {on_the_link} packets", context());
            let is_whole = |count: &usize| *count == RECEIVERS || with && *count == 1;
            ensure!(packets.iter().all(is_whole), "{}: {packets:?}", context());
            // All from when the router has answered and each client is known.
            let shared = packets.iter().filter(|count| **count == 1).count();
            ensure!(!with || shared > BUFFERS / 2, "{}: {packets:?}", context());
        }
    }
    Ok(())
}

/// Each buffer has a content of its own.
fn content(number: usize) -> Vec<u8> {
    let mut content = format!("{number:05} ").repeat(BUFFER).into_bytes();
    content.truncate(BUFFER);
    content
}

/// Sends the buffers, and checks that each client receives them. How many packets carried each.
fn stream(hosts: &Hosts, way: Way, with: bool, media: &Path) -> Result<Vec<usize>> {
    let clients = hosts
        .to
        .iter()
        .map(|to| format!("{}:{}", to.ip(), to.port()));
    let clients: Vec<_> = clients.collect();
    let taps = hosts.taps(way)?;
    let before = hosts.packets(way)?;
    let mut command = hosts.command(way, with, "gst-launch-1.0")?;
    command.arg("-q").arg("filesrc");
    command.arg(format!("location={}", media.display()));
    command.arg(format!("blocksize={BUFFER}"));
    command.args(["!", "identity", "sleep-time=5000", "!"]);
    command.args(["multiudpsink", "sync=false"]);
    command.arg(format!("bind-address={}", hosts.own(way)?));
    command.arg(format!("clients={}", clients.join(",")));
    let status = command.status().context("gst-launch-1.0")?;
    ensure!(status.success(), "gst-launch-1.0 ended with {status}");
    for receiver in &hosts.receivers {
        for number in 0..BUFFERS {
            let mut buffer = [0; 2000];
            let len = receiver.recv(&mut buffer);
            let len = len.with_context(|| format!("buffer {number}"))?;
            ensure!(buffer[..len] == content(number), "buffer {number} differs");
        }
    }
    let on_the_link = hosts.packets(way)? - before;
    let mut counts = vec![0; BUFFERS];
    for tap in &taps {
        while let Some(frame) = tap.take()? {
            let content = frame.len().checked_sub(BUFFER).map(|at| &frame[at..at + 5]);
            let number = content.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
            if let Some(count) = number.and_then(|number: usize| counts.get_mut(number)) {
                *count += 1;
            }
        }
    }
    // The interface counts what the taps saw, and a few packets of others.
    let all: usize = counts.iter().sum();
    let others = on_the_link.checked_sub(all as u64);
    ensure!(
        others.is_some_and(|others| others < OTHERS),
        "{on_the_link} packets on the link, {all} with buffers"
    );
    Ok(counts)
}

const READERS: usize = 6;
/// Samples that each reader receives at the least.
const SAMPLES: usize = 500;

/// Cyclone DDS without multicast: a writer with 6 readers puts at most a fourth of the packets on the
/// first link, and all readers receive its samples.
#[track_caller]
fn dds_to_6_readers(family: Family) {
    if !namespace::available() {
        return;
    }
    if let Err(error) = dds(family) {
        panic!("{family:?}: {error:#}");
    }
}

#[test]
fn dds_to_6_readers_ipv4() {
    dds_to_6_readers(Family::Ipv4);
}

#[test]
fn dds_to_6_readers_ipv6() {
    dds_to_6_readers(Family::Ipv6);
}

fn dds(family: Family) -> Result<()> {
    let hosts = Hosts::with(family, READERS)?;
    let without = publish(&hosts, Way::InUdp, false)?;
    for way in [Way::InUdp, Way::Natively] {
        let with = publish(&hosts, way, true)?;
        println!("{family:?}, {way:?}: {with} packets instead of {without}");
        ensure!(without > 4 * with, "{way:?}: {with} instead of {without}");
    }
    Ok(())
}

/// Publishes to all readers; how many packets are on the writer's first link meanwhile.
fn publish(hosts: &Hosts, way: Way, with: bool) -> Result<u64> {
    let writer = hosts.own(way)?;
    let readers: Vec<_> = hosts.to.iter().map(|to| to.ip()).collect();
    let peers = readers.iter().chain([&writer]);
    let peers: String = peers
        .map(|peer| format!("<Peer address=\"{peer}\"/>"))
        .collect();
    let transport = match hosts.family {
        Family::Ipv4 => "udp",
        Family::Ipv6 => "udp6",
    };
    let configuration = |own| {
        format!(
            "<CycloneDDS><Domain><General><Transport>{transport}</Transport><AllowMulticast>false\
             </AllowMulticast><Interfaces><NetworkInterface address=\"{own}\"/></Interfaces></General>\
             <Discovery><ParticipantIndex>auto</ParticipantIndex><Peers>{peers}</Peers></Discovery>\
             </Domain></CycloneDDS>"
        )
    };
    let mut running = Running::default();
    for (number, reader) in readers.iter().enumerate() {
        let namespace = hosts.bed.namespace(&format!("H{}", number + 1))?;
        let mut command = namespace.command("ddsperf");
        command.env("CYCLONEDDS_URI", configuration(*reader));
        let criterion = format!("-Qsamples:{SAMPLES}");
        command.args([&criterion, "-Qminmatch:1", "-D14", "sub"]);
        running.0.push(command.stdout(Stdio::null()).spawn()?);
    }
    let mut command = hosts.command(way, with, "ddsperf")?;
    command.env("CYCLONEDDS_URI", configuration(writer));
    let match_all = format!("-Qminmatch:{READERS}");
    command.args([&match_all, "-Qinitwait:30", "-D5"]);
    command.args(["pub", "200Hz", "size", "500"]);
    let before = hosts.packets(way)?;
    let status = command.stdout(Stdio::null()).status()?;
    ensure!(status.success(), "the writer ended with {status}");
    let packets = hosts.packets(way)? - before;
    for reader in &mut running.0 {
        let status = reader.wait()?;
        ensure!(status.success(), "a reader ended with {status}");
    }
    Ok(packets)
}
