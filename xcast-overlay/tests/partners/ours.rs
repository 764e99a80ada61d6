//! A node of ours, and what it asks of a partner.

use std::{
    net::{SocketAddr, UdpSocket},
    pin::pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{select, time};
use xcast_overlay::{
    id::Id,
    kademlia::{Config, Event, FamilyReport, Node, OperationId, Report, bep42},
    krpc::{Contact, Item, Kind, Message, Query, signing_key},
    net::{Driver, Settings, families},
    runtime::Random,
};

use super::namespace::{PATIENCE, address};

/// A node of ours.
pub struct Ours {
    driver: Driver<Node>,
    events: Vec<Event>,
    transaction_octets: usize,
}

impl Ours {
    pub fn start(local: SocketAddr, bootstrap: &[SocketAddr], transaction_octets: usize) -> Self {
        let mut config = Config::mainline();
        config.families = families(local);
        config.bootstrap = bootstrap.to_vec();
        config.policy.transaction_octets = transaction_octets;
        let node = |now, mut random: Random| {
            config.id = Some(bep42::random_id(local.ip(), &mut random));
            Node::new(now, config, random)
        };
        Self {
            driver: Driver::bind(local, Settings::default(), node).expect("a socket"),
            events: Vec::new(),
            transaction_octets,
        }
    }

    pub fn node(&self) -> &Node {
        self.driver.protocol()
    }

    pub fn address(&self) -> SocketAddr {
        self.driver.local_address()
    }

    pub fn contact(&self) -> Contact {
        Contact {
            id: self.node().id(),
            address: self.address(),
        }
    }

    /// Keys, peers and items that it stores for others.
    pub fn stored(&self) -> (usize, usize, usize) {
        self.node().status(Instant::now()).stored
    }

    /// Works until `other` is done.
    pub async fn during<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        let deadline = time::Instant::now() + PATIENCE;
        loop {
            select! {
                done = &mut other => return done,
                event = self.driver.next() => self.events.push(event.expect("a socket")),
                () = time::sleep_until(deadline) => panic!("nothing after {PATIENCE:?}: {:?}", self.node().status(Instant::now())),
            }
        }
    }

    /// Works until something is so.
    pub async fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            let status = self.node().status(Instant::now());
            assert!(Instant::now() < deadline, "not so: {what}: {status:?}");
            self.during(time::sleep(Duration::from_millis(50))).await;
        }
    }

    pub async fn join(&mut self) {
        self.driver.command(|node, now| node.join(now));
        self.until("joined", |ours| {
            let joined = |event: &Event| matches!(event, Event::Joined { .. });
            ours.events.iter().any(joined)
        })
        .await;
    }

    /// An operation, and its report.
    pub async fn run(
        &mut self,
        begin: impl FnOnce(&mut Node, Instant) -> OperationId,
    ) -> (Report, FamilyReport) {
        let wanted = self.driver.command(begin);
        let is_wanted = |event: &Event| matches!(event, Event::Finished { operation, .. } if *operation == wanted);
        self.until("finished", |ours| ours.events.iter().any(is_wanted))
            .await;
        let at = self.events.iter().position(is_wanted);
        match self.events.remove(at.expect("it has come")) {
            Event::Finished { report, .. } => {
                let family = report.families.first().expect("a family").clone();
                (*report, family)
            }
            event => panic!("{event:?}"),
        }
    }

    /// Whether the partner, asked by a stranger, names this node among its closest.
    pub async fn is_listed_by(&mut self, partner: SocketAddr) {
        let stranger = SocketAddr::new(self.address().ip(), 0);
        let socket = UdpSocket::bind(stranger).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        let ours = self.contact();
        let question = Message {
            transaction: Bytes::from_static(b"list"),
            version: None,
            extension: None,
            kind: Kind::Query {
                sender: Id::hash_of(&[b"a stranger"]),
                read_only: true,
                query: Query::FindNode {
                    target: ours.id,
                    want: None,
                },
            },
        };
        let question = question.encode().datagram(0);
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "{partner} does not list us");
            socket.send_to(&question, partner).expect("a socket");
            self.during(time::sleep(Duration::from_millis(500))).await;
            let mut datagram = [0; 1500];
            while let Ok(len) = socket.recv(&mut datagram) {
                let answer = Message::decode(&Bytes::copy_from_slice(&datagram[..len]));
                if let Ok(Message {
                    kind: Kind::Response { response, .. },
                    ..
                }) = answer
                {
                    let mut named = [response.nodes, response.nodes6].into_iter().flatten();
                    if named.any(|nodes| nodes.contains(&ours)) {
                        return;
                    }
                }
            }
        }
    }

    /// Asks the partner everything of BEP 5.
    pub async fn ask_bep5(&mut self, partner: SocketAddr) {
        let (_, ping) = self.run(|node, now| node.ping(now, partner)).await;
        assert_eq!(ping.answered, 1, "ping: {ping:?}");
        self.join().await;
        let (_, found) = self
            .run(|node, now| node.find_node(now, Id::hash_of(&[b"x"])))
            .await;
        let partners = found.closest.iter().filter(|node| node.address == partner);
        assert_eq!(partners.count(), 1, "find_node: {found:?}");

        let key = Id::hash_of(&[b"what we announce"]);
        let (_, announced) = self
            .run(|node, now| node.announce(now, key, Some(7777)))
            .await;
        assert_eq!(announced.stored, 1, "announce_peer: {announced:?}");
        let us = SocketAddr::new(self.address().ip(), 7777);
        let (got, family) = self.run(|node, now| node.find_peers(now, key)).await;
        assert!(got.peers.contains(&us), "get_peers: {got:?}, {family:?}");
        assert_eq!(self.stored(), (0, 0, 0), "it was the partner that stored");
    }

    /// Asks the partner everything of BEP 44. A second node of ours gets what this one puts, since
    /// this one keeps it, too.
    pub async fn ask_bep44(&mut self, partner: SocketAddr) {
        let local = address(self.address().is_ipv6(), 8, 6881);
        let mut reader = Self::start(local, &[partner], self.transaction_octets);
        let key = signing_key([7; 32]);
        for item in [
            Item::immutable("13:never changes"),
            Item::sign(&key, "", 1, "5:first"),
            Item::sign(&key, "salt", 5, "6:salted"),
        ] {
            let (target, salt) = (
                item.target(),
                item.signed
                    .clone()
                    .map_or_else(Bytes::new, |signed| signed.salt),
            );
            let put = item.clone();
            let (_, stored) = self
                .run(|node, now| node.put(now, put, None).expect("a good item"))
                .await;
            assert_eq!(stored.stored, 1, "put: {stored:?}");
            let (got, family) = reader
                .run(|node, now| node.find_item(now, target, salt))
                .await;
            assert_eq!(got.item, Some(item), "get: {family:?}");
        }
        // Another value over the item, if it is the one that is meant (CAS), and only then.
        let newer = Item::sign(&key, "", 2, "6:second");
        let wrong = newer.clone();
        let (_, refused) = self
            .run(|node, now| node.put(now, wrong, Some(9)).expect("a good item"))
            .await;
        assert_eq!(
            (refused.stored, refused.refused.len()),
            (0, 1),
            "{refused:?}"
        );
        let target = newer.target();
        let put = newer.clone();
        let (_, stored) = self
            .run(|node, now| node.put(now, put, Some(1)).expect("a good item"))
            .await;
        assert_eq!(stored.stored, 1, "put with cas: {stored:?}");
        let (got, _) = reader
            .run(|node, now| node.find_item(now, target, ""))
            .await;
        assert_eq!(got.item, Some(newer));
        assert_eq!(reader.stored(), (0, 0, 0), "it was the partner that stored");
    }

    pub async fn close(self) {
        let (_, statistics) = self.driver.close().await;
        eprintln!("{statistics}");
        assert_eq!(statistics.failed, 0);
    }
}
