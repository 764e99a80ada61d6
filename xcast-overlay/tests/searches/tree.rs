//! Trees under churn, loss and attack.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;
use xcast_overlay::{
    krpc::signing_key,
    runtime::Random,
    tree::{Config, Counters, Event, Member, Packets, Parents},
};

use crate::world::{Faults, ROUGH, World, address, size};

const NAME: &str = "news";

fn key() -> [u8; 32] {
    signing_key([1; 32]).verifying_key().to_bytes()
}

/// At most `degree` children in one packet.
fn narrow(mut config: Config, degree: usize) -> Config {
    config.packets = Packets {
        max_destinations: degree,
        ..Packets::default()
    };
    config.packets_per_message = 1;
    config
}

fn source(world: &mut World<Member>, at: SocketAddr, degree: usize) {
    let config = narrow(Config::source(NAME, signing_key([1; 32]), 1), degree);
    world.add(at, |now, random| Member::new(now, config, random));
}

/// A receiver that knows two others that came before it.
fn receiver(world: &mut World<Member>, at: SocketAddr, degree: usize) -> usize {
    receiver_with(world, at, degree, |_| {})
}

fn receiver_with(
    world: &mut World<Member>,
    at: SocketAddr,
    degree: usize,
    change: impl Fn(&mut Config),
) -> usize {
    let living = world.living();
    let mut bootstrap = vec![world.address(0)];
    let other = living[world.random.below(living.len())];
    bootstrap.push(world.address(other));
    bootstrap.dedup();
    let mut config = narrow(Config::receiver(NAME, key(), bootstrap), degree);
    change(&mut config);
    world.add(at, |now, random| Member::new(now, config, random))
}

/// A tree of so many members that have joined one after the other.
fn tree(seed: u64, members: usize, degree: usize, ipv6: bool) -> World<Member> {
    tree_with(seed, members, degree, ipv6, |_| {})
}

/// The same, and receivers have other settings.
fn tree_with(
    seed: u64,
    members: usize,
    degree: usize,
    ipv6: bool,
    change: impl Fn(&mut Config),
) -> World<Member> {
    let mut world = World::new(seed);
    source(&mut world, address(0, ipv6), degree);
    for at in 1..members {
        receiver_with(&mut world, address(at, ipv6), degree, &change);
        world.run_for(Duration::from_millis(100));
    }
    world.run_for(Duration::from_secs(5));
    world
}

fn send(world: &mut World<Member>, number: u64) -> u64 {
    let payload = number.to_be_bytes();
    world
        .act(0, |source, now| source.send(now, &payload))
        .expect("a short message of the source")
}

/// Who is connected to the source by parents that know of them; fails if there is a cycle.
fn connected(world: &World<Member>) -> BTreeSet<usize> {
    let mut connected = BTreeSet::from([0]);
    for at in world.living() {
        let mut way = vec![at];
        while let Some(parent) = world.node(*way.last().expect("one")).parent() {
            let parent = world.place(parent).expect("a place");
            assert!(!way.contains(&parent), "a cycle: {way:?} {parent}");
            let child = world.address(*way.last().expect("one"));
            let knows = |parent: &Member| parent.children().any(|known| known == child);
            if !world.nodes[parent].as_ref().is_some_and(knows) {
                break;
            }
            way.push(parent);
        }
        if way.contains(&0) {
            connected.insert(at);
        }
    }
    connected
}

/// The numbers that each member got; fails if one got something twice, or not in order.
fn delivered(world: &World<Member>) -> BTreeMap<usize, BTreeSet<u64>> {
    let mut got: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    for (_, at, event) in &world.events {
        if let Event::Message { seq, .. } = event {
            let got = got.entry(*at).or_default();
            assert!(got.last().is_none_or(|last| last < seq), "{seq} at {at}");
            got.insert(*seq);
        }
    }
    got
}

fn depths(world: &World<Member>) -> Vec<usize> {
    let mut depths = Vec::new();
    for at in world.living() {
        let depth = usize::from(world.node(at).status(world.now).depth);
        depths.resize(depths.len().max(depth + 1), 0);
        depths[depth] += 1;
    }
    depths
}

