//! What the facts mean. Pure, so that every rule can be tried without the machine it is about.

use xcast_common::wire;

use super::{
    Finding, Severity,
    facts::{Facts, Interface, Running},
    ipv6, udp,
};
use crate::{config::DATAPATH_SUFFIX, report};

/// First kernel that copies XDP frames to several devices (BPF_F_BROADCAST).
const FIRST_KERNEL: (u32, u32) = (5, 14);

/// Per series still kept, the first release that does not make garbage of multi-buffer frames it
/// copies. Every series after the last has it right from the start.
const COPIES_FIXED: [(u32, u32, u32); 5] = [
    (5, 15, 212),
    (6, 1, 178),
    (6, 6, 145),
    (6, 12, 96),
    (6, 18, 39),
];

/// Room that XDP keeps in front of a frame (XDP_PACKET_HEADROOM), in octets.
const HEADROOM: u32 = 256;
/// What the kernel keeps behind a frame (struct skb_shared_info, aligned), in octets.
const TAILROOM: u32 = 320;

/// Judges everything; what is good is mentioned, too.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    kernel(facts, &mut findings);
    bpf(facts, &mut findings);
    forwarding(facts, &mut findings);
    for port in &facts.ports {
        let before = findings.len();
        judge_port(facts, port, &mut findings);
        if let (Some(running), true) = (&facts.running, port.link.is_some()) {
            attached(running, port, &mut findings);
        }
        if findings.len() == before {
            let mtu = port.link.as_ref().map_or(0, |link| link.mtu);
            let what = format!("up, native XDP with transmit, MTU {mtu}");
            findings.push(ok("port", Some(port), what));
        }
    }
    own_interface(facts, &mut findings);
    ipv6::judge(facts, &mut findings);
    udp::judge(facts, &mut findings);
    if let Some(running) = &facts.running {
        losses(running, &mut findings);
    }
    findings
}

pub(super) fn finding(
    check: &'static str,
    severity: Severity,
    interface: Option<&Interface>,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    Finding {
        check,
        severity,
        interface: interface.map(|interface| interface.name.clone()),
        what: what.into(),
        remedy: Some(remedy.into()),
    }
}

pub(super) fn ok(
    check: &'static str,
    interface: Option<&Interface>,
    what: impl Into<String>,
) -> Finding {
    Finding {
        remedy: None,
        ..finding(check, Severity::Ok, interface, what, "")
    }
}

fn kernel(facts: &Facts, findings: &mut Vec<Finding>) {
    let release = &facts.kernel;
    findings.push(match parse_release(release) {
        None => finding(
            "kernel",
            Severity::Warning,
            None,
            format!("kernel {release}: cannot tell its version"),
            format!(
                "make sure that it is {}.{} or newer",
                FIRST_KERNEL.0, FIRST_KERNEL.1
            ),
        ),
        Some((major, minor, _)) if (major, minor) < FIRST_KERNEL => finding(
            "kernel",
            Severity::Fault,
            None,
            format!("kernel {release} cannot copy a packet to several ports in XDP"),
            format!("use Linux {}.{} or newer", FIRST_KERNEL.0, FIRST_KERNEL.1),
        ),
        Some(version) if !copies_fixed(version) => finding(
            "kernel",
            Severity::Warning,
            None,
            format!(
                "kernel {release} makes garbage of multi-buffer frames (jumbo, receive coalescing) \
                 when another XDP program lets them be copied; this router takes linear frames only"
            ),
            "use 5.15.212, 6.1.178, 6.6.145, 6.12.96, 6.18.39 or newer within these series",
        ),
        Some(_) => ok(
            "kernel",
            None,
            format!("kernel {release} copies packets in XDP"),
        ),
    });
}

/// `6.1.0-44-amd64` is 6.1.0: what a distribution put into it is not to be seen here.
fn parse_release(release: &str) -> Option<(u32, u32, u32)> {
    let numbers = release
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?;
    let mut numbers = numbers.split('.').map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok);
    Some((next()?, next()?, next().unwrap_or(0)))
}

