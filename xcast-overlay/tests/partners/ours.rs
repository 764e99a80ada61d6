//! A node of ours, and what it asks of a partner.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{SocketAddr, UdpSocket},
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use tokio::{select, time};
use xcast_overlay::{
    id::Id,
    kademlia::{Config, Event, FamilyReport, ManyReport, Method, Node, OperationId, Report, bep42},
    krpc::{Contact, Item, Kind, Message, Query, signing_key},
    net::{Driver, Settings, families},
    runtime::Random,
};

use super::{
    namespace::{PATIENCE, address},
    outcome::Talk,
};

/// The window in which partners count messages, and how many of them are too many for libtorrent.
const WINDOW: Duration = Duration::from_secs(10);
const TOO_MANY: usize = 50;

/// A node of ours.
pub struct Ours {
    driver: Driver<Node>,
    events: Vec<Event>,
}

impl Ours {
    pub fn start(local: SocketAddr, bootstrap: &[SocketAddr]) -> Self {
        let mut config = Config::mainline();
        config.families = families(local);
        config.bootstrap = bootstrap.to_vec();
        let node = |now, mut random: Random| {
            config.id = Some(bep42::random_id(local.ip(), &mut random));
            Node::new(now, config, random)
        };
        Self {
            driver: Driver::bind(local, Settings::default(), node).expect("a socket"),
            events: Vec::new(),
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

    /// How many queries of each method it has answered.
    pub fn served(&self) -> BTreeMap<Method, u64> {
        let status = self.node().status(Instant::now());
        let families = status.families.into_iter();
        families.flat_map(|family| family.served).collect()
    }

    /// Whether somebody has asked this.
    pub fn was_asked(&self, method: Method) -> Result<()> {
        let served = self.served();
        ensure!(served.contains_key(&method), "nobody has asked: {served:?}");
        Ok(())
    }

    /// Works until `other` is done.
    pub async fn during<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        loop {
            select! {
                done = &mut other => return done,
                event = self.driver.next() => self.events.push(event.expect("a socket")),
            }
        }
    }

    /// Works until `other` is done, which may take long, but not for ever.
    pub async fn ask<T>(&mut self, other: impl Future<Output = T>) -> Result<T> {
        match self.during(time::timeout(PATIENCE, other)).await {
            Ok(done) => Ok(done),
            Err(_) => bail!(
                "nothing after {PATIENCE:?}: {:?}",
                self.node().status(Instant::now())
            ),
        }
    }

    /// Works until something is so.
    pub async fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            let status = self.node().status(Instant::now());
            ensure!(Instant::now() < deadline, "not so: {what}: {status:?}");
            self.during(time::sleep(Duration::from_millis(50))).await;
        }
        Ok(())
    }

    pub async fn join(&mut self) -> Result<()> {
        self.driver.command(|node, now| node.join(now));
        self.until("joined", |ours| {
            let joined = |event: &Event| matches!(event, Event::Joined { .. });
            ours.events.iter().any(joined)
        })
        .await
    }

    /// An operation, and its report.
    pub async fn run(
        &mut self,
        begin: impl FnOnce(&mut Node, Instant) -> OperationId,
    ) -> Result<(Report, FamilyReport)> {
        let wanted = self.driver.command(begin);
        let is_wanted = |event: &Event| matches!(event, Event::Finished { operation, .. } if *operation == wanted);
        self.until("finished", |ours| ours.events.iter().any(is_wanted))
            .await?;
        let at = self.events.iter().position(is_wanted);
        match self.events.remove(at.expect("it has come")) {
            Event::Finished { report, .. } => {
                let family = report.families.first().expect("a family").clone();
                Ok((*report, family))
            }
            event => bail!("{event:?}"),
        }
    }

    /// Operations for several keys, and their reports.
    pub async fn run_many(
        &mut self,
        begin: impl FnOnce(&mut Node, Instant) -> Vec<OperationId>,
    ) -> Result<Vec<ManyReport>> {
        let begun = self.driver.command(begin);
        let mut reports = Vec::new();
        for wanted in begun {
            let is_wanted = |event: &Event| matches!(event, Event::FinishedMany { operation, .. } if *operation == wanted);
            self.until("finished", |ours| ours.events.iter().any(is_wanted))
                .await?;
            let mut events = self.events.iter().filter(|event| is_wanted(event));
            if let Some(Event::FinishedMany { report, .. }) = events.next() {
                reports.push((**report).clone());
            }
        }
        Ok(reports)
    }

    /// Whether the partner, asked by a stranger, names this node among its closest.
    pub async fn is_listed_by(&mut self, partner: SocketAddr) -> Result<()> {
        let stranger = SocketAddr::new(self.address().ip(), 0);
        let socket = UdpSocket::bind(stranger)?;
        socket.set_nonblocking(true)?;
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
            ensure!(Instant::now() < deadline, "{partner} does not list us");
            socket.send_to(&question, partner)?;
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
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Pings the partner; what it took.
    pub async fn ping(&mut self, partner: SocketAddr) -> Result<String> {
        let (_, ping) = self.run(|node, now| node.ping(now, partner)).await?;
        ensure!(ping.answered == 1, "{ping:?}");
        let counters = self.node().status(Instant::now()).fanouts;
        Ok(match counters.answered_short {
            0 => String::new(),
            _ => "after a second request with 4 octets of transaction identifier".to_owned(),
        })
    }

    /// Asks the partner everything of BEP 5.
    pub async fn ask_bep5(&mut self, talk: &mut Talk, partner: SocketAddr) {
        let pinged = self.ping(partner).await;
        talk.note("ping", pinged);
        let found = self.find_node(partner).await;
        talk.add("find_node", found);
        let announced = self.announce().await;
        talk.add("announce_peer", announced);
        let got = self.get_peers().await;
        talk.add("get_peers", got);
    }

    async fn find_node(&mut self, partner: SocketAddr) -> Result<()> {
        self.join().await?;
        let target = Id::hash_of(&[b"x"]);
        let (_, found) = self.run(|node, now| node.find_node(now, target)).await?;
        let partners = found.closest.iter().filter(|node| node.address == partner);
        ensure!(partners.count() == 1, "{found:?}");
        Ok(())
    }

    async fn announce(&mut self) -> Result<()> {
        let key = Id::hash_of(&[b"what we announce"]);
        let (_, announced) = self
            .run(|node, now| node.announce(now, key, Some(7777)))
            .await?;
        ensure!(announced.stored == 1, "{announced:?}");
        Ok(())
    }

    async fn get_peers(&mut self) -> Result<()> {
        let key = Id::hash_of(&[b"what we announce"]);
        let us = SocketAddr::new(self.address().ip(), 7777);
        let (got, family) = self.run(|node, now| node.find_peers(now, key)).await?;
        ensure!(got.peers.contains(&us), "{got:?}, {family:?}");
        ensure!(
            self.stored() == (0, 0, 0),
            "it was not the partner that stored"
        );
        Ok(())
    }

    /// Asks the partner everything of BEP 44. A second node of ours gets what this one puts, since
    /// this one keeps it, too.
    pub async fn ask_bep44(&mut self, talk: &mut Talk, partner: SocketAddr) {
        let local = address(self.address().is_ipv6(), 8, 6881);
        let mut reader = Self::start(local, &[partner]);
        let key = signing_key([7; 32]);
        for (operation, item) in [
            ("put, get: immutable", Item::immutable("13:never changes")),
            ("put, get: mutable", Item::sign(&key, "", 1, "5:first")),
            (
                "put, get: mutable, with salt",
                Item::sign(&key, "salt", 5, "6:salted"),
            ),
        ] {
            let done = self.put_and_get(&mut reader, item).await;
            talk.add(operation, done);
        }
        let done = self.compare_and_swap(&mut reader).await;
        talk.add("put: compare and swap", done);
    }

    async fn put_and_get(&mut self, reader: &mut Self, item: Item) -> Result<()> {
        let signed = item.signed.clone();
        let (target, salt) = (
            item.target(),
            signed.map_or_else(Bytes::new, |signed| signed.salt),
        );
        let put = item.clone();
        let (_, stored) = self
            .run(|node, now| node.put(now, put, None).expect("a good item"))
            .await?;
        ensure!(stored.stored == 1, "{stored:?}");
        let (got, family) = reader
            .run(|node, now| node.find_item(now, target, salt))
            .await?;
        ensure!(got.item == Some(item), "{family:?}");
        ensure!(
            reader.stored() == (0, 0, 0),
            "it was not the partner that stored"
        );
        Ok(())
    }

    /// Another value over the item, if it is the one that is meant (CAS), and only then.
    async fn compare_and_swap(&mut self, reader: &mut Self) -> Result<()> {
        let newer = Item::sign(&signing_key([7; 32]), "", 2, "6:second");
        let wrong = newer.clone();
        let (_, refused) = self
            .run(|node, now| node.put(now, wrong, Some(9)).expect("a good item"))
            .await?;
        ensure!(
            (refused.stored, refused.refused.len()) == (0, 1),
            "{refused:?}"
        );
        let put = newer.clone();
        let (_, stored) = self
            .run(|node, now| node.put(now, put, Some(1)).expect("a good item"))
            .await?;
        ensure!(stored.stored == 1, "{stored:?}");
        let target = newer.target();
        let (got, _) = reader
            .run(|node, now| node.find_item(now, target, ""))
            .await?;
        ensure!(got.item == Some(newer), "{got:?}");
        Ok(())
    }

    /// Works for so long with the partner as its only neighbour: pings and look-ups, twice a minute
    /// and more. Then the partner still has to answer and to list this node.
    pub async fn soak(&mut self, partner: SocketAddr, time: Duration) -> Result<String> {
        const PAUSE: Duration = Duration::from_secs(20);
        self.join().await?;
        let begun = Instant::now();
        let (mut asked, mut answered) = (0, 0);
        let before = self.driver.statistics().receivers;
        let mut sent: VecDeque<(Instant, u64)> = VecDeque::from([(begun, before)]);
        let mut most = 0;
        while begun.elapsed() < time {
            for number in 0..3u8 {
                let target = Id::hash_of(&[&[number], &begun.elapsed().as_nanos().to_be_bytes()]);
                let (_, found) = self.run(|node, now| node.find_peers(now, target)).await?;
                (asked, answered) = (asked + found.asked, answered + found.answered);
            }
            let (_, ping) = self.run(|node, now| node.ping(now, partner)).await?;
            (asked, answered) = (asked + 1, answered + ping.answered);
            // All that it sends goes to the partner.
            let pause = Instant::now() + PAUSE.min(time.saturating_sub(begun.elapsed()));
            loop {
                let now = Instant::now();
                let statistics = self.driver.statistics();
                sent.push_back((now, statistics.receivers));
                while sent.front().is_some_and(|(at, _)| now - *at > WINDOW) {
                    sent.pop_front();
                }
                let first = sent.front().map_or(0, |(_, count)| *count);
                most = most.max((statistics.receivers - first) as usize);
                if now >= pause {
                    break;
                }
                self.during(time::sleep(Duration::from_millis(500))).await;
            }
        }
        self.is_listed_by(partner).await?;
        let (_, ping) = self.run(|node, now| node.ping(now, partner)).await?;
        ensure!(ping.answered == 1, "it does not answer any more: {ping:?}");
        ensure!(most < TOO_MANY, "{most} messages within 10 s");
        // A busy machine may be late for some.
        ensure!(
            20 * answered >= 19 * asked,
            "{answered} of {asked} requests answered"
        );
        Ok(format!(
            "after {} min it lists us and answers: {answered} of {asked} requests answered, at most \
             {most} messages within 10 s",
            begun.elapsed().as_secs() / 60
        ))
    }

    pub async fn close(self) {
        let (_, statistics) = self.driver.close().await;
        eprintln!("{statistics}");
    }
}
