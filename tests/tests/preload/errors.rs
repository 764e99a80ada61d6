//! Errors that come back by ICMP are the program's, as for a datagram.

use std::time::Instant;

use anyhow::{Result, ensure};
use tests::daemon::PATIENCE;
use tests::family::Family;
use tests::namespace;
use tests::tap::Tap;

use crate::hosts::{Hosts, PORT, Program, Way, both_ways, script};

/// Destinations.
const ALL: usize = 5;

/// Runs the program that says which errors it sees.
fn program(hosts: &Hosts, way: Way, with: bool, hop_limit: u8, len: usize) -> Result<Program> {
    let mut command = hosts.command(way, with, "python3")?;
    command.arg(script("errors.py"));
    command.arg(hosts.own(way)?.to_string());
    command.args([hop_limit.to_string(), len.to_string(), PORT.to_string()]);
    command.args(hosts.to.iter().map(|to| to.ip().to_string()));
    let mut program = Program::start(&mut command)?;
    program.line()?;
    Ok(program)
}

/// Sends a message to everyone. Returns how many packets carried it, and the errors that came back, at
/// least so many unless they do not come at all: "ADDRESS PORT NUMBER INFO MESSAGE".
fn send(
    program: &mut Program,
    taps: &[Tap],
    message: &str,
    expected: usize,
) -> Result<(usize, Vec<String>)> {
    program.say(&format!("{expected} {message}"))?;
    let errors = program.line()?;
    let mut packets = 0;
    for tap in taps {
        while let Some(frame) = tap.take()? {
            let mut places = frame.windows(message.len());
            packets += usize::from(places.any(|place| place == message.as_bytes()));
        }
    }
    let errors = errors.split(';').filter(|error| !error.is_empty());
    let mut errors: Vec<_> = errors.map(str::to_owned).collect();
    errors.sort();
    Ok((packets, errors))
}

