//! Short forms of the experiments, on a small network: what must hold whatever the machine is doing.
//! Figures belong to `cargo xtask dht`.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tests::{daemon, namespace};
use xcast_overlay::krpc::Family;
use xcast_overlay_bench::{
    bed::Setup,
    churn, combining, implosion,
    links::Counts,
    lists::{self, Overlay},
    losses, members,
    operations::{self, Operation},
    reflection::{self, Form},
    together, tree,
};
use xtask::testbed::{Deployment, plan};

/// A small network of this test's own: one router in the middle, and so many at the edge; routers
/// take longest to start. `None` where tests may be skipped.
fn setup(edges: usize, hosts: usize, family: Family, base: Ipv4Addr) -> Option<Setup> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    namespace::available().then(|| Setup {
        xcast_ctl: daemon::program().to_owned(),
        instance: format!(
            "dht-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        ),
        ring: 1,
        edges,
        hosts,
        family,
        base,
    })
}

/// Unicast, all routers, every other router: the same answers, and never more packets.
#[track_caller]
fn operations_cost_less_and_say_the_same(
    edges: usize,
    family: Family,
    base: Ipv4Addr,
    xcast: &[Deployment],
) {
    let Some(setup) = setup(edges, 18 / edges, family, base) else {
        return;
    };
    let arguments = operations::Arguments {
        clients: 1,
        alphas: vec![3],
        deployments: xcast.to_vec(),
    };
    let outcome = operations::run(&setup, &arguments).expect("the experiment runs");
    println!("{outcome}");
    assert_eq!(outcome.differences(), Vec::<String>::new());
    assert_eq!(outcome.rows.len(), Operation::ALL.len());
    assert_eq!(outcome.members.rows.len(), members::Operation::ALL.len());
    for row in &outcome.members.rows {
        let reached = row.xcast.values().map(|cost| cost.reached);
        assert_eq!(
            (row.unicast.reached, reached.len()),
            (17, xcast.len()),
            "{row:?}"
        );
    }
    for row in &outcome.rows {
        assert_eq!(row.xcast.len(), xcast.len());
        for (deployment, cost) in &row.xcast {
            let what = format!("{:?}, {deployment}: {cost:?}", row.operation);
            assert_eq!(cost.same_answers, 1, "{what}");
            let (unicast, counts) = (&row.unicast.counts, &cost.counts);
            assert!(counts.requests < unicast.requests, "{what}: {unicast:?}");
            assert!(counts.own_link < unicast.own_link, "{what}: {unicast:?}");
            assert_eq!(counts.replies, unicast.replies, "{what}: {unicast:?}");
        }
    }
}

/// Whoever reads only the exit status is told that answers differ.
#[test]
fn answers_that_differ_are_told() {
    let cost = |same_answers| operations::Cost {
        same_answers,
        ..operations::Cost::default()
    };
    let row = |same_answers| operations::Row {
        operation: Operation::GetPeers,
        alpha: 3,
        unicast: cost(2),
        xcast: BTreeMap::from([
            ("all".to_owned(), cost(2)),
            ("half".to_owned(), cost(same_answers)),
        ]),
    };
    let reached = |reached| members::Cost {
        counts: Counts::default(),
        reached,
    };
    let member = |half| members::Row {
        operation: members::Operation::Publish,
        unicast: reached(8),
        xcast: BTreeMap::from([("half".to_owned(), reached(half))]),
    };
    let outcome = |same_answers, half| operations::Outcome {
        nodes: 9,
        clients: 2,
        rows: vec![row(same_answers)],
        members: members::Outcome {
            others: 8,
            rows: vec![member(half)],
        },
    };
    assert_eq!(outcome(2, 8).differences(), Vec::<String>::new());
    assert_eq!(
        outcome(1, 7).differences(),
        [
            "GetPeers, alpha 3, xcast half: 1 of 2 answers are the same",
            "members, Publish, xcast half: 7 reached, by unicast 8"
        ]
    );
}

#[test]
fn operations_by_ipv4() {
    let deployments = [Deployment::All, Deployment::Half];
    operations_cost_less_and_say_the_same(3, Family::Ipv4, plan::BASE, &deployments);
}

/// With addresses that BEP 42 does not exempt.
#[test]
fn operations_by_ipv6() {
    let base = Ipv4Addr::new(198, 18, 0, 0);
    let deployments = [Deployment::All, Deployment::Half];
    operations_cost_less_and_say_the_same(3, Family::Ipv6, base, &deployments);
}

/// What one member says to all others reaches them all, by fewer packets.
#[test]
fn members_reach_all_others() {
    let Some(setup) = setup(3, 3, Family::Ipv4, plan::BASE) else {
        return;
    };
    let deployments = [Deployment::All, Deployment::Half];
    let outcome = members::run(&setup, &deployments).expect("the experiment runs");
    println!("{outcome}");
    assert_eq!((outcome.others, outcome.rows.len()), (8, 5));
    for row in &outcome.rows {
        assert_eq!((row.unicast.reached, row.xcast.len()), (8, 2));
        for (deployment, cost) in &row.xcast {
            let what = format!("{:?}, {deployment}: {cost:?}", row.operation);
            assert_eq!(cost.reached, 8, "{what}");
            let (unicast, counts) = (&row.unicast.counts, &cost.counts);
            assert!(counts.requests < unicast.requests, "{what}: {unicast:?}");
        }
    }
}

