//! Routers that know nothing of Xcast, in every position (RFC 5058 section 11.2): plain kernel forwarding with a strict
//! reverse path filter, and packet filters that drop whatever is unusual. Every destination gets every packet once,
//! before anybody has found out who speaks Xcast and after. Where no router does, the source sends unicast, or one of the
//! receivers serves the others.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::bed::{Bed, To};
use tests::daemon::{self, Daemon, PATIENCE};
use tests::family::{self, Family};
use tests::layout::{GROUP, PORTS_OPTION, PROTOCOL};
use tests::namespace;
use tests::trio::{SOON, code_points, until};
use xcast_host::relay::SourceAddress;
use xcast_host::{CodePoints, Ipv6CodePoints, Relays, Sender, Settings, Uplink};
use xtask::testbed::{RouterConfig, Routing, Topology};

/// ```text
/// A - R1 - R2 - R3 - R4 - C
///               |     |
///               B     D
/// ```
const TOPOLOGY: &str = r#"
    hosts = ["A", "B", "C", "D"]
    routers = ["R1", "R2", "R3", "R4"]
    link = [
        { ends = ["A", "R1"] }, { ends = ["R1", "R2"] }, { ends = ["R2", "R3"] },
        { ends = ["R3", "B"] }, { ends = ["R3", "R4"] }, { ends = ["R4", "C"] },
        { ends = ["R4", "D"] },
    ]"#;

/// Port for Xcast inside UDP.
const UDP_PORT: u16 = 4242;

/// How many messages are counted.
const MESSAGES: u32 = 40;

/// How long a source waits for an answer that will not come.
const PROBED: Duration = Duration::from_millis(500);

/// Which routers speak Xcast.
struct Deployment {
    aware: &'static [&'static str],
    /// How many packets cross the link R3 - R4 for one message, once everybody knows whom to send lists to.
    third_link: u64,
}

/// Protocols of Xcast and of tunnels.
const PROTOCOLS: &str = "ip protocol { 253, 4, 41, 47 } drop\n\
                         ip6 nexthdr { 0, 4, 41, 43, 47, 60, 253 } drop";
/// Headers of variable length, and anything that routes or lists.
const OPTIONS: &str =
    "ip hdrlength > 5 drop\nexthdr hbh exists drop\nexthdr rt exists drop\nexthdr dst exists drop";
/// Nothing is dropped, but classes are taken away.
const CLASSES: &str = "ip dscp set cs0\nip6 dscp set cs0";

const DEPLOYMENTS: [Deployment; 6] = [
    // The first hop does not: lists go through it, to the second by its address.
    Deployment {
        aware: &["R2", "R3", "R4"],
        third_link: 1,
    },
    // One in the middle does not.
    Deployment {
        aware: &["R1", "R3", "R4"],
        third_link: 2,
    },
    // The last does not.
    Deployment {
        aware: &["R1", "R2", "R3"],
        third_link: 2,
    },
    // Only one does: the first, one in the middle, the branching one.
    Deployment {
        aware: &["R1"],
        third_link: 2,
    },
    Deployment {
        aware: &["R2"],
        third_link: 2,
    },
    Deployment {
        aware: &["R3"],
        third_link: 2,
    },
];

/// What the routers that know nothing drop in a deployment, besides what their reverse path filter drops: another thing by
/// IPv6 than by IPv4.
fn dropping(deployment: usize) -> &'static str {
    let shift = usize::from(Family::under_test() == Family::Ipv6);
    [CLASSES, PROTOCOLS, OPTIONS][(deployment + shift) % 3]
}

/// The source's way to the first router that speaks Xcast, and whether what is unusual gets there.
fn ways(bed: &Bed, deployment: &Deployment, dropping: &str) -> Result<Vec<To>> {
    let first = deployment.aware.first().context("nobody speaks Xcast")?;
    let node = bed.testbed.node(first)?;
    let address = match Family::under_test() {
        Family::Ipv4 => node.address.map(IpAddr::from),
        Family::Ipv6 => node.address6.map(IpAddr::from),
    };
    let address = address.context("a router without address")?;
    let in_udp = To::Udp(address, UDP_PORT);
    Ok(match *first {
        "R1" => vec![To::Group, To::Router(address), in_udp],
        _ if dropping == CLASSES => vec![To::Router(address), in_udp],
        // Whoever drops lists on their first link leaves UDP as the only way.
        _ => vec![in_udp],
    })
}

