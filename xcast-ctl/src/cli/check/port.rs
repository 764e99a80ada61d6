//! The ports: whether each can take packets and send copies.

use xcast_common::wire;

use crate::kernel::program_name;

use super::{
    facts::{Facts, Interface, Running},
    finding::{Finding, Severity, finding, ok},
    stacked,
};

/// Room that XDP reserves in front of a frame (XDP_PACKET_HEADROOM), in octets.
const HEADROOM: u32 = 256;
/// Room that the kernel reserves behind a frame (struct skb_shared_info, aligned), in octets.
const TAILROOM: u32 = 320;

/// The findings of each port; a port without any is good.
pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    for port in &facts.ports {
        let before = findings.len();
        if judge_port(facts, port, findings) {
            stacked::judge(facts, port, findings);
        }
        if let (Some(running), true) = (&facts.running, port.link.is_some()) {
            attached(running, port, findings);
        }
        if findings.len() == before {
            let mtu = port.link.as_ref().map_or(0, |link| link.mtu);
            let what = format!("up, native XDP with transmit, MTU {mtu}");
            findings.push(ok("port", Some(port), what));
        }
    }
}

/// Judges the interface itself. False if it cannot be a port at all: nothing else matters then.
fn judge_port(facts: &Facts, port: &Interface, findings: &mut Vec<Finding>) -> bool {
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
        return false;
    };
    if let Some(obstacle) = link.obstacle(port.features.map(|features| features.native())) {
        let remedy = obstacle.remedy.to_owned();
        add("kind", Severity::Fault, obstacle.what, remedy);
        return false;
    }
    if !link.up {
        add(
            "up",
            Severity::Fault,
            "the interface is down: copies for it are lost".into(),
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
    if !port.merging_offloads.is_empty() {
        let off = port
            .merging_offloads
            .iter()
            .map(|name| format!(" {name} off"));
        add(
            "merging",
            if link.xdp_program.is_some() {
                Severity::Warning
            } else {
                Severity::Fault
            },
            format!(
                "the driver makes one frame of several that arrive ({}): it refuses XDP programs, or gives XDP \
                 frames that are not linear, which cannot be copied",
                port.merging_offloads.join(", ")
            ),
            format!("ethtool -K {name}{}", off.collect::<String>()),
        );
    }
    let most = max_mtu(facts.page_size);
    if link.mtu > most {
        add(
            "mtu",
            Severity::Fault,
            format!(
                "MTU {} is above {most}, the largest that fits into one page: the driver refuses \
                 the XDP program, or delivers frames in fragments, which cannot be copied",
                link.mtu
            ),
            format!("ip link set {name} mtu {most}, or less, on both ends"),
        );
    }
    true
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
        "the other end of this veth pair has neither GRO nor an XDP program: frames that XDP sends \
         to it are lost, and no counter shows it; a router that detects this uses the kernel's stack"
            .to_owned(),
        format!(
            "ethtool -K {peer} gro on, or run a router there; if GRO was switched on while the other end was down, \
             switch it off and on again"
        ),
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
            "use an interface whose driver has it (ethtool -i shows the driver)".into(),
        ),
        Some(features) if features.transmit() => {}
        Some(_) if veth => add("transmit", Severity::Fault, deaf_peer.0, deaf_peer.1),
        // Some drivers prepare to transmit only when a program is attached.
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
            "cannot see whether the other end of this veth pair has GRO or an XDP program; without \
             either, every copy sent to it is lost"
                .into(),
            format!("ethtool -K {peer} gro on"),
        ),
        None => add(
            "transmit",
            Severity::Warning,
            "this kernel does not report whether the driver has native XDP and XDP transmit \
             (ndo_xdp_xmit)"
                .into(),
            "use Linux 6.3 or newer, or read the driver's documentation".into(),
        ),
    }
    let running = facts.running.is_some();
    match link.xdp_program {
        // A program that cannot be looked at is taken for the running router's.
        Some(id) if !port.runs_router() && (port.xdp_name.is_some() || !running) => {
            let program = match &port.xdp_name {
                Some(name) => format!("the XDP program {name} (id {id})"),
                None => format!("the XDP program with id {id}"),
            };
            let effect = match running {
                true => {
                    "is attached, and not the running router's: the router gets nothing that arrives"
                }
                false => "is attached already, and no router runs here",
            };
            add(
                "foreign_xdp",
                Severity::Fault,
                format!("{program} {effect}"),
                format!(
                    "show it with: bpftool prog show id {id}; remove it with: {}",
                    link.xdp_off()
                ),
            );
        }
        _ => {}
    }
}

