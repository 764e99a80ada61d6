//! `xcast-ctl dht`: verbs that ask real nodes, with a real Xcast router between them.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::{
    bed::Bed,
    daemon::{Counters, PATIENCE, ctl, program},
    dht::{Node, PORT, code_points},
    family::Family,
    namespace::{self, Namespace},
};
use xtask::testbed::{RouterConfig, Routing, Topology};

const UDP_PORT: u16 = 4242;
/// Nodes beside the one that asks.
const OTHERS: usize = 6;

/// One node on A, whose router is R1, and others on H1 and so on, which know nothing of Xcast.
struct Network {
    a: Node,
    others: Vec<Node>,
    router: Namespace,
    /// A's end of the first link.
    first_link: String,
    bed: Bed,
}

impl Network {
    fn up(family: Family) -> Result<Self> {
        let mut bed = Bed::up(&Topology::star(OTHERS), Routing::Static)?;
        let udp = [("port".to_owned(), i64::from(UDP_PORT).into())];
        bed.start_routers_with(&RouterConfig {
            udp: Some(udp.into_iter().collect()),
            ..RouterConfig::default()
        })?;
        let router = bed.namespace("R1")?;
        // Linux limits ICMP, by which the router answers, to one message a second.
        router.sysctl("ipv4/icmp_ratelimit", "0")?;
        router.sysctl("ipv6/icmp/ratelimit", "0")?;
        let of_family = |ipv4: Option<_>, ipv6: Option<_>| match family {
            Family::Ipv4 => ipv4.map(IpAddr::V4),
            Family::Ipv6 => ipv6.map(IpAddr::V6),
        };
        let host = |name: &str| {
            let node = bed.testbed.node(name)?;
            of_family(node.address, node.address6).context("no address")
        };
        // Hosts of the testbed share a /64.
        let kind = ["--own-network", "--per-network", "0"];
        let first = SocketAddr::new(host("H1")?, PORT).to_string();
        let mut others: Vec<Node> = Vec::new();
        for number in 1..=OTHERS {
            let name = format!("H{number}");
            let mut arguments = kind.to_vec();
            if number > 1 {
                arguments.extend(["--bootstrap", &first]);
            }
            others.push(Node::join(bed.namespace(&name)?, host(&name)?, &arguments)?);
        }
        let interface = bed.testbed.interface("R1", "A")?;
        let gateway = of_family(interface.address, interface.address6).context("no address")?;
        let gateway = SocketAddr::new(gateway, UDP_PORT).to_string();
        let code_points = code_points();
        let mut arguments = [&kind[..], &["--bootstrap", &first, "--udp", &gateway]].concat();
        arguments.extend(code_points.iter().map(String::as_str));
        let a = Node::join(bed.namespace("A")?, host("A")?, &arguments)?;
        a.until("a router takes Xcast", |status| {
            status["unicast_because"].is_null()
        })?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Those who joined last are known to the first one a little later.
            let found = a.done(&["lookup", "text:everybody"])?;
            if found["nodes"]
                .as_array()
                .is_some_and(|nodes| nodes.len() == OTHERS)
            {
                break;
            }
            ensure!(Instant::now() < deadline, "not all are known: {found}");
            thread::sleep(Duration::from_millis(200));
        }
        let first_link = bed.testbed.interface("A", "R1")?.name.clone();
        Ok(Self {
            a,
            others,
            router,
            first_link,
            bed,
        })
    }
}

#[track_caller]
fn with(test: impl Fn(Network) -> Result<()>) {
    if !namespace::available() {
        return;
    }
    for family in Family::ALL {
        if let Err(error) = Network::up(family).and_then(&test) {
            panic!("{family:?}: {error:#}");
        }
    }
}

/// What a list of costs has for one kind of delivery.
fn cost(costs: &Value, delivery: &str, name: &str) -> Result<f64> {
    let costs = costs.as_array().context("no list")?;
    let cost = costs.iter().find(|cost| cost["delivery"] == delivery);
    cost.and_then(|cost| cost[name].as_f64())
        .with_context(|| format!("no {name}"))
}

