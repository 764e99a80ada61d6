//! Services end to end: real servers at different places are published in the hash table, found by
//! who looks for them from elsewhere, and used; six routers that speak Xcast are between.
//!
//! LDAP is slapd and ldapsearch. DNS-SD is avahi-daemon, whose service is published as avahi-browse
//! tells of it. SLP has no server to be had: its messages are judged by Wireshark's dissector. UDDI
//! has none either, and is tested as a format (`xcast_overlay::services::uddi`).

mod avahi;
mod dissector;
mod ldap;

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{
    bed::Bed,
    daemon::{PATIENCE, program},
    dht::{Node, PORT, code_points},
    family::Family,
    namespace,
};
use xcast_overlay::services::{
    Service,
    slp::{Body, Message, Url},
};
use xtask::testbed::{RouterConfig, Routing, Topology};

use self::{avahi::Avahi, ldap::Directory};

const UDP_PORT: u16 = 4242;
/// Hosts with a directory, and where they are.
const DIRECTORIES: [(&str, &str, &str); 3] = [
    ("B", "potsdam", "52.40,13.06"),
    ("C", "mitte", "52.52,13.405"),
    ("D", "hamburg", "53.55,9.99"),
];
/// In Potsdam, 2 km from its directory and 27 from that of Mitte.
const IN_POTSDAM: &str = "52.39,13.09";
/// In the north of Hamburg.
const IN_HAMBURG: &str = "53.60,10.02";

/// Figure 3: A looks for what B, C and D have.
struct Network {
    family: Family,
    bed: Bed,
    a: Node,
    /// On B, C and D.
    others: Vec<Node>,
}

impl Network {
    fn up(family: Family) -> Result<Self> {
        let mut bed = Bed::up(&Topology::fig3(), Routing::Static)?;
        let udp = [("port".to_owned(), i64::from(UDP_PORT).into())];
        bed.start_routers_with(&RouterConfig {
            udp: Some(udp.into_iter().collect()),
            ..RouterConfig::default()
        })?;
        let router = bed.namespace("R1")?;
        // Linux limits ICMP, by which the router answers, to one message a second.
        router.sysctl("ipv4/icmp_ratelimit", "0")?;
        router.sysctl("ipv6/icmp/ratelimit", "0")?;
        // Hosts of the testbed share a /64.
        let kind = ["--own-network", "--per-network", "0"];
        let first = SocketAddr::new(address(&bed, family, "B")?, PORT).to_string();
        let mut others = Vec::new();
        for (host, _, _) in DIRECTORIES {
            let mut arguments = kind.to_vec();
            if host != "B" {
                arguments.extend(["--bootstrap", &first]);
            }
            let ip = address(&bed, family, host)?;
            others.push(Node::join(bed.namespace(host)?, ip, &arguments)?);
        }
        let interface = bed.testbed.interface("R1", "A")?;
        let gateway = of_family(family, interface.address, interface.address6)?;
        let gateway = SocketAddr::new(gateway, UDP_PORT).to_string();
        let code_points = code_points();
        let mut arguments = [&kind[..], &["--bootstrap", &first, "--udp", &gateway]].concat();
        arguments.extend(code_points.iter().map(String::as_str));
        let a = Node::join(bed.namespace("A")?, address(&bed, family, "A")?, &arguments)?;
        a.until("a router takes Xcast", |status| {
            status["unicast_because"].is_null()
        })?;
        for node in others.iter().chain([&a]) {
            // Those who joined last are known to the first one a little later.
            until("all know each other", || {
                let found = node.done(&["lookup", "text:everybody"])?;
                let nodes = found["nodes"].as_array().context("no list")?;
                ensure!(nodes.len() == DIRECTORIES.len(), "{found}");
                Ok(())
            })?;
        }
        Ok(Self {
            family,
            bed,
            a,
            others,
        })
    }

    fn address(&self, host: &str) -> Result<IpAddr> {
        address(&self.bed, self.family, host)
    }

