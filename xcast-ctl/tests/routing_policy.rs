//! Random routes and policy rules of a real kernel: wherever route synchronisation does not leave a packet to
//! the kernel's stack, it sends it where `ip route get` says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    env, fs,
    io::Write as _,
    net::IpAddr,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::Uid,
};
use tokio::{sync::mpsc::Receiver, time::timeout};
use xcast_common::maps::NextHopKind;
use xcast_ctl::{
    gateways::Gateways,
    sync::{KernelEvent, Netlink, NetlinkOptions, RouteSync, SyncConfig},
};

/// How long a change may take to get from the kernel into the maps.
const PATIENCE: Duration = Duration::from_secs(60);
/// Random states of the kernel, unless `XCAST_STATES` says how many.
const STATES: u64 = 60;
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
    set_up: &'static str,
    /// A prefix for each state, to see when it has arrived.
    beacon: fn(u64) -> String,
}

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
    set_up: "addr add 10.1.0.1/24 dev v1
        addr add 10.2.0.1/24 dev v2
        addr add 10.3.0.1/24 dev v3
        neigh add 10.1.0.2 lladdr 02:00:00:00:01:02 dev v1
        neigh add 10.2.0.2 lladdr 02:00:00:00:02:02 dev v2
        neigh add 10.3.0.2 lladdr 02:00:00:00:03:02 dev v3",
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
    set_up: "addr add 3fff:0:1::1/64 dev v1 nodad
        addr add 3fff:0:2::1/64 dev v2 nodad
        addr add 3fff:0:3::1/64 dev v3 nodad
        neigh add 3fff:0:1::2 lladdr 02:00:00:00:01:02 dev v1
        neigh add 3fff:0:2::2 lladdr 02:00:00:00:02:02 dev v2
        neigh add 3fff:0:3::2 lladdr 02:00:00:00:03:02 dev v3",
    beacon: |state| format!("3fff:113::{state:x}/128"),
};

impl Family {
    fn is_ipv6(&self) -> bool {
        self.option == "-6"
    }

