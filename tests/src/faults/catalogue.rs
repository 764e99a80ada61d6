//! The faults, and what each must not harm.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};

use super::stage::Stage;
use crate::bpf;
use crate::daemon;
use crate::family::Family;
use crate::rig::STACK_INTERFACE;
use crate::trio::{self, B, BEHIND, C, Host, R1, Trio};

/// How long something that goes and comes back is away.
const AWAY: Duration = Duration::from_millis(500);
/// Routes that change while the router does not listen: more than its socket has room for.
const STORM: u32 = 150_000;
/// The routes of a full table.
const MILLION: u32 = 1_000_000;
/// How long a router may take to be in step with so many.
const LONG: Duration = Duration::from_secs(900);

/// Who may receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Host B.
    B,
    /// Host C.
    C,
    /// The router itself.
    R,
}

/// An address that messages are sent to.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it is called in reports.
    pub name: &'static str,
    /// The address.
    pub address: Ipv4Addr,
    /// The address that unicast has beside it: the same one, unless Xcast is to be alone in using a neighbour entry.
    pub unicast: Ipv4Addr,
    /// Where it may be.
    pub hosts: &'static [Place],
}

const TO_B: Target = Target {
    name: "B",
    address: B,
    unicast: B,
    hosts: &[Place::B],
};
const TO_C: Target = Target {
    name: "C",
    address: C,
    unicast: C,
    hosts: &[Place::C],
};
const TO_ROUTER: Target = Target {
    name: "router",
    address: R1,
    unicast: R1,
    hosts: &[Place::R],
};
/// Behind a gateway: B at first.
const TO_NETWORK: Target = Target {
    name: "network",
    address: BEHIND,
    unicast: BEHIND,
    hosts: &[Place::B, Place::C],
};
/// A further address of C, and of B.
const C_TOO: Ipv4Addr = Ipv4Addr::new(10, 66, 3, 3);
const B_TOO: Ipv4Addr = Ipv4Addr::new(10, 66, 2, 3);
/// C, which Xcast alone knows by this address.
const TO_C_ALONE: Target = Target {
    unicast: C_TOO,
    ..TO_C
};
/// What is behind a gateway that Xcast alone uses. Unicast beside it goes by another address of the same gateway.
const TO_NETWORK_ALONE: Target = Target {
    unicast: Ipv4Addr::new(10, 98, 0, 1),
    ..TO_NETWORK
};
/// All that the router can be harmed in: two ports, and the way to the stack.
const ALL: &[Target] = &[TO_B, TO_C, TO_ROUTER];

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Its name, for `--only`.
    pub name: &'static str,
    /// What happens, in words.
    pub what: &'static str,
    /// Targets that lose nothing.
    pub unharmed: &'static [Target],
    /// Targets that may lose something, and are served again.
    pub harmed: &'static [Target],
    /// It takes minutes, and is measured only when it is named.
    pub is_long: bool,
    /// What comes before the router starts.
    prepare: fn(&mut Trio) -> Result<()>,
    /// What happens.
    work: fn(&mut Stage<'_>) -> Result<()>,
}

impl Fault {
    /// Sets up what the fault needs, before the router starts.
    ///
    /// # Errors
    ///
    /// It cannot be set up.
    pub fn prepare(&self, trio: &mut Trio) -> Result<()> {
        (self.prepare)(trio)
    }

    /// Has it happen.
    ///
    /// # Errors
    ///
    /// It cannot be made to happen, or the router does not find out.
    pub fn happen(&self, stage: &mut Stage<'_>) -> Result<()> {
        (self.work)(stage)
    }

    /// All targets, those first that must not be harmed.
    pub fn targets(&self) -> Vec<Target> {
        [self.unharmed, self.harmed].concat()
    }
}

/// The fault of a name.
pub fn named(name: &str) -> Option<&'static Fault> {
    FAULTS.iter().find(|fault| fault.name == name)
}

fn nothing(_: &mut Trio) -> Result<()> {
    Ok(())
}

fn route_by_b(trio: &mut Trio) -> Result<()> {
    trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2").map(drop)
}

/// Gives a host an address that is there at once.
fn add_address(host: &Host, address: &str) -> Result<()> {
    let nodad = match Family::under_test() {
        Family::Ipv4 => "",
        Family::Ipv6 => " nodad",
    };
    host.ip(&format!("address add {address}{nodad}")).map(drop)
}

/// B gets another MAC address, while the router's entries of these addresses are STALE.
fn another_mac(stage: &mut Stage<'_>, addresses: &[Ipv4Addr]) -> Result<()> {
    for &address in addresses {
        stage.note_neighbour(address, "stale")?;
    }
    stage.mended();
    let b = &stage.trio.b.namespace;
    b.ip("link set b0 address 02:00:00:01:99:02").map(drop)
}