#[test]
fn look_ups_survive_lost_packets() {
    let Some(setup) = setup(2, 8, Family::Ipv4, plan::BASE) else {
        return;
    };
    let arguments = losses::Arguments {
        lookups: 20,
        alpha: 3,
        percents: vec![20.0],
    };
    let outcome = losses::run(&setup, &arguments).expect("the experiment runs");
    println!("{outcome}");
    assert_eq!(outcome.rows.len(), 12);
    for row in &outcome.rows {
        // Every look-up ends, and most of what it looks for is found.
        assert_eq!(row.lookups, 20, "{row:?}");
        assert!(row.missed_permille < 500.0, "{row:?}");
        // What is to lose packets does.
        assert_eq!(row.dropped > 0, row.percent > 0.0, "{row:?}");
        // A round of which nobody hears is repaired, where that is wanted, and where something is lost.
        let repairs = row.by != "xcast, no repair" && row.percent > 0.0;
        assert!(repairs || row.repaired == 0, "{row:?}");
        // One packet in five of a list is lost for all, of some eighty.
        if repairs && row.by == "xcast" && row.place == losses::Place::FirstLink {
            assert!(row.repaired > 0, "{row:?}");
        }
    }
}

#[test]
fn a_slow_link_loses_answers_that_come_at_once() {
    let Some(setup) = setup(1, 15, Family::Ipv4, plan::BASE) else {
        return;
    };
    let arguments = implosion::Arguments {
        crowds: vec![60],
        rate_mbit: 10,
        queue_octets: 16_384,
        repeats: 3,
    };
    let outcome = implosion::run(&setup, &arguments).expect("the experiment runs");
    println!("{outcome}");
    let row = |alpha, jitter| {
        let mut rows = outcome.rows.iter();
        let row = rows.find(|r| r.by == "xcast" && r.alpha == alpha && r.jitter_ms == jitter);
        row.expect("a row")
    };
    // 60 answers are 62 520 octets, of which the queue holds a quarter. Three at a time always fit.
    assert!(row(60, 0).lost > 0.0);
    assert_eq!(row(3, 0).lost, 0.0);
    // They take 50 ms on the link. Answers that come at random within four times as long do not meet there,
    // unless this machine sleeps.
    let (all_at_once, jittered) = (row(60, 0).lost, row(60, 200).lost);
    assert!(2.0 * jittered < all_at_once, "{:?}", outcome.rows);
}

/// Messages of different operations wait for each other as long as they are told to, and have nothing to share.
#[test]
fn messages_of_different_operations_do_not_combine() {
    let Some(setup) = setup(1, 8, Family::Ipv4, plan::BASE) else {
        return;
    };
    let arguments = combining::Arguments {
        parallel: 4,
        batches: 2,
        delays_ms: vec![0, 5],
    };
    let outcome = combining::run(&setup, &arguments).expect("the experiment runs");
    println!("{outcome}");
    // With and without envelopes, four kinds of work.
    assert_eq!(outcome.rows.len(), 2 * 2 * 4);
    for row in &outcome.rows {
        // Join has an end of its own; a look-up or ping is at least a message.
        assert!(row.messages >= 2, "{row:?}");
        assert_eq!((row.whole, row.partial), (0, 0), "{row:?}");
        assert!(row.packets >= row.messages, "{row:?}");
        assert_eq!(row.mean_wait_ms > 0.0, row.delay_ms > 0, "{row:?}");
    }
}

#[track_caller]
fn a_forged_source_is_stopped(family: Family) {
    let Some(setup) = setup(2, 6, family, plan::BASE) else {
        return;
    };
    let outcome = reflection::run(&setup).expect("the experiment runs");
    println!("{outcome}");
    for row in &outcome.rows {
        let reaches = row.source_policy == "any" || row.form == Form::Datagram;
        assert_eq!(row.packets > 0, reaches, "{row:?}");
        assert_eq!(row.drops.is_empty(), reaches, "{row:?}");
        if reaches {
            assert_eq!(row.packets, row.nodes as u64, "{row:?}");
        }
    }
}

#[test]
fn a_forged_source_is_stopped_by_the_first_router() {
    a_forged_source_is_stopped(Family::Ipv4);
}

#[test]
fn a_forged_source_is_stopped_by_the_first_router_by_ipv6() {
    a_forged_source_is_stopped(Family::Ipv6);
}

