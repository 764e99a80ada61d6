//! Neighbours live as they do for unicast: the kernel doubts an entry that traffic uses, probes it,
//! and forgets it or keeps it. Xcast traffic has to count as use.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::daemon::{self, Counters};
use tests::family::Family;
use tests::trio::{self, A, B, BEHIND, C, SOON, Trio, until};

/// The link layer address of a machine that is no longer there.
const GONE: &str = "02:de:ad:00:00:01";

/// Makes the router's kernel believe that `address` has the link layer address of a machine that is
/// gone, as it does after a virtual machine was replaced without a gratuitous ARP.
fn misplace(trio: &Trio, address: Ipv4Addr, state: &str) -> Result<()> {
    trio.r.ip(&format!(
        "neigh replace {address} dev p2 lladdr {GONE} nud {state}"
    ))?;
    Ok(())
}

/// Destinations behind B, by way of it.
fn route_by_way_of_b(trio: &Trio) -> Result<()> {
    trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
    let known = || Ok(trio.neighbour(B)?.contains("REACHABLE"));
    ensure!(
        until(SOON, known)?,
        "the gateway is not resolved: {}",
        trio.neighbour(B)?
    );
    Ok(())
}

/// What the router may take longer than unicast: it looks once a second at which entries are used, and a busy machine has
/// other things to do.
const LOOK: Duration = Duration::from_secs(3);

/// After `start`, what `xcast` waits for takes not much longer than what `unicast` waits for after another `start`.
fn as_soon_as_unicast(
    trio: &Trio,
    start: impl Fn() -> Result<()>,
    unicast: impl Fn() -> Result<bool>,
    xcast: impl Fn() -> Result<bool>,
) -> Result<()> {
    let time = |how: &str, wait: &dyn Fn() -> Result<bool>| {
        start()?;
        let began = Instant::now();
        ensure!(wait()?, "{how}: never, {}", trio.neighbour(B)?);
        Ok(began.elapsed())
    };
    let by_unicast = time("unicast", &unicast)?;
    let by_xcast = time("Xcast", &xcast)?;
    ensure!(
        by_xcast <= 2 * by_unicast + LOOK,
        "Xcast takes {by_xcast:?}, unicast {by_unicast:?}"
    );
    Ok(())
}

/// B is at another link layer address than the router's kernel believes, with its entry in this state: lists reach it
/// again as soon as unicast does.
fn is_reached_again(
    trio: &Trio,
    state: &str,
    destination: Ipv4Addr,
    list: &[Ipv4Addr],
) -> Result<()> {
    ensure!(trio.is_reached(&trio.b, list)?, "at the start");
    as_soon_as_unicast(
        trio,
        || misplace(trio, B, state),
        || trio.is_reached_by_unicast(&trio.b, destination),
        || trio.is_reached(&trio.b, list),
    )
}

/// A host's link layer address changed while its entry was STALE. Unicast that uses the entry makes
/// the kernel probe it, fail, and ask anew; Xcast that uses it must, too.
#[test]
fn moved_host_is_reached_again() {
    trio::with(|trio| {
        trio.quick_neighbours()?;
        trio.resolve()?;
        is_reached_again(trio, "stale", B, &[B, C])
    });
}

/// The same from REACHABLE: the entry ages to STALE by itself, and traffic has it probed.
#[test]
fn host_that_moves_under_traffic_is_reached_again() {
    trio::with(|trio| {
        trio.quick_neighbours()?;
        trio.resolve()?;
        is_reached_again(trio, "reachable", B, &[B, C])
    });
}

/// A copy for one host alone is a unicast packet from the first octet on; it uses the entry as well.
#[test]
fn moved_host_alone_in_the_list_is_reached_again() {
    trio::with(|trio| {
        trio.quick_neighbours()?;
        trio.resolve()?;
        is_reached_again(trio, "stale", B, &[B])
    });
}

