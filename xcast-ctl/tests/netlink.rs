//! Route synchronisation with a real kernel, in network namespaces of the tests' own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    future::Future,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::{Command, Stdio},
    sync::mpsc as std_mpsc,
    thread,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use nix::{
    sched::{CloneFlags, CpuSet, sched_getcpu, sched_setaffinity, unshare},
    unistd::{Uid, gettid},
};
use tokio::{
    sync::mpsc::Receiver,
    time::{sleep, timeout},
};
use xcast_common::maps::counter::Counter;
use xcast_ctl::{
    gateways::Gateways,
    report,
    router::resolver::Resolver,
    sync::{
        Edit, KernelEvent, Netlink, NetlinkOptions, RouteSync, SyncConfig,
        event::{NeighbourState, RouteKind},
    },
};

/// How long anything may take to get from the kernel into the maps.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a test in a network namespace of its own. Without the rights to have one it fails, or is
/// skipped where that was asked for.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
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
        runtime.enable_all().build().unwrap().block_on(test());
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Another network namespace, which ends with this value.
struct Peer {
    /// The thread that holds it.
    thread: i32,
    commands: Option<std_mpsc::Sender<String>>,
    done: std_mpsc::Receiver<()>,
    handle: Option<thread::JoinHandle<()>>,
}

impl Peer {
    fn new() -> Self {
        let (commands, received) = std_mpsc::channel::<String>();
        let (finished, done) = std_mpsc::channel();
        let (started, start) = std_mpsc::channel();
        let handle = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            started.send(gettid().as_raw()).unwrap();
            for command in received {
                ip(&command);
                finished.send(()).unwrap();
            }
        });
        Self {
            thread: start.recv().unwrap(),
            commands: Some(commands),
            done,
            handle: Some(handle),
        }
    }

    fn ip(&self, commands: &str) {
        self.commands
            .as_ref()
            .unwrap()
            .send(commands.to_owned())
            .unwrap();
        self.done.recv().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(handle) = self.handle.take() {
            handle.join().ok();
        }
    }
}

/// Carries out `ip` commands, one a line; all have to succeed.
fn ip(commands: &str) {
    assert!(ip_batch(commands, &["-batch", "-"]), "{commands}");
}

fn ip_batch(commands: &str, options: &[&str]) -> bool {
    let mut ip = Command::new("ip");
    ip.args(options).stdin(Stdio::piped());
    if options.contains(&"-force") {
        ip.stderr(Stdio::null());
    }
    let mut ip = ip.spawn().unwrap();
    ip.stdin
        .take()
        .unwrap()
        .write_all(commands.as_bytes())
        .unwrap();
    ip.wait().unwrap().success()
}

/// A router without a datapath.
struct Router {
    netlink: Netlink,
    resolver: Resolver,
    events: Receiver<Vec<KernelEvent>>,
    sync: RouteSync,
    /// Interfaces that are to be ports, in the order of their slots.
    ports: Vec<String>,
    edits: Vec<Edit>,
    synchronised: u32,
    /// What the kernel said.
    heard: Vec<KernelEvent>,
}

impl Router {
    fn start(ports: &[&str]) -> Self {
        Self::with_options(ports, NetlinkOptions::default())
    }

    fn with_options(ports: &[&str], options: NetlinkOptions) -> Self {
        let (netlink, events) = Netlink::start(options).unwrap();
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        Self {
            netlink,
            resolver: Resolver::start(handle),
            events,
            sync: RouteSync::new(SyncConfig {
                gateways: Gateways::All,
                tables: vec![255, 254, 100],
                ..SyncConfig::default()
            }),
            ports: ports.iter().map(|&port| port.to_owned()).collect(),
            edits: Vec::new(),
            synchronised: 0,
            heard: Vec::new(),
        }
    }

