//! Tools of hosts: they find the first router as the kernel would, and refuse what no router serves.

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::daemon;
use tests::family::Family;
use tests::layout::{GROUP, PORTS_OPTION, PROTOCOL};
use tests::namespace;
use tests::trio::{self, A, B, C, Host, PORT, R1, SOON, Trio, UDP_PORT, until};

/// Options that state the code points, for hosts without a configuration.
fn code_points() -> Vec<String> {
    let group6 = Family::Ipv6.address(GROUP);
    [
        ("--protocol", PROTOCOL.to_string()),
        ("--group", GROUP.to_string()),
        ("--group6", group6.to_string()),
        ("--routing-type", PROTOCOL.to_string()),
        ("--ports-option", PORTS_OPTION.to_string()),
    ]
    .into_iter()
    .flat_map(|(option, value)| [option.to_owned(), value])
    .collect()
}

/// An address and a port, as tools take them.
fn entry(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// Runs `verb` of the command line on host A.
fn tool(trio: &Trio, verb: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = trio.a.namespace.command(daemon::program());
    command.arg(verb).args(code_points()).args(arguments);
    namespace::outcome(&mut command, "")
}

/// Sends a numbered message from A to B and C by `send`, until both get one.
fn send_reaches(trio: &Trio, options: &[&str]) -> Result<()> {
    let to = [B, C].map(|host| entry(trio.address(host), PORT));
    let reaches = |host: &Host| {
        let send = || {
            let number = trio.number();
            let payload = number.to_be_bytes().to_vec();
            // The number as text would be longer; hosts of this kit read four octets.
            let file = tempfile::NamedTempFile::new()?;
            std::fs::write(file.path(), payload)?;
            let path = file.path().to_string_lossy().into_owned();
            let arguments = [options, &["--file", &path, &to[0], &to[1]]].concat();
            let output = tool(trio, "send", &arguments)?;
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "send: {errors}");
            Ok(number)
        };
        trio.is_reached_by(host, send)
    };
    for (name, host) in [("B", &trio.b), ("C", &trio.c)] {
        ensure!(reaches(host)?, "{name} gets nothing of what was sent");
    }
    Ok(())
}

/// The link-local address of the router on the link of A.
fn link_local(trio: &Trio) -> Result<String> {
    let text = trio
        .r
        .namespace
        .ip("-6 -o address show dev p1 scope link")?;
    let mut words = text.split_whitespace().skip_while(|&word| word != "inet6");
    let address = words.nth(1).context("p1 has no link-local address")?;
    Ok(address.split('/').next().unwrap_or_default().to_owned())
}

/// Hosts with a router advertisement, OSPFv3 or FRR have a default router with a link-local address. A global
/// source is taken, the one the kernel would take towards the destinations, and the interface of the route.
#[test]
fn default_router_with_a_link_local_address() {
    trio::with_family(Family::Ipv6, |trio| {
        let router = link_local(trio)?;
        trio.a
            .namespace
            .ip(&format!("-6 route replace default via {router} dev a0"))?;
        send_reaches(trio, &[])?;
        let to = [B, C].map(|host| trio.address(host).to_string());
        for (verb, options) in [("ping", &["-c", "1"][..]), ("trace", &[][..])] {
            let arguments = [options, &[&to[0], &to[1]]].concat();
            let output = tool(trio, verb, &arguments)?;
            ensure!(output.status.success(), "{verb}: {output:?}");
        }
        Ok(())
    });
}

/// The same on a host with a second interface, whose link-local network comes first.
#[test]
fn link_local_router_and_another_interface() {
    trio::with_family(Family::Ipv6, |trio| {
        let router = link_local(trio)?;
        let a = &trio.a.namespace;
        a.ip("link add other type veth peer name other1")?;
        a.ip("link set other up")?;
        a.ip("link set other1 up")?;
        a.ip("-6 route add fe80::/64 dev other metric 1")?;
        a.ip(&format!("-6 route replace default via {router} dev a0"))?;
        send_reaches(trio, &[])
    });
}

/// IPv4 by way of a gateway with an address of IPv6 (RFC 8950, RFC 9229).
#[test]
fn ipv4_by_way_of_an_ipv6_gateway() {
    trio::with_family(Family::Ipv4, |trio| {
        let router = link_local(trio)?;
        let a = &trio.a.namespace;
        a.ip("-4 route del default")?;
        a.ip(&format!("-4 route add default via inet6 {router} dev a0"))?;
        send_reaches(trio, &[])
    });
}

/// The same gateway named on the command line.
#[test]
fn ipv6_gateway_named_for_ipv4() {
    trio::with_family(Family::Ipv4, |trio| {
        let router = link_local(trio)?;
        let a = &trio.a.namespace;
        a.ip("-4 route del default")?;
        a.ip(&format!("-4 route add default via inet6 {router} dev a0"))?;
        send_reaches(trio, &["--via", &router])
    });
}

