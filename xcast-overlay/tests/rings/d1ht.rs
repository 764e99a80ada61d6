//! D1HT.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use xcast_overlay::{
    d1ht::{
        Change, Config, Counters, Event, Grouping, News, Peer, Theta, expected_messages, levels,
        theta,
    },
    krpc::Family,
    ring::{Contact, Position},
    runtime::{Mode, Protocol as _, Random, Transmit},
};

use crate::network::{Faults, LOSSY, Network, address, note, peers};

const THETA: Duration = Duration::from_secs(2);

fn config(at: usize, family: Family) -> Config {
    Config {
        theta: Theta::Fixed(THETA),
        compare_intervals: None,
        ..Config::new("test", address(at, family))
    }
}

/// A ring of peers that know each other.
fn ring(seed: u64, count: usize, config: impl Fn(usize) -> Config) -> Network<Peer> {
    let mut network = Network::new(seed);
    let mut all: Vec<Contact> = (0..count)
        .map(|at| Contact::of(config(at).address))
        .collect();
    all.sort_by_key(|peer| peer.position);
    let all: Arc<[Contact]> = all.into();
    for at in 0..count {
        let random = Random::new(network.random.octets());
        let config = config(at);
        let address = config.address;
        let peer = Peer::with_table(network.now, config, random, all.clone());
        network.put(&[address], peer);
    }
    network
}

fn join(network: &mut Network<Peer>, config: Config) -> usize {
    let by = network.random_living();
    let by = network.address(by);
    let random = Random::new(network.random.octets());
    let address = config.address;
    let at = network.put(&[address], Peer::new(config, random));
    network.act(at, |peer, now| peer.join(now, &[by]));
    at
}

fn add(sum: &mut Counters, of: Counters) {
    sum.intervals += of.intervals;
    sum.messages += of.messages;
    sum.packets += of.packets;
    sum.octets += of.octets;
    sum.unicast_octets += of.unicast_octets;
    sum.events += of.events;
    sum.repeated_events += of.repeated_events;
    sum.reported += of.reported;
    sum.redirected += of.redirected;
    sum.differences += of.differences;
}

fn counters(network: &Network<Peer>) -> Counters {
    let mut sum = Counters::default();
    for at in network.living() {
        add(&mut sum, network.node(at).counters());
    }
    sum
}

/// How many entries of all tables are wrong: of peers that are gone, or missing. Of more than 1000
/// peers only some tables are looked at.
fn wrong(network: &Network<Peer>) -> usize {
    let living = network.living();
    let members: Vec<usize> = living
        .into_iter()
        .filter(|at| network.node(*at).is_member())
        .collect();
    let true_table: std::collections::BTreeSet<Contact> = members
        .iter()
        .map(|at| network.node(*at).contact())
        .collect();
    let of = |at: &usize| {
        let table = network.node(*at).table();
        let known = table.from(Position(0));
        let right = known.filter(|peer| true_table.contains(peer)).count();
        table.len() + true_table.len() - 2 * right
    };
    let step = members.len().div_ceil(1000).max(1);
    members.iter().step_by(step).map(of).sum()
}

#[derive(Clone, Copy, Debug)]
enum How {
    Join,
    Leave,
    Crash,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// In a ring of any size, each event reaches each peer exactly once, within rho x Theta.
    #[test]
    fn each_event_reaches_each_peer_exactly_once(
        seed: u64,
        count in 2usize..150,
        how in prop::sample::select(vec![How::Join, How::Leave, How::Crash]),
        grouping in prop::sample::select(vec![Grouping::Unicast, Grouping::One, Grouping::Ends]),
        ipv6: bool,
    ) {
        let family = if ipv6 { Family::Ipv6 } else { Family::Ipv4 };
        let config = |at: usize| Config { grouping, ..config(at, family) };
        let mut network = ring(seed, count, config);
        network.run_for(THETA * 3);
        prop_assert!(network.events.is_empty());
        let subject = match how {
            How::Join => join(&mut network, config(count)),
            How::Leave => {
                let at = network.random_living();
                network.act(at, Peer::leave);
                at
            }
            How::Crash => {
                let at = network.random_living();
                network.kill(at);
                at
            }
        };
        // Two intervals and repeated questions until a crash is seen, then rho intervals.
        network.run_for(THETA * (levels(count + 1) + 2) + Duration::from_secs(30));
        let peer = Contact::of(network.address(subject));
        let change = if matches!(how, How::Join) { Change::Joined } else { Change::Left };
        let mut told: BTreeMap<usize, usize> = BTreeMap::new();
        let mut times = Vec::new();
        for (time, at, event) in &network.events {
            if let Event::News { news, .. } = event {
                prop_assert_eq!(*news, News { peer, change });
                *told.entry(*at).or_default() += 1;
                times.push(*time);
            }
        }
        let others: BTreeMap<usize, usize> =
            (0..count).filter(|at| *at != subject).map(|at| (at, 1)).collect();
        prop_assert_eq!(told, others);
        prop_assert_eq!(counters(&network).repeated_events, 0);
        // A message is up to 90 ms under way, once a level.
        let bound = (THETA + Duration::from_millis(90)) * levels(count + 1);
        if let (Some(first), Some(last)) = (times.first(), times.last()) {
            prop_assert!(*last - *first <= bound, "{:?}", *last - *first);
        }
        if !matches!(how, How::Leave) || count > 1 {
            prop_assert_eq!(wrong(&network), 0);
        }
    }
}