    /// Takes in what there is, and waits for more if there is nothing.
    async fn step(&mut self) {
        let batch = timeout(PATIENCE, self.events.recv()).await;
        let batch = batch
            .expect("nothing happened")
            .expect("the netlink thread is gone");
        for event in batch {
            let link = match &event {
                KernelEvent::Link(link) => Some(link.clone()),
                KernelEvent::ResyncEnd => {
                    self.synchronised += 1;
                    None
                }
                _ => None,
            };
            self.heard.push(event.clone());
            self.sync.apply(event, &mut self.edits);
            if let Some(link) = link
                && let Some(slot) = self.ports.iter().position(|port| *port == link.name)
            {
                let slot = u8::try_from(slot).unwrap() + 2;
                self.sync.attach_port(link.ifindex, slot, &mut self.edits);
            }
        }
        for edit in &self.edits {
            match *edit {
                Edit::Resolve { ifindex, gateway } => self.resolver.resolve(ifindex, gateway),
                Edit::Release { ifindex, gateway } => self.resolver.release(ifindex, gateway),
                _ => {}
            }
        }
        self.edits.clear();
    }

    async fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let stepped = !left.is_zero() && timeout(left, self.step()).await.is_ok();
            assert!(stepped, "{what}: {:#?}", self.routes());
        }
    }

    async fn synchronise(&mut self) {
        let next = self.synchronised + 1;
        self.until("synchronised", |router| router.synchronised >= next)
            .await;
    }

    /// The table of next hops, as the `next-hops` verb shows it.
    fn next_hops(&self) -> impl Iterator<Item = report::NextHop> {
        self.sync.next_hops().map(report::NextHop::from)
    }

    /// What becomes of packets to an address, in one line.
    fn fate(&self, address: &str) -> String {
        let id = self.sync.lookup(address.parse().unwrap()).next_hop;
        let row = self.next_hops().find(|row| row.id == id).unwrap();
        match (row.reason, row.port, row.address) {
            (Some(reason), ..) => reason,
            (None, Some(port), Some(address)) => format!("{} {address} {port}", row.kind),
            _ => row.kind,
        }
    }

    /// The route map without what differs from one run to the next.
    fn routes(&self) -> BTreeMap<String, String> {
        let routes = self.sync.routes().map(report::Route::from).map(|route| {
            let why = route.why.split(", neighbour").next().unwrap().to_owned();
            let text = format!("{} {:?} {:?} {why}", route.kind, route.via, route.device);
            (route.prefix.to_string(), text)
        });
        routes.collect()
    }

    /// What the kernel said about links, and about the routes of some prefixes.
    fn story(&self, prefixes: &[&str]) -> String {
        let wanted = |event: &&KernelEvent| match event {
            KernelEvent::Route { route, .. } | KernelEvent::RouteRemoved(route) => {
                prefixes.contains(&route.prefix.to_string().as_str())
            }
            KernelEvent::Neighbour(_) | KernelEvent::NeighbourRemoved { .. } => false,
            _ => true,
        };
        let events = self.heard.iter().filter(wanted);
        events.map(|event| format!("{event:?}\n")).collect()
    }

    fn own_addresses(&self) -> BTreeSet<(IpAddr, u32)> {
        self.sync.own_addresses().collect()
    }
}