    fn node(&self, host: &str) -> Result<&Node> {
        let at = DIRECTORIES.iter().position(|(name, _, _)| *name == host);
        Ok(&self.others[at.context("no such host")?])
    }

    /// What A finds, the nearest first. Its packets to several nodes leave as one.
    fn find(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let (_, text) = self.a.ask(&[&["find", "--json"], arguments].concat())?;
        let report: Value = serde_json::from_str(&text)?;
        ensure!(
            report["sent"]["xcast_packets"].as_u64() >= Some(1),
            "{arguments:?}: {report}"
        );
        let services = report["services"].as_array().context("no list")?;
        Ok(services.clone())
    }
}

fn address(bed: &Bed, family: Family, host: &str) -> Result<IpAddr> {
    let node = bed.testbed.node(host)?;
    of_family(family, node.address, node.address6)
}

fn of_family(
    family: Family,
    ipv4: Option<std::net::Ipv4Addr>,
    ipv6: Option<std::net::Ipv6Addr>,
) -> Result<IpAddr> {
    let address = match family {
        Family::Ipv4 => ipv4.map(IpAddr::V4),
        Family::Ipv6 => ipv6.map(IpAddr::V6),
    };
    address.context("no address")
}

#[track_caller]
fn with(families: &[Family], test: impl Fn(Network) -> Result<()>) {
    if !namespace::available() {
        return;
    }
    for family in families {
        if let Err(error) = Network::up(*family).and_then(&test) {
            panic!("{family:?}: {error:#}");
        }
    }
}

/// Tries until it succeeds.
fn until<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() > deadline => return Err(error.context(what.to_owned())),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn text<'a>(service: &'a Value, name: &str) -> Result<&'a str> {
    let value = match name {
        "uri" => &service["uri"],
        name => &service["attributes"][name],
    };
    value
        .as_str()
        .with_context(|| format!("no {name}: {service}"))
}

/// "Nearest LDAP server within 50 km" finds a real slapd among several, and `ldapsearch` binds to it.
#[test]
fn the_nearest_directory_is_found_and_bound_to() {
    with(&Family::ALL, |network| {
        let mut directories = Vec::new();
        for (host, name, place) in DIRECTORIES {
            let address = network.address(host)?;
            let directory = Directory::start(network.bed.namespace(host)?, address, name)?;
            let published = network.node(host)?.done(&[
                "publish",
                "--type",
                "ldap",
                "--uri",
                &directory.uri,
                "--place",
                place,
                "--attribute",
                &format!("base={}", directory.base),
                "--attribute",
                &format!("name=Staff directory of {name}"),
            ])?;
            ensure!(published["stored"].as_u64() >= Some(1), "{published}");
            directories.push(directory);
        }
        let client = network.bed.namespace("A")?;
        // As whoever has found it would: all that is known of it comes from the hash table.
        let bound_to = |service: &Value| -> Result<String> {
            ldap::description(&client, text(service, "uri")?, text(service, "base")?)
        };
        let near = |place, more: &[&str]| {
            let near = ["--type", "ldap", "--near", place];
            network.find(&[&near[..], more].concat())
        };
        for (place, nearest, within) in [(IN_POTSDAM, "potsdam", 2), (IN_HAMBURG, "hamburg", 1)] {
            let found = near(place, &["--radius", "50"])?;
            ensure!(found.len() == within, "{place}: {found:?}");
            let first = near(place, &["--radius", "50", "--limit", "1"])?;
            ensure!(
                first.len() == 1 && first[0]["uri"] == found[0]["uri"],
                "{first:?} {found:?}"
            );
            let described = bound_to(&found[0])?;
            ensure!(described == ldap::greeting(nearest), "{described}");
        }
        // The same servers by every kind of area, and by text.
        let only = |found: Vec<Value>, name: &str| -> Result<()> {
            ensure!(found.len() == 1, "{name}: {found:?}");
            let described = bound_to(&found[0])?;
            ensure!(described == ldap::greeting(name), "{described}");
            Ok(())
        };
        only(near("52.40,13.06", &["--rings", "0"])?, "potsdam")?;
        only(near("52.41,13.07", &["--rings", "1"])?, "potsdam")?;
        let around_mitte = ["--polygon", "52.6,13.3", "52.6,13.5", "52.45,13.4"];
        only(network.find(&around_mitte)?, "mitte")?;
        for (pattern, name) in [
            ("hamburg", "hamburg"),
            ("pots*", "potsdam"),
            ("mi*te", "mitte"),
        ] {
            only(network.find(&["--text", pattern])?, name)?;
        }
        ensure!(near(IN_POTSDAM, &["--radius", "1"])?.is_empty());
        // Where a server has ended, its entry is there until it expires; the next one is known.
        let ended = directories.remove(0);
        drop(ended);
        let found = near(IN_POTSDAM, &["--radius", "50"])?;
        ensure!(bound_to(&found[0]).is_err(), "nobody answers there");
        ensure!(bound_to(&found[1])? == ldap::greeting("mitte"));
        Ok(())
    });
}