/// IP and UDP headers and content, on the sender's link and on those of the receivers: by this
/// test's own reckoning.
fn octets_at_ends(transmit: &Transmit) -> usize {
    let content = transmit.datagram(0).len();
    let count = transmit.to.len();
    let (ip, entry, fixed) = match Family::of(&transmit.to[0]) {
        Family::Ipv4 => (20, 4, 16),
        Family::Ipv6 => (40, 16, 32),
    };
    let alone = ip + 8 + content;
    match (transmit.mode, count) {
        (Mode::Shared, 2..) => alone + fixed + entry * count + alone * count,
        _ => 2 * alone * count,
    }
}

proptest! {
    /// Whatever a peer hears in an interval, its packets bear no more octets than unicast's, and
    /// all receivers take the same events from them.
    #[test]
    fn packets_of_an_interval_never_have_more_octets_than_unicast(
        seed: u64,
        count in 2usize..3000,
        heard in prop::collection::vec((any::<prop::sample::Index>(), 0u8..12), 0..60),
        ipv6: bool,
        max_datagram_octets in 200usize..1300,
    ) {
        let family = if ipv6 { Family::Ipv6 } else { Family::Ipv4 };
        let mut all: Vec<Contact> = (0..count).map(|at| Contact::of(address(at, family))).collect();
        all.sort_by_key(|peer| peer.position);
        let all: Arc<[Contact]> = all.into();
        let now = std::time::Instant::now();
        let me = all[0];
        let of_grouping = |grouping| {
            let config = Config {
                grouping,
                max_datagram_octets,
                theta: Theta::Fixed(THETA),
                compare_intervals: None,
                ..Config::new("test", me.address)
            };
            let mut peer = Peer::with_table(now, config, Random::from_number(seed), all.clone());
            // Peers that leave say so to whom they take for their successor; it tells.
            for (who, level) in &heard {
                let subject = all[who.index(count)];
                if subject != me && *level < levels(count) as u8 {
                    let mut message = vec![0xf5, 0x58, 1, 0x11];
                    message.extend_from_slice(overlay_octets());
                    message.extend_from_slice(&[7; 8]);
                    message.push(0x80 | level);
                    message.extend_from_slice(&[0x20 | (level + 1), 1]);
                    match subject.address.ip() {
                        std::net::IpAddr::V4(ip) => message.extend_from_slice(&ip.octets()),
                        std::net::IpAddr::V6(ip) => message.extend_from_slice(&ip.octets()),
                    }
                    let from = peer.table().predecessor(me.position).expect("somebody");
                    peer.handle(now, from.address, Bytes::from(message));
                }
            }
            while peer.poll_transmit().is_some() {}
            peer.handle_timeout(now + THETA);
            let transmits: Vec<Transmit> = std::iter::from_fn(|| peer.poll_transmit()).collect();
            (peer.counters(), transmits)
        };
        let (unicast, single) = of_grouping(Grouping::Unicast);
        let (shared, packets) = of_grouping(Grouping::Ends);
        let (one, in_one) = of_grouping(Grouping::One);
        let octets = |list: &[Transmit]| list.iter().map(octets_at_ends).sum::<usize>();
        prop_assert_eq!(unicast.octets, octets(&single) as u64);
        prop_assert_eq!(shared.octets, octets(&packets) as u64);
        prop_assert_eq!(one.octets, octets(&in_one) as u64);
        prop_assert_eq!(unicast.octets, unicast.unicast_octets);
        prop_assert!(shared.octets <= unicast.octets);
        prop_assert_eq!(shared.messages, unicast.messages);
        prop_assert!(packets.len() <= single.len());
        let events = heard.iter().filter(|(_, level)| *level > 0).count();
        prop_assert!(events > 0 || unicast.messages == 1);
    }

    /// Any octets, in any order and at any time: no panic, and the peer goes on.
    #[test]
    fn any_datagrams_do_no_harm(
        seed: u64,
        steps in prop::collection::vec(
            (0u8..20, 0usize..40, 0u64..3000, prop_oneof![
                Just(Vec::new()),
                prop::collection::vec(any::<u8>(), 0..80),
            ]),
            0..120,
        ),
        member: bool,
    ) {
        let family = Family::Ipv4;
        let mut all: Vec<Contact> = (0..20).map(|at| Contact::of(address(at, family))).collect();
        all.sort_by_key(|peer| peer.position);
        let mut now = std::time::Instant::now();
        let random = Random::from_number(seed);
        let mut peer = if member {
            Peer::with_table(now, config(0, family), random, all.into())
        } else {
            let mut peer = Peer::new(config(0, family), random);
            peer.join(now, &[address(1, family)]);
            peer
        };
        let mut last_sent = vec![0xf5; 16];
        for (kind, from, wait, body) in steps {
            now += Duration::from_millis(wait);
            if peer.poll_timeout().is_some_and(|at| at <= now) {
                peer.handle_timeout(now);
            }
            let mut datagram = last_sent.clone();
            datagram.truncate(16);
            if kind < 16 {
                datagram[3] = 0x10 | kind;
            }
            datagram.extend_from_slice(&body);
            peer.handle(now, address(from, family), datagram.into());
            while let Some(transmit) = peer.poll_transmit() {
                prop_assert!(!transmit.to.is_empty());
                last_sent = transmit.datagram(0).to_vec();
            }
            prop_assert!(peer.poll_timeout().is_none_or(|at| at > now));
            prop_assert!(peer.table().get(peer.contact().position).is_some());
        }
    }
}

