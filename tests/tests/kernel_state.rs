//! Where unicast would go, Xcast goes: every attribute of the kernel's state that decides is followed, or
//! what it decides about is left to the stack, which knows.
//!
//! In each test, the kernel's unicast shows the way first. The datagrams of Xcast packets must come
//! the same way.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::daemon::{self, Counters};
use tests::family::Family;
use tests::packet::Destination;
use tests::trio::{self, A, B, BEHIND, C, Host, Trio, Way, until};

/// A rule, where it leads to, and back to the way before when it is gone.
fn follows(command: &str, way: Way) {
    trio::with(|trio| {
        trio.two_tables()?;
        trio.rule(&format!("add {command}"))?;
        trio.goes(way, A, BEHIND)
            .with_context(|| format!("with rule {command}"))?;
        trio.rule(&format!("del {command}"))?;
        trio.goes(Way::B, A, BEHIND).context("when it is gone")
    });
}

/// A rule for what arrives by one port.
#[test]
fn rule_by_ingress_port() {
    follows("iif p1 lookup 100 priority 100", Way::C);
}

/// A rule for what arrives by another port is none for this one.
#[test]
fn rule_by_another_ingress_port() {
    follows("iif p3 lookup 100 priority 100", Way::B);
}

/// A rule for sources.
#[test]
fn rule_by_source() {
    follows("from 10.66.1.0/24 lookup 100 priority 100", Way::C);
}

/// A rule for destinations.
#[test]
fn rule_by_destination() {
    follows("to 10.99.0.0/24 lookup 100 priority 100", Way::C);
}

/// A table before the main one, for everything.
#[test]
fn rule_for_everything() {
    follows("lookup 100 priority 100", Way::C);
}

/// A rule behind the main table only counts where that has no route.
#[test]
fn rule_behind_the_main_table() {
    trio::with(|trio| {
        trio.two_tables()?;
        trio.rule("add lookup 100 priority 40000")?;
        trio.goes(Way::B, A, BEHIND)
            .context("the main table has a route")?;
        trio.r.ip("route del 10.99.0.0/16 via 10.66.2.2")?;
        trio.goes(Way::C, A, BEHIND).context("it has none")
    });
}

/// A rule by protocol and port, of which destinations have their own.
#[test]
fn rule_by_transport() {
    follows("ipproto udp dport 5000 lookup 100 priority 100", Way::C);
}

/// What has no mark, as VPN tools have it.
#[test]
fn rule_by_mark() {
    follows("not fwmark 0x1 lookup 100 priority 100", Way::C);
}

/// A rule by type of service, for packets that have it.
#[test]
fn rule_by_type_of_service() {
    trio::with(|trio| {
        trio.two_tables()?;
        trio.rule("add tos 0x10 lookup 100 priority 100")?;
        trio.goes_with_ds(Way::C, A, BEHIND, 0x10)?;
        trio.goes_with_ds(Way::B, A, BEHIND, 0)
    });
}

/// Rules that let nothing through.
#[test]
fn rule_to_a_blackhole() {
    for kind in ["blackhole", "prohibit", "unreachable"] {
        follows(
            &format!("iif p1 to 10.99.0.0/16 {kind} priority 100"),
            Way::Nowhere,
        );
    }
}

/// The main table without its default route, then another one: split tunnels.
#[test]
fn rule_that_suppresses_the_default_route() {
    trio::with(|trio| {
        trio.resolve()?;
        trio.r.ip("route add default via 10.66.2.2")?;
        trio.r.ip("route add default via 10.66.3.2 table 100")?;
        trio.goes(Way::B, A, BEHIND).context("without rules")?;
        trio.rule("add lookup main suppress_prefixlength 0 priority 100")?;
        trio.rule("add lookup 100 priority 101")?;
        trio.goes(Way::C, A, BEHIND)?;
        trio.goes(Way::B, A, B)
            .context("what the main table has more about")
    });
}