#[test]
fn the_maps_follow_the_kernel() {
    in_namespace(|| async {
        ip("link add v1 type veth peer name p1
            link add v2 type veth peer name p2
            link set lo up
            link set v1 up
            link set p1 up
            link set v2 up
            link set p2 up
            addr add 10.1.0.1/24 dev v1
            addr add 10.2.0.1/24 dev v2
            neigh add 10.1.0.2 lladdr 02:00:00:00:01:02 dev v1
            neigh add 10.1.0.3 lladdr 02:00:00:00:01:03 dev v1
            neigh add 10.2.0.2 lladdr 02:00:00:00:02:02 dev v2
            route add 20.0.0.0/8 via 10.1.0.2
            nexthop add id 1 via 10.1.0.2 dev v1
            nexthop add id 2 via 10.2.0.2 dev v2
            nexthop add id 3 group 1/2,3
            route add 21.0.0.0/8 nhid 3
            route add blackhole 22.0.0.0/8 table 100");
        let mut router = Router::start(&["v1", "v2"]);
        router.synchronise().await;
        assert_eq!(router.fate("20.0.0.1"), "forward 10.1.0.2 v1");
        assert_eq!(router.fate("10.1.0.3"), "forward 10.1.0.3 v1");
        assert_eq!(router.fate("10.1.0.1"), Counter::StackLocal.name());
        assert_eq!(router.fate("10.1.0.255"), Counter::SkipNever.name());
        assert_eq!(router.fate("21.0.0.1"), "ecmp");
        assert_eq!(router.fate("22.0.0.1"), Counter::SkipBlackhole.name());
        assert_eq!(router.fate("30.0.0.1"), Counter::StackNoRoute.name());
        let own: Vec<_> = router
            .own_addresses()
            .into_iter()
            .map(|(address, _)| address)
            .filter(IpAddr::is_ipv4)
            .collect();
        assert_eq!(
            own,
            [IpAddr::from([10, 1, 0, 1]), IpAddr::from([10, 2, 0, 1])]
        );

        ip("route replace 20.0.0.0/8 via 10.2.0.2");
        router
            .until("replaced", |r| r.fate("20.0.0.1") == "forward 10.2.0.2 v2")
            .await;
        ip("nexthop del id 1");
        router
            .until("group of one", |r| {
                r.fate("21.0.0.1") == "forward 10.2.0.2 v2"
            })
            .await;
        ip("neigh del 10.1.0.3 dev v1");
        let unresolved = Counter::StackNoNeighbour.name();
        router
            .until("neighbour gone", |r| r.fate("10.1.0.3") == unresolved)
            .await;
        ip("link set v2 mtu 1300");
        let mtu = |router: &Router| {
            let mut rows = router.next_hops();
            rows.any(|row| row.port.as_deref() == Some("v2") && row.mtu == Some(1300))
        };
        router.until("MTU", mtu).await;
        // Neither route is announced as removed.
        ip("link set v2 down");
        let gone = |router: &Router, address| router.fate(address) == Counter::StackNoRoute.name();
        router
            .until("link down", |r| gone(r, "20.0.0.1") && gone(r, "21.0.0.1"))
            .await;

        // An interface of the same name comes back with another index.
        ip("link del v1");
        router.until("link removed", |r| gone(r, "10.1.0.2")).await;
        ip("link add v1 type veth peer name p1
            link set v1 up
            link set p1 up
            addr add 10.1.0.1/24 dev v1
            neigh add 10.1.0.2 lladdr 02:00:00:00:01:02 dev v1");
        router
            .until("link is back", |r| {
                r.fate("10.1.0.2") == "forward 10.1.0.2 v1"
            })
            .await;
    });
}

/// What IPv6 has in other forms: next hops come and go one by one, and gateways are link-local.
#[test]
fn the_maps_follow_the_kernel_ipv6() {
    in_namespace(|| async {
        for conf in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/accept_dad"), "0").unwrap();
        }
        ip("link add v1 type veth peer name p1
            link add v2 type veth peer name p2
            link set lo up
            link set v1 up
            link set p1 up
            link set v2 up
            link set p2 up
            addr add 2001:db8:1::1/64 dev v1 nodad
            addr add 2001:db8:2::1/64 dev v2 nodad
            addr add 10.1.0.1/24 dev v1
            neigh add 2001:db8:1::2 lladdr 02:00:00:00:01:02 dev v1
            neigh add 2001:db8:2::2 lladdr 02:00:00:00:02:02 dev v2
            neigh add fe80::2 lladdr 02:00:00:00:02:02 dev v2
            route add 2001:db8:20::/48 via 2001:db8:1::2
            route add 2001:db8:21::/48 via fe80::2 dev v2
            route add 2001:db8:22::/48 nexthop via 2001:db8:1::2 nexthop via 2001:db8:2::2
            route add 20.0.0.0/8 via inet6 fe80::2 dev v2
            nexthop add id 1 via 2001:db8:1::2 dev v1
            nexthop add id 2 via fe80::2 dev v2
            nexthop add id 3 group 1/2
            route add 2001:db8:23::/48 nhid 3
            route add blackhole 2001:db8:24::/48
            route add unreachable 2001:db8:25::/48");
        let mut router = Router::start(&["v1", "v2"]);
        router.synchronise().await;
        // The kernel makes the routes of its own addresses in its own time.
        let local = Counter::StackLocal.name();
        router
            .until("its own address", |router| {
                router.fate("2001:db8:1::1") == local
            })
            .await;
        for (address, fate) in [
            ("2001:db8:1::2", "forward 2001:db8:1::2 v1"),
            ("2001:db8:20::1", "forward 2001:db8:1::2 v1"),
            ("2001:db8:21::1", "forward fe80::2 v2"),
            ("2001:db8:22::1", "ecmp"),
            ("2001:db8:23::1", "ecmp"),
            // An IPv4 route by way of an IPv6 gateway (RFC 8950).
            ("20.0.0.1", "forward fe80::2 v2"),
            ("2001:db8:24::1", Counter::SkipBlackhole.name()),
            ("2001:db8:25::1", Counter::StackUnreachable.name()),
            ("2001:db8:1::1", Counter::StackLocal.name()),
            ("2001:db8:30::1", Counter::StackNoRoute.name()),
            ("2001:db8:1::9", Counter::StackNoNeighbour.name()),
            ("fe80::2", Counter::SkipNever.name()),
            ("ff02::1", Counter::SkipNever.name()),
            ("::1", Counter::SkipNever.name()),
        ] {
            assert_eq!(router.fate(address), fate, "{address}");
        }
        for (command, address, fate) in [
            (
                "route del 2001:db8:22::/48 via 2001:db8:1::2",
                "2001:db8:22::1",
                "forward 2001:db8:2::2 v2",
            ),
            (
                "route append 2001:db8:22::/48 via 2001:db8:1::2",
                "2001:db8:22::1",
                "ecmp",
            ),
            (
                "route replace 2001:db8:22::/48 via fe80::2 dev v2",
                "2001:db8:22::1",
                "forward fe80::2 v2",
            ),
            (
                "route add 2001:db8:20::/48 via fe80::2 dev v2 metric 5",
                "2001:db8:20::1",
                "forward fe80::2 v2",
            ),
            (
                "route del 2001:db8:20::/48 metric 5",
                "2001:db8:20::1",
                "forward 2001:db8:1::2 v1",
            ),
            ("nexthop del id 1", "2001:db8:23::1", "forward fe80::2 v2"),
            (
                "addr del 10.1.0.1/24 dev v1",
                "2001:db8:20::1",
                "forward 2001:db8:1::2 v1",
            ),
            (
                "link set v2 down",
                "2001:db8:21::1",
                Counter::StackNoRoute.name(),
            ),
        ] {
            ip(command);
            router.until(command, |r| r.fate(address) == fate).await;
        }
    });
}

#[test]
fn gateways_are_kept_resolved() {
    in_namespace(|| async {
        let peer = Peer::new();
        ip(&format!(
            "link add v1 type veth peer name p1 netns {}
             link set v1 up
             addr add 10.1.0.1/24 dev v1
             neigh add 10.1.0.9 lladdr 02:00:00:00:01:09 dev v1",
            peer.thread
        ));
        peer.ip("link set p1 up\naddr add 10.1.0.2/24 dev p1\naddr add 10.1.0.3/24 dev p1");
        let mut router = Router::start(&["v1"]);
        router.synchronise().await;
        ip("route add 20.0.0.0/8 via 10.1.0.2
            route add 21.0.0.0/8 via 10.1.0.9");
        router
            .until("resolved without a packet", |r| {
                r.fate("20.0.0.1") == "forward 10.1.0.2 v1"
            })
            .await;
        let entries = || {
            let output = Command::new("ip").args(["-d", "neigh"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let entry = |address: &str| {
            let all = entries();
            all.lines()
                .find(|line| line.contains(address))
                .map(str::to_owned)
        };
        assert!(
            entry("10.1.0.2 ").unwrap().contains("managed"),
            "{}",
            entries()
        );
        assert!(
            entry("10.1.0.9 ").unwrap().contains("PERMANENT"),
            "{}",
            entries()
        );
        assert_eq!(router.fate("21.0.0.1"), "forward 10.1.0.9 v1");

        // Somebody removes the entry: it comes back.
        ip("neigh del 10.1.0.2 dev v1");
        let unresolved = |r: &Router| r.fate("20.0.0.1") != "forward 10.1.0.2 v1";
        router.until("removed", unresolved).await;
        router.until("resolved again", |r| !unresolved(r)).await;

        // The link loses its carrier, and with it the entry.
        peer.ip("link set p1 down");
        router.until("no carrier", unresolved).await;
        peer.ip("link set p1 up");
        router.until("carrier", |r| !unresolved(r)).await;

        // An entry that is there already is taken over; nobody uses the others any more.
        ip("route del 21.0.0.0/8
            neigh add 10.1.0.3 lladdr 02:00:00:00:01:03 dev v1 nud stale
            route replace 20.0.0.0/8 via 10.1.0.3");
        router
            .until("moved", |r| r.fate("20.0.0.1") == "forward 10.1.0.3 v1")
            .await;
        let released = |_: &Router| entry("10.1.0.2 ").is_none_or(|line| !line.contains("managed"));
        router.until("released", released).await;
        let deadline = Instant::now() + PATIENCE;
        while !entry("10.1.0.3 ").unwrap().contains("managed") {
            assert!(Instant::now() < deadline, "{}", entries());
            sleep(Duration::from_millis(10)).await;
        }
        assert!(
            entry("10.1.0.9 ").unwrap().contains("PERMANENT"),
            "{}",
            entries()
        );
    });
}

/// Sets the niceness of the calling thread, which threads and processes that it starts inherit.
fn renice(niceness: i32) {
    let [niceness, thread] = [niceness, gettid().as_raw()].map(|number| number.to_string());
    let mut command = Command::new("renice");
    let output = command.args(["-n", &niceness, "-p", &thread]).output();
    assert!(output.unwrap().status.success());
}

#[test]
fn an_overrun_leads_to_a_full_resynchronisation() {
    in_namespace(|| async {
        ip("link set lo up\nroute add blackhole 20.0.0.0/24");
        let options = NetlinkOptions {
            receive_buffer_bytes: 4096,
        };
        // The listener shares a CPU with what makes the routes, and comes last: it cannot keep up.
        let mut one = CpuSet::new();
        one.set(sched_getcpu().unwrap()).unwrap();
        sched_setaffinity(gettid(), &one).unwrap();
        renice(19);
        let mut router = Router::with_options(&[], options);
        renice(0);
        router.synchronise().await;
        let routes = |verb: &str| {
            let lines = (0..8000)
                .map(|n| format!("route {verb} blackhole 30.{}.{}.0/24\n", n / 250, n % 250));
            lines.collect::<String>()
        };
        ip(&routes("add"));
        ip("route del blackhole 20.0.0.0/24");
        router.until("an overrun", |r| r.synchronised > 1).await;
        let blackholes = |r: &Router| {
            let rows = r.sync.routes();
            rows.filter(|row| row.why.starts_with("blackhole")).count()
        };
        router.until("all routes", |r| blackholes(r) == 8000).await;
        ip(&routes("del"));
        router.until("no routes", |r| blackholes(r) == 0).await;
        // On demand, too.
        let before = router.synchronised;
        router.netlink.resync();
        router.until("asked for", |r| r.synchronised > before).await;
    });
}

#[test]
fn events_say_what_the_kernel_says() {
    in_namespace(|| async {
        ip("link add v1 type veth peer name p1
            link set v1 up
            link set p1 up
            addr add 10.1.0.1/24 dev v1
            neigh add 10.1.0.2 lladdr 02:00:00:00:01:02 dev v1
            route add 20.0.0.0/8 via 10.1.0.2 src 10.1.0.1 mtu 1400 metric 7 proto static");
        let (_netlink, mut events) = Netlink::start(NetlinkOptions::default()).unwrap();
        let mut seen = Vec::new();
        while seen.last() != Some(&KernelEvent::ResyncEnd) {
            seen.extend(timeout(PATIENCE, events.recv()).await.unwrap().unwrap());
        }
        assert_eq!(seen[0], KernelEvent::ResyncBegin);
        let link = seen.iter().find_map(|event| match event {
            KernelEvent::Link(link) if link.name == "v1" => Some(link),
            _ => None,
        });
        let link = link.unwrap();
        assert!(link.up && link.carrier && link.mac.is_some() && link.mtu_bytes == 1500);
        let neighbour = seen.iter().find_map(|event| match event {
            KernelEvent::Neighbour(neighbour) => Some(neighbour),
            _ => None,
        });
        let neighbour = neighbour.unwrap();
        assert_eq!(neighbour.mac, Some([2, 0, 0, 0, 1, 2]));
        assert_eq!(neighbour.state, NeighbourState::Permanent);
        let route = seen.iter().find_map(|event| match event {
            KernelEvent::Route { route, .. } if route.metric == 7 => Some(route),
            _ => None,
        });
        let route = route.unwrap();
        assert_eq!(route.prefix.to_string(), "20.0.0.0/8");
        assert_eq!(
            (route.table, route.kind, route.protocol),
            (254, RouteKind::Unicast, 4)
        );
        assert_eq!(route.preferred_source, Some(IpAddr::from([10, 1, 0, 1])));
        assert_eq!(route.mtu_bytes, Some(1400));
        assert_eq!(route.hops.len(), 1);
        assert!(
            seen.iter()
                .any(|e| matches!(e, KernelEvent::IgnoreLinkDown { ifindex: None, .. }))
        );
        assert!(seen.iter().any(|e| matches!(e, KernelEvent::Address(_))));
    });
}

/// A stream of numbers that look random; the seed is in the test's output.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    /// An `ip` command; the kernel may refuse it.
    fn command(&mut self) -> String {
        let link = self.pick(&["v1", "v2", "v3"]);
        let gateway = self.pick(&["10.1.0.2", "10.1.0.3", "10.2.0.2", "10.3.0.2"]);
        let other = self.pick(&["10.1.0.2", "10.2.0.2", "10.3.0.3"]);
        let prefix = self.pick(&[
            "20.0.0.0/8",
            "20.1.0.0/16",
            "20.1.1.0/24",
            "20.1.1.1/32",
            "default",
            "10.2.0.0/25",
        ]);
        let verb = self.pick(&[
            "add", "add", "append", "prepend", "replace", "replace", "del",
        ]);
        let metric = self.pick(&["", "", "metric 5"]);
        let table = self.pick(&["", "", "", "table 100"]);
        let route = format!("route {verb} {prefix} {metric} {table}");
        let id = 1 + self.below(4);
        let member = 1 + self.below(4);
        let group = 5 + self.below(2);
        let weight = 1 + self.below(3);
        match self.below(26) {
            0..5 => format!("{route} via {gateway}"),
            5 => format!("{route} via {gateway} mtu 1400"),
            6 => format!("{route} dev {link}"),
            7 | 8 => format!("{route} nexthop via {gateway} weight {weight} nexthop via {other}"),
            9 => {
                let source = self.pick(&["10.1.0.1", "10.2.0.1", "10.3.0.1"]);
                format!("{route} via {gateway} src {source}")
            }
            10 => {
                let kind = self.pick(&["blackhole", "unreachable", "prohibit", "throw"]);
                format!("route {verb} {kind} {prefix} {metric} {table}")
            }
            11 => format!("{route} nhid {id}"),
            12 => format!("{route} nhid {group}"),
            13 => format!("route del {prefix} {metric} {table}"),
            14 | 15 => format!("nexthop replace id {id} via {gateway} dev {link}"),
            16 => format!("nexthop replace id {id} dev {link}"),
            17 => format!("nexthop replace id {group} group {id},{weight}/{member}"),
            18 => format!("nexthop del id {}", 1 + self.below(6)),
            19 => format!("link set {link} down"),
            20 => format!("link set {link} up"),
            21 => {
                let state = self.pick(&["up", "up", "down"]);
                format!("link set p{} {state}", &link[1..])
            }
            22 => {
                let verb = self.pick(&["add", "del"]);
                format!("addr {verb} 10.{0}.0.1/24 dev v{0}", &link[1..])
            }
            23 => format!("neigh replace {gateway} dev {link} lladdr 02:00:00:00:00:0{id}"),
            24 => format!("neigh del {gateway} dev {link}"),
            _ => match self.below(3) {
                0 => format!("link del {link}"),
                1 => "route flush proto boot scope global".to_owned(),
                _ => format!("nexthop add id {id} blackhole"),
            },
        }
    }
}

/// Prefix, what following says, what a dump says.
fn differences<'a>(
    followed: &'a BTreeMap<String, String>,
    dumped: &'a BTreeMap<String, String>,
) -> Vec<(&'a str, Option<&'a String>, Option<&'a String>)> {
    let prefixes: BTreeSet<_> = followed.keys().chain(dumped.keys()).collect();
    let sides = prefixes
        .into_iter()
        .map(|prefix| (prefix.as_str(), followed.get(prefix), dumped.get(prefix)));
    sides
        .filter(|(_, followed, dumped)| followed != dumped)
        .collect()
}

fn kernel_routes() -> String {
    let show = |what: &[&str]| {
        let output = Command::new("ip").args(what).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    show(&["-d", "route", "show", "table", "all"]) + &show(&["nexthop"]) + &show(&["link"])
}

/// The commands for IPv6: each IPv4 address stands for one that has its bits behind 2001:db8::/32.
fn for_ipv6(commands: &str) -> String {
    let word = |word: &str| {
        let Ok(net) = word
            .parse::<Ipv4Net>()
            .or_else(|_| word.parse::<Ipv4Addr>().map(Ipv4Net::from))
        else {
            return word.to_owned();
        };
        let bits = 0x2001_0db8_u128 << 96 | u128::from(net.addr().to_bits()) << 64;
        let address = Ipv6Addr::from_bits(bits);
        match (word.contains('/'), net.prefix_len()) {
            (false, _) => address.to_string(),
            (true, 32) => format!("{address}/128"),
            (true, len) => format!("{address}/{}", 32 + len),
        }
    };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    commands.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

/// The sysctl that has routes over an interface passed over while it has no carrier.
fn ignore_link_down(family: &str, link: &str) -> String {
    let family = if family == "-6" { "ipv6" } else { "ipv4" };
    format!("/proc/sys/net/{family}/conf/{link}/ignore_routes_with_linkdown")
}

#[test]
fn routes_without_carrier_are_passed_over_where_wanted_ipv4() {
    routes_without_carrier_are_passed_over_where_wanted(str::to_owned, "-4");
}

#[test]
fn routes_without_carrier_are_passed_over_where_wanted_ipv6() {
    routes_without_carrier_are_passed_over_where_wanted(for_ipv6, "-6");
}

fn routes_without_carrier_are_passed_over_where_wanted(
    convert: fn(&str) -> String,
    family: &'static str,
) {
    in_namespace(move || async move {
        fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
        ip(&convert(
            "link add v1 type veth peer name p1
            link add v2 type veth peer name p2
            link set v1 up
            link set p1 up
            link set v2 up
            link set p2 up
            addr add 10.1.0.1/24 dev v1
            addr add 10.2.0.1/24 dev v2
            route add 20.0.0.0/8 via 10.1.0.2 metric 5
            route add blackhole 20.0.0.0/8 metric 9",
        ));
        let set = |link, value| fs::write(ignore_link_down(family, link), value).unwrap();
        let address = convert("20.0.0.1");
        let passed_over = |r: &Router| r.fate(address.trim_end()) == Counter::SkipBlackhole.name();
        let mut router = Router::start(&["v1", "v2"]);
        router.synchronise().await;
        set("v2", "1");
        ip("link set p1 down");
        let no_carrier = |r: &Router| {
            let heard = |event: &KernelEvent| {
                matches!(event, KernelEvent::Link(link)
                    if link.name == "v1" && link.up && !link.carrier)
            };
            r.heard.iter().any(heard)
        };
        router.until("no carrier", no_carrier).await;
        assert!(!passed_over(&router), "nobody wants that of this interface");
        for link in ["v1", "all"] {
            set(link, "1");
            router.until("passed over", passed_over).await;
            // A dump says the same.
            let mut dumped = Router::start(&["v1", "v2"]);
            dumped.synchronise().await;
            assert!(passed_over(&dumped));
            set(link, "0");
            router.until("used again", |r| !passed_over(r)).await;
        }
    });
}

/// What was learned by following must be what a dump says: the kernel drops much without a word.
#[test]
fn following_is_as_good_as_dumping_ipv4() {
    following_is_as_good_as_dumping(str::to_owned, "-4", false);
}

#[test]
fn following_is_as_good_as_dumping_ipv6() {
    following_is_as_good_as_dumping(for_ipv6, "-6", false);
}

/// Routing daemons recommend it: routes over a link that goes down go without a word, as IPv4's do.
#[test]
fn following_is_as_good_as_dumping_ipv6_without_a_word() {
    following_is_as_good_as_dumping(for_ipv6, "-6", true);
}

fn following_is_as_good_as_dumping(
    convert: fn(&str) -> String,
    family: &'static str,
    without_a_word: bool,
) {
    const STEPS: usize = 60;
    let seed = env::var("XCAST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(20_080_501);
    in_namespace(move || async move {
        println!("XCAST_SEED={seed}");
        let mut random = Random(seed);
        let ports = ["v1", "v2", "v3"];
        let whole = (1..4)
            .map(|n| {
                format!(
                    "link add v{n} type veth peer name p{n}\nlink set p{n} up\nlink set v{n} up\n\
                     addr add 10.{n}.0.1/24 dev v{n}\n"
                )
            })
            .collect::<String>();
        for conf in ["all", "default"] {
            // Addresses are there at once; nobody is asked for others.
            fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/accept_dad"), "0").unwrap();
            fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/accept_ra"), "0").unwrap();
        }
        if without_a_word {
            fs::write("/proc/sys/net/ipv6/route/skip_notify_on_dev_down", "1").unwrap();
        }
        let whole = convert(&whole);
        ip_batch(&whole, &[family, "-force", "-batch", "-"]);
        let mut router = Router::start(&ports);
        router.synchronise().await;
        for step in 0..STEPS {
            // Now and then what was destroyed is repaired, or little would succeed.
            let repair = if step % 4 == 0 { whole.as_str() } else { "" };
            let commands: Vec<String> = (0..8).map(|_| random.command()).collect();
            let commands = format!("{repair}{}\n", convert(&commands.join("\n")));
            ip_batch(&commands, &[family, "-force", "-batch", "-"]);
            // The link may be gone. Of IPv6, it is left alone: dumps do not mention routes between two of
            // the same metric by way of gateways, and those are in force if the two have no carrier.
            let link = random.pick(&["v1", "v2", "v3", "all"]);
            let ignore = random.pick(&["0", "0", "1"]);
            if family == "-4" {
                fs::write(ignore_link_down(family, link), ignore).ok();
            }
            ip(&format!(
                "route add blackhole 203.0.113.{step}/32 table local"
            ));
            let mark = format!("203.0.113.{step}/32");
            router
                .until("the mark", |r| {
                    r.sync.routes().any(|row| row.prefix.to_string() == mark)
                })
                .await;
            // The kernel takes its time to notice that a carrier changed.
            let deadline = Instant::now() + PATIENCE;
            loop {
                let mut dumped = Router::start(&ports);
                dumped.synchronise().await;
                if router.routes() == dumped.routes()
                    && router.own_addresses() == dumped.own_addresses()
                {
                    break;
                }
                if Instant::now() >= deadline {
                    let (followed, dumped) = (router.routes(), dumped.routes());
                    let differences = differences(&followed, &dumped);
                    let prefixes: Vec<_> = differences.iter().map(|(prefix, ..)| *prefix).collect();
                    panic!(
                        "step {step}\n{commands}\n{differences:#?}\n{}\n{}",
                        router.story(&prefixes),
                        kernel_routes()
                    );
                }
                timeout(Duration::from_millis(100), router.step())
                    .await
                    .ok();
            }
        }
        assert_eq!(router.synchronised, 1, "it was following, not dumping");
    });
}
