use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    message::{Kind, Message, Request},
    record::{Record, Standing},
    *,
};
use crate::{
    id::Id,
    krpc::signing_key,
    runtime::{Mode, Protocol as _, Random, Transmit},
    signed::{Purpose, Signed},
};

const OVERLAY: &[u8] = b"test";

fn address(at: usize) -> SocketAddr {
    ([198, 51, 100, at as u8 + 1], 4000).into()
}

/// Members that reach each other at once; time goes on when nobody has anything to say.
struct World {
    now: Instant,
    members: Vec<Members>,
    dead: Vec<SocketAddr>,
    events: Vec<(usize, Event)>,
    sent: Vec<(usize, Transmit)>,
}

impl World {
    fn new(count: usize) -> Self {
        let member = |at: usize| {
            let key = signing_key([at as u8 + 1; 32]);
            let config = MembersConfig::new(OVERLAY, key, vec![address(at)]);
            Members::new(config, Random::from_number(at as u64))
        };
        let mut world = Self {
            now: Instant::now(),
            members: (0..count).map(member).collect(),
            dead: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
        };
        for at in 1..count {
            let now = world.now;
            world.members[at].join(now, &[address(0)]);
            world.run(5);
        }
        // Until nobody has news, but no longer than it takes to be heard of in any case.
        for _ in 0..40 {
            world.run(15);
            if world
                .members
                .iter()
                .all(|member| member.present().count() == count - 1)
            {
                break;
            }
        }
        world
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        loop {
            let mut quiet = true;
            for at in 0..self.members.len() {
                while let Some(transmit) = self.members[at].poll_transmit() {
                    quiet = false;
                    for (place, to) in transmit.to.iter().enumerate() {
                        let place_of = (0..self.members.len()).find(|at| address(*at) == *to);
                        if let Some(receiver) = place_of.filter(|_| !self.dead.contains(to)) {
                            let datagram = transmit.datagram(place);
                            assert!(datagram.len() <= 1024, "{} octets", datagram.len());
                            self.members[receiver].handle(self.now, address(at), datagram);
                        }
                    }
                    self.sent.push((at, transmit));
                }
                while let Some(event) = self.members[at].poll_event() {
                    self.events.push((at, event));
                }
            }
            if !quiet {
                continue;
            }
            let next = self.members.iter().filter_map(Members::poll_timeout).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = next.max(self.now);
            for member in &mut self.members {
                member.handle_timeout(self.now);
            }
        }
        self.now = end;
    }

    fn id(&self, at: usize) -> Id {
        self.members[at].id()
    }

    fn knows(&self, at: usize, id: Id) -> bool {
        self.members[at].present().any(|known| known == id)
    }

    fn inject(&mut self, from: SocketAddr, to: usize, request: Request) {
        let message = Message {
            transaction: Bytes::from_static(b"12345678"),
            overlay: Bytes::from_static(OVERLAY),
            kind: Kind::Request(request),
        };
        self.members[to].handle(self.now, from, message.encode().datagram(0));
        self.run(20);
    }
}

/// A datagram of a message, with another version.
fn with_version(message: &Message, version: i64) -> Bytes {
    let datagram = message.encode().datagram(0);
    let said = b"2:xci1e";
    let at = datagram.windows(said.len()).rposition(|part| part == said);
    let (before, after) = datagram.split_at(at.expect("a version"));
    let version = format!("2:xci{version}e");
    [before, version.as_bytes(), &after[said.len()..]]
        .concat()
        .into()
}