/// Makes a router one that knows nothing, and drops what it does not know.
fn make_unaware(bed: &Bed, router: &str, dropping: &str) -> Result<()> {
    let namespace = bed.namespace(router)?;
    namespace.sysctl("ipv4/conf/all/rp_filter", "1")?;
    // The kernel's reverse path filter is for IPv4, and the packet filter has the same for IPv6 (RFC 3704 section 2.2).
    let rules = format!(
        "table inet unaware {{\nchain forward {{\ntype filter hook forward priority 0;\n{dropping}\n}}\n}}\n\
         table ip6 strict {{\nchain prerouting {{\ntype filter hook prerouting priority raw;\n\
         ip6 saddr fe80::/10 accept\nfib saddr . iif oif missing drop\n}}\n}}\n"
    );
    namespace::run(namespace.command("nft").args(["-f", "-"]), &rules)?;
    Ok(())
}

fn make_plain(bed: &Bed, router: &str) -> Result<()> {
    let namespace = bed.namespace(router)?;
    namespace.sysctl("ipv4/conf/all/rp_filter", "0")?;
    namespace.run("nft flush ruleset")?;
    Ok(())
}

/// Waits until every router knows which of its neighbours speak Xcast.
fn everybody_knows(bed: &Bed, aware: &[&str]) -> Result<()> {
    for &router in aware {
        let namespace = bed.namespace(router)?;
        let node = bed.testbed.node(router)?;
        let speaks = |address: &str| {
            let address: IpAddr = address.parse().unwrap_or(IpAddr::from([0; 4]));
            let aware = aware.iter().filter_map(|name| bed.testbed.node(name).ok());
            let mut interfaces = aware.flat_map(|node| &node.interfaces);
            interfaces.any(|interface| {
                let own = [
                    interface.address.map(IpAddr::from),
                    interface.address6.map(IpAddr::from),
                ];
                own.contains(&Some(address))
            })
        };
        let known = until(SOON, || {
            let rows = daemon::report(&namespace, &["neighbors"])?;
            let rows = rows.as_array().context("no list")?;
            Ok(rows.iter().all(|row| {
                let address = row["address"].as_str().unwrap_or_default();
                row["xcast"] == speaks(address) && row["standing"] != "new"
            }))
        })?;
        ensure!(
            known,
            "{}: {:#}",
            node.name,
            daemon::report(&namespace, &["neighbors"])?
        );
    }
    Ok(())
}

/// How many packets have crossed a link so far.
fn crossed(bed: &Bed, ends: [&str; 2]) -> Result<u64> {
    let mut links = bed.testbed.plan().links.iter();
    let at = links.position(|link| link.nodes == ends);
    let traffic = bed.testbed.traffic()?;
    Ok(traffic[at.context("no such link")?].packets)
}

fn try_deployment(bed: &mut Bed, deployment: &Deployment, dropping: &str) -> Result<()> {
    let aware = deployment.aware;
    let unaware = ["R1", "R2", "R3", "R4"]
        .into_iter()
        .filter(|name| !aware.contains(name));
    let unaware: Vec<_> = unaware.collect();
    for router in &unaware {
        make_unaware(bed, router, dropping)?;
    }
    let mut config = RouterConfig::default();
    config.router.remove("gateways");
    config.udp = Some(toml::Table::from_iter([(
        "port".to_owned(),
        i64::from(UDP_PORT).into(),
    )]));
    let configs = aware.iter().map(|&name| (name.to_owned(), config.clone()));
    bed.testbed
        .start_routers_with(daemon::program(), configs.collect())?;
    for to in ways(bed, deployment, dropping)? {
        bed.send_and_receive_by(to, 2)
            .with_context(|| format!("{to:?}, while nobody knows anybody"))?;
    }
    everybody_knows(bed, aware)?;
    for to in ways(bed, deployment, dropping)? {
        let before = crossed(bed, ["R3", "R4"])?;
        bed.send_and_receive_by(to, MESSAGES)
            .with_context(|| format!("{to:?}"))?;
        let packets = crossed(bed, ["R3", "R4"])? - before;
        let least = deployment.third_link * u64::from(MESSAGES);
        // Probes cross it, too, but not as many.
        let is_right = (least..least + u64::from(MESSAGES)).contains(&packets);
        ensure!(is_right, "{to:?}: {packets} packets crossed R3 - R4");
    }
    bed.testbed.stop_routers()?;
    for router in &unaware {
        make_plain(bed, router)?;
    }
    Ok(())
}