#[test]
fn all_join_and_each_message_leaves_as_few_packets() {
    for ipv6 in [false, true] {
        let members = size(300, 2000);
        let mut world = tree(1, members, 10, ipv6);
        assert_eq!(connected(&world).len(), members);
        // As flat as ten children each allow, but for one level.
        let (mut level, mut all, mut flat) = (1, 1, 0);
        while all < members {
            level *= 10;
            all += level;
            flat += 1;
        }
        let depths = depths(&world);
        assert!(depths.len() - 1 <= flat + 1, "{depths:?}");
        let inner = world
            .living()
            .into_iter()
            .filter(|at| world.node(*at).children().next().is_some());
        let inner = inner.count() as u64;
        let before = world.living().iter().fold((0, 0), |sum, at| {
            let counters = world.node(*at).counters();
            (
                sum.0 + counters.stream_packets,
                sum.1 + counters.stream_receivers,
            )
        });
        assert_eq!(before, (0, 0));
        for number in 0..20 {
            send(&mut world, number);
            world.run_for(Duration::from_millis(50));
        }
        world.run_for(Duration::from_secs(3));
        let got = delivered(&world);
        assert_eq!(got.len(), members - 1);
        assert!(got.values().all(|got| got.len() == 20));
        let counters: Vec<_> = world
            .living()
            .iter()
            .map(|at| world.node(*at).counters())
            .collect();
        let sum = |of: fn(&Counters) -> u64| counters.iter().map(of).sum::<u64>();
        let (packets, receivers) = (sum(|c| c.stream_packets), sum(|c| c.stream_receivers));
        assert_eq!(
            (packets, receivers),
            (20 * inner, 20 * (members as u64 - 1))
        );
        assert_eq!(
            sum(|c| c.duplicates) + sum(|c| c.forged) + sum(|c| c.lost),
            0
        );
        println!(
            "ipv6 {ipv6}: {members} members at depths {depths:?}, {inner} inner: a message is \
             {} packets to {} receivers; control {:.2} packets a member and second",
            packets / 20,
            receivers / 20,
            sum(|c| c.control_packets) as f64
                / (members as f64 * (world.now - world.start).as_secs_f64()),
        );
    }
}

/// Loss, duplicates, disorder and truncation: all is repaired.
#[test]
fn nothing_is_lost_in_rough_weather() {
    let members = size(120, 600);
    let mut world = tree(2, members, 6, false);
    world.faults = ROUGH;
    for number in 0..200 {
        send(&mut world, number);
        world.run_for(Duration::from_millis(50));
        connected(&world);
    }
    world.faults = Faults::default();
    world.run_for(Duration::from_secs(15));
    let got = delivered(&world);
    assert_eq!(got.len(), members - 1);
    for (at, got) in &got {
        let lost = world.node(*at).counters().lost;
        assert_eq!((got.len(), lost), (200, 0), "member {at}");
    }
    let repaired: u64 = world
        .living()
        .iter()
        .map(|at| world.node(*at).counters().repaired)
        .sum();
    let all = 200 * (members as u64 - 1);
    println!("{repaired} of {all} messages were repaired");
    assert!(repaired > all / 100);
}

/// A whole subtree misses a message that its parent never got: it comes from elsewhere.
#[test]
fn what_a_sibling_or_the_grandparent_has_is_not_lost() {
    let mut world = tree(3, 40, 3, false);
    // A member with children loses ten messages for good: nobody may send them to it.
    let victim = (1..40)
        .find(|at| world.node(*at).children().count() == 3)
        .expect("an inner member");
    let first = send(&mut world, 0) + 1;
    world.run_for(Duration::from_secs(1));
    let is_lost = move |datagram: &Bytes| {
        // Kind 10 is a message of the stream; its number is behind tag and signature.
        let seq = datagram
            .get(78..86)
            .and_then(|seq| seq.try_into().ok())
            .map(u64::from_be_bytes);
        datagram[5] == 10 && seq.is_some_and(|seq| (first..first + 10).contains(&seq))
    };
    // Neither may its children get them from it, nor it from anybody.
    world.blocked = Some(Box::new(move |from, to, datagram| {
        (from == victim || to == victim) && is_lost(datagram)
    }));
    for number in 1..=10 {
        send(&mut world, number);
        world.run_for(Duration::from_millis(20));
    }
    world.run_for(Duration::from_secs(60));
    let got = delivered(&world);
    for at in (1..40).filter(|at| *at != victim) {
        assert_eq!(got[&at].len(), 11, "member {at}");
        assert_eq!(world.node(at).counters().lost, 0);
    }
    let status = world.node(victim).status(world.now);
    assert_eq!(status.counters.lost, 10, "{status:?}");
}

