//! What unicast would be refused, Xcast is refused; and what one source can make of one packet has
//! a limit.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::daemon::{self, Counters, Daemon};
use tests::family::Family;
use tests::packet::{self, Datagram, Ip, Packet, protocol};
use tests::served::{self, Served};
use tests::tap::Tap;
use tests::trio::{self, A, B, BEHIND, C, R1, R2, R3, SOON, Trio, UDP_PORT, Way, until};

/// Sources that nobody on the link of A has.
const FORGED: [Ipv4Addr; 16] = [
    // Hosts on other links, and one there that does not exist.
    B,
    C,
    Ipv4Addr::new(10, 66, 3, 77),
    // The router's own.
    R1,
    R2,
    R3,
    Ipv4Addr::new(169, 254, 88, 1),
    Ipv4Addr::new(127, 0, 0, 1),
    // Somebody's, somewhere.
    Ipv4Addr::new(8, 8, 8, 8),
    Ipv4Addr::new(192, 0, 2, 77),
    // Nobody's (RFC 6890).
    Ipv4Addr::new(0, 0, 0, 0),
    Ipv4Addr::new(0, 1, 2, 3),
    Ipv4Addr::new(240, 0, 0, 1),
    Ipv4Addr::new(255, 255, 255, 255),
    Ipv4Addr::new(224, 0, 0, 9),
    Ipv4Addr::new(10, 66, 3, 255),
];

/// Sends a message to B from each of these sources, by unicast and by Xcast: those by Xcast that
/// arrive although unicast does not are returned.
fn let_through(trio: &Trio, sources: &[Ipv4Addr]) -> Result<Vec<Ipv4Addr>> {
    let sent = sources.iter().map(|&source| {
        let (unicast, xcast) = (trio.unicast(source, B)?, trio.send_from(source, &[B, C])?);
        Ok((source, unicast, xcast))
    });
    let sent = sent.collect::<Result<Vec<_>>>()?;
    // What comes behind all of them has come.
    for last in [trio.unicast(A, B)?, trio.send(&[B, C])?] {
        ensure!(trio.b.gets(last)?, "A's own are refused");
    }
    trio.b.misses(u32::MAX)?;
    let mut wrong = Vec::new();
    for (source, unicast, xcast) in sent {
        if trio.b.count(xcast)? > 0 && trio.b.count(unicast)? == 0 {
            wrong.push(source);
        }
    }
    Ok(wrong)
}

/// Whatever the reverse path filter of the port is, no source passes that the kernel refuses.
#[test]
fn forged_sources_are_refused_as_by_the_kernel() {
    for filter in ["0", "1", "2"] {
        trio::before_start(Family::Ipv4, |trio| {
            trio.r.namespace.sysctl("ipv4/conf/p1/rp_filter", filter)?;
            trio.start()?;
            trio.resolve()?;
            let wrong = let_through(trio, &FORGED)?;
            ensure!(
                wrong.is_empty(),
                "rp_filter={filter} lets {wrong:?} through"
            );
            Ok(())
        });
    }
}

/// IPv6 has no such filter, but sources that nobody may have.
#[test]
fn forged_sources_are_refused_as_by_the_kernel_ipv6() {
    trio::with_family(Family::Ipv6, |trio| {
        trio.resolve()?;
        let wrong = let_through(trio, &FORGED)?;
        ensure!(wrong.is_empty(), "{wrong:?} get through");
        Ok(())
    });
}

/// Forged packets as fast as they come: none passes, and whoever is served beside them notices nothing, not even the one
/// whose address is forged most.
#[test]
fn a_flood_of_forged_sources_harms_nobody() {
    const PACKETS: usize = 1000;
    /// More than `limits.packets_per_second` of one source.
    const OF_C: usize = 15_000;
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            start_with_source(trio, "\"strict\"")?;
            let attack = || {
                let before = Counters::read(&trio.r.namespace)?;
                let mut numbers = Vec::new();
                for source in FORGED {
                    let number = trio.number();
                    let forged = trio.packet(source, &[B, A], number, 0).frame();
                    for _ in 0..if source == C { OF_C } else { PACKETS } {
                        trio.tap.send(&forged)?;
                    }
                    numbers.push((source, number));
                }
                Ok((before, numbers))
            };
            let judge = |(before, numbers), _| {
                let counted = Counters::read(&trio.r.namespace)?.since(&before);
                let refused = ["drop_source", "drop_spoofed", "drop_reverse_path"];
                let refused = refused.map(|name| counted.get(name).copied().unwrap_or(0));
                let most = (OF_C + (FORGED.len() - 1) * PACKETS) as u64 / 2;
                ensure!(refused.iter().sum::<u64>() > most, "{counted:?}");
                for (source, number) in numbers {
                    for host in [&trio.a, &trio.b] {
                        ensure!(host.count(number)? == 0, "{source} passes");
                    }
                }
                Ok(())
            };
            served::is_served_beside(trio, attack, judge)
        });
    }
}

/// The filter may be changed under way, by the port or for all of them (the kernel takes the stricter one).
#[test]
fn reverse_path_filter_switched_on_later() {
    for key in ["p1", "all"] {
        trio::with_family(Family::Ipv4, |trio| {
            trio.resolve()?;
            // Towards hosts alone, a port is strict in any case: here is a gateway as well.
            trio.r.ip("route add 10.88.0.0/16 via 10.66.1.2")?;
            let passes = || {
                let number = trio.send_from(C, &[B, C])?;
                Ok(!trio.b.misses(number)?)
            };
            ensure!(until(SOON, passes)?, "without a filter");
            let key = format!("ipv4/conf/{key}/rp_filter");
            trio.r.namespace.sysctl(&key, "1")?;
            ensure!(trio.b.misses(trio.unicast(C, B)?)?, "unicast");
            let refused = || trio.b.misses(trio.send_from(C, &[B, C])?);
            ensure!(
                until(SOON, refused)?,
                "C's address passes from the link of A"
            );
            ensure!(trio.b.gets(trio.send(&[B, C])?)?, "A's own is refused");
            Ok(())
        });
    }
}