/// An error that comes back for one destination of a list is the program's.
#[track_caller]
fn errors_come_back(family: Family, way: Way) {
    if !namespace::available() {
        return;
    }
    let test = || {
        let mut hosts = Hosts::with(family, ALL)?;
        // Nobody receives there.
        let gone = hosts.to[2];
        drop(hosts.receivers.remove(2));
        let taps = hosts.taps(way)?;
        let mut program = program(&hosts, way, true, 0, 0)?;
        let deadline = Instant::now() + PATIENCE;
        // ECONNREFUSED.
        let error = format!("{} {} 111 0 ", gone.ip(), gone.port());
        // The kernel limits how often a host says so.
        for number in 0.. {
            ensure!(Instant::now() < deadline, "no error for a shared packet");
            let message = format!("message {number}");
            let (packets, errors) = send(&mut program, &taps, &message, 0)?;
            if packets == 1 && errors == [format!("{error}{message}")] {
                break;
            }
            ensure!(errors.iter().all(|it| it.starts_with(&error)), "{errors:?}");
        }
        program.end()?;
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{family:?}, {way:?}: {error:#}");
    }
}

#[test]
fn errors_come_back_in_udp_ipv4() {
    errors_come_back(Family::Ipv4, Way::InUdp);
}

#[test]
fn errors_come_back_in_udp_ipv6() {
    errors_come_back(Family::Ipv6, Way::InUdp);
}

#[test]
fn errors_come_back_natively_ipv4() {
    errors_come_back(Family::Ipv4, Way::Natively);
}

#[test]
fn errors_come_back_natively_ipv6() {
    errors_come_back(Family::Ipv6, Way::Natively);
}

/// Routers answer each datagram whose hop limit is used up, as often as that happens.
fn answer_always(hosts: &Hosts, node: &str) -> Result<()> {
    let namespace = hosts.bed.namespace(node)?;
    namespace.sysctl("ipv4/icmp_ratelimit", "0")?;
    namespace.sysctl("ipv6/icmp/ratelimit", "0")
}

/// Who wants to know where datagrams end, as `traceroute` does, is told so by the library as without.
#[track_caller]
fn hop_limits_are_used_up(family: Family) {
    if !namespace::available() {
        return;
    }
    let hosts = Hosts::with(family, ALL).expect("hosts");
    let test = |way: Way| {
        answer_always(&hosts, "R2")?;
        let taps = hosts.taps(way)?;
        // R2 is the last that sees them.
        let hop_limit = match way {
            Way::InUdp => 2,
            Way::Natively => 1,
        };
        for with in [false, true] {
            let mut program = program(&hosts, way, with, hop_limit, 0)?;
            // Long after a router has answered.
            for number in 0..10 {
                let message = format!("message {number:02}");
                let (packets, errors) = send(&mut program, &taps, &message, ALL)?;
                // EHOSTUNREACH.
                let wanted = hosts.to.iter();
                let wanted = wanted.map(|to| format!("{} {} 113 0 {message}", to.ip(), to.port()));
                let mut wanted: Vec<_> = wanted.collect();
                wanted.sort();
                ensure!(errors == wanted, "under exec: {with}: {errors:?}");
                ensure!(packets == ALL, "under exec: {with}: {packets} packets");
            }
            program.end()?;
        }
        Ok(())
    };
    both_ways(family, test);
}

#[test]
fn hop_limits_are_used_up_ipv4() {
    hop_limits_are_used_up(Family::Ipv4);
}

#[test]
fn hop_limits_are_used_up_ipv6() {
    hop_limits_are_used_up(Family::Ipv6);
}

/// A length that the path to the first receiver has no room for, and its MTU.
const LONG: usize = 1260;
const MTU: usize = 1280;

/// Behind the routers a link has a smaller MTU, from the beginning or from now on. The program is told
/// of it as without the library, and its datagrams arrive again, in fragments.
#[track_caller]
fn a_path_is_narrow(family: Family) {
    if !namespace::available() {
        return;
    }
    let hosts = Hosts::with(family, ALL).expect("hosts");
    let test = |way: Way| {
        let first = &hosts.receivers[0];
        let narrow = |mtu: usize| -> Result<()> {
            for (node, peer) in [("R2", "H1"), ("H1", "R2")] {
                let link = &hosts.bed.testbed.interface(node, peer)?.name;
                let namespace = hosts.bed.namespace(node)?;
                namespace.ip(&format!("link set {link} mtu {mtu}"))?;
            }
            // And nobody remembers another one.
            hosts.namespace(way)?.ip("route flush cache")?;
            hosts.namespace(way)?.ip("-6 route flush cache")?;
            Ok(())
        };
        let taps = hosts.taps(way)?;
        // EMSGSIZE, and the MTU.
        let (ip, port) = (hosts.to[0].ip(), hosts.to[0].port());
        let error = |message: &str| format!("{ip} {port} 90 {MTU} {message}");
        // Whether a message arrives: in its time, or at once.
        let receive = |message: &str, in_time: bool| -> Result<bool> {
            first.set_nonblocking(!in_time)?;
            let mut buffer = [0; 2000];
            loop {
                match first.recv(&mut buffer) {
                    Ok(len) if buffer[..len].starts_with(message.as_bytes()) => return Ok(true),
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        return Ok(false);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        for with in [false, true] {
            narrow(MTU)?;
            let mut program = program(&hosts, way, with, 0, LONG)?;
            for number in 0..6 {
                let message = format!("narrow {number:02}");
                let (_, errors) = send(&mut program, &taps, &message, usize::from(number == 0))?;
                let wanted = if number == 0 {
                    vec![error(&message)]
                } else {
                    vec![]
                };
                ensure!(errors == wanted, "under exec: {with}: {errors:?}");
                let arrives = receive(&message, number > 0)?;
                ensure!(
                    arrives == (number > 0),
                    "under exec: {with}: {message}: {arrives}"
                );
            }
            program.end()?;

            narrow(1500)?;
            let mut program = self::program(&hosts, way, with, 0, LONG)?;
            let deadline = Instant::now() + PATIENCE;
            let mut shared = 0;
            for number in 0.. {
                ensure!(Instant::now() < deadline, "never shared");
                let message = format!("wide {number:03}");
                let (packets, errors) = send(&mut program, &taps, &message, 0)?;
                ensure!(errors.is_empty(), "under exec: {with}: {errors:?}");
                ensure!(receive(&message, true)?, "under exec: {with}: {message}");
                shared += usize::from(packets == 1 || !with);
                if shared > 5 {
                    break;
                }
            }
            narrow(MTU)?;
            let (mut lost, mut told) = (0, false);
            for number in 0.. {
                ensure!(Instant::now() < deadline, "never arrives again");
                let message = format!("narrower {number:03}");
                let (_, errors) = send(&mut program, &taps, &message, 0)?;
                told |= errors.contains(&error(&message));
                if receive(&message, false)? {
                    break;
                }
                lost += 1;
            }
            ensure!(told, "under exec: {with}: no error");
            println!("{family:?}, {way:?}, under exec: {with}: {lost} lost");
            program.end()?;
        }
        Ok(())
    };
    both_ways(family, test);
}

#[test]
fn a_path_is_narrow_ipv4() {
    a_path_is_narrow(Family::Ipv4);
}

#[test]
fn a_path_is_narrow_ipv6() {
    a_path_is_narrow(Family::Ipv6);
}