/// The sum of a counter of all that live.
fn sum(world: &World<Member>, of: fn(&Counters) -> u64) -> u64 {
    let living = world.living().into_iter();
    living.map(|at| of(&world.node(at).counters())).sum()
}

/// An inner member dies, and those below look for a parent in vain for a while: only they were ever
/// orphans, and only the dead one is forgotten by its parent.
#[test]
fn an_outage_above_cuts_nobody_off_below() {
    for seed in 20..25 {
        // Those below the orphans wait for longer than usual.
        let mut world = tree_with(seed, 60, 3, false, |config| {
            config.orphan_after = Duration::from_secs(20);
        });
        let children = |world: &World<Member>, at: usize| -> Vec<usize> {
            let children = world.node(at).children();
            children
                .map(|child| world.place(child).expect("a place"))
                .collect()
        };
        let is_inner = |at: &usize| !children(&world, *at).is_empty();
        let victim = children(&world, 0)
            .into_iter()
            .find(|at| children(&world, *at).iter().any(is_inner))
            .expect("a member with grandchildren");
        let orphans = children(&world, victim);
        let before = sum(&world, |counters| {
            counters.silent_children + counters.orphaned
        });
        assert_eq!(before, 0);
        let died = world.now;
        world.kill(victim);
        // Answers to their searches are lost.
        let (searching, is_found) = (orphans.clone(), |datagram: &Bytes| datagram[5] == 2);
        world.blocked = Some(Box::new(move |_, to, datagram| {
            searching.contains(&to) && is_found(datagram)
        }));
        world.run_for(Duration::from_secs(5));
        world.blocked = None;
        world.run_for(Duration::from_secs(15));
        assert_eq!(connected(&world).len(), 59);
        let joined = world.events.iter().filter(|(at, who, event)| {
            *at > died && orphans.contains(who) && matches!(event, Event::Joined { .. })
        });
        let longest = joined.map(|(at, ..)| *at - died).max().expect("orphans");
        assert!(longest > Duration::from_secs(5), "{longest:?}");
        let sums = (
            sum(&world, |counters| counters.silent_children),
            sum(&world, |counters| counters.orphaned),
        );
        assert_eq!(sums, (1, orphans.len() as u64), "seed {seed}, {longest:?}");
    }
}

/// The rate of `xcast-ctl tree`: what is kept has to reach back to before the death that is noticed late.
#[test]
fn a_fast_stream_loses_nothing_when_an_inner_member_dies() {
    let mut world = tree(27, 10, 2, false);
    let payload = [7; 914];
    let mut victim = None;
    for number in 0..6500 {
        if number == 500 {
            let is_inner = |at: &usize| world.node(*at).children().count() == 2;
            let inner = (1..10).find(is_inner).expect("an inner member");
            world.kill(inner);
            victim = Some(inner);
        }
        let sent = world.act(0, |source, now| source.send(now, &payload));
        sent.expect("a short message of the source");
        world.run_for(Duration::from_millis(1));
    }
    world.run_for(Duration::from_secs(10));
    let lost = sum(&world, |counters| counters.lost);
    let repaired = sum(&world, |counters| counters.repaired);
    println!("{repaired} repaired, {lost} lost");
    assert!(lost == 0 && repaired > 6000, "{lost} {repaired}");
    let got = delivered(&world);
    for at in world.living().into_iter().filter(|at| *at != 0) {
        assert_eq!(got[&at].len(), 6500, "member {at}, {victim:?} died");
    }
}

