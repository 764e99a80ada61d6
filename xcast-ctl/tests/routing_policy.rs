//! Random states of a real kernel, with all that `ip route get` looks at: wherever route synchronisation does not leave a
//! packet to the kernel's stack, it sends it where `ip route get` says, by all the members of a multipath route and no
//! others, and as large as it may be there.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    env, fs,
    io::{self, Write as _},
    net::IpAddr,
    ops::RangeInclusive,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use nix::{
    sched::{CloneFlags, unshare},
    unistd::Uid,
};
use tokio::{
    sync::mpsc::Receiver,
    time::{timeout, timeout_at},
};
use xcast_common::maps::{EcmpGroup, NextHop, NextHopKind};
use xcast_ctl::{
    gateways::Gateways,
    sync::{Edit, KernelEvent, Netlink, NetlinkOptions, RouteSync, SyncConfig},
};

/// How long a change may take to get from the kernel into the maps.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the kernel may take for what it does in its own time, such as the routes of a link that came up. What differs
/// for longer is wrong.
const SETTLING: Duration = Duration::from_secs(5);
/// Random states of the kernel, unless `XCAST_STATES` says how many.
const STATES: u64 = 150;
/// Questions about each.
const QUESTIONS: u64 = 12;

/// Numbers that look random (splitmix64); the same for each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// The addresses of a family.
struct Family {
    option: &'static str,
    prefixes: &'static [&'static str],
    destinations: &'static [&'static str],
    source_prefixes: &'static [&'static str],
    sources: &'static [&'static str],
    gateways: [&'static str; 3],
    /// Somebody on a link whose address is in none of its subnets.
    stranger: &'static str,
    /// The gateways of the other family, for routes of IPv4 that lead to one of IPv6.
    gateways6: [&'static str; 3],
    /// Addresses with a peer, and the peer's prefix.
    peers: &'static [(&'static str, &'static str)],
    /// Encapsulations that routes may have.
    encapsulations: &'static [&'static str],
    set_up: &'static str,
    /// A prefix for each state, to see when it has arrived.
    beacon: fn(u64) -> String,
}

/// The ids that nexthop objects may have, groups among them.
const OBJECTS: &[&str] = &["1", "2", "3", "4", "11", "12", "11", "12"];
/// MTUs of interfaces.
const MTUS: &[&str] = &["1500", "1500", "1350", "2000"];

const LINKS: &str = "link set lo up
    link add v1 type veth peer name p1
    link add v2 type veth peer name p2
    link add v3 type veth peer name p3
    link set v1 up\nlink set p1 up
    link set v2 up\nlink set p2 up
    link set v3 up\nlink set p3 up\n";

const IPV4: Family = Family {
    option: "-4",
    prefixes: &[
        "default",
        "20.0.0.0/7",
        "20.0.0.0/8",
        "20.1.0.0/16",
        "20.1.1.0/24",
        "20.1.1.1/32",
    ],
    destinations: &[
        "20.1.1.1", "20.1.1.2", "20.1.2.1", "20.2.0.1", "21.0.0.1", "50.0.0.1", "10.2.0.2",
    ],
    source_prefixes: &["30.0.0.0/8", "30.1.0.0/16", "31.0.0.0/8"],
    sources: &["30.1.0.1", "30.2.0.1", "31.0.0.1", "40.0.0.1"],
    gateways: ["10.1.0.2", "10.2.0.2", "10.3.0.2"],
    stranger: "77.7.7.7",
    gateways6: IPV6.gateways,
    peers: &[
        ("10.8.0.1", "20.1.1.1/32"),
        ("10.8.0.2", "20.1.1.0/24"),
        ("10.2.0.1", "20.1.2.1/32"),
        ("20.1.1.2", "50.0.0.1/32"),
    ],
    encapsulations: &["encap ip id 7 dst 10.1.0.9", "encap mpls 100"],
    set_up: "addr add 10.1.0.1/24 dev v1
        addr add 10.2.0.1/24 dev v2
        addr add 10.3.0.1/24 dev v3
        route add 3fff:0:1::/64 dev v1
        route add 3fff:0:2::/64 dev v2
        route add 3fff:0:3::/64 dev v3",
    beacon: |state| format!("198.18.{}.{}/32", state / 256, state % 256),
};