/// The strict filter is what an administrator chose; `check` does not talk him out of it.
#[test]
fn check_does_not_advise_to_loosen_the_filter() {
    trio::with_family(Family::Ipv4, |trio| {
        trio.r.namespace.sysctl("ipv4/conf/p1/rp_filter", "1")?;
        for finding in trio.check()? {
            let advice = finding.remedy.contains("p1.rp_filter=2");
            ensure!(!advice, "{finding:?}");
        }
        Ok(())
    });
}

/// Xcast inside UDP comes from outside as well: what is inside must have a source that may be there.
#[test]
fn forged_source_inside_udp_is_refused() {
    trio::before_start(Family::Ipv4, |trio| {
        trio.r.namespace.sysctl("ipv4/conf/p1/rp_filter", "1")?;
        trio.start()?;
        trio.resolve()?;
        let inside = |source: Ipv4Addr| {
            let number = trio.number();
            let packet = trio.packet(source, &[B, C], number, 0);
            let mut outer = Datagram::around(&packet, R1, UDP_PORT);
            outer.ip.source = A.into();
            trio.tap.send(&outer.frame())?;
            Ok::<_, anyhow::Error>(number)
        };
        ensure!(trio.b.gets(inside(A)?)?, "A's own is refused");
        for source in [C, R3, Ipv4Addr::new(8, 8, 8, 8)] {
            ensure!(
                trio.b.misses(inside(source)?)?,
                "{source} passes inside UDP"
            );
        }
        Ok(())
    });
}

/// The address of the router's own veth end reaches no local socket as if the router had sent it.
#[test]
fn the_routers_link_local_address_cannot_be_forged() {
    trio::with_family(Family::Ipv4, |trio| {
        let own = Ipv4Addr::new(169, 254, 88, 1);
        let addresses = trio.r.namespace.ip("-4 address show dev xcast0")?;
        let own = if addresses.contains("169.254.88.1") {
            own
        } else {
            let mut words = addresses
                .split_whitespace()
                .skip_while(|&word| word != "inet");
            let address = words.nth(1).context("xcast0 has no address")?;
            address.split('/').next().context("no address")?.parse()?
        };
        ensure!(trio.r.gets(trio.send(&[R1, C])?)?, "A's own");
        ensure!(trio.r.misses(trio.unicast(own, R1)?)?, "unicast");
        ensure!(
            trio.r.misses(trio.send_from(own, &[R1, C])?)?,
            "{own} is let in"
        );
        Ok(())
    });
}

/// Addresses are the router's own whatever interface they are on, and as soon as they are there.
#[test]
fn the_routers_other_addresses_cannot_be_forged() {
    trio::with_family(Family::Ipv4, |trio| {
        let own = Ipv4Addr::new(10, 44, 0, 1);
        trio.resolve()?;
        let refused = || {
            ensure!(trio.b.misses(trio.unicast(own, B)?)?, "unicast passes");
            trio.b.misses(trio.send_from(own, &[B, C])?)
        };
        trio.r.ip("address add 10.44.0.1/32 dev lo")?;
        ensure!(
            until(SOON, refused)?,
            "an address of the loopback interface passes"
        );
        trio.r.ip("address del 10.44.0.1/32 dev lo")?;
        trio.r.ip("route add local 10.44.0.0/24 dev lo")?;
        ensure!(until(SOON, refused)?, "an address of a local route passes");
        Ok(())
    });
}

/// A port from which the kernel forwards nothing is none from which Xcast is forwarded.
#[test]
fn port_that_does_not_forward() {
    trio::with_family(Family::Ipv4, |trio| {
        trio.resolve()?;
        ensure!(trio.b.gets(trio.send(&[B, C])?)?, "at the start");
        trio.r.namespace.sysctl("ipv4/conf/p1/forwarding", "0")?;
        ensure!(trio.b.misses(trio.unicast(A, B)?)?, "unicast");
        let stopped = || trio.b.misses(trio.send(&[B, C])?);
        ensure!(until(SOON, stopped)?, "Xcast is forwarded from p1");
        Ok(())
    });
}

/// Starts the router with `source = value` at port p1.
fn start_with_source(trio: &mut Trio, value: &str) -> Result<()> {
    let port = "interface = \"p1\"\n";
    trio.configure(port, &format!("{port}source = {value}\n"))?;
    trio.start()?;
    trio.resolve()
}

/// `source = "strict"`: only what the way back leads to by the same port (RFC 3704 section 2.2).
#[test]
fn strict_port() {
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            start_with_source(trio, "\"strict\"")?;
            ensure!(trio.b.gets(trio.send(&[B, C])?)?, "A's own is refused");
            for source in [C, Ipv4Addr::new(8, 8, 8, 8)] {
                let number = trio.send_from(source, &[B, C])?;
                ensure!(trio.b.misses(number)?, "{source} passes");
            }
            // A route back by this port makes the difference.
            trio.r.ip("route add 10.88.0.0/16 via 10.66.1.2")?;
            let source = Ipv4Addr::new(10, 88, 0, 1);
            let passes = || {
                let number = trio.send_from(source, &[B, C])?;
                Ok(!trio.b.misses(number)?)
            };
            ensure!(until(SOON, passes)?, "{source} is refused");
            Ok(())
        });
    }
}