/// Requests of a round leave A as one packet, which R1 turns into one for each receiver: every verb,
/// what is counted on the first link, and a node that leaves.
#[test]
fn verbs_by_a_real_router() {
    with(|mut network| {
        let a = &network.a;
        let addresses: Vec<_> = network
            .others
            .iter()
            .map(|node| node.address.to_string())
            .collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();

        let before = Counters::read(&network.router)?;
        let pinged = a.done(&[&["ping"][..], &addresses].concat())?;
        ensure!(pinged["answered"] == OTHERS, "{pinged}");
        ensure!(
            pinged["sent"]["xcast_packets"].as_u64() >= Some(1),
            "{pinged}"
        );
        let counted = Counters::read(&network.router)?.since(&before);
        ensure!(counted.contains_key("decapsulated"), "{counted:?}");

        // All are asked at once, so there are as many requests in either way.
        let ping = [
            "ping",
            "--compare",
            "3",
            "--first-link",
            &network.first_link,
        ];
        let costs = a.done(&[&ping[..], &addresses].concat())?;
        for name in ["packets", "first_link_packets", "first_link_octets"] {
            let [unicast, xcast] = ["unicast", "xcast"].map(|kind| cost(&costs, kind, name));
            ensure!(xcast? < unicast?, "{name}: {costs}");
        }
        ensure!(
            cost(&costs, "unicast", "requests")? == OTHERS as f64,
            "{costs}"
        );
        ensure!(cost(&costs, "unicast", "xcast_packets")? == 0.0, "{costs}");
        ensure!(cost(&costs, "xcast", "xcast_packets")? >= 1.0, "{costs}");

        let found = a.done(&["lookup", "text:somewhere"])?;
        ensure!(
            found["nodes"]
                .as_array()
                .is_some_and(|nodes| nodes.len() == OTHERS),
            "{found}"
        );
        let costs = a.done(&["lookup", "text:somewhere", "--compare", "2"])?;
        ensure!(cost(&costs, "xcast", "requests")? > 0.0, "{costs}");
        let (_, text) = a.ask(&["lookup", "text:somewhere", "--compare", "1"])?;
        ensure!(text.contains("first link: octets both ways"), "{text}");
        let many = a.done(&["lookup", "text:somewhere", "text:elsewhere"])?;
        ensure!(
            many["keys"].as_object().is_some_and(|keys| keys.len() == 2),
            "{many}"
        );

        let stored = a.done(&["store", "text:it", "--port", "8080", "--keep"])?;
        ensure!(stored["stored"].as_u64() >= Some(1), "{stored}");
        let b = &network.others[OTHERS - 1];
        let peers = b.done(&["lookup", "--peers", "text:it"])?;
        let own = SocketAddr::new(a.address.ip(), 8080).to_string();
        ensure!(peers["peers"][0] == own, "{peers}");
        a.done(&["store", "text:it", "--withdraw"])?;
        let (code, _) = a.ask(&["store", "text:it", "--withdraw"])?;
        ensure!(code == 1, "it was withdrawn already");

        let put = a.done(&["put", "never changes"])?;
        let key = put["key"].as_str().context("no key")?;
        let (code, text) = b.ask(&["get", key])?;
        ensure!((code, text.as_str()) == (0, "never changes\n"), "{text}");
        let put = a.done(&["put", "--mutable", "--salt", "s", "--seq", "1", "first"])?;
        a.done(&[
            "put",
            "--mutable",
            "--salt",
            "s",
            "--seq",
            "2",
            "--cas",
            "1",
            "second",
        ])?;
        let public = put["item"]["public_key"]
            .as_str()
            .context("no public key")?;
        let (_, text) = b.ask(&["get", "--public-key", public, "--salt", "s"])?;
        ensure!(text == "second\n", "{text}");
        let (code, text) = b.ask(&["get", &"00".repeat(20)])?;
        ensure!(code == 1 && text.contains("nothing found"), "{text}");

        services(a, b)?;

        let (code, text) = a.ask(&["table"])?;
        ensure!(
            code == 0 && addresses.iter().all(|address| text.contains(address)),
            "{text}"
        );
        let (_, text) = a.ask(&["status"])?;
        ensure!(
            text.contains("BUCKET") && text.contains("find_node"),
            "{text}"
        );

        let left = a.done(&["leave"])?;
        ensure!(left["stored"] == OTHERS, "{left}");
        ensure!(network.a.ended()? == Some(0));
        let output = ctl(&network.a.namespace, &["dht", "status"])?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(2) && errors.contains("dht join"),
            "{errors}"
        );

        let b = &mut network.others[OTHERS - 1];
        kill(Pid::from_raw(b.child.id() as i32), Signal::SIGTERM)?;
        ensure!(b.ended()? == Some(0));
        Ok(())
    });
}

