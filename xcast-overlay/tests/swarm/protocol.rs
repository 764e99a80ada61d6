//! What nodes say to each other, and to strangers.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use xcast_overlay::{
    id::Id,
    kademlia::{Config, Event, Refusal, TableConfig, WhyEmpty, bep42},
    krpc::{
        Contact, ErrorCode, Family, Item, Kind, MAX_ITEM_DATAGRAM_OCTETS, Message, Query,
        QueryError, Response, signing_key,
    },
    runtime::{Mode, Protocol as _, Random, Transmit},
    services::{Entry, Keys, Service},
};

use crate::network::{Network, address};

const FAMILY: Family = Family::Ipv4;

fn ipv4() -> Config {
    Config {
        families: vec![FAMILY],
        ..Config::mainline()
    }
}

fn swarm(count: usize) -> Network {
    Network::swarm(10, count, &ipv4())
}

#[test]
fn announced_and_found_in_both_families() {
    let mut network = Network::swarm(11, 40, &Config::mainline());
    let key = Id::random(&mut network.random);
    network.act(3, |node, now| node.announce(now, key, Some(80)));
    let report = network.run_until_finished(3);
    assert_eq!(report.families.len(), 2);
    assert!(
        report.families.iter().all(|family| family.stored == 8),
        "{report:?}"
    );
    network.act(17, |node, now| node.announce(now, key, None));
    network.run_until_finished(17);
    network.act(25, |node, now| node.find_peers(now, key));
    let peers = network.run_until_finished(25).peers;
    for family in Family::ALL {
        let mut announced = address(3, family);
        announced.set_port(80);
        assert!(
            peers.contains(&announced) && peers.contains(&address(17, family)),
            "{peers:?}"
        );
    }
    assert_eq!(peers.len(), 4);
    let streamed = network
        .events
        .iter()
        .any(|(_, at, event)| *at == 25 && matches!(event, Event::Peers { .. }));
    assert!(streamed, "peers are told as they are found");
}

#[test]
fn mutable_items_with_salt_and_cas() {
    let mut network = swarm(40);
    let key = signing_key([7; 32]);
    let item = |seq, value: &'static str| Item::sign(&key, "salt", seq, value);
    let target = item(1, "1:a").target();
    let put = |network: &mut Network, at, item: Item, cas| {
        network
            .act(at, |node, now| node.put(now, item, cas))
            .expect("a good item");
        network.run_until_finished(at).families.swap_remove(0)
    };
    assert_eq!(put(&mut network, 1, item(1, "1:a"), None).stored, 8);
    assert_eq!(put(&mut network, 2, item(2, "1:b"), Some(1)).stored, 8);
    let refused = put(&mut network, 3, item(3, "1:c"), Some(1));
    assert!(
        refused
            .refused
            .iter()
            .all(|(_, error)| error.code == ErrorCode::CasMismatch)
    );
    assert_eq!((refused.stored, refused.refused.len()), (0, 8));
    let old = put(&mut network, 4, item(1, "1:a"), None);
    assert!(
        old.refused
            .iter()
            .all(|(_, error)| error.code == ErrorCode::SequenceTooSmall)
    );
    network.act(9, |node, now| node.find_item(now, target, "salt"));
    assert_eq!(network.run_until_finished(9).item, Some(item(2, "1:b")));
    network.act(9, |node, now| node.find_item(now, target, "other"));
    assert_eq!(
        network.run_until_finished(9).item,
        None,
        "the salt is part of the key"
    );
    let mut forged = item(9, "1:a");
    forged.value = Bytes::from_static(b"1:z");
    let error = network.act(9, |node, now| node.put(now, forged, None));
    assert_eq!(
        error.map_err(|error| error.code),
        Err(ErrorCode::InvalidSignature)
    );
}

