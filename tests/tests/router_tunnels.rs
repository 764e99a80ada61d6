//! Tunnels between Xcast routers, past routers that know nothing of Xcast.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::bird::Bird;
use tests::daemon::{self, Daemon};
use tests::family::Family;
use tests::layout::mac_text;
use tests::namespace::{self, Namespace};
use tests::packet::{self, ETHERNET_LEN, Ip, protocol};
use tests::sites::{self, Carried, Sites, Tunnel, destinations};
use tests::tap::Tap;
use tests::trio::{SOON, until};

/// One of each kind: outer family, and how packets are carried.
const EACH: [Tunnel; 4] = [
    tunnel("ip4", Family::Ipv4, true, "ip", &[81]),
    tunnel("ip6", Family::Ipv6, true, "ip", &[82]),
    tunnel("udp4", Family::Ipv4, false, "udp", &[83]),
    tunnel("udp6", Family::Ipv6, false, "udp", &[84]),
];

const fn tunnel(
    name: &'static str,
    outer: Family,
    by_middle: bool,
    mode: &'static str,
    prefixes: &'static [u8],
) -> Tunnel {
    Tunnel {
        name,
        outer,
        by_middle,
        mode,
        prefixes,
        back: &[],
        kernel_device: None,
    }
}

/// The next frame on a tap that is one of a tunnel's, probes apart: they are from one end to the other inside, too.
fn carried(tap: &Tap, source: std::net::IpAddr) -> Result<Vec<u8>> {
    let deadline = Instant::now() + SOON;
    while let Some(frame) = tap.receive(deadline)? {
        let wanted = packet::octets(source);
        let is_from_source = frame[ETHERNET_LEN..]
            .windows(wanted.len())
            .any(|octets| octets == wanted);
        if is_from_source {
            return Ok(frame);
        }
    }
    anyhow::bail!("nothing came through the tunnel")
}

/// A list passes each kind of tunnel in one packet, as the specifications have it, octet by octet, and each
/// destination gets it once.
#[test]
fn lists_pass_routers_that_know_nothing_of_xcast() {
    for family in Family::ALL {
        sites::with(family, &EACH, |sites| {
            let taps = [
                (true, 2, &sites.middle, "m1"),
                (false, 5, &sites.second, "n1"),
            ];
            for tunnel in EACH {
                sites.works(tunnel.name, tunnel.mode)?;
                let (_, link, router, interface) = taps
                    .iter()
                    .find(|tap| tap.0 == tunnel.by_middle)
                    .context("no tap")?;
                let tap = Tap::open(router, interface)?;
                let to = destinations(tunnel.prefixes[0]);
                let number = sites.number();
                let mut packet = sites.packet(&to, number, 100);
                // Expedited forwarding, ECT(0).
                packet.ip.ds = 46 << 2 | 2;
                sites.tap.send(&packet.frame())?;
                let seen = carried(&tap, family.address(sites::SOURCE))?;
                let (ip, content) =
                    Ip::parse(tunnel.outer, &seen[ETHERNET_LEN..]).context("no IP")?;
                let udp_from = (tunnel.mode == "udp")
                    .then(|| packet::be16(content, 0))
                    .flatten();
                ensure!(udp_from.is_none_or(|port| port >= 0xc000), "{udp_from:?}");
                let expected = Carried {
                    ds: packet.ip.ds,
                    flow_label: ip.flow_label,
                    ..Carried::new(tunnel.ends(), udp_from, &sites.inner(&packet, 1))
                };
                ensure!(
                    seen == expected.frame(*link),
                    "{}: {}\nexpected {}",
                    tunnel.name,
                    packet::hex(&seen),
                    packet::hex(&expected.frame(*link))
                );
                sites.arrives(number, &to)?;
                // Alone, a destination needs no tunnel: Middle gets it as unicast.
                let middle = Tap::open(&sites.middle, "m1")?;
                let number = sites.send(&to[..1], 0)?;
                sites.arrives(number, &to[..1])?;
                let seen = carried(&middle, family.address(sites::SOURCE))?;
                let (ip, _) = Ip::parse(family, &seen[ETHERNET_LEN..]).context("no IP")?;
                ensure!(ip.protocol == protocol::UDP && ip.destination == family.address(to[0]));
            }
            Ok(())
        });
    }
}