/// Members fail and come, one in a hundred each minute, or more.
#[test]
fn churn_loses_one_message_in_a_thousand_at_most() {
    let members = size(80, 1000);
    let seconds = size(90, 600);
    // Five times as many where there are few.
    let percent_a_minute = size(5, 1);
    let mut world = tree(4, members, 8, false);
    let mut since: BTreeMap<usize, u64> = world.living().into_iter().map(|at| (at, 0)).collect();
    let first = send(&mut world, 0);
    let mut orphan_since = BTreeMap::new();
    let mut longest = Duration::ZERO;
    let (mut failed, mut failing) = (0, 0.0);
    let step = Duration::from_millis(100);
    for number in 1..(seconds as u64 * 10) {
        let sent = send(&mut world, number);
        world.run_for(step);
        failing += (members * percent_a_minute) as f64 / 100.0 / 600.0;
        if failing >= 1.0 {
            failing -= 1.0;
            let living = world.living();
            let victim = living[1 + world.random.below(living.len() - 1)];
            world.kill(victim);
            failed += 1;
            let next = world.nodes.len();
            let new = receiver(&mut world, address(next, false), 8);
            since.insert(new, sent);
        }
        let whole = connected(&world);
        for at in world.living() {
            if whole.contains(&at) {
                if let Some(start) = orphan_since.remove(&at) {
                    longest = longest.max(world.now - start);
                }
            } else {
                orphan_since.entry(at).or_insert(world.now);
            }
        }
    }
    world.run_for(Duration::from_secs(20));
    let last = send(&mut world, 0);
    world.run_for(Duration::from_secs(2));
    let got = delivered(&world);
    let (mut wanted, mut had) = (0u64, 0u64);
    for at in world.living().into_iter().filter(|at| *at != 0) {
        let got = &got[&at];
        // A newcomer hears the stream from when it joined on, which takes it a moment.
        let from = if since[&at] == 0 {
            first
        } else {
            *got.first().expect("some")
        };
        assert!(
            from <= since[&at] + 30 || since[&at] == 0,
            "{from} {}",
            since[&at]
        );
        wanted += last - from + 1;
        had += got.range(from..=last).count() as u64;
    }
    let forgotten = sum(&world, |counters| counters.silent_children);
    assert!(forgotten <= failed, "{forgotten} of {failed}");
    println!(
        "{failed} of {members} failed in {seconds} s: {had} of {wanted} delivered, longest without \
         a way to the source {longest:?}"
    );
    assert!(
        failed > 0 && had as f64 >= 0.999 * wanted as f64,
        "{had} of {wanted}"
    );
    // 3 s until its silence is believed, then a new parent; or 6 s without a pulse, and a new parent.
    assert!(longest < Duration::from_secs(6 + 4), "{longest:?}");
}

/// Half of all members are gone at once, or leave politely.
#[test]
fn the_tree_grows_together_again() {
    for polite in [false, true] {
        let members = size(150, 600);
        let mut world = tree(5, members, 5, true);
        let first = send(&mut world, 0);
        let mut silent = 0;
        for at in 1..members {
            if world.random.below(2) == 0 {
                silent += u64::from(!polite);
                if polite {
                    world.act(at, Member::leave);
                }
                world.kill(at);
            }
        }
        for number in 1..200 {
            send(&mut world, number);
            world.run_for(Duration::from_millis(100));
            connected(&world);
        }
        world.run_for(Duration::from_secs(10));
        let living = world.living();
        assert_eq!(connected(&world).len(), living.len());
        assert!(sum(&world, |counters| counters.silent_children) <= silent);
        let got = delivered(&world);
        for at in living.into_iter().filter(|at| *at != 0) {
            assert_eq!(got[&at].range(first..).count(), 200, "member {at}");
        }
    }
}

