//! What each link of a testbed is crossed by.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use serde::Serialize;
use xcast_host::{
    Destination, Options, PacketLimits, SendError, UnicastCause,
    packet::datagram_overhead,
    policy::ArrivalOrder,
    split::{Chunk, Delivery, UplinkState, split},
};

use super::{
    bed::{Bed, BedError, BedGraph},
    record::{Fanout, Via},
};
use crate::{
    fanout::{
        Deployment, EcmpKey, Family, Islands, Link, Message, Network, PacketFormat, Prune, Scheme,
        TooManyDestinations, Transmission,
    },
    routing::{Routing, Ties, Towards},
    topology::{Graph, HostId, Hosts, RouterId},
};

/// Which routers of the testbed speak Xcast, and how.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// Names of those that speak Xcast; none: all do.
    pub capable: Option<Vec<String>>,
    /// Whether they keep lists whole, with bits cleared.
    pub bitmap: bool,
}

/// What a link was crossed by, in both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Crossed {
    /// The link's two nodes.
    pub nodes: [String; 2],
    /// Packets.
    pub packets: u64,
    /// Octets, from the IP header on.
    pub octets: u64,
    /// Octets, from the Ethernet header on: as `cargo xtask testbed` counts.
    pub frame_octets: u64,
}

/// Why a log cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The testbed cannot be simulated.
    #[error(transparent)]
    Bed(#[from] BedError),
    /// A router that is to speak Xcast is none of the testbed's.
    #[error("`{0}` is no router of the testbed")]
    NoRouter(String),
    /// A message names an address that nobody has.
    #[error("message {number} names {address}, which is no {what} of the testbed")]
    Nobody {
        /// Number of the message, from 1.
        number: usize,
        /// The address.
        address: SocketAddr,
        /// What it should have been.
        what: &'static str,
    },
    /// Which of several paths a packet takes cannot be known.
    #[error(
        "there are several shortest paths from router `{from}` to router `{to}`, and the kernels' choice is \
         not known: take a topology with one"
    )]
    Ambiguous {
        /// One router.
        from: String,
        /// The other.
        to: String,
    },
    /// Nobody can send such a message.
    #[error("message {number}: {source}")]
    Send {
        /// Number of the message, from 1.
        number: usize,
        /// Why.
        source: SendError,
    },
    /// A list that is too long.
    #[error(transparent)]
    List(#[from] TooManyDestinations),
}

/// Sends messages again, and counts: an entry for each link of the testbed, in its order.
///
/// # Errors
///
/// The testbed has switches, parallel links or several shortest paths between routers that are used,
/// or a message is none of the testbed's.
pub fn replay(bed: &Bed, settings: &Replay, log: &[Fanout]) -> Result<Vec<Crossed>, ReplayError> {
    let graph = bed.graph()?;
    let deployment = deployment(&graph, settings)?;
    let mut run = Run {
        network: Network {
            routing: Routing::new(&graph.topology.graph, Ties::LinkCosts, 1),
            hosts: Hosts::at(graph.at.clone()),
        },
        scheme: Scheme {
            deployment,
            prune: if settings.bitmap {
                Prune::Bitmap
            } else {
                Prune::Truncate
            },
            ecmp_key: EcmpKey::Flow,
            format: PacketFormat {
                family: Family::V4,
                payload_octets: 0,
                ports: false,
            },
        },
        bed: &graph,
        checked: HashSet::new(),
        crossed: HashMap::new(),
    };
    for (index, fanout) in log.iter().enumerate() {
        run.send(index + 1, fanout)?;
    }
    let links = bed.links.iter().zip(&graph.links);
    let both = links.map(|(link, directions)| {
        let counts = directions.map(|link| run.crossed.get(&link).copied().unwrap_or_default());
        let [packets, octets] = [0, 1].map(|of| counts.iter().map(|count| count[of]).sum::<u64>());
        Crossed {
            nodes: link.nodes.clone(),
            packets,
            octets,
            frame_octets: octets + ETHERNET * packets,
        }
    });
    Ok(both.collect())
}

/// Length of an Ethernet header, in octets.
const ETHERNET: u64 = 14;

fn deployment(graph: &BedGraph, settings: &Replay) -> Result<Deployment, ReplayError> {
    let Some(names) = &settings.capable else {
        return Ok(Deployment::full());
    };
    let mut capable = vec![false; graph.routers.len()];
    for name in names {
        let found = graph.routers.iter().position(|router| router == name);
        capable[found.ok_or_else(|| ReplayError::NoRouter(name.clone()))?] = true;
    }
    Ok(Deployment::of(capable, Islands::PrematureX2u))
}