/// A rule that jumps over another one.
#[test]
fn rule_that_jumps() {
    trio::with(|trio| {
        trio.two_tables()?;
        trio.rule("add lookup 100 priority 200")?;
        trio.goes(Way::C, A, BEHIND)?;
        trio.rule("add nop priority 300")?;
        trio.rule("add iif p1 goto 300 priority 100")?;
        trio.goes(Way::B, A, BEHIND).context("over it")
    });
}

/// The rule for the main table is gone: nothing is left of its routes.
#[test]
fn rule_for_the_main_table_removed() {
    trio::with_family(Family::Ipv4, |trio| {
        trio.two_tables()?;
        trio.rule("add lookup 100 priority 32765")?;
        trio.rule("del lookup main priority 32766")?;
        trio.goes(Way::C, A, BEHIND)
    });
}

/// A rule by ingress port that was there before the router started.
#[test]
fn rule_from_before_the_start() {
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            trio.resolve()?;
            trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
            trio.r
                .ip("route add 10.99.0.0/16 via 10.66.3.2 table 100")?;
            trio.rule("add iif p1 lookup 100 priority 100")?;
            trio.start()?;
            trio.goes(Way::C, A, BEHIND)
        });
    }
}

/// A source whose way back, by the main table, is not where a rule's packets arrive. Only the kernel knows the way
/// back then, and its own filter judges.
#[test]
fn source_of_what_a_rule_decides_about() {
    const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 44, 0, 5);
    trio::with(|trio| {
        trio.two_tables()?;
        trio.r.ip("route add 10.44.0.0/24 via 10.66.3.2")?;
        trio.rule("add iif p1 lookup 100 priority 100")?;
        trio.goes(Way::C, ELSEWHERE, BEHIND)
            .context("without a filter")?;
        if trio.family == Family::Ipv4 {
            trio.r.namespace.sysctl("ipv4/conf/p1/rp_filter", "1")?;
            trio.goes(Way::Nowhere, ELSEWHERE, BEHIND)
                .context("with a filter")?;
            trio.goes(Way::C, A, BEHIND)?;
        }
        Ok(())
    });
}

/// A port that belongs to a VRF: its packets go by the table of that.
#[test]
fn port_in_a_vrf() {
    trio::with(|trio| {
        trio.two_tables()?;
        if !trio.vrf()? {
            return Ok(());
        }
        trio.goes(Way::C, A, BEHIND)?;
        trio.goes(Way::C, A, C)?;
        trio.goes(Way::Nowhere, A, B)
    });
}

/// Routes for one type of service, beside one for all.
#[test]
fn route_by_type_of_service() {
    trio::with_family(Family::Ipv4, |trio| {
        trio.resolve()?;
        trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        trio.r.ip("route add 10.99.0.0/16 tos 0x10 via 10.66.3.2")?;
        trio.goes_with_ds(Way::B, A, BEHIND, 0)?;
        trio.goes_with_ds(Way::C, A, BEHIND, 0x10)?;
        // The only one there is.
        trio.r.ip("route del 10.99.0.0/16 via 10.66.2.2")?;
        trio.goes_with_ds(Way::Nowhere, A, BEHIND, 0)?;
        trio.goes_with_ds(Way::C, A, BEHIND, 0x10)
    });
}

/// A source in A's network, and one that is not.
const SOURCES: [Ipv4Addr; 2] = [A, Ipv4Addr::new(10, 77, 0, 1)];

/// Routes of IPv6 for some sources only.
#[test]
fn route_for_some_sources() {
    trio::with_family(Family::Ipv6, |trio| {
        trio.resolve()?;
        trio.r
            .ip("route add 10.99.0.0/16 from 10.77.0.0/16 via 10.66.2.2")?;
        trio.goes(Way::B, SOURCES[1], BEHIND)?;
        trio.goes(Way::Nowhere, SOURCES[0], BEHIND)
    });
}

