//! The router's own veth pair, by which the kernel's stack gets what the fast path leaves to it, is
//! watched like everything else: what network managers, udev and people do to it is put right.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use tests::bpf::{self, Attached};
use tests::daemon::{self, Daemon};
use tests::family::Family;
use tests::namespace;
use tests::rig::STACK_INTERFACE;
use tests::trio::{self, A, B, C, R1, Trio};

/// The other end of the pair.
const DATAPATH: &str = "xcast0-dp";

/// The router itself gets its copy, and a host that is not resolved gets one by way of the stack.
fn stack_works(trio: &Trio) -> Result<()> {
    ensure!(
        trio.is_reached(&trio.r, &[R1, C])?,
        "the router itself gets nothing"
    );
    // Two more, for the interference may come to act in between.
    for _ in 0..2 {
        trio.r.ip("neigh del 10.66.2.2 dev p2").or_else(|error| {
            let there = trio.neighbour(B)?;
            ensure!(there.is_empty() || there.contains("FAILED"), "{error:#}");
            Ok(String::new())
        })?;
        ensure!(
            trio.is_reached(&trio.b, &[B, C])?,
            "an unresolved host gets nothing"
        );
    }
    Ok(())
}

/// After what somebody did to the pair, the stack gets its packets again within seconds.
fn is_put_right(interfere: impl Fn(&Trio) -> Result<()>) {
    trio::with(|trio| {
        stack_works(trio).context("at the start")?;
        interfere(trio)?;
        stack_works(trio).context("afterwards")?;
        ensure!(trio::until(trio::SOON, || runs(trio))?, "a program is gone");
        Ok(())
    });
}

/// Whether the programs are on the pair.
fn runs(trio: &Trio) -> Result<bool> {
    let r = &trio.r.namespace;
    // While an end has another name, it has none of this.
    let filters = r.run(&format!("tc filter show dev {STACK_INTERFACE} ingress"));
    let program = bpf::program_on(r, DATAPATH).unwrap_or_default();
    Ok(filters.is_ok_and(|filters| filters.contains("xcast_stack")) && program.is_some())
}

/// By `ip`, in the router's namespace.
fn is_put_right_after(command: &str) {
    is_put_right(|trio| trio.r.namespace.ip(command).map(|_| ()));
}

/// udev's `MACAddressPolicy=persistent` rewrites the address of new veth interfaces.
#[test]
fn link_layer_address_changed() {
    is_put_right_after(&format!(
        "link set {STACK_INTERFACE} address 02:11:22:33:44:55"
    ));
}

/// The same at the other end.
#[test]
fn link_layer_address_of_the_other_end_changed() {
    is_put_right_after(&format!("link set {DATAPATH} address 02:11:22:33:44:66"));
}

/// Network managers flush addresses that they have not configured.
#[test]
fn address_flushed() {
    is_put_right_after(&format!("address flush dev {STACK_INTERFACE}"));
}

/// Somebody sets it down.
#[test]
fn set_down() {
    is_put_right_after(&format!("link set {STACK_INTERFACE} down"));
}

/// Or its other end.
#[test]
fn other_end_set_down() {
    is_put_right_after(&format!("link set {DATAPATH} down"));
}

/// Or removes it.
#[test]
fn removed() {
    is_put_right_after(&format!("link delete {STACK_INTERFACE}"));
}

/// Taken into a bridge, it would hand its packets to that instead of the stack.
#[test]
fn taken_into_a_bridge() {
    is_put_right(|trio| {
        let r = &trio.r.namespace;
        r.ip("link add br7 type bridge")?;
        r.ip("link set br7 up")?;
        r.ip(&format!("link set {STACK_INTERFACE} master br7"))?;
        Ok(())
    });
}

/// Whoever shapes traffic begins by removing what is there (`tc qdisc del dev xcast0 clsact`).
#[test]
fn traffic_control_cleared() {
    is_put_right(|trio| {
        let command = format!("tc qdisc del dev {STACK_INTERFACE} clsact");
        trio.r.namespace.run(&command).map(|_| ())
    });
}

