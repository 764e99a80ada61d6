//! Members against relatives that lie.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ed25519_dalek::SigningKey;

use super::{
    Config, Event, Member,
    message::{Beat, Data, Found, Message, Pulse, TreeKey},
};
use crate::{
    krpc::signing_key,
    runtime::{Protocol as _, Random},
};

const LIAR: &str = "10.0.0.1:1";
const CHILD: &str = "10.0.0.2:1";
const TOKEN: u64 = 77;

fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

fn key() -> SigningKey {
    signing_key([1; 32])
}

fn tree() -> TreeKey {
    TreeKey::new(b"news", key().verifying_key().to_bytes())
}

/// What a member sends to an address.
fn sent(member: &mut Member, to: SocketAddr) -> Vec<Message> {
    let mut all = Vec::new();
    while let Some(transmit) = member.poll_transmit() {
        if let Some(place) = transmit.to.iter().position(|address| *address == to) {
            all.extend(Message::decode(&transmit.datagram(place), tree().tag));
        }
    }
    all
}

fn events(member: &mut Member) -> Vec<Event> {
    std::iter::from_fn(|| member.poll_event()).collect()
}

/// A member whose only parent is this test.
struct Led {
    now: Instant,
    member: Member,
}

impl Led {
    fn new() -> Self {
        let now = Instant::now();
        let public = key().verifying_key().to_bytes();
        let config = Config::receiver("news", public, vec![at(LIAR)]);
        let member = Member::new(now, config, Random::from_number(1));
        Self { now, member }
    }

    fn tell(&mut self, message: &Message) {
        let datagram = message.encode(tree().tag);
        self.member.handle(self.now, at(LIAR), datagram);
    }

    /// Goes on until it wants to attach; it is told of a newer pulse than any.
    fn attach(&mut self) -> [u8; 8] {
        for _ in 0..1000 {
            for message in sent(&mut self.member, at(LIAR)) {
                match message {
                    Message::Find { transaction } => self.tell(&Message::Found {
                        transaction,
                        found: Found {
                            cookie: 1,
                            seen: at(CHILD),
                            pulse: u64::MAX,
                            depth: 0,
                            room: 10,
                            children: Vec::new(),
                        },
                    }),
                    Message::Attach { transaction, .. } => return transaction,
                    _ => {}
                }
            }
            self.now = self
                .member
                .poll_timeout()
                .expect("it goes on")
                .max(self.now);
            self.member.handle_timeout(self.now);
        }
        panic!("it does not ask to be a child");
    }

    fn attached(&mut self, transaction: [u8; 8], pulse: Pulse) {
        let beat = beat(pulse);
        self.tell(&Message::Attached { transaction, beat });
    }
}

fn beat(pulse: Pulse) -> Beat {
    Beat {
        token: TOKEN,
        pulse,
        depth: 0,
        grandparent: None,
        siblings: Vec::new(),
    }
}

#[test]
fn nobody_joins_by_a_pulse_that_the_source_has_not_signed() {
    let mut led = Led::new();
    for pulse in [Pulse::unsigned(u64::MAX), tree().sign_pulse(&key(), 0, 5)] {
        let transaction = led.attach();
        led.attached(transaction, pulse);
        let told = events(&mut led.member);
        assert!(
            !told
                .iter()
                .any(|event| matches!(event, Event::Joined { .. })),
            "{told:?}"
        );
    }
    // It has not lost heart: who has the source's pulse is its parent.
    let transaction = led.attach();
    led.attached(transaction, tree().sign_pulse(&key(), 6, 7));
    assert!(led.member.is_connected(led.now));
    assert_eq!(led.member.parent(), Some(at(LIAR)));
}

#[test]
fn numbers_far_ahead_cut_nobody_off() {
    let mut led = Led::new();
    let transaction = led.attach();
    led.attached(transaction, tree().sign_pulse(&key(), 6, 1000));
    // Nobody has signed this pulse: it is none, and what it says of messages neither.
    led.now += Duration::from_secs(1);
    led.tell(&Message::Beat(beat(Pulse::unsigned(u64::MAX))));
    assert_eq!(led.member.status(led.now).head, 1000);
    events(&mut led.member);
    let message = tree().sign(&key(), 1000, b"next");
    led.member.handle(led.now, at(LIAR), message);
    let payload = Bytes::from_static(b"next");
    assert_eq!(
        events(&mut led.member),
        [Event::Message { seq: 1000, payload }]
    );
    led.tell(&Message::Beat(beat(tree().sign_pulse(&key(), 7, 1005))));
    let status = led.member.status(led.now);
    assert!(
        status.connected && (status.head, status.missing) == (1005, 4),
        "{status:?}"
    );
}

#[test]
fn who_wants_messages_proves_its_address_first() {
    let now = Instant::now();
    let mut source = Member::new(
        now,
        Config::source("news", key(), 1),
        Random::from_number(1),
    );
    let tag = tree().tag;
    let ask = |source: &mut Member, now, from, message: Message| {
        source.handle(now, from, message.encode(tag));
        sent(source, from)
    };
    // A child, as which one learns the token of the family.
    let found = ask(
        &mut source,
        now,
        at(CHILD),
        Message::Find {
            transaction: [1; 8],
        },
    );
    let [Message::Found { found, .. }] = &found[..] else {
        panic!("{found:?}");
    };
    let attach = Message::Attach {
        transaction: [2; 8],
        cookie: found.cookie,
        token: 5,
        pulse: 0,
    };
    let attached = ask(&mut source, now, at(CHILD), attach);
    let [Message::Attached { beat, .. }] = &attached[..] else {
        panic!("{attached:?}");
    };
    let token = beat.token;
    let seq = source.send(now, b"hello").expect("it is the source");
    sent(&mut source, at(CHILD));
    let want = |cookie| Message::Want {
        token,
        cookie,
        ranges: vec![(seq, 1)],
    };
    let repaired = |source: &mut Member, from| {
        source.handle_timeout(now + Duration::from_millis(100));
        let sent = sent(source, from);
        let is_it =
            |message: &Message| matches!(message, Message::Data(Data { seq: s, .. }) if *s == seq);
        sent.iter().any(is_it)
    };
    // The child has proven where it is.
    assert!(ask(&mut source, now, at(CHILD), want(0)).is_empty());
    assert!(repaired(&mut source, at(CHILD)));
    // Somebody else who knows the token gets no more octets than it has sent, until it has, too.
    let other = at("10.0.0.3:1");
    let told = ask(&mut source, now, other, want(found.cookie));
    let [
        Message::Prove {
            cookie,
            token: told,
        },
    ] = told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!(told, token);
    assert!(!repaired(&mut source, other));
    assert!(ask(&mut source, now, other, want(cookie)).is_empty());
    assert!(repaired(&mut source, other));
    // What is proven for one address is none for another.
    let third = at("10.0.0.4:1");
    assert_eq!(ask(&mut source, now, third, want(cookie)).len(), 1);
    assert!(!repaired(&mut source, third));
}