#[test]
fn look_ups_survive_the_death_of_nodes() {
    let Some(setup) = setup(2, 12, Family::Ipv4, plan::BASE) else {
        return;
    };
    let arguments = churn::Arguments {
        lookups: 20,
        alpha: 3,
        percent: 30,
    };
    let outcome = churn::run(&setup, &arguments).expect("the experiment runs");
    println!("{outcome}");
    for row in &outcome.rows {
        assert_eq!(row.lookups, 20, "{row:?}");
        assert!(row.missed_permille < 100.0, "{row:?}");
        // Nodes died in the middle of look-ups, and were asked: each look-up asks nearly all there are.
        let meanwhile = row.situation == "some die meanwhile";
        assert_eq!(row.caught > 0, meanwhile, "{row:?}");
        assert!(row.silent > 0 || !meanwhile, "{row:?}");
    }
    let living: Vec<usize> = outcome.rows.iter().map(|row| row.nodes).collect();
    let [all, still, one, two, few, _] = living[..] else {
        panic!("{living:?}");
    };
    assert!(
        all == still && still > one && one > two && two > few,
        "{living:?}"
    );
}

/// The same tree three times: everything comes once, the fewer routers speak Xcast the more packets, and
/// the simulator says of each link what its interfaces counted. Inner members die, and nobody else
/// misses anything.
#[track_caller]
fn a_tree_delivers_once(family: Family) {
    let Some(setup) = setup(2, 9, family, plan::BASE) else {
        return;
    };
    let arguments = tree::Arguments {
        messages: 20,
        payload: 700,
        degree: 3,
        live_messages: 60,
        killed: 2,
        deployments: vec![Deployment::None, Deployment::Half, Deployment::All],
    };
    let outcome = tree::run(&setup, &arguments).expect("the experiment runs");
    println!("{outcome}");
    assert_eq!((outcome.members, outcome.rows.len()), (18, 3));
    for row in &outcome.rows {
        let what = format!("{row:?}");
        assert!(row.killed > 0, "{what}");
        for (delivered, members) in [(row.stream, 17), (row.survivors, 17 - row.killed)] {
            assert_eq!(delivered.members, members, "{what}");
            assert_eq!((delivered.missing, delivered.wrong), (0, 0), "{what}");
            assert_eq!(delivered.delivered, members * delivered.messages, "{what}");
        }
        assert!(row.survivors.orphaned > 0, "{what}");
        assert_eq!(row.differ, Vec::<String>::new(), "{what}");
    }
    let packets = outcome.rows.iter().map(|row| row.packets);
    let packets: Vec<u64> = packets.collect();
    assert!(
        packets[0] > packets[1] && packets[1] > packets[2],
        "{packets:?}"
    );
}

#[test]
fn a_tree_delivers_once_by_ipv4() {
    a_tree_delivers_once(Family::Ipv4);
}

#[test]
fn a_tree_delivers_once_by_ipv6() {
    a_tree_delivers_once(Family::Ipv6);
}

/// Nodes of an overlay do what it is for while some go: its lists save links, and what the links counted is
/// what was sent.
#[test]
fn lists_of_an_overlay_save_links() {
    let Some(setup) = setup(2, 8, Family::Ipv4, plan::BASE) else {
        return;
    };
    let arguments = lists::Arguments {
        overlays: vec![Overlay::Flooding, Overlay::Can],
        work: lists::Work {
            operations: 30,
            changes: 2,
            settle: Some(Duration::from_secs(3)),
        },
        deployment: Deployment::All,
    };
    let outcome = lists::run(&setup, &arguments).expect("the experiment runs");
    println!("{outcome}");
    assert_eq!(outcome.differences(), Vec::<String>::new());
    assert_eq!(outcome.rows.len(), 2);
    for row in &outcome.rows {
        let what = format!("{row:?}");
        assert_eq!(row.nodes, 14, "{what}");
        assert!(row.done > 0 && row.done <= row.asked, "{what}");
        assert!(row.lists > 20 && row.listed > 2 * row.lists, "{what}");
        // Two edge routers with eight hosts each: half of the links of a list are shared, or nearly.
        let saved = row.saved_percent;
        let lists = saved.lists.expect("there are lists");
        assert!(lists > 25.0, "{what}");
        // Messages to one are not cheaper.
        let all = saved.all.expect("there are messages");
        assert!(all > 5.0 && all <= lists, "{what}");
        assert!(saved.octets.is_some_and(|octets| octets > 5.0), "{what}");
    }
}

/// Each protocol does its job while the others do theirs, all in this process.
#[track_caller]
fn all_protocols_work_together(family: Family, deployment: Deployment) {
    let Some(setup) = setup(2, 6, family, plan::BASE) else {
        return;
    };
    let outcome = together::run(&setup, deployment).expect("all work");
    println!("{outcome}");
    assert_eq!(outcome.rows.len(), 13);
    for row in &outcome.rows {
        assert!(row.asked >= row.nodes, "{row:?}");
        assert_eq!(row.done, row.asked, "{row:?}");
        // Chord asks one at a time; all others send to several by one packet.
        assert_eq!(row.xcast_packets > 0, row.protocol != "Chord", "{row:?}");
    }
}

#[test]
fn all_protocols_work_together_by_ipv4() {
    all_protocols_work_together(Family::Ipv4, Deployment::Half);
}

#[test]
fn all_protocols_work_together_by_ipv6() {
    all_protocols_work_together(Family::Ipv6, Deployment::All);
}
