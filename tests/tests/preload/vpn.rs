//! n2n, a virtual network of layer 2: its supernode relays each broadcast frame to all other nodes.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use tests::daemon::PATIENCE;
use tests::family::Family;
use tests::namespace;
use tests::tap::Tap;

use crate::guide;
use crate::hosts::{Hosts, Running, Way};

/// Nodes of the network, and the supernode's port in the guide.
const NODES: usize = 6;
const PORT: u16 = 7654;
/// The interface of the network on each node, and what is sent there.
const INTERFACE: &str = "n2n0";
const LEN: usize = 600;

/// A broadcast of one node leaves the supernode, which runs as the guide says, as one packet instead of
/// one for each other node, and all receive it.
#[track_caller]
fn n2n_broadcasts(way: Way) {
    if !namespace::available() {
        return;
    }
    if let Err(error) = broadcasts(way) {
        panic!("{way:?}: {error:#}");
    }
}

#[test]
fn n2n_broadcasts_in_udp() {
    n2n_broadcasts(Way::InUdp);
}

#[test]
fn n2n_broadcasts_natively() {
    n2n_broadcasts(Way::Natively);
}

fn broadcasts(way: Way) -> Result<()> {
    let hosts = Hosts::with(Family::Ipv4, NODES)?;
    let supernode = hosts.own(way)?;
    let taps = hosts.taps(way)?;
    let mut running = Running(Vec::new());
    let line = guide::exec("supernode", hosts.router(way)?)?;
    let mut command = guide::shell(&hosts.namespace(way)?, &line)?;
    running.0.push(command.stdout(Stdio::null()).spawn()?);
    let mut sockets = Vec::new();
    for number in 1..=NODES {
        let namespace = hosts.bed.namespace(&format!("H{number}"))?;
        let mut command = namespace.command("edge");
        command.args([
            "-f", "-d", INTERFACE, "-c", "xcast", "-k", "key", "-u", "0", "-g", "0",
        ]);
        command.args([
            "-a",
            &format!("10.60.0.{number}"),
            "-l",
            &format!("{supernode}:{PORT}"),
        ]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        running.0.push(command.spawn().context("edge")?);
        let deadline = Instant::now() + PATIENCE;
        let up = format!("addr show dev {INTERFACE}");
        while !namespace
            .ip(&up)
            .is_ok_and(|shown| shown.contains("10.60.0."))
        {
            ensure!(Instant::now() < deadline, "node {number} has no interface");
            std::thread::sleep(Duration::from_millis(20));
        }
        sockets.push(namespace.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5555))?;
            setsockopt(&socket, BindToDevice, &INTERFACE.into())?;
            socket.set_broadcast(true)?;
            Ok(socket)
        })?);
    }
    let [sender, receivers @ ..] = &sockets[..] else {
        unreachable!("there are nodes");
    };
    // Until everyone is registered and known, and then always.
    let deadline = Instant::now() + PATIENCE;
    let mut shared = 0;
    let mut number = 0;
    while shared < 20 {
        ensure!(Instant::now() < deadline, "never shared");
        number += 1;
        let message = format!("{number:05} ").repeat(LEN / 6);
        sender.send_to(message.as_bytes(), (Ipv4Addr::BROADCAST, 5555))?;
        let wait = if shared > 0 {
            PATIENCE
        } else {
            Duration::from_millis(200)
        };
        let mut all = true;
        for receiver in receivers {
            receiver.set_read_timeout(Some(wait))?;
            all &= receive(receiver, message.as_bytes());
        }
        ensure!(
            all || shared == 0,
            "message {number} did not reach everyone"
        );
        match carriers(&taps)? {
            1 if all => shared += 1,
            count => ensure!(shared == 0, "{count} packets"),
        }
    }
    println!("{way:?}: 1 packet instead of {}", receivers.len());
    Ok(())
}

/// Whether this message arrives; earlier ones may come before.
fn receive(receiver: &UdpSocket, message: &[u8]) -> bool {
    let mut buffer = [0; 2000];
    while let Ok(len) = receiver.recv(&mut buffer) {
        if &buffer[..len] == message {
            return true;
        }
    }
    false
}

/// How many frames carry something of that length.
fn carriers(taps: &[Tap]) -> Result<usize> {
    let mut count = 0;
    for tap in taps {
        while let Some(frame) = tap.take()? {
            count += usize::from((LEN..LEN + 400).contains(&frame.len()));
        }
    }
    Ok(count)
}