/// Strict also where a policy rule decides, so that only the kernel knows the way back: by the port of arrival, by the
/// source, by all that the packet may be.
#[test]
fn strict_port_with_policy_rules() {
    for (rule, families) in [
        ("iif p1 lookup 100", &Family::ALL[..]),
        ("from 10.0.0.0/8 lookup 100", &[Family::Ipv4]),
        ("ipproto udp lookup 100", &[Family::Ipv6]),
    ] {
        for &family in families {
            trio::before_start(family, |trio| {
                start_with_source(trio, "\"strict\"")?;
                trio.two_tables()?;
                trio.r.ip("route add 10.88.0.0/16 via 10.66.3.2")?;
                let far = Ipv4Addr::new(10, 88, 0, 1);
                trio.rule(&format!("add {rule} priority 100"))?;
                trio.goes(Way::C, A, BEHIND).context(rule)?;
                let refused = |source| {
                    let number = trio.send_from(source, &[BEHIND, A])?;
                    Ok(trio.way(number)? == Way::Nowhere)
                };
                for source in [C, far] {
                    let outcome = until(SOON / 4, || refused(source))?;
                    ensure!(outcome, "{rule}: {source} passes");
                }
                // A route back by this port makes the difference.
                trio.r.ip("route replace 10.88.0.0/16 via 10.66.1.2")?;
                let passes = || Ok(!refused(far)?);
                ensure!(until(SOON, passes)?, "{rule}: {far} is refused");
                Ok(())
            });
        }
    }
}

/// The kernel looks for the way back as of an answer: from the destination, by the interface that the packet leaves by. Rules
/// for these decide, although no packet of the source itself meets them.
#[test]
fn rules_for_answers_decide_about_the_way_back() {
    for (source, filter) in [("\"auto\"", "1"), ("\"strict\"", "0")] {
        for rule in ["from 10.66.2.0/24 lookup 100", "iif p2 lookup 100"] {
            trio::before_start(Family::Ipv4, |trio| {
                trio.r.namespace.sysctl("ipv4/conf/p1/rp_filter", filter)?;
                start_with_source(trio, source)?;
                trio.r.ip("route add 10.66.1.0/24 dev p3 table 100")?;
                ensure!(trio.b.gets(trio.send(&[B, C])?)?, "without a rule");
                trio.rule(&format!("add {rule} priority 100"))?;
                let passes = trio.b.gets(trio.unicast(A, B)?)?;
                ensure!(passes == (filter == "0"), "{rule}: unicast");
                let refused = || trio.b.misses(trio.send(&[B, C])?);
                let outcome = until(SOON / 4, refused)?;
                ensure!(outcome, "{rule}, source = {source}, {filter}: A passes");
                trio.rule(&format!("del {rule} priority 100"))?;
                let passes = || Ok(!trio.b.misses(trio.send(&[B, C])?)?);
                ensure!(until(SOON, passes)?, "{rule}: A is refused without it");
                Ok(())
            });
        }
    }
}

/// Strict in a VRF: the way back is looked for in its table.
#[test]
fn strict_port_in_a_vrf() {
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            start_with_source(trio, "\"strict\"")?;
            trio.two_tables()?;
            if !trio.vrf()? {
                return Ok(());
            }
            let far = Ipv4Addr::new(10, 88, 0, 1);
            // Right by the main table, which is not this port's.
            trio.r.ip("route add 10.88.0.0/16 via 10.66.1.2")?;
            trio.r
                .ip("route add 10.88.0.0/16 via 10.66.3.2 table 100")?;
            trio.goes(Way::C, A, BEHIND)?;
            let refused = |source| {
                let number = trio.send_from(source, &[BEHIND, A])?;
                Ok(trio.way(number)? == Way::Nowhere)
            };
            for source in [C, far] {
                ensure!(until(SOON, || refused(source))?, "{source} passes");
            }
            trio.r
                .ip("route replace 10.88.0.0/16 via 10.66.1.2 table 100")?;
            let passes = || Ok(!refused(far)?);
            ensure!(until(SOON, passes)?, "{far} is refused");
            Ok(())
        });
    }
}

/// `source = "loose"`: only what there is any way back to (RFC 3704 section 2.4).
#[test]
fn loose_port() {
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            start_with_source(trio, "\"loose\"")?;
            for source in [A, C] {
                let number = trio.send_from(source, &[B, A])?;
                ensure!(trio.b.gets(number)?, "{source} is refused");
            }
            let nowhere = Ipv4Addr::new(8, 8, 8, 8);
            let number = trio.send_from(nowhere, &[B, C])?;
            ensure!(trio.b.misses(number)?, "{nowhere} passes");
            Ok(())
        });
    }
}

/// `source = [prefixes]`: only these.
#[test]
fn port_with_a_list_of_sources() {
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            let prefix = family.prefix(Ipv4Addr::new(10, 66, 1, 0), 24);
            let other = family.prefix(Ipv4Addr::new(192, 0, 2, 0), 24);
            start_with_source(trio, &format!("[\"{prefix}\", \"{other}\"]"))?;
            for source in [A, Ipv4Addr::new(192, 0, 2, 7)] {
                let number = trio.send_from(source, &[B, C])?;
                ensure!(trio.b.gets(number)?, "{source} is refused");
            }
            for source in [C, Ipv4Addr::new(8, 8, 8, 8)] {
                let number = trio.send_from(source, &[B, C])?;
                ensure!(trio.b.misses(number)?, "{source} passes");
            }
            Ok(())
        });
    }
}