/// What a publisher keeps alive is signed anew before it expires; what nobody keeps alive goes.
#[test]
fn an_entry_lives_as_long_as_its_publisher() {
    with(&[Family::Ipv4], |mut network| {
        let publisher = network.others.pop().context("no node")?;
        publisher.done(&[
            "publish",
            "--type",
            "ldap",
            "--uri",
            "ldap://short.example.org",
            "--life",
            "4",
        ])?;
        let life = |found: &[Value]| found.first().and_then(|found| found["life_s"].as_i64());
        let (mut least, mut refreshed) = (i64::MAX, 0);
        until("it is refreshed, twice", || {
            let found = network.find(&["--text", "short"])?;
            let left = life(&found).context("it has expired")?;
            ensure!(left <= 4, "{found:?}");
            if left > least {
                refreshed += 1;
                least = left;
            }
            least = least.min(left);
            ensure!(
                refreshed == 2,
                "{left} s are left, and least were {least} s"
            );
            Ok(())
        })?;
        drop(publisher);
        until("it expires", || {
            let found = network.find(&["--text", "short"])?;
            ensure!(found.is_empty(), "{found:?}");
            Ok(())
        })
    });
}

/// avahi-daemon tells its link of a directory; published, it is found and bound to from another link.
#[test]
fn what_avahi_tells_a_link_is_found_from_elsewhere() {
    with(&[Family::Ipv4], |network| {
        let (host, name, place) = DIRECTORIES[1];
        let here = || network.bed.namespace(host);
        let ipv4 = address(&network.bed, Family::Ipv4, host)?;
        let directory = Directory::start(here()?, ipv4, name)?;
        let base = format!("base={}", directory.base);
        let interface = network.bed.testbed.interface(host, "R7")?.name.clone();
        let avahi = Avahi::start(here()?, &interface, "Staff of Mitte", "_ldap._tcp", &base)?;
        let told = until("avahi tells of it", || {
            let told = avahi.browse("_ldap._tcp")?;
            ensure!(told.contains(&format!(";{ipv4};{};", ldap::PORT)), "{told}");
            Ok(told)
        })?;
        let arguments = ["dht", "publish", "--avahi", "-", "--place", place];
        let published = namespace::outcome(here()?.command(program()).args(arguments), &told)?;
        ensure!(published.status.success(), "{published:?}");
        let found = network.find(&[
            "--type", "dns-sd", "--text", "staff", "--near", IN_POTSDAM, "--radius", "50",
        ])?;
        let uri = format!("ldap://{ipv4}:{}", ldap::PORT);
        let found = found.iter().find(|found| found["uri"] == uri);
        let found = found.with_context(|| format!("no {uri}"))?;
        ensure!(text(found, "instance")? == "Staff of Mitte", "{found}");
        ensure!(text(found, "kind")? == "_ldap._tcp", "{found}");
        let client = network.bed.namespace("A")?;
        let described = ldap::description(&client, text(found, "uri")?, text(found, "base")?)?;
        ensure!(described == ldap::greeting(name), "{described}");
        Ok(())
    });
}

