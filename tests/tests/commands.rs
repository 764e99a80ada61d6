//! The commands that ask a network: ping and trace.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::{
    bed::Bed,
    daemon::{Counters, PATIENCE, ctl},
    family::Family,
    layout::{GROUP, PORTS_OPTION, PROTOCOL},
    namespace::{self, Namespace},
};
use xtask::testbed::{RouterConfig, Routing, Topology};

const UDP_PORT: u16 = 4242;

/// RFC 5058's Figure 3, with routers.
struct Network {
    bed: Bed,
    family: Family,
}

impl Network {
    fn up(family: Family, config: &RouterConfig) -> Result<Self> {
        let mut bed = Bed::up(&Topology::fig3(), Routing::Static)?;
        bed.start_routers_with(config)?;
        Ok(Self { bed, family })
    }

    fn namespace(&self, node: &str) -> Result<Namespace> {
        self.bed.namespace(node)
    }

    fn host(&self, node: &str) -> Result<IpAddr> {
        self.host_of(self.family, node)
    }

    fn host_of(&self, family: Family, node: &str) -> Result<IpAddr> {
        let node = self.bed.testbed.node(node)?;
        of_family(family, node.address, node.address6)
    }

    /// The address of a router's interface towards a neighbour.
    fn router(&self, node: &str, towards: &str) -> Result<String> {
        let interface = self.bed.testbed.interface(node, towards)?;
        let address = of_family(self.family, interface.address, interface.address6)?;
        Ok(address.to_string())
    }

    /// Runs a verb with the destinations B, C and D; its exit status and what it printed.
    fn ask(&self, node: &str, arguments: &[&str]) -> Result<(i32, String)> {
        let destinations = ["B", "C", "D"]
            .into_iter()
            .map(|name| Ok(self.host(name)?.to_string()))
            .collect::<Result<Vec<_>>>()?;
        let mut all = arguments.to_vec();
        all.extend(destinations.iter().map(String::as_str));
        let output = ctl(&self.namespace(node)?, &all)?;
        let code = output.status.code().context("ended by a signal")?;
        let text = String::from_utf8(output.stdout)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(code < 2, "{all:?}: {errors}");
        Ok((code, text))
    }

    fn ask_json(&self, node: &str, arguments: &[&str]) -> Result<(i32, Value)> {
        let (code, text) = self.ask(node, &[arguments, &["--json"]].concat())?;
        Ok((code, serde_json::from_str(&text)?))
    }
}