/// A tree that was made up elsewhere is as good as one that was joined.
#[test]
fn a_made_up_tree_works() {
    let mut world = World::new(10);
    source(&mut world, address(0, false), 10);
    let config = std::sync::Arc::new(narrow(
        Config::receiver(NAME, key(), vec![world.address(0)]),
        10,
    ));
    for at in 1..111 {
        let config = config.clone();
        world.add(address(at, false), |now, random| {
            Member::new(now, config, random)
        });
    }
    let parent = |at: usize| (at - 1) / 10;
    let depth = |at: usize| u8::from(at > 0) + u8::from(at > 10);
    let cards: Vec<_> = (0..111)
        .map(|at| world.node(at).card(world.address(at)))
        .collect();
    for at in 0..111 {
        let children = (1..111)
            .filter(|child| parent(*child) == at)
            .map(|child| cards[child]);
        let above = (at > 0).then(|| cards[parent(at)]);
        let own = world.address(at);
        world.act(at, |member, now| {
            member.seat(now, own, depth(at), above, children);
        });
    }
    assert_eq!(connected(&world).len(), 111);
    send(&mut world, 1);
    world.run_for(Duration::from_secs(10));
    assert_eq!(
        delivered(&world)
            .values()
            .filter(|got| got.len() == 1)
            .count(),
        110
    );
    for at in 0..111 {
        assert_eq!(world.node(at).counters().orphaned, 0, "member {at}");
    }
}

/// A child that gets one datagram in three.
#[test]
fn a_slow_child_holds_nobody_up() {
    let mut world = tree(6, 30, 6, false);
    let slow = (1..30)
        .find(|at| world.node(*at).children().next().is_none())
        .expect("a leaf");
    let parent = world
        .place(world.node(slow).parent().expect("a parent"))
        .expect("a place");
    let count = std::cell::Cell::new(0u64);
    world.blocked = Some(Box::new(move |_, to, datagram| {
        count.set(count.get() + u64::from(to == slow && datagram[5] == 10));
        to == slow && datagram[5] == 10 && !count.get().is_multiple_of(3)
    }));
    let mut paused = false;
    for number in 0..2000 {
        send(&mut world, number);
        world.run_for(Duration::from_millis(5));
        let status = world.node(parent).status(world.now);
        paused |= status.paused_children > 0;
        assert!(status.kept <= 32_768 && status.kept_octets <= 16 << 20);
        let status = world.node(slow).status(world.now);
        assert!(status.missing <= 32_768 && status.kept <= 32_768);
    }
    assert!(paused, "it asked for a pause");
    world.run_for(Duration::from_secs(2));
    let got = delivered(&world);
    for at in (1..30).filter(|at| *at != slow) {
        assert_eq!(got[&at].len(), 2000, "member {at}");
    }
    // When it is no longer slow, it catches up with all that is kept.
    world.blocked = None;
    world.run_for(Duration::from_secs(60));
    let status = world.node(slow).status(world.now);
    let counters = status.counters;
    println!(
        "slow: {} delivered, {} lost",
        counters.delivered, counters.lost
    );
    assert_eq!((status.missing, status.paused), (0, false));
    assert_eq!(counters.delivered + counters.lost, 2000);
    assert!(counters.delivered >= 1000, "{counters:?}");
}

#[test]
fn strangers_can_neither_forge_nor_end_nor_attach_others() {
    let mut world = tree(7, 10, 3, false);
    let stranger = address(99, false);
    let other = Config::source(NAME, signing_key([2; 32]), 1_000_000);
    let mut imposter = Member::new(world.now, other, Random::from_number(1));
    imposter.send(world.now, b"lies").expect("sent");
    // What another source says, with this tree's tag.
    let mut genuine = None;
    send(&mut world, 1);
    world.run_for(Duration::from_secs(1));
    for at in 1..10 {
        world.inject(stranger, at, imposter_data(&mut genuine));
        let parent = world.node(at).parent().expect("a parent");
        // Goodbyes with guessed tokens, by the parent's address.
        let mut leave = b"XCTR\x01\x09".to_vec();
        leave.extend(tag());
        leave.extend([7; 16]);
        world.inject(parent, at, leave);
        // An attachment without the cookie.
        let mut attach = b"XCTR\x01\x03".to_vec();
        attach.extend(tag());
        attach.extend([0; 32]);
        world.inject(stranger, at, attach);
        assert!(!world.node(at).children().any(|child| child == stranger));
    }
    world.run_for(Duration::from_secs(2));
    assert_eq!(connected(&world).len(), 10);
    let got = delivered(&world);
    for at in 1..10 {
        assert_eq!(got[&at].len(), 1);
        assert_eq!(world.node(at).counters().forged, 1);
        assert_eq!(world.node(at).counters().orphaned, 0);
    }
}