/// C loses these addresses, whose entries are STALE, and has them back when the router's kernel has given them up.
fn away_until_given_up(stage: &mut Stage<'_>, addresses: &[Ipv4Addr]) -> Result<()> {
    for &address in addresses {
        stage.note_neighbour(address, "stale")?;
    }
    // With the first one of a subnet, IPv4 loses the others.
    for address in addresses.iter().rev() {
        let command = format!("address del {address}/24 dev c0");
        stage.trio.c.ip(&command)?;
    }
    stage.until("the kernel to give the host up", || {
        for &address in addresses {
            let entry = stage.trio.neighbour(address)?;
            let mut given_up = ["FAILED", "INCOMPLETE"].iter();
            if !given_up.any(|state| entry.contains(state)) {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    for address in addresses {
        add_address(&stage.trio.c, &format!("{address}/24 dev c0"))?;
    }
    stage.mended();
    Ok(())
}

/// A line of the configuration, in its section `router`.
fn with_router_key(trio: &mut Trio, line: &str) {
    let section = format!("[router]\n{line}\n");
    trio.configuration = trio.configuration.replace("[router]\n", &section);
}

/// All faults, in the order of the table.
pub const FAULTS: &[Fault] = &[
    Fault {
        name: "killed",
        what: "controller killed (SIGKILL)",
        unharmed: ALL,
        harmed: &[],
        is_long: false,
        prepare: nothing,
        work: |stage| {
            stage.kill()?;
            sleep(AWAY);
            Ok(())
        },
    },
    Fault {
        name: "restarted",
        what: "controller killed, and started again",
        unharmed: ALL,
        harmed: &[],
        is_long: false,
        prepare: nothing,
        work: |stage| {
            stage.kill()?;
            stage.start()
        },
    },
    Fault {
        name: "killed-loading",
        what: "the next controller killed while it starts, as when memory runs out, six times, then one that starts",
        unharmed: ALL,
        harmed: &[],
        is_long: false,
        prepare: nothing,
        work: |stage| {
            stage.kill()?;
            for after_ms in [30, 100, 300, 600, 1000, 2000] {
                stage.start_and_kill(Duration::from_millis(after_ms))?;
            }
            stage.start()
        },
    },
    Fault {
        name: "hung",
        what: "controller stopped (SIGSTOP) for a second",
        unharmed: ALL,
        harmed: &[],
        is_long: false,
        prepare: nothing,
        work: |stage| {
            let pid = stage.daemon()?.pid();
            kill(pid, Signal::SIGSTOP)?;
            sleep(2 * AWAY);
            kill(pid, Signal::SIGCONT)?;
            Ok(())
        },
    },
    Fault {
        name: "kept",
        what: "SIGTERM with --keep, and a new start",
        unharmed: ALL,
        harmed: &[],
        is_long: false,
        prepare: |trio| {
            with_router_key(trio, "keep = true");
            Ok(())
        },
        work: |stage| {
            stage.terminate()?;
            sleep(AWAY);
            stage.start()
        },
    },
    Fault {
        name: "detached",
        what: "SIGTERM without --keep, and a new start",
        unharmed: &[],
        harmed: ALL,
        is_long: false,
        prepare: nothing,
        work: |stage| {
            stage.terminate()?;
            stage.mended();
            stage.start()
        },
    },
    Fault {
        name: "replaced",
        what: "run --replace",
        unharmed: ALL,
        harmed: &[],
        is_long: false,
        prepare: nothing,
        work: |stage| stage.replace(),
    },
    Fault {
        name: "reloaded",
        what: "SIGHUP with another configuration, one more port",
        unharmed: &[TO_B, TO_ROUTER],
        harmed: &[],
        is_long: false,
        prepare: |trio| {
            trio.configuration = trio::configuration(&["p1", "p2"]);
            Ok(())
        },
        work: |stage| {
            stage.reload(&trio::configuration(&["p1", "p2", "p3"]))?;
            stage.until("the new port", || {
                Ok(stage
                    .trio
                    .port("p3")
                    .is_ok_and(|port| port["mode"] == "native"))
            })
        },
    },
    Fault {
        name: "own-down",
        what: "the router's own interface set down",
        unharmed: &[TO_B, TO_C],
        harmed: &[TO_ROUTER],
        is_long: false,
        prepare: nothing,
        work: |stage| stage.router_ip(&format!("link set {STACK_INTERFACE} down")),
    },
    Fault {
        name: "own-deleted",
        what: "the router's own interface deleted",
        unharmed: &[TO_B, TO_C],
        harmed: &[TO_ROUTER],
        is_long: false,
        prepare: nothing,
        work: |stage| stage.router_ip(&format!("link delete {STACK_INTERFACE}")),
    },
    Fault {
        name: "own-mac",
        what: "the router's own interface gets another MAC address",
        unharmed: &[TO_B, TO_C],
        harmed: &[TO_ROUTER],
        is_long: false,
        prepare: nothing,
        work: |stage| {
            stage.router_ip(&format!(
                "link set {STACK_INTERFACE} address 02:11:22:33:44:55"
            ))
        },
    },
    Fault {
        name: "own-mtu",
        what: "the router's own interface gets an MTU of 700",
        unharmed: &[TO_B, TO_C],
        harmed: &[TO_ROUTER],
        is_long: false,
        prepare: nothing,
        work: |stage| stage.router_ip(&format!("link set {STACK_INTERFACE} mtu 700")),
    },
    Fault {
        name: "own-address",
        what: "the router's own interface loses its addresses",
        unharmed: &[TO_B, TO_C],
        harmed: &[TO_ROUTER],
        is_long: false,
        prepare: nothing,
        work: |stage| stage.router_ip(&format!("address flush dev {STACK_INTERFACE}")),
    },
    Fault {
        name: "program-in",
        what: "XDP program detached by others from the port of arrival",
        unharmed: &[],
        harmed: ALL,
        is_long: false,
        prepare: nothing,
        work: |stage| bpf::detach_xdp(&stage.trio.r.namespace, "p1"),
    },
    Fault {
        name: "program-out",
        what: "XDP program detached by others from a port that copies leave by",
        unharmed: &[TO_B, TO_ROUTER],
        harmed: &[TO_C],
        is_long: false,
        prepare: nothing,
        work: |stage| bpf::detach_xdp(&stage.trio.r.namespace, "p3"),
    },
    Fault {
        name: "port-down",
        what: "port set down, and up 0.5 s later",
        unharmed: &[TO_B, TO_ROUTER],
        harmed: &[TO_C],
        is_long: false,
        prepare: nothing,
        work: |stage| {
            stage.router_ip("link set p3 down")?;
            sleep(AWAY);
            stage.router_ip("link set p3 up")?;
            stage.mended();
            Ok(())
        },
    },
    Fault {
        name: "carrier",
        what: "carrier of a port lost, and back 0.5 s later",
        unharmed: &[TO_B, TO_ROUTER],
        harmed: &[TO_C],
        is_long: false,
        prepare: nothing,
        work: |stage| {
            let c = &stage.trio.c.namespace;
            c.ip("link set c0 down")?;
            sleep(AWAY);
            c.ip("link set c0 up")?;
            stage.mended();
            Ok(())
        },
    },
    Fault {
        name: "port-deleted",
        what: "interface of a port deleted, and made again 0.5 s later",
        unharmed: &[TO_B, TO_ROUTER],
        harmed: &[TO_C],
        is_long: false,
        prepare: nothing,
        work: |stage| {
            stage.router_ip("link delete p3")?;
            sleep(AWAY);
            stage.trio.restore_p3()?;
            stage.mended();
            Ok(())
        },
    },
    Fault {
        name: "gateway-mac",
        what: "gateway gets another MAC address while its entry is STALE",
        unharmed: &[TO_ROUTER],
        harmed: &[TO_NETWORK],
        is_long: false,
        prepare: route_by_b,
        work: |stage| another_mac(stage, &[B]),
    },
    Fault {
        name: "gateway-mac-alone",
        what: "the same, where unicast has an entry of its own for the gateway: only Xcast uses this one",
        unharmed: &[TO_ROUTER],
        harmed: &[TO_NETWORK_ALONE],
        is_long: false,
        prepare: |trio| {
            route_by_b(trio)?;
            add_address(&trio.b, &format!("{B_TOO}/24 dev b0"))?;
            add_address(&trio.b, &format!("{}/32 dev lo", TO_NETWORK_ALONE.unicast))?;
            let route = format!("route add 10.98.0.0/16 via {B_TOO}");
            trio.r.ip(&route).map(drop)
        },
        work: |stage| another_mac(stage, &[B, B_TOO]),
    },
    Fault {
        name: "host-gone",
        what: "host gone, its entry STALE; it comes back when the kernel has given it up",
        unharmed: &[TO_B, TO_ROUTER],
        harmed: &[TO_C],
        is_long: false,
        prepare: nothing,
        work: |stage| away_until_given_up(stage, &[C]),
    },
    Fault {
        name: "host-gone-alone",
        what: "the same, where unicast has an entry of its own for the host: only Xcast uses this one",
        unharmed: &[TO_B, TO_ROUTER],
        harmed: &[TO_C_ALONE],
        is_long: false,
        prepare: |trio| add_address(&trio.c, &format!("{C_TOO}/24 dev c0")),
        work: |stage| away_until_given_up(stage, &[C, C_TOO]),
    },
    Fault {
        name: "neighbours-flushed",
        what: "all neighbours flushed",
        unharmed: &[],
        harmed: ALL,
        is_long: false,
        prepare: nothing,
        work: |stage| stage.router_ip("neigh flush all"),
    },
    Fault {
        name: "route-replaced",
        what: "route replaced, by another gateway on another port",
        unharmed: &[TO_NETWORK, TO_ROUTER],
        harmed: &[],
        is_long: false,
        prepare: route_by_b,
        work: |stage| stage.router_ip("route replace 10.99.0.0/16 via 10.66.3.2"),
    },
    Fault {
        name: "route-withdrawn",
        what: "route withdrawn, and back 0.5 s later",
        unharmed: &[TO_ROUTER],
        harmed: &[TO_NETWORK],
        is_long: false,
        prepare: route_by_b,
        work: |stage| {
            stage.router_ip("route del 10.99.0.0/16")?;
            sleep(AWAY);
            stage.router_ip("route add 10.99.0.0/16 via 10.66.2.2")?;
            stage.mended();
            Ok(())
        },
    },
    Fault {
        name: "overrun",
        what: "netlink socket overrun: 150,000 routes while the controller does not run",
        unharmed: &[TO_NETWORK, TO_ROUTER],
        harmed: &[],
        is_long: false,
        prepare: route_by_b,
        work: |stage| {
            let (namespace, family) = (&stage.trio.r.namespace, stage.trio.family);
            let resyncs = || {
                let status = daemon::report(namespace, &["status"])?;
                Ok::<_, anyhow::Error>(status["resyncs"].as_u64().unwrap_or_default())
            };
            let before = resyncs()?;
            let commands = routes_by_b(family, STORM)?;
            let pid = stage.trio.daemon()?.pid();
            kill(pid, Signal::SIGSTOP)?;
            let added = namespace.ip_batch(&commands);
            kill(pid, Signal::SIGCONT)?;
            added?;
            stage.until("the routes to be read again", || Ok(resyncs()? > before))
        },
    },
    Fault {
        name: "million",
        what: "a million routes: controller killed and started again, then run --replace",
        unharmed: &[TO_NETWORK, TO_ROUTER],
        harmed: &[],
        is_long: true,
        prepare: |trio| {
            trio.patience = LONG;
            route_by_b(trio)?;
            let commands = routes_by_b(trio.family, MILLION)?;
            trio.r.namespace.ip_batch(&commands)
        },
        work: |stage| {
            stage.kill()?;
            stage.timed("in step after a start", Stage::start)?;
            has_all_routes(stage)?;
            stage.timed("in step after run --replace", Stage::replace)?;
            has_all_routes(stage)
        },
    },
];

/// Commands that add so many routes by way of B.
fn routes_by_b(family: Family, count: u32) -> Result<String> {
    let gateway = family.address(B);
    let mut commands = String::new();
    for number in 0..count {
        let address = Ipv4Addr::from_bits(0x3000_0000 | number << 8);
        let prefix = family.prefix(address, 24);
        writeln!(commands, "route add {prefix} via {gateway}")?;
    }
    Ok(commands)
}

/// The router, which is ready, has them all, in the datapath too.
fn has_all_routes(stage: &Stage<'_>) -> Result<()> {
    let status = daemon::report(&stage.trio.r.namespace, &["status"])?;
    let routes = status["routes"].as_u64().unwrap_or_default();
    ensure!(routes > u64::from(MILLION), "only {routes} routes");
    let pending = &status["pending_edits"]["count"];
    ensure!(*pending == 0, "{pending} changes are pending");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_short_and_different() {
        for (at, fault) in FAULTS.iter().enumerate() {
            let is_plain = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(fault.name.chars().all(is_plain), "{}", fault.name);
            let later = &FAULTS[at + 1..];
            assert!(later.iter().all(|other| other.name != fault.name));
            let targets = fault.targets();
            assert!(!targets.is_empty(), "{}", fault.name);
            // A packet has one number for all of its targets, so each counts at hosts of its own.
            let hosts = targets.iter().flat_map(|target| target.hosts);
            let hosts: Vec<_> = hosts.map(|host| *host as usize).collect();
            let different: BTreeSet<_> = hosts.iter().collect();
            assert_eq!(different.len(), hosts.len(), "{}", fault.name);
        }
    }
}
