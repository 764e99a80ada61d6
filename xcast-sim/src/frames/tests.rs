//! The rules count what the forwarding code does.

use proptest::prelude::*;
use xcast_host::packet::datagram_overhead;

use super::{FrameNetwork, Uplink};
use crate::{
    fanout::{
        Deployment, EcmpKey, Family, Islands, Link, Message, Network, PacketFormat, Placement,
        Prune, Scheme, Transmission,
    },
    random::Random,
    routing::{Routing, Ties},
    topology::{
        BarabasiAlbert, HostId, Hosts, RandomRecursiveTree, RouterId, Topology, TransitStub,
    },
};

fn topology(kind: usize, random: &mut Random) -> Topology {
    let topology = match kind {
        0 => RandomRecursiveTree { routers: 30 }.generate(random),
        1 => BarabasiAlbert {
            routers: 30,
            links: 2,
        }
        .generate(random),
        _ => TransitStub {
            transit_domains: 2,
            domain_links: 1.0,
            transit_routers: 3,
            transit_links: 0.6,
            stubs: 2,
            stub_routers: 3,
            stub_links: 0.5,
        }
        .generate(random),
    };
    topology.expect("parameters are in range")
}

/// Transmissions in an order of their own, so that they can be compared.
fn sorted(mut all: Vec<Transmission>) -> Vec<(Link, u32)> {
    all.sort_by_key(|one| (one.link, one.octets));
    all.iter().map(|one| (one.link, one.octets)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Packet by packet and octet by octet, on each link.
    #[test]
    fn rules_and_frames_agree(
        seed in any::<u64>(),
        kind in 0_usize..3,
        count in 1_usize..30,
        share in 0.0..=1.0,
        of_v6 in any::<bool>(),
        bitmap in any::<bool>(),
        in_udp in 0_usize..3,
        payload in 0_usize..300,
    ) {
        let family = if of_v6 { Family::V6 } else { Family::V4 };
        let prune = if bitmap { Prune::Bitmap } else { Prune::Truncate };
        let mut random = Random::new(seed);
        let topology = topology(kind, &mut random);
        let mut network = Network {
            routing: Routing::new(&topology.graph, Ties::LinkCosts, seed),
            hosts: Hosts::random(&topology, 40, &mut random),
        };
        let order = Placement::Random.order(&topology, seed);
        let deployment = Deployment::first(&order, share, Islands::PrematureX2u);
        let chosen: Vec<_> = random.distinct(count + 1, 40).iter().map(|at| *at as HostId).collect();
        let (source, to) = (chosen[0], &chosen[1..]);
        let own = network.hosts.router(source);
        let capable: Vec<RouterId> = topology.graph.routers()
            .filter(|router| deployment.is_capable(*router))
            .collect();
        let uplink = match in_udp {
            0 if deployment.is_capable(own) => Uplink::Native,
            1 if deployment.is_capable(own) => Uplink::Udp(own),
            _ if !capable.is_empty() => Uplink::Udp(capable[random.below(capable.len())]),
            _ => Uplink::Unicast,
        };

        let mut by_frames = Vec::new();
        let mut frames = FrameNetwork::new(&mut network, &deployment, family, prune)
            .expect("few links");
        let text: Vec<u8> = (0..payload).map(|at| at as u8).collect();
        let arrivals = frames
            .send(source, uplink, to, &text, &mut |one| by_frames.push(one))
            .expect("nothing is dropped");
        let mut got: Vec<_> = arrivals.iter().map(|arrival| arrival.host).collect();
        got.sort_unstable();
        let mut expected = to.to_vec();
        expected.sort_unstable();
        prop_assert_eq!(got, expected);
        for arrival in &arrivals {
            let headers = datagram_overhead(of_v6);
            prop_assert_eq!(arrival.packet.len(), headers + payload);
            prop_assert_eq!(&arrival.packet[headers..], &text[..]);
        }

        let scheme = Scheme {
            deployment,
            prune,
            ecmp_key: EcmpKey::Flow,
            format: PacketFormat { family, payload_octets: payload as u32, ports: false },
        };
        let message = Message {
            source,
            to,
            via: match uplink {
                Uplink::Udp(router) => Some(router),
                _ => None,
            },
            flow: 0,
        };
        let mut by_rules = Vec::new();
        match uplink {
            Uplink::Unicast => {
                let octets = scheme.format.unicast_octets();
                network.send_unicast(message, octets, &mut |one| by_rules.push(one));
            }
            _ => network.send(&scheme, message, &mut |one| by_rules.push(one)).expect("a short list"),
        }
        prop_assert_eq!(sorted(by_rules), sorted(by_frames));
    }
}