/// How the overlay `test` is named in messages: what a peer of it says first.
fn overlay_octets() -> &'static [u8] {
    static OCTETS: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    OCTETS.get_or_init(|| {
        let mut peer = Peer::new(config(0, Family::Ipv4), Random::from_number(1));
        peer.join(std::time::Instant::now(), &[address(1, Family::Ipv4)]);
        let first = peer.poll_transmit().expect("a question").datagram(0);
        first[4..8].to_vec()
    })
}

/// Peers come and go, each time one for another, so many events a second. Gives what those that are
/// gone have done.
fn churn(
    network: &mut Network<Peer>,
    events: f64,
    time: Duration,
    config: impl Fn(usize) -> Config,
) -> Counters {
    let mut gone = Counters::default();
    let end = network.now + time;
    loop {
        // Exponential times between changes; a change is a leave and a join.
        let unit = (network.random.below(1 << 30) + 1) as f64 / f64::from(1 << 30);
        let wait = Duration::from_secs_f64(-unit.ln() * 2.0 / events);
        if network.now + wait >= end {
            let rest = end - network.now;
            network.run_for(rest);
            return gone;
        }
        network.run_for(wait);
        let at = network.random_living();
        if network.random.below(2) == 0 {
            network.act(at, Peer::leave);
            network.run_for(Duration::from_millis(200));
        }
        add(&mut gone, network.node(at).counters());
        network.kill(at);
        let new = network.nodes.len();
        join(network, config(new));
    }
}

