//! `check` names what is not simply right, with a remedy: one test for each case that is not about
//! ports (those are with the tests of ports).

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tests::bpf::Attached;
use tests::daemon::{self, Daemon, Launch};
use tests::family::Family;
use tests::namespace::{self, Namespace};
use tests::trio::{self, B, C, R1, Trio};

/// After `change`, `check` finds something that it did not find before, and it mentions one of these words.
fn names(words: &[&str], change: impl Fn(&Trio) -> Result<()>) {
    for family in Family::ALL {
        names_for(family, words, &change);
    }
}

fn names_for(family: Family, words: &[&str], change: impl Fn(&Trio) -> Result<()>) {
    trio::with_family(family, |trio| {
        let before = trio.check()?;
        change(trio)?;
        let found = || trio.check_since(&before);
        let named = || Ok(trio::named(&found()?, words));
        ensure!(
            trio::until(trio::SOON / 4, named)?,
            "check finds {:?}",
            found()?
        );
        Ok(())
    });
}

/// The words of a finding about packet filters.
const FILTER: &[&str] = &["netfilter", "nft", "iptables", "firewall", "packet filter"];

/// A policy that drops what is forwarded (Docker, firewalld): what the router hands to the stack is dropped
/// there, the rest bypasses it.
#[test]
fn forward_policy_that_drops() {
    names(FILTER, |trio| {
        trio.nft(
            "table inet f { chain forward { type filter hook forward priority 0; policy drop; \
             iifname p1 accept; } }",
        )?;
        trio.send(&[B, C]).map(|_| ())
    });
}

/// firewalld's reverse path filter of IPv6: every copy that arrives by the router's own interface is dropped.
#[test]
fn reverse_path_rule_before_routing() {
    names(FILTER, |trio| {
        trio.nft(
            "table inet f { chain pre { type filter hook prerouting priority -10; \
             fib saddr . iif oif missing drop; } }",
        )
    });
}

/// A rule for packets that arrive by a port: it sees none of those that Xcast brings.
#[test]
fn rule_for_the_real_port() {
    trio::with(|trio| {
        let before = trio.check()?;
        trio.nft(
            "table inet f { chain input { type filter hook input priority 0; \
             iifname p1 udp dport 5000 drop; } }",
        )?;
        let unicast = trio.unicast(trio::A, R1)?;
        ensure!(trio.r.misses(unicast)?, "unicast");
        let xcast = trio.send(&[R1, C])?;
        if trio.r.misses(xcast)? {
            return Ok(());
        }
        let found = trio.check_since(&before)?;
        ensure!(
            trio::named(&found, FILTER),
            "it passes, and check finds {found:?}"
        );
        Ok(())
    });
}

/// Address translation: copies that XDP forwards leave with the private source.
#[test]
fn masquerading_on_a_port() {
    let words = [FILTER, &["masquerade", "nat", "address translation"]].concat();
    names(&words, |trio| {
        trio.nft(
            "table inet n { chain post { type nat hook postrouting priority 100; \
             oifname p2 masquerade; } }",
        )
    });
}

/// A rule of policy routing that is none of the kernel's own three: followed, or named.
#[test]
fn policy_routing() {
    let words = &["ip rule", "policy rout", "rule"];
    names(words, |trio| {
        let family = match trio.family {
            Family::Ipv4 => "-4",
            Family::Ipv6 => "-6",
        };
        let ip = |command: &str| trio.r.namespace.ip(&format!("{family} {command}"));
        ip("rule add fwmark 0x7 lookup 100 priority 100")?;
        ip("rule add ipproto tcp dport 80 lookup 100 priority 101")?;
        Ok(())
    });
}

/// The same, before packets are routed: it is found with the words for filters and for translation.
#[test]
fn translation_of_destinations() {
    names(&["nat"], |trio| {
        trio.nft(
            "table inet n { chain pre { type nat hook prerouting priority -100; \
             iifname p1 udp dport 5001 redirect to 5000; } }",
        )
    });
}

/// Chains that do nothing (iptables-nft makes them), and rules for packets that are not forwarded,
/// change nothing for Xcast, and neither does a rule that only names a table.
#[test]
fn what_changes_nothing_is_not_complained_about() {
    trio::with(|trio| {
        let before = trio.check()?;
        trio.nft(
            "table inet f { chain forward { type filter hook forward priority 0; policy accept; } }",
        )?;
        trio.nft(
            "table inet g { chain output { type filter hook output priority 0; policy drop; \
             accept; } }",
        )?;
        let family = match trio.family {
            Family::Ipv4 => "-4",
            Family::Ipv6 => "-6",
        };
        let rule = format!("{family} rule add lookup 100 priority 100");
        trio.r.namespace.ip(&rule)?;
        let found = trio.check_since(&before)?;
        ensure!(found.is_empty(), "{found:?}");
        Ok(())
    });
}