    fn random_route(&self, random: &mut Random) -> String {
        let verb = random.of(&["add", "add", "append", "prepend", "replace"]);
        let prefix = random.of(self.prefixes);
        let mut text = format!("route {verb} ");
        let gateway = |random: &mut Random| self.gateways[random.below(3) as usize];
        let kind = random.below(12);
        match kind {
            0 => text += &format!("blackhole {prefix}"),
            1 => text += &format!("unreachable {prefix}"),
            2 => text += &format!("throw {prefix}"),
            3 => text += &format!("{prefix} dev v{}", 1 + random.below(3)),
            _ => text += prefix,
        }
        if self.is_ipv6() && random.one_in(4) && kind != 2 {
            text += &format!(" from {}", random.of(self.source_prefixes));
        }
        if !self.is_ipv6() && random.one_in(6) {
            text += " tos 0x10";
        }
        match kind {
            0..=3 => {}
            4 => {}
            _ => text += &format!(" via {}", gateway(random)),
        }
        text += random.of(&["", "", " table 100", " table 101"]);
        text += random.of(&["", "", " metric 10", " metric 20"]);
        if kind == 4 {
            let (one, other) = (gateway(random), gateway(random));
            text += " proto 77";
            return text + &format!(" nexthop via {one} nexthop via {other}\n");
        }
        if kind > 4 {
            text += random.of(&["", "", "", " mtu 1400", " mtu lock 1300", " advmss 1200"]);
            if self.is_ipv6() {
                text += random.of(&["", "", " pref high", " pref low", " expires 1000"]);
            }
        }
        text + " proto 77\n"
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

fn batch(option: &str, commands: &str) {
    let mut ip = Command::new("ip");
    ip.args([option, "-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null());
    let mut ip = ip.spawn().unwrap();
    let mut input = ip.stdin.take().unwrap();
    input.write_all(commands.as_bytes()).unwrap();
    drop(input);
    ip.wait().unwrap();
}

/// What there is, to be shown if something is wrong.
fn state(option: &str) -> String {
    let show = |arguments: &[&str]| {
        let output = Command::new("ip").arg(option).args(arguments).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    show(&["rule"]) + &show(&["route", "show", "table", "all", "proto", "77"])
}

/// The kernel's answer: the gateway, or the destination itself, and the interface; `None` if it sends the
/// packet nowhere.
fn kernel_way(question: &str, destination: &str) -> Option<(String, String)> {
    let output = Command::new("ip")
        .args(question.split_whitespace())
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.first() != Some(&destination) || text.contains(" error ") {
        return None; // An error, or a type such as `local` comes first.
    }
    let after = |word: &str| {
        let at = words.iter().position(|other| *other == word)?;
        words.get(at + 1).map(|&word| word.to_owned())
    };
    let to = after("via").unwrap_or_else(|| destination.to_owned());
    Some((to, after("dev")?))
}

struct Router {
    sync: RouteSync,
    events: Receiver<Vec<KernelEvent>>,
    _netlink: Netlink,
}

impl Router {
    /// Follows the kernel until it has heard of what `is_last` knows.
    async fn follow(&mut self, is_last: impl Fn(&KernelEvent) -> bool) {
        loop {
            let events = timeout(PATIENCE, self.events.recv()).await;
            let events = events.expect("nothing happened").expect("netlink ended");
            let mut edits = Vec::new();
            for event in &events {
                if let KernelEvent::Link(link) = event
                    && let Some(number) = link.name.strip_prefix('v')
                {
                    let slot = 8 + number.parse::<u8>().unwrap();
                    self.sync.attach_port(link.ifindex, slot, &mut edits);
                }
            }
            let is_there = events.iter().any(&is_last);
            self.sync.apply_all(events, &mut edits);
            if is_there && !self.sync.resyncing() {
                return;
            }
        }
    }

    /// Where packets go: to one of these pairs of address and interface; `None` for the stack.
    fn ways(
        &self,
        source: &str,
        interface: &str,
        destination: &str,
    ) -> Option<Vec<(String, String)>> {
        if self
            .sync
            .stack_policy(source.parse().unwrap(), Some(interface))
            .is_some()
        {
            return None;
        }
        let destination: IpAddr = destination.parse().unwrap();
        let id = self.sync.lookup(destination).next_hop;
        let entry = self.sync.next_hop(id).unwrap();
        if entry.kind == NextHopKind::Stack as u8 {
            return None;
        }
        let members = match self.sync.ecmp_buckets(id) {
            Some(group) => group.buckets.to_vec(),
            None => vec![id],
        };
        let rows = self
            .sync
            .next_hops()
            .filter(|row| members.contains(&row.id));
        Some(
            rows.filter(|row| row.entry.kind != NextHopKind::Skip as u8)
                .map(|row| {
                    (
                        row.address.unwrap_or(destination).to_string(),
                        row.device.unwrap(),
                    )
                })
                .collect(),
        )
    }
}

async fn check(family: &Family) {
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{key}"), "1").unwrap();
    }
    for conf in ["all", "default"] {
        fs::write(format!("/proc/sys/net/ipv4/conf/{conf}/rp_filter"), "0").unwrap();
        fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/accept_dad"), "0").unwrap();
    }
    batch("-4", LINKS);
    batch(family.option, family.set_up);
    let (netlink, events) = Netlink::start(NetlinkOptions::default()).unwrap();
    let mut router = Router {
        sync: RouteSync::new(SyncConfig {
            gateways: Gateways::All,
            ..SyncConfig::default()
        }),
        events,
        _netlink: netlink,
    };
    router
        .follow(|event| *event == KernelEvent::ResyncEnd)
        .await;

    let states = env::var("XCAST_STATES").map_or(STATES, |states| states.parse().unwrap());
    let mut random = Random(17);
    let (mut forwarded, mut to_stack, mut nowhere) = (0, 0, 0);
    for number in 0..states {
        let mut commands = String::from("route flush table all proto 77\nrule flush\n");
        if !random.one_in(10) {
            commands +=
                "rule add lookup main priority 32766\nrule add lookup default priority 32767\n";
        }
        for _ in 0..6 + random.below(8) {
            commands += &family.random_route(&mut random);
        }
        for _ in 0..random.below(4) {
            commands += &family.random_rule(&mut random);
        }
        let beacon = (family.beacon)(number);
        commands += &format!("route add {beacon} dev v1 proto 77\n");
        batch(family.option, &commands);
        let prefix = beacon.parse().unwrap();
        router
            .follow(
                |event| matches!(event, KernelEvent::Route { route, .. } if route.prefix == prefix),
            )
            .await;

        for _ in 0..QUESTIONS {
            let destination = random.of(family.destinations);
            let source = random.of(family.sources);
            let interface = random.of(&["v1", "v2", "v3"]);
            let mut question = format!(
                "{} route get {destination} from {source} iif {interface}",
                family.option
            );
            question += random.of(&["", " tos 0x10"]);
            question += random.of(&["", " ipproto udp dport 5000 sport 9"]);
            let Some(ways) = router.ways(source, interface, destination) else {
                to_stack += 1;
                continue;
            };
            let kernel = kernel_way(&question, destination);
            let agree = match &kernel {
                Some(way) => ways.contains(way),
                None => ways.is_empty(),
            };
            let why = router.sync.lookup(destination.parse().unwrap()).why;
            assert!(
                agree,
                "state {number}: ip {question}\nkernel: {kernel:?}\nrouter: {ways:?} ({why})\n{commands}\n{}",
                state(family.option)
            );
            match kernel {
                Some(_) => forwarded += 1,
                None => nowhere += 1,
            }
        }
    }
    eprintln!(
        "{forwarded} forwarded as by the kernel, {nowhere} discarded, {to_stack} left to the stack"
    );
    // It would agree, too, if everything went to the stack.
    assert!(
        forwarded > states * QUESTIONS / 10 && nowhere > 0,
        "{forwarded}, {nowhere}"
    );
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