/// Services are found by type, text and place, the nearest first.
fn services(a: &Node, b: &Node) -> Result<()> {
    for (uri, place) in [
        ("ldap://hamburg.example.org", "53.55,9.99"),
        ("ldap://potsdam.example.org", "52.4,13.06"),
        ("ldap://mitte.example.org", "52.52,13.4"),
    ] {
        let name = format!("name=Directory of {uri}");
        let published = a.done(&[
            "publish",
            "--type",
            "ldap",
            "--uri",
            uri,
            "--place",
            place,
            "--attribute",
            &name,
        ])?;
        ensure!(published["stored"].as_u64() >= Some(1), "{published}");
    }
    let near = [
        "find",
        "--type",
        "ldap",
        "--near",
        "52.5,13.3",
        "--radius",
        "50",
    ];
    let (code, text) = b.ask(&[&near[..], &["--uri"]].concat())?;
    let expected = "ldap://mitte.example.org\nldap://potsdam.example.org\n";
    ensure!((code, text.as_str()) == (0, expected), "{text}");
    let (_, text) = b.ask(&[&near[..], &["--uri", "--limit", "1"]].concat())?;
    ensure!(text == "ldap://mitte.example.org\n", "{text}");
    let by_text = b.done(&["find", "--text", "hambu*"])?;
    let services = by_text["services"].as_array().context("no services")?;
    ensure!(services.len() == 1, "{by_text}");
    let (code, _) = b.ask(&["find", "--type", "slp"])?;
    ensure!(code == 1, "there is none");
    Ok(())
}

/// `--compare` with a list of all links: what the kernel's counters say is what must have crossed them, to
/// the octet, with Ethernet headers.
#[test]
fn every_link_is_counted_to_the_octet() {
    with(|network| {
        let a = &network.a;
        let directory = tempfile::tempdir()?;
        let list = directory.path().join("links");
        std::fs::write(&list, network.bed.testbed.plan().link_ends())?;
        let list = list.to_str().context("a path")?;
        let mut ping = vec!["ping", "--compare", "1", "--links", list];
        ping.extend(["--first-link", &network.first_link]);
        let addresses: Vec<_> = network
            .others
            .iter()
            .map(|node| node.address.to_string())
            .collect();
        ping.extend(addresses.iter().map(String::as_str));
        let others = OTHERS as f64;
        let packets = |costs: &Value| {
            let of = |delivery, name| cost(costs, delivery, name);
            Ok::<_, anyhow::Error>([
                of("unicast", "first_link_packets")?,
                of("unicast", "every_link_packets")?,
                of("xcast", "first_link_packets")?,
                of("xcast", "every_link_packets")?,
            ])
        };
        // Requests cross two links, and so do replies; one packet crosses the first link for all.
        let expected = [others, 4.0 * others, 1.0, 1.0 + 3.0 * others];
        let deadline = Instant::now() + PATIENCE;
        let costs = loop {
            let costs = a.done(&ping)?;
            // From time to time nodes and routers have something to say of their own.
            if packets(&costs)? == expected {
                break costs;
            }
            ensure!(Instant::now() < deadline, "{expected:?}: {costs}");
        };
        // Headers of Ethernet, IP and UDP, and a ping of 78 octets.
        let headers = match a.address {
            SocketAddr::V4(_) => 14 + 20 + 8,
            SocketAddr::V6(_) => 14 + 40 + 8,
        };
        let requests = others * f64::from(headers + 78);
        let of = |delivery, name| cost(&costs, delivery, name);
        ensure!(of("unicast", "first_link_octets")? == requests, "{costs}");
        for delivery in ["unicast", "xcast"] {
            let first = of(delivery, "first_link_octets")?;
            let replies = of(delivery, "first_link_octets_both_ways")? - first;
            let every = of(delivery, "every_link_octets")?;
            ensure!(
                every == first + requests + 2.0 * replies,
                "{delivery}: {costs}"
            );
        }
        ensure!(of("xcast", "first_link_octets")? < requests, "{costs}");
        Ok(())
    });
}

