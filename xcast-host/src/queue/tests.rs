//! The queue against a model: what was pushed for each destination, in order, and a clock that is
//! moved by hand.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use proptest::prelude::*;
use xcast_common::wire::FLAG_P;

use super::*;
use crate::{envelope::Envelope, packet::packet_len};

fn address(number: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number as u8], 5000 + number))
}

fn tag(number: u16) -> Tag {
    Tag(1000 + u32::from(number))
}

fn message(to: &[u16], segments: &[&[u8]]) -> Message {
    Message::to_many(
        to.iter().map(|number| address(*number)).collect::<Vec<_>>(),
        segments
            .iter()
            .map(|octets| Bytes::copy_from_slice(octets))
            .collect::<Vec<_>>(),
    )
}

fn queue(limits: QueueLimits, opted_in: impl IntoIterator<Item = u16>) -> Queue {
    let mut queue = Queue::new(limits);
    for number in opted_in {
        queue.opt_in(address(number), tag(number)).unwrap();
    }
    queue
}

fn drain(queue: &mut Queue, now: Instant) -> Vec<Transmit> {
    std::iter::from_fn(|| queue.poll(now)).collect()
}

/// What the receiver at `to` makes of a payload.
fn received(transmit: &Transmit, to: SocketAddr, tag: Option<Tag>) -> Vec<u8> {
    let payload = transmit.payload();
    match (tag, Envelope::parse(&payload)) {
        (Some(tag), Ok(envelope)) => {
            let mut message = Vec::new();
            assert!(envelope.extract(tag, &mut message), "nothing for {to}");
            message
        }
        _ => payload.to_vec(),
    }
}

#[test]
fn the_same_content_becomes_one_ordinary_datagram() {
    let start = Instant::now();
    let mut queue = queue(QueueLimits::default(), []);
    for to in 1..=3 {
        queue
            .push(start, message(&[to], &[b"head", b"body"]))
            .unwrap();
    }
    queue.push(start, message(&[4], &[b"other"])).unwrap();
    assert!(queue.poll(start).is_none());
    let deadline = start + QueueLimits::default().max_delay;
    assert_eq!(queue.deadline(), Some(deadline));
    let out = drain(&mut queue, deadline);
    let forms: Vec<_> = out.iter().map(Transmit::form).collect();
    assert_eq!(forms, [Form::Multicast, Form::Unicast]);
    assert_eq!(out[0].payload(), &b"headbody"[..]);
    assert_eq!(out[0].destinations().len(), 3);
    assert!(queue.is_empty() && queue.deadline().is_none());
    let statistics = queue.statistics();
    assert_eq!((statistics.whole, statistics.alone), (3, 1));
    assert_eq!((statistics.unicast, statistics.no_overlap), (1, 2));
}

#[test]
fn shared_segments_become_an_envelope_for_those_who_open_it() {
    let start = Instant::now();
    let shared = [b's'; 100];
    let mut queue = queue(QueueLimits::default(), [1, 2]);
    for (to, own) in [(1, b"one"), (2, b"two"), (3, b"3.."), (4, b"4..")] {
        queue.push(start, message(&[to], &[&shared, own])).unwrap();
    }
    queue.flush();
    let out = drain(&mut queue, start);
    let forms: Vec<_> = out.iter().map(Transmit::form).collect();
    assert_eq!(forms, [Form::Envelope, Form::Unicast, Form::Unicast]);
    assert!(out[0].payload().len() < 150);
    let to_two = received(&out[0], address(2), Some(tag(2)));
    assert_eq!(to_two, [&shared[..], b"two"].concat());
    let apart = out[0].apart();
    assert_eq!(apart.len(), 2);
    assert_eq!(apart[1], (vec![address(2)], to_two.into()));
    assert_eq!(queue.statistics().partial, 2);
}

#[test]
fn full_packets_leave_at_once_and_take_earlier_ones_to_the_same_destination_along() {
    let start = Instant::now();
    let limits = QueueLimits {
        max_destinations: 2,
        ..QueueLimits::default()
    };
    let mut queue = queue(limits, []);
    queue.push(start, message(&[1], &[b"first"])).unwrap();
    queue.push(start, message(&[9], &[b"unrelated"])).unwrap();
    queue.push(start, message(&[1], &[b"second"])).unwrap();
    assert!(queue.poll(start).is_none());
    queue.push(start, message(&[2], &[b"second"])).unwrap();
    let out = drain(&mut queue, start);
    let payloads: Vec<_> = out.iter().map(Transmit::payload).collect();
    assert_eq!(payloads, [&b"first"[..], b"second"]);
    assert_eq!(queue.len(), 1);
    let statistics = queue.statistics();
    assert_eq!((statistics.left_full, statistics.left_order), (1, 1));
}