/// Members do not hear what has another version: nothing is changed, and nothing answered.
#[test]
fn another_version_is_not_heard() {
    for (version, heard) in [(1, true), (0, false), (2, false)] {
        let mut world = World::new(3);
        let leaver = world.id(2);
        let key = signing_key([3; 32]);
        let record = Record {
            seq: 1_000_000,
            standing: Standing::Left,
            addresses: vec![address(2)],
        };
        let signed = Signed::new(&key, Purpose::Record, OVERLAY, record.body());
        let message = Message {
            transaction: Bytes::from_static(b"12345678"),
            overlay: Bytes::from_static(OVERLAY),
            kind: Kind::Request(Request::News(vec![signed])),
        };
        let now = world.now;
        let datagram = with_version(&message, version);
        world.members[0].handle(now, address(2), datagram);
        let answered = world.members[0].poll_transmit().is_some();
        assert_eq!(
            (answered, !world.knows(0, leaver)),
            (heard, heard),
            "version {version}"
        );
        let malformed = world.members[0].rejected().malformed;
        assert_eq!(malformed, u64::from(!heard), "version {version}");
    }
}

#[test]
fn all_find_each_other_by_way_of_one() {
    let world = World::new(10);
    for at in 0..10 {
        assert_eq!(world.members[at].present().count(), 9, "member {at}");
    }
}

#[test]
fn a_leave_is_one_message_to_all_and_a_forged_one_evicts_nobody() {
    let mut world = World::new(8);
    let victim = world.id(3);
    let record = Record {
        seq: 1_000_000,
        standing: Standing::Left,
        addresses: vec![address(3)],
    };
    // Signed by somebody else; with the victim's key but another's signature; and a true one that
    // was signed for another overlay.
    let own = Signed::new(
        &signing_key([99; 32]),
        Purpose::Record,
        OVERLAY,
        record.body(),
    );
    let mut stolen = own.clone();
    stolen.key = signing_key([4; 32]).verifying_key().to_bytes();
    let elsewhere = Signed::new(
        &signing_key([4; 32]),
        Purpose::Record,
        b"other",
        record.body(),
    );
    for forged in [own, stolen, elsewhere] {
        world.inject(address(3), 5, Request::News(vec![forged]));
        assert!(world.knows(5, victim));
    }
    assert_eq!(world.members[5].rejected().forged, 2);
    world.sent.clear();
    let now = world.now;
    world.members[3].leave(now);
    world.run(5);
    let leave: Vec<&Transmit> = world
        .sent
        .iter()
        .filter(|(at, transmit)| *at == 3 && transmit.mode == Mode::Shared)
        .map(|(_, transmit)| transmit)
        .collect();
    assert_eq!((leave.len(), leave[0].to.len()), (1, 7));
    for at in (0..8).filter(|at| *at != 3) {
        assert!(!world.knows(at, victim));
        assert!(world.events.contains(&(at, Event::Left { id: victim })));
    }
    // What it said when it joined says nothing now.
    let old = Record {
        seq: 2,
        standing: Standing::Present,
        addresses: vec![address(3)],
    };
    let old = Signed::new(&signing_key([4; 32]), Purpose::Record, OVERLAY, old.body());
    world.inject(address(3), 5, Request::News(vec![old]));
    assert!(!world.knows(5, victim));
    assert!(world.members[5].rejected().old > 0);
}

#[test]
fn who_does_not_answer_is_no_member() {
    let mut world = World::new(4);
    // A true record, with the address of somebody who knows nothing of it.
    let key = signing_key([77; 32]);
    let id = member_id(&key.verifying_key().to_bytes());
    let record = Record {
        seq: 5,
        standing: Standing::Present,
        addresses: vec![address(200)],
    };
    let signed = Signed::new(&key, Purpose::Record, OVERLAY, record.body());
    world.inject(address(200), 2, Request::News(vec![signed]));
    assert!(!world.knows(2, id));
    // And who dies without a word is gone in the end.
    world.dead.push(address(1));
    let gone = world.id(1);
    for _ in 0..3 {
        let (now, state) = (world.now, Bytes::from_static(b"here"));
        world.members[2].exchange_state(now, &[gone], state);
        world.run(30);
    }
    assert!(world.events.contains(&(2, Event::Gone { id: gone })));
}