#[test]
fn messages_of_an_interval_are_as_many_as_the_theory_says() {
    let count = peers(if cfg!(debug_assertions) { 400 } else { 1000 });
    let session = Duration::from_secs(3600);
    let theta = theta(0.01, session, count);
    let intervals = (200_000 / count as u32).clamp(20, 100);
    for grouping in [Grouping::Unicast, Grouping::Ends, Grouping::One] {
        let config = |at: usize| Config {
            theta: Theta::Fixed(theta),
            grouping,
            ..config(at, Family::Ipv4)
        };
        let mut network = ring(7, count, config);
        let rate = 2.0 * count as f64 / session.as_secs_f64();
        churn(&mut network, rate, theta * (2 * levels(count)), config);
        let before = counters(&network);
        let sent = network.sent;
        let began = network.now;
        let mut after = churn(&mut network, rate, theta * intervals, config);
        add(&mut after, counters(&network));
        let intervals = (network.now - began).as_secs_f64() / theta.as_secs_f64() * count as f64;
        let each = |a: u64, b: u64| a.saturating_sub(b) as f64 / intervals;
        let events = each(after.events, before.events);
        let messages = each(after.messages, before.messages);
        let expected = expected_messages(count, events);
        println!(
            "{count} peers, {grouping:?}: {events:.2} events, {messages:.3} messages ({expected:.3} \
             expected) in {:.3} packets an interval; octets {:.1} by unicast {:.1}; all packets \
             {:.3} for {:.3} receivers; {} wrong entries of {}, {} events twice",
            each(after.packets, before.packets),
            each(after.octets, before.octets),
            each(after.unicast_octets, before.unicast_octets),
            each(network.sent.packets(), sent.packets()),
            each(network.sent.receivers(), sent.receivers()),
            wrong(&network),
            count * count.min(1000),
            after.repeated_events - before.repeated_events,
        );
        assert!(
            (messages / expected - 1.0).abs() < 0.03,
            "{messages} instead of {expected}"
        );
        assert!(after.octets <= after.unicast_octets || grouping == Grouping::One);
        // At most 1 % of the entries are stale on average: what Theta is for.
        assert!(wrong(&network) < count * count.min(1000) / 50);
    }
}

#[test]
fn tables_are_right_after_churn_with_loss() {
    let count = peers(if cfg!(debug_assertions) { 120 } else { 600 });
    for family in Family::ALL {
        let config = |at: usize| Config {
            compare_intervals: Some(2),
            ..config(at, family)
        };
        let mut network = ring(8, count, config);
        network.faults = Faults {
            jitter: Duration::from_millis(200),
            ..LOSSY
        };
        churn(&mut network, 1.0, THETA * 60, config);
        let during = wrong(&network);
        let right = network.run_until(Duration::from_secs(3600), |network| wrong(network) == 0);
        println!(
            "{family:?}: {during} wrong entries of {}, {:?}",
            count * count,
            counters(&network)
        );
        assert!(right, "{} entries are wrong", wrong(&network));
        assert_eq!(network.living().len(), count);
    }
}

/// Nothing but acknowledgements and repetition sees to it that all are told: tables are not compared. (Where
/// one event has not reached everybody when the next peer joins, that takes comparing.)
#[test]
fn all_are_told_although_packets_are_lost() {
    let run = |retries| {
        let config = |at: usize| {
            let mut config = config(at, Family::Ipv4);
            config.policy.retries = retries;
            config
        };
        let mut network = ring(12, 100, config);
        network.faults = Faults {
            first_link_loss: 10,
            loss: 20,
            ..Faults::default()
        };
        for at in 100..120 {
            join(&mut network, config(at));
            network.run_for(THETA * 10);
        }
        println!("{retries} retries: {:?}", counters(&network));
        (wrong(&network), counters(&network))
    };
    let (wrong, all) = run(3);
    assert_eq!(wrong, 0);
    // Again only where an acknowledgement was lost.
    assert!(all.repeated_events * 20 < all.events, "{all:?}");
    assert!(run(0).0 > 0);
}

/// Peers come and go, and messages to those that are gone go to the next: few events are heard of twice.
#[test]
fn events_are_seldom_repeated_under_churn() {
    let config = |at: usize| config(at, Family::Ipv4);
    let mut network = ring(13, 120, config);
    let mut all = churn(&mut network, 1.0, THETA * 60, config);
    add(&mut all, counters(&network));
    println!("{all:?}");
    assert!(all.events > 5000, "{all:?}");
    assert!(all.repeated_events * 8 < all.events, "{all:?}");
}

#[test]
fn three_in_ten_die_at_once() {
    let count = peers(if cfg!(debug_assertions) { 150 } else { 1000 });
    let config = |at: usize| Config {
        compare_intervals: Some(2),
        ..config(at, Family::Ipv4)
    };
    let mut network = ring(9, count, config);
    network.run_for(THETA * 2);
    for at in 0..count {
        if network.random.below(10) < 3 {
            network.kill(at);
        }
    }
    let began = network.now;
    let right = network.run_until(Duration::from_secs(3 * 3600), |network| wrong(network) == 0);
    println!(
        "right after {:?}; {:?}",
        network.now - began,
        counters(&network)
    );
    assert!(right, "{} entries are wrong", wrong(&network));
}