/// A registration of SLP is published, and what is found becomes a reply: each message is what
/// Wireshark takes it for.
#[test]
fn slp_by_the_hash_table() {
    with(&[Family::Ipv4], |network| {
        let message = |transaction, body| Message {
            transaction,
            language: "en".to_owned(),
            overflow: false,
            body,
        };
        let uri = "service:printer:lpr://printer.example.org/queue";
        let registration = message(
            1,
            Body::Registration {
                url: Url {
                    lifetime_s: 600,
                    url: uri.to_owned(),
                },
                kind: "service:printer:lpr".to_owned(),
                scopes: "DEFAULT".to_owned(),
                attributes: "(color=yes),(location=2nd floor\\2c left),duplex".to_owned(),
            },
        );
        let octets = registration.encode().context("too long")?;
        let heard = Message::decode(&octets).context("no message")?;
        let service = heard.body.service(None).context("no registration")?;
        let attributes: Vec<String> = service
            .attributes
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut arguments = vec![
            "publish",
            "--type",
            &service.mechanism,
            "--uri",
            &service.uri,
        ];
        for attribute in &attributes {
            arguments.extend(["--attribute", attribute]);
        }
        network.node("D")?.done(&arguments)?;

        let found = network.find(&["--type", "slp", "--text", "lpr"])?;
        ensure!(found.len() == 1, "{found:?}");
        let attributes = found[0]["attributes"]
            .as_object()
            .context("no attributes")?;
        let attributes = attributes.iter().map(|(name, value)| {
            let value = value.as_str().context("no text")?;
            Ok((name.clone(), value.to_owned()))
        });
        let again = Service {
            mechanism: "slp".to_owned(),
            uri: text(&found[0], "uri")?.to_owned(),
            attributes: attributes.collect::<Result<_>>()?,
            place: None,
        };
        ensure!(again == service, "{again:?} {service:?}");
        let life = found[0]["life_s"].as_i64().context("no life")?;

        let request = message(
            2,
            Body::Request {
                previous: String::new(),
                kind: "service:printer:lpr".to_owned(),
                scopes: "DEFAULT".to_owned(),
                predicate: "(color=yes)".to_owned(),
            },
        );
        let reply = request
            .reply([(&again, life)], 1400)
            .context("no request")?;
        let advertisement = message(
            3,
            Body::Advertisement {
                error: 0,
                boot_unix_s: 1_000_000,
                url: "service:directory-agent://192.0.2.1".to_owned(),
                scopes: "DEFAULT".to_owned(),
                attributes: String::new(),
            },
        );
        let registered_anew = message(4, Body::registration(&again, 600));
        let messages = [registration, request, reply, advertisement, registered_anew];
        let octets: Option<Vec<_>> = messages.iter().map(Message::encode).collect();
        let seen = dissector::dissect(&octets.context("too long")?)?;
        let values = |field: &str| -> Vec<String> {
            seen.iter()
                .flat_map(|packet| dissector::values(packet, field))
                .collect()
        };
        ensure!(values("srvloc.version") == ["2"; 5], "{seen:?}");
        ensure!(
            values("srvloc.function") == ["3", "1", "2", "8", "3"],
            "{seen:?}"
        );
        ensure!(
            values("srvloc.xid") == ["1", "2", "2", "3", "4"],
            "{seen:?}"
        );
        ensure!(values("srvloc.langtag") == ["en"; 5], "{seen:?}");
        ensure!(values("srvloc.url.url") == [uri; 3], "{seen:?}");
        ensure!(values("srvloc.url.lifetime")[0] == "600", "{seen:?}");
        ensure!(
            values("srvloc.srvreq.predicate") == ["(color=yes)"],
            "{seen:?}"
        );
        ensure!(values("srvloc.errv2") == ["0", "0"], "{seen:?}");
        Ok(())
    });
}
