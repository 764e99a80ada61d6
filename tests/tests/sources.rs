//! What unicast would be refused, Xcast is refused; and what one source can make of one packet has
//! a limit.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tests::daemon::{self, Counters, Daemon};
use tests::family::Family;
use tests::packet::{self, Datagram};
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

/// One echo request that all destinations would answer to somebody else (RFC 5058 section 14).
#[test]
fn nobody_is_flooded_with_echo_replies() {
    trio::before_start(Family::Ipv4, |trio| {
        start_with_source(trio, "\"any\"")?;
        let request = |source: Ipv4Addr, destinations: &[Ipv4Addr]| -> Result<u64> {
            let before = Counters::read(&trio.r.namespace)?;
            let mut packet = trio.packet(source, destinations, 0, 0);
            packet.xcast.protocol = packet::protocol::ICMP;
            packet.segment = packet::icmp_echo(1, 1, b"smurf");
            trio.tap.send(&packet.frame())?;
            let counted = || {
                let now = Counters::read(&trio.r.namespace)?;
                Ok(now.value("received") + now.value("drop_icmp_request")
                    > before.value("received") + before.value("drop_icmp_request"))
            };
            ensure!(until(SOON, counted)?, "the request was not seen");
            let now = Counters::read(&trio.r.namespace)?;
            Ok(now.value("drop_icmp_request") - before.value("drop_icmp_request"))
        };
        let victim = Ipv4Addr::new(8, 8, 8, 8);
        ensure!(
            request(victim, &[B, C])? == 1,
            "the victim gets two replies"
        );
        ensure!(request(A, &[B, C])? == 0, "A cannot ping two hosts");
        ensure!(
            request(victim, &[B])? == 0,
            "one reply is what unicast gets"
        );
        Ok(())
    });
}

/// What one sender's lists make for the kernel's stack is bounded, and what is dropped of it is counted.
#[test]
fn the_stack_is_not_flooded() {
    trio::with(|trio| {
        const PACKETS: u32 = 1000;
        trio.resolve()?;
        // Hosts that nobody has: all of them are the kernel's to resolve.
        let nobody: Vec<_> = (100..160)
            .map(|last| Ipv4Addr::new(10, 66, 2, last))
            .collect();
        let flood = trio.packet(A, &nobody, 0, 0).frame();
        let before = Counters::read(&trio.r.namespace)?;
        for _ in 0..PACKETS {
            trio.tap.send(&flood)?;
        }
        let ended = || {
            let now = Counters::read(&trio.r.namespace)?;
            Ok(now.value("received") - before.value("received") >= u64::from(PACKETS) * 9 / 10)
        };
        ensure!(until(SOON, ended)?, "the packets do not arrive");
        let counted = Counters::read(&trio.r.namespace)?.since(&before);
        let dropped = counted.get("drop_stack_limit").copied().unwrap_or(0);
        let sent = counted.get("sent").copied().unwrap_or(0);
        ensure!(dropped > 10_000 && sent < 45_000, "{counted:?}");
        Ok(())
    });
}

/// Addresses behind B, one copy each, that B drops.
fn many(count: u8) -> Vec<Ipv4Addr> {
    (2..count + 2)
        .map(|last| Ipv4Addr::new(10, 99, 1, last))
        .collect()
}

/// One source with the longest lists, as fast as it can: its copies are limited without any
/// configuration, and another source's packets arrive.
///
/// A machine that is short of processors loses frames of its own at the ends of a link. So a loss
/// that does not come again in other floods is not the router's.
#[test]
fn one_source_cannot_have_everything_multiplied() {
    const PACKETS: u32 = 20_000;
    const COPIES: u8 = 60;
    const FLOODS: u32 = 5;
    /// `limits.copies_per_second`
    const PER_SECOND: f64 = 100_000.0;
    trio::with(|trio| {
        trio.resolve()?;
        trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        ensure!(trio.is_reached(&trio.b, &[BEHIND, C])?, "at the start");
        let flood = trio.packet(A, &many(COPIES), 0, 0).frame();
        let other = Tap::open(&trio.c.namespace, "c0")?;
        let mut losses = Vec::new();
        for _ in 0..FLOODS {
            let (before, began) = (Counters::read(&trio.r.namespace)?, Instant::now());
            losses.push(lost_beside_a_flood(trio, &other, &flood, PACKETS)?);
            let sent = Counters::read(&trio.r.namespace)?.value("sent") - before.value("sent");
            // What a second allows may be used up at once. C's own packets are two copies each.
            let allowed = PER_SECOND * (1.0 + began.elapsed().as_secs_f64()) + 2.0 * SERVED as f64;
            let wanted = PACKETS * u32::from(COPIES);
            ensure!(
                sent as f64 <= allowed,
                "{sent} copies of {wanted} were made; allowed were {allowed:.0}"
            );
            if losses.last().is_some_and(|lost| *lost < SERVED / 100) {
                return Ok(());
            }
        }
        bail!("another source lost {losses:?} of {SERVED} in each flood");
    });
}

