//! Unicast packets on each link are as many as networkx counts, on generated graphs.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};
use xcast_sim::{
    experiments::join,
    fanout::{Link, Message, Network},
    random::Random,
    routing::{LinkCosts, Routing, Ties},
    topology::{
        BarabasiAlbert, HostId, Hosts, LinkId, Model, RandomRecursiveTree, RouterId, Topology,
        TransitStub, Waxman,
    },
    world::{Access, World, WorldSettings},
};

const SEED: u64 = 11;
const PAIRS: usize = 100;

#[derive(Serialize)]
struct Question {
    links: Vec<(RouterId, RouterId, u64, LinkId, LinkId)>,
    pairs: Vec<(RouterId, RouterId)>,
}

#[derive(Deserialize)]
struct Answer {
    counts: BTreeMap<LinkId, u32>,
    hops: Vec<u16>,
}

/// Whether networkx is there. A skip is never silent, and `XCAST_ALLOW_SKIP=1` is needed for it.
fn has_networkx() -> bool {
    let found = Command::new("python3")
        .args([
            "-c",
            "import importlib.util as u; exit(u.find_spec('networkx') is None)",
        ])
        .stderr(Stdio::null())
        .status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    let message = "python3 with networkx is needed to compare with";
    let allowed = std::env::var_os("XCAST_ALLOW_SKIP").is_some_and(|value| value == "1");
    assert!(
        allowed,
        "{message}: pip install networkx, or set XCAST_ALLOW_SKIP=1 to go without"
    );
    // Past the test harness's capture.
    let _ = writeln!(io::stderr(), "SKIPPED: {message}");
    false
}

fn ask(questions: &[Question]) -> Vec<Answer> {
    let mut python = Command::new("python3")
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/count_packets.py"
        ))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    // The script reads everything before it writes anything.
    let input = python.stdin.take().expect("it is piped");
    serde_json::to_writer(input, questions).expect("python3 reads");
    let output = python.wait_with_output().expect("python3 ends");
    assert!(output.status.success(), "python3 failed");
    serde_json::from_slice(&output.stdout).expect("the script writes JSON")
}

fn models() -> [Model; 4] {
    [
        Model::BarabasiAlbert(BarabasiAlbert {
            routers: 600,
            links: 2,
        }),
        Model::TransitStub(TransitStub {
            transit_domains: 3,
            domain_links: 0.8,
            transit_routers: 4,
            transit_links: 0.6,
            stubs: 4,
            stub_routers: 8,
            stub_links: 0.42,
        }),
        Model::Waxman(Waxman {
            routers: 400,
            alpha: 0.2,
            beta: 0.06,
        }),
        Model::RandomRecursiveTree(RandomRecursiveTree { routers: 500 }),
    ]
}

/// Packets on each link between routers, and hops of each pair, counted by this crate.
fn counted(topology: &Topology, ties: Ties, pairs: &[(HostId, HostId)]) -> Answer {
    let mut network = Network {
        routing: Routing::new(&topology.graph, ties, SEED),
        hosts: Hosts::one_each(topology),
    };
    let mut counts = BTreeMap::new();
    let mut hops = Vec::new();
    for (flow, (source, to)) in pairs.iter().enumerate() {
        let message = Message {
            source: *source,
            to: &[*to],
            via: None,
            flow: flow as u64,
        };
        let mut length = 0;
        network.send_unicast(message, 100, &mut |sent| {
            if let Link::Between(link) = sent.link {
                *counts.entry(link).or_default() += 1;
                length += 1;
            }
        });
        hops.push(length);
    }
    Answer { counts, hops }
}

#[test]
fn unicast_packets_are_where_networkx_has_them() {
    if !has_networkx() {
        return;
    }
    let topologies = models().map(|model| {
        let topology = model.generate(SEED).expect("parameters are in range");
        (model.name(), topology)
    });
    let pairs = topologies.each_ref().map(|(_, topology)| pairs(topology));
    let questions: Vec<_> = topologies
        .iter()
        .zip(&pairs)
        .map(|((_, topology), pairs)| question(topology, pairs))
        .collect();
    let answers = ask(&questions);
    assert_eq!(answers.len(), topologies.len());
    for (((name, topology), pairs), expected) in topologies.iter().zip(&pairs).zip(answers) {
        let found = counted(topology, Ties::LinkCosts, pairs);
        assert_eq!(found.counts, expected.counts, "{name}");
        assert_eq!(found.hops, expected.hops, "{name}");
        // With multipath on other links, but never on more of them.
        let multipath = counted(topology, Ties::Ecmp, pairs);
        assert_eq!(multipath.hops, expected.hops, "{name}");
        let sum = |answer: &Answer| answer.counts.values().sum::<u32>();
        assert!(sum(&found) > PAIRS as u32);
        assert_eq!(sum(&multipath), sum(&found));
    }
}

/// What a protocol sends is counted like what an experiment sends: every message of nodes that join, by
/// unicast, on each link between routers.
#[test]
fn a_protocols_unicast_packets_are_where_networkx_has_them() {
    if !has_networkx() {
        return;
    }
    let [.., model] = models();
    let topology = model.generate(SEED).expect("parameters are in range");
    let network = Network {
        routing: Routing::new(&topology.graph, Ties::LinkCosts, SEED),
        hosts: Hosts::one_each(&topology),
    };
    let mut settings = WorldSettings::full(SEED);
    settings.access = Access::Unicast;
    let mut world = World::new(network, settings);
    world.meter.count_links(None);
    world.note();
    join(&mut world, 8, &[false; 30], SEED, &mut |_| {});
    let mut counts = BTreeMap::new();
    for (link, load) in world.meter.links() {
        if let Link::Between(link) = link {
            counts.insert(link, load.links as u32);
        }
    }
    let log = world.take_log();
    let pairs: Vec<_> = log
        .iter()
        .flat_map(|sent| sent.to.iter().map(|to| (sent.source, *to)))
        .collect();
    assert!(pairs.len() > 1000, "{} datagrams", pairs.len());
    let answers = ask(&[question(&topology, &pairs)]);
    assert_eq!(counts, answers[0].counts);
}

fn pairs(topology: &Topology) -> Vec<(HostId, HostId)> {
    let mut random = Random::new(SEED);
    let hosts = Hosts::one_each(topology);
    let pair = |_| {
        let pair = random.distinct(2, hosts.count());
        (pair[0] as HostId, pair[1] as HostId)
    };
    (0..PAIRS).map(pair).collect()
}

fn question(topology: &Topology, pairs: &[(HostId, HostId)]) -> Question {
    let graph = &topology.graph;
    let costs = LinkCosts::new(graph, SEED);
    let hosts = Hosts::one_each(topology);
    let links = graph
        .directions()
        .filter(|link| graph.from(*link) < graph.to(*link))
        .map(|link| {
            let back = graph.reverse(link);
            (graph.from(link), graph.to(link), costs.of(link), link, back)
        });
    let pairs = pairs
        .iter()
        .map(|(a, b)| (hosts.router(*a), hosts.router(*b)));
    Question {
        links: links.collect(),
        pairs: pairs.collect(),
    }
}