/// Host unreachable by ICMP (RFC 792), address unreachable by ICMPv6 (RFC 4443 section 3.1).
fn unreachable(family: Family) -> (u8, u8) {
    match family {
        Family::Ipv4 => (3, 1),
        Family::Ipv6 => (1, 3),
    }
}

/// Goes on to `send` to a destination until the router's kernel tells A that it cannot be reached.
fn is_told(trio: &Trio, destination: Ipv4Addr, send: impl Fn() -> Result<u32>) -> Result<bool> {
    trio.tap.drain()?;
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        send()?;
        let soon = Instant::now() + Duration::from_millis(100);
        if let Some(message) = trio.icmp_about(destination, soon)? {
            ensure!(message == unreachable(trio.family), "ICMP {message:?}");
            return Ok(true);
        }
    }
    Ok(false)
}

/// B is gone while its entry is STALE: whoever sends lists is told as soon as by unicast.
fn is_told_of_a_loss(trio: &Trio, destination: Ipv4Addr) -> Result<()> {
    trio.b.ip("address flush dev b0")?;
    let mac = tests::layout::mac_text(trio::host_mac(2));
    let stale = format!("neigh replace {B} dev p2 lladdr {mac} nud stale");
    as_soon_as_unicast(
        trio,
        || trio.r.ip(&stale).map(drop),
        || is_told(trio, destination, || trio.unicast(A, destination)),
        || is_told(trio, destination, || trio.send(&[destination, C])),
    )
}

/// A host went away while its entry was STALE. The kernel probes it and tells the source that the host cannot be reached.
#[test]
fn source_is_told_of_a_host_that_is_gone() {
    trio::with(|trio| {
        trio.quick_neighbours()?;
        trio.resolve()?;
        ensure!(trio.is_reached(&trio.b, &[B, C])?, "at the start");
        is_told_of_a_loss(trio, B)
    });
}

/// The same for a gateway, and what is behind it.
#[test]
fn source_is_told_of_a_gateway_that_is_gone() {
    trio::with(|trio| {
        trio.quick_neighbours()?;
        route_by_way_of_b(trio)?;
        ensure!(trio.is_reached(&trio.b, &[BEHIND, C])?, "at the start");
        is_told_of_a_loss(trio, BEHIND)
    });
}

/// A host that comes back after its entry has failed is reached again.
#[test]
fn host_that_comes_back_is_reached() {
    trio::with(|trio| {
        trio.quick_neighbours()?;
        trio.b.ip("link set b0 down")?;
        trio.r.ip("neigh flush dev p2")?;
        ensure!(
            trio.send(&[B, C]).is_ok() && !trio.neighbour(B)?.contains("REACHABLE"),
            "there is nobody"
        );
        trio.b.ip("link set b0 up")?;
        trio.r.ip("neigh replace 10.66.2.2 dev p2 nud failed")?;
        ensure!(trio.is_reached(&trio.b, &[B, C])?, "{}", trio.neighbour(B)?);
        Ok(())
    });
}

/// An entry that no traffic uses is left alone: only the one in use is probed.
#[test]
fn idle_neighbour_is_not_probed() {
    trio::with(|trio| {
        trio.quick_neighbours()?;
        trio.resolve()?;
        ensure!(trio.is_reached(&trio.b, &[B, C])?, "at the start");
        // What was sent to B until now may count as use of the entry from before.
        trio.r.ip("neigh del 10.66.2.2 dev p2")?;
        for host in ["10.66.2.2 dev p2", "10.66.3.2 dev p3"] {
            let last = host.rsplit_once('p').map_or("", |(_, port)| port);
            let lladdr = format!("02:00:00:01:66:0{last}");
            trio.r
                .ip(&format!("neigh replace {host} lladdr {lladdr} nud stale"))?;
        }
        let used = || {
            trio.send(&[C])?;
            std::thread::sleep(Duration::from_millis(50));
            Ok(trio.neighbour(C)?.contains("REACHABLE"))
        };
        ensure!(until(SOON, used)?, "in use: {}", trio.neighbour(C)?);
        let idle = trio.neighbour(B)?;
        ensure!(idle.contains("STALE"), "idle: {idle}");
        Ok(())
    });
}