/// Only the filter.
#[test]
fn filter_removed() {
    is_put_right(|trio| {
        let command = format!("tc filter del dev {STACK_INTERFACE} ingress");
        trio.r.namespace.run(&command).map(|_| ())
    });
}

/// `xdp-loader unload --all` takes the router's programs off its own pair, too.
#[test]
fn program_detached() {
    is_put_right(|trio| bpf::detach_xdp(&trio.r.namespace, DATAPATH));
}

/// Somebody's XDP program on the host's end gets all that the stack is to have. It is nobody's place but the router's.
#[test]
fn foreign_program_is_taken_off() {
    trio::with(|trio| {
        let r = &trio.r.namespace;
        let foreign = Attached::xdp_drop(r, STACK_INTERFACE)?;
        stack_works(trio)?;
        ensure!(
            bpf::program_on(r, STACK_INTERFACE)?.is_none(),
            "still there"
        );
        ensure!(trio.daemon()?.log().contains("TakeOff"), "nobody is told");
        drop(foreign);
        Ok(())
    });
}

/// The same in the kernel's stack (generic XDP), which has to be taken off there: once, and the router says no more than it did.
#[test]
fn foreign_generic_program_is_taken_off() {
    trio::with_family(Family::Ipv4, |trio| {
        let r = &trio.r.namespace;
        let repairs = || -> Result<Option<u64>> {
            Ok(daemon::report(r, &["status"])?["own_interface_repairs"].as_u64())
        };
        let before = repairs()?;
        Attached::generic_drop(r, STACK_INTERFACE)?;
        stack_works(trio)?;
        ensure!(
            bpf::program_on(r, STACK_INTERFACE)?.is_none(),
            "still there"
        );
        let one_more = before.map(|count| count + 1);
        let is_counted = || Ok(repairs()? == one_more);
        ensure!(
            trio::until(trio::SOON, is_counted)?,
            "put right {:?} times, {before:?} before",
            repairs()?
        );
        let log = trio.daemon()?.log();
        ensure!(log.matches("TakeOff").count() == 1, "{log}");
        Ok(())
    });
}

/// What somebody runs there before the router's filter stays, for it may be wanted: log, `status` and `check` name it.
#[test]
fn foreign_filters_are_reported() {
    trio::with_family(Family::Ipv4, |trio| {
        let r = &trio.r.namespace;
        let before = trio.check()?;
        let fault = || -> Result<String> {
            let status = daemon::report(&trio.r.namespace, &["status"])?;
            Ok(status["own_interface_fault"].to_string())
        };
        let is_reported = |what: &str| -> Result<()> {
            let is_shown = || Ok(fault()?.contains(what));
            ensure!(trio::until(trio::SOON, is_shown)?, "status: {}", fault()?);
            let found = trio.check_since(&before)?;
            ensure!(trio::named(&found, &[what]), "check: {found:?}");
            ensure!(trio.daemon()?.log().contains(what), "the log says nothing");
            Ok(())
        };
        let is_over = || Ok(fault()? == "null");
        // One that lets everything pass.
        let filter = |verb: &str, more: &[&str]| {
            let place = [verb, "dev", STACK_INTERFACE, "ingress", "pref", "1"];
            let mut command = r.command("tc");
            namespace::run(command.arg("filter").args(place).args(more), "")
        };
        filter("add", &["bpf", "bytecode", "1,6 0 0 4294967295,"])?;
        is_reported("pref 1")?;
        filter("del", &[])?;
        ensure!(trio::until(trio::SOON, is_over)?, "status: {}", fault()?);
        let foreign = Attached::tcx_pass(r, STACK_INTERFACE)?;
        is_reported("tcx")?;
        drop(foreign);
        ensure!(trio::until(trio::SOON, is_over)?, "status: {}", fault()?);
        stack_works(trio)
    });
}

/// Renamed, as udev's rules do.
#[test]
fn renamed() {
    for interface in [STACK_INTERFACE, DATAPATH] {
        is_put_right(|trio| {
            let r = &trio.r.namespace;
            r.ip(&format!("link set {interface} down"))?;
            r.ip(&format!("link set {interface} name wrong0"))
                .map(|_| ())
        });
    }
}