const IPV6: Family = Family {
    option: "-6",
    prefixes: &[
        "default",
        "3fff:20::/31",
        "3fff:20::/32",
        "3fff:20:1::/48",
        "3fff:20:1:1::/64",
        "3fff:20:1:1::1/128",
    ],
    destinations: &[
        "3fff:20:1:1::1",
        "3fff:20:1:1::2",
        "3fff:20:1:2::1",
        "3fff:20:2::1",
        "3fff:21::1",
        "3fff:50::1",
        "3fff:0:2::2",
    ],
    source_prefixes: &["3fff:30::/32", "3fff:30:1::/48", "3fff:31::/32"],
    sources: &["3fff:30:1::1", "3fff:30:2::1", "3fff:31::1", "3fff:40::1"],
    gateways: ["3fff:0:1::2", "3fff:0:2::2", "3fff:0:3::2"],
    stranger: "3fff:77::7",
    gateways6: ["3fff:0:1::2", "3fff:0:2::2", "3fff:0:3::2"],
    peers: &[
        ("3fff:8::1", "3fff:20:1:1::1/128"),
        ("3fff:8::2", "3fff:20:1:1::/64"),
        ("3fff:0:2::1", "3fff:20:1:2::1/128"),
        ("3fff:20:1:1::2", "3fff:50::1/128"),
    ],
    encapsulations: &[
        "encap ip6 id 7 dst 3fff:0:1::9",
        "encap seg6 mode encap segs 3fff:0:1::9",
    ],
    set_up: "addr add 3fff:0:1::1/64 dev v1 nodad
        addr add 3fff:0:2::1/64 dev v2 nodad
        addr add 3fff:0:3::1/64 dev v3 nodad",
    beacon: |state| format!("3fff:113::{state:x}/128"),
};

impl Family {
    fn is_ipv6(&self) -> bool {
        self.option == "-6"
    }