/// Two providers: each source by its own (BCP 84), whichever of the two routes came or goes first.
#[test]
fn default_routes_for_different_sources() {
    trio::with_family(Family::Ipv6, |trio| {
        trio.resolve()?;
        let default = |verb: &str, from: &str, via: &str| {
            let (from, via) = (trio.family.command(from), trio.family.command(via));
            trio.r
                .namespace
                .ip(&format!("-6 route {verb} default from {from} via {via}"))
        };
        default("add", "10.66.1.0/24", "10.66.2.2")?;
        default("add", "10.77.0.0/16", "10.66.3.2")?;
        trio.goes(Way::B, SOURCES[0], BEHIND)?;
        trio.goes(Way::C, SOURCES[1], BEHIND)?;
        // One for all others, and it goes again.
        trio.r.ip("route add default via 10.66.3.2")?;
        trio.goes(Way::B, SOURCES[0], BEHIND)?;
        trio.goes(Way::C, Ipv4Addr::new(10, 78, 0, 1), BEHIND)?;
        trio.r.ip("route del default via 10.66.3.2")?;
        trio.goes(Way::Nowhere, Ipv4Addr::new(10, 78, 0, 1), BEHIND)?;
        default("del", "10.66.1.0/24", "10.66.2.2")?;
        trio.goes(Way::Nowhere, SOURCES[0], BEHIND)?;
        trio.goes(Way::C, SOURCES[1], BEHIND)
    });
}

/// Default routers of different preference (RFC 4191), of one metric. Two plain routes by way of gateways would share the
/// flows, whatever their preference, so one has a nexthop object.
#[test]
fn preference_of_default_routers() {
    trio::with_family(Family::Ipv6, |trio| {
        trio.resolve()?;
        trio.r.ip("nexthop add id 1 via 10.66.2.2 dev p2")?;
        let default = |by: &str, pref: &str| {
            let by = trio.family.command(by);
            let by = by.trim_start_matches("-6 ");
            let command = format!("-6 route append default {by} proto ra pref {pref}");
            trio.r.namespace.ip(&command)
        };
        default("nhid 1", "low")?;
        default("via 10.66.3.2", "high")?;
        trio.goes(Way::C, A, BEHIND)?;
        trio.r.ip("route del default nhid 1")?;
        trio.r.ip("route del default via 10.66.3.2")?;
        default("nhid 1", "high")?;
        default("via 10.66.3.2", "medium")?;
        trio.goes(Way::B, A, BEHIND)
    });
}

/// Of equal routes of one metric, the kernel prefers the one by which a packet came. Two such routes lead packets of A to
/// either, and those that came by one of them go out by it again.
#[test]
fn equal_routes_of_one_metric() {
    trio::with_family(Family::Ipv6, |trio| {
        trio.resolve()?;
        trio.r.ip("route add 10.88.0.0/16 via 10.66.1.2")?;
        trio.r.ip("nexthop add id 1 via 10.66.1.2 dev p1")?;
        trio.r.ip("route append 10.99.0.0/16 via 10.66.2.2")?;
        trio.goes(Way::B, A, BEHIND)?;
        trio.r.ip("route append 10.99.0.0/16 nhid 1")?;
        // It came by p1, and there it goes.
        trio.goes(Way::Nowhere, A, BEHIND)?;
        trio.r.ip("route del 10.99.0.0/16 nhid 1")?;
        trio.goes(Way::B, A, BEHIND)
    });
}

/// A route with a lifetime ends without a message of the kernel's.
#[test]
fn route_that_expires() {
    trio::with_family(Family::Ipv6, |trio| {
        trio.resolve()?;
        trio.r
            .ip("route add 10.99.0.0/16 via 10.66.3.2 metric 2000")?;
        trio.r
            .ip("route add 10.99.0.0/16 via 10.66.2.2 metric 100 expires 3")?;
        trio.goes(Way::B, A, BEHIND)?;
        trio.goes(Way::C, A, BEHIND).context("when it has expired")
    });
}