fn of_family(family: Family, ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> Result<IpAddr> {
    let address = match family {
        Family::Ipv4 => ipv4.map(IpAddr::V4),
        Family::Ipv6 => ipv6.map(IpAddr::V6),
    };
    address.context("no address")
}

/// The options that name the testbed's code points.
fn code_points() -> Vec<String> {
    let options = [
        ("--protocol", PROTOCOL.to_string()),
        ("--group", GROUP.to_string()),
        ("--group6", "ff02::114".to_owned()),
        ("--routing-type", PROTOCOL.to_string()),
        ("--ports-option", PORTS_OPTION.to_string()),
    ];
    let options = options.into_iter();
    options
        .flat_map(|(option, value)| [option.to_owned(), value])
        .collect()
}

#[track_caller]
fn with(test: impl Fn(Network) -> Result<()>) {
    with_routers(&RouterConfig::default(), test);
}

#[track_caller]
fn with_routers(config: &RouterConfig, test: impl Fn(Network) -> Result<()>) {
    if !namespace::available() {
        return;
    }
    for family in Family::ALL {
        if let Err(error) = Network::up(family, config).and_then(&test) {
            panic!("{family:?}: {error:#}");
        }
    }
}

/// From the router's own interface: one packet a round leaves, and everyone answers.
#[test]
fn ping_from_a_router() {
    with(|network| {
        let sent =
            |node| Ok::<_, anyhow::Error>(Counters::read(&network.namespace(node)?)?.value("sent"));
        let before = sent("R1")?;
        let (code, document) = network.ask_json("R1", &["ping", "-c", "3", "-i", "0.05"])?;
        ensure!(code == 0, "{document}");
        ensure!(document["rounds"] == 3 && document["packets"] == 3);
        let destinations = document["destinations"].as_array().context("no list")?;
        ensure!(destinations.len() == 3, "{document}");
        for line in destinations {
            ensure!(
                line["sent"] == 3 && line["received"] == 3 && line["loss_percent"] == 0.0,
                "{line}"
            );
            let times = ["min_ms", "avg_ms", "max_ms"].map(|name| line[name].as_f64());
            ensure!(times.is_sorted() && times[0] > Some(0.0), "{line}");
        }
        let sent = sent("R1")? - before;
        ensure!(
            sent == 3,
            "{sent} copies left the first router instead of 3"
        );
        Ok(())
    });
}

/// From a host, through its first-hop router; a destination that is gone is shown as lost.
#[test]
fn ping_from_a_host_where_one_is_gone() {
    with(|network| {
        let to = code_points();
        let to: Vec<_> = to.iter().map(String::as_str).collect();
        let ping = ["ping", "-c", "2", "-i", "0.05", "-W", "0.5"];
        let (code, text) = network.ask("A", &[&ping[..], &to].concat())?;
        ensure!(code == 0 && text.contains("time="), "{text}");
        ensure!(text.contains("2 packets of"), "{text}");
        // Nobody has the port, which says that the datagrams arrived.
        let udp = [&ping[..], &to, &["--udp", "9"]].concat();
        let (code, document) = network.ask_json("A", &udp)?;
        let received = |at: usize| document["destinations"][at]["received"] == 2;
        ensure!(code == 0 && (0..3).all(received), "{document}");

        network.namespace("C")?.ip("link set lo down")?;
        let name = &network.bed.testbed.interface("C", "R7")?.name;
        network
            .namespace("C")?
            .ip(&format!("link set {name} down"))?;
        let (code, document) = network.ask_json("A", &[&ping[..], &to].concat())?;
        ensure!(code == 1, "{document}");
        for (at, received) in [2, 0, 2].into_iter().enumerate() {
            let line = &document["destinations"][at];
            ensure!(line["received"] == received, "{line}");
            let loss = if received == 0 { 100.0 } else { 0.0 };
            ensure!(line["loss_percent"] == loss, "{line}");
        }
        Ok(())
    });
}

/// Figure 3: unicast from R2 on to B, Xcast up to R7 towards C and D.
fn figure_3(network: &Network, document: &Value) -> Result<()> {
    let expected = [
        ("B", &[("R2", "R1", "xcast"), ("R4", "R2", "unicast")][..]),
        (
            "C",
            &[
                ("R2", "R1", "xcast"),
                ("R5", "R2", "xcast"),
                ("R6", "R5", "xcast"),
                ("R7", "R6", "xcast"),
            ],
        ),
        (
            "D",
            &[
                ("R2", "R1", "xcast"),
                ("R5", "R2", "xcast"),
                ("R6", "R5", "xcast"),
                ("R7", "R6", "xcast"),
            ],
        ),
    ];
    for (at, (destination, routers)) in expected.into_iter().enumerate() {
        let path = &document["paths"][at];
        let address = network.host(destination)?.to_string();
        ensure!(
            path["destination"] == address && path["reached"] == true,
            "{path}"
        );
        let mut hops = Vec::new();
        for &(router, from, form) in routers {
            hops.push((network.router(router, from)?, form));
        }
        hops.push((address, "unicast"));
        let seen: Vec<_> = path["hops"]
            .as_array()
            .context("no hops")?
            .iter()
            .map(|hop| (hop["address"].as_str(), hop["form"].as_str()))
            .collect();
        let hops: Vec<_> = hops
            .iter()
            .map(|(address, form)| (Some(address.as_str()), Some(*form)))
            .collect();
        ensure!(seen == hops, "{destination}: {seen:?} instead of {hops:?}");
    }
    Ok(())
}

#[test]
fn trace_from_a_router() {
    with(|network| {
        // A router hands what is for hosts it has not met yet to its kernel, as unicast.
        network.ask("R1", &["ping", "-c", "2", "-i", "0.1"])?;
        let (code, document) = network.ask_json("R1", &["trace", "-W", "2"])?;
        ensure!(code == 0, "{document}");
        figure_3(&network, &document)?;
        let (_, text) = network.ask("R1", &["trace"])?;
        ensure!(text.matches("reached").count() == 3, "{text}");
        ensure!(
            text.matches(&network.router("R5", "R2")?).count() == 1,
            "{text}"
        );
        Ok(())
    });
}

/// A router that limits its answers: whoever got none is asked for again, by the same packet. A packet
/// to the one that is missing would be ordinary unicast all the way.
#[test]
fn trace_where_answers_are_limited() {
    with(|network| {
        network.ask("R1", &["ping", "-c", "2", "-i", "0.1"])?;
        let key = match network.family {
            Family::Ipv4 => "ipv4/icmp_ratelimit",
            Family::Ipv6 => "ipv6/icmp/ratelimit",
        };
        // Who was never answered has 60 seconds to its credit: one answer at once, one 2 seconds later.
        network.namespace("R7")?.sysctl(key, "31000")?;
        let (code, document) = network.ask_json("R1", &["trace", "-W", "3"])?;
        ensure!(code == 0, "{document}");
        figure_3(&network, &document)
    });
}

/// Lines of a file, one packet each, inside UDP to the first router; and the same again without that
/// router.
#[test]
fn send_lines_inside_udp() {
    let udp = [("port".to_owned(), i64::from(UDP_PORT).into())];
    let config = RouterConfig {
        udp: Some(udp.into_iter().collect()),
        ..RouterConfig::default()
    };
    with_routers(&config, |mut network| {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), "one\ntwo\nthree")?;
        let receivers = ["B", "C", "D"]
            .into_iter()
            .map(|name| {
                let address = (network.host(name)?, 0);
                network.namespace(name)?.enter(move || {
                    let socket = UdpSocket::bind(address)?;
                    socket.set_read_timeout(Some(PATIENCE))?;
                    Ok(socket)
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let (document, _) = send_lines(&network, file.path(), &receivers)?;
        ensure!(
            document["packets"] == 3
                && document["xcast_packets"] == 3
                && document["unicast_packets"] == 0,
            "{document}"
        );
        network.bed.testbed.stop_router("R1", Signal::SIGTERM)?;
        let (document, errors) = send_lines(&network, file.path(), &receivers)?;
        ensure!(
            document["xcast_packets"] == 0 && document["unicast_packets"] == 9,
            "{document}"
        );
        ensure!(errors.contains("no answer from"), "{errors}");
        Ok(())
    });
}

/// Sends a file from A and sees that everyone gets its lines; what `send` said.
fn send_lines(network: &Network, file: &Path, receivers: &[UdpSocket]) -> Result<(Value, String)> {
    let router: IpAddr = network.router("R1", "A")?.parse()?;
    let router = SocketAddr::new(router, UDP_PORT).to_string();
    let (file, code_points) = (file.to_string_lossy(), code_points());
    let mut arguments = vec!["send", "--udp", &router];
    arguments.extend(code_points.iter().map(String::as_str));
    arguments.extend(["--file", &file, "--lines", "--json"]);
    let to = receivers
        .iter()
        .map(|socket| Ok(socket.local_addr()?.to_string()))
        .collect::<Result<Vec<_>>>()?;
    arguments.extend(to.iter().map(String::as_str));
    let output = ctl(&network.namespace("A")?, &arguments)?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{errors}");
    for receiver in receivers {
        for line in ["one", "two", "three"] {
            let mut payload = [0; 100];
            let length = receiver.recv(&mut payload)?;
            ensure!(payload[..length] == *line.as_bytes(), "{line} did not come");
        }
    }
    Ok((serde_json::from_slice(&output.stdout)?, errors))
}

/// What a router lists, of one family or of both.
#[test]
fn routes_of_a_family() {
    with(|network| {
        let r2 = network.namespace("R2")?;
        let (family, ipv6) = match network.family {
            Family::Ipv4 => ("4", false),
            Family::Ipv6 => ("6", true),
        };
        let list = |verb: &str, family: &str| -> Result<Vec<Value>> {
            let output = ctl(&r2, &[verb, "--json", "--family", family])?;
            Ok(serde_json::from_slice(&output.stdout)?)
        };
        for (verb, field) in [("routes", "prefix"), ("next-hops", "address")] {
            let (one, both) = (list(verb, family)?, list(verb, "both")?);
            let of_other = |row: &Value| {
                let text = row[field].as_str();
                text.is_some_and(|text| text.contains(':') != ipv6)
            };
            ensure!(
                !one.is_empty() && !one.iter().any(of_other),
                "{verb}: {one:?}"
            );
            ensure!(
                both.iter().any(of_other) && both.len() > one.len(),
                "{verb}: {both:?}"
            );
        }
        let limited = ctl(
            &r2,
            &["routes", "--json", "--family", family, "--limit", "2"],
        )?;
        let limited: Vec<Value> = serde_json::from_slice(&limited.stdout)?;
        ensure!(limited.len() == 2, "{limited:?}");
        Ok(())
    });
}

/// A list of both families is split: one packet of each, and everyone answers.
#[test]
fn a_mixed_list() {
    with(|network| {
        if network.family == Family::Ipv4 {
            return Ok(());
        }
        let ipv4 = ["C", "D"].map(|name| network.host_of(Family::Ipv4, name));
        let [c, d] = ipv4.map(|address| address.map(|address| address.to_string()));
        let (c, d) = (c?, d?);
        let ping = ["ping", "-c", "2", "-i", "0.05", c.as_str(), d.as_str()];
        let (code, document) = network.ask_json("R1", &ping)?;
        ensure!(code == 0 && document["packets"] == 4, "{document}");
        let ways = document["ways"].as_array().context("no ways")?;
        ensure!(ways.len() == 2, "{document}");
        let lines = document["destinations"].as_array().context("no list")?;
        ensure!(
            lines.len() == 5 && lines.iter().all(|line| line["received"] == 2),
            "{document}"
        );

        let mut receivers = Vec::new();
        for family in Family::ALL {
            let address = (network.host_of(family, "C")?, 0);
            receivers.push(network.namespace("C")?.enter(move || {
                let socket = UdpSocket::bind(address)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                Ok(socket)
            })?);
        }
        let to = receivers
            .iter()
            .map(|socket| Ok(socket.local_addr()?.to_string()))
            .collect::<Result<Vec<_>>>()?;
        let (send, a) = (
            ["send", "--json", "--payload", "x"],
            network.namespace("A")?,
        );
        let code_points = code_points();
        let code_points = code_points.iter().map(String::as_str);
        let to = to.iter().map(String::as_str);
        for (node, options) in [
            (network.namespace("R1")?, vec![]),
            (a, code_points.collect::<Vec<_>>()),
        ] {
            let arguments: Vec<_> = send.into_iter().chain(options).chain(to.clone()).collect();
            let output = ctl(&node, &arguments)?;
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{errors}");
            let document: Value = serde_json::from_slice(&output.stdout)?;
            let ways = document["ways"].as_array().context("no ways")?;
            ensure!(ways.len() == 2, "{document}");
            for receiver in &receivers {
                let mut payload = [0; 10];
                let length = receiver.recv(&mut payload)?;
                ensure!(payload[..length] == *b"x", "{payload:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn what_is_wrong_is_said() {
    with(|network| {
        let namespace = network.namespace("A")?;
        for (arguments, said) in [
            (&["ping", "10.77.0.300"][..], "10.77.0.300"),
            (&["ping", "10.0.0.1"], "--protocol"),
            (&["ping", "-i", "soon", "10.0.0.1"], "soon"),
            (&["trace", "10.0.0.1", "10.0.0.1"], "twice"),
            (&["trace", "10.0.0.1", "fd77::1"], "both families"),
            (
                &[
                    "ping",
                    "--via",
                    "fd77::1",
                    "10.0.0.1",
                    "--protocol",
                    "253",
                    "--group",
                    "224.0.0.254",
                ],
                // It may be of the other family, but then it has to be on a link.
                "--via fd77::1: this router is behind a gateway",
            ),
            (
                &[
                    "ping",
                    "--via",
                    "10.77.0.1",
                    "fd77::1",
                    "--protocol",
                    "253",
                    "--group",
                    "224.0.0.254",
                ],
                "--via 10.77.0.1: no destination",
            ),
            (
                &[
                    "ping",
                    "fd77::1",
                    "--protocol",
                    "253",
                    "--group",
                    "224.0.0.254",
                ],
                "--group6",
            ),
        ] {
            let output = ctl(&namespace, arguments)?;
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(2), "{arguments:?}: {errors}");
            ensure!(
                errors.contains(said) && errors.lines().count() == 1,
                "{arguments:?}: {errors}"
            );
        }
        Ok(())
    });
}
