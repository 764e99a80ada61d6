//! `cargo xtask demo --uplink`: where it pays first. Twenty receivers behind one thin link, and one router that speaks Xcast at
//! its far end; the router at its near end knows nothing of it.

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::{
    messages::{Exchange, Families, Family, Outcome, Pace},
    testbed::{Options, Role, RouterConfig, Testbed, Topology, topology::Link},
};

const SOURCE: &str = "A";
const NEAR: &str = "R1";
const FAR: &str = "R2";
const RECEIVERS: usize = 20;
/// Rate of the thin link, in kbit/s.
const RATE_KBIT: u64 = 1000;
/// Messages per second, and octets of each.
const PACE: Pace = Pace {
    interval: Duration::from_millis(20),
    padding: 980,
    is_noisy: false,
};

/// What was counted.
#[derive(Debug, Serialize)]
pub(super) struct Uplink {
    receivers: usize,
    messages: u64,
    rate_kbit: u64,
    unicast: Way,
    xcast: Way,
}

/// What one way of sending needs.
#[derive(Debug, Serialize)]
struct Way {
    /// Packets that crossed the thin link.
    packets: u64,
    /// Their octets, with Ethernet headers.
    octets: u64,
    /// Rate that would be needed to lose nothing, in kbit/s.
    needed_kbit: u64,
    /// Share of the messages that arrived, in percent.
    delivered_percent: u64,
}

/// Raises the network, sends and counts.
pub(super) fn run(
    xcast_ctl: &Path,
    instance: &str,
    families: Families,
    messages: u64,
) -> Result<Uplink> {
    let hosts: Vec<String> = (1..=RECEIVERS).map(|n| format!("H{n}")).collect();
    let mut nodes = vec![(SOURCE.to_owned(), Role::Host)];
    nodes.extend(hosts.iter().map(|name| (name.clone(), Role::Host)));
    nodes.extend([NEAR, FAR].map(|name| (name.to_owned(), Role::Router)));
    let mut links = vec![Link::new(SOURCE, NEAR), Link::new(NEAR, FAR)];
    links.extend(hosts.iter().map(|name| Link::new(FAR, name)));
    let topology = Topology::new("uplink", nodes, links)?;
    let options = Options {
        quiet: true,
        ..Options::named(instance)
    };
    eprintln!("raising the network: {RECEIVERS} receivers behind one link of {RATE_KBIT} kbit/s");
    let mut testbed = Testbed::up(&topology, &options)?;
    let config = RouterConfig::default();
    testbed.start_router(FAR, xcast_ctl, &config)?;
    let uplink = testbed.interface(NEAR, FAR)?.name.clone();

    let family = match families {
        Families::Ipv6 => Family::Ipv6,
        Families::Ipv4 | Families::Both => Family::Ipv4,
    };
    let to: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let ends = [SOURCE, FAR];
    let mut exchange = Exchange::start(&testbed, xcast_ctl, &config, family, ends, &to)?;
    exchange.warm_up(&to)?;
    let rate = format!("{RATE_KBIT}kbit");
    let shape = [
        "tc", "qdisc", "add", "dev", &uplink, "root", "tbf", "rate", &rate, "burst", "16kb",
        "limit", "64kb",
    ];
    let output = testbed.exec(NEAR, &shape)?;
    if !output.status.success() {
        bail!(
            "failed to make the link thin: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    exchange.set_pace(PACE);
    eprintln!("sending {messages} messages of 1000 octets, 50 per second: one Xcast packet each");
    let xcast = exchange.by_xcast(&to, messages)?;
    eprintln!("sending them again: a unicast packet for each of {RECEIVERS} receivers");
    let unicast = exchange.by_lossy_unicast(&to, messages)?;
    Ok(Uplink {
        receivers: RECEIVERS,
        messages,
        rate_kbit: RATE_KBIT,
        unicast: Way::new(&unicast, messages),
        xcast: Way::new(&xcast, messages),
    })
}

impl Way {
    fn new(outcome: &Outcome, messages: u64) -> Self {
        // The first link is the source's own: what is sent into the thin one, lost or not.
        let offered = outcome.traffic.first().copied().unwrap_or_default();
        let crossed = outcome.traffic.get(1).copied().unwrap_or_default();
        let seconds = messages as f64 * PACE.interval.as_secs_f64();
        let arrived: u64 = outcome.inbox.values().map(|host| host.messages).sum();
        let all = messages * outcome.inbox.len() as u64;
        Self {
            packets: crossed.packets,
            octets: crossed.bytes,
            needed_kbit: (offered.bytes as f64 * 8.0 / seconds / 1000.0).round() as u64,
            delivered_percent: (100.0 * arrived as f64 / all.max(1) as f64).round() as u64,
        }
    }
}

impl Uplink {
    /// Every host got every message once by Xcast.
    pub(super) fn is_complete(&self) -> bool {
        self.xcast.delivered_percent == 100
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let row = |name: &str, way: &Way| {
            format!(
                "{name:10}{:>10}{:>12}{:>16}{:>12} %\n",
                way.packets, way.octets, way.needed_kbit, way.delivered_percent
            )
        };
        format!(
            "{} messages to {} receivers behind a link of {} kbit/s; only the router behind it speaks Xcast\n\n\
             {:10}{:>10}{:>12}{:>16}{:>14}\n{}{}",
            self.messages,
            self.receivers,
            self.rate_kbit,
            "on it",
            "packets",
            "octets",
            "kbit/s needed",
            "delivered",
            row("unicast", &self.unicast),
            row("Xcast", &self.xcast),
        )
    }
}
