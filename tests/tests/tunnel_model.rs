//! Tunnels between two routers in memory: random packets, every kind of outer header, and what the independent
//! expectation has for it.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use proptest::prelude::*;
use tests::{
    family::{self, Family},
    packet::{self, Destination, ETHERNET_LEN, Ip, Packet, Xcast, protocol},
    sites::{Carried, KEY, SOURCE, cookie},
    trio::UDP_PORT,
};
use xcast_common::{
    family::{Family as Routed, V4, V6},
    host::{MemoryTables, Outcome, Router},
    maps::{
        NEXT_HOP_TUNNEL, NEXT_HOP_TUNNEL_ONLY, NEXT_HOP_XCAST, NextHop, NextHopKind, PORT_FIRST,
        Port, Settings, Tunnel, TunnelCookies, TunnelPeer, counter::Counter,
    },
    wire::Be16,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 254);
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 70, 2, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 70, 3, 2);
/// Ids of the tunnel, and of hosts.
const TUNNEL: u32 = 20;
const HOSTS: u32 = 22;
/// Link layer addresses of gateways: towards the other router, and without the tunnel.
const TUNNEL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 20];
const NATIVE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 21];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A packet, and how it is carried.
#[derive(Clone, Debug)]
struct Case {
    inner: Family,
    outer: Family,
    is_udp: bool,
    count: u8,
    with_ports: bool,
    x: bool,
    ds: u8,
    ttl: u8,
    padding: usize,
    bitmap: bool,
    has_native: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let family = || prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)];
    let flags = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    (
        family(),
        family(),
        flags,
        1..30_u8,
        any::<u8>(),
        2..=255_u8,
        0..900_usize,
    )
        .prop_map(
            |(
                inner,
                outer,
                (is_udp, with_ports, x, bitmap, has_native),
                count,
                ds,
                ttl,
                padding,
            )| Case {
                inner,
                outer,
                is_udp,
                count,
                with_ports,
                x,
                ds,
                ttl,
                padding,
                bitmap,
                has_native,
            },
        )
}

impl Case {
    fn packet(&self) -> Packet {
        let destination = |last| Destination::new(Ipv4Addr::new(10, 81, 0, last)).port(5000);
        let payload = vec![7; self.padding];
        Packet {
            destination_mac: MAC,
            source_mac: [2, 0, 0, 0, 9, 9],
            ip: Ip {
                ds: self.ds,
                ttl: self.ttl,
                fragment: 0x4000,
                ..Ip::new(SOURCE, GROUP, 253)
            },
            xcast: Xcast {
                p: self.with_ports,
                x: self.x,
                ..Xcast::new(protocol::UDP, (1..=self.count).map(destination).collect())
            },
            segment: packet::udp((SOURCE, 4000), (GROUP, 5000), &payload, None),
        }
    }

    fn settings(&self) -> Settings {
        let std::net::IpAddr::V6(group6) = Family::Ipv6.address(GROUP) else {
            unreachable!("an IPv6 address");
        };
        Settings {
            group: GROUP.into(),
            protocol: 253,
            prune: self.bitmap.into(),
            udp_port: Be16::new(UDP_PORT),
            hash_key: 0x1234_5678_9abc_def1,
            mark: 0xfedc_ba98_7654_3210,
            group6: group6.into(),
            routing_type: 253,
            ports_option: 0x5e,
            ipv6: 1,
            tunnels: 1,
            ..Settings::default()
        }
    }

    /// A router whose destinations have a next hop.
    fn router<F: Routed>(&self, next_hop: u32, tables: MemoryTables) -> Router<F> {
        let mut tables = tables;
        let hosts = NextHop {
            kind: NextHopKind::Forward as u8,
            port: PORT_FIRST,
            flags: NEXT_HOP_XCAST,
            mtu_bytes: 9000,
            destination_mac: NATIVE_MAC,
            source_mac: MAC,
            ..NextHop::default()
        };
        let only = if self.has_native {
            0
        } else {
            NEXT_HOP_TUNNEL_ONLY
        };
        let tunnel = NextHop {
            flags: NEXT_HOP_XCAST | NEXT_HOP_TUNNEL | only,
            group_or_tunnel: 0,
            tunnel_port: PORT_FIRST + 1,
            tunnel_mtu_bytes: 9000,
            ..match self.has_native {
                true => hosts,
                false => NextHop::stack(Counter::StackNoRoute),
            }
        };
        tables.set_next_hop(0, NextHop::stack(Counter::StackNoRoute));
        tables.set_next_hop(TUNNEL, tunnel);
        tables.set_next_hop(HOSTS, hosts);
        let net = self.inner.prefix([10, 81, 0, 0], 24);
        tables.set_route(net.addr(), net.prefix_len(), Some(next_hop));
        let mut router = Router::new(self.settings(), tables);
        router.set_port(Port {
            slot: PORT_FIRST,
            mac: MAC,
            ..Port::default()
        });
        router
    }

