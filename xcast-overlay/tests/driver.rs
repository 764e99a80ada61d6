//! The driver on real sockets: what becomes of messages on their way out, and the example.

#[path = "partners/namespace.rs"]
mod namespace;

use std::{
    collections::VecDeque,
    net::{SocketAddr, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{select, time};
use xcast_host::{CodePoints, Uplink, queue::QueueLimits};
use xcast_overlay::{
    accordion::{self, Accordion},
    id::Id,
    kademlia::{Config, Node},
    net::{Driver, Settings, families},
    ring::Position,
    runtime::{Body, Mode, Protocol, Random, Segment, Transmit},
};

use self::namespace::{PATIENCE, address, in_namespace};

/// A protocol that says what it is told to say, and tells what it hears.
#[derive(Debug, Default)]
struct Talker {
    to_say: VecDeque<Transmit>,
    heard: VecDeque<(SocketAddr, Bytes)>,
}

impl Talker {
    fn say(&mut self, to: &[SocketAddr], body: Body, mode: Mode) {
        self.to_say.push_back(Transmit {
            to: to.to_vec(),
            body,
            mode,
        });
    }
}

impl Protocol for Talker {
    type Event = (SocketAddr, Bytes);

    fn handle(&mut self, _: Instant, from: SocketAddr, datagram: Bytes) {
        self.heard.push_back((from, datagram));
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.to_say.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn poll_event(&mut self) -> Option<Self::Event> {
        self.heard.pop_front()
    }
}

/// A socket that somebody listens at.
fn listener(n: u8) -> UdpSocket {
    let socket = UdpSocket::bind(address(false, n, 5000)).expect("a socket");
    let timeout = Some(Duration::from_secs(20));
    socket.set_read_timeout(timeout).expect("a time-out");
    socket
}

fn next_of(socket: &UdpSocket) -> Vec<u8> {
    let mut datagram = [0; 2000];
    let len = socket.recv(&mut datagram).expect("a datagram");
    datagram[..len].to_vec()
}

/// What came at sockets, in octets with IPv4 and UDP headers.
fn octets_at(sockets: &[UdpSocket]) -> usize {
    let mut octets = 0;
    for socket in sockets {
        socket.set_nonblocking(true).expect("not blocking");
        while let Ok(len) = socket.recv(&mut [0; 2000]) {
            octets += 28 + len;
        }
    }
    octets
}

/// Works for this time, whatever happens.
async fn work<P: Protocol>(driver: &mut Driver<P>, time: Duration) {
    let work = async { while driver.next().await.is_ok() {} };
    let _ = time::timeout(time, work).await;
}

/// Without a router a question to six is six datagrams, and with one it is a packet inside UDP: the budget
/// holds for both.
#[test]
fn a_budget_of_octets_holds_however_messages_leave() {
    for has_router in [false, true] {
        in_namespace(&[], async move || {
            let (rate, burst, own) = (100, 4000, address(false, 9, 5000));
            let first = if has_router { 1 } else { 2 };
            let sockets: Vec<UdpSocket> = (first..9).map(listener).collect();
            let code_points = CodePoints::new(253, [224, 0, 0, 254].into()).expect("code points");
            let mut settings = Settings::new(Uplink::udp(code_points, address(false, 1, 5000)));
            if has_router {
                settings.sender.probing = None;
            }
            let config = accordion::Config {
                parallel: (6, 6),
                burst_octets: burst,
                ..accordion::Config::new("test", own, rate)
            };
            let began = Instant::now();
            let driver = Driver::bind(own, settings, |now, random| {
                let mut peer = Accordion::new(now, config.clone(), random);
                peer.found_overlay(now);
                peer
            });
            let mut driver = driver.expect("a socket");
            // Each makes itself known: the header of a message of its overlay, of the kind that asks for
            // neighbours.
            let from = address(false, 2, 5000);
            let other = accordion::Config::new("test", from, rate);
            let mut other = Accordion::new(began, other, Random::from_number(1));
            other.join(began, &[own]);
            let asks = other.poll_transmit().expect("a question").datagram(0);
            let mut hello = asks[..16].to_vec();
            hello[3] = hello[3] & 0xf0 | 3;
            for socket in &sockets[sockets.len() - 7..] {
                socket.send_to(&hello, own).expect("sent");
            }
            work(&mut driver, Duration::from_millis(300)).await;
            for key in 0..40u64 {
                driver.command(|peer, now| peer.lookup(now, Position(key << 58)));
            }
            work(&mut driver, Duration::from_secs(1)).await;
            let (peer, statistics) = driver.close().await;
            let most = f64::from(rate) * began.elapsed().as_secs_f64() + f64::from(burst);
            let octets = octets_at(&sockets);
            println!("router {has_router}: {octets} octets of {most}; {statistics}");
            assert!(octets as f64 <= most, "{octets} of {most}");
            assert!(octets > 3000, "{octets}");
            assert_eq!(statistics.sender.xcast_packets > 0, has_router);
            assert_eq!(peer.counters().octets, octets as u64);
        });
    }
}

/// A talker whose router is the socket at address 1, which is trusted without an answer.
fn talker(max_delay: Duration) -> Driver<Talker> {
    let code_points = CodePoints::new(253, [224, 0, 0, 254].into()).expect("code points");
    let mut settings = Settings::new(Uplink::udp(code_points, address(false, 1, 5000)));
    settings.sender.probing = None;
    settings.combining = QueueLimits {
        max_delay,
        ..QueueLimits::default()
    };
    Driver::bind(address(false, 9, 5000), settings, |_, _| Talker::default()).expect("a socket")
}

#[test]
fn lists_leave_as_one_packet_and_unicast_as_datagrams() {
    in_namespace(&[], async || {
        let router = listener(1);
        let receivers = [2, 3, 4].map(listener);
        let to = receivers
            .each_ref()
            .map(|socket| socket.local_addr().expect("an address"));
        let mut driver = talker(Duration::ZERO);
        driver.command(|it, _| {
            it.say(&to, Body::shared("for all"), Mode::Shared);
            it.say(&to, Body::shared("for each"), Mode::Unicast);
            let parts = Segment::Own(vec!["1".into(), "2".into(), "3".into()]);
            let body = Body::new(vec![Segment::Shared("a part of its own: ".into()), parts]);
            it.say(&to, body, Mode::Shared);
        });
        let (_, statistics) = driver.close().await;
        let packet = next_of(&router);
        assert!(packet.ends_with(b"for all"), "{packet:?}");
        for (number, receiver) in receivers.iter().enumerate() {
            assert_eq!(next_of(receiver), b"for each");
            let own = format!("a part of its own: {}", number + 1);
            assert_eq!(next_of(receiver), own.as_bytes());
        }
        assert_eq!((statistics.messages, statistics.unicast_messages), (3, 1));
        let packets = (
            statistics.sender.xcast_packets,
            statistics.sender.unicast_packets,
        );
        assert_eq!((packets, statistics.failed), ((1, 6), 0));
        println!("{statistics}");
    });
}

#[test]
fn messages_of_the_same_content_are_combined() {
    in_namespace(&[], async || {
        let router = listener(1);
        let mut driver = talker(Duration::from_millis(200));
        let to = [2, 3].map(|n| address(false, n, 5000));
        for to in to {
            driver.command(|it, _| it.say(&[to], Body::shared("the same"), Mode::Shared));
            // Not at one moment.
            let _ = time::timeout(Duration::from_millis(1), driver.next()).await;
        }
        let (_, statistics) = driver.close().await;
        assert!(next_of(&router).ends_with(b"the same"));
        assert_eq!((statistics.combined(), statistics.packets()), (2, 1));
        assert!(statistics.mean_delay() >= Duration::from_millis(1));
    });
}

#[test]
fn an_address_that_cannot_be_sent_to_costs_the_others_nothing() {
    in_namespace(&[], async || {
        let router = listener(1);
        let mut driver = talker(Duration::ZERO);
        let [good, another] = [2, 3].map(|n| address(false, n, 5000));
        let bad: SocketAddr = "240.0.0.1:1".parse().expect("an address");
        driver.command(|it, _| it.say(&[bad, good, another], Body::shared("hello"), Mode::Shared));
        let (_, statistics) = driver.close().await;
        assert!(next_of(&router).ends_with(b"hello"));
        assert_eq!((statistics.failed, statistics.sender.xcast_packets), (1, 1));
    });
}

#[test]
fn what_comes_in_is_heard() {
    in_namespace(&[], async || {
        let mut driver = talker(Duration::ZERO);
        let somebody = listener(2);
        somebody
            .send_to(b"hello", driver.local_address())
            .expect("sent");
        let heard = time::timeout(PATIENCE, driver.next())
            .await
            .expect("in time");
        let from = somebody.local_addr().expect("an address");
        assert_eq!(
            heard.expect("a datagram"),
            (from, Bytes::from_static(b"hello"))
        );
        assert_eq!(driver.statistics().received, 1);
    });
}

#[test]
fn the_example_joins_within_forty_lines() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/join.rs");
    let lines = std::fs::read_to_string(source)
        .expect("the example")
        .lines()
        .count();
    assert!(lines <= 40, "{lines} lines");

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let node = |bootstrap| {
            let mut config = Config::mainline();
            (config.families, config.bootstrap) = (families(local), bootstrap);
            let settings = Settings::default();
            Driver::bind(local, settings, |now, random| {
                Node::new(now, config, random)
            })
        };
        let mut one = node(vec![]).expect("a socket");
        let mut other = node(vec![one.local_address()]).expect("a socket");
        let key = Id::hash_of(&[b"key"]);
        other.command(|node, now| {
            node.join(now);
            node.publish_peer(now, key, Some(4321))
        });
        let arguments = [
            "127.0.0.1:0".to_owned(),
            key.to_string(),
            other.local_address().to_string(),
        ];
        let mut example = tokio::task::spawn_blocking(move || {
            Command::new(env!("CARGO"))
                .args([
                    "run",
                    "--quiet",
                    "--package",
                    "xcast-overlay",
                    "--features",
                    "net",
                ])
                .args(["--example", "join", "--"])
                .args(arguments)
                .output()
                .expect("cargo")
        });
        let output = loop {
            select! {
                event = one.next() => drop(event.expect("a socket")),
                event = other.next() => drop(event.expect("a socket")),
                output = &mut example => break output.expect("no panic"),
            }
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert!(text.contains("joined: 2 nodes"), "{text}");
        assert!(text.contains("127.0.0.1:4321"), "{text}");
    });
}