/// An entry that an administrator made permanent is never touched.
#[test]
fn permanent_neighbour_stays() {
    trio::with(|trio| {
        trio.quick_neighbours()?;
        trio.resolve()?;
        misplace(trio, B, "permanent")?;
        let lost = || {
            trio.send(&[B, C])?;
            std::thread::sleep(Duration::from_millis(20));
            Ok(!trio.neighbour(B)?.contains("PERMANENT"))
        };
        ensure!(
            !until(Duration::from_secs(3), lost)?,
            "{}",
            trio.neighbour(B)?
        );
        ensure!(trio.neighbour(B)?.contains(GONE));
        Ok(())
    });
}

/// The router has the kernel keep gateways resolved (NTF_EXT_MANAGED). Whoever writes the entry anew without
/// that flag (a routing daemon, a script) takes it away; the router puts it back.
#[test]
fn gateway_written_by_somebody_else_is_managed_again() {
    trio::with(|trio| {
        trio.quick_neighbours()?;
        route_by_way_of_b(trio)?;
        let managed = || Ok(trio.neighbour(B)?.contains("managed"));
        ensure!(until(SOON, managed)?, "at first: {}", trio.neighbour(B)?);
        let mac = "02:00:00:01:66:02";
        trio.r.ip(&format!(
            "neigh replace 10.66.2.2 dev p2 lladdr {mac} nud stale"
        ))?;
        ensure!(until(SOON, managed)?, "afterwards: {}", trio.neighbour(B)?);
        Ok(())
    });
}

/// An entry that another control plane keeps is its own, with its origin: it serves, and is as it was when the router has
/// been killed, another one has taken over, and that has been unloaded.
#[test]
fn gateway_of_another_control_plane_stays_as_it_was() {
    trio::before(|trio| {
        let mac = tests::layout::mac_text(trio::host_mac(2));
        trio.r.ip(&format!(
            "neigh replace {B} dev p2 lladdr {mac} nud stale extern_learn protocol zebra"
        ))?;
        trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        let is_as_it_was = |trio: &Trio, when: &'static str| -> Result<()> {
            let known = trio.neighbour(B)?;
            let has = |word| known.split_whitespace().any(|other| other == word);
            let all = ["extern_learn", "zebra", mac.as_str()].into_iter().all(has);
            ensure!(all && !has("managed"), "{when}: {known}");
            Ok(())
        };
        let serves = |trio: &mut Trio| -> Result<()> {
            trio.start()?;
            let is_reached = trio.is_reached(&trio.b, &[BEHIND, C])?;
            ensure!(is_reached, "not by the gateway");
            // The router looks after its gateways once a second.
            std::thread::sleep(Duration::from_millis(1500));
            is_as_it_was(trio, "while the router runs")
        };
        serves(trio)?;
        trio.daemon.take().context("no router")?.kill()?;
        serves(trio).context("after one that was killed")?;
        let output = daemon::ctl(&trio.r.namespace, &["unload"])?;
        ensure!(output.status.success(), "{output:?}");
        is_as_it_was(trio, "unloaded")
    });
}