    fn run<F: Routed>(&self) -> Result<()> {
        let (near, far) = (self.outer.address(NEAR), self.outer.address(FAR));
        let port = self.is_udp.then_some(UDP_PORT);
        let mut tables = MemoryTables::default();
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&TUNNEL_MAC);
        macs[6..].copy_from_slice(&MAC);
        let tunnel = Tunnel::new(near, far, port, cookie(KEY, near, far), macs);
        tables.set_tunnel(0, tunnel.context("one family")?);
        let mut router = self.router::<F>(TUNNEL, tables);
        let frame = self.packet().frame();
        let Outcome::Forwarded(copies) = router.receive(PORT_FIRST, &frame) else {
            anyhow::bail!("not forwarded");
        };
        let [(slot, copy)] = &copies[..] else {
            anyhow::bail!("{} copies", copies.len());
        };
        let is_alone = self.count == 1 && !self.x && self.has_native;
        let (mac, port) = match is_alone {
            true => (NATIVE_MAC, PORT_FIRST),
            false => (TUNNEL_MAC, PORT_FIRST + 1),
        };
        ensure!(copy[..6] == mac && *slot == port);
        if is_alone {
            let (ip, _) = Ip::parse(self.inner, &copy[ETHERNET_LEN..]).context("no IP")?;
            ensure!(ip.protocol == protocol::UDP, "it stays in the tunnel");
            return Ok(());
        }

        // As the specifications have it, around the list as it was, one router further.
        let mut packet = self.packet();
        packet.ip.ttl -= 1;
        let inner = &packet.frame()[ETHERNET_LEN..];
        let (ip, content) = Ip::parse(self.outer, &copy[ETHERNET_LEN..]).context("no IP")?;
        let udp_from = self.is_udp.then(|| packet::be16(content, 0)).flatten();
        let expected = Carried {
            ds: self.ds,
            flow_label: ip.flow_label,
            ..Carried::new((near, far), udp_from, inner)
        };
        ensure!(
            copy[ETHERNET_LEN..] == expected.emit(),
            "{}\n{}",
            packet::hex(&copy[ETHERNET_LEN..]),
            packet::hex(&expected.emit())
        );

        // The other router makes of it what it makes of the packet itself.
        let mut tables = MemoryTables::default();
        let arriving = u64::from_ne_bytes(cookie(KEY, near, far));
        let cookies = TunnelCookies {
            cookies: [0, arriving],
        };
        tables.set_tunnel_peer(TunnelPeer::new(near, far), cookies);
        let mut router = self.router::<F>(HOSTS, tables);
        let mut arrived = copy.clone();
        arrived[..6].copy_from_slice(&MAC);
        // Padding of short frames.
        arrived.extend([0; 9]);
        let out = router.receive(PORT_FIRST, &arrived);
        let native = [&MAC[..], &[2, 0, 0, 0, 9, 9], &frame[12..14], inner].concat();
        ensure!(out == router.receive(PORT_FIRST, &native), "{out:?}");
        ensure!(matches!(out, Outcome::Forwarded(copies) if copies.len() == 1 || self.ttl == 2));

        // And nothing of it with another cookie, or from somebody else.
        let last = copy.len() - 1;
        for at in [last, last - 7] {
            let mut forged = arrived[..copy.len()].to_vec();
            forged[at] ^= 0x80;
            let out = router.receive(PORT_FIRST, &forged);
            ensure!(out == Outcome::Passed, "{out:?}");
        }
        let mut tables = MemoryTables::default();
        tables.set_tunnel_peer(TunnelPeer::new(far, near), cookies);
        let mut router = self.router::<F>(HOSTS, tables);
        ensure!(router.receive(PORT_FIRST, &arrived) == Outcome::Passed);
        Ok(())
    }
}

proptest! {
    #[test]
    fn what_enters_a_tunnel_leaves_it_as_it_was(case in case()) {
        let outcome = family::with(case.inner, || match case.inner {
            Family::Ipv4 => case.run::<V4>(),
            Family::Ipv6 => case.run::<V6>(),
        });
        prop_assert!(outcome.is_ok(), "{:?}", outcome);
    }

    /// Whatever looks like a tunnel's packet and is none passes, or is dropped: nothing ends the program, and nothing is
    /// read behind the end.
    #[test]
    fn no_frame_is_too_odd(case in case(), cut in 0..200_usize, noise in prop::collection::vec((0..90_usize, any::<u8>()), 0..6)) {
        family::with(case.inner, || {
            let (near, far) = (case.outer.address(NEAR), case.outer.address(FAR));
            let packet = case.packet().frame();
            let carried = Carried::new((near, far), case.is_udp.then_some(50_000), &packet[ETHERNET_LEN..]);
            let ether_type = case.outer.ether_type();
            let mut frame = packet::ethernet(MAC, [2; 6], ether_type, &carried.emit());
            for (at, octet) in noise {
                if let Some(place) = frame.get_mut(ETHERNET_LEN + at) {
                    *place ^= octet;
                }
            }
            frame.truncate(frame.len().saturating_sub(cut).max(ETHERNET_LEN));
            let mut tables = MemoryTables::default();
            let arriving = u64::from_ne_bytes(cookie(KEY, near, far));
            tables.set_tunnel_peer(TunnelPeer::new(near, far), TunnelCookies { cookies: [arriving; 2] });
            match case.inner {
                Family::Ipv4 => drop(case.router::<V4>(HOSTS, tables).receive(PORT_FIRST, &frame)),
                Family::Ipv6 => drop(case.router::<V6>(HOSTS, tables).receive(PORT_FIRST, &frame)),
            }
        });
    }
}
