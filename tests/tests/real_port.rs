//! What the router leaves to the kernel's stack is seen there as what it is: arrived by the real port (ADR 13). So
//! packet filters and policy rules that name the port do with it what they do with unicast.

use anyhow::{Context as _, Result, ensure};
use tests::family::Family;
use tests::trio::{self, A, B, BEHIND, C, SOON, Trio, Way, until};

/// Loads rules in a chain of the packet filter.
fn chain(trio: &Trio, hook: &str, policy: &str, rule: &str) -> Result<()> {
    trio.nft(&format!(
        "table inet f {{ chain c {{ type filter hook {hook}; policy {policy}; {rule}; }} }}"
    ))
}

/// Ways to [`BEHIND`]: by B, and in table 100 by C.
fn two_tables(trio: &Trio) -> Result<()> {
    trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
    let other = "route add 10.99.0.0/16 via 10.66.3.2 table 100";
    trio.r.ip(other).map(drop)
}

/// Adds a rule of policy routing.
fn add_rule(trio: &Trio, rule: &str) -> Result<()> {
    let family = match trio.family {
        Family::Ipv4 => "-4",
        Family::Ipv6 => "-6",
    };
    let namespace = &trio.r.namespace;
    namespace.ip(&format!("{family} rule add {rule}")).map(drop)
}

/// Makes the router's kernel forget a host, and has it found again by what Xcast packets bring.
fn is_resolved_by_xcast(trio: &Trio) -> Result<()> {
    trio.r.ip("neigh flush dev p2")?;
    ensure!(trio.is_reached(&trio.b, &[B, C])?, "B is not reached");
    let known = || Ok(trio.neighbour(B)?.contains("lladdr"));
    ensure!(until(SOON, known)?, "{}", trio.neighbour(B)?);
    // From now on by the fast path.
    let number = trio.send(&[B, C])?;
    ensure!(trio.b.gets(number)?, "B, resolved");
    ensure!(trio.c.gets(number)?, "C");
    Ok(())
}

/// A policy to drop what is forwarded, and a rule that accepts what arrives by a port (Docker, firewalld): a
/// host that is not resolved gets its packets, and is resolved.
#[test]
fn forward_policy_with_a_rule_for_the_port() {
    trio::with(|trio| {
        chain(trio, "forward priority 0", "drop", "iifname p1 accept")?;
        is_resolved_by_xcast(trio)
    });
}

/// The other way round: what arrives by the port is dropped, and so is what the stack gets of Xcast.
#[test]
fn forward_rule_that_drops_from_the_port() {
    trio::with(|trio| {
        chain(trio, "forward priority 0", "accept", "iifname p1 drop")?;
        trio.r.ip("neigh flush dev p2")?;
        let unicast = trio.unicast(A, B)?;
        ensure!(trio.b.misses(unicast)?, "unicast");
        let xcast = trio.send(&[B])?;
        ensure!(trio.b.misses(xcast)?, "Xcast");
        Ok(())
    });
}

/// firewalld's filter of sources: each packet's way back has to be by the interface it came by. Copies that the
/// stack gets came by the port.
#[test]
fn reverse_path_rule_before_routing() {
    trio::with(|trio| {
        chain(
            trio,
            "prerouting priority -10",
            "accept",
            "fib saddr . iif oif missing drop",
        )?;
        is_resolved_by_xcast(trio)
    });
}

/// A packet filter gives packets of one port a mark, by which a policy rule takes another table: what is left to the
/// stack goes there, as unicast does.
#[test]
fn mark_by_port_and_rule_by_mark() {
    trio::with(|trio| {
        chain(
            trio,
            "prerouting priority -150",
            "accept",
            "iifname p1 meta mark set 7",
        )?;
        two_tables(trio)?;
        add_rule(trio, "fwmark 7 lookup 100 priority 100")?;
        // The fast path knows no marks. It leaves to the stack what a rule before may apply to, for all that it knows.
        add_rule(trio, "ipproto tcp dport 9 lookup 100 priority 50")?;
        trio.goes(Way::C, A, BEHIND)
    });
}

/// A rule by port, and neither gateway resolved: the first packet, which the stack forwards, takes the table of the
/// rule.
#[test]
fn rule_by_port_and_gateways_that_are_not_resolved() {
    trio::with(|trio| {
        two_tables(trio)?;
        add_rule(trio, "iif p1 lookup 100 priority 100")?;
        trio.goes(Way::C, A, BEHIND).context("resolved")?;
        trio.r.ip("neigh flush dev p2")?;
        trio.r.ip("neigh flush dev p3")?;
        let number = trio.send(&[BEHIND, A])?;
        let way = trio.way(number)?;
        ensure!(way == Way::C, "not resolved: {way:?}");
        Ok(())
    });
}