    fn random_gateway(&self, random: &mut Random) -> &'static str {
        self.gateways[random.below(3) as usize]
    }

    /// A next hop of a route or of a nexthop object, by an interface that is named if it has to be.
    fn random_hop(&self, random: &mut Random, names_interface: bool) -> String {
        let link = random.below(3) as usize;
        let gateway = self.gateways[link];
        let by = format!("dev v{}", link + 1);
        match random.below(12) {
            0 => format!("via {} {by} onlink", self.stranger),
            1 => format!("{} via {gateway} {by}", random.of(self.encapsulations)),
            2 if !self.is_ipv6() => format!("via inet6 {} {by}", self.gateways6[link]),
            3 => by,
            4..=7 if !names_interface => format!("via {gateway}"),
            _ => format!("via {gateway} {by}"),
        }
    }

    fn random_route(&self, random: &mut Random, is_plain: bool) -> String {
        let verb = random.of(&["add", "add", "append", "prepend", "replace"]);
        let prefix = random.of(self.prefixes);
        let mut text = format!("route {verb} ");
        let kind = random.below(16);
        match kind {
            0 => text += &format!("blackhole {prefix}"),
            1 => text += &format!("unreachable {prefix}"),
            2 => text += &format!("throw {prefix}"),
            _ => text += prefix,
        }
        if self.is_ipv6() && !is_plain && random.one_in(4) && kind != 2 {
            text += &format!(" from {}", random.of(self.source_prefixes));
        }
        if !self.is_ipv6() && !is_plain && random.one_in(6) {
            text += " tos 0x10";
        }
        match kind {
            0..=2 => {}
            3 => text += &format!(" dev v{}", 1 + random.below(3)),
            4..=6 => {}
            7..=9 => text += &format!(" nhid {}", random.of(OBJECTS)),
            10..=12 => text += &format!(" {}", self.random_hop(random, false)),
            _ => text += &format!(" via {}", self.random_gateway(random)),
        }
        text += random.of(&["", "", " table 100", " table 101"]);
        text += random.of(&["", "", " metric 10", " metric 20"]);
        if kind >= 4 {
            text += random.of(&["", "", "", " mtu 1400", " mtu lock 1300", " advmss 1200"]);
            if self.is_ipv6() {
                text += random.of(&["", "", " pref high", " pref low"]);
                if !is_plain {
                    text += random.of(&["", "", " expires 1000"]);
                }
            }
        }
        text += " proto 77";
        if (4..=6).contains(&kind) {
            for _ in 0..2 + random.below(2) {
                let weight = 1 + random.below(5);
                let hop = self.random_hop(random, false);
                text += &format!(" nexthop {hop} weight {weight}");
            }
        }
        text + "\n"
    }

    /// Nexthop objects that routes may use.
    fn random_objects(&self, random: &mut Random) -> String {
        let mut text = String::new();
        for id in 1..=4 {
            let hop = self.random_hop(random, true);
            match random.below(8) {
                0 => text += &format!("nexthop add id {id} blackhole proto 77\n"),
                _ => text += &format!("nexthop add id {id} {hop} proto 77\n"),
            }
        }
        for id in [11, 12] {
            let mut members = Vec::new();
            for member in 1..=4 {
                if random.one_in(2) {
                    members.push(format!("{member},{}", 1 + random.below(5)));
                }
            }
            let kind = random.of(&["", "", " type resilient buckets 64"]);
            let members = members.join("/");
            text += &format!("nexthop add id {id} group {members}{kind} proto 77\n");
        }
        text
    }

    /// Addresses, neighbours, MTUs and carriers, after those of the last state are gone.
    fn random_links(&self, random: &mut Random) -> String {
        let mut text = String::new();
        for link in 1..=3 {
            text += &format!("link set v{link} up\nlink set p{link} up\n");
            text += &format!("link set v{link} mtu {}\n", random.of(MTUS));
            for (address, peer) in self.peers {
                text += &format!("addr del {address} peer {peer} dev v{link}\n");
            }
        }
        for (address, peer) in self.peers {
            if random.one_in(4) {
                let link = 1 + random.below(3);
                let nodad = if self.is_ipv6() { " nodad" } else { "" };
                text += &format!("addr add {address} peer {peer} dev v{link}{nodad}\n");
            }
        }
        let some_fail = random.one_in(2);
        for link in 1..=3 {
            let hosts = self.gateways6[link - 1..link]
                .iter()
                .chain(&self.gateways[link - 1..link])
                .chain([&self.stranger])
                .chain(self.destinations);
            for host in hosts {
                let state = match random.below(8) {
                    0 if some_fail => "nud failed",
                    1 => "lladdr 02:00:00:00:01:02 nud stale",
                    _ => "lladdr 02:00:00:00:01:02 nud permanent",
                };
                text += &format!("neigh replace {host} dev v{link} {state}\n");
            }
        }
        for link in 1..=3 {
            match random.below(16) {
                0 => text += &format!("link set v{link} down\n"),
                1 | 2 => text += &format!("link set p{link} down\n"),
                _ => {}
            }
        }
        text
    }

    fn random_rule(&self, random: &mut Random) -> String {
        let mut text = "rule add".to_owned();
        if random.one_in(8) {
            text += " not";
        }
        if random.one_in(4) {
            text += &format!(" from {}", random.of(self.source_prefixes));
        }
        if random.one_in(4) {
            text += &format!(" to {}", random.of(&self.prefixes[2..]));
        }
        if random.one_in(4) {
            text += &format!(" iif {}", random.of(&["v1", "v2", "p1", "lo"]));
        }
        if random.one_in(10) {
            text += " oif v2";
        }
        if random.one_in(10) {
            text += " tos 0x10";
        }
        if random.one_in(6) {
            text += random.of(&[" fwmark 1", " fwmark 0/0xff", " fwmark 2/0x2"]);
        }
        if random.one_in(12) {
            text += random.of(&[" ipproto udp", " ipproto udp dport 5000", " ipproto tcp"]);
        }
        if random.one_in(12) {
            text += random.of(&[" uidrange 0-0", " uidrange 1000-2000"]);
        }
        text += &format!(
            " priority {}",
            random.of(&["50", "100", "200", "300", "33000"])
        );
        text += match random.below(14) {
            0 => " blackhole",
            1 => " unreachable",
            2 => " prohibit",
            3 => " goto 300",
            4 => " nop",
            5 => " lookup main suppress_prefixlength 0",
            6 => " lookup 100 suppress_prefixlength 16",
            7 => " lookup 100 suppress_ifgroup 0",
            8 => " lookup main",
            9..=11 => " lookup 100",
            _ => " lookup 101",
        };
        text + " proto 77\n"
    }
}