#[test]
fn the_same_message_twice_to_one_destination_is_two_packets() {
    let start = Instant::now();
    let mut queue = queue(QueueLimits::default(), []);
    for _ in 0..2 {
        queue.push(start, message(&[1, 2, 1], &[b"again"])).unwrap();
    }
    queue.flush();
    let out = drain(&mut queue, start);
    assert_eq!(out.len(), 2);
    assert!(
        out.iter()
            .all(|transmit| transmit.destinations().len() == 2)
    );
    assert_eq!(queue.statistics().reject_order, 1);
}

#[test]
fn a_full_queue_gives_the_message_back() {
    let start = Instant::now();
    let limits = QueueLimits {
        max_messages: 1,
        ..QueueLimits::default()
    };
    let mut queue = queue(limits, []);
    let pushed = message(&[1], &[b"x"]);
    queue.push(start, pushed.clone()).unwrap();
    let refused = queue.push(start, pushed.clone()).unwrap_err();
    assert_eq!(
        (refused.message, refused.reason),
        (pushed.clone(), Refusal::Full)
    );
    queue.flush();
    drain(&mut queue, start);
    queue.push(start, pushed).unwrap();
    let long = message(&[1], &[&[0; MAX_MESSAGE + 1]]);
    let refused = queue.push(start, long).unwrap_err();
    assert_eq!(refused.reason, Refusal::TooLong);
}

#[test]
fn what_begins_like_an_envelope_is_put_in_one() {
    let start = Instant::now();
    let mut queue = queue(QueueLimits::default(), [1]);
    let disguised =
        crate::envelope::emit_head([].iter(), [&[][..]].into_iter(), [(tag(1), 0)].into_iter());
    queue.push(start, message(&[1, 2], &[&disguised])).unwrap();
    let out = drain(&mut queue, start);
    assert_eq!(out.len(), 2);
    assert_eq!(received(&out[0], address(1), Some(tag(1))), disguised);
    assert_eq!(out[1].payload(), disguised);
}

#[test]
fn whoever_opts_out_gets_no_more_envelopes() {
    let start = Instant::now();
    let mut queue = queue(QueueLimits::default(), [1, 2]);
    let shared = [b's'; 100];
    queue.push(start, message(&[1], &[&shared, b"1"])).unwrap();
    queue.opt_out(address(1));
    assert!(queue.poll(start).is_some());
    queue.push(start, message(&[1], &[&shared, b"1"])).unwrap();
    queue.push(start, message(&[2], &[&shared, b"2"])).unwrap();
    queue.flush();
    assert_eq!(drain(&mut queue, start).len(), 2);
}

#[derive(Clone, Debug)]
enum Action {
    Push { to: Vec<u16>, segments: Vec<u8> },
    Wait { us: u64 },
    Flush,
    OptOut { to: u16 },
    OptIn { to: u16 },
}

fn action() -> impl Strategy<Value = Action> {
    let to = prop_oneof![
        8 => prop::collection::vec(0u16..12, 1),
        2 => prop::collection::vec(0u16..12, 0..9),
    ];
    let push = (to, prop::collection::vec(0u8..9, 0..5))
        .prop_map(|(to, segments)| Action::Push { to, segments });
    prop_oneof![
        60 => push,
        20 => (0u64..4000).prop_map(|us| Action::Wait { us }),
        1 => Just(Action::Flush),
        1 => (0u16..12).prop_map(|to| Action::OptOut { to }),
        1 => (0u16..12).prop_map(|to| Action::OptIn { to }),
    ]
}

/// A few segments of different lengths; one is empty, and one begins like an envelope.
fn segment(number: u8) -> Vec<u8> {
    match number {
        0 => Vec::new(),
        1 => [&MAGIC[..], &[1, 0, 0, 0]].concat(),
        _ => vec![number; [3, 40, 100, 400][usize::from(number) % 4]],
    }
}

fn limits() -> impl Strategy<Value = QueueLimits> {
    (
        0u64..3000,
        100usize..1500,
        1usize..12,
        60usize..1500,
        0usize..6,
        0u8..=100,
        1usize..40,
        1000usize..20_000,
    )
        .prop_map(
            |(us, max_payload, max_destinations, max_packet, budget, percent, messages, octets)| {
                QueueLimits {
                    max_delay: Duration::from_micros(us),
                    max_payload,
                    max_destinations,
                    max_packet,
                    budget,
                    min_overlap_percent: percent,
                    max_messages: messages,
                    max_octets: octets,
                }
            },
        )
}

/// What is still to come, by destination: when it was pushed, and its octets.
type Expected = BTreeMap<u16, VecDeque<(Instant, Vec<u8>)>>;

struct Model {
    expected: Expected,
    tags: HashMap<u16, Tag>,
    pushed: u64,
}