/// The table of docs/overlays.md: what each verb costs by unicast and by Xcast. `XCAST_RUNS` is how often
/// each is run.
#[test]
#[ignore = "a table for the documentation: cargo test -p tests --test dht -- --ignored --nocapture"]
fn what_each_verb_costs() {
    let runs = std::env::var("XCAST_RUNS").unwrap_or_else(|_| "10".to_owned());
    with(|network| {
        let a = &network.a;
        let directory = tempfile::tempdir()?;
        let list = directory.path().join("links");
        std::fs::write(&list, network.bed.testbed.plan().link_ends())?;
        let list = list.to_str().context("a path")?;
        let addresses: Vec<_> = network
            .others
            .iter()
            .map(|node| node.address.to_string())
            .collect();
        let ping: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let service = [
            "--type",
            "ldap",
            "--uri",
            "ldap://ldap.example.org",
            "--place",
            "52.5,13.4",
        ];
        let near = ["--type", "ldap", "--near", "52.4,13.1", "--radius", "50"];
        let verbs: [(&str, &[&str]); 7] = [
            ("ping", &ping),
            ("lookup", &["text:somewhere"]),
            ("put", &["never changes"]),
            ("store", &["text:it"]),
            ("publish", &service),
            ("find", &near),
            ("lookup", &["text:a", "text:b", "text:c"]),
        ];
        let family = if a.address.is_ipv4() { "IPv4" } else { "IPv6" };
        for (verb, arguments) in verbs {
            let mut words = vec![verb];
            words.extend(arguments);
            words.extend(["--compare", &runs, "--links", list]);
            words.extend(["--first-link", &network.first_link]);
            let costs = a.done(&words)?;
            let pair = |name: &str| -> Result<(f64, f64)> {
                Ok((cost(&costs, "unicast", name)?, cost(&costs, "xcast", name)?))
            };
            let saved = |(unicast, xcast): (f64, f64)| 100.0 * (1.0 - xcast / unicast);
            let (packets, octets) = (pair("first_link_packets")?, pair("first_link_octets")?);
            let (both, every) = (
                pair("first_link_octets_both_ways")?,
                pair("every_link_octets")?,
            );
            let links = pair("every_link_packets")?;
            println!(
                "| `{verb}` {} | {family} | {:.1} | {:.1}, {:.1} | {:.0}, {:.0} (-{:.0} %) | {:.0} % | {:.1}, {:.1} (-{:.0} %) | {:.0} % | {:.1} % |",
                if verb == "lookup" {
                    arguments.len().to_string()
                } else {
                    String::new()
                },
                pair("requests")?.0,
                packets.0,
                packets.1,
                octets.0,
                octets.1,
                saved(octets),
                saved(both),
                links.0,
                links.1,
                saved(links),
                saved(every),
                pair("loss_percent")?.1,
            );
        }
        Ok(())
    });
}