/// `source = "any"`: what the kernel takes without a filter.
#[test]
fn port_that_takes_any_source() {
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            start_with_source(trio, "\"any\"")?;
            for source in [A, C, Ipv4Addr::new(8, 8, 8, 8)] {
                let number = trio.send_from(source, &[B, A])?;
                ensure!(trio.b.gets(number)?, "{source} is refused");
            }
            Ok(())
        });
    }
}

/// Without any configuration, a port that no gateway is behind takes the packets of its own hosts only, whatever
/// the kernel's filter is. A gateway may have anybody behind it.
#[test]
fn port_towards_hosts_is_strict() {
    for family in Family::ALL {
        trio::with_family(family, |trio| {
            trio.resolve()?;
            let far = Ipv4Addr::new(10, 87, 0, 1);
            let refused = |source| trio.b.misses(trio.send_from(source, &[B, C])?);
            ensure!(trio.b.gets(trio.send(&[B, C])?)?, "A's own is refused");
            ensure!(refused(C)?, "C's address passes");
            // As by unicast: it has no way back at all, and no victim.
            ensure!(!refused(far)?, "{far} is refused");
            trio.r.ip("route add 10.87.0.0/16 via 10.66.3.2")?;
            ensure!(until(SOON, || refused(far))?, "{far} passes");
            trio.r.ip("route add 10.88.0.0/16 via 10.66.1.2")?;
            let passes = || Ok(!refused(far)?);
            ensure!(until(SOON, passes)?, "refused although there is a gateway");
            trio.r.ip("route del 10.88.0.0/16 via 10.66.1.2")?;
            ensure!(until(SOON, || refused(far))?, "passes without a gateway");
            Ok(())
        });
    }
}

/// A multipath route back may leave by any of its ports (RFC 3704 section 2.3).
#[test]
fn source_behind_several_ports() {
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            start_with_source(trio, "\"strict\"")?;
            let source = Ipv4Addr::new(10, 88, 0, 1);
            ensure!(trio.b.misses(trio.send_from(source, &[B, C])?)?);
            trio.r.ip(
                "route add 10.88.0.0/16 nexthop via 10.66.1.2 weight 1 nexthop via 10.66.3.2 weight 9",
            )?;
            let passes = || {
                let number = trio.send_from(source, &[B, C])?;
                Ok(!trio.b.misses(number)?)
            };
            ensure!(until(SOON, passes)?, "{source} is refused");
            Ok(())
        });
    }
}

/// An Xcast packet with an ICMP echo request inside.
fn echo_request(trio: &Trio, source: Ipv4Addr, destinations: &[Ipv4Addr]) -> Vec<u8> {
    let mut packet = trio.packet(source, destinations, 0, 0);
    (packet.xcast.protocol, packet.segment) = match trio.family {
        Family::Ipv4 => (protocol::ICMP, packet::icmp_echo(1, 1, b"smurf")),
        Family::Ipv6 => {
            let ends = (trio.address(source), trio.address(tests::layout::GROUP));
            let request = packet::icmpv6_echo(ends.0, ends.1, 1, b"smurf");
            (protocol::ICMPV6, request)
        }
    };
    packet.frame()
}

/// Echo replies among the frames that have arrived at a host.
fn echo_replies(trio: &Trio, tap: &Tap) -> Result<usize> {
    let reply = match trio.family {
        Family::Ipv4 => (protocol::ICMP, 0),
        Family::Ipv6 => (protocol::ICMPV6, 129),
    };
    let mut replies = 0;
    while let Some(frame) = tap.take()? {
        let packet = frame.get(packet::ETHERNET_LEN..);
        let packet = packet.and_then(|bytes| Ip::parse(trio.family, bytes));
        let is_reply = |(ip, icmp): &(Ip, &[u8])| (ip.protocol, icmp[0]) == reply;
        replies += usize::from(packet.as_ref().is_some_and(is_reply));
    }
    Ok(replies)
}

/// Echo requests that all destinations would answer to somebody else (RFC 5058 section 14).
#[test]
fn nobody_is_flooded_with_echo_replies() {
    const REQUESTS: u64 = 2000;
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            start_with_source(trio, "\"any\"")?;
            let at_victim = Tap::open(&trio.c.namespace, "c0")?;
            let requests = |source, destinations: &[Ipv4Addr], times| -> Result<u64> {
                let before = Counters::read(&trio.r.namespace)?;
                let frame = echo_request(trio, source, destinations);
                for _ in 0..times {
                    trio.tap.send(&frame)?;
                }
                let last = trio.send(&[B, A])?;
                ensure!(trio.b.gets(last)?, "what comes behind the requests");
                let counted = Counters::read(&trio.r.namespace)?.since(&before);
                Ok(counted.get("drop_icmp_request").copied().unwrap_or(0))
            };
            ensure!(requests(A, &[B, C], 1)? == 0, "A cannot ping two hosts");
            let answered = || Ok(echo_replies(trio, &trio.tap)? > 0);
            ensure!(until(SOON, answered)?, "nobody answers A");
            ensure!(requests(C, &[B], 1)? == 0, "one reply is what unicast gets");
            let answered = || Ok(echo_replies(trio, &at_victim)? > 0);
            ensure!(until(SOON, answered)?, "B does not answer C");
            let attack = || requests(C, &[B, A], REQUESTS);
            let judge = |refused, _| {
                ensure!(refused > REQUESTS / 2, "{refused} requests were refused");
                let replies = echo_replies(trio, &at_victim)?;
                ensure!(replies == 0, "the victim gets {replies} replies");
                Ok(())
            };
            served::is_served_beside(trio, attack, judge)
        });
    }
}