fn tag() -> [u8; 8] {
    let id = xcast_overlay::id::Id::hash_of(&[b"xcast tree 1", &key(), NAME.as_bytes()]);
    let mut tag = [0; 8];
    tag.copy_from_slice(&id.octets()[..8]);
    tag
}

/// A message that is not signed by the source.
fn imposter_data(kept: &mut Option<Bytes>) -> Bytes {
    kept.get_or_insert_with(|| {
        let mut data = b"XCTR\x01\x0a".to_vec();
        data.extend(tag());
        data.extend([1; 64]);
        data.extend(2u64.to_be_bytes());
        data.extend(b"lies");
        data.into()
    })
    .clone()
}

/// Parents by prefix: members of one /16 are under few that are not.
#[test]
fn parents_by_prefix_are_near() {
    let near = |parents: Parents| {
        let mut world = World::new(8);
        source(&mut world, address(0, false), 10);
        // 16 sites; members come in random order.
        let mut all: Vec<u32> = (1..size(160, 800) as u32).collect();
        let count = all.len();
        world.random.choose(&mut all, count);
        for at in all {
            let (site, host) = (at % 16, at / 16);
            let ip = std::net::Ipv4Addr::from(0x1e00_0000 + (site << 16) + host);
            let mut config = narrow(Config::receiver(NAME, key(), vec![world.address(0)]), 10);
            config.parents = parents;
            world.add((ip, 6881).into(), |now, random| {
                Member::new(now, config, random)
            });
            world.run_for(Duration::from_millis(200));
        }
        world.run_for(Duration::from_secs(5));
        assert_eq!(connected(&world).len(), world.nodes.len());
        let site = |address: SocketAddr| match address {
            SocketAddr::V4(address) => address.ip().octets()[..2].to_vec(),
            SocketAddr::V6(_) => Vec::new(),
        };
        let of_site = |at: &usize| {
            let parent = world.node(*at).parent();
            parent.is_some_and(|parent| site(parent) == site(world.address(*at)))
        };
        let living = world.living();
        let near = living.iter().filter(|at| of_site(at)).count();
        (near * 100 / living.len(), depths(&world))
    };
    let (by_prefix, deep) = near(Parents::Prefix { level_bits: 4 });
    let (by_latency, flat) = near(Parents::default());
    println!(
        "{by_prefix} % have a parent of their site, {deep:?}; by latency {by_latency} %, {flat:?}"
    );
    assert!(
        by_prefix >= 65 && by_latency < 30,
        "{by_prefix} {by_latency}"
    );
}

/// Members on a line, which is how far they are from each other: parents are near.
#[test]
fn parents_by_latency_are_near() {
    let members = 120;
    let place = move |at: usize| at * 37 % members;
    let apart = move |one, other| place(one).abs_diff(place(other)) as u64;
    let mut world = World::new(30);
    world.latency = Box::new(move |from, to| Duration::from_millis(1 + apart(from, to)));
    source(&mut world, address(0, false), 5);
    for at in 1..members {
        receiver(&mut world, address(at, false), 5);
        world.run_for(Duration::from_millis(500));
    }
    world.run_for(Duration::from_secs(5));
    assert_eq!(connected(&world).len(), members);
    let parent = |at: usize| {
        let parent = world.node(at).parent().expect("a parent");
        world.place(parent).expect("a place")
    };
    let mean = |sum: u64| sum as f64 / (members - 1) as f64;
    let near = mean((1..members).map(|at| apart(at, parent(at))).sum());
    let any = mean((1..members).map(|at| apart(at, at * 53 % members)).sum());
    println!(
        "{near:.1} ms to the parent, {any:.1} to any, {:?}",
        depths(&world)
    );
    assert!(near < any / 2.0, "{near} {any}");
}