/// Two nodes alone in a namespace, the first with `--json`; what it printed.
fn pair(arguments: &[&str]) -> Result<(Node, Value, Node)> {
    let namespace = Namespace::new("dht")?;
    let here = Namespace::of(namespace.name());
    let [one, two] = [1, 2].map(|last| IpAddr::from([127, 0, 0, last]));
    let (first, line) = Node::joined(namespace, one, &["--json"])?;
    let bootstrap = first.address.to_string();
    let others = ["--bootstrap", &bootstrap, "--node", "second"];
    let second = Node::join(here, two, &[&others[..], arguments].concat())?;
    first.until("it knows the second", |status| {
        status["table"][0].is_object()
    })?;
    Ok((first, serde_json::from_str(&line)?, second))
}

/// What programs read is one document: of a node that has joined, and of all services that avahi has found.
#[test]
fn programs_read_one_document() {
    if !namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let (first, joined, _second) = pair(&[])?;
        ensure!(joined["listens"] == first.address.to_string(), "{joined}");
        ensure!(joined["joined"] == true, "{joined}");
        let services = ["one", "two"].map(|name| {
            format!("=;eth0;IPv4;{name};_ldap._tcp;local;{name}.local;198.51.100.7;389;\"base=dc=example\"\n")
        });
        let told = services.concat();
        let publish = [
            "dht", "publish", "--avahi", "-", "--json", "--node", "second",
        ];
        let published =
            namespace::outcome(first.namespace.command(program()).args(publish), &told)?;
        let text = String::from_utf8_lossy(&published.stdout);
        let reports: Value = serde_json::from_str(&text).with_context(|| text.to_string())?;
        let reports = reports.as_array().context("no list")?;
        ensure!(reports.len() == 2, "{}", reports.len());
        ensure!(
            reports
                .iter()
                .all(|report| report["stored"].as_u64() >= Some(1)),
            "{reports:?}"
        );
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

/// With `--no-extensions` a node is a stranger to others: it keeps no service and asks for none.
#[test]
fn without_extensions_no_service_is_kept() {
    if !namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let (first, _, second) = pair(&["--no-extensions"])?;
        let publish = ["publish", "--type", "ldap", "--uri", "ldap://a"];
        let (code, text) = first.ask(&publish)?;
        ensure!(code == 1, "nobody stores it: {text}");
        let of_second = ["--node", "second"];
        let (code, text) = second.ask(&[&["find", "--type", "ldap"][..], &of_second].concat())?;
        ensure!(code == 1, "it asks nobody: {text}");
        let (_, status) = second.ask(&[&["status", "--json"][..], &of_second].concat())?;
        ensure!(
            !status.contains("xc_") && !status.contains("get_many"),
            "{status}"
        );
        // Keys are looked up all the same.
        let keys = ["lookup", "text:a", "text:b"];
        let (code, text) = second.ask(&[&keys[..], &of_second].concat())?;
        ensure!(code == 0, "{text}");
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

/// A node that nobody answers says so at any time.
#[test]
fn an_empty_table_says_why() {
    if !namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let namespace = Namespace::new("dht")?;
        namespace.ip("link set lo up")?;
        let ip = IpAddr::from([127, 0, 0, 1]);
        let state = tempfile::tempdir()?;
        let path = state.path().join("state");
        let path = path.to_str().context("a path")?;
        let nobody = ["--bootstrap", "127.0.0.1:9", "--state", path];
        let node = Node::join(namespace, ip, &nobody)?;
        node.until("the time is over", |status| {
            !status["node"]["families"][0]["why_empty"]["no_answer"].is_null()
        })?;
        for verb in ["status", "table"] {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let (code, text) = node.ask(&[verb])?;
                ensure!(code == 1, "{text}");
                // It tries again from time to time, and waits for answers then.
                if text.contains("check the bootstrap addresses") {
                    break;
                }
                ensure!(Instant::now() < deadline, "{text}");
                thread::sleep(Duration::from_millis(100));
            }
        }
        let (code, text) = node.ask(&["lookup", "text:anything"])?;
        ensure!(code == 1, "{text}");
        // The identifier stays.
        let (_, text) = node.ask(&["status", "--json"])?;
        let status: Value = serde_json::from_str(&text)?;
        let kept: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        ensure!(status["node"]["id"] == kept["id"], "{status} {kept}");
        let output = ctl(&node.namespace, &["dht", "join", "--listen", "127.0.0.1:0"])?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(2) && errors.contains("already"),
            "{errors}"
        );
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

/// Why nodes are not taken is told by reason.
#[test]
fn refusals_are_told_by_reason() {
    if !namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let namespace = Namespace::new("dht")?;
        let join = |last: u8, name: &str| {
            let first = ["--bootstrap", "127.0.0.1:6881", "--node", name];
            let more = ["--per-network", "1", "--own-network"];
            let ip = IpAddr::from([127, 0, 0, last]);
            let arguments = [&more[..], if last == 1 { &[] } else { &first }].concat();
            Node::join(Namespace::of(namespace.name()), ip, &arguments)
        };
        let first = join(1, "node")?;
        let others = (2..=9).map(|last| join(last, &format!("node{last}")));
        let _others: Vec<Node> = others.collect::<Result<_>>()?;
        // All are of one /24, of which a bucket takes one.
        let refused = |status: &Value| {
            let refusals = &status["node"]["families"][0]["refusals"];
            refusals["same_network"].as_u64() >= Some(1)
        };
        first.until("somebody is refused", refused)?;
        let (code, text) = first.ask(&["status"])?;
        let line = text
            .lines()
            .find(|line| line.contains("a node was not taken"));
        let line = line.with_context(|| format!("no refusals: {text}"))?;
        ensure!(code == 0 && line.contains("/24"), "{line}");
        let status: Value = serde_json::from_str(&first.ask(&["status", "--json"])?.1)?;
        let buckets = status["node"]["families"][0]["buckets"].as_array();
        let buckets = buckets.context("no buckets")?;
        ensure!(
            buckets
                .iter()
                .all(|bucket| bucket["good"].as_u64() <= Some(1)),
            "{status}"
        );
        Ok(())
    };
    if let Err(error) = test() {
        panic!("{error:#}");
    }
}

