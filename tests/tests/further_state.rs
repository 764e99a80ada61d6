//! Where unicast would go, Xcast goes: settings and attributes beside those of `kernel_state`, that only few
//! machines have.
//!
//! In each test, the kernel's unicast shows the way first.

use std::net::Ipv4Addr;

use anyhow::{Context, ensure};
use tests::family::Family;
use tests::trio::{self, A, B, BEHIND, C, Way};

/// An interface goes by its alternative names in rules, too.
#[test]
fn rule_by_an_alternative_name() {
    trio::with(|trio| {
        trio.two_tables()?;
        trio.r.ip("link property add dev p1 altname uplink0")?;
        trio.rule("add iif uplink0 lookup 100 priority 100")?;
        trio.goes(Way::C, A, BEHIND)?;
        trio.rule("del iif uplink0 lookup 100 priority 100")?;
        trio.goes(Way::B, A, BEHIND)
    });
}

/// A rule that passes routes over which leave by a group of interfaces.
#[test]
fn rule_that_suppresses_a_group() {
    trio::with(|trio| {
        trio.resolve()?;
        trio.r.ip("link set p2 group 7")?;
        trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        trio.r
            .ip("route add 10.99.0.0/16 via 10.66.3.2 table 100")?;
        trio.goes(Way::B, A, BEHIND)?;
        trio.rule("add lookup main suppress_ifgroup 7 priority 100")?;
        trio.rule("add lookup 100 priority 101")?;
        trio.goes(Way::C, A, BEHIND)
    });
}

/// An address whose network is not behind its interface (`noprefixroute`).
#[test]
fn address_without_a_route() {
    trio::with(|trio| {
        trio.resolve()?;
        trio.r.ip("route add 10.44.0.0/16 via 10.66.2.2")?;
        trio.b.ip("address add 10.44.0.9/32 dev lo")?;
        trio.r.ip("address add 10.44.0.1/24 dev p3 noprefixroute")?;
        trio.goes(Way::B, A, [10, 44, 0, 9].into())?;
        trio.goes(Way::R, A, [10, 44, 0, 1].into())
    });
}

/// An address that ends by itself.
#[test]
fn address_that_expires() {
    trio::with(|trio| {
        trio.resolve()?;
        trio.r.ip("route add 10.44.0.0/16 via 10.66.2.2")?;
        trio.b.ip("address add 10.44.0.1/32 dev lo")?;
        trio.r
            .ip("address add 10.44.0.1/24 dev p3 preferred_lft 2 valid_lft 3")?;
        trio.goes(Way::R, A, [10, 44, 0, 1].into())?;
        trio.goes(Way::B, A, [10, 44, 0, 1].into())
            .context("expired")
    });
}

/// Nexthop objects: a gateway on link by decree, and a resilient group whose member is replaced.
#[test]
fn nexthop_on_link_and_resilient() {
    trio::with(|trio| {
        trio.resolve()?;
        trio.c.ip("address add 10.44.0.2/32 dev c0")?;
        trio.r.ip("nexthop add id 1 via 10.44.0.2 dev p3 onlink")?;
        trio.r.ip("route add 10.99.0.0/16 nhid 1")?;
        trio.goes(Way::C, A, BEHIND)?;
        trio.r.ip("nexthop add id 2 via 10.66.2.2 dev p2")?;
        trio.r
            .namespace
            .ip("nexthop add id 10 group 2 type resilient buckets 8")?;
        trio.r.ip("route replace 10.99.0.0/16 nhid 10")?;
        trio.goes(Way::B, A, BEHIND)?;
        trio.r
            .namespace
            .ip("nexthop replace id 10 group 1 type resilient buckets 8")?;
        trio.goes(Way::C, A, BEHIND)?;
        trio.r.namespace.ip("nexthop del id 10")?;
        trio.goes(Way::Nowhere, A, BEHIND)
    });
}

/// A nexthop object for routes of IPv4 with a gateway of IPv6 (RFC 8950).
#[test]
fn ipv4_nexthop_object_by_ipv6() {
    trio::with_family(Family::Ipv4, |trio| {
        trio.resolve()?;
        let gateway = Family::Ipv6.address(C);
        trio.r
            .namespace
            .ip(&format!("nexthop add id 1 via {gateway} dev p3"))?;
        trio.r.ip("route add 10.99.0.0/16 nhid 1")?;
        trio.goes(Way::C, A, BEHIND)
    });
}

/// No IPv6 on the port that packets arrive by.
#[test]
fn ipv6_switched_off_on_the_port_of_arrival() {
    trio::with_family(Family::Ipv6, |trio| {
        trio.resolve()?;
        trio.goes(Way::B, A, B)?;
        trio.r.namespace.sysctl("ipv6/conf/p1/disable_ipv6", "1")?;
        trio.goes(Way::Nowhere, A, B)?;
        trio.r.namespace.sysctl("ipv6/conf/p1/disable_ipv6", "0")?;
        trio.goes(Way::B, A, B)
    });
}

/// With an MTU below 1280 octets, a link has no IPv6.
#[test]
fn mtu_too_small_for_ipv6_on_the_port_of_arrival() {
    trio::with_family(Family::Ipv6, |trio| {
        trio.resolve()?;
        trio.goes(Way::B, A, B)?;
        trio.r.namespace.ip("link set p1 mtu 1000")?;
        trio.goes(Way::Nowhere, A, B)
    });
}

/// Forwarding of IPv6 from one port only (Linux 6.17).
#[test]
fn ipv6_forwarded_from_one_port_only() {
    trio::with_family(Family::Ipv6, |trio| {
        trio.resolve()?;
        let r = &trio.r.namespace;
        trio.goes(Way::B, A, B)?;
        r.sysctl("ipv6/conf/all/forwarding", "0")?;
        trio.goes(Way::Nowhere, A, B)?;
        r.sysctl("ipv6/conf/p1/force_forwarding", "1")?;
        trio.goes(Way::B, A, B)?;
        r.sysctl("ipv6/conf/p1/force_forwarding", "0")?;
        trio.goes(Way::Nowhere, A, B)?;
        r.sysctl("ipv6/conf/all/forwarding", "1")?;
        trio.goes(Way::B, A, B)
    });
}

/// Policies of IPsec apply to what the kernel forwards: what they block is blocked, and what they are to encrypt does not
/// leave in the clear.
#[test]
fn ipsec_policy_that_blocks() {
    trio::with(|trio| {
        trio.resolve()?;
        trio.goes(Way::B, A, B)?;
        let to = trio.family.prefix(B, 32);
        let all = trio.family.prefix(Ipv4Addr::UNSPECIFIED, 0);
        let policy = |what: &str| trio.r.namespace.ip(&format!("xfrm policy {what}"));
        for direction in ["fwd", "out"] {
            let which = format!("src {all} dst {to} dir {direction}");
            policy(&format!("add {which} action block"))?;
            trio.goes(Way::Nowhere, A, B)?;
            let found = trio.check()?;
            ensure!(trio::named(&found, &["ipsec"]), "{found:?}");
            policy(&format!("del {which}"))?;
            trio.goes(Way::B, A, B)?;
        }
        // What has no policy.
        policy("setdefault fwd block")?;
        trio.goes(Way::Nowhere, A, B)?;
        policy("setdefault fwd accept")?;
        trio.goes(Way::B, A, B)
    });
}