fn copies_fixed((major, minor, patch): (u32, u32, u32)) -> bool {
    let series = COPIES_FIXED
        .iter()
        .find(|fixed| (fixed.0, fixed.1) == (major, minor));
    match series {
        Some(fixed) => patch >= fixed.2,
        None => COPIES_FIXED
            .iter()
            .all(|fixed| (fixed.0, fixed.1) < (major, minor)),
    }
}

fn bpf(facts: &Facts, findings: &mut Vec<Finding>) {
    findings.push(match &facts.no_bpf {
        None => ok("bpf", None, "XDP programs can be loaded"),
        // Somebody with more rights runs it already.
        Some(_) if facts.running.is_some() => ok("bpf", None, "a router runs here"),
        Some(reason) => finding(
            "bpf",
            Severity::Fault,
            None,
            format!("XDP programs cannot be loaded: {reason}"),
            "run as root (CAP_BPF, CAP_NET_ADMIN), on a kernel with CONFIG_BPF_SYSCALL",
        ),
    });
}

/// What the last Xcast router before a receiver sends is ordinary unicast, and so is what it hands
/// to the kernel: other routers on the way have to forward it the ordinary way.
fn forwarding(facts: &Facts, findings: &mut Vec<Finding>) {
    let known: Vec<_> = facts
        .ports
        .iter()
        .filter(|port| port.forwarding.is_some())
        .collect();
    let off: Vec<_> = known
        .iter()
        .filter(|port| port.forwarding == Some(false))
        .collect();
    // A host with one interface has nothing to forward.
    let severity = match facts.ports.len() {
        0 | 1 => Severity::Warning,
        _ => Severity::Fault,
    };
    let what = "IP forwarding is off: unicast packets that other Xcast routers sent for receivers \
                behind this one are dropped";
    if known.is_empty() {
        // No port exists, which is said elsewhere.
    } else if off.is_empty() {
        findings.push(ok("forwarding", None, "IP forwarding is on"));
    } else if off.len() == known.len() {
        let remedy = "sysctl -w net.ipv4.ip_forward=1";
        findings.push(finding("forwarding", severity, None, what, remedy));
    } else {
        findings.extend(off.into_iter().map(|port| {
            let remedy = format!("sysctl -w net.ipv4.conf.{}.forwarding=1", port.name);
            finding("forwarding", severity, Some(port), what, remedy)
        }));
    }
}

fn judge_port(facts: &Facts, port: &Interface, findings: &mut Vec<Finding>) {
    let name = &port.name;
    let mut add = |check, severity, what: String, remedy: String| {
        findings.push(finding(check, severity, Some(port), what, remedy));
    };
    let Some(link) = &port.link else {
        add(
            "exists",
            Severity::Fault,
            "there is no such interface in this network namespace".into(),
            "create it, or remove its [[port]] from the configuration".into(),
        );
        return;
    };
    if link.mac.is_none() {
        add(
            "ethernet",
            Severity::Fault,
            "this is no Ethernet interface, which a port has to be".into(),
            "remove its [[port]] from the configuration".into(),
        );
        return;
    }
    if !link.up {
        add(
            "up",
            Severity::Fault,
            "the interface is down: copies for it vanish".into(),
            format!("ip link set {name} up"),
        );
    } else if !link.running {
        add(
            "carrier",
            Severity::Warning,
            "the interface has no carrier".into(),
            "connect it, or set the other end up".into(),
        );
    }
    xdp(facts, port, &mut add);
    let most = max_mtu(facts.page_size);
    if link.mtu > most {
        add(
            "mtu",
            Severity::Fault,
            format!(
                "MTU {} is above {most}, the most that fits one page: the driver refuses the XDP \
                 program, or hands over frames in pieces, which cannot be copied",
                link.mtu
            ),
            format!("ip link set {name} mtu {most}, or less, on both ends"),
        );
    }
    if port.rp_filter == Some(1) {
        add(
            "rp_filter",
            Severity::Warning,
            "the strict reverse path filter drops unicast packets that arrive by another port than \
             their way back would leave by"
                .into(),
            format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2"),
        );
    }
}