/// What a router leaves behind that was killed is named, with what clears it or takes it over.
#[test]
fn what_a_killed_router_leaves_behind() {
    trio::with_family(Family::Ipv4, |trio| {
        trio.daemon.take().context("no router")?.kill()?;
        let found = trio.check()?;
        let named = found
            .iter()
            .any(|finding| finding.interface == "xcast0" && finding.remedy.contains("unload"));
        ensure!(named, "{found:?}");
        Ok(())
    });
}

/// What a router pinned whose network namespace is gone is named, and removed; what forwards is not.
#[test]
fn what_a_namespace_that_is_gone_leaves_behind() {
    trio::with_family(Family::Ipv4, |trio| {
        // Whichever router starts meanwhile, anywhere on the machine, removes it as well.
        let named = || -> Result<bool> {
            let gone = Namespace::new("gone")?;
            gone.ip("link add p1 type veth peer name q1")?;
            gone.ip("link set p1 up")?;
            gone.ip("link set q1 up")?;
            let daemon = Daemon::start(&gone, &trio::configuration(&["p1"]))?;
            let inode = std::fs::metadata(format!("/run/netns/{}", gone.name()))?.ino();
            daemon.kill()?;
            namespace::run(
                Command::new("ip").args(["netns", "delete", gone.name()]),
                "",
            )?;
            let name = format!("{inode}/xcast0");
            trio::until(trio::SOON / 4, || Ok(trio::named(&trio.check()?, &[&name])))
        };
        ensure!(
            (0..5).any(|_| named().unwrap_or(false)),
            "{:?}",
            trio.check()?
        );
        let removed = daemon::report(&trio.r.namespace, &["unload", "--abandoned"])?;
        ensure!(removed["stopped"] == false, "{removed}");
        ensure!(
            !trio::named(&trio.check()?, &["--abandoned"]),
            "{:?}",
            trio.check()?
        );
        // One that was killed forwards on.
        trio.daemon.take().context("no router")?.kill()?;
        daemon::report(&trio.r.namespace, &["unload", "--abandoned"])?;
        ensure!(
            trio.is_reached(&trio.b, &[B, C])?,
            "the router's pins are gone"
        );
        Ok(())
    });
}

/// A limit of memory below what a router needs to start (a service's MemoryMax=, a container's) is named by `check`, and
/// by the router before it runs into it.
#[test]
fn too_little_memory() {
    trio::before_start(Family::Ipv4, |trio| {
        let Some(group) = MemoryGroup::new(64 << 20) else {
            namespace::skipped("limits of memory: no control groups that this test may make");
            return Ok(());
        };
        let directory = tempfile::TempDir::new()?;
        let config = directory.path().join("xcast.toml");
        std::fs::write(&config, &trio.configuration)?;
        let within = |arguments: &[&str]| {
            let mut command = Command::new("sh");
            let enter = "echo $$ > \"$0/cgroup.procs\" && exec ip netns exec \"$@\"";
            command.args(["-c", enter]).arg(&group.0);
            command.arg(trio.r.namespace.name()).arg(daemon::program());
            command.args(arguments).arg("--config").arg(&config);
            namespace::outcome(&mut command, "")
        };
        let output = within(&["check"])?;
        let text = String::from_utf8_lossy(&output.stdout);
        let named = text.lines().find(|line| line.contains("64 MiB"));
        ensure!(
            named.is_some_and(|line| line.starts_with("FAULT")),
            "{text}"
        );
        // Killed, most likely.
        let output = within(&["run"])?;
        let log = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !output.status.success() && log.contains("MemoryMax="),
            "{output:?}"
        );
        Ok(())
    });
}

