//! Senders against a stand-in for a router, on the loopback network: it unwraps Xcast-in-UDP, and
//! sends a datagram to each destination. Unlike a router's its datagrams come from its own address.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use xcast_host::{
    CodePoints, Destination, Options, PacketLimits, Probing, Receiver, SendError, Sender, Settings,
    UnicastCause, Unusable, Uplink,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 254);
const ROUTER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 100);
const SENDER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
/// Generous: it ends tests, and judges nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// An Xcast packet as the router saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    source: Ipv4Addr,
    ttl: u8,
    flags: u8,
    channel: u32,
    destinations: Vec<SocketAddrV4>,
    source_port: u16,
    payload: Vec<u8>,
}

/// Reads an Xcast packet, without looking at checksums.
fn read(packet: &[u8]) -> Seen {
    assert_eq!((packet[0], packet[9]), (0x45, 253));
    assert_eq!(packet[16..20], GROUP.octets());
    let be16 = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let address = |at: usize| {
        let octets: [u8; 4] = packet[at..at + 4].try_into().unwrap();
        Ipv4Addr::from(octets)
    };
    let count = usize::from(packet[21] & 0x7f);
    let udp = 20 + 4 * usize::from(packet[29]);
    let list = 32 + 4 * count.div_ceil(32);
    let flags = packet[20] & 0xf;
    let ports = match flags & 1 {
        0 => vec![be16(udp + 2); count],
        _ => {
            let ds = if flags & 2 == 0 {
                0
            } else {
                count.next_multiple_of(4)
            };
            let at = list + 4 * count + ds;
            (0..count).map(|n| be16(at + 2 * n)).collect()
        }
    };
    Seen {
        source: address(12),
        ttl: packet[8],
        flags,
        channel: u32::from_be_bytes(packet[24..28].try_into().unwrap()),
        destinations: (0..count)
            .map(|n| SocketAddrV4::new(address(list + 4 * n), ports[n]))
            .collect(),
        source_port: be16(udp),
        payload: packet[udp + 8..].to_vec(),
    }
}

/// The stand-in; its thread ends with the test program.
struct Router {
    uplink: Uplink,
    seen: mpsc::Receiver<Seen>,
    answers: Arc<Mutex<bool>>,
}

fn code_points() -> CodePoints {
    CodePoints::new(253, GROUP).unwrap()
}

impl Router {
    fn start() -> Self {
        let socket = UdpSocket::bind((ROUTER, 0)).unwrap();
        // Somebody who answers at the probe port, in place of the kernel.
        let answerer = UdpSocket::bind((ROUTER, 0)).unwrap();
        let probe = answerer.local_addr().unwrap();
        let uplink = Uplink::Udp {
            code_points: code_points(),
            router: socket.local_addr().unwrap().into(),
            probe_port: probe.port(),
        };
        let (sender, seen) = mpsc::channel();
        let answers = Arc::new(Mutex::new(true));
        let answering = answers.clone();
        thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let packet = read(&buffer[..len]);
                assert_eq!(SocketAddr::from((packet.source, from.port())), from);
                if packet
                    .destinations
                    .iter()
                    .any(|to| SocketAddr::V4(*to) == probe)
                {
                    if *answering.lock().unwrap() {
                        let to = (packet.source, packet.source_port);
                        answerer.send_to(b"here", to).unwrap();
                    }
                    continue;
                }
                for to in &packet.destinations {
                    socket.send_to(&packet.payload, to).unwrap();
                }
                if sender.send(packet).is_err() {
                    break;
                }
            }
        });
        Self {
            uplink,
            seen,
            answers,
        }
    }

    fn next(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).unwrap()
    }

    fn settings(&self) -> Settings {
        Settings::new(self.uplink.clone())
    }
}

