//! Octets that were messages once, damaged: neither codecs nor a node may panic on them, and what is
//! read must be what is written again.
//!
//! Some seconds by default. `XCAST_FUZZ_SECONDS=3600 cargo test -p xcast-overlay --test fuzz` goes on
//! for an hour, with another seed each time; a failure says which.

use std::{
    env,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use xcast_overlay::{
    id::Id,
    kademlia::{Config, Node},
    krpc::{Family, Item, Message, bencode::Bencoded, signing_key},
    runtime::{Protocol as _, Random},
};

/// Damaged datagrams where no time is given.
const DATAGRAMS: u64 = 30_000;

/// Pieces that mean something to a parser.
const PIECES: [&[u8]; 20] = [
    b"d",
    b"l",
    b"e",
    b"i0e",
    b"i-1e",
    b"i-0e",
    b"i9223372036854775807e",
    b"i-9223372036854775808e",
    b"i99999999999999999999e",
    b"0:",
    b"1:",
    b"4294967295:",
    b"18446744073709551616:",
    b"llllllllllllllllllllllllllllllll",
    b"d1:ad1:ad1:ad1:ad1:ad1:a",
    b"2:id20:",
    b"1:q4:ping",
    b"6:target20:",
    b"1:y1:q",
    b"5:token0:",
];

fn address(last: u8) -> SocketAddr {
    ([10, 0, last, 1], 6881).into()
}

fn node(now: Instant, number: u8) -> Node {
    let config = Config {
        families: vec![Family::Ipv4],
        bootstrap: vec![address(1), address(2)],
        ..Config::own_network()
    };
    Node::new(now, config, Random::from_number(number.into()))
}

/// Carries datagrams between two nodes until neither has more to say, and keeps them.
fn converse(now: &mut Instant, nodes: &mut [Node; 2], said: &mut Vec<Bytes>) {
    for _ in 0..1000 {
        let mut silent = true;
        for at in 0..2 {
            while let Some(transmit) = nodes[at].poll_transmit() {
                silent = false;
                for (place, to) in transmit.to.iter().enumerate() {
                    let datagram = transmit.datagram(place);
                    said.push(datagram.clone());
                    if *to == address(2 - at as u8) {
                        nodes[1 - at].handle(*now, address(at as u8 + 1), datagram);
                    }
                }
            }
        }
        if silent {
            return;
        }
        *now += Duration::from_millis(1);
    }
    panic!("two nodes talk for ever");
}

/// Real messages, of every kind that two nodes have for each other, and a node in the state that
/// they lead to.
fn conversation() -> (Node, Instant, Vec<Bytes>) {
    let mut now = Instant::now();
    let mut nodes = [node(now, 1), node(now, 2)];
    let mut said = Vec::new();
    let key = Id::hash_of(&[b"key"]);
    let mutable = Item::sign(&signing_key([7; 32]), "salt", 1, "5:value");
    nodes[0].join(now);
    nodes[1].join(now);
    converse(&mut now, &mut nodes, &mut said);
    let node = &mut nodes[0];
    node.ping(now, address(2));
    node.find_node(now, key);
    node.announce(now, key, Some(4321));
    node.put(now, Item::immutable("5:hello"), None)
        .expect("a good item");
    node.put(now, mutable.clone(), Some(1))
        .expect("a good item");
    converse(&mut now, &mut nodes, &mut said);
    let node = &mut nodes[0];
    node.find_peers(now, key);
    node.find_item(now, mutable.target(), "salt");
    node.find_many(now, &[key, mutable.target()]);
    converse(&mut now, &mut nodes, &mut said);
    let [node, _] = nodes;
    (node, now, said)
}

fn damage(random: &mut Random, corpus: &[Bytes]) -> Vec<u8> {
    let pick = |random: &mut Random| &corpus[random.below(corpus.len())];
    let mut octets = pick(random).to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(octets.len() + 1);
        let end = at + random.below((octets.len() - at).min(30) + 1);
        let replacement: Vec<u8> = match random.below(6) {
            0 => vec![random.octets::<1>()[0]],
            1 => PIECES[random.below(PIECES.len())].to_vec(),
            2 => Vec::new(),
            3 => [&octets[at..end], &octets[at..end]].concat(),
            4 => {
                let other = pick(random);
                let from = random.below(other.len());
                other[from..].to_vec()
            }
            _ => b"0123456789"[random.below(10)..].to_vec(),
        };
        let end = if random.below(2) == 0 { at } else { end };
        octets.splice(at..end, replacement);
        octets.truncate(4096);
    }
    octets
}

#[test]
fn damaged_messages_do_no_harm() {
    let seconds = env::var("XCAST_FUZZ_SECONDS").ok();
    let seconds: Option<u64> = seconds.map(|text| text.parse().expect("a number of seconds"));
    let seed = match seconds {
        None => 18,
        Some(_) => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.expect("a clock").as_nanos() as u64
        }
    };
    println!("seed {seed}");
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut random = Random::from_number(seed);
    let (fresh, mut now, mut corpus) = conversation();
    assert!(corpus.len() > 20, "{} messages", corpus.len());
    let mut node = fresh.clone();
    let (mut number, mut read) = (0_u64, 0_u64);
    while end.map_or(number < DATAGRAMS, |end| Instant::now() < end) {
        number += 1;
        let octets = Bytes::from(damage(&mut random, &corpus));
        let context = || format!("seed {seed}, datagram {number}: {}", octets.escape_ascii());
        if let Ok(item) = Bencoded::read(&octets) {
            assert_eq!(item.raw, &octets[..], "{}", context());
        }
        if let Ok(message) = Message::decode(&octets) {
            read += 1;
            let written = message.encode().datagram(0);
            let again = Message::decode(&written);
            assert_eq!(again.as_ref(), Ok(&message), "{}", context());
            // What is still a message leads farther than what is none.
            if corpus.len() < 2000 {
                corpus.push(octets.clone());
            } else {
                let at = random.below(corpus.len());
                corpus[at] = octets.clone();
            }
        }
        now += Duration::from_millis(5);
        node.handle(now, address(random.below(250) as u8), octets.clone());
        if node.poll_timeout().is_some_and(|at| at <= now) {
            node.handle_timeout(now);
        }
        while node.poll_transmit().is_some() {}
        while node.poll_event().is_some() {}
        if number.is_multiple_of(10_000) {
            node = fresh.clone();
        }
    }
    println!("{number} datagrams, {read} of them were messages");
    assert!(read * 100 > number, "{read} of {number} were messages");
}