#[test]
fn what_is_published_outlives_those_who_store_it() {
    let mut network = swarm(25);
    let item = Item::immutable("5:there");
    let key = Id::random(&mut network.random);
    network
        .act(0, |node, now| node.publish_item(now, item.clone()))
        .expect("a good item");
    network.act(0, |node, now| node.publish_peer(now, key, None));
    for _ in 0..4 {
        network.run_for(Duration::from_secs(3600));
        network.events.clear();
        let reader = network.random_living();
        network.act(reader, |node, now| node.find_item(now, item.target(), ""));
        assert_eq!(
            network.run_until_finished(reader).item.as_ref(),
            Some(&item)
        );
        network.act(reader, |node, now| node.find_peers(now, key));
        assert!(
            network
                .run_until_finished(reader)
                .peers
                .contains(&address(0, FAMILY))
        );
    }
    network.act(0, |node, _| {
        assert!(node.withdraw(&key) && node.withdraw(&item.target()));
    });
    network.run_for(Duration::from_secs(3 * 3600));
    network.events.clear();
    network.act(5, |node, now| node.find_peers(now, key));
    assert!(network.run_until_finished(5).peers.is_empty());
}

/// A stranger at an address of its own, which speaks KRPC by hand.
struct Stranger {
    address: SocketAddr,
    id: Id,
}

impl Stranger {
    fn new(at: usize, random: &mut Random) -> Self {
        Self {
            address: address(10_000 + at, FAMILY),
            id: Id::random(random),
        }
    }

    fn query(&self, query: Query, read_only: bool) -> Bytes {
        let kind = Kind::Query {
            sender: self.id,
            read_only,
            query,
        };
        Self::message(Bytes::from_static(b"zz"), kind, None)
    }

    /// A query of somebody whose extensions have this version.
    fn extended(&self, query: Query, extension: Option<i64>) -> Bytes {
        let kind = Kind::Query {
            sender: self.id,
            read_only: true,
            query,
        };
        Self::message(Bytes::from_static(b"zz"), kind, extension)
    }

    /// An answer without anything in it.
    fn answer(&self, transaction: Bytes, extension: Option<i64>) -> Bytes {
        let kind = Kind::Response {
            sender: self.id,
            external: None,
            response: Box::default(),
        };
        Self::message(transaction, kind, extension)
    }

    fn message(transaction: Bytes, kind: Kind, extension: Option<i64>) -> Bytes {
        let message = Message {
            transaction,
            version: None,
            extension,
            kind,
        };
        message.encode().datagram(0)
    }
}

/// A node alone, asked by hand.
fn ask(network: &mut Network, from: SocketAddr, datagram: Bytes) -> Option<Message> {
    let now = network.now;
    let node = network.nodes[0].as_mut().expect("a node");
    node.handle(now, from, datagram);
    let mut answer = None;
    while let Some(transmit) = node.poll_transmit() {
        if transmit.to == [from] {
            answer = Some(Message::decode(&transmit.datagram(0)).expect("a message"));
        }
    }
    answer
}

fn response(message: Option<Message>) -> Response {
    match message.expect("an answer").kind {
        Kind::Response { response, .. } => *response,
        other => panic!("{other:?}"),
    }
}