/// What Far forwards of frames that arrive at it by Middle's link: whether the message came to the first destination.
fn forwards(sites: &Sites, tap: &Tap, frame: &[u8], number: u32, at: Ipv4Addr) -> Result<bool> {
    tap.send(frame)?;
    until(Duration::from_millis(300), || {
        Ok(sites.count(number, at)? > 0)
    })
}

/// Only what a configured router sends, with the right cookie, is taken out. An address alone can be forged.
#[test]
fn nobody_else_gets_anything_out_of_a_tunnel() {
    for family in Family::ALL {
        sites::with(family, &EACH[..2], |sites| {
            sites.works("ip4", "ip")?;
            sites.works("ip6", "ip")?;
            let tap = Tap::open(&sites.middle, "m2")?;
            let to = destinations(81);
            for (tunnel, udp_from) in EACH[..2]
                .iter()
                .flat_map(|tunnel| [(tunnel, None), (tunnel, Some(50_000))])
            {
                let sent = |change: &dyn Fn(&mut Carried)| {
                    let number = sites.number();
                    let inner = sites.inner(&sites.packet(&to, number, 0), 1);
                    let mut carried = Carried::new(tunnel.ends(), udp_from, &inner);
                    change(&mut carried);
                    forwards(sites, &tap, &carried.frame(3), number, to[0])
                };
                ensure!(sent(&|_| {})?, "{}: the right one is refused", tunnel.name);
                let before = Sites::counters(&sites.far)?;
                for octet in [0, 7] {
                    ensure!(
                        !sent(&|carried| carried.cookie[octet] ^= 1)?,
                        "another cookie"
                    );
                }
                let refused = Sites::counters(&sites.far)?.since(&before);
                ensure!(refused.get("tunnel_refused") == Some(&2), "{refused:?}");
                let forged = tunnel.outer.address([10, 70, 3, 1]);
                ensure!(!sent(&|carried| carried.ends.0 = forged)?, "another source");
                // And with a cookie that would be right for that source.
                ensure!(!sent(&|carried| *carried = Carried::new(
                    (forged, carried.ends.1),
                    udp_from,
                    &carried.inner
                ))?);
                // Its own packets cannot be given back to it.
                let (near, far) = tunnel.ends();
                ensure!(!sent(
                    &|carried| carried.cookie = sites::cookie(sites::KEY, far, near)
                )?);
                ensure!(
                    !sent(&|carried| {
                        carried.inner.pop();
                    })?,
                    "shorter than it says"
                );
                ensure!(
                    !sent(&|carried| carried.inner[0] ^= 0x20)?,
                    "another version"
                );
            }
            Ok(())
        });
    }
}

/// RFC 6040 section 4.2: the table. What is inside keeps its DSCP.
#[test]
fn congestion_marks_leave_the_tunnel_with_the_packet() {
    // What becomes of Not-ECT, ECT(1), ECT(0) and CE inside, by what is outside.
    const TABLE: [[Option<u8>; 4]; 4] = [
        [Some(0), Some(1), Some(2), Some(3)],
        [Some(0), Some(1), Some(1), Some(3)],
        [Some(0), Some(1), Some(2), Some(3)],
        [None, Some(3), Some(3), Some(3)],
    ];
    for family in Family::ALL {
        sites::with(family, &EACH, |sites| {
            for tunnel in &EACH {
                sites.works(tunnel.name, tunnel.mode)?;
            }
            let paths = [
                (Tap::open(&sites.middle, "m2")?, 3),
                (Tap::open(&sites.second, "n2")?, 6),
            ];
            let hosts = Tap::open(&sites.hosts, "d0")?;
            let to = destinations(81);
            let before = Sites::counters(&sites.far)?;
            for tunnel in &EACH {
                let (tap, link) = &paths[usize::from(!tunnel.by_middle)];
                let udp_from = (tunnel.mode == "udp").then_some(50_000);
                for (outside, row) in (0..).zip(TABLE) {
                    for (inside, expected) in (0..).zip(row) {
                        let number = sites.number();
                        let mut packet = sites.packet(&to, number, 0);
                        packet.ip.ds = 10 << 2 | inside;
                        let carried = Carried {
                            ds: 46 << 2 | outside,
                            ..Carried::new(tunnel.ends(), udp_from, &sites.inner(&packet, 1))
                        };
                        hosts.drain()?;
                        let came = forwards(sites, tap, &carried.frame(*link), number, to[0])?;
                        ensure!(came == expected.is_some(), "{outside} {inside}");
                        let Some(expected) = expected else { continue };
                        let frame = hosts.receive(Instant::now() + SOON)?.context("nothing")?;
                        let (ip, _) = Ip::parse(family, &frame[ETHERNET_LEN..]).context("no IP")?;
                        ensure!(
                            ip.ds == 10 << 2 | expected,
                            "{outside} {inside}: {:#x}",
                            ip.ds
                        );
                        sites.arrives(number, &to)?;
                    }
                }
            }
            let counted = Sites::counters(&sites.far)?.since(&before);
            ensure!(counted.get("drop_tunnel_ecn") == Some(&4), "{counted:?}");
            Ok(())
        });
    }
}