/// What one sender's lists make for the kernel's stack is bounded, and what is dropped of it is counted.
#[test]
fn the_stack_is_not_flooded() {
    const PACKETS: u32 = 1000;
    /// A quarter of `limits.stack_copies_per_second`.
    const PER_SECOND: f64 = 2500.0;
    trio::with(|trio| {
        trio.resolve()?;
        // Hosts that nobody has: all of them are the kernel's to resolve.
        let nobody: Vec<_> = (100..160)
            .map(|last| Ipv4Addr::new(10, 66, 2, last))
            .collect();
        let flood = trio.packet(A, &nobody, 0, 0).frame();
        let received = |counters: &Counters| counters.value("received");
        let attack = || {
            let (before, began) = (Counters::read(&trio.r.namespace)?, Instant::now());
            for _ in 0..PACKETS {
                trio.tap.send(&flood)?;
            }
            let took = began.elapsed();
            let wanted = received(&before) + u64::from(PACKETS) * 9 / 10;
            let arrived = || Ok(received(&Counters::read(&trio.r.namespace)?) >= wanted);
            ensure!(until(SOON, arrived)?, "the packets do not arrive");
            Ok((before, took))
        };
        let judge = |(before, took): (Counters, Duration), served: Served| {
            let counted = Counters::read(&trio.r.namespace)?.since(&before);
            let value = |name: &str| counted.get(name).copied().unwrap_or(0);
            let handed_over = value("sent") - served::COPIES * served.sent;
            // What a second allows may be used up at once. The clock of the limit is a coarse one, and two processors may
            // take the same copy.
            let allowed = 1.05 * PER_SECOND * (1.0 + took.as_secs_f64());
            ensure!(
                value("drop_stack_limit") > 0 && handed_over as f64 <= allowed,
                "{handed_over} copies for the stack; allowed were {allowed:.0}: {counted:?}"
            );
            Ok(())
        };
        served::is_served_beside(trio, attack, judge)
    });
}

/// Hosts on the link of B that nobody has: all of them are the kernel's to resolve.
fn nobody() -> Vec<Ipv4Addr> {
    (100..170)
        .map(|last| Ipv4Addr::new(10, 66, 2, last))
        .collect()
}

/// One source, within its own limits, has all copies for the kernel's stack that it can get. Another one, whose packets go by the
/// stack for a policy rule, gets them all the same.
#[test]
fn one_source_leaves_the_stack_to_others() {
    /// At once, and then one each 5 ms: more than 10,000 copies in a second, and far less than 100,000.
    const PACKETS: (u32, u32) = (150, 300);
    for family in Family::ALL {
        trio::with_family(family, |trio| {
            trio.resolve()?;
            trio.rule("add iif p3 lookup main priority 100")?;
            let by_stack = || {
                let before = Counters::read(&trio.r.namespace)?;
                let ((), flow) = served::beside(trio, || Ok(()))?;
                let counted = Counters::read(&trio.r.namespace)?.since(&before);
                Ok(counted.get("stack_policy") == Some(&(served::COPIES * flow.sent)))
            };
            ensure!(until(SOON, by_stack)?, "the flow does not go by the stack");
            let flood = trio.packet(A, &nobody(), 0, 0).frame();
            let attack = || {
                let before = send_flood(trio, &flood, PACKETS.0)?.0;
                for _ in 0..PACKETS.1 {
                    trio.tap.send(&flood)?;
                    thread::sleep(Duration::from_millis(5));
                }
                Ok(before)
            };
            let judge = |before: Counters, _| {
                let counted = Counters::read(&trio.r.namespace)?.since(&before);
                let refused = counted.contains_key("drop_stack_limit");
                let within = !counted.contains_key("drop_copy_limit");
                ensure!(refused && within, "{counted:?}");
                Ok(())
            };
            served::is_served_beside(trio, attack, judge)
        });
    }
}

/// The same for a flow of a few packets a second: what another source is refused keeps nothing back that was sent before it.
#[test]
fn a_slow_flow_gets_the_stack_beside_what_is_refused() {
    const PACKETS: u32 = 20;
    const FLOOD_PACE: Duration = Duration::from_millis(5);
    for family in Family::ALL {
        trio::with_family(family, |trio| {
            trio.resolve()?;
            trio.rule("add iif p3 lookup main priority 100")?;
            let tap = Tap::open(&trio.c.namespace, "c0")?;
            let send = |number| {
                let mut packet = trio::xcast(C, &[B, A], number, 0);
                (packet.destination_mac, packet.source_mac) =
                    (trio::port_mac(3), trio::host_mac(3));
                tap.send(&packet.frame())
            };
            let by_stack = || {
                let before = Counters::read(&trio.r.namespace)?;
                send(trio.number())?;
                let since = || anyhow::Ok(Counters::read(&trio.r.namespace)?.since(&before));
                Ok(since()?.contains_key("stack_policy"))
            };
            ensure!(until(SOON, by_stack)?, "the flow does not go by the stack");
            let flood = trio.packet(A, &nobody(), 0, 0).frame();
            let before = send_flood(trio, &flood, 150)?.0;
            let numbers = trio.numbers(PACKETS);
            for number in numbers.clone() {
                for _ in 0..20 {
                    trio.tap.send(&flood)?;
                    thread::sleep(FLOOD_PACE);
                }
                send(number)?;
            }
            let counted = Counters::read(&trio.r.namespace)?.since(&before);
            ensure!(counted.contains_key("drop_stack_limit"), "{counted:?}");
            for host in [&trio.a, &trio.b] {
                let lost = || {
                    let counts = numbers.clone().map(|number| host.count(number));
                    let counts = counts.collect::<Result<Vec<_>>>()?;
                    anyhow::Ok(counts.iter().filter(|&&count| count == 0).count())
                };
                // A neighbour that has to be asked for again may cost one.
                ensure!(
                    until(SOON, || Ok(lost()? <= 1))?,
                    "{} of {PACKETS} lost",
                    lost()?
                );
            }
            Ok(())
        });
    }
}