#[test]
fn state_is_exchanged_and_tables_are_passed_on() {
    let mut world = World::new(6);
    world.members[4].exchange_state(world.now, &[], "four");
    let (now, to) = (world.now, [world.id(4), world.id(5)]);
    world.members[2].exchange_state(now, &to, "two");
    world.run(2);
    let told = |of: usize, by: usize, text: &str| {
        let id = world.members[by].id();
        world.events.iter().any(|(at, event)| {
            *at == of
                && matches!(event, Event::State { id: i, state, .. } if *i == id && state == text)
        })
    };
    assert!(told(4, 2, "two") && told(5, 2, "two"), "asked");
    assert!(told(2, 4, "four"), "answered");
    // A newcomer that knows one other learns of more from that one's table.
    let mut newcomer = Members::new(
        MembersConfig::new(OVERLAY, signing_key([50; 32]), vec![address(6)]),
        Random::from_number(50),
    );
    let now = world.now;
    newcomer.join(now, &[address(0)]);
    world.members.push(newcomer);
    world.run(1);
    let (now, to) = (world.now, [world.id(6)]);
    let of: Vec<Id> = (1..6).map(|at| world.id(at)).collect();
    world.members[0].push_table(now, &to, &of);
    world.run(10);
    assert_eq!(world.members[6].present().count(), 6);
}

#[test]
fn an_event_goes_to_all_subscribers_by_one_message_and_counts_once() {
    let mut world = World::new(7);
    let publisher = world.id(0);
    for at in 1..6 {
        let now = world.now;
        world.members[at].subscribe(now, publisher, "news", true);
    }
    world.run(2);
    world.sent.clear();
    let now = world.now;
    assert_eq!(world.members[0].publish(now, "news", "first"), 5);
    world.run(2);
    let shared = world
        .sent
        .iter()
        .filter(|(at, t)| *at == 0 && t.mode == Mode::Shared);
    assert_eq!(shared.count(), 1);
    let told: BTreeMap<usize, usize> = world
        .events
        .iter()
        .filter(|(_, event)| matches!(event, Event::Notified { data, .. } if data == "first"))
        .fold(BTreeMap::new(), |mut told, (at, _)| {
            *told.entry(*at).or_default() += 1;
            told
        });
    assert_eq!(told, (1..6).map(|at| (at, 1)).collect());
    // The same event again, from somewhere else; and one that the publisher has not signed.
    let (_, event) = world
        .sent
        .iter()
        .find(|(at, t)| *at == 0 && t.mode == Mode::Shared)
        .expect("the event");
    let datagram = event.datagram(0);
    let now = world.now;
    let before = world.events.len();
    world.members[1].handle(now, address(99), datagram);
    world.run(1);
    assert_eq!(world.events.len(), before);
    // Who unsubscribes hears no more, and an old subscription cannot be repeated.
    world.sent.clear();
    let now = world.now;
    world.members[2].subscribe(now, publisher, "news", false);
    world.run(2);
    let now = world.now;
    assert_eq!(world.members[0].publish(now, "news", "second"), 4);
    assert_eq!(world.members[0].publish(now, "other", "nobody"), 0);
}

#[test]
fn messages_of_others_are_not_for_members() {
    assert!(!is_for_members(
        b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe"
    ));
    assert!(!is_for_members(b"nothing"));
    let message = Message {
        transaction: Bytes::from_static(b"12345678"),
        overlay: Bytes::from_static(OVERLAY),
        kind: Kind::Request(Request::State {
            sender: Id::default(),
            state: Bytes::new(),
        }),
    };
    let datagram = message.encode().datagram(0);
    assert!(is_for_members(&datagram));
    assert_eq!(Message::decode(&datagram), Some(message));
    for end in 0..datagram.len() {
        assert_eq!(Message::decode(&datagram.slice(..end)), None);
    }
}