/// What is wrong is named, before any node is asked.
#[test]
fn wrong_input_is_named() {
    if !namespace::available() {
        return;
    }
    let namespace = Namespace::new("dht").expect("a namespace");
    for (arguments, said) in [
        (&["lookup", "somewhere"][..], "text:WORDS"),
        (&["ping", "10.0.0.1"], "ADDRESS:PORT"),
        (&["join", "--bootstrap", "10.0.0.1:0"], "--bootstrap"),
        (
            &[
                "join",
                "--listen",
                "10.0.0.1:1",
                "--bootstrap",
                "[fd00::1]:1",
            ],
            "family of --listen",
        ),
        (&["join", "--udp", "10.0.0.1:4242"], "no code points"),
        (&["join", "--state", "/nowhere/state"], "--state"),
        (
            &[
                "publish", "--type", "ldap", "--uri", "ldap://x", "--place", "91,0",
            ],
            "--place",
        ),
        (
            &[
                "publish", "--type", "ldap", "--uri", "ldap://x", "--life", "0",
            ],
            "--life",
        ),
        (&["find"], "--type"),
        (&["find", "--text", "*"], "--text"),
        (&["find", "--type", "ldap", "--radius", "50"], "--near"),
        (&["find", "--rings", "1"], "--near"),
        (
            &["find", "--polygon", "52.6,13.3", "52.6,13.5"],
            "--polygon",
        ),
        (
            &["publish", "--avahi", "/nowhere/avahi"],
            "--avahi: cannot read",
        ),
        (&["publish", "--type", "ldap"], "--uri"),
        (&["put", "--bencoded", "nothing"], "VALUE"),
        (&["put", &"x".repeat(1000)], "VALUE has 1005 octets"),
        (&["get", "--public-key", "00"], "64 hexadecimal digits"),
        (&["status"], "no DHT node runs"),
    ] {
        let output = ctl(&namespace, &[&["dht"][..], arguments].concat()).expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(said), "{arguments:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}