/// What the router's own host sends is not limited, however much of it the stack gets.
#[test]
fn the_routers_own_host_has_no_limit() {
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            trio.configure(
                "[router]\n",
                "[limits]\nstack_copies_per_second = 4\n\n[router]\n",
            )?;
            trio.start()?;
            let own = Tap::open(&trio.r.namespace, "xcast0")?;
            let frame = trio.packet(R1, &nobody(), 0, 0).frame();
            let copies = 5 * nobody().len() as u64;
            let before = Counters::read(&trio.r.namespace)?;
            for _ in 0..5 {
                own.send(&frame)?;
            }
            let counted = || anyhow::Ok(Counters::read(&trio.r.namespace)?.since(&before));
            let are_sent = || Ok(counted()?.get("sent").is_some_and(|&sent| sent >= copies));
            ensure!(until(SOON, are_sent)?, "{:?}", counted()?);
            let refused = counted()?.contains_key("drop_stack_limit");
            ensure!(!refused, "{:?}", counted()?);
            Ok(())
        });
    }
}

/// Addresses behind B, one copy each, that B drops.
fn many(count: u8) -> Vec<Ipv4Addr> {
    (2..count + 2)
        .map(|last| Ipv4Addr::new(10, 99, 1, last))
        .collect()
}

/// One source with the longest lists, as fast as it can: its copies are limited without any
/// configuration, and another source's packets arrive.
#[test]
fn one_source_cannot_have_everything_multiplied() {
    const PACKETS: u32 = 20_000;
    const COPIES: u8 = 60;
    /// `limits.copies_per_second`
    const PER_SECOND: f64 = 100_000.0;
    trio::with(|trio| {
        trio.resolve()?;
        trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        ensure!(trio.is_reached(&trio.b, &[BEHIND, C])?, "at the start");
        let flood = trio.packet(A, &many(COPIES), 0, 0).frame();
        let judge = |(before, began), served| {
            let sent = copies_since(trio, &before, served)?;
            // What a second allows may be used up at once.
            let allowed = PER_SECOND * (1.0 + Instant::elapsed(&began).as_secs_f64());
            let wanted = PACKETS * u32::from(COPIES);
            ensure!(
                sent as f64 <= allowed,
                "{sent} copies of {wanted} were made; allowed were {allowed:.0}"
            );
            Ok(())
        };
        served::is_served_beside(trio, || send_flood(trio, &flood, PACKETS), judge)
    });
}

/// One source's packets are limited on the port that says so; sources on other ports have the limit of all.
#[test]
fn packets_of_one_source_are_limited_by_port() {
    const PACKETS: u32 = 2000;
    const PER_SECOND: u32 = 100;
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            let port = "interface = \"p1\"\n";
            trio.configure(port, &format!("{port}packets_per_second = {PER_SECOND}\n"))?;
            trio.start()?;
            trio.resolve()?;
            let flood = trio.packet(A, &[B, C], 0, 0).frame();
            let judge = |(before, began), flow: Served| {
                let counted = Counters::read(&trio.r.namespace)?.since(&before);
                let allowed =
                    f64::from(PER_SECOND) * (1.0 + Instant::elapsed(&began).as_secs_f64());
                let value = |name: &str| counted.get(name).copied().unwrap_or(0);
                let dropped = value("drop_packet_limit");
                let served = (value("received") - dropped).saturating_sub(flow.sent);
                ensure!(
                    dropped > 0 && served as f64 <= allowed,
                    "{served} packets were served; allowed were {allowed:.0}: {counted:?}"
                );
                Ok(())
            };
            served::is_served_beside(trio, || send_flood(trio, &flood, PACKETS), judge)
        });
    }
}

/// Where any source may come from, somebody's address may be forged: that uses up what is allowed by that port, and not what
/// its owner may send by another.
#[test]
fn forged_packets_do_not_use_up_what_the_owner_may_send() {
    const PACKETS: u32 = 40_000;
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            start_with_source(trio, "\"any\"")?;
            // Nothing comes of them, so that nobody is short of processors.
            trio.r.ip("route add blackhole 10.97.0.0/16")?;
            let nowhere = [1, 2].map(|last| Ipv4Addr::new(10, 97, 0, last));
            let forged = trio.packet(C, &nowhere, 0, 0).frame();
            let judge = |(before, _), _| {
                let counted = Counters::read(&trio.r.namespace)?.since(&before);
                ensure!(counted.contains_key("drop_packet_limit"), "{counted:?}");
                Ok(())
            };
            served::is_served_beside(trio, || send_flood(trio, &forged, PACKETS), judge)
        });
    }
}

/// Sends a frame many times; returns what was counted before, and when that was.
fn send_flood(trio: &Trio, frame: &[u8], packets: u32) -> Result<(Counters, Instant)> {
    let before = (Counters::read(&trio.r.namespace)?, Instant::now());
    for _ in 0..packets {
        trio.tap.send(frame)?;
    }
    Ok(before)
}

/// Copies that the router has made since then, those of the served flow left out.
fn copies_since(trio: &Trio, before: &Counters, served: Served) -> Result<u64> {
    let now = Counters::read(&trio.r.namespace)?;
    let sent = now.value("sent") - before.value("sent");
    Ok(sent.saturating_sub(served::COPIES * served.sent))
}