/// Runs `ip` with many commands, whether they succeed or not; returns what it prints.
fn batch(option: &str, commands: &str) -> String {
    let mut ip = Command::new("ip");
    if !option.is_empty() {
        ip.arg(option);
    }
    ip.args(["-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut ip = ip.spawn().unwrap();
    let mut input = ip.stdin.take().unwrap();
    let commands = commands.to_owned();
    let writer = thread::spawn(move || input.write_all(commands.as_bytes()));
    let output = ip.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// What there is.
fn state(option: &str) -> String {
    let show = |arguments: &[&str]| {
        let output = Command::new("ip").arg(option).args(arguments).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    show(&["rule"])
        + &show(&["route", "show", "table", "all", "proto", "77"])
        // Groups are of no family.
        + &batch("", "nexthop\n")
        + &show(&["addr"])
        + &show(&["neigh"])
}

/// Where the kernel would send a packet: to the gateway, or the destination itself, by an interface.
type Way = (String, String);

/// The kernel's answers about flows.
#[derive(Debug, Default)]
struct Answers {
    /// How many flows go each way.
    ways: BTreeMap<Way, u64>,
    /// Flows that it sends nowhere.
    nowhere: u64,
}

/// Asks the kernel about so many flows with different ports.
fn ask(option: &str, question: &str, destination: &str, flows: u64) -> Answers {
    let commands: String = (1..=flows)
        .map(|flow| format!("route get {question} sport {flow}\n"))
        .collect();
    let text = batch(option, &commands);
    // What goes on begins with a space.
    let text = text.replace("\n ", " ");
    let mut answers = Answers::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() != Some(&destination) || line.contains(" error ") {
            continue; // An error, or a type such as `local` comes first.
        }
        let to = after(&words, "via", "inet6").unwrap_or(destination);
        let device = after(&words, "dev", "").unwrap();
        let way = (to.to_owned(), device.to_owned());
        *answers.ways.entry(way).or_default() += 1;
    }
    answers.nowhere = flows - answers.ways.values().sum::<u64>();
    answers
}

/// The word behind another one, and behind one more that may be there.
fn after<'a>(words: &[&'a str], word: &str, skip: &str) -> Option<&'a str> {
    let at = words.iter().position(|other| *other == word)? + 1;
    let at = at + usize::from(words.get(at) == Some(&skip));
    words.get(at).copied()
}

/// What the MTU of the route that the kernel finds allows, in octets.
///
/// The kernel keeps what it found with the nexthop object, and answers with the MTU of whichever route with that object was
/// asked for first. So theirs may be any.
fn route_mtu(option: &str, question: &str) -> RangeInclusive<u32> {
    let text = batch(option, &format!("route get fibmatch {question}\n"));
    let words: Vec<&str> = text.split_whitespace().collect();
    match after(&words, "mtu", "lock") {
        _ if words.contains(&"nhid") => 0..=u32::MAX,
        Some(mtu) => mtu.parse().unwrap()..=mtu.parse().unwrap(),
        None => u32::MAX..=u32::MAX,
    }
}

/// A way of the router's, or one of several.
#[derive(Debug)]
struct Member {
    /// Unless only the kernel knows it.
    way: Option<Way>,
    /// Octets of the largest packet, unless copies take the stack.
    mtu_bytes: Option<u16>,
    /// Its part of all flows.
    share: f64,
}

/// What the edits so far make of the datapath's maps.
#[derive(Default)]
struct Maps {
    routes: HashMap<IpNet, u32>,
    next_hops: HashMap<u32, NextHop>,
    groups: HashMap<u16, EcmpGroup>,
}

impl Maps {
    fn edit(&mut self, edit: Edit) {
        match edit {
            Edit::NextHop { id, entry } => drop(self.next_hops.insert(id, entry)),
            Edit::Ecmp { group, buckets } => drop(self.groups.insert(group, *buckets)),
            Edit::Route { prefix, next_hop } => drop(self.routes.insert(prefix, next_hop)),
            Edit::RemoveRoute { prefix } => drop(self.routes.remove(&prefix)),
            _ => {}
        }
    }