/// What does not fit into a tunnel goes to the kernel's stack as unicast, and a router on the path that says so is heeded.
#[test]
fn what_is_too_long_for_the_path_goes_as_unicast() {
    use Family::{Ipv4, Ipv6};
    for (family, outer, mode) in [
        (Ipv4, Ipv4, "ip"),
        (Ipv6, Ipv6, "ip"),
        (Ipv4, Ipv6, "udp"),
        (Ipv6, Ipv4, "udp"),
    ] {
        let tunnels = [tunnel("auto", outer, true, mode, &[81])];
        sites::with(family, &tunnels, |sites| {
            sites.works("auto", mode)?;
            let to = destinations(81);
            let ports = Sites::counters(&sites.near)?;
            // 1500 octets with the list, without outer headers.
            let list_len = sites.inner(&sites.packet(&to, 0, 0), 1).len();
            let number = sites.send(&to, 1500 - list_len)?;
            sites.arrives(number, &to)?;
            let counted = Sites::counters(&sites.near)?.since(&ports);
            ensure!(counted.get("stack_mtu") == Some(&3), "{counted:?}");
            // A narrow link behind Middle: unicast fits, the list does in itself, and with outer headers it does not.
            sites.middle.ip("link set m2 mtu 1400")?;
            let padding = 1400 - list_len;
            let lost = sites.send(&to, padding)?;
            sites.tunnel_is("auto", |row| row["path_mtu"] == 1400)?;
            ensure!(sites.count(lost, to[0])? == 0, "it passed");
            let ports = Sites::counters(&sites.near)?;
            let number = sites.send(&to, padding)?;
            sites.arrives(number, &to)?;
            let counted = Sites::counters(&sites.near)?.since(&ports);
            ensure!(counted.get("stack_mtu") == Some(&3), "{counted:?}");
            // What fits goes on through the tunnel.
            let number = sites.send(&to, padding - 100)?;
            sites.arrives(number, &to)?;
            let counted = Sites::counters(&sites.near)?.since(&ports);
            ensure!(counted.get("tunnel_sent") == Some(&1), "{counted:?}");
            Ok(())
        });
    }
}

fn nft(router: &Namespace, rules: &str) -> Result<()> {
    // It wants the end of a chain to be the end of a line.
    let rules = rules.replace("; }", ";\n}\n");
    namespace::run(router.command("nft").args(["-f", "-"]), &rules).map(|_| ())
}

/// A path that drops protocols that it does not know leaves UDP, which is found; nothing is lost meanwhile.
#[test]
fn a_path_that_drops_unknown_protocols_is_passed_inside_udp() {
    const AUTO: [Tunnel; 1] = [tunnel("auto", Family::Ipv4, true, "auto", &[81])];
    for family in Family::ALL {
        let tunnels = AUTO.map(|tunnel| Tunnel {
            outer: family,
            ..tunnel
        });
        sites::with(family, &tunnels, |sites| {
            sites.works("auto", "ip")?;
            let drop = "table inet strict { chain forward { type filter hook forward priority 0; \
                        meta l4proto { 4, 41, 253 } drop; } }";
            nft(&sites.middle, drop)?;
            sites.works("auto", "udp")?;
            let row = sites.tunnel("auto")?;
            let why = row["why"].as_str().unwrap_or_default();
            ensure!(why.contains("IP in IP does not pass"), "{why}");
            let to = destinations(81);
            let number = sites.send(&to, 0)?;
            sites.arrives(number, &to)?;
            nft(&sites.middle, "delete table inet strict")?;
            sites.works("auto", "ip")
        });
    }
}