/// Makes B a second router behind R, and starts one under test there, too.
fn second_router(trio: &mut Trio, gateways: &str) -> Result<Daemon> {
    trio.make_b_a_router()?;
    let none = "gateways = \"none\"";
    trio.configure(none, gateways)?;
    let second = trio::configuration(&["b0"]).replace(none, gateways);
    let daemon = Daemon::start(&trio.b.namespace, &second)?;
    trio.start()?;
    Ok(daemon)
}

/// Room for a list of IPv6 that is as long as it can be.
const LONG_MTU: u32 = 2400;

/// The longest list there can be, for nowhere.
fn longest_list(family: Family) -> Vec<Ipv4Addr> {
    let destinations = (1..).take(family.most_destinations());
    destinations
        .map(|last| Ipv4Addr::new(10, 97, 0, last))
        .collect()
}

/// Starts two routers that send to each other what is for nowhere.
fn routing_loop(trio: &mut Trio, gateways: &str) -> Result<Daemon> {
    for (host, port) in [
        (&trio.a, "a0"),
        (&trio.b, "b0"),
        (&trio.r, "p1"),
        (&trio.r, "p2"),
    ] {
        host.namespace
            .ip(&format!("link set {port} mtu {LONG_MTU}"))?;
    }
    let second = second_router(trio, gateways)?;
    trio.resolve()?;
    trio.r.ip("route add 10.97.0.0/16 via 10.66.2.2")?;
    Ok(second)
}

/// Two routers that send lists to each other: a packet ends with its time to live, and the routers say so.
#[test]
fn routing_loop_ends() {
    const PACKETS: u64 = 20;
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            let second = routing_loop(trio, "gateways = \"all\"")?;
            let lost = longest_list(family);
            let routers = [&trio.r.namespace, &trio.b.namespace];
            let read = || -> Result<Vec<_>> { routers.into_iter().map(Counters::read).collect() };
            // Each goes on between the two for as long as it may.
            let seen = || {
                let before = read()?;
                trio.send(&lost)?;
                thread::sleep(Duration::from_millis(100));
                Ok(read()?[1].value("received") >= before[1].value("received") + 31)
            };
            ensure!(until(SOON, seen)?, "there is no loop: {:?}", read()?);
            let attack = || {
                let before = read()?;
                for _ in 0..PACKETS {
                    trio.send(&lost)?;
                }
                Ok(before)
            };
            let judge = |before: Vec<Counters>, served: Served| {
                let now = read()?;
                let counted: Vec<_> = now
                    .iter()
                    .zip(&before)
                    .map(|(now, before)| now.since(before))
                    .collect();
                let sum = |name: &str| -> u64 {
                    let of = |counted: &BTreeMap<String, u64>| counted.get(name).copied();
                    counted.iter().filter_map(of).sum()
                };
                let sent = sum("sent") - served::COPIES * served.sent;
                // 64 from each packet's time to live: there is one copy at a time.
                ensure!(
                    sent <= 64 * PACKETS,
                    "{sent} copies of {PACKETS} packets: {counted:?}"
                );
                let ended = sum("skip_ttl");
                ensure!(
                    ended > 0 && ended <= PACKETS * lost.len() as u64,
                    "no router counted the end of it: {counted:?}"
                );
                Ok(())
            };
            served::is_served_beside(trio, attack, judge)?;
            ensure!(second.stop()?.success());
            Ok(())
        });
    }
}

/// The same where neither sends lists to the other: each copy is a unicast packet, which the kernel of the second router
/// sends back. A packet becomes as many as its list is long, and they end like all unicast.
#[test]
fn routing_loop_of_unicast_copies_ends() {
    // Few enough for all that comes of them to be seen.
    const PACKETS: u64 = 3;
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            let second = routing_loop(trio, "gateways = \"none\"")?;
            let lost = longest_list(family);
            let copies = lost.len() as u64;
            let at_second = Tap::open(&trio.b.namespace, "b0")?;
            let to_nowhere = || -> Result<u64> {
                let mut frames = 0;
                while let Some(frame) = at_second.take()? {
                    let ip = frame
                        .get(packet::ETHERNET_LEN..)
                        .and_then(|bytes| Ip::parse(family, bytes));
                    let nowhere = family.prefix(Ipv4Addr::new(10, 97, 0, 0), 16);
                    frames +=
                        u64::from(ip.is_some_and(|(ip, _)| nowhere.contains(&ip.destination)));
                }
                Ok(frames)
            };
            let attack = || {
                let before = Counters::read(&trio.r.namespace)?;
                for _ in 0..PACKETS {
                    trio.send(&lost)?;
                }
                Ok(before)
            };
            let judge = |before: Counters, served: Served| {
                let sent = copies_since(trio, &before, served)?;
                ensure!(
                    sent > 0 && sent <= PACKETS * copies,
                    "{sent} copies of {PACKETS} packets with {copies} destinations"
                );
                // What is under way between the kernels ends by itself, and each of its rounds takes two hops.
                let frames = Cell::new(0);
                let is_over = || {
                    let came = to_nowhere()?;
                    frames.set(frames.get() + came);
                    thread::sleep(Duration::from_millis(300));
                    Ok(came == 0)
                };
                ensure!(until(SOON, is_over)?, "it goes on");
                let frames = frames.get();
                ensure!(
                    frames > sent && frames <= PACKETS * copies * 32,
                    "{sent} copies came to the second router {frames} times"
                );
                Ok(())
            };
            served::is_served_beside(trio, attack, judge)?;
            // The source is told, as by unicast: of some, since the kernel limits such messages.
            let exceeded = match family {
                Family::Ipv4 => (11, 0),
                Family::Ipv6 => (3, 0),
            };
            let told = || {
                trio.tap.drain()?;
                trio.send(&lost[..2])?;
                let soon = Instant::now() + Duration::from_millis(100);
                Ok(trio.icmp_about(lost[0], soon)? == Some(exceeded))
            };
            ensure!(until(SOON, told)?, "the source is not told");
            ensure!(second.stop()?.success());
            Ok(())
        });
    }
}