/// A host whose address changes while it sends inside UDP goes on with the new one.
#[test]
fn address_changes_while_sending_inside_udp() {
    trio::with_family(Family::Ipv4, |trio| {
        let router = entry(R1.into(), UDP_PORT);
        let to = [B, C].map(|host| entry(host.into(), PORT));
        let mut child = trio
            .a
            .namespace
            .command(daemon::program())
            .args(["send", "--udp", &router])
            .args(code_points())
            .args(["--file", "-", "--lines", &to[0], &to[1]])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut input = child.stdin.take().context("no input")?;
        // Lines of four octets, none of which ends a line.
        let line = |index: u32| 0x4141_4141 + index;
        let mut index = 0;
        let mut lines = |host: &Host| -> Result<bool> {
            let first = index;
            for _ in 0..100 {
                use std::io::Write as _;
                index += 1;
                input.write_all(&line(index).to_be_bytes())?;
                input.write_all(b"\n")?;
                input.flush()?;
                std::thread::sleep(Duration::from_millis(50));
                for number in first + 1..=index {
                    if host.count(line(number))? > 0 {
                        return Ok(true);
                    }
                }
            }
            Ok(false)
        };
        let mut outcome = || -> Result<()> {
            ensure!(lines(&trio.b)?, "at the start");
            trio.a.ip("address del 10.66.1.2/24 dev a0")?;
            trio.a.ip("address add 10.66.1.5/24 dev a0")?;
            trio.a.ip("route replace default via 10.66.1.1")?;
            ensure!(lines(&trio.b)? && lines(&trio.c)?, "after the change");
            Ok(())
        };
        let result = outcome();
        child.kill()?;
        child.wait()?;
        result
    });
}

/// What no router would serve is refused with one line that names it, and nothing is said to be sent.
#[test]
fn destinations_that_no_router_serves() {
    trio::with_family(Family::Ipv4, |trio| {
        for to in [
            "127.0.0.1:5000",
            "0.0.0.0:5000",
            "255.255.255.255:5000",
            "224.0.0.9:5000",
            "240.0.0.1:5000",
            "169.254.1.1:5000",
            "10.66.2.2:0",
            "[::1]:5000",
            "[::]:5000",
            "[ff02::1]:5000",
            "[fe80::1]:5000",
        ] {
            let good = match to.starts_with('[') {
                true => entry(Family::Ipv6.address(C), PORT),
                false => entry(C.into(), PORT),
            };
            let output = tool(trio, "send", &[to, &good])?;
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(2), "{to}: {output:?}");
            let named = to.rsplit_once(':').map_or(to, |(address, _)| address);
            let named = named.trim_matches(['[', ']']);
            ensure!(
                errors.lines().count() == 1 && errors.contains(named),
                "{to}: {errors}"
            );
        }
        Ok(())
    });
}

/// A packet that no router could forward, or whose answers could go nowhere.
#[test]
fn packets_that_no_router_forwards() {
    trio::with_family(Family::Ipv4, |trio| {
        let to = entry(B.into(), PORT);
        for options in [
            &["--ttl", "0"][..],
            &["--source", "224.0.0.9"],
            &["--source", "255.255.255.255"],
            &["--source", "127.0.0.1"],
        ] {
            let output = tool(trio, "send", &[options, &[&to]].concat())?;
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(2), "{options:?}: {output:?}");
            ensure!(errors.lines().count() == 1, "{options:?}: {errors}");
        }
        Ok(())
    });
}

/// A first router that does not answer for its address: nothing leaves, and that is no success.
#[test]
fn first_router_that_is_not_there() {
    trio::with(|trio| {
        let absent = trio.address(Ipv4Addr::new(10, 66, 1, 99)).to_string();
        let to = entry(trio.address(B), PORT);
        let output = tool(trio, "send", &["--via", &absent, &to])?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "exit status 0: {output:?}");
        ensure!(errors.contains(&absent), "{errors}");
        Ok(())
    });
}

/// Interrupted, `send` says what it has sent.
#[test]
fn interrupted_send_says_what_it_sent() {
    trio::with_family(Family::Ipv4, |trio| {
        let to = entry(B.into(), PORT);
        // A shell that runs the tests in the background has them ignore the signal.
        let mut command = trio.a.namespace.command("env");
        command.arg("--default-signal=INT").arg(daemon::program());
        command.arg("send").args(code_points());
        command.args(["--count", "100000", "--interval", "20", &to]);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let counter = || Ok(daemon::Counters::read(&trio.r.namespace)?.value("received") > 3);
        let sending = until(SOON, counter)?;
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT)?;
        let output = child.wait_with_output()?;
        ensure!(sending, "it does not send: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            text.contains("sent") && text.contains("packets"),
            "{output:?}"
        );
        Ok(())
    });
}

/// Whatever the source of a host is, a tool does not say that it has sent what the router then drops.
#[test]
fn ping_by_the_default_route() {
    trio::with(|trio| {
        let to = [B, C].map(|host| trio.address(host).to_string());
        let output = tool(trio, "ping", &["-c", "1", &to[0], &to[1]])?;
        ensure!(output.status.success(), "from {A}: {output:?}");
        Ok(())
    });
}