/// Sends numbered lists to the first hosts, one after the other, and goes on until something is so.
fn stream(sites: &Sites, sent: &mut Vec<u32>, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while !is_so()? {
        ensure!(
            Instant::now() < deadline,
            "it never is: {:?}",
            sites.tunnels()?
        );
        for _ in 0..20 {
            sent.push(sites.send(&destinations(81), 0)?);
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// Sends a hundred messages more.
fn stream_on(sites: &Sites, sent: &mut Vec<u32>) -> Result<()> {
    let enough = sites.last_number() + 100;
    stream(sites, sent, || Ok(sites.last_number() > enough))
}

/// Makes sure that each message came once to each of the first hosts, but for those that were sent after something had died
/// and before that was noticed (the numbers of either), of which some have to be lost: otherwise nothing died.
fn only_lost(sites: &Sites, sent: &[u32], unnoticed: &[(u32, u32)]) -> Result<()> {
    let to = destinations(81);
    sites.arrives(*sent.last().context("nothing was sent")?, &to)?;
    let mut losses = vec![0; unnoticed.len()];
    for &number in sent {
        for address in to {
            let times = sites.count(number, address)?;
            let is_in = |&(died, noticed): &(u32, u32)| (died..noticed).contains(&number);
            let span = unnoticed.iter().position(is_in);
            match (times, span) {
                (1, _) => {}
                (0, Some(span)) => losses[span] += 1,
                _ => anyhow::bail!("{number} came {times} times to {address}: {unnoticed:?}"),
            }
        }
    }
    println!("{} messages to 3 each, lost: {losses:?}", sent.len());
    let all_died = losses.iter().all(|&lost| lost > 0);
    ensure!(all_died, "nothing died: {losses:?}");
    Ok(())
}

/// When a tunnel dies under a stream, the next one takes over, and when that dies, unicast. Only what was under way until
/// that was noticed is lost, and nothing comes twice.
fn tunnels_die(inner: Family, outer: Family) {
    let both = [
        tunnel("first", outer, false, "auto", &[81]),
        tunnel("next", outer, true, "auto", &[81]),
    ];
    sites::with(inner, &both, |sites| {
        sites.works("first", "ip")?;
        sites.works("next", "ip")?;
        let mut sent = Vec::new();
        let sites = &*sites;
        let lost = |name: &'static str| move || Ok(sites.tunnel(name)?["working"] == false);
        stream_on(sites, &mut sent)?;
        let died = sites.number();
        sites.second.ip("link set n2 down")?;
        stream(sites, &mut sent, lost("first"))?;
        let noticed = sites.number();
        stream_on(sites, &mut sent)?;
        // The next one is by Middle, as unicast is. When it lets tunnels pass no more, unicast still does.
        let died_too = sites.number();
        let drop = "table inet strict { chain forward { type filter hook forward priority 0; \
                    meta l4proto { 4, 41, 253 } drop; udp dport 40000 drop; } }";
        nft(&sites.middle, drop)?;
        stream(sites, &mut sent, lost("next"))?;
        let noticed_too = sites.number();
        stream_on(sites, &mut sent)?;
        only_lost(sites, &sent, &[(died, noticed), (died_too, noticed_too)])
    });
}

#[test]
fn a_tunnel_that_dies_is_replaced() {
    tunnels_die(Family::Ipv4, Family::Ipv4);
}

#[test]
fn a_tunnel_of_ipv6_that_dies_is_replaced() {
    tunnels_die(Family::Ipv6, Family::Ipv6);
}

#[test]
fn a_tunnel_of_the_other_family_that_dies_is_replaced() {
    tunnels_die(Family::Ipv4, Family::Ipv6);
    tunnels_die(Family::Ipv6, Family::Ipv4);
}

/// Keys are changed under a stream, as documented: the new one is accepted first, then used, then the old one no longer
/// accepted, each time on one router after the other. Nothing is lost, and the tunnel is used by the new key.
#[test]
fn keys_are_changed_under_a_stream() {
    const NEW: &str = "another secret of theirs";
    for family in Family::ALL {
        let tunnels = [tunnel("only", family, true, "ip", &[81])];
        sites::with(family, &tunnels, |sites| {
            sites.works("only", "ip")?;
            let mut sent = Vec::new();
            for (key, previous) in [
                (sites::KEY, Some(NEW)),
                (NEW, Some(sites::KEY)),
                (NEW, None),
            ] {
                for at_near in [true, false] {
                    let is_changed = sites.change_keys(at_near, key, previous)?;
                    stream(sites, &mut sent, is_changed)?;
                    // A generation that takes over proves its tunnels anew.
                    let works = || Ok(sites.tunnel("only")?["working"] == true);
                    stream(sites, &mut sent, works)?;
                }
            }
            only_lost(sites, &sent, &[])?;
            let tap = Tap::open(&sites.middle, "m1")?;
            let (near, far) = tunnels[0].ends();
            let is_by_new = || -> Result<bool> {
                sites.send(&destinations(81), 0)?;
                let seen = carried(&tap, family.address(sites::SOURCE))?;
                Ok(seen.ends_with(&sites::cookie(NEW, near, far)))
            };
            ensure!(until(SOON, is_by_new)?, "the old key is used");
            Ok(())
        });
    }
}

/// When the router at the other end is killed under a stream, and its programs are removed, its kernel goes on to forward
/// unicast, which takes over: only what was under way until that was noticed is lost, and nothing comes twice.
#[test]
fn the_other_end_of_a_tunnel_dies() {
    for family in Family::ALL {
        let tunnels = [tunnel("only", family, true, "auto", &[81])];
        sites::with(family, &tunnels, |sites| {
            sites.works("only", "ip")?;
            let mut sent = Vec::new();
            stream_on(sites, &mut sent)?;
            let died = sites.number();
            sites.kill_far()?;
            let lost = || Ok(sites.tunnel("only")?["working"] == false);
            stream(sites, &mut sent, lost)?;
            let noticed = sites.number();
            stream_on(sites, &mut sent)?;
            only_lost(sites, &sent, &[(died, noticed)])
        });
    }
}

/// Two routers that each reach a prefix through the other: one copy at a time, until the time to live is used up, and a
/// counter that tells.
#[test]
fn a_loop_of_tunnels_ends_with_the_time_to_live() {
    const LOOP: [Tunnel; 1] = [Tunnel {
        back: &[99],
        ..tunnel("loop", Family::Ipv4, true, "ip", &[81, 99])
    }];
    for family in Family::ALL {
        sites::with(family, &LOOP, |sites| {
            sites.works("loop", "ip")?;
            let far_works = || {
                let rows = daemon::report(&sites.far, &["tunnels"])?;
                Ok(rows[0]["working"] == true)
            };
            ensure!(until(SOON, far_works)?);
            let before = [&sites.near, &sites.far].map(Sites::counters);
            let [near, far] = before;
            let (near, far) = (near?, far?);
            let mut packet = sites.packet(&destinations(99), sites.number(), 0);
            // At Near 9, at Far 8, ..., at Near 1.
            packet.ip.ttl = 9;
            sites.tap.send(&packet.frame())?;
            let ends = || {
                let counted = Sites::counters(&sites.near)?.since(&near);
                Ok(counted.get("skip_ttl") == Some(&3))
            };
            ensure!(
                until(SOON, ends)?,
                "{:?}",
                Sites::counters(&sites.near)?.since(&near)
            );
            let near = Sites::counters(&sites.near)?.since(&near);
            let far = Sites::counters(&sites.far)?.since(&far);
            ensure!(near.get("tunnel_sent") == Some(&4), "{near:?}");
            ensure!(near.get("tunnel_hairpin") == Some(&3), "{near:?}");
            ensure!(far.get("tunnel_sent") == Some(&4), "{far:?}");
            ensure!(far.get("tunnel_hairpin") == Some(&4), "{far:?}");
            Ok(())
        });
    }
}

/// `explain` names the tunnel of a copy, and says which one would be used if it worked; `trace` shows that the packet takes
/// fewer hops than an ordinary one.
/// Into a tunnel, and back by native routes of a third router, which all permit any source: one copy at a time until the time to
/// live is used up, whatever the length of the list, and `check` says so.
#[test]
fn a_loop_of_a_tunnel_and_native_routes_ends_with_the_time_to_live() {
    const OUT: [Tunnel; 1] = [tunnel("out", Family::Ipv4, true, "ip", &[99])];
    for family in Family::ALL {
        sites::with(family, &OUT, |sites| {
            for (router, ports) in [
                (&sites.near, ["p1", "p2"]),
                (&sites.middle, ["m1", "m2"]),
                (&sites.far, ["q1", "q2"]),
            ] {
                for name in ["all"].iter().chain(&ports) {
                    router.sysctl(&format!("ipv4/conf/{name}/rp_filter"), "0")?;
                }
            }
            for (router, gateway) in [(&sites.far, (3, 1)), (&sites.middle, (2, 1))] {
                let gateway = sites::link_address(gateway.0, gateway.1);
                router.ip(&family.command(&format!("route add 10.99.0.0/24 via {gateway}")))?;
            }
            let ports = "[[port]]\ninterface = \"m1\"\nsource = \"any\"\n[[port]]\ninterface = \"m2\"\nsource = \"any\"\n";
            let configuration = format!("{}{ports}", tests::trio::code_points());
            let _middle = Daemon::start(&sites.middle, &configuration)?;
            sites.works("out", "ip")?;
            for (router, gateway) in [(&sites.far, (3, 1)), (&sites.middle, (2, 1))] {
                let gateway = family
                    .address(sites::link_address(gateway.0, gateway.1))
                    .to_string();
                let speaks = || {
                    let rows = daemon::report(router, &["neighbors"])?;
                    let mut rows = rows.as_array().context("no list")?.iter();
                    Ok(rows.any(|row| row["address"] == *gateway && row["xcast"] == true))
                };
                ensure!(
                    until(SOON, speaks)?,
                    "{gateway} does not speak Xcast: {:?}",
                    daemon::report(router, &["neighbors"])?
                );
            }
            let routers = [&sites.near, &sites.middle, &sites.far];
            let before = routers.map(Sites::counters);
            let to: Vec<Ipv4Addr> = (1..=60)
                .map(|last| Ipv4Addr::new(10, 99, 0, last))
                .collect();
            let mut packet = sites.packet(&to, sites.number(), 0);
            packet.ip.ttl = 10;
            sites.tap.send(&packet.frame())?;
            let expired = || -> Result<u64> {
                let mut sum = 0;
                for (router, before) in routers.iter().zip(&before) {
                    let before = before
                        .as_ref()
                        .map_err(|error| anyhow::anyhow!("{error:#}"))?;
                    sum += Sites::counters(router)?
                        .since(before)
                        .get("skip_ttl")
                        .copied()
                        .unwrap_or(0);
                }
                Ok(sum)
            };
            ensure!(until(SOON, || Ok(expired()? == 60))?, "{}", expired()?);
            for (router, before) in routers.iter().zip(before) {
                let counted = Sites::counters(router)?.since(&before?);
                let planned = counted.get("planned").copied().unwrap_or(0);
                // Ten hops in all, three or four at each; probes are few besides.
                ensure!((3..20).contains(&planned), "{counted:?}");
            }
            Ok(())
        });
    }
}

#[test]
fn explain_and_trace_show_tunnels() {
    for family in Family::ALL {
        sites::with(family, &EACH[..1], |sites| {
            sites.works("ip4", "ip")?;
            let to = destinations(81).map(|address| family.address(address).to_string());
            let explain = |count: usize| -> Result<Value> {
                let source = family.address(sites::SOURCE).to_string();
                let to = to[..count].iter().map(String::as_str);
                let arguments = ["explain", &source].into_iter().chain(to);
                daemon::report(&sites.near, &arguments.collect::<Vec<_>>())
            };
            let explained = explain(3)?;
            let copy = &explained["copies"][0];
            ensure!(
                copy["tunnel"] == "ip4"
                    && copy["form"] == "xcast"
                    && copy["port"] == "p2"
                    && copy["next_hop"] == "10.70.3.2"
                    && copy["mac"] == mac_text(sites::mac(2, 2)),
                "{explained}"
            );
            // Alone, a destination goes as any packet to it.
            let explained = explain(1)?;
            let copy = &explained["copies"][0];
            let gateway = family.address(sites::link_address(2, 2)).to_string();
            ensure!(
                copy["tunnel"].is_null()
                    && copy["form"] == "unicast"
                    && copy["next_hop"] == *gateway,
                "{explained}"
            );

            let trace = |is_in_tunnel: bool| -> Result<()> {
                let to = to.iter().map(String::as_str);
                let arguments: Vec<_> = ["trace", "-W", "2"].into_iter().chain(to).collect();
                let traced = daemon::report(&sites.near, &arguments)?;
                for path in traced["paths"].as_array().context("no paths")? {
                    let hops = path["hops"].as_array().context("no hops")?;
                    let last = hops.last().context("no hops")?;
                    // By Middle and Far, or by Far alone.
                    let expected = if is_in_tunnel { 2 } else { 3 };
                    ensure!(
                        path["reached"] == true
                            && hops.len() == expected
                            && last["address"] == path["destination"]
                            && (last["apart"] == true) == is_in_tunnel,
                        "{path}"
                    );
                }
                Ok(())
            };
            trace(true)?;

            nft(
                &sites.middle,
                "table inet strict { chain forward { type filter hook forward priority 0; meta l4proto { 4, 41 } drop; } }",
            )?;
            sites.tunnel_is("ip4", |row| row["working"] == false)?;
            let explained = explain(3)?;
            let why = explained["copies"][0]["why"].as_str().unwrap_or_default();
            ensure!(
                explained["copies"][0]["tunnel"].is_null()
                    && why.contains("tunnel ip4 does not work: it answered, but no more"),
                "{explained}"
            );
            trace(false)
        });
    }
}

/// OSPF speaks by a tunnel device of the kernel, between the same routers (RFC 5058 section 11.1): version 2 for IPv4, and 3 for
/// IPv6, whose next hops are link-local.
#[test]
fn routes_of_ospf_by_a_kernel_device_lead_into_the_tunnel() {
    const BESIDE: [Tunnel; 1] = [Tunnel {
        kernel_device: Some("vx0"),
        prefixes: &[],
        ..EACH[0]
    }];
    for family in Family::ALL {
        sites::with(family, &BESIDE, |sites| {
            sites.works("ip4", "ip")?;
            let devices = [
                (&sites.near, "p2", [2, 1], [3, 2], 1),
                (&sites.far, "q1", [3, 2], [2, 1], 2),
            ];
            for (router, port, local, remote, end) in devices {
                let [local, remote] =
                    [local, remote].map(|[link, end]| sites::link_address(link, end));
                router.ip(&format!(
                    "link add vx0 type vxlan id 7 local {local} remote {remote} dstport 4789 dev {port}"
                ))?;
                router.ip(&format!("address add 172.30.0.{end}/30 dev vx0"))?;
                router.ip("link set vx0 up")?;
            }
            let hosts = family.prefix([10, 81, 0, 0], 24);
            let _near = Bird::start(&sites.near, &ospf(family, 1, ""))?;
            let far = Bird::start(
                &sites.far,
                &ospf(family, 2, &format!("route {hosts} unreachable;")),
            )?;
            let to = destinations(81);
            let by_tunnel = || -> Result<bool> {
                let before = Sites::counters(&sites.near)?;
                let number = sites.send(&to, 0)?;
                sites.arrives(number, &to)?;
                let counted = Sites::counters(&sites.near)?.since(&before);
                Ok(counted.contains_key("tunnel_sent"))
            };
            ensure!(until(SOON, by_tunnel)?, "OSPF's routes are not used");
            drop(far);
            ensure!(
                until(SOON, || Ok(!by_tunnel()?))?,
                "OSPF's routes are used after its end"
            );
            Ok(())
        });
    }
}

/// A routing daemon whose routes from OSPF are for lists only.
fn ospf(family: Family, id: u8, routes: &str) -> String {
    let (channel, version) = match family {
        Family::Ipv4 => ("ipv4", "v2"),
        Family::Ipv6 => ("ipv6", "v3"),
    };
    let table = sites::XCAST_TABLE;
    format!(
        "router id 0.0.0.{id};\n\
         protocol device {{ scan time 1; }}\n\
         protocol static {{ {channel}; {routes} }}\n\
         protocol kernel {{ kernel table {table}; {channel} {{ export where source = RTS_OSPF || source = RTS_OSPF_EXT2; }}; }}\n\
         protocol ospf {version} {{\n\
         {channel} {{ export where source = RTS_STATIC; }};\n\
         area 0 {{ interface \"vx0\" {{ type ptp; hello 1; dead count 4; retransmit 2; }}; }};\n}}\n"
    )
}