    /// The next hop of an address, and the members if it is a group.
    fn look_up(&self, address: IpAddr) -> (NextHop, Vec<NextHop>) {
        let longest = (0..=IpNet::from(address).prefix_len()).rev();
        let id = longest
            .filter_map(|len| self.routes.get(&IpNet::new(address, len).unwrap().trunc()))
            .next();
        let entry = self.next_hops[id.unwrap_or(&0)];
        let members = match entry.kind == NextHopKind::Ecmp as u8 {
            true => self.groups[&entry.group_or_tunnel].buckets.to_vec(),
            false => Vec::new(),
        };
        let members = members.iter().map(|id| self.next_hops[id]);
        (entry, members.collect())
    }
}

struct Router {
    sync: RouteSync,
    maps: Maps,
    events: Receiver<Vec<KernelEvent>>,
    ifindices: HashMap<String, u32>,
    _netlink: Netlink,
}

impl Router {
    /// Follows the kernel until it has heard of what `is_last` knows.
    async fn follow(&mut self, is_last: impl Fn(&KernelEvent) -> bool) {
        loop {
            let events = timeout(PATIENCE, self.events.recv()).await;
            let events = events.expect("nothing happened").expect("netlink ended");
            let is_there = events.iter().any(&is_last);
            self.apply(events);
            if is_there && !self.sync.resyncing() {
                return;
            }
        }
    }

    /// Follows it for so long.
    async fn follow_for(&mut self, period: Duration) {
        let end = tokio::time::Instant::now() + period;
        while let Ok(events) = timeout_at(end, self.events.recv()).await {
            self.apply(events.expect("netlink ended"));
        }
    }

    fn apply(&mut self, events: Vec<KernelEvent>) {
        let mut edits = Vec::new();
        for event in &events {
            if let KernelEvent::Link(link) = event
                && let Some(number) = link.name.strip_prefix('v')
            {
                let slot = 8 + number.parse::<u8>().unwrap();
                self.sync.attach_port(link.ifindex, slot, &mut edits);
                self.ifindices.insert(link.name.clone(), link.ifindex);
            }
        }
        self.sync.apply_all(events, &mut edits);
        edits.into_iter().for_each(|edit| self.maps.edit(edit));
    }

    /// Tells it what is not announced, but looked at once a second.
    fn survey(&mut self) {
        let uses_neighbours = setting("ipv4/fib_multipath_use_neigh") == "1";
        let mut events = vec![KernelEvent::MultipathUsesNeighbours(uses_neighbours)];
        for (name, &ifindex) in &self.ifindices {
            let mtu = setting(&format!("ipv6/conf/{name}/mtu"));
            let mtu_bytes = mtu.parse().unwrap();
            events.push(KernelEvent::Ipv6Mtu { ifindex, mtu_bytes });
        }
        let mut edits = Vec::new();
        self.sync.apply_all(events, &mut edits);
        edits.into_iter().for_each(|edit| self.maps.edit(edit));
    }

    /// Where packets go; `None` for the stack.
    fn ways(&self, source: &str, interface: &str, destination: &str) -> Option<Vec<Member>> {
        let source = source.parse().unwrap();
        if self.sync.stack_policy(source, Some(interface)).is_some() {
            return None;
        }
        let destination: IpAddr = destination.parse().unwrap();
        let id = self.sync.lookup(destination).next_hop;
        let entry = self.sync.next_hop(id).unwrap();
        let buckets = match self.sync.ecmp_buckets(id) {
            Some(group) => group.buckets.to_vec(),
            None => vec![id],
        };
        let (in_maps, members) = self.maps.look_up(destination);
        assert_eq!(in_maps, entry, "{destination} in the maps");
        if !members.is_empty() {
            let of_sync = buckets.iter().map(|&id| self.sync.next_hop(id).unwrap());
            assert!(of_sync.eq(members), "members of {destination} in the maps");
        }
        if entry.kind == NextHopKind::Stack as u8 {
            return None;
        }
        let rows = self.sync.next_hops().filter(|row| {
            let is_skipped = row.entry.kind == NextHopKind::Skip as u8;
            buckets.contains(&row.id) && !is_skipped
        });
        let member = rows.map(|row| {
            let mine = buckets.iter().filter(|id| **id == row.id);
            let to = row.address.unwrap_or(destination).to_string();
            let forwards = row.entry.kind == NextHopKind::Forward as u8;
            Member {
                way: row.device.map(|device| (to, device)),
                mtu_bytes: forwards.then_some(row.entry.mtu_bytes),
                share: mine.count() as f64 / buckets.len() as f64,
            }
        });
        Some(member.collect())
    }
}