fn bound(address: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receivers(count: u8) -> (Vec<Receiver>, Vec<SocketAddr>) {
    let receivers: Vec<_> = (0..count)
        .map(|n| Receiver::new(bound(Ipv4Addr::new(127, 0, 1, n)), None))
        .collect();
    let address = |receiver: &Receiver| receiver.socket().local_addr().unwrap();
    let addresses = receivers.iter().map(address).collect();
    (receivers, addresses)
}

#[test]
fn unicast_until_the_router_answers_then_one_packet() {
    let router = Router::start();
    *router.answers.lock().unwrap() = false;
    let settings = Settings {
        probing: Some(Probing {
            period: Duration::from_millis(20),
            valid_for: Duration::from_secs(100),
            ..Probing::default()
        }),
        ..router.settings()
    };
    let mut sender = Sender::new(bound(SENDER), settings).unwrap();
    let (mut receivers, to) = receivers(3);
    let sent = sender.send(&to, b"first").unwrap();
    assert_eq!((sent.xcast_packets, sent.unicast_packets), (0, 3));
    assert_eq!(sender.router(), Err(UnicastCause::NoAnswer));
    assert_eq!(sender.source_for(to[0].ip()), None);
    *router.answers.lock().unwrap() = true;
    assert!(sender.wait_for_router(PATIENCE).unwrap());
    assert_eq!(sender.source_for(to[0].ip()), Some(SENDER.into()));
    let sent = sender.send(&to, b"second").unwrap();
    assert_eq!((sent.xcast_packets, sent.unicast_packets), (1, 0));
    let seen = router.next();
    assert_eq!(seen.destinations.len(), 3);
    let port = sender.socket().local_addr().unwrap().port();
    assert_eq!(
        (seen.source, seen.source_port, seen.ttl),
        (SENDER, port, 64)
    );
    for receiver in &mut receivers {
        assert_eq!(receiver.receive().unwrap().payload, b"first");
        assert_eq!(receiver.receive().unwrap().payload, b"second");
    }
    let statistics = sender.statistics();
    assert_eq!(statistics.fallbacks(), 3);
    assert_eq!((statistics.messages, statistics.xcast_destinations), (2, 3));
}

#[test]
fn a_send_that_does_not_wait_asks_nobody() {
    let router = Router::start();
    let socket = bound(SENDER);
    let mut sender = Sender::new(&socket, router.settings()).unwrap();
    let (mut receivers, to) = receivers(3);
    let options = Options::default();
    let sent = sender.try_send_with(&options, &to, b"first").unwrap();
    assert_eq!((sent.xcast_packets, sent.unicast_packets), (0, 3));
    assert_eq!(sender.statistics().probes, 0);
    assert_eq!(sender.router(), Err(UnicastCause::NoAnswer));
    let end = std::time::Instant::now() + PATIENCE;
    while sender.router().is_err() {
        assert!(std::time::Instant::now() < end, "no answer");
        assert!(sender.tend().is_some());
        thread::sleep(Duration::from_millis(1));
    }
    let probes = sender.statistics().probes;
    let sent = sender.try_send_with(&options, &to, b"second").unwrap();
    assert_eq!((sent.xcast_packets, sent.unicast_packets), (1, 0));
    assert_eq!(sender.statistics().probes, probes);
    for receiver in &mut receivers {
        assert_eq!(receiver.receive().unwrap().payload, b"first");
        assert_eq!(receiver.receive().unwrap().payload, b"second");
    }
}

#[test]
fn a_router_that_refuses_loses_nothing() {
    // Nobody listens where this socket was.
    let closed = bound(ROUTER).local_addr().unwrap();
    let settings = Settings {
        probing: None,
        ..Settings::new(Uplink::udp(code_points(), closed))
    };
    let mut sender = Sender::new(bound(SENDER), settings.clone()).unwrap();
    let (mut receivers, to) = receivers(2);
    let mut receive = |wanted: &[u8]| {
        for receiver in &mut receivers {
            assert_eq!(receiver.receive().unwrap().payload, wanted);
        }
    };
    // The first is what finds out. It is sent again, before the second.
    assert_eq!(sender.send(&to, b"first").unwrap().xcast_packets, 1);
    assert_eq!(sender.send(&to, b"second").unwrap().unicast_packets, 2);
    assert_eq!(sender.router(), Err(UnicastCause::Refused));
    receive(b"first");
    receive(b"second");
    let statistics = sender.statistics();
    assert_eq!((statistics.sent_again, statistics.unicast_refused), (2, 2));
    assert_eq!(statistics.unicast_packets, 4);

    // Where no second one follows, it is found out by looking after the router.
    let mut sender = Sender::new(bound(SENDER), settings).unwrap();
    let options = Options::default();
    let sent = sender.try_send_with(&options, &to, b"alone").unwrap();
    assert_eq!(sent.xcast_packets, 1);
    while sender.statistics().sent_again == 0 {
        sender.tend();
    }
    receive(b"alone");
    assert_eq!(sender.router(), Err(UnicastCause::Refused));
}

#[test]
fn options_and_ports_are_in_the_packet() {
    let router = Router::start();
    let mut sender = Sender::new(bound(SENDER), router.settings()).unwrap();
    assert!(sender.wait_for_router(PATIENCE).unwrap());
    let options = Options {
        ttl: 9,
        channel: 7,
        anonymous: true,
        ..Options::default()
    };
    let (_receivers, to) = receivers(2);
    let marked = Destination::with_dscp(to[1], 46);
    sender
        .send_with(&options, &[to[0].into(), marked], b"x")
        .unwrap();
    let seen = router.next();
    assert_eq!((seen.ttl, seen.channel, seen.flags), (9, 7, 0b1011));
    let addresses: Vec<_> = seen.destinations.into_iter().map(SocketAddr::V4).collect();
    assert_eq!(addresses, to);
}

#[test]
fn long_lists_are_split() {
    let router = Router::start();
    let settings = Settings {
        limits: PacketLimits {
            max_destinations: 4,
            ..PacketLimits::default()
        },
        ..router.settings()
    };
    let mut sender = Sender::new(bound(SENDER), settings).unwrap();
    assert!(sender.wait_for_router(PATIENCE).unwrap());
    let (mut receivers, to) = receivers(10);
    assert_eq!(sender.send(&to, b"x").unwrap().xcast_packets, 3);
    let counts = [(); 3].map(|()| router.next().destinations.len());
    assert_eq!(counts, [4, 4, 2]);
    for receiver in &mut receivers {
        assert_eq!(receiver.receive().unwrap().payload, b"x");
    }
}

#[test]
fn errors_name_the_destination() {
    let mut sender = Sender::new(bound(SENDER), Settings::new(Uplink::Unicast)).unwrap();
    let list = |texts: &[&str]| -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    let to = list(&["127.0.0.1:5000", "[::1]:5000"]);
    let error = sender.send(&to, b"x").unwrap_err();
    assert_eq!(
        error.to_string(),
        "destination 1, [::1]:5000: the sender's socket is not of this family: bind it to 0.0.0.0 \
         for IPv4, and to [::] for IPv6 and IPv4"
    );
    let reason = Unusable::Family;
    assert!(
        matches!(error, SendError::Destination { index: 1, reason: same, .. } if same == reason)
    );
    // The kernel has no way from the loopback network to anywhere else.
    let receiver = bound(SENDER);
    let to = [list(&["192.0.2.1:5000"])[0], receiver.local_addr().unwrap()];
    let Err(SendError::Unreached {
        failed,
        destinations: 2,
    }) = sender.send(&to, b"x")
    else {
        panic!("reached");
    };
    assert_eq!(
        (failed.len(), failed[0].index, failed[0].address),
        (1, 0, to[0])
    );
    assert_eq!(receiver.recv(&mut [0; 9]).unwrap(), 1);
    assert_eq!(sender.statistics().failed, 1);
    assert!(sender.send::<SocketAddr>(&[], b"to nobody").is_ok());
}

#[test]
fn a_list_of_both_families_is_split() {
    let router = Router::start();
    let everywhere = UdpSocket::bind("[::]:0").unwrap();
    let mut sender = Sender::new(everywhere, router.settings()).unwrap();
    assert!(sender.wait_for_router(PATIENCE).unwrap());
    let (mut ipv4, mut to) = receivers(2);
    let mut ipv6: Vec<_> = (0..2)
        .map(|_| {
            let socket = UdpSocket::bind("[::1]:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            Receiver::new(socket, None)
        })
        .collect();
    for (n, receiver) in ipv6.iter().enumerate() {
        to.insert(n, receiver.socket().local_addr().unwrap());
    }
    // The router has an IPv4 address only.
    let sent = sender.send(&to, b"both").unwrap();
    assert_eq!((sent.xcast_packets, sent.unicast_packets), (1, 2));
    assert_eq!(sender.statistics().unicast_configured, 2);
    let port = sender.socket().local_addr().unwrap().port();
    for receiver in ipv4.iter_mut() {
        assert_eq!(receiver.receive().unwrap().payload, b"both");
    }
    for receiver in &mut ipv6 {
        let received = receiver.receive().unwrap();
        assert_eq!(received.payload, b"both");
        assert_eq!(received.from, format!("[::1]:{port}").parse().unwrap());
    }
    assert_eq!(sender.router_for(SENDER.into()), Ok(()));
    let without = sender.router_for("::1".parse().unwrap());
    assert_eq!(without, Err(UnicastCause::Configured));
}

#[test]
fn a_socket_of_ipv6_serves_ipv4() {
    let both = || {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let mut sender = Sender::new(both(), Settings::new(Uplink::Unicast)).unwrap();
    let mut receiver = Receiver::new(both(), None);
    let port = receiver.socket().local_addr().unwrap().port();
    let from = sender.socket().local_addr().unwrap().port();
    // The same host twice, in both spellings: one datagram.
    let spelt = ["127.0.0.1", "[::ffff:127.0.0.1]"];
    let to = spelt.map(|host| format!("{host}:{port}").parse::<SocketAddr>().unwrap());
    let options = Options {
        dscp: 46,
        ttl: 3,
        ..Options::default()
    };
    assert_eq!(
        sender
            .send_with(&options, &to, b"x")
            .unwrap()
            .unicast_packets,
        1
    );
    assert_eq!(
        receiver.receive().unwrap().from,
        SocketAddr::from((SENDER, from))
    );
    // What is wrong in one family keeps the other from being sent, too.
    let to = [to[0], "[ff02::1]:5000".parse().unwrap()];
    let error = sender.send(&to, b"x").unwrap_err();
    let reason = Unusable::NotOneHost;
    assert!(
        matches!(error, SendError::Destination { index: 1, reason: same, .. } if same == reason)
    );
    let long = sender.send(&to[..1], &[0; 1473]).unwrap_err();
    assert!(matches!(long, SendError::TooLarge { largest: 1472, .. }));
    let to = [to[0], format!("[::1]:{port}").parse().unwrap()];
    let long = sender.send(&to, &[0; 1472]).unwrap_err();
    assert!(matches!(long, SendError::TooLarge { largest: 1452, .. }));
    // One scope of a link-local address at a time.
    let scope = |n| std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 5000, 0, n);
    let error = sender.send(&[scope(1), scope(2)], b"x").unwrap_err();
    let reason = Unusable::Scope;
    assert!(
        matches!(error, SendError::Destination { index: 1, reason: same, .. } if same == reason)
    );
}

#[test]
fn an_uplink_that_contradicts_itself_is_refused() {
    let ipv6: SocketAddr = "[::1]:4242".parse().unwrap();
    let uplink = Uplink::udp(code_points(), ipv6);
    let error = Sender::new(bound(SENDER), Settings::new(uplink)).unwrap_err();
    assert!(error.to_string().contains("CodePoints::ipv6"), "{error}");
}

#[test]
fn whatever_must_stay_xcast_does_not_fall_back() {
    let settings = Settings::new(Uplink::native(code_points()));
    let settings = Settings {
        uplink: Uplink::Native {
            code_points: code_points(),
            interface: "no-such-if".to_owned(),
        },
        ..settings
    };
    let mut sender = Sender::new(bound(SENDER), settings).unwrap();
    let (_receivers, to) = receivers(2);
    let stay = Options {
        stay_xcast: true,
        ..Options::default()
    };
    let error = sender.send_with(&stay, &to, b"x").unwrap_err();
    let cause = UnicastCause::Unavailable;
    assert!(matches!(error, SendError::NoXcast { cause: same } if same == cause));
    assert_eq!(sender.send(&to, b"x").unwrap().unicast_packets, 2);
    assert_eq!(sender.statistics().unicast_unavailable, 2);
}

#[cfg(feature = "tokio")]
mod asynchronous {
    use xcast_host::{
        Message,
        envelope::Tag,
        queue::QueueLimits,
        tokio::{CombiningSender, Receiver, Sender},
    };

    use super::*;

    fn opener(socket: UdpSocket, tag: Option<Tag>) -> Receiver {
        socket.set_nonblocking(true).unwrap();
        Receiver::new(tokio::net::UdpSocket::from_std(socket).unwrap(), tag)
    }

    #[tokio::test]
    async fn combined_by_a_router() {
        let router = Router::start();
        let mut sender = Sender::new(bound(SENDER), router.settings()).unwrap();
        assert!(sender.wait_for_router(PATIENCE).await.unwrap());
        let sender = CombiningSender::new(sender, QueueLimits::default());
        let mut receivers: Vec<_> = (0..4)
            .map(|n| {
                let tag = (n < 2).then(Tag::random);
                opener(bound(Ipv4Addr::new(127, 0, 1, n)), tag)
            })
            .collect();
        let shared = "shared by everyone, and long enough";
        for (n, receiver) in receivers.iter().enumerate() {
            let to = receiver.socket().local_addr().unwrap();
            if let Some(tag) = receiver.tag() {
                sender.opt_in(to, tag).await.unwrap().unwrap();
            }
            let own = format!("{n}");
            let message = Message::to_one(to, [shared.into(), own.into()]);
            sender.send(message).await.unwrap();
        }
        for receiver in &receivers[2..] {
            let to = receiver.socket().local_addr().unwrap();
            let message = Message::to_one(to, [shared.into()]);
            sender.send(message).await.unwrap();
        }
        let report = sender.close().await.unwrap();
        assert_eq!((report.queue.partial, report.queue.whole), (2, 2));
        assert_eq!((report.sender.xcast_packets, report.failures), (2, 0));
        for (n, receiver) in receivers.iter_mut().enumerate() {
            let received = receiver.receive().await.unwrap();
            assert_eq!(received.payload, format!("{shared}{n}").as_bytes());
            assert_eq!(received.combined, n < 2);
        }
        for receiver in &mut receivers[2..] {
            let received = receiver.receive().await.unwrap();
            assert_eq!(received.payload, shared.as_bytes());
        }
    }

    #[tokio::test]
    async fn many_messages_through_a_small_queue() {
        let sender = Sender::new(bound(SENDER), Settings::new(Uplink::Unicast)).unwrap();
        let limits = QueueLimits {
            max_messages: 3,
            max_octets: 1000,
            ..QueueLimits::default()
        };
        let sender = CombiningSender::new(sender, limits);
        let mut receiver = opener(bound(SENDER), Some(Tag(1)));
        let to = receiver.socket().local_addr().unwrap();
        sender.opt_in(to, Tag(1)).await.unwrap().unwrap();
        for n in 0..100u8 {
            // Some are larger than the queue.
            let len = if n % 10 == 0 { 1200 } else { 50 };
            let message = Message::to_one(to, [vec![n; len].into()]);
            sender.send(message).await.unwrap();
        }
        let long = Message::to_one(to, [vec![0; 1473].into()]);
        let error = sender.send(long).await.unwrap_err();
        assert!(matches!(error, SendError::TooLarge { largest: 1472, .. }));
        sender.flush().await.unwrap();
        for n in 0..100u8 {
            let received = receiver.receive().await.unwrap();
            assert_eq!(received.payload[0], n);
        }
        assert_eq!(sender.close().await.unwrap().failures, 0);
    }
}