/// Moved into another network namespace.
#[test]
fn moved_away() {
    for interface in [STACK_INTERFACE, DATAPATH] {
        is_put_right(|trio| {
            let elsewhere = trio.a.namespace.name();
            let r = &trio.r.namespace;
            r.ip(&format!("link set {interface} netns {elsewhere}"))
                .map(|_| ())
        });
    }
}

/// Without ARP, without its address of IPv6, in another group, without alias: whatever of that matters.
#[test]
fn attributes_changed() {
    is_put_right(|trio| {
        let r = &trio.r.namespace;
        r.ip(&format!("link set {STACK_INTERFACE} arp off"))?;
        r.ip(&format!("link set {STACK_INTERFACE} group 7"))?;
        r.ip(&format!("link set {STACK_INTERFACE} alias mine"))?;
        r.ip(&format!("-6 address flush dev {STACK_INTERFACE}"))?;
        r.ip(&format!("link set {DATAPATH} promisc on"))?;
        r.ip(&format!("link set {DATAPATH} gso_max_size 2000"))
            .map(|_| ())
    });
}

/// GRO is what makes a veth end take frames that XDP sends.
#[test]
fn receive_offload_switched_off() {
    is_put_right(|trio| trio.r.namespace.set_gro(STACK_INTERFACE, false));
}

/// `net.ipv4.conf.*.rp_filter=1` in sysctl.d, which udev applies to each new interface.
#[test]
fn reverse_path_filter_made_strict() {
    is_put_right_setting("ipv4/conf/xcast0/rp_filter", "1");
}

/// The same with forwarding.
#[test]
fn forwarding_switched_off() {
    is_put_right_setting("ipv4/conf/xcast0/forwarding", "0");
}

/// The same with IPv6.
#[test]
fn ipv6_switched_off() {
    is_put_right_setting("ipv6/conf/xcast0/disable_ipv6", "1");
}

/// The same with forwarding of IPv6.
#[test]
fn forwarding_of_ipv6_switched_off() {
    is_put_right_setting("ipv6/conf/xcast0/forwarding", "0");
}

fn is_put_right_setting(key: &str, value: &str) {
    is_put_right(|trio| trio.r.namespace.sysctl(key, value));
}

/// `accept_local=0`: what the router itself sends, and the stack has to deliver, looks like a martian.
#[test]
fn accept_local_switched_off() {
    trio::with_family(Family::Ipv4, |trio| {
        let sends = || {
            trio.r.namespace.ip("neigh flush dev p2")?;
            let number = trio.number();
            let mut packet = trio.packet(R1, &[B, C], number, 0);
            // As a program on the router sends it.
            let macs = [STACK_INTERFACE, DATAPATH].map(|end| mac(trio, end));
            let [own, other] = macs;
            (packet.source_mac, packet.destination_mac) = (own?, other?);
            let tap = tests::tap::Tap::open(&trio.r.namespace, STACK_INTERFACE)?;
            tap.send(&packet.frame())?;
            Ok(number)
        };
        ensure!(trio.is_reached_by(&trio.b, sends)?, "at the start");
        trio.r
            .namespace
            .sysctl("ipv4/conf/xcast0/accept_local", "0")?;
        ensure!(trio.is_reached_by(&trio.b, sends)?, "afterwards");
        Ok(())
    });
}

/// The link layer address of an interface of the router.
fn mac(trio: &Trio, interface: &str) -> Result<[u8; 6]> {
    let links = trio
        .r
        .namespace
        .ip(&format!("-j link show dev {interface}"))?;
    let links: serde_json::Value = serde_json::from_str(&links)?;
    let text = links[0]["address"].as_str().context("no address")?;
    let octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16));
    let octets: Vec<u8> = octets.collect::<Result<_, _>>()?;
    octets.as_slice().try_into().context("not six octets")
}

/// A smaller MTU loses what is longer.
#[test]
fn mtu_lowered() {
    for interface in [STACK_INTERFACE, DATAPATH] {
        trio::with(|trio| {
            let long = || trio.send_padded(A, &[R1, C], 1300);
            ensure!(trio.is_reached_by(&trio.r, long)?, "at the start");
            // No more IPv6 below 1280.
            trio.r
                .namespace
                .ip(&format!("link set {interface} mtu 700"))?;
            ensure!(
                trio.is_reached_by(&trio.r, long)?,
                "{interface}: afterwards"
            );
            Ok(())
        });
    }
}