/// Flows that are asked about first, and where there are several ways.
const FLOWS: [u64; 2] = [16, 256];
/// How far the shares of that many flows may be from what they should be: five times their standard deviation, and a
/// bucket.
const SHARE_ERROR: f64 = 5.0 * 0.5 / 16.0 + 1.0 / 64.0;

/// What is wrong with the router's ways, compared with the kernel's answers.
///
/// The kernel sends flows into a link without carrier unless it was told not to; the router does so if there is no other
/// member. Flows of a gateway that does not answer are for the member behind it, by the router for all others.
fn disagreement(
    members: &[Member],
    all_answer: bool,
    kernel: &Answers,
    interfaces: &HashMap<String, Link>,
    largest: impl Fn(&str) -> RangeInclusive<u32>,
) -> Option<String> {
    if kernel.nowhere > 0 && !(members.is_empty() && kernel.ways.is_empty()) {
        return Some("the kernel sends some nowhere".to_owned());
    }
    let mut shares: BTreeMap<&Way, f64> = BTreeMap::new();
    let mut left_to_the_kernel = false;
    for member in members {
        let known = member
            .way
            .as_ref()
            .filter(|way| kernel.ways.contains_key(way));
        match (known, member.mtu_bytes) {
            (None, None) => left_to_the_kernel = true,
            (None, Some(_)) => {
                return Some(format!("{:?} is none of the kernel's", member.way));
            }
            (Some(way), mtu_bytes) => {
                *shares.entry(way).or_default() += member.share;
                let largest = largest(&way.1);
                if mtu_bytes.is_some_and(|mtu| !largest.contains(&mtu.into())) {
                    return Some(format!("{way:?} has an MTU of {largest:?}"));
                }
            }
        }
    }
    if left_to_the_kernel {
        // Some of its ways are that one.
        return None;
    }
    let has_carrier = |way: &Way| interfaces[&way.1].operstate == "UP";
    let missing = |way: &&Way| !shares.contains_key(*way);
    let missing: Vec<&Way> = kernel.ways.keys().filter(missing).collect();
    if let Some(way) = missing.iter().find(|way| has_carrier(way)) {
        return Some(format!("{way:?} is none of the router's"));
    }
    if !missing.is_empty() {
        let passed_over = shares.keys().all(|way| has_carrier(way));
        return (!passed_over).then(|| format!("{missing:?} is as good as {shares:?}"));
    }
    let flows: u64 = kernel.ways.values().sum();
    let shares = shares
        .into_iter()
        .map(|(way, of_router)| (way, of_router, kernel.ways[way] as f64 / flows as f64));
    let mut wrong = shares.filter(|(_, of_router, share)| {
        all_answer && kernel.ways.len() > 1 && (of_router - share).abs() > SHARE_ERROR
    });
    let (way, of_router, share) = wrong.next()?;
    Some(format!(
        "{way:?}: {of_router:.2} of flows instead of {share:.2}"
    ))
}

fn setting(key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap();
    text.trim().to_owned()
}

fn set(key: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{key}"), value).unwrap();
}

/// Sets what is no command of `ip`.
fn random_settings(random: &mut Random) {
    let mut any = |key: &str, choices: &[&str]| set(key, random.of(choices));
    any("ipv4/fib_multipath_use_neigh", &["0", "1"]);
    for interface in ["all", "v1", "v2", "v3"] {
        for family in ["ipv4", "ipv6"] {
            let key = format!("{family}/conf/{interface}/ignore_routes_with_linkdown");
            any(&key, &["0", "0", "1"]);
        }
    }
    for interface in ["v1", "v2", "v3"] {
        let path = format!("/proc/sys/net/ipv6/conf/{interface}/mtu");
        // Above the link's it is refused.
        let _ = fs::write(path, random.of(&["1280", "1340", "1500", "1900"]));
    }
}