fn error(message: Option<Message>) -> ErrorCode {
    match message.expect("an answer").kind {
        Kind::Error(error) => error.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn storing_needs_the_token_of_this_very_address() {
    let mut network = Network::new(12);
    network.add(ipv4());
    let mut random = Random::from_number(1);
    let (one, two) = (Stranger::new(1, &mut random), Stranger::new(2, &mut random));
    let info_hash = Id::random(&mut random);
    let query = one.query(
        Query::GetPeers {
            info_hash,
            want: None,
        },
        false,
    );
    let token = response(ask(&mut network, one.address, query))
        .token
        .expect("a token");
    let announce = |stranger: &Stranger| {
        let query = Query::AnnouncePeer {
            info_hash,
            port: Some(1),
            token: token.clone(),
        };
        stranger.query(query, false)
    };
    assert_eq!(
        error(ask(&mut network, two.address, announce(&two))),
        ErrorCode::Protocol
    );
    response(ask(&mut network, one.address, announce(&one)));
    network.now += Duration::from_secs(11 * 60);
    assert_eq!(
        error(ask(&mut network, one.address, announce(&one))),
        ErrorCode::Protocol
    );
    let get = two.query(
        Query::Get {
            target: info_hash,
            seq: None,
            want: None,
        },
        false,
    );
    let token = response(ask(&mut network, two.address, get))
        .token
        .expect("a token");
    let put = |item: Item| {
        two.query(
            Query::Put {
                item,
                cas: None,
                token: token.clone(),
            },
            false,
        )
    };
    let unsorted = Item::immutable("d1:b0:1:a0:e");
    assert_eq!(
        error(ask(&mut network, two.address, put(unsorted))),
        ErrorCode::Protocol
    );
    let mut long = b"997:".to_vec();
    long.resize(1001, b'a');
    let long = Item::immutable(long);
    assert_eq!(
        error(ask(&mut network, two.address, put(long))),
        ErrorCode::ValueTooLong
    );
    response(ask(
        &mut network,
        two.address,
        put(Item::immutable("4:good")),
    ));
}

/// An entry of a service is stored with a token of this address and its publisher's signature only, and a
/// publisher has a quota that others need not mind.
#[test]
fn an_entry_needs_token_signature_and_room() {
    let mut network = Network::new(19);
    network.add(Config {
        started_unix_s: 1000,
        ..ipv4()
    });
    let mut random = Random::from_number(1);
    let (one, two) = (Stranger::new(1, &mut random), Stranger::new(2, &mut random));
    let entry = |key: u8, number: usize| {
        let service = Service {
            mechanism: "ldap".into(),
            uri: format!("ldap://host{number}.example.org"),
            attributes: Default::default(),
            place: None,
        };
        let entry = Entry::sign(&signing_key([key; 32]), service, 1, 2000).expect("an entry");
        (entry.encode(), Keys::of(&entry.service).keys[0])
    };
    let token = |network: &mut Network, stranger: &Stranger| {
        let query = Query::GetMany {
            targets: vec![entry(1, 0).1],
        };
        let answer = response(ask(
            network,
            stranger.address,
            stranger.extended(query, Some(1)),
        ));
        answer.token.expect("a token")
    };
    let (of_one, of_two) = (token(&mut network, &one), token(&mut network, &two));
    let put = |network: &mut Network, stranger: &Stranger, entry: Bytes, key: Id, token: &Bytes| {
        let query = Query::PutEntry {
            keys: vec![key],
            entry,
            token: token.clone(),
        };
        match ask(network, stranger.address, stranger.extended(query, Some(1))) {
            Some(Message {
                kind: Kind::Error(error),
                ..
            }) => Err(error.message),
            answer => {
                response(answer);
                Ok(())
            }
        }
    };
    let (octets, key) = entry(1, 0);
    let said = |result: Result<(), String>, what: &str| {
        let error = result.expect_err("refused");
        assert!(error.contains(what), "{error}");
    };
    said(
        put(&mut network, &one, octets.clone(), key, &of_two),
        "invalid token",
    );
    let mut forged = octets.to_vec();
    let at = forged
        .windows(5)
        .position(|w| w == b"host0")
        .expect("the URI");
    forged[at] = b'g';
    said(
        put(&mut network, &one, forged.into(), key, &of_one),
        "not signed",
    );
    let elsewhere = Id::hash_of(&[b"another key"]);
    said(
        put(&mut network, &one, octets.clone(), elsewhere, &of_one),
        "nothing to do",
    );
    for number in 0..8 {
        let (octets, key) = entry(1, number);
        assert_eq!(put(&mut network, &one, octets, key, &of_one), Ok(()));
    }
    let (octets, key) = entry(1, 8);
    said(
        put(&mut network, &one, octets, key, &of_one),
        "the most that it may have",
    );
    // The quota is the publisher's, whoever carries the entry.
    let (octets, key) = entry(2, 8);
    assert_eq!(put(&mut network, &one, octets, key, &of_one), Ok(()));
    network.now += Duration::from_secs(1001);
    let (octets, key) = entry(3, 9);
    let of_one = token(&mut network, &one);
    said(put(&mut network, &one, octets, key, &of_one), "expired");
}

#[test]
fn a_stranger_is_pinged_before_it_is_in_the_table() {
    let mut network = Network::new(13);
    network.add(ipv4());
    let mut random = Random::from_number(1);
    let stranger = Stranger::new(1, &mut random);
    let ping = stranger.query(Query::Ping, false);
    assert!(ask(&mut network, stranger.address, ping).is_some());
    assert!(network.node(0).table(FAMILY).expect("a table").is_empty());
    let later = network.now + Duration::from_secs(1);
    let node = network.nodes[0].as_mut().expect("a node");
    node.handle_timeout(later);
    let ping = node.poll_transmit().expect("a ping");
    assert_eq!(ping.to, [stranger.address]);
    let transaction = Message::decode(&ping.datagram(0))
        .expect("a message")
        .transaction;
    assert_eq!(transaction.len(), 8);
    let pong = |transaction: &Bytes| {
        let response = Box::default();
        let kind = Kind::Response {
            sender: stranger.id,
            external: None,
            response,
        };
        Message {
            transaction: transaction.clone(),
            version: None,
            extension: None,
            kind,
        }
        .encode()
        .datagram(0)
    };
    // Somebody else cannot answer for it, nor can it be guessed.
    node.handle(later, address(77, FAMILY), pong(&transaction));
    node.handle(
        later,
        stranger.address,
        pong(&Bytes::from_static(b"guessed!")),
    );
    assert!(node.table(FAMILY).expect("a table").is_empty());
    node.handle(later, stranger.address, pong(&transaction));
    assert_eq!(node.table(FAMILY).expect("a table").len(), 1);
    let counters = node.status(later).fanouts;
    assert_eq!(
        (counters.wrong_source, counters.unknown_transaction),
        (1, 1)
    );
}

#[test]
fn a_read_only_node_asks_and_is_not_asked() {
    let mut network = swarm(30);
    let place = network.add(Config {
        read_only: true,
        bootstrap: vec![address(1, FAMILY), address(2, FAMILY)],
        ..ipv4()
    });
    network.act(place, |node, now| node.join(now));
    network.run_for(Duration::from_secs(60));
    assert!(network.node(place).table(FAMILY).expect("a table").len() > 10);
    let id = network.node(place).id();
    for at in 0..30 {
        let node = network.node(at);
        let known = node
            .table(FAMILY)
            .expect("a table")
            .closest(network.now, id, 1);
        assert_ne!(known[0].id, id, "nobody has it in its table");
    }
    let refused = (0..30).any(|at| {
        let status = network.node(at).status(network.now);
        status.families[0].refusals.contains_key(&Refusal::ReadOnly)
    });
    assert!(refused);
    let stranger = Stranger::new(1, &mut Random::from_number(1));
    network.inject(stranger.address, place, stranger.query(Query::Ping, false));
    assert_eq!(network.node(place).status(network.now).served.read_only, 1);
}

#[test]
fn one_address_is_not_answered_for_ever() {
    let mut network = Network::new(14);
    network.add(ipv4());
    let stranger = Stranger::new(1, &mut Random::from_number(1));
    let ping = stranger.query(Query::Ping, false);
    let mut answered = 0;
    for _ in 0..1000 {
        network.now += Duration::from_millis(10);
        answered += usize::from(ask(&mut network, stranger.address, ping.clone()).is_some());
    }
    assert!(answered < 50, "{answered} answers in ten seconds");
    assert!(network.node(0).status(network.now).served.over_budget > 900);
}

#[test]
fn nobody_sends_fifty_messages_to_one_peer_in_ten_seconds() {
    let mut network = swarm(12);
    let most = network.most_in_ten_seconds();
    // All of them ask everybody, again and again.
    for _ in 0..60 {
        for at in 0..12 {
            let target = Id::random(&mut network.random);
            network.act(at, |node, now| node.find_node(now, target));
        }
        network.run_for(Duration::from_millis(200));
    }
    let most = most.get();
    assert!(most > 20, "the test asks enough: {most}");
    assert!(most < 50, "{most}");
}

#[test]
fn status_says_why_a_table_is_empty() {
    let mut network = Network::new(15);
    let why = |network: &Network, at| network.node(at).status(network.now).families[0].why_empty;
    let alone = network.add(ipv4());
    assert_eq!(why(&network, alone), Some(WhyEmpty::NoBootstrap));
    let lost = network.add(Config {
        bootstrap: vec![address(99, FAMILY)],
        ..ipv4()
    });
    assert_eq!(why(&network, lost), Some(WhyEmpty::NotAsked));
    network.act(lost, |node, now| node.join(now));
    assert_eq!(why(&network, lost), Some(WhyEmpty::Waiting));
    network.run_for(Duration::from_secs(3600));
    assert!(matches!(
        why(&network, lost),
        Some(WhyEmpty::NoAnswer { silent: 5.. })
    ));
    // With BEP 42 in force, a node with an identifier of its own choice is refused.
    let table = TableConfig {
        enforce_bep42: true,
        ..ipv4().table
    };
    let strict = network.add(Config {
        table,
        bootstrap: vec![address(alone, FAMILY)],
        ..ipv4()
    });
    network.act(strict, |node, now| node.join(now));
    network.run_for(Duration::from_secs(5));
    assert!(matches!(
        why(&network, strict),
        Some(WhyEmpty::AllRefused {
            reason: Refusal::IdNotOfAddress,
            ..
        })
    ));
}

#[test]
fn a_network_with_bep_42_in_force() {
    let table = TableConfig {
        enforce_bep42: true,
        ..ipv4().table
    };
    let mut network = Network::new(16);
    let mut random = Random::from_number(1);
    for at in 0..40 {
        let ip = address(at, FAMILY).ip();
        let place = network.add(Config {
            id: Some(bep42::random_id(ip, &mut random)),
            table,
            bootstrap: vec![address(0, FAMILY), address(at / 2, FAMILY)],
            ..ipv4()
        });
        network.act(place, |node, now| node.join(now));
        network.run_for(Duration::from_millis(500));
    }
    network.run_for(Duration::from_secs(30));
    let seen = network.events.iter().filter(|(_, at, event)| {
        matches!(event, Event::ExternalAddress { address: seen } if *seen == address(*at, FAMILY).ip())
    });
    assert!(seen.count() >= 39, "nodes learn their own address");
    network.events.clear();
    let target = Id::random(&mut random);
    network.act(5, |node, now| node.find_node(now, target));
    let found: Vec<Id> = network.run_until_finished(5).families[0]
        .closest
        .iter()
        .map(|contact| contact.id)
        .collect();
    assert_eq!(found, network.closest(target, 8, 5));
}

/// Messages that node 0 sends for a `put`, before anybody stores.
fn put_messages(network: &mut Network) -> Vec<Transmit> {
    let item = Item::immutable("5:there");
    network
        .act(0, |node, now| node.put(now, item, None))
        .expect("a good item");
    let sent = network.sent_by_0();
    assert_eq!(network.run_until_finished(0).families[0].stored, 8);
    let sent = sent.take();
    let is_put = |transmit: &Transmit| transmit.datagram(0).windows(3).any(|w| w == b"put");
    sent.into_iter().filter(is_put).collect()
}

#[test]
fn a_round_leaves_as_one_message_and_so_does_a_store_among_own_nodes() {
    let mut network = swarm(40);
    let now = network.now;
    let node = network.nodes[0].as_mut().expect("a node");
    node.find_node(now, Id::default());
    let round = node.poll_transmit().expect("a round");
    assert_eq!(
        (round.to.len(), round.mode),
        (Config::mainline().alpha, Mode::Shared)
    );
    assert!(round.body.is_same_for_all());
    assert!(node.poll_transmit().is_none(), "one packet");
    let puts = put_messages(&mut network);
    assert_eq!(puts.len(), 1);
    assert_eq!(puts[0].to.len(), 8);
    assert!(puts[0].body.is_same_for_all(), "a list of tokens");
}

#[test]
fn strangers_are_sent_their_own_token_only() {
    let config = Config {
        extensions: false,
        ..ipv4()
    };
    let mut network = Network::swarm(10, 40, &config);
    let puts = put_messages(&mut network);
    assert_eq!((puts.len(), puts[0].to.len()), (1, 8));
    assert!(!puts[0].body.is_same_for_all(), "a part for each");
    assert_eq!(puts[0].body.segments().len(), 3);
}

#[test]
fn datagrams_are_short_enough() {
    let mut network = Network::swarm(17, 40, &Config::mainline());
    assert!(
        network.sent.longest_octets <= 1024,
        "{}",
        network.sent.longest_octets
    );
    let mut value = b"996:".to_vec();
    value.resize(1000, b'a');
    let item = Item::sign(&signing_key([1; 32]), vec![b's'; 64], i64::MAX, value);
    let target = item.target();
    network
        .act(0, |node, now| node.put(now, item.clone(), None))
        .expect("a good item");
    network.run_until_finished(0);
    network.act(20, |node, now| node.find_item(now, target, vec![b's'; 64]));
    assert_eq!(network.run_until_finished(20).item, Some(item));
    let longest = network.sent.longest_octets;
    assert!(
        longest > 1024 && longest <= MAX_ITEM_DATAGRAM_OCTETS,
        "{longest}"
    );
}

#[test]
fn after_leaving_nothing_is_sent_but_answers() {
    let mut network = swarm(30);
    let contacts = network.act(3, |node, now| node.leave(now));
    assert!(contacts.len() > 10);
    network.run_for(Duration::from_secs(30));
    assert!(network.node(3).is_idle());
    assert_eq!(network.node(3).poll_timeout(), None);
    network.act(8, |node, now| node.ping(now, address(3, FAMILY)));
    let report = network.run_until_finished(8);
    assert_eq!(report.families[0].answered, 1);
}

/// Whoever stores an item for others hands it over: in the end none of those who had it are there.
#[test]
fn what_a_node_stores_outlives_its_leaving() {
    let mut network = swarm(40);
    let item = Item::immutable("5:there");
    network
        .act(0, |node, now| node.put(now, item.clone(), None))
        .expect("a good item");
    network.run_until_finished(0);
    let holders = |network: &Network| -> Vec<usize> {
        let stores = |at: &usize| network.node(*at).status(network.now).stored.2 > 0;
        network.living().into_iter().filter(stores).collect()
    };
    let first = holders(&network);
    assert!(first.len() >= 8, "{first:?}");
    for at in &first {
        network.act(*at, |node, now| drop(node.leave(now)));
        network.run_for(Duration::from_secs(10));
        assert!(network.node(*at).is_idle());
        network.kill(*at);
    }
    let heirs = holders(&network);
    assert!(heirs.len() >= 8, "{heirs:?}");
    network.events.clear();
    let reader = network.living().pop().expect("a node");
    network.act(reader, |node, now| node.find_item(now, item.target(), ""));
    assert_eq!(network.run_until_finished(reader).item, Some(item));
}

#[test]
fn several_keys_are_asked_for_by_shared_rounds() {
    let mut network = swarm(80);
    let items: Vec<Item> = (0..7)
        .map(|number| Item::immutable(format!("i{number}e")))
        .collect();
    let keys: Vec<Id> = items.iter().map(Item::target).collect();
    for (number, item) in items.iter().enumerate() {
        let at = 10 * number;
        network
            .act(at, |node, now| node.put(now, item.clone(), None))
            .expect("a good item");
        network.run_until_finished(at);
    }
    network.act(5, |node, now| node.announce(now, keys[3], None));
    network.run_until_finished(5);
    network.act(33, |node, now| node.find_many(now, &keys));
    network.run_for(Duration::from_secs(5));
    let report = network
        .events
        .iter()
        .find_map(|(_, at, event)| match event {
            Event::FinishedMany { report, .. } if *at == 33 => Some(report.clone()),
            _ => None,
        });
    let report = report.expect("it has ended");
    for item in &items {
        assert_eq!(report.targets[&item.target()].item.as_ref(), Some(item));
    }
    assert!(report.targets[&keys[3]].peers.contains(&address(5, FAMILY)));
    let (mut rounds, mut asked) = (0, 0);
    for key in &keys {
        network.act(33, |node, now| node.find_peers(now, *key));
        let one = network.run_until_finished(33).families.swap_remove(0);
        rounds += one.rounds;
        asked += one.asked;
    }
    println!(
        "7 keys: {} nodes asked by {} packets; key by key {asked} by {rounds}",
        report.asked, report.rounds,
    );
    assert!(2 * report.rounds < rounds);
    assert!(network.sent.longest_octets <= 1024);
}

/// What the node asks this stranger at this moment: transaction and query.
fn asked(network: &mut Network, stranger: &Stranger) -> Vec<(Bytes, Query)> {
    let node = network.nodes[0].as_mut().expect("a node");
    let sent = std::iter::from_fn(|| node.poll_transmit());
    let to_it = sent.filter_map(|transmit| {
        let place = transmit.to.iter().position(|to| *to == stranger.address)?;
        let message = Message::decode(&transmit.datagram(place)).expect("a message");
        match message.kind {
            Kind::Query { query, .. } => Some((message.transaction, query)),
            _ => None,
        }
    });
    to_it.collect()
}

/// The transaction of the first question of this kind, as soon as it is asked.
fn until_asked(
    network: &mut Network,
    stranger: &Stranger,
    wanted: impl Fn(&Query) -> bool,
) -> Bytes {
    for _ in 0..1000 {
        let asked = asked(network, stranger).into_iter();
        let mut of_kind = asked.filter(|(_, query)| wanted(query));
        if let Some((transaction, _)) = of_kind.next() {
            return transaction;
        }
        let due = network.node(0).poll_timeout().expect("something is due");
        network.now = network.now.max(due);
        let now = network.now;
        let node = network.nodes[0].as_mut().expect("a node");
        node.handle_timeout(now);
    }
    panic!("it is not asked");
}

/// Who has other extensions than this version's is a stranger: its own methods are unknown and change nothing,
/// and what it stores by BEP 44 has one token.
#[test]
fn extensions_of_another_version_are_refused() {
    for (extensions, version, understood) in [
        (true, Some(1), true),
        (true, None, false),
        (true, Some(0), false),
        (true, Some(2), false),
        (false, Some(1), false),
    ] {
        let what = format!("{extensions}, {version:?}");
        let mut network = Network::new(24);
        network.add(Config {
            started_unix_s: 1000,
            extensions,
            ..ipv4()
        });
        let mut random = Random::from_number(1);
        let stranger = Stranger::new(1, &mut random);
        let mut say = |query| {
            let datagram = stranger.extended(query, version);
            ask(&mut network, stranger.address, datagram)
                .expect("an answer")
                .kind
        };
        let code = |kind| match kind {
            Kind::Response { .. } => None,
            Kind::Error(error) => Some(error.code),
            Kind::Query { .. } => panic!("{kind:?}"),
        };
        let unknown = (!understood).then_some(ErrorCode::MethodUnknown);
        let item = Item::immutable("4:item");
        let get = Query::Get {
            target: item.target(),
            seq: None,
            want: None,
        };
        let token = match say(get) {
            Kind::Response { response, .. } => response.token.expect("a token"),
            other => panic!("{what}: {other:?}"),
        };
        let targets = vec![item.target(); 3];
        assert_eq!(code(say(Query::GetMany { targets })), unknown, "{what}");
        let service = Service {
            mechanism: "ldap".into(),
            uri: "ldap://a".into(),
            attributes: Default::default(),
            place: None,
        };
        let entry = Entry::sign(&signing_key([1; 32]), service, 1, 2000).expect("an entry");
        let keys = Keys::of(&entry.service).keys;
        let put_entry = Query::PutEntry {
            keys: keys[..1].to_vec(),
            entry: entry.encode(),
            token: token.clone(),
        };
        assert_eq!(code(say(put_entry)), unknown, "{what}");
        let get_entries = Query::GetEntries {
            target: keys[0],
            after: Bytes::new(),
        };
        assert_eq!(code(say(get_entries)), unknown, "{what}");
        let mut put = |token| {
            let (item, cas) = (item.clone(), None);
            code(say(Query::Put { item, cas, token }))
        };
        let list = [&[0; 8], &token[..]].concat();
        let refused = (!understood).then_some(ErrorCode::Protocol);
        assert_eq!(put(list.into()), refused, "{what}");
        assert_eq!(put(token), None, "{what}");
        // The entry is there, or is not, for whoever asks in the right way.
        if extensions {
            let datagram = stranger.extended(
                Query::GetEntries {
                    target: keys[0],
                    after: Bytes::new(),
                },
                Some(1),
            );
            let stored = response(ask(&mut network, stranger.address, datagram)).entries;
            assert_eq!(stored.len(), usize::from(understood), "{what}");
        }
    }
}

/// A node that says another version is not asked for several keys at once.
#[test]
fn only_this_version_is_asked_for_several_keys() {
    for (version, together) in [(Some(1), true), (Some(2), false), (None, false)] {
        let mut network = Network::new(18);
        network.add(ipv4());
        let mut random = Random::from_number(1);
        let stranger = Stranger::new(1, &mut random);
        let now = network.now;
        let node = network.nodes[0].as_mut().expect("a node");
        node.ping(now, stranger.address);
        for (transaction, _) in asked(&mut network, &stranger) {
            let answer = stranger.answer(transaction, version);
            let node = network.nodes[0].as_mut().expect("a node");
            node.handle(now, stranger.address, answer);
        }
        let keys: Vec<Id> = (0..3).map(|_| Id::random(&mut random)).collect();
        let node = network.nodes[0].as_mut().expect("a node");
        node.find_many(now, &keys);
        let queries = asked(&mut network, &stranger);
        let all = matches!(&queries[..], [(_, Query::GetMany { .. })]);
        let each = queries
            .iter()
            .all(|(_, query)| matches!(query, Query::GetPeers { .. }));
        assert_eq!(
            (all, each),
            (together, !together),
            "{version:?}: {queries:?}"
        );
        assert_eq!(queries.len(), if together { 1 } else { 3 });
    }
}

/// Who refuses a question for several keys, or does not answer it, is asked for each key that it was found for, and
/// what it names is asked for all keys again.
#[test]
fn who_does_not_understand_several_keys_is_asked_for_each() {
    for refuses in [true, false] {
        let mut network = Network::new(25);
        network.add(ipv4());
        let mut random = Random::from_number(2);
        let [own, stranger, beyond] = [1, 2, 3].map(|at| Stranger::new(at, &mut random));
        let contact = |of: &Stranger| Contact {
            id: of.id,
            address: of.address,
        };
        let tell = |network: &mut Network, from: &Stranger, datagram: Bytes| {
            let now = network.now;
            let node = network.nodes[0].as_mut().expect("a node");
            node.handle(now, from.address, datagram);
        };
        let naming = |named: &Stranger| Response {
            nodes: Some(vec![contact(named)]),
            ..Response::default()
        };
        let answer = |from: &Stranger, transaction: Bytes, response: Response| {
            let kind = Kind::Response {
                sender: from.id,
                external: None,
                response: Box::new(response),
            };
            let extension = (from.address == own.address).then_some(1);
            Stranger::message(transaction, kind, extension)
        };
        let now = network.now;
        network.nodes[0]
            .as_mut()
            .expect("a node")
            .ping(now, own.address);
        let (ping, _) = asked(&mut network, &own).remove(0);
        tell(&mut network, &own, own.answer(ping, Some(1)));
        let keys: Vec<Id> = (0..3).map(|_| Id::random(&mut random)).collect();
        network.nodes[0]
            .as_mut()
            .expect("a node")
            .find_many(now, &keys);
        // The one of this kind names a stranger for the first key only.
        let (question, _) = asked(&mut network, &own).remove(0);
        let first = keys.iter().min().expect("a key");
        let mut sorted = keys.clone();
        sorted.sort();
        let many = sorted.iter().map(|key| match key == first {
            true => naming(&stranger),
            false => Response::default(),
        });
        let many = Response {
            many: many.collect(),
            ..Response::default()
        };
        tell(&mut network, &own, answer(&own, question, many));
        let (question, query) = asked(&mut network, &stranger).remove(0);
        assert!(matches!(query, Query::GetMany { .. }), "{query:?}");
        if refuses {
            let error = QueryError::new(ErrorCode::MethodUnknown, "what?");
            let refusal = Stranger::message(question, Kind::Error(error), None);
            tell(&mut network, &stranger, refusal);
        }
        // For the others nobody has named it.
        let each = |query: &Query| match query {
            Query::GetPeers { info_hash, .. } => {
                assert_eq!(info_hash, first);
                true
            }
            _ => false,
        };
        let question = until_asked(&mut network, &stranger, each);
        let named = answer(&stranger, question, naming(&beyond));
        tell(&mut network, &stranger, named);
        let all = |query: &Query| matches!(query, Query::GetMany { .. });
        until_asked(&mut network, &beyond, all);
    }
}

#[test]
fn several_keys_are_answered_for_and_a_look_up_among_nobody_ends() {
    let mut network = Network::new(18);
    network.add(ipv4());
    let mut random = Random::from_number(1);
    let stranger = Stranger::new(1, &mut random);
    let query = Query::GetMany {
        targets: vec![Id::random(&mut random); 3],
    };
    let answer = response(ask(
        &mut network,
        stranger.address,
        stranger.extended(query, Some(1)),
    ));
    assert_eq!(answer.many.len(), 3);
    let nobody = network.act(0, |node, now| node.find_many(now, &[Id::default()]));
    let ended = network.events.iter().any(
        |(_, _, event)| matches!(event, Event::FinishedMany { operation, .. } if *operation == nobody),
    );
    assert!(ended, "a node that knows nobody ends at once");
}