/// Of two routes the one with the lower metric, and when the port of that loses its carrier, the
/// other one, if the kernel is told to ignore such routes.
#[test]
fn route_whose_link_is_down() {
    trio::with(|trio| {
        trio.resolve()?;
        let family = match trio.family {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        };
        for interface in ["all", "p2"] {
            let key = format!("{family}/conf/{interface}/ignore_routes_with_linkdown");
            trio.r.namespace.sysctl(&key, "1")?;
        }
        trio.r
            .ip("route add 10.99.0.0/16 via 10.66.2.2 metric 100")?;
        trio.r
            .ip("route add 10.99.0.0/16 via 10.66.3.2 metric 200")?;
        trio.goes(Way::B, A, BEHIND)?;
        trio.b.ip("link set b0 down")?;
        trio.goes(Way::C, A, BEHIND).context("without carrier")?;
        trio.b.ip("link set b0 up")?;
        trio.goes(Way::B, A, BEHIND).context("with carrier again")
    });
}

/// A gateway that no route leads to, by a port that is named (`onlink`).
#[test]
fn gateway_on_link_by_decree() {
    trio::with(|trio| {
        trio.resolve()?;
        trio.c.ip("address add 10.44.0.2/32 dev c0")?;
        trio.r
            .ip("route add 10.99.0.0/16 via 10.44.0.2 dev p3 onlink")?;
        trio.goes(Way::C, A, BEHIND)
    });
}

/// A prefix that is local, whatever addresses there are.
#[test]
fn local_route() {
    trio::with(|trio| {
        trio.resolve()?;
        trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        trio.goes(Way::B, A, BEHIND)?;
        trio.r.ip("route add local 10.99.0.0/24 dev lo")?;
        trio.goes(Way::R, A, BEHIND)?;
        trio.r.ip("route del local 10.99.0.0/24 dev lo")?;
        trio.goes(Way::B, A, BEHIND)
    });
}

/// Nexthop objects: a group, whose member is replaced by a blackhole, and then deleted.
#[test]
fn nexthop_objects() {
    trio::with(|trio| {
        trio.resolve()?;
        trio.r.ip("nexthop add id 1 via 10.66.2.2 dev p2")?;
        trio.r.ip("nexthop add id 2 via 10.66.3.2 dev p3")?;
        trio.r.namespace.ip("nexthop add id 10 group 1")?;
        trio.r.ip("route add 10.99.0.0/16 nhid 10")?;
        trio.goes(Way::B, A, BEHIND)?;
        trio.r.namespace.ip("nexthop replace id 10 group 2")?;
        trio.goes(Way::C, A, BEHIND)?;
        let family = match trio.family {
            Family::Ipv4 => "-4",
            Family::Ipv6 => "-6",
        };
        trio.r
            .namespace
            .ip(&format!("{family} nexthop replace id 2 blackhole"))?;
        trio.goes(Way::Nowhere, A, BEHIND)
    });
}

/// One local address with several peers on one port (PPP servers, unnumbered routers): removing it
/// towards one peer leaves the others, their routes, and the address.
#[test]
fn address_with_several_peers() {
    // IPv6 has an address only once on an interface.
    trio::with_family(Family::Ipv4, |trio| {
        trio.resolve()?;
        let ip = |command: &str| trio.r.namespace.ip(command).map(|_| ());
        for peer in ["10.77.0.2", "10.77.0.3"] {
            trio.c.ip(&format!("address add {peer}/32 dev c0"))?;
            ip(&format!("address add 10.77.0.1 peer {peer}/32 dev p3"))?;
        }
        trio.r.ip("address del 10.66.3.1/24 dev p3")?;
        trio.r.ip("route add 10.99.0.0/16 via 10.77.0.3 dev p3")?;
        let (own, other) = ([10, 77, 0, 1].into(), [10, 77, 0, 3].into());
        trio.goes(Way::C, A, other).context("the other peer")?;
        trio.goes(Way::C, A, BEHIND).context("behind it")?;
        trio.goes(Way::R, A, own).context("the address")?;
        ip("address del 10.77.0.1 peer 10.77.0.2/32 dev p3")?;
        for (what, way, destination) in [
            ("the other peer", Way::C, other),
            ("behind it", Way::C, BEHIND),
            ("the address", Way::R, own),
        ] {
            trio.goes(way, A, destination)
                .with_context(|| format!("afterwards: {what}"))?;
            let row = listed(trio, destination)?;
            ensure!(!row.contains("stack_no_route"), "{what}: {row}");
        }
        Ok(())
    });
}