/// One source's packets are limited on the port that says so; sources on other ports have the limit of all.
///
/// As in [`one_source_cannot_have_everything_multiplied`], a loss that does not come again is the machine's.
#[test]
fn packets_of_one_source_are_limited_by_port() {
    const PACKETS: u32 = 2000;
    const PER_SECOND: u32 = 100;
    const FLOODS: u32 = 5;
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            let port = "interface = \"p1\"\n";
            trio.configure(port, &format!("{port}packets_per_second = {PER_SECOND}\n"))?;
            trio.start()?;
            trio.resolve()?;
            let flood = trio.packet(A, &[B, C], 0, 0).frame();
            let other = Tap::open(&trio.c.namespace, "c0")?;
            let mut losses = Vec::new();
            for _ in 0..FLOODS {
                let (before, began) = (Counters::read(&trio.r.namespace)?, Instant::now());
                losses.push(lost_beside_a_flood(trio, &other, &flood, PACKETS)?);
                let counted = Counters::read(&trio.r.namespace)?.since(&before);
                let allowed = f64::from(PER_SECOND) * (1.0 + began.elapsed().as_secs_f64());
                let value = |name: &str| counted.get(name).copied().unwrap_or(0);
                let dropped = value("drop_packet_limit");
                let served = (value("received") - dropped).saturating_sub(SERVED as u64);
                ensure!(
                    dropped > 0 && served as f64 <= allowed,
                    "{served} packets were served; allowed were {allowed:.0}: {counted:?}"
                );
                if losses.last().is_some_and(|lost| *lost < SERVED / 100) {
                    return Ok(());
                }
            }
            bail!("another source lost {losses:?} of {SERVED} in each flood");
        });
    }
}

/// Packets of the source that is served beside a flood.
const SERVED: usize = 300;

/// How many of [`SERVED`] packets from C do not reach B while A sends `packets` times `flood`.
fn lost_beside_a_flood(trio: &Trio, other: &Tap, flood: &[u8], packets: u32) -> Result<usize> {
    let frames: Vec<_> = (0..SERVED)
        .map(|_| {
            let number = trio.number();
            let mut packet = trio.packet(C, &[B, A], number, 0);
            (packet.destination_mac, packet.source_mac) = (trio::port_mac(3), trio::host_mac(3));
            (number, packet.frame())
        })
        .collect();
    let tap = &trio.tap;
    thread::scope(|scope| -> Result<()> {
        let flooding = scope.spawn(|| -> Result<()> {
            for _ in 0..packets {
                tap.send(flood)?;
            }
            Ok(())
        });
        for (_, frame) in &frames {
            other.send(frame)?;
            thread::sleep(Duration::from_millis(3));
        }
        flooding.join().map_err(|_| anyhow::anyhow!("the flood"))?
    })?;
    let mut lost = 0;
    for (number, _) in &frames {
        lost += usize::from(!trio.b.gets(*number)?);
    }
    Ok(lost)
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

/// Two routers that send to each other what is for nowhere: a packet ends with its time to live, and
/// the routers say so.
#[test]
fn routing_loop_ends() {
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            let second = second_router(trio, "gateways = \"all\"")?;
            trio.r.ip("route add 10.97.0.0/16 via 10.66.2.2")?;
            let lost: Vec<_> = (1..=60)
                .map(|last| Ipv4Addr::new(10, 97, 0, last))
                .collect();
            let tap = Tap::open(&trio.b.namespace, "b0")?;
            let seen = || {
                trio.send(&lost)?;
                thread::sleep(Duration::from_millis(100));
                Ok(Counters::read(&trio.b.namespace)?.value("received") > 0)
            };
            ensure!(until(SOON, seen)?, "the second router gets nothing");
            tap.drain()?;
            let routers = [&trio.r.namespace, &trio.b.namespace];
            let read = || {
                routers
                    .map(Counters::read)
                    .into_iter()
                    .collect::<Result<Vec<_>>>()
            };
            let before = read()?;
            trio.send(&lost)?;
            trio.b.misses(u32::MAX)?;
            let sent: u64 = read()?
                .iter()
                .zip(&before)
                .map(|(now, before)| now.value("sent") - before.value("sent"))
                .sum();
            // 64 from the packet's time to live, and unicast copies of the last ones.
            ensure!(sent <= 64 + 60, "{sent} copies of one packet");
            let reported = read()?
                .iter()
                .zip(&before)
                .any(|(now, before)| now.since(before).keys().any(|name| name.contains("ttl")));
            ensure!(reported, "no router counted the end of it");
            ensure!(second.stop()?.success());
            Ok(())
        });
    }
}

/// Xcast in UDP in Xcast: each copy for one of the next router's many addresses is opened there. What
/// comes of one packet is bounded.
#[test]
fn nesting_does_not_multiply() {
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
            let _ = trio.is_reached(&trio.b, &[reached, C])?;
            let inside: Vec<_> = (1..=30)
                .map(|last| Ipv4Addr::new(10, 96, 0, last))
                .collect();
            let outside: Vec<_> = (1..=30)
                .map(|last| Ipv4Addr::new(10, 97, 0, last))
                .collect();
            let inner = trio.packet(A, &inside, 0, 50);
            let frame = inner.frame();
            let mut outer = trio.packet(A, &outside, 0, 0);
            let ends = ((outer.ip.source, 4000), (tests::layout::GROUP, UDP_PORT));
            outer.segment = packet::udp(ends.0, ends.1, &frame[packet::ETHERNET_LEN..], None);
            let first = Counters::read(&trio.r.namespace)?;
            let opened = Counters::read(&trio.b.namespace)?;
            let tap = Tap::open(&trio.c.namespace, "c0")?;
            trio.tap.send(&outer.frame())?;
            trio.c.misses(u32::MAX)?;
            let mut copies = 0;
            while let Some(frame) = tap.take()? {
                copies += usize::from(frame.len() > 90);
            }
            let opened = Counters::read(&trio.b.namespace)?.since(&opened);
            ensure!(copies <= 254, "{copies} packets of one, {opened:?}");
            // The first router sees what is inside, so that the second one never gets it.
            let first = Counters::read(&trio.r.namespace)?.since(&first);
            let nested = first.get("drop_nested").copied();
            ensure!(nested == Some(1) && copies == 0, "{first:?}");
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
