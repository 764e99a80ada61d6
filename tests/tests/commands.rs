//! The commands that ask a network: ping and trace.

use std::{
    net::{Ipv4Addr, UdpSocket},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::{
    bed::Bed,
    daemon::{Counters, PATIENCE, ctl},
    layout::{GROUP, PROTOCOL},
    namespace::{self, Namespace},
};
use xtask::testbed::{RouterConfig, Routing, Topology};

const UDP_PORT: u16 = 4242;

/// RFC 5058's Figure 3, with routers.
struct Network {
    bed: Bed,
}

impl Network {
    fn up(config: &RouterConfig) -> Result<Self> {
        let mut bed = Bed::up(&Topology::fig3(), Routing::Static)?;
        bed.start_routers_with(config)?;
        Ok(Self { bed })
    }

    fn namespace(&self, node: &str) -> Result<Namespace> {
        self.bed.namespace(node)
    }

    fn host(&self, node: &str) -> Result<Ipv4Addr> {
        let address = self.bed.testbed.node(node)?.address;
        address.with_context(|| format!("{node} has no address"))
    }

    /// The address of a router's interface towards a neighbour.
    fn router(&self, node: &str, towards: &str) -> Result<String> {
        let address = self.bed.testbed.interface(node, towards)?.address;
        Ok(address
            .with_context(|| format!("{node} has no address"))?
            .to_string())
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

#[track_caller]
fn with(test: impl FnOnce(Network) -> Result<()>) {
    with_routers(&RouterConfig::default(), test);
}

#[track_caller]
fn with_routers(config: &RouterConfig, test: impl FnOnce(Network) -> Result<()>) {
    if !namespace::available() {
        return;
    }
    if let Err(error) = Network::up(config).and_then(test) {
        panic!("{error:#}");
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
        let (protocol, group) = (PROTOCOL.to_string(), GROUP.to_string());
        let to = ["--protocol", &protocol, "--group", &group];
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
#[test]
fn trace_from_a_router() {
    with(|network| {
        // A router hands what is for hosts it has not met yet to its kernel, as unicast.
        network.ask("R1", &["ping", "-c", "2", "-i", "0.1"])?;
        let (code, document) = network.ask_json("R1", &["trace", "-W", "2"])?;
        ensure!(code == 0, "{document}");
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
        let (_, text) = network.ask("R1", &["trace"])?;
        ensure!(text.matches("reached").count() == 3, "{text}");
        ensure!(
            text.matches(&network.router("R5", "R2")?).count() == 1,
            "{text}"
        );
        Ok(())
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
    let router = format!("{}:{UDP_PORT}", network.router("R1", "A")?);
    let (protocol, group) = (PROTOCOL.to_string(), GROUP.to_string());
    let file = file.to_string_lossy();
    let mut arguments = vec!["send", "--udp", &router, "--protocol", &protocol];
    arguments.extend(["--group", &group, "--file", &file, "--lines", "--json"]);
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

#[test]
fn what_is_wrong_is_said() {
    with(|network| {
        let namespace = network.namespace("A")?;
        for (arguments, said) in [
            (&["ping", "10.77.0.300"][..], "10.77.0.300"),
            (&["ping", "10.0.0.1"], "--protocol"),
            (&["ping", "-i", "soon", "10.0.0.1"], "soon"),
            (&["trace", "10.0.0.1", "10.0.0.1"], "twice"),
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