fn xdp(
    facts: &Facts,
    port: &Interface,
    add: &mut impl FnMut(&'static str, Severity, String, String),
) {
    let Some(link) = &port.link else { return };
    let veth = link.kind.as_deref() == Some("veth");
    let peer = match &port.peer_name {
        Some(peer) => peer.clone(),
        None => "PEER (in its network namespace)".to_owned(),
    };
    let deaf_peer = (
        "the other end of this veth pair has neither GRO nor an XDP program: what XDP sends to it \
         vanishes, and no counter moves; a router that notices goes through the kernel's stack"
            .to_owned(),
        format!("ethtool -K {peer} gro on, or run a router there"),
    );
    match port.features {
        Some(features) if !features.native() && veth => add(
            "native_xdp",
            Severity::Fault,
            "no native XDP: the other end of this veth pair has more transmit queues than this end \
             has receive queues"
                .into(),
            format!("ethtool -L {} rx N, with the other end's number of tx queues", port.name),
        ),
        Some(features) if !features.native() => add(
            "native_xdp",
            Severity::Fault,
            "the driver has no native XDP".into(),
            "use an interface whose driver has it (ip link show says which driver)".into(),
        ),
        Some(features) if features.transmit() => {}
        Some(_) if veth => add("transmit", Severity::Fault, deaf_peer.0, deaf_peer.1),
        // Some drivers get ready to transmit only when a program is attached.
        Some(_) if link.xdp_program.is_none() => add(
            "transmit",
            Severity::Warning,
            "the driver does not offer XDP transmit (ndo_xdp_xmit) while no program is attached"
                .into(),
            "check again while the router runs".into(),
        ),
        Some(_) => add(
            "transmit",
            Severity::Fault,
            "the driver has no XDP transmit (ndo_xdp_xmit): copies for this port are lost".into(),
            "use an interface whose driver has it, or fewer queues if the driver says so".into(),
        ),
        None if veth && port.peer_receives == Some(true) => {}
        None if veth && port.peer_receives == Some(false) => {
            add("transmit", Severity::Fault, deaf_peer.0, deaf_peer.1);
        }
        None if veth => add(
            "transmit",
            Severity::Warning,
            "cannot see whether the other end of this veth pair has GRO or an XDP program; without, \
             every copy sent to it vanishes"
                .into(),
            format!("ethtool -K {peer} gro on"),
        ),
        None => add(
            "transmit",
            Severity::Warning,
            "this kernel does not tell whether the driver has native XDP and XDP transmit \
             (ndo_xdp_xmit)"
                .into(),
            "use Linux 6.3 or newer, or read the driver's documentation".into(),
        ),
    }
    if let (Some(id), None) = (link.xdp_program, &facts.running) {
        add(
            "foreign_xdp",
            Severity::Fault,
            format!("the XDP program with id {id} is attached already, and no router runs here"),
            format!(
                "see what it is with: bpftool prog show id {id}; remove it with: ip link set dev {} \
                 xdp off",
                port.name
            ),
        );
    }
}

/// The largest IP packet whose frame lies in one page, with what XDP needs around it.
fn max_mtu(page_size: u32) -> u32 {
    page_size - HEADROOM - TAILROOM - wire::ETH_LEN as u32
}

fn attached(running: &Running, port: &Interface, findings: &mut Vec<Finding>) {
    let known = running.ports.iter().find(|known| known.name == port.name);
    if known.is_some_and(|known| known.mode.is_some()) {
        return;
    }
    let (what, remedy) = match known {
        Some(_) => (
            "the running router could not attach to it",
            "see the router's log for the reason",
        ),
        None => (
            "the running router does not know this port",
            "restart it with this configuration",
        ),
    };
    findings.push(finding(
        "attached",
        Severity::Fault,
        Some(port),
        what,
        remedy,
    ));
}

fn own_interface(facts: &Facts, findings: &mut Vec<Finding>) {
    let name = &facts.own_name;
    let mut found = Vec::new();
    let mut add = |check, severity, what: String, remedy: String| {
        found.push(Finding {
            interface: Some(name.clone()),
            ..finding(check, severity, None, what, remedy)
        });
    };
    let own = match (&facts.own, &facts.running) {
        (None, None) => return,
        (None, Some(_)) => {
            add(
                "own_interface",
                Severity::Fault,
                "somebody removed the running router's own interface".into(),
                "restart the router".into(),
            );
            findings.extend(found);
            return;
        }
        (Some(_), None) => {
            add(
                "own_interface",
                Severity::Warning,
                "left behind by a router that was killed; the next one takes it over".into(),
                "xcast-ctl unload".into(),
            );
            findings.extend(found);
            return;
        }
        (Some(own), Some(_)) => own,
    };
    let link = own.link.clone().unwrap_or_default();
    if !link.up {
        add(
            "own_interface",
            Severity::Fault,
            "the interface is down: everything for the kernel's stack is lost".into(),
            format!("ip link set {name} up; ip link set {name}{DATAPATH_SUFFIX} up"),
        );
    }
    if own.gro == Some(false) && link.xdp_program.is_none() {
        add(
            "own_gro",
            Severity::Fault,
            "GRO is off: everything for the kernel's stack vanishes, and no counter moves".into(),
            format!("ethtool -K {name} gro on"),
        );
    }
    if own.rp_filter == Some(1) {
        add(
            "own_rp_filter",
            Severity::Fault,
            "the strict reverse path filter drops everything for the kernel's stack".into(),
            format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2"),
        );
    }
    if own.forwarding == Some(false) {
        add(
            "own_forwarding",
            Severity::Fault,
            "IP forwarding is off: what is handed to the kernel's stack for others (unresolved \
             neighbour, small MTU) is dropped"
                .into(),
            format!("sysctl -w net.ipv4.conf.{name}.forwarding=1"),
        );
    }
    if found.is_empty() {
        found.push(ok(
            "own_interface",
            Some(own),
            "hands packets to the kernel's stack",
        ));
    }
    findings.extend(found);
}

fn losses(running: &Running, findings: &mut Vec<Finding>) {
    let mut lossless = true;
    for port in &running.stats.ports {
        let loss = report::loss(&port.counters);
        let drops = port.driver_drops.unwrap_or(0);
        let mut add = |check, what: String, remedy: &str| {
            lossless = false;
            findings.push(Finding {
                interface: Some(port.name.clone()),
                ..finding(check, Severity::Warning, None, what, remedy)
            });
        };
        if loss > 0 {
            add(
                "loss",
                format!("{loss} copies were planned for this port and did not reach its driver"),
                "faults above are the likely cause; if the number still grows, the port is overloaded",
            );
        }
        if drops > 0 {
            add(
                "driver_drops",
                format!(
                    "the driver dropped {drops} copies, most likely because its queue was full"
                ),
                "more or longer queues (ethtool -L, ethtool -G), or fewer packets",
            );
        }
    }
    if lossless {
        findings.push(ok("loss", None, "every copy that was planned was sent"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kernel::{Link, XdpFeatures};

    const EVERYTHING: XdpFeatures = XdpFeatures(0x7f);

    fn veth(name: &str) -> Interface {
        Interface {
            name: name.to_owned(),
            link: Some(Link {
                ifindex: 7,
                name: name.to_owned(),
                mac: Some([2; 6]),
                mtu: 1500,
                up: true,
                running: true,
                loopback: false,
                kind: Some("veth".to_owned()),
                peer: Some(8),
                peer_elsewhere: true,
                xdp_program: None,
            }),
            features: Some(EVERYTHING),
            gro: Some(true),
            peer_receives: None,
            peer_name: None,
            rp_filter: Some(0),
            forwarding: Some(true),
            ipv6: Some(true),
        }
    }

    fn facts() -> Facts {
        Facts {
            kernel: "6.18.44-generic".to_owned(),
            page_size: 4096,
            no_bpf: None,
            ports: vec![veth("eth0"), veth("eth1")],
            own_name: "xcast0".to_owned(),
            ..Facts::default()
        }
    }

    fn running() -> Running {
        let port = |name: &str| report::Port {
            name: name.to_owned(),
            slot: Some(2),
            ifindex: Some(7),
            mac: None,
            mtu: None,
            mode: Some(report::Mode::Native),
            group_mac: false,
            up: true,
        };
        Running {
            ports: vec![port("eth0"), port("eth1")],
            stats: report::Stats::new(Vec::new()),
        }
    }

    /// The checks that found something, with what they found it about.
    fn found(facts: &Facts) -> Vec<(&'static str, Severity, Option<String>)> {
        let mut found: Vec<_> = judge(facts)
            .into_iter()
            .filter(|finding| finding.severity != Severity::Ok)
            .map(|finding| (finding.check, finding.severity, finding.interface))
            .collect();
        found.dedup();
        found
    }

    /// Changes the first port and expects exactly this finding about it.
    #[track_caller]
    fn assert_port(check: &'static str, severity: Severity, change: impl FnOnce(&mut Interface)) {
        let mut facts = facts();
        change(&mut facts.ports[0]);
        assert_eq!(found(&facts), [(check, severity, Some("eth0".to_owned()))]);
    }

    fn link(port: &mut Interface) -> &mut Link {
        port.link.as_mut().unwrap()
    }

    #[test]
    fn a_good_machine_has_no_findings_and_says_what_was_looked_at() {
        assert_eq!(found(&facts()), []);
        let oks: Vec<_> = judge(&facts())
            .iter()
            .map(|finding| finding.check)
            .collect();
        assert_eq!(oks, ["kernel", "bpf", "forwarding", "port", "port"]);
    }

    #[test]
    fn ports() {
        assert_port("exists", Severity::Fault, |port| {
            port.link = None;
            port.forwarding = None;
        });
        assert_port("ethernet", Severity::Fault, |port| {
            link(port).mac = None;
        });
        assert_port("up", Severity::Fault, |port| {
            link(port).up = false;
            link(port).running = false;
        });
        assert_port("carrier", Severity::Warning, |port| {
            link(port).running = false;
        });
        assert_port("mtu", Severity::Fault, |port| {
            link(port).mtu = 3507;
        });
        assert_port("rp_filter", Severity::Warning, |port| {
            port.rp_filter = Some(1);
        });
        assert_port("foreign_xdp", Severity::Fault, |port| {
            link(port).xdp_program = Some(5);
        });
        assert_port("forwarding", Severity::Fault, |port| {
            port.forwarding = Some(false);
        });
    }

    #[test]
    fn the_largest_mtu_is_the_one_veth_takes() {
        assert_eq!(max_mtu(4096), 3506);
        let mut facts = facts();
        link(&mut facts.ports[0]).mtu = 3506;
        assert_eq!(found(&facts), []);
    }

    #[test]
    fn ports_that_cannot_transmit() {
        let no_transmit = Some(XdpFeatures(0x3));
        assert_port("transmit", Severity::Fault, |port| {
            port.features = no_transmit;
        });
        assert_port("native_xdp", Severity::Fault, |port| {
            port.features = Some(XdpFeatures(0));
        });
        assert_port("native_xdp", Severity::Fault, |port| {
            port.features = Some(XdpFeatures(0));
            link(port).kind = None;
        });
        assert_port("transmit", Severity::Warning, |port| {
            port.features = no_transmit;
            link(port).kind = None;
        });
        let mut facts = facts();
        facts.running = Some(running());
        facts.own = Some(veth("xcast0"));
        facts.ports[0].features = no_transmit;
        *link(&mut facts.ports[0]) = Link {
            kind: None,
            xdp_program: Some(5),
            ..link(&mut facts.ports[0]).clone()
        };
        assert_eq!(
            found(&facts),
            [("transmit", Severity::Fault, Some("eth0".into()))]
        );
    }

    #[test]
    fn without_netdev_family_the_other_end_is_asked_where_it_can_be() {
        assert_port("transmit", Severity::Warning, |port| {
            port.features = None;
        });
        assert_port("transmit", Severity::Fault, |port| {
            port.features = None;
            port.peer_receives = Some(false);
        });
        let mut facts = facts();
        facts.ports[0].features = None;
        facts.ports[0].peer_receives = Some(true);
        assert_eq!(found(&facts), []);
    }

    #[test]
    fn forwarding_off_everywhere_is_one_finding() {
        let mut facts = facts();
        for port in &mut facts.ports {
            port.forwarding = Some(false);
        }
        assert_eq!(found(&facts), [("forwarding", Severity::Fault, None)]);
        facts.ports.truncate(1);
        assert_eq!(found(&facts), [("forwarding", Severity::Warning, None)]);
    }

    #[test]
    fn kernels() {
        for (release, expected) in [
            ("5.13.19", Some(Severity::Fault)),
            ("4.19.0-27-amd64", Some(Severity::Fault)),
            ("5.14.0", Some(Severity::Warning)),
            ("5.15.211", Some(Severity::Warning)),
            ("5.15.212", None),
            ("6.1.177-1-amd64", Some(Severity::Warning)),
            ("6.5.300", Some(Severity::Warning)),
            ("6.12.96+deb13", None),
            ("6.18.39", None),
            ("7.0", None),
            ("strange", Some(Severity::Warning)),
        ] {
            let mut facts = facts();
            facts.kernel = release.to_owned();
            let severities: Vec<_> = found(&facts).into_iter().map(|found| found.1).collect();
            assert_eq!(severities, Vec::from_iter(expected), "{release}");
        }
    }

    #[test]
    fn privileges_matter_only_where_no_router_runs() {
        let mut facts = facts();
        facts.no_bpf = Some("operation not permitted".to_owned());
        assert_eq!(found(&facts), [("bpf", Severity::Fault, None)]);
        facts.running = Some(running());
        facts.own = Some(veth("xcast0"));
        assert_eq!(found(&facts), []);
    }

    #[test]
    fn the_routers_own_interface() {
        let own = || Some("xcast0".to_owned());
        let mut facts = facts();
        facts.own = Some(veth("xcast0"));
        assert_eq!(found(&facts), [("own_interface", Severity::Warning, own())]);
        facts.running = Some(running());
        assert_eq!(found(&facts), []);
        for (check, change) in [
            (
                "own_gro",
                (|own| own.gro = Some(false)) as fn(&mut Interface),
            ),
            ("own_rp_filter", |own| own.rp_filter = Some(1)),
            ("own_forwarding", |own| own.forwarding = Some(false)),
            ("own_interface", |own| link(own).up = false),
        ] {
            let mut facts = facts.clone();
            change(facts.own.as_mut().unwrap());
            assert_eq!(found(&facts), [(check, Severity::Fault, own())]);
        }
        facts.own = None;
        assert_eq!(found(&facts), [("own_interface", Severity::Fault, own())]);
    }

    #[test]
    fn a_running_router_tells_losses_and_ports_it_is_not_on() {
        let mut facts = facts();
        facts.own = Some(veth("xcast0"));
        let mut running = running();
        running.ports[0].mode = None;
        running.ports.pop();
        running.stats = report::Stats::new(vec![report::PortStats {
            name: "eth1".to_owned(),
            slot: 3,
            ifindex: 8,
            counters: BTreeMap::from([("planned".to_owned(), 5), ("sent".to_owned(), 3)]),
            driver_drops: Some(1),
        }]);
        facts.running = Some(running);
        let eth = |n| Some(format!("eth{n}"));
        assert_eq!(
            found(&facts),
            [
                ("attached", Severity::Fault, eth(0)),
                ("attached", Severity::Fault, eth(1)),
                ("loss", Severity::Warning, eth(1)),
                ("driver_drops", Severity::Warning, eth(1)),
            ]
        );
    }
}
