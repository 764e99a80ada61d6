//! The way of a message through the network, from its source to all of its destinations.

use super::{
    link::{Link, Transmission},
    network::Network,
    packet::{Hop, List, Packet, Place},
    scheme::{Message, Scheme, TooManyDestinations},
};
use crate::random::hash;

impl Message<'_> {
    /// The packet that the source sends. A list of one is a unicast packet.
    ///
    /// # Errors
    ///
    /// The list is longer than one packet's can be.
    pub fn packet(&self, scheme: &Scheme) -> Result<Packet, TooManyDestinations> {
        let (count, most) = (self.to.len(), scheme.format.max_destinations());
        if count > most {
            return Err(TooManyDestinations { count, most });
        }
        let list = List {
            to: self.to.to_vec(),
            listed: count as u32,
        };
        Ok(match (self.to, self.via) {
            ([host], _) => Packet::Unicast(*host),
            (_, Some(router)) => Packet::Tunnel(router, list),
            (_, None) => Packet::Xcast(list),
        })
    }
}

impl Network<'_> {
    /// Sends a packet to each host of the list, `visit` being told of each transmission. Hop
    /// limits are ignored.
    pub fn send_unicast(
        &mut self,
        message: Message<'_>,
        octets: u32,
        visit: &mut impl FnMut(Transmission),
    ) {
        for &host in message.to {
            let towards = self.routing.towards(self.hosts.router(host));
            let graph = self.routing.graph();
            let flow = hash(&[message.flow, host.into()]);
            let path = towards.path(graph, self.hosts.router(message.source), flow);
            let links = path.map(Link::Between);
            for link in [Link::Up(message.source)]
                .into_iter()
                .chain(links)
                .chain([Link::Down(host)])
            {
                visit(Transmission { link, octets });
            }
        }
    }

    /// Sends one packet with a list of hosts, `visit` being told of each transmission: in the order
    /// of the copies, not of time. A list of one is a unicast packet. Hop limits are ignored.
    ///
    /// # Errors
    ///
    /// The list is longer than one packet's can be.
    pub fn send(
        &mut self,
        scheme: &Scheme,
        message: Message<'_>,
        visit: &mut impl FnMut(Transmission),
    ) -> Result<(), TooManyDestinations> {
        let mut hops = Vec::new();
        let mut packets = vec![(Place::Host(message.source), message.packet(scheme)?)];
        while let Some((at, packet)) = packets.pop() {
            self.forward(scheme, at, packet, message.flow, &mut hops);
            for hop in hops.drain(..) {
                let Hop {
                    link,
                    octets,
                    packet,
                } = hop;
                visit(Transmission { link, octets });
                packets.push((self.end_of(link), packet));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        fanout::{Deployment, EcmpKey, Family, Islands, PacketFormat, Placement, Prune},
        random::Random,
        routing::{Routing, Ties},
        topology::{BarabasiAlbert, Graph, HostId, Hosts, RandomRecursiveTree, Topology},
    };

    const FORMAT: PacketFormat = PacketFormat {
        family: Family::V4,
        payload_octets: 100,
        ports: false,
    };

    fn scheme(deployment: Deployment, prune: Prune) -> Scheme {
        Scheme {
            deployment,
            prune,
            ecmp_key: EcmpKey::Flow,
            format: FORMAT,
        }
    }

    fn sent(network: &mut Network<'_>, scheme: &Scheme, to: &[HostId]) -> Vec<Transmission> {
        let message = Message {
            source: 0,
            to,
            via: None,
            flow: 7,
        };
        let mut all = Vec::new();
        let result = network.send(scheme, message, &mut |one| all.push(one));
        result.expect("the list is short");
        all.sort_by_key(|one| one.link);
        all
    }

    fn unicast(network: &mut Network<'_>, to: &[HostId]) -> usize {
        let message = Message {
            source: 0,
            to,
            via: None,
            flow: 7,
        };
        let mut count = 0;
        network.send_unicast(message, 128, &mut |_| count += 1);
        count
    }

    /// Routers 0 - 1 - 2, and 3, 4 behind 2; a host at each.
    fn fork() -> Topology {
        let graph = Graph::new(5, &[(0, 1), (1, 2), (2, 3), (2, 4)]);
        Topology::new(graph).expect("it is connected")
    }

    fn network(topology: &Topology) -> Network<'_> {
        Network {
            routing: Routing::new(&topology.graph, Ties::LinkCosts, 1),
            hosts: Hosts::one_each(topology),
        }
    }

    /// Lengths by link, links by the routers at their ends.
    fn lengths(topology: &Topology, sent: &[Transmission]) -> Vec<(String, u32)> {
        let graph = &topology.graph;
        let name = |link| match link {
            Link::Up(host) => format!("up {host}"),
            Link::Down(host) => format!("down {host}"),
            Link::Between(link) => format!("{}-{}", graph.from(link), graph.to(link)),
        };
        let lengths = sent.iter().map(|one| (name(one.link), one.octets));
        lengths.collect()
    }

    fn expect(pairs: &[(&str, u32)]) -> Vec<(String, u32)> {
        let pairs = pairs
            .iter()
            .map(|(name, octets)| ((*name).to_owned(), *octets));
        pairs.collect()
    }

    const UNICAST: u32 = 128;
    const TWO: u32 = 128 + 16 + 8;
    const THREE: u32 = 128 + 16 + 12;

    #[test]
    fn each_link_once_by_hand() {
        let topology = fork();
        let mut network = network(&topology);
        let truncated = sent(
            &mut network,
            &scheme(Deployment::full(), Prune::Truncate),
            &[1, 3, 4],
        );
        assert_eq!(
            lengths(&topology, &truncated),
            expect(&[
                ("up 0", THREE),
                ("0-1", THREE),
                ("1-2", TWO),
                ("2-3", UNICAST),
                ("2-4", UNICAST),
                ("down 1", UNICAST),
                ("down 3", UNICAST),
                ("down 4", UNICAST),
            ])
        );
        let cleared = sent(
            &mut network,
            &scheme(Deployment::full(), Prune::Bitmap),
            &[1, 3, 4],
        );
        assert_eq!(lengths(&topology, &cleared)[2], ("1-2".to_owned(), THREE));
        assert_eq!(lengths(&topology, &cleared)[3], ("2-3".to_owned(), UNICAST));
        assert_eq!(unicast(&mut network, &[1, 3, 4]), 3 + 5 + 5);
    }

    #[test]
    fn without_a_capable_next_hop_by_hand() {
        let topology = fork();
        let mut network = network(&topology);
        let mut capable = vec![true, false, true, true, true];
        let premature = Deployment::of(capable.clone(), Islands::PrematureX2u);
        let links = sent(&mut network, &scheme(premature, Prune::Truncate), &[3, 4]);
        assert_eq!(
            lengths(&topology, &links),
            expect(&[
                ("up 0", TWO),
                ("0-1", UNICAST),
                ("0-1", UNICAST),
                ("1-2", UNICAST),
                ("1-2", UNICAST),
                ("2-3", UNICAST),
                ("2-4", UNICAST),
                ("down 3", UNICAST),
                ("down 4", UNICAST),
            ])
        );
        let tunnel = Deployment::of(capable.clone(), Islands::Tunnels);
        let links = sent(&mut network, &scheme(tunnel, Prune::Truncate), &[3, 4]);
        let start = [("up 0", TWO), ("0-1", TWO + 28), ("1-2", TWO + 28)];
        assert_eq!(lengths(&topology, &links)[..3], expect(&start));
        assert_eq!(links.len(), 7);
        // The source's own router does not speak it: the source is the tunnel's end.
        capable[0] = false;
        let tunnel = Deployment::of(capable.clone(), Islands::Tunnels);
        let links = sent(&mut network, &scheme(tunnel, Prune::Truncate), &[3, 4]);
        let start = [("up 0", TWO + 28), ("0-1", TWO + 28), ("1-2", TWO + 28)];
        assert_eq!(lengths(&topology, &links)[..3], expect(&start));
        let premature = Deployment::of(capable, Islands::PrematureX2u);
        let links = sent(&mut network, &scheme(premature, Prune::Truncate), &[3, 4]);
        assert_eq!(links.len(), unicast(&mut network, &[3, 4]));
    }

    #[test]
    fn lists_are_never_longer_than_a_packet_has_room_for() {
        let topology = fork();
        let to = [1; 128];
        let message = Message {
            source: 0,
            to: &to,
            via: None,
            flow: 0,
        };
        let scheme = scheme(Deployment::full(), Prune::Truncate);
        let error = network(&topology).send(&scheme, message, &mut |_| {});
        let text = error.expect_err("128 are too many").to_string();
        assert_eq!(
            text,
            "128 destinations are more than the 127 of one packet: send several"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// In whatever network: each destination has exactly one packet, and no link has more
        /// packets than by unicast in all. In a full one with one path for each pair, each link
        /// between routers has at most one.
        #[test]
        fn everyone_has_it_once(
            seed in any::<u64>(),
            count in 1_usize..40,
            share in 0.0..=1.0,
            tree in any::<bool>(),
            ecmp in any::<bool>(),
            by_destination in any::<bool>(),
            tunnels in any::<bool>(),
        ) {
            let mut random = Random::new(seed);
            let topology = if tree {
                RandomRecursiveTree { routers: 60 }.generate(&mut random)
            } else {
                BarabasiAlbert { routers: 60, links: 2 }.generate(&mut random)
            }.expect("parameters are in range");
            let ties = if ecmp { Ties::Ecmp } else { Ties::LinkCosts };
            let islands = if tunnels { Islands::Tunnels } else { Islands::PrematureX2u };
            let mut network = Network {
                routing: Routing::new(&topology.graph, ties, seed),
                hosts: Hosts::one_each(&topology),
            };
            let to: Vec<_> = random.distinct(count, 59).iter().map(|at| *at as u32 + 1).collect();
            let unicast = unicast(&mut network, &to);
            let mut scheme = scheme(
                Deployment::first(&Placement::Random.order(&topology, seed), share, islands),
                Prune::Truncate,
            );
            if by_destination {
                scheme.ecmp_key = EcmpKey::Destination;
            }
            for (full, deployment) in [(false, scheme.deployment.clone()), (true, Deployment::full())] {
                scheme.deployment = deployment;
                let sent = sent(&mut network, &scheme, &to);
                let mut links: BTreeMap<Link, u32> = BTreeMap::new();
                for one in &sent {
                    *links.entry(one.link).or_default() += 1;
                }
                let mut down: Vec<_> = links.iter().filter_map(|(link, count)| match link {
                    Link::Down(host) => Some((*host, *count)),
                    _ => None,
                }).collect();
                let mut expected: Vec<_> = to.iter().map(|host| (*host, 1)).collect();
                down.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(down, expected);
                prop_assert!(sent.len() <= unicast);
                if !ecmp && full {
                    prop_assert!(links.values().all(|count| *count == 1));
                }
            }
        }
    }
}