/// What was put right is told: in the log, or by `check` while it is not right.
#[test]
fn interference_is_reported() {
    trio::with_family(Family::Ipv4, |trio| {
        let before = trio.check()?;
        let log = trio.daemon()?.log().len();
        let address = "02:11:22:33:44:55";
        trio.r
            .namespace
            .ip(&format!("link set {STACK_INTERFACE} address {address}"))?;
        let told = || {
            let log = trio.daemon()?.log().split_off(log);
            let found = trio.check_since(&before)?;
            Ok(log.contains(STACK_INTERFACE) || trio::named(&found, &[STACK_INTERFACE]))
        };
        ensure!(trio::until(trio::SOON, told)?, "nobody says anything");
        Ok(())
    });
}

/// With no reverse path filter anywhere, the kernel forwards packets whose source it has no route
/// to: one-way feeds, satellites, cores without a default route. So it does with what the router hands to it.
#[test]
fn source_without_a_way_back() {
    trio::with(|trio| {
        let far = Ipv4Addr::new(192, 0, 2, 77);
        let unicast = || trio.unicast(far, B);
        ensure!(trio.is_reached_by(&trio.b, unicast)?, "unicast");
        let local = || trio.send_from(far, &[R1, C]);
        ensure!(
            trio.is_reached_by(&trio.r, local)?,
            "the router itself gets nothing"
        );
        let _ = trio.r.ip("neigh del 10.66.2.2 dev p2");
        let unresolved = || trio.send_from(far, &[B, C]);
        ensure!(
            trio.is_reached_by(&trio.b, unresolved)?,
            "an unresolved host gets nothing"
        );
        Ok(())
    });
}

/// An interface that somebody else made is nobody's to remove, whatever its name: a router that is
/// configured with that name refuses to start, and `unload` leaves it alone.
#[test]
fn foreign_interface_of_that_name_is_not_touched() {
    for kind in ["veth peer name guest0", "bridge"] {
        trio::before_start(Family::Ipv4, |trio| {
            let r = &trio.r.namespace;
            r.ip(&format!("link add {STACK_INTERFACE} type {kind}"))?;
            if kind.starts_with("veth") {
                let guest = trio.c.namespace.name();
                r.ip(&format!("link set guest0 netns {guest}"))?;
                r.ip("address add 10.55.0.1/24 dev xcast0")?;
            }
            let before = r.ip(&format!("link show {STACK_INTERFACE}"))?;
            let untouched = || {
                let now = r.ip(&format!("link show {STACK_INTERFACE}"))?;
                ensure!(before == now, "{before} became {now}");
                if kind.starts_with("veth") {
                    trio.c.namespace.ip("link show guest0")?;
                    let addresses = r.ip("address show dev xcast0")?;
                    ensure!(addresses.contains("10.55.0.1"), "{addresses}");
                }
                Ok(())
            };
            let outcome = Daemon::start(r, &trio.configuration);
            untouched().context("run")?;
            if let Err(error) = outcome {
                let text = format!("{error:#}");
                ensure!(text.contains(STACK_INTERFACE), "{text}");
            }
            daemon::ctl(r, &["unload"])?;
            untouched().context("unload")
        });
    }
}

/// The same for the name of the other end.
#[test]
fn foreign_interface_with_the_name_of_the_other_end() {
    trio::before_start(Family::Ipv4, |trio| {
        let r = &trio.r.namespace;
        r.ip(&format!("link add {DATAPATH} type veth peer name guest0"))?;
        let before = r.ip(&format!("link show {DATAPATH}"))?;
        if let Err(error) = Daemon::start(r, &trio.configuration) {
            let text = format!("{error:#}");
            ensure!(text.contains(DATAPATH), "{text}");
        }
        ensure!(
            r.ip(&format!("link show {DATAPATH}"))? == before,
            "it was touched"
        );
        daemon::ctl(r, &["unload"])?;
        ensure!(
            r.ip(&format!("link show {DATAPATH}"))? == before,
            "unload touched it"
        );
        Ok(())
    });
}
