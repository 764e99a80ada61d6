//! Machines for tests to break in one place.

use super::{
    facts::{Facts, Interface, Running},
    finding::Severity,
    judge,
};
use crate::{
    kernel::{Link, TrafficControl, XdpFeatures},
    report,
};

const EVERYTHING: XdpFeatures = XdpFeatures(0x7f);

/// A veth interface that nothing is wrong with.
pub(super) fn veth(name: &str) -> Interface {
    Interface {
        name: name.to_owned(),
        link: Some(Link {
            ifindex: match name {
                "eth0" => 7,
                "eth1" => 8,
                _ => 9,
            },
            name: name.to_owned(),
            mac: Some([2; 6]),
            mtu: 1500,
            up: true,
            running: true,
            kind: Some("veth".to_owned()),
            peer: Some(8),
            peer_elsewhere: true,
            ..Link::default()
        }),
        features: Some(EVERYTHING),
        gro: Some(true),
        peer_receives: None,
        peer_name: None,
        master: None,
        takes_vlan_tags_off: Some(false),
        merging_offloads: Vec::new(),
        xdp_name: None,
        rp_filter: Some(0),
        forwarding: Some(true),
        ipv6: Some(true),
        traffic_control: TrafficControl::default(),
        unlike_unicast: Vec::new(),
    }
}

/// A machine that nothing is wrong with, on which no router runs.
pub(super) fn facts() -> Facts {
    Facts {
        kernel: "6.18.44-generic".to_owned(),
        page_size: 4096,
        no_bpf: None,
        ports: vec![veth("eth0"), veth("eth1")],
        own_name: "xcast0".to_owned(),
        ..Facts::default()
    }
}

/// A router that is attached to all ports of [`facts`].
pub(super) fn running() -> Running {
    let port = |name: &str| report::Port {
        name: name.to_owned(),
        slot: Some(2),
        ifindex: Some(7),
        mac: None,
        mtu: None,
        mode: Some(report::Mode::Native),
        group_mac: false,
        up: true,
        error: None,
    };
    Running {
        ports: vec![port("eth0"), port("eth1")],
        stats: report::Stats::new(Vec::new()),
        status: report::Status::example(),
        tunnels: Vec::new(),
        neighbors: Vec::new(),
    }
}

/// Has that router run.
pub(super) fn start(facts: &mut Facts) {
    facts.running = Some(running());
    facts.own = Some(veth("xcast0"));
    facts.own_has_address = true;
    facts.own_peer = veth("xcast0-dp").link;
    for port in &mut facts.ports {
        port.xdp_name = Some("xcast".to_owned());
        link(port).xdp_program = Some(5);
    }
}

/// The checks that found something, with what they found it about.
pub(super) fn found(facts: &Facts) -> Vec<(&'static str, Severity, Option<String>)> {
    let mut found: Vec<_> = judge(facts)
        .into_iter()
        .filter(|finding| finding.severity != Severity::Ok)
        .map(|finding| (finding.check, finding.severity, finding.interface))
        .collect();
    found.dedup();
    found
}

/// The link of an interface that exists.
pub(super) fn link(port: &mut Interface) -> &mut Link {
    port.link.as_mut().expect("the interface exists")
}