/// An entry that was there before the router, from traffic, stays when it ends; one that the router asked for does not.
#[test]
fn neighbour_that_was_there_before_stays() {
    trio::before(|trio| {
        trio.resolve()?;
        trio.r.ip("neigh del 10.66.3.2 dev p3")?;
        trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        trio.r.ip("route add 10.98.0.0/16 via 10.66.3.2")?;
        trio.start()?;
        for gateway in [B, C] {
            let managed = || Ok(trio.neighbour(gateway)?.contains("managed"));
            ensure!(until(SOON, managed)?, "{}", trio.neighbour(gateway)?);
        }
        let output = daemon::ctl(&trio.r.namespace, &["unload"])?;
        ensure!(output.status.success(), "{output:?}");
        let known = trio.neighbour(B)?;
        let mac = tests::layout::mac_text(trio::host_mac(2));
        ensure!(
            known.contains(&mac) && !known.contains("managed"),
            "{known}"
        );
        let known = trio.neighbour(C)?;
        ensure!(
            !known.contains("proto") && !known.contains("managed"),
            "{known}"
        );
        Ok(())
    });
}

/// A gateway whose link layer address changed: unicast recovers within seconds.
#[test]
fn moved_gateway_is_reached_again() {
    trio::with(|trio| {
        trio.quick_neighbours()?;
        route_by_way_of_b(trio)?;
        is_reached_again(trio, "stale", BEHIND, &[BEHIND, C])
    });
}

/// Sends an Xcast packet to [`BEHIND`] in a flow of its own: the choice between gateways is made for a flow.
fn send_in_flow(trio: &Trio, channel: u128) -> Result<u32> {
    let number = trio.number();
    let mut packet = trio.packet(A, &[BEHIND], number, 0);
    packet.xcast.channel = channel;
    trio.tap.send(&packet.frame())?;
    Ok(number)
}

/// Of two gateways B and C, B fails: from then on every flow goes by C, and by the fast path.
fn dead_gateway_attracts_no_flow(trio: &Trio) -> Result<()> {
    let flows = 1..=16;
    let all = || {
        flows
            .clone()
            .try_fold(0, |_, channel| send_in_flow(trio, channel))
    };
    for host in [&trio.b, &trio.c] {
        ensure!(trio.is_reached_by(host, all)?, "at the start");
    }
    trio.b.ip("address flush dev b0")?;
    trio.r.ip("neigh replace 10.66.2.2 dev p2 nud failed")?;
    for channel in flows.clone() {
        ensure!(
            trio.is_reached_by(&trio.c, || send_in_flow(trio, channel))?,
            "flow {channel} has to do with the dead gateway"
        );
    }
    let fast = || {
        let before = Counters::read(&trio.r.namespace)?;
        let last = all()?;
        ensure!(trio.c.gets(last)?, "C gets nothing");
        let counted = Counters::read(&trio.r.namespace)?.since(&before);
        Ok(!counted.contains_key("stack_no_neighbour"))
    };
    ensure!(
        until(SOON, fast)?,
        "some flows still go to the kernel's stack: {}",
        trio.neighbour(B)?
    );
    Ok(())
}

/// With `fib_multipath_use_neigh`, the kernel sends nothing to a gateway whose neighbour entry has failed while another one lives.
#[test]
fn dead_gateway_attracts_nothing() {
    trio::with_family(Family::Ipv4, |trio| {
        trio.quick_neighbours()?;
        trio.r
            .namespace
            .sysctl("ipv4/fib_multipath_use_neigh", "1")?;
        trio.r
            .ip("route add 10.99.0.0/16 nexthop via 10.66.2.2 nexthop via 10.66.3.2")?;
        dead_gateway_attracts_no_flow(trio)
    });
}

/// With groups of nexthop objects, the kernel always does so, in both families.
#[test]
fn dead_gateway_of_a_nexthop_group_attracts_nothing() {
    trio::with(|trio| {
        trio.quick_neighbours()?;
        trio.r.ip("nexthop add id 1 via 10.66.2.2 dev p2")?;
        trio.r.ip("nexthop add id 2 via 10.66.3.2 dev p3")?;
        trio.r.ip("nexthop add id 3 group 1/2")?;
        trio.r.ip("route add 10.99.0.0/16 nhid 3")?;
        dead_gateway_attracts_no_flow(trio)
    });
}

