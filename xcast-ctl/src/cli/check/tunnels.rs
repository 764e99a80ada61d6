//! Tunnels to other routers.

use xcast_common::maps::counter::Counter;

use super::{
    facts::{Facts, Running},
    finding::{Finding, Severity, finding, ok},
};
use crate::report::{self, Tunnel};

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(running) = &facts.running else {
        return;
    };
    findings.extend(running.tunnels.iter().map(tunnel));
    findings.extend(refused(running));
    findings.extend(looped(running));
}

fn tunnel(tunnel: &Tunnel) -> Finding {
    let name = &tunnel.name;
    if !tunnel.working {
        return finding(
            "tunnel",
            Severity::Warning,
            None,
            format!(
                "tunnel {name} carries nothing: {}; what is behind it gets unicast, or another tunnel",
                tunnel.why
            ),
            "see xcast-ctl tunnels here and on the other router",
        );
    }
    let mode = tunnel.mode.as_deref().unwrap_or("?");
    let is_second_choice = mode == "udp" && tunnel.ways.iter().any(|way| way.mode == "ip");
    if is_second_choice {
        return finding(
            "tunnel",
            Severity::Warning,
            None,
            format!("tunnel {name} is carried inside UDP: the path drops IP in IP"),
            "nothing, if the path is not yours: it works; mode = \"udp\" asks no further",
        );
    }
    ok("tunnel", None, format!("tunnel {name} works: {mode}"))
}

fn refused(running: &Running) -> Option<Finding> {
    let count = total(running, Counter::TunnelRefused);
    (count > 0).then(|| {
        finding(
            "tunnel_refused",
            Severity::Warning,
            None,
            format!("{count} packets looked like a tunnel's, but had another cookie"),
            "give both routers the same key, and each the other's address as its remote; otherwise somebody forges them",
        )
    })
}

/// So many destinations without time to live are no traces any more.
const MANY_EXPIRED: u64 = 100;

/// Packets whose time to live is used up, on a router with tunnels: some left by a tunnel towards where they came from, or they are
/// many.
fn looped(running: &Running) -> Option<Finding> {
    let (hairpins, expired) = (
        total(running, Counter::TunnelHairpin),
        total(running, Counter::SkipTtl),
    );
    let turned = (hairpins > 0 && expired > 0).then(|| {
        format!(
            "{hairpins} copies left inside a tunnel by the port that their packet arrived by, and "
        )
    });
    let is_many = !running.tunnels.is_empty() && expired >= MANY_EXPIRED;
    let what = turned.or(is_many.then(String::new))?;
    Some(finding(
        "tunnel_loop",
        Severity::Warning,
        None,
        format!(
            "{what}{expired} destinations had no time to live left: some prefix may lead round in a loop of tunnels and routes"
        ),
        "see with xcast-ctl explain, here and on the other router, where destinations go that both reach through a \
             tunnel",
    ))
}

fn total(running: &Running, counter: Counter) -> u64 {
    let ports = running.stats.ports.iter();
    ports
        .map(|port| report::value(&port.counters, counter))
        .sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::testing::{facts, found, start};
    use super::*;
    use crate::report::{PortStats, Stats, TunnelWay};

    fn way(mode: &str, standing: &str) -> TunnelWay {
        TunnelWay {
            mode: mode.to_owned(),
            standing: standing.to_owned(),
            probes_sent: 1,
            probes_returned: 1,
            losses: 0,
        }
    }

    fn tunnel(mode: Option<&str>) -> Tunnel {
        Tunnel {
            name: "west".to_owned(),
            remote: [192, 0, 2, 1].into(),
            local: None,
            device: None,
            working: mode.is_some(),
            mode: mode.map(str::to_owned),
            why: "it never answered".to_owned(),
            round_trip_us: None,
            proven_ms_ago: None,
            path_mtu: None,
            mtu: None,
            ways: vec![way("ip", "silent"), way("udp", "proven")],
            destinations: Vec::new(),
        }
    }

    #[test]
    fn tunnels_that_do_not_work_or_not_as_wished() {
        let judged = |mode| {
            let mut facts = facts();
            start(&mut facts);
            if let Some(running) = &mut facts.running {
                running.tunnels = vec![tunnel(mode)];
            }
            found(&facts)
        };
        let warning = [("tunnel", Severity::Warning, None)];
        assert_eq!(judged(None), warning);
        assert_eq!(judged(Some("udp")), warning);
        assert_eq!(judged(Some("ip")), []);
    }

    #[test]
    fn forged_packets_and_loops() {
        let judged = |counts: &[(&str, u64)], tunnels: &[Tunnel]| {
            let mut facts = facts();
            start(&mut facts);
            if let Some(running) = &mut facts.running {
                let counters = counts
                    .iter()
                    .map(|(name, count)| ((*name).to_owned(), *count));
                running.stats = Stats::new(vec![PortStats {
                    name: "eth0".to_owned(),
                    slot: 8,
                    ifindex: 7,
                    counters: BTreeMap::from_iter(counters),
                    driver_drops: None,
                }]);
                running.tunnels = tunnels.to_vec();
            }
            found(&facts)
        };
        let warning = |check| (check, Severity::Warning, None);
        let turned = [
            ("tunnel_refused", 2),
            ("tunnel_hairpin", 7),
            ("skip_ttl", 3),
        ];
        assert_eq!(
            judged(&turned, &[]),
            [warning("tunnel_refused"), warning("tunnel_loop")]
        );
        // By another port than that of arrival: then it is their number. A trace is no loop, and without tunnels this is not about them.
        let works = [tunnel(Some("ip"))];
        assert_eq!(judged(&[("skip_ttl", 99)], &works), []);
        assert_eq!(
            judged(&[("skip_ttl", 100)], &works),
            [warning("tunnel_loop")]
        );
        assert_eq!(judged(&[("skip_ttl", 100)], &[]), []);
    }
}