/// An interface, as `ip link` shows it.
struct Link {
    is_up: bool,
    operstate: String,
    mtu_bytes: u32,
}

fn links() -> HashMap<String, Link> {
    let text = batch("-o", "link show\n");
    let link = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |word: &str| {
            let at = words.iter().position(|other| *other == word).unwrap();
            words[at + 1]
        };
        let (name, _) = words[1].split_once(['@', ':']).unwrap();
        let flags = words[2].trim_matches(['<', '>']);
        let link = Link {
            is_up: flags.split(',').any(|flag| flag == "UP"),
            operstate: after("state").to_owned(),
            mtu_bytes: after("mtu").parse().unwrap(),
        };
        (name.to_owned(), link)
    };
    text.lines().map(link).collect()
}

/// Waits until the kernel has taken note of carriers that are lost, or back, up to a second later.
fn await_carriers() -> HashMap<String, Link> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let links = links();
        let is_done = (1..=3).all(|number| {
            let link = &links[&format!("v{number}")];
            let wanted = match links[&format!("p{number}")].is_up {
                true => "UP",
                false => "LOWERLAYERDOWN",
            };
            !link.is_up || link.operstate == wanted
        });
        if is_done {
            return links;
        }
        assert!(Instant::now() < deadline, "carriers do not settle");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What states have to have had, each at least once, in what `ip` shows of them; where the kernel can.
const VARIED: &[&str] = &[
    " peer ",
    " nhid ",
    " weight ",
    " onlink",
    " linkdown",
    " mtu ",
    " encap ",
    "blackhole",
    " group 1",
    " FAILED",
    "resilient",
];