/// Who leaves takes no events with it: those that it gets meanwhile go to its successor.
#[test]
fn events_do_not_end_with_those_who_leave() {
    let count = peers(100);
    let mut network = ring(11, count, |at| config(at, Family::Ipv4));
    network.run_for(THETA * 3);
    for leaves in 0..10 {
        let next = network.node(leaves).table();
        let next = next.ahead(network.node(leaves).contact().position, 1);
        let next = next.and_then(|next| network.place(next.address));
        let next = next.expect("a successor");
        // The leave takes long, since the answers of the successor are lost.
        network.blocked = Some(Box::new(move |from, to, _| (from, to) == (next, leaves)));
        network.act(leaves, Peer::leave);
        // Meanwhile another one goes.
        let others = leaves + 1..network.nodes.len();
        let other = others
            .rev()
            .find(|at| *at != next && network.node(*at).is_member());
        network.act(other.expect("another"), Peer::leave);
        network.run_for(THETA * levels(count) * 2);
    }
    let left = network.events.iter();
    let left = left.filter(|(_, _, event)| matches!(event, Event::Left));
    assert_eq!(left.count(), 20);
    assert_eq!(wrong(&network), 0);
}

/// Who leaves while nobody answers it does not try all others first.
#[test]
fn who_is_cut_off_leaves_in_time() {
    let mut network = ring(12, peers(300), |at| config(at, Family::Ipv4));
    network.run_for(THETA * 3);
    network.blocked = Some(Box::new(|from, _, _| from == 7));
    network.act(7, Peer::leave);
    network.run_for(Duration::from_secs(180));
    let left = network.events.iter();
    let left = left.filter(|(_, at, event)| *at == 7 && matches!(event, Event::Left));
    assert_eq!(left.count(), 1);
}

#[test]
fn a_network_grows_from_one_and_look_ups_ask_one_peer() {
    let count = if cfg!(debug_assertions) { 100 } else { 400 };
    let config = |at: usize, family| Config {
        compare_intervals: Some(2),
        ..config(at, family)
    };
    let mut network = Network::new(10);
    let first = config(0, Family::Ipv6);
    let address = first.address;
    network.put(&[address], Peer::new(first, Random::from_number(1)));
    network.act(0, Peer::found_overlay);
    for at in 1..count {
        join(&mut network, config(at, Family::Ipv6));
        network.run_for(Duration::from_millis(1500));
    }
    let right = network.run_until(Duration::from_secs(120), |network| {
        network
            .living()
            .iter()
            .all(|at| network.node(*at).is_member())
            && wrong(network) == 0
    });
    assert!(right, "{} entries are wrong", wrong(&network));
    network.events.clear();
    for number in 0..200u64 {
        let at = network.random_living();
        network.act(at, |peer, now| {
            peer.lookup(now, Position(number << 56 | number))
        });
    }
    network.run_for(Duration::from_secs(2));
    let mut found = 0;
    for (_, at, event) in &network.events {
        if let Event::Found {
            key, owner, hops, ..
        } = event
        {
            found += 1;
            assert_eq!(*owner, network.node(*at).table().successor(*key));
            assert!(*hops <= 1);
        }
    }
    assert_eq!(found, 200);
}

#[test]
fn who_is_wrongly_said_to_be_gone_says_that_it_is_there() {
    let mut network = ring(11, 40, |at| config(at, Family::Ipv4));
    network.run_for(THETA * 2);
    // Silent for a while: everything to and from it is lost.
    let victim = 7;
    let peer = network.node(victim).clone();
    network.kill(victim);
    network.run_for(THETA * 10 + Duration::from_secs(20));
    let gone = Contact::of(network.address(victim));
    assert!(
        network
            .living()
            .iter()
            .all(|at| network.node(*at).table().get(gone.position).is_none())
    );
    network.nodes[victim] = Some(peer);
    network.act(victim, |peer, now| peer.handle_timeout(now));
    let back = network.run_until(Duration::from_secs(120), |network| wrong(network) == 0);
    assert!(back, "{} entries are wrong", wrong(&network));
}

#[test]
fn the_same_seed_gives_the_same_octets() {
    let run = || {
        let config = |at: usize| config(at, Family::Ipv4);
        let mut network = ring(12, 50, config);
        let noted = note(&mut network);
        let began = network.now;
        churn(&mut network, 0.5, THETA * 20, config);
        let all = noted.take();
        let all = all
            .into_iter()
            .map(|(at, from, transmit)| (at - began, from, transmit));
        all.collect::<Vec<_>>()
    };
    let first = run();
    assert!(first.len() > 1000);
    assert!(first == run());
}