/// One of 30 siblings has a message that neither parent nor grandparent can give. A beat names eight of
/// them, and those of several are remembered.
#[test]
fn what_one_of_many_siblings_has_reaches_all() {
    let mut world = World::new(31);
    source(&mut world, address(0, false), 1);
    for at in 1..32 {
        receiver(&mut world, address(at, false), 40);
        world.run_for(Duration::from_millis(500));
    }
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.node(1).children().count(), 30);
    let first = send(&mut world, 0);
    world.run_for(Duration::from_secs(1));
    let only = Rc::new(RefCell::new(None));
    let kept = Rc::clone(&only);
    world.blocked = Some(Box::new(move |from, to, datagram| {
        let seq = datagram.get(78..86).and_then(|seq| seq.try_into().ok());
        let is_it = datagram[5] == 10 && seq.map(u64::from_be_bytes) == Some(first + 1);
        if is_it && from == 0 {
            kept.borrow_mut().get_or_insert_with(|| datagram.clone());
        }
        is_it && (from < 2 || to < 2)
    }));
    send(&mut world, 1);
    send(&mut world, 2);
    let (parent, message) = (world.address(1), only.borrow_mut().take());
    world.inject(parent, 20, message.expect("the source has sent it"));
    world.run_for(Duration::from_secs(60));
    let got = delivered(&world);
    let lost: Vec<usize> = (2..32).filter(|at| got[at].len() < 3).collect();
    assert!(lost.is_empty(), "{lost:?} have not got it");
}

#[test]
fn the_same_seed_gives_the_same_octets() {
    let run = |seed| {
        let mut world = tree(seed, 40, 4, false);
        world.faults = ROUGH;
        for number in 0..50 {
            send(&mut world, number);
            world.run_for(Duration::from_millis(100));
        }
        world.digest
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// However many die and however much is lost, there is never a cycle, and in the end all that live
    /// are below the source.
    #[test]
    fn the_living_are_connected_in_the_end(
        seed in any::<u64>(),
        members in 5usize..=60,
        degree in 2usize..6,
        loss in 0usize..200,
        kills in prop::collection::vec((1usize..60, 0u64..4000), 0..30),
    ) {
        let mut world = tree(seed, members, degree, false);
        world.faults = Faults { loss, ..ROUGH };
        for (at, pause) in kills {
            if at < members && world.nodes[at].is_some() {
                world.kill(at);
            }
            for _ in 0..pause / 500 {
                world.run_for(Duration::from_millis(500));
                connected(&world);
            }
        }
        world.faults = Faults::default();
        let living = world.living().len();
        // Pauses between searches grow to 16 s.
        let whole = world.run_until(Duration::from_secs(60), |world| connected(world).len() == living);
        prop_assert!(whole, "{:?} of {living}", connected(&world));
        // And it stays so: nobody who lives is dropped.
        world.run_for(Duration::from_secs(10));
        let before = sum(&world, |counters| counters.orphaned + counters.silent_children);
        world.run_for(Duration::from_secs(10));
        prop_assert_eq!(connected(&world).len(), living);
        prop_assert_eq!(sum(&world, |counters| counters.orphaned + counters.silent_children), before);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Whatever comes, in any order, a member does not panic, and its parents make no cycle.
    #[test]
    fn any_octets_may_come(
        kinds in prop::collection::vec((0u8..14, 0usize..6, prop::collection::vec(any::<u8>(), 0..120)), 0..60),
    ) {
        let mut world = tree(9, 6, 2, false);
        for (kind, to, rest) in kinds {
            let mut datagram = b"XCTR\x01".to_vec();
            datagram.push(kind);
            datagram.extend(tag());
            datagram.extend(rest);
            let from = world.random.below(8);
            world.inject(address(from, false), to, datagram);
            world.run_for(Duration::from_millis(20));
            connected(&world);
        }
        send(&mut world, 1);
        world.run_for(Duration::from_secs(20));
        let got = delivered(&world);
        prop_assert!((1..6).all(|at| got.get(&at).is_some_and(|got| !got.is_empty())));
    }
}