/// A whole Xcast packet, in all forms in which a router would take it out of what comes behind an Xcast header: the
/// protocol there, and what follows.
fn forms_of_nesting(family: Family, packet: &Packet) -> Vec<(u8, Vec<u8>)> {
    let inside = &packet.frame()[packet::ETHERNET_LEN..];
    let in_udp = |payload: &[u8]| {
        let ends = ((packet.ip.source, 4000), (tests::layout::GROUP, UDP_PORT));
        (protocol::UDP, packet::udp(ends.0, ends.1, payload, None))
    };
    let cookie_of_a_source = [1, 0, 0, 0, 0, 0, 0, 77, 1, 2, 3, 4, 5, 6, 7, 8];
    let in_tunnel = [inside, &[7; 8]].concat();
    let in_ip = match family {
        Family::Ipv4 => 4,
        Family::Ipv6 => 41,
    };
    let mut forms = vec![
        in_udp(inside),
        in_udp(&[&cookie_of_a_source[..], inside].concat()),
        in_udp(&in_tunnel),
        (in_ip, in_tunnel),
    ];
    if family == Family::Ipv6 {
        // A second routing header behind other headers: what is left of the first one's packet begins with these.
        let options = [protocol::ROUTING, 0, 1, 4, 0, 0, 0, 0];
        let header = packet.xcast.emit(Family::Ipv6);
        let headers = [&options[..], &header, &packet.segment].concat();
        forms.push((protocol::DESTINATION_OPTIONS, headers.clone()));
        forms.push((protocol::HOP_BY_HOP, headers));
    }
    forms
}

/// Xcast in UDP in Xcast, and whatever else the next router would open: each copy for one of its many addresses would be
/// multiplied there. The first router sees what is inside, and the second one never gets it.
#[test]
fn nesting_does_not_multiply() {
    const PACKETS: u64 = 100;
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            for last in 1..=30 {
                trio.b
                    .ip(&format!("address add 10.97.0.{last}/32 dev lo"))?;
            }
            let second = second_router(trio, "gateways = \"none\"")?;
            trio.resolve()?;
            trio.r.ip("route add 10.97.0.0/16 via 10.66.2.2")?;
            trio.r.ip("route add 10.96.0.0/16 via 10.66.3.2")?;
            let reached = Ipv4Addr::new(10, 97, 0, 1);
            ensure!(trio.is_reached(&trio.b, &[reached, C])?, "at the start");
            let inside: Vec<_> = (1..=30)
                .map(|last| Ipv4Addr::new(10, 96, 0, last))
                .collect();
            let outside: Vec<_> = (1..=30)
                .map(|last| Ipv4Addr::new(10, 97, 0, last))
                .collect();
            let inner = trio.packet(A, &inside, 0, 50);
            let frames = forms_of_nesting(family, &inner).into_iter();
            let frames: Vec<_> = frames
                .map(|form| {
                    let mut outer = trio.packet(A, &outside, 0, 0);
                    (outer.xcast.protocol, outer.segment) = form;
                    outer.frame()
                })
                .collect();
            let tap = Tap::open(&trio.c.namespace, "c0")?;
            let attack = || {
                let before = Counters::read(&trio.r.namespace)?;
                for _ in 0..PACKETS {
                    for frame in &frames {
                        trio.tap.send(frame)?;
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                Ok(before)
            };
            let judge = |before: Counters, served: Served| {
                let counted = Counters::read(&trio.r.namespace)?.since(&before);
                let nested = counted.get("drop_nested").copied();
                let sent = PACKETS * frames.len() as u64;
                ensure!(nested == Some(sent), "{sent} sent: {counted:?}");
                let copies = copies_since(trio, &before, served)?;
                ensure!(copies == 0, "{copies} copies were made");
                let mut at_c = 0;
                while let Some(frame) = tap.take()? {
                    let ip = Ip::parse(family, &frame[packet::ETHERNET_LEN..]);
                    let inside = family.prefix(Ipv4Addr::new(10, 96, 0, 0), 16);
                    at_c += usize::from(ip.is_some_and(|(ip, _)| inside.contains(&ip.destination)));
                }
                ensure!(at_c == 0, "{at_c} packets came of them");
                Ok(())
            };
            served::is_served_beside(trio, attack, judge)?;
            // What is not inside anything is served as ever.
            ensure!(trio.is_reached(&trio.c, &[C, A])?);
            ensure!(second.stop()?.success());
            Ok(())
        });
    }
}

/// A source that nobody may have is counted as such, for an administrator to see.
#[test]
fn refused_sources_are_counted() {
    trio::before_start(Family::Ipv4, |trio| {
        trio.r.namespace.sysctl("ipv4/conf/p1/rp_filter", "1")?;
        trio.start()?;
        trio.resolve()?;
        let before = Counters::read(&trio.r.namespace)?;
        trio.send_from(C, &[B, A])?;
        ensure!(trio.b.gets(trio.send(&[B, C])?)?);
        let counted = Counters::read(&trio.r.namespace)?.since(&before);
        let refused = ["drop_source", "drop_spoofed", "drop_reverse_path"];
        let counted_once = refused.iter().any(|&name| counted.get(name) == Some(&1));
        ensure!(counted_once, "{counted:?}");
        let stats = daemon::report(&trio.r.namespace, &["stats"])?;
        ensure!(stats["loss"] == 0, "a refusal is no loss");
        Ok(())
    });
}