struct Run<'b> {
    network: Network<'b>,
    scheme: Scheme,
    bed: &'b BedGraph,
    /// Pairs of routers that have one shortest path.
    checked: HashSet<(RouterId, RouterId)>,
    /// Packets and octets.
    crossed: HashMap<Link, [u64; 2]>,
}

impl Run<'_> {
    fn send(&mut self, number: usize, fanout: &Fanout) -> Result<(), ReplayError> {
        let source = self.host(number, fanout.source)?;
        let (state, via) = self.uplink(number, fanout)?;
        let to: Vec<Destination> = fanout.to.iter().map(|to| (*to).into()).collect();
        let chunks = split(
            &to,
            fanout.payload_octets,
            [state; 2],
            &Options::default(),
            &PacketLimits::default(),
            &ArrivalOrder,
        );
        for chunk in chunks.map_err(|source| ReplayError::Send { number, source })? {
            self.send_chunk(number, source, via, fanout.payload_octets, &chunk)?;
        }
        Ok(())
    }

    fn send_chunk(
        &mut self,
        number: usize,
        source: HostId,
        via: Option<RouterId>,
        payload_octets: usize,
        chunk: &Chunk,
    ) -> Result<(), ReplayError> {
        let mut to = Vec::new();
        for entry in &chunk.entries {
            to.push(self.host(number, SocketAddr::new(entry.address, entry.port))?);
        }
        let mut routers = vec![self.bed.at[source as usize]];
        routers.extend(via);
        for from in routers {
            for host in &to {
                self.check(from, self.bed.at[*host as usize])?;
            }
            if let Some(via) = via {
                self.check(self.bed.at[source as usize], via)?;
            }
        }
        let first = &chunk.entries[0];
        self.scheme.format = PacketFormat {
            family: match first.address.is_ipv6() {
                false => Family::V4,
                true => Family::V6,
            },
            payload_octets: payload_octets as u32,
            ports: chunk.entries.iter().any(|entry| entry.port != first.port),
        };
        let crossed = &mut self.crossed;
        let mut visit = |Transmission { link, octets }: Transmission| {
            let count = crossed.entry(link).or_default();
            count[0] += 1;
            count[1] += u64::from(octets);
        };
        let message = Message {
            source,
            to: &to,
            via,
            flow: 0,
        };
        match chunk.delivery {
            Delivery::Xcast => self.network.send(&self.scheme, message, &mut visit)?,
            Delivery::Unicast(_) => {
                let octets = self.scheme.format.unicast_octets();
                self.network.send_unicast(message, octets, &mut visit);
            }
        }
        Ok(())
    }

    fn uplink(
        &self,
        number: usize,
        fanout: &Fanout,
    ) -> Result<(UplinkState, Option<RouterId>), ReplayError> {
        let source = fanout.source.ip();
        let up = |overhead_octets| UplinkState::Up {
            overhead_octets,
            source,
        };
        Ok(match fanout.via {
            Via::Unicast => (UplinkState::Down(UnicastCause::Configured), None),
            Via::Native => (up(0), None),
            Via::Udp(address) => {
                let router = self.bed.routers_by_address.get(&address.ip());
                let router = router.copied().ok_or(ReplayError::Nobody {
                    number,
                    address,
                    what: "router",
                })?;
                (up(datagram_overhead(source.is_ipv6())), Some(router))
            }
        })
    }

    fn host(&self, number: usize, address: SocketAddr) -> Result<HostId, ReplayError> {
        let host = self.bed.hosts_by_address.get(&address.ip()).copied();
        host.ok_or(ReplayError::Nobody {
            number,
            address,
            what: "host",
        })
    }

    /// Whether there is one shortest path between two routers.
    fn check(&mut self, from: RouterId, to: RouterId) -> Result<(), ReplayError> {
        if !self.checked.insert((from, to)) {
            return Ok(());
        }
        let towards = self.network.routing.towards(to);
        if has_one_path(self.network.routing.graph(), &towards, from) {
            return Ok(());
        }
        let name = |router: RouterId| self.bed.routers[router as usize].clone();
        Err(ReplayError::Ambiguous {
            from: name(from),
            to: name(to),
        })
    }
}