/// A control group with a limit of memory.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(limit: u64) -> Option<Self> {
        let name = format!("xct-{}", std::process::id());
        let versions = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        versions.iter().find_map(|(top, file)| {
            let group = Self(Path::new(top).join(&name));
            std::fs::create_dir(&group.0).ok()?;
            std::fs::write(group.0.join(file), limit.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Once the last process in it has ended.
        let _ = trio::until(trio::SOON, || Ok(std::fs::remove_dir(&self.0).is_ok()));
    }
}

/// Without CAP_PERFMON programs are refused by the verifier, at a length that helps nobody: `check` says it
/// in one line before.
#[test]
fn capability_that_is_missing() {
    trio::before_start(Family::Ipv4, |trio| {
        let directory = tempfile::TempDir::new()?;
        let config = directory.path().join("xcast.toml");
        std::fs::write(&config, &trio.configuration)?;
        let mut command = trio.r.namespace.command("setpriv");
        command.args([
            "--bounding-set",
            "-all,+bpf,+net_admin",
            "--inh-caps",
            "-all",
        ]);
        command
            .arg(daemon::program())
            .args(["check", "--config"])
            .arg(&config);
        let output = namespace::outcome(&mut command, "")?;
        ensure!(output.status.code() == Some(1), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        let named = text.lines().find(|line| line.contains("CAP_PERFMON"));
        ensure!(
            named.is_some_and(|line| line.starts_with("FAULT")),
            "{text}"
        );
        Ok(())
    });
}

/// No BPF file system is in reach that outlives the router: before it is started `check` says so by itself, and
/// of a router that runs so.
#[test]
fn forwarding_that_ends_with_the_process() {
    const FEW: &[&str] = &[
        "setpriv",
        "--bounding-set",
        "-all,+bpf,+net_admin,+perfmon",
        "--inh-caps",
        "-all",
    ];
    trio::before_start(Family::Ipv4, |trio| {
        let directory = tempfile::TempDir::new()?;
        let config = directory.path().join("xcast.toml");
        std::fs::write(&config, &trio.configuration)?;
        let mut command = trio.r.namespace.command(FEW[0]);
        command.args(&FEW[1..]).arg(daemon::program());
        command.args(["check", "--config"]).arg(&config);
        let output = namespace::outcome(&mut command, "")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let named = |text: &str| text.contains("BPF file system") && text.contains("mount -t bpf");
        ensure!(named(&text), "{text}");
        let launch = Launch {
            under: FEW,
            ..Launch::default()
        };
        trio.launch(launch)?;
        let status = daemon::report(&trio.r.namespace, &["status"])?;
        ensure!(status["lasting"] == false, "{status}");
        let found = trio.check()?;
        let mut all = found.iter();
        ensure!(all.any(|finding| finding.check == "lasting"), "{found:?}");
        Ok(())
    });
}

/// An XDP program of somebody else, in place of the router's.
#[test]
fn program_of_somebody_else() {
    trio::before_start(Family::Ipv4, |trio| {
        let _foreign = Attached::xdp(&trio.r.namespace, "p2")?;
        trio.start()?;
        let found = trio.check()?;
        let mut about = found.iter().filter(|finding| finding.interface == "p2");
        ensure!(
            about.any(|finding| finding.remedy.contains("bpftool")),
            "{found:?}"
        );
        Ok(())
    });
}

/// Traffic control on ports sees nothing of what XDP takes or sends: each of its kinds is named, with the port.
#[test]
fn traffic_control_on_ports() {
    trio::with_family(Family::Ipv4, |trio| {
        let r = &trio.r.namespace;
        let before = trio.check()?;
        let is_named = |port: &str, what: &str| -> Result<()> {
            let found = trio.check_since(&before)?;
            let is_it =
                found.len() == 1 && found[0].interface == port && found[0].what.contains(what);
            ensure!(
                is_it && !found[0].remedy.is_empty(),
                "{port}, {what}: {found:?}"
            );
            Ok(())
        };
        let program = Attached::tcx_pass(r, "p1")?;
        is_named("p1", "tcx/ingress")?;
        drop(program);
        let program = Attached::tcx_egress(r, "p2")?;
        is_named("p2", "tcx/egress")?;
        drop(program);
        let filter = |direction: &str| {
            let mut command = r.command("tc");
            let place = ["filter", "add", "dev", "p1", direction, "pref", "7"];
            // It lets everything pass.
            namespace::run(
                command
                    .args(place)
                    .args(["bpf", "bytecode", "1,6 0 0 4294967295,"]),
                "",
            )
        };
        for (discipline, direction) in [
            ("clsact", "ingress"),
            ("clsact", "egress"),
            ("ingress", "ingress"),
        ] {
            r.run(&format!("tc qdisc add dev p1 {discipline}"))?;
            // Without a filter, nothing is passed by.
            ensure!(trio.check_since(&before)?.is_empty(), "{discipline} alone");
            filter(direction)?;
            let words = match direction {
                "ingress" => {
                    "pref 7: traffic control sees unicast here, and nothing of the Xcast packets"
                }
                _ => "pref 7: traffic control sees unicast here, and nothing of copies",
            };
            is_named("p1", words)?;
            r.run(&format!("tc qdisc del dev p1 {discipline}"))?;
        }
        r.run("tc qdisc add dev p3 root tbf rate 1mbit burst 10k latency 10ms")?;
        is_named("p3", "tc qdisc tbf")?;
        r.run("tc qdisc replace dev p3 root pfifo limit 10")?;
        ensure!(trio.check_since(&before)?.is_empty(), "a plain queue");
        Ok(())
    });
}

/// No fault, no warning: what is right is not complained about, with either family and rules that are
/// the kernel's own.
#[test]
fn nothing_wrong_with_an_ordinary_router() {
    trio::with(|trio| {
        trio.resolve()?;
        ensure!(trio.is_reached(&trio.b, &[B, C])?, "it serves");
        let found = trio.check()?;
        ensure!(found.is_empty(), "{found:?}");
        Ok(())
    });
}