impl Model {
    /// Checks a packet, and takes what it delivers off what is expected.
    fn deliver(&mut self, transmit: &Transmit, now: Instant, limits: &QueueLimits) {
        let payload = transmit.payload();
        let combined = transmit.messages() > 1;
        let count = transmit.destinations().len();
        if combined {
            assert!(count <= limits.max_destinations);
            assert!(payload.len() <= limits.max_payload);
            assert!(packet_len(false, count, FLAG_P, payload.len()) <= limits.max_packet);
        }
        let mut seen = HashSet::new();
        for destination in transmit.destinations() {
            assert!(seen.insert(destination), "{destination} twice in a packet");
            let number = destination.port() - 5000;
            let tag = self.tags.get(&number).copied();
            if transmit.form() == Form::Envelope {
                assert!(tag.is_some(), "{destination} did not opt in");
            }
            let got = received(transmit, destination, tag);
            let expected = self.expected.entry(number).or_default().pop_front();
            let (since, octets) = expected.expect("something that was not pushed");
            assert_eq!(got, octets, "to {destination}");
            assert!(now - since <= limits.max_delay, "a deadline was missed");
        }
        let apart: usize = transmit.apart().iter().map(|(to, _)| to.len()).sum();
        assert_eq!(apart, count);
    }
}

fn run(limits: QueueLimits, opted_in: Vec<u16>, actions: Vec<Action>) {
    let mut now = Instant::now();
    let mut model = Model {
        expected: Expected::new(),
        tags: opted_in
            .iter()
            .map(|number| (*number, tag(*number)))
            .collect(),
        pushed: 0,
    };
    let mut queue = queue(limits, opted_in);
    let poll = |queue: &mut Queue, model: &mut Model, now| {
        for transmit in drain(queue, now) {
            model.deliver(&transmit, now, &limits);
        }
    };
    for action in actions {
        match action {
            Action::Push { to, segments } => {
                let segments: Vec<_> = segments.into_iter().map(segment).collect();
                let octets = segments.concat();
                let segments: Vec<_> = segments.iter().map(Vec::as_slice).collect();
                let message = message(&to, &segments);
                let cost = message.cost();
                match queue.push(now, message) {
                    Ok(()) => {
                        let unique: BTreeSet<_> = to.into_iter().collect();
                        model.pushed += u64::from(!unique.is_empty());
                        for to in unique {
                            let expected = model.expected.entry(to).or_default();
                            expected.push_back((now, octets.clone()));
                        }
                    }
                    Err(refused) => match refused.reason {
                        Refusal::TooLong => assert!(cost > limits.max_octets),
                        Refusal::Full => assert!(
                            queue.messages == limits.max_messages
                                || queue.octets + cost > limits.max_octets
                        ),
                    },
                }
                assert!(queue.messages <= limits.max_messages);
                assert!(queue.octets <= limits.max_octets);
            }
            Action::Wait { us } => {
                let end = now + Duration::from_micros(us);
                while let Some(deadline) = queue.deadline().filter(|at| *at <= end) {
                    now = now.max(deadline);
                    poll(&mut queue, &mut model, now);
                }
                now = end;
            }
            Action::Flush => queue.flush(),
            Action::OptOut { to } => {
                queue.opt_out(address(to));
                poll(&mut queue, &mut model, now);
                model.tags.remove(&to);
            }
            Action::OptIn { to } => {
                // A receiver that opts in may have ordinary datagrams under way that begin like an
                // envelope, so it waits for them first.
                queue.flush();
                poll(&mut queue, &mut model, now);
                queue.opt_in(address(to), tag(to)).unwrap();
                model.tags.insert(to, tag(to));
            }
        }
    }
    queue.flush();
    poll(&mut queue, &mut model, now);
    assert!(model.expected.values().all(VecDeque::is_empty), "lost");
    assert!(queue.is_empty() && queue.octets == 0 && queue.latest.is_empty());
    assert!(queue.by_content.is_empty() && queue.by_segment.is_empty());
    let statistics = queue.statistics();
    assert_eq!(statistics.pushed, model.pushed);
    let out = statistics.alone + statistics.whole + statistics.partial;
    // A message that begins like an envelope may leave in parts.
    assert!(out <= statistics.pushed && statistics.packets >= statistics.pushed.min(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn everything_is_delivered_once_in_order_and_in_time(
        limits in limits(),
        opted_in in prop::collection::btree_set(0u16..12, 0..12),
        actions in prop::collection::vec(action(), 0..150),
    ) {
        run(limits, opted_in.into_iter().collect(), actions);
    }

    /// Roomy limits and few contents: nearly everything is combined.
    #[test]
    fn everything_is_delivered_where_much_is_combined(
        actions in prop::collection::vec(action(), 0..300),
    ) {
        let limits = QueueLimits { max_delay: Duration::from_millis(50), ..QueueLimits::default() };
        run(limits, (0..12).collect(), actions);
    }

    #[test]
    fn nothing_is_combined_where_nothing_overlaps(to in prop::collection::vec(0u16..50, 1..60)) {
        let start = Instant::now();
        let mut queue = queue(QueueLimits::default(), 0..50);
        for (number, to) in to.iter().enumerate() {
            let own = number.to_be_bytes();
            queue.push(start, message(&[*to], &[&own])).unwrap();
        }
        queue.flush();
        let out = drain(&mut queue, start);
        prop_assert_eq!(out.len(), to.len());
        prop_assert!(out.iter().all(|transmit| transmit.form() == Form::Unicast));
    }
}