/// Of two gateways, either serves some of the hosts of a network: the choice depends on every octet
/// of a source address (RFC 2992 needs a hash that does).
#[test]
fn sources_of_one_network_go_by_both_gateways() {
    trio::with(|trio| {
        trio.r
            .ip("route add 10.99.0.0/16 nexthop via 10.66.2.2 nexthop via 10.66.3.2")?;
        let send = || {
            let hosts = (2..=33).map(|last| Ipv4Addr::new(10, 66, 1, last));
            let mut numbers = hosts.map(|source| trio.send_from(source, &[BEHIND]));
            numbers.try_fold(0, |_, number| number)
        };
        for (name, host) in [("B", &trio.b), ("C", &trio.c)] {
            ensure!(trio.is_reached_by(host, send)?, "no source goes by {name}");
        }
        Ok(())
    });
}

/// What unicast resolved is used at once, and what it found to be gone is given to the stack: the
/// router follows the table whoever changes it.
#[test]
fn neighbour_that_disappears_is_resolved_again() {
    trio::with(|trio| {
        trio.quick_neighbours()?;
        trio.resolve()?;
        ensure!(trio.is_reached(&trio.b, &[B, C])?, "at the start");
        trio.r.ip("neigh del 10.66.2.2 dev p2")?;
        ensure!(trio.is_reached(&trio.b, &[B, C])?, "{}", trio.neighbour(B)?);
        let lost = trio.unicast(A, B)?;
        ensure!(trio.b.gets(lost).context("unicast")?, "unicast");
        Ok(())
    });
}

/// Routers of IPv6 name each other by link-local addresses, and the interface belongs to such a gateway's name.
#[test]
fn moved_gateway_with_a_link_local_address_is_reached_again() {
    trio::with_family(Family::Ipv6, |trio| {
        trio.quick_neighbours()?;
        let listed = trio.b.namespace.ip("-6 -o addr show dev b0 scope link")?;
        let mut words = listed
            .split_whitespace()
            .skip_while(|word| *word != "inet6");
        let gateway = words.nth(1).and_then(|word| word.split_once('/'));
        let (gateway, _) = gateway.context("b0 has no link-local address")?;
        let r = &trio.r.namespace;
        let behind = trio.address(BEHIND);
        r.ip(&format!("-6 route add {behind}/128 via {gateway} dev p2"))?;
        ensure!(trio.is_reached(&trio.b, &[BEHIND, C])?, "at the start");
        let entry = || r.ip(&format!("neigh show {gateway} dev p2"));
        let moved = format!("neigh replace {gateway} dev p2 lladdr {GONE} nud stale");
        as_soon_as_unicast(
            trio,
            || r.ip(&moved).map(drop),
            || trio.is_reached_by_unicast(&trio.b, BEHIND),
            || trio.is_reached(&trio.b, &[BEHIND, C]),
        )?;
        let managed = || Ok(entry()?.contains("managed"));
        ensure!(until(SOON, managed)?, "not managed: {}", entry()?);
        Ok(())
    });
}

/// Many hosts move at once, and one list names them all.
#[test]
fn many_hosts_that_move_are_reached_again() {
    trio::with(|trio| {
        trio.quick_neighbours()?;
        let hosts: Vec<_> = (100..140)
            .map(|last| Ipv4Addr::new(10, 66, 2, last))
            .collect();
        for host in &hosts {
            trio.b.ip(&format!("address add {host}/24 dev b0"))?;
        }
        for host in &hosts {
            misplace(trio, *host, "stale")?;
        }
        let known = || {
            trio.send(&hosts)?;
            std::thread::sleep(Duration::from_millis(100));
            Ok(!trio.r.ip("neigh show dev p2")?.contains(GONE))
        };
        ensure!(
            until(2 * SOON, known)?,
            "{}",
            trio.r.ip("neigh show dev p2")?
        );
        let last = hosts.last().context("hosts")?;
        ensure!(trio.is_reached(&trio.b, &[*last, C])?, "the last one");
        Ok(())
    });
}