fn has_one_path(graph: &Graph, towards: &Towards, from: RouterId) -> bool {
    let mut at = from;
    while towards.hops(at) > 0 {
        let nearer = |router: &&RouterId| towards.hops(**router) < towards.hops(at);
        let mut next = graph.neighbours(at).iter().filter(nearer);
        match (next.next(), next.next()) {
            (Some(router), None) => at = *router,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{super::bed::*, *};

    fn bed(links: &[[&str; 2]], hosts: &[&str], routers: &[&str]) -> Bed {
        let node = |(number, name): (usize, &&str), role, network: u8| BedNode {
            name: (*name).to_owned(),
            role,
            address: Some([10, network, 0, number as u8].into()),
            address6: None,
            interfaces: Vec::new(),
        };
        let hosts = hosts.iter().enumerate();
        let routers = routers.iter().enumerate();
        Bed {
            nodes: hosts
                .map(|at| node(at, Role::Host, 1))
                .chain(routers.map(|at| node(at, Role::Router, 2)))
                .collect(),
            links: links
                .iter()
                .map(|[one, other]| BedLink {
                    nodes: [(*one).to_owned(), (*other).to_owned()],
                })
                .collect(),
        }
    }

    fn fork() -> Bed {
        let links = [["A", "R1"], ["R1", "R2"], ["R2", "B"], ["R2", "C"]];
        bed(&links, &["A", "B", "C"], &["R1", "R2"])
    }

    fn fanout(via: Via) -> Fanout {
        let address = |host: u8| SocketAddr::from(([10, 1, 0, host], 5000));
        Fanout {
            unix_us: 0,
            source: address(0),
            to: vec![address(1), address(2)],
            payload_octets: 72,
            via,
        }
    }

    fn counts(settings: &Replay, via: Via) -> Vec<(u64, u64)> {
        let crossed = replay(&fork(), settings, &[fanout(via)]).expect("it can be replayed");
        crossed
            .iter()
            .map(|link| (link.packets, link.octets))
            .collect()
    }

    #[test]
    fn by_hand() {
        let all = Replay::default();
        let router = |number| Via::Udp(([10, 2, 0, number], 4242).into());
        // 20 IP, 12 + 4 + 2 * 4 Xcast, 8 UDP, 72; and 28 of a tunnel.
        assert_eq!(
            counts(&all, Via::Native),
            [(1, 124), (1, 124), (1, 100), (1, 100)]
        );
        assert_eq!(
            counts(&all, router(0)),
            [(1, 152), (1, 124), (1, 100), (1, 100)]
        );
        assert_eq!(
            counts(&all, Via::Unicast),
            [(2, 200), (2, 200), (1, 100), (1, 100)]
        );
        let second = Replay {
            capable: Some(vec!["R2".to_owned()]),
            bitmap: false,
        };
        assert_eq!(
            counts(&second, router(1)),
            [(1, 152), (1, 152), (1, 100), (1, 100)]
        );
        let first = Replay {
            capable: Some(vec!["R1".to_owned()]),
            bitmap: false,
        };
        assert_eq!(
            counts(&first, router(0)),
            [(1, 152), (2, 200), (1, 100), (1, 100)]
        );
        let crossed = replay(&fork(), &all, &[fanout(Via::Native)]).expect("it can be replayed");
        assert_eq!(crossed[0].frame_octets, 124 + 14);
    }

    #[test]
    fn what_cannot_be_known_is_said() {
        let error = |bed: &Bed, settings: &Replay, fanout: Fanout| {
            let result = replay(bed, settings, &[fanout]);
            result.expect_err("it cannot be").to_string()
        };
        let all = Replay::default();
        let square = bed(
            &[
                ["A", "R1"],
                ["R1", "R2"],
                ["R1", "R3"],
                ["R2", "R4"],
                ["R3", "R4"],
                ["R4", "B"],
                ["R4", "C"],
            ],
            &["A", "B", "C"],
            &["R1", "R2", "R3", "R4"],
        );
        let text = error(&square, &all, fanout(Via::Native));
        assert!(
            text.contains("several shortest paths from router `R1` to router `R4`"),
            "{text}"
        );
        let mut stranger = fanout(Via::Native);
        stranger.to[1].set_ip([192, 0, 2, 1].into());
        let text = error(&fork(), &all, stranger);
        assert_eq!(
            text,
            "message 1 names 192.0.2.1:5000, which is no host of the testbed"
        );
        let nobody = Replay {
            capable: Some(vec!["R9".to_owned()]),
            bitmap: false,
        };
        assert_eq!(
            error(&fork(), &nobody, fanout(Via::Native)),
            "`R9` is no router of the testbed"
        );
        let mut switched = fork();
        switched.nodes[4].role = Role::Switch;
        let text = error(&switched, &all, fanout(Via::Native));
        assert!(text.contains("`R2` is a switch"), "{text}");
    }
}