/// The largest IP packet whose frame fits into one page with the room that XDP needs around it.
fn max_mtu(page_size: u32) -> u32 {
    page_size - HEADROOM - TAILROOM - wire::ETH_LEN as u32
}

fn attached(running: &Running, port: &Interface, findings: &mut Vec<Finding>) {
    let known = running.ports.iter().find(|known| known.name == port.name);
    let link = port.link.clone().unwrap_or_default();
    let foreign = link.xdp_program;
    let cause = known.and_then(|known| known.error.as_deref());
    let (what, remedy) = match (known, foreign) {
        (Some(known), Some(_)) if known.mode.is_some() => return,
        (Some(known), None) if known.mode.is_some() => (
            "the running router was attached, but no XDP program is: somebody detached it, and \
             nothing that arrives is taken"
                .to_owned(),
            "find out who removes XDP programs; the router attaches again by itself".to_owned(),
        ),
        (Some(_), Some(id)) => (
            format!(
                "the running router is not attached to it: the XDP program with id {id} is there{}",
                program_name(id).map_or(String::new(), |name| format!(", {name}"))
            ),
            format!(
                "see whose it is with: bpftool prog show id {id}; end that program, or: {}; the router tries again by \
                 itself",
                link.xdp_off()
            ),
        ),
        (Some(_), None) => (
            format!(
                "the running router could not attach to it: {}",
                cause.unwrap_or("it does not say why")
            ),
            "mend the cause; the router tries again by itself".to_owned(),
        ),
        (None, _) => (
            "the running router does not know this port".to_owned(),
            "restart it with this configuration".to_owned(),
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

#[cfg(test)]
mod tests {
    use super::super::{
        judge as judge_all,
        testing::{facts, found, link, start},
    };
    use super::*;
    use crate::kernel::{Link, XdpFeatures};

    /// Changes the first port and expects exactly this finding about it.
    #[track_caller]
    fn assert_port(check: &'static str, severity: Severity, change: impl FnOnce(&mut Interface)) {
        let mut facts = facts();
        change(&mut facts.ports[0]);
        assert_eq!(found(&facts), [(check, severity, Some("eth0".to_owned()))]);
    }

    #[test]
    fn ports() {
        assert_port("exists", Severity::Fault, |port| {
            port.link = None;
            port.forwarding = None;
        });
        assert_port("kind", Severity::Fault, |port| {
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
        assert_port("foreign_xdp", Severity::Fault, |port| {
            link(port).xdp_program = Some(5);
        });
        assert_port("forwarding", Severity::Fault, |port| {
            port.forwarding = Some(false);
        });
    }

    #[test]
    fn kinds_that_cannot_be_a_port() {
        for kind in ["bridge", "bond", "team", "vlan", "macvlan", "ipvlan", "vrf"] {
            assert_port("kind", Severity::Fault, |port| {
                link(port).kind = Some(kind.to_owned());
                port.features = None;
            });
        }
    }

    /// What unicast would be refused, Xcast is refused: that is no fault.
    #[test]
    fn nobody_is_told_to_loosen_the_reverse_path_filter() {
        let mut facts = facts();
        facts.ports[0].rp_filter = Some(1);
        assert_eq!(found(&facts), []);
    }

    #[test]
    fn programs_of_others() {
        let mut facts = facts();
        start(&mut facts);
        assert_eq!(found(&facts), []);
        let about = |check| (check, Severity::Fault, Some("eth0".to_owned()));
        facts.ports[0].xdp_name = Some("firewall".to_owned());
        assert_eq!(found(&facts), [about("foreign_xdp")]);
        link(&mut facts.ports[0]).xdp_program = None;
        facts.ports[0].xdp_name = None;
        assert_eq!(found(&facts), [about("attached")]);
    }

    #[test]
    fn the_largest_mtu_is_the_one_veth_takes() {
        assert_eq!(max_mtu(4096), 3506);
        let mut facts = facts();
        link(&mut facts.ports[0]).mtu = 3506;
        assert_eq!(found(&facts), []);
    }

    #[test]
    fn ports_whose_cards_merge_frames() {
        assert_port("merging", Severity::Fault, |port| {
            port.merging_offloads = vec!["lro", "rx-gro-hw"];
        });
        let mut facts = facts();
        start(&mut facts);
        facts.ports[0].merging_offloads = vec!["lro"];
        let remedies: Vec<_> = judge_all(&facts)
            .into_iter()
            .filter(|finding| finding.check == "merging")
            .map(|finding| (finding.severity, finding.remedy.unwrap_or_default()))
            .collect();
        let expected = (Severity::Warning, "ethtool -K eth0 lro off".to_owned());
        assert_eq!(remedies, [expected]);
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
        start(&mut facts);
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
}