/// Sends messages from A by the library, each of which arrives everywhere once, before the next one leaves. Returns how
/// many packets crossed A's link for each.
fn send_by_library(bed: &mut Bed, uplink: Uplink, is_served: bool) -> Result<u64> {
    let family = Family::under_test();
    // A sender opens sockets when it needs them, so it stays on a thread that is on A.
    bed.namespace("A")?.enter(|| {
        family::with(family, || {
            let any = match family {
                Family::Ipv4 => "0.0.0.0:0",
                Family::Ipv6 => "[::]:0",
            };
            let mut sender = Sender::new(UdpSocket::bind(any)?, Settings::new(uplink))?;
            let found = sender.wait_for_router(if is_served { PATIENCE } else { PROBED })?;
            ensure!(found == is_served, "{:?}", sender.router());
            let before = crossed(bed, ["A", "R1"])?;
            for _ in 0..MESSAGES {
                let (number, to) = bed.next_message();
                let sent = sender.send(&to, &number.to_be_bytes())?;
                let packets = (sent.xcast_packets, sent.unicast_packets);
                // The relay does not forward what comes from its own address to itself.
                let expected = if is_served { (1, 1) } else { (0, to.len()) };
                ensure!(packets == expected, "{sent:?}");
                bed.delivered(number)?;
            }
            // What would be one too many has time to come.
            thread::sleep(Duration::from_millis(100));
            bed.collect()?;
            Ok((crossed(bed, ["A", "R1"])? - before) / u64::from(MESSAGES))
        })
    })
}

fn numbers() -> Result<CodePoints> {
    let ipv6 = Ipv6CodePoints {
        group: "ff02::114".parse()?,
        routing_type: PROTOCOL,
        ports_option: PORTS_OPTION,
    };
    Ok(CodePoints::new(PROTOCOL, GROUP)?.with_ipv6(ipv6)?)
}

/// No router speaks Xcast. B opts in, and serves the others from its own address: a strict filter drops copies with A's,
/// as they come from where A is not. Without B, the source sends unicast by itself.
fn try_hosts_only(bed: &mut Bed, dropping: &str) -> Result<()> {
    const ROUTERS: [&str; 4] = ["R1", "R2", "R3", "R4"];
    for router in ROUTERS {
        make_unaware(bed, router, dropping)?;
    }
    let b = bed.namespace("B")?;
    let relay = SocketAddr::new(bed.receiver("B")?.address, UDP_PORT);
    let uplink = Uplink::udp(numbers()?, relay);
    let packets = send_by_library(bed, uplink, false).context("nobody serves")?;
    ensure!(packets == 3, "{packets} packets crossed A's link, not 3");

    b.sysctl("ipv4/ip_forward", "1")?;
    b.sysctl("ipv6/conf/all/forwarding", "1")?;
    let configuration = format!(
        "{}\n[udp]\nport = {UDP_PORT}\n\n[relay]\nrelayed_ports = [50000, 50003]\n\n\
         [[port]]\ninterface = \"{}\"\nsource = \"proven\"\n",
        code_points(),
        bed.testbed.interface("B", "R3")?.name
    );
    let daemon = Daemon::start(&b, &configuration)?;
    bed.expect_from(Some(relay.ip()));
    let relays = Relays {
        source: SourceAddress::Relayed,
        ..Relays::new([relay])
    };
    let uplink = Uplink::Relays {
        code_points: numbers()?,
        relays,
    };
    let packets = send_by_library(bed, uplink, true).context("B serves")?;
    ensure!(packets == 2, "{packets} packets crossed A's link, not 2");
    bed.expect_from(None);
    daemon.stop()?;
    for router in ROUTERS {
        make_plain(bed, router)?;
    }
    Ok(())
}

fn with_bed(test: impl Fn(&mut Bed) -> Result<()>) {
    if !namespace::available() {
        return;
    }
    let outcome = || -> Result<()> {
        let topology = Topology::from_toml("unaware", TOPOLOGY)?;
        test(&mut Bed::up(&topology, Routing::Static)?)
    };
    outcome().expect("everybody gets everything once");
}

fn every_position() {
    with_bed(|bed| {
        for (number, deployment) in DEPLOYMENTS.iter().enumerate() {
            let dropping = dropping(number);
            try_deployment(bed, deployment, dropping)
                .with_context(|| format!("only {:?} speak Xcast: {dropping}", deployment.aware))?;
        }
        Ok(())
    });
}

fn no_router() {
    with_bed(|bed| {
        for dropping in [PROTOCOLS, OPTIONS, CLASSES] {
            try_hosts_only(bed, dropping).context(dropping)?;
        }
        Ok(())
    });
}

#[test]
fn every_position_ipv4() {
    family::with(Family::Ipv4, every_position);
}

#[test]
fn every_position_ipv6() {
    family::with(Family::Ipv6, every_position);
}

#[test]
fn no_router_ipv4() {
    family::with(Family::Ipv4, no_router);
}

#[test]
fn no_router_ipv6() {
    family::with(Family::Ipv6, no_router);
}