async fn check(family: &Family) {
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        set(key, "1");
    }
    for conf in ["all", "default"] {
        set(&format!("ipv4/conf/{conf}/rp_filter"), "0");
        set(&format!("ipv6/conf/{conf}/accept_dad"), "0");
        set(&format!("ipv6/conf/{conf}/keep_addr_on_down"), "1");
    }
    // By ports as well, so that many flows can be asked about.
    set("ipv4/fib_multipath_hash_policy", "1");
    set("ipv6/fib_multipath_hash_policy", "1");
    batch("-4", LINKS);
    batch("", family.set_up);
    let has_vrf = batch("", "link add red type vrf table 100\nlink show red").contains("red");
    if !has_vrf {
        // Past the test harness's capture, so that a skip is never silent.
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: random states of VRFs: this kernel has none"
        );
    }
    let (netlink, events) = Netlink::start(NetlinkOptions::default()).unwrap();
    let mut router = Router {
        sync: RouteSync::new(SyncConfig {
            gateways: Gateways::All,
            ..SyncConfig::default()
        }),
        maps: Maps::default(),
        events,
        ifindices: HashMap::new(),
        _netlink: netlink,
    };
    router
        .follow(|event| *event == KernelEvent::ResyncEnd)
        .await;

    let states = env::var("XCAST_STATES").map_or(STATES, |states| states.parse().unwrap());
    let seed = env::var("XCAST_SEED").map_or(17, |seed| seed.parse().unwrap());
    let mut random = Random(seed);
    let (mut forwarded, mut several, mut to_stack, mut nowhere) = (0, 0, 0, 0);
    let mut missing: BTreeSet<&str> = VARIED.iter().copied().collect();
    for number in 0..states {
        batch(
            family.option,
            "route flush table all proto 77\nrule flush\n\
             rule add lookup main priority 32766\nrule add lookup default priority 32767\n",
        );
        // Objects may be of either family.
        let mut links = family.random_links(&mut random);
        if has_vrf {
            let vrf = random.of(&["nomaster", "nomaster", "nomaster", "master red"]);
            links += &format!("link set v3 {vrf}\n");
        }
        let objects = "nexthop flush proto 77\n".to_owned() + &family.random_objects(&mut random);
        batch("", &(links.clone() + &objects));
        random_settings(&mut random);
        let mut commands = String::new();
        // Much of what only the kernel knows hides the rest.
        let is_plain = random.one_in(2);
        for _ in 0..6 + random.below(8) {
            commands += &family.random_route(&mut random, is_plain);
        }
        for _ in 0..if is_plain { 0 } else { random.below(4) } {
            commands += &family.random_rule(&mut random);
        }
        if random.one_in(10) {
            commands += "rule del priority 32766\nrule del priority 32767\n";
        }
        batch(family.option, &commands);
        let interfaces = await_carriers();
        let beacon = (family.beacon)(number);
        // The first command waits until the kernel is through with what it has begun.
        batch(
            family.option,
            &format!("link set lo up\nroute add blackhole {beacon} proto 77\n"),
        );
        let prefix = beacon.parse().unwrap();
        router
            .follow(
                |event| matches!(event, KernelEvent::Route { route, .. } if route.prefix == prefix),
            )
            .await;
        router.survey();
        let shown = state(family.option);
        missing.retain(|word| !shown.contains(word));

        for _ in 0..QUESTIONS {
            let destination = random.of(family.destinations);
            let source = random.of(family.sources);
            let interface = random.of(&["v1", "v2", "v3"]);
            let tos = random.of(&["", " tos 0x10"]);
            let question =
                format!("{destination} from {source} iif {interface}{tos} ipproto udp dport 5000");
            let all_answer = !links.contains("nud failed");
            let deadline = Instant::now() + SETTLING;
            let ways = loop {
                let Some(members) = router.ways(source, interface, destination) else {
                    break None;
                };
                let mut kernel = ask(family.option, &question, destination, FLOWS[0]);
                if members.len() > 1 || kernel.ways.len() > 1 {
                    kernel = ask(family.option, &question, destination, FLOWS[1]);
                }
                let of_route = route_mtu(family.option, &question);
                let largest = |interface: &str| {
                    let link = interfaces[interface].mtu_bytes;
                    let of_ipv6 = setting(&format!("ipv6/conf/{interface}/mtu"));
                    let of_link = match family.is_ipv6() {
                        true => link.min(of_ipv6.parse().unwrap()),
                        false => link,
                    };
                    *of_route.start().min(&of_link)..=*of_route.end().min(&of_link)
                };
                let what = disagreement(&members, all_answer, &kernel, &interfaces, largest);
                let Some(what) = what else {
                    break Some(kernel.ways.len());
                };
                if Instant::now() > deadline {
                    let why = router.sync.lookup(destination.parse().unwrap()).why;
                    panic!(
                        "state {number}: {what}\nip route get {question}\nkernel: {kernel:?}\nrouter: {members:?} ({why})\n\
                         {links}{objects}{commands}\n{}",
                        state(family.option)
                    );
                }
                router.follow_for(Duration::from_millis(50)).await;
                router.survey();
            };
            match ways {
                None => to_stack += 1,
                Some(0) => nowhere += 1,
                Some(ways) => {
                    forwarded += 1;
                    several += u64::from(ways > 1);
                }
            }
        }
    }
    eprintln!(
        "{forwarded} forwarded as by the kernel, {several} of them by several ways, {nowhere} discarded, {to_stack} left to the stack"
    );
    // It would agree, too, if everything went to the stack.
    assert!(
        forwarded > states * QUESTIONS / 10 && several > states * QUESTIONS / 50 && nowhere > 0,
        "{forwarded}, {several}, {nowhere}"
    );
    assert!(missing.is_empty(), "no state had {missing:?}");
}

fn in_namespace(family: &'static Family) {
    if !Uid::effective().is_root() {
        assert!(
            env::var_os("XCAST_ALLOW_SKIP").is_some_and(|value| value == "1"),
            "needs root for a network namespace; set XCAST_ALLOW_SKIP=1 to skip it"
        );
        eprintln!("SKIPPED: needs root for a network namespace");
        return;
    }
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime
            .enable_all()
            .build()
            .unwrap()
            .block_on(check(family));
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn random_states_of_ipv4() {
    in_namespace(&IPV4);
}

#[test]
fn random_states_of_ipv6() {
    in_namespace(&IPV6);
}