/// What `explain` says of a destination.
fn listed(trio: &Trio, destination: Ipv4Addr) -> Result<String> {
    let [source, destination] = [A, destination].map(|address| trio.address(address).to_string());
    let output = daemon::ctl(
        &trio.r.namespace,
        &["explain", "--json", &source, &destination],
    )?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A host's address that comes, moves from one host to another, and goes.
fn own(host: &Host, command: &str) -> Result<()> {
    host.ip(&format!("address {command} dev lo")).map(|_| ())
}

/// More prefixes than fit the router's route map. What does not fit goes to the stack, never by a
/// shorter prefix; when they are withdrawn, there is room again.
#[test]
fn more_routes_than_fit() {
    trio::with_family(Family::Ipv6, |trio| {
        // More than there are segments in the map, each network in one of its own.
        const MANY: u32 = 3000;
        let new: Ipv6Addr = "3fff:77:99::1".parse()?;
        trio.resolve()?;
        let (to_b, to_c) = (trio.address(B), trio.address(C));
        let ip = |command: &str| trio.r.namespace.ip(command).map(|_| ());
        for host in [&trio.b, &trio.c] {
            host.namespace
                .ip(&format!("address add {new}/128 dev lo"))?;
        }
        ip(&format!("-6 route add default via {to_c}"))?;
        let all = |verb: &str| {
            let lines = (0..MANY)
                .map(|index| format!("route {verb} {:x}:1::/64 via {to_c}\n", 0x2010 + index));
            trio.r.namespace.ip_batch(&lines.collect::<String>())
        };
        let goes_to = |way: Way| {
            let arrives = || {
                let number = trio.number();
                let mut packet = trio.packet(A, &[B, A], number, 0);
                packet.xcast.destinations[0] = Destination::new(new);
                trio.tap.send(&packet.frame())?;
                Ok(trio.way(number)? == way)
            };
            until(trio::SOON, arrives)
        };
        for round in 0..2 {
            all("add")?;
            ip(&format!("-6 route add 3fff:77::/32 via {to_b}"))?;
            ensure!(
                goes_to(Way::B)?,
                "round {round}, full: it goes by a shorter prefix"
            );
            ip("-6 route del 3fff:77::/32")?;
            all("del")?;
            ensure!(goes_to(Way::C)?, "round {round}, empty");
        }
        // With room again, it is forwarded by the port.
        ip(&format!("-6 route add 3fff:77::/32 via {to_b}"))?;
        ensure!(goes_to(Way::B)?, "with room again");
        let before = Counters::read(&trio.r.namespace)?;
        ensure!(goes_to(Way::B)?, "with room again");
        let counted = Counters::read(&trio.r.namespace)?.since(&before);
        let by_stack = counted.keys().find(|name| name.starts_with("stack_"));
        ensure!(by_stack.is_none(), "it stays with the stack: {counted:?}");
        Ok(())
    });
}

/// An address moves from one host to the other, and the router's routes with it, many times: no
/// change is forgotten.
#[test]
fn routes_that_change_quickly() {
    trio::with(|trio| {
        trio.resolve()?;
        let address = Ipv4Addr::new(10, 98, 0, 1);
        for host in [&trio.b, &trio.c] {
            own(host, "add 10.98.0.1/32")?;
        }
        for _ in 0..20 {
            trio.r.ip("route replace 10.98.0.0/24 via 10.66.2.2")?;
            trio.r.ip("route replace 10.98.0.0/24 via 10.66.3.2")?;
        }
        trio.goes(Way::C, A, address)?;
        thread::sleep(Duration::from_millis(10));
        trio.r.ip("route del 10.98.0.0/24")?;
        trio.goes(Way::Nowhere, A, address)
    });
}
