//! `cargo xtask demo --partial`: Figure 8 of RFC 5058, where most routers know nothing of Xcast, counted at each link.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde_json::json;

use crate::{
    figure8::{CAPABLE, FIGURE_9, Figure8, RECEIVERS, SOURCE, picture},
    messages::{Exchange, Family, Outcome, Pace},
};

/// How long BGP may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Messages that are more than what tunnels and BGP say meanwhile.
const LEAST_MESSAGES: u64 = 100;
/// Links inside tunnels, in the order of the topology.
const IN_TUNNELS: [usize; 5] = [1, 2, 5, 6, 7];

/// What was counted, and whether every host got every message once.
pub(super) struct Partial {
    pub(super) text: String,
    pub(super) json: serde_json::Value,
    pub(super) is_complete: bool,
}

/// Raises the network, sends and counts: by unicast, with three routers that speak Xcast, and with tunnels between these.
pub(super) fn run(
    xcast_ctl: &Path,
    instance: &str,
    families: &[Family],
    messages: u64,
) -> Result<Partial> {
    let messages = messages.max(LEAST_MESSAGES);
    eprintln!("raising the network of figure 8");
    let mut figure = Figure8::raise(instance)?;
    eprintln!("starting X1, X3 and X7, without tunnels");
    figure.start_routers(xcast_ctl)?;
    let mut counted = Vec::new();
    for &family in families {
        let exchange = exchange(&figure, xcast_ctl, family)?;
        exchange.warm_up(&RECEIVERS)?;
        eprintln!("sending {messages} messages by {}", family.name());
        let unicast = exchange.by_unicast(&RECEIVERS, messages)?;
        let premature = exchange.by_xcast(&RECEIVERS, messages)?;
        counted.push((family, vec![unicast, premature]));
    }
    eprintln!("starting them again, with tunnels and BGP between the tunnels' ends");
    figure.start_with_tunnels(xcast_ctl)?;
    for (family, outcomes) in &mut counted {
        wait_for_bgp(&figure, xcast_ctl, *family)?;
        let mut exchange = exchange(&figure, xcast_ctl, *family)?;
        exchange.warm_up(&RECEIVERS)?;
        exchange.set_pace(Pace {
            is_noisy: true,
            ..Pace::default()
        });
        outcomes.push(exchange.by_xcast(&RECEIVERS, messages)?);
    }
    let mut partial = Partial {
        text: String::new(),
        json: json!({}),
        is_complete: true,
    };
    for (family, outcomes) in &counted {
        partial.add(&figure, *family, outcomes, messages);
    }
    partial.text += &tables(&figure, xcast_ctl)?;
    Ok(partial)
}

fn exchange<'a>(figure: &'a Figure8, xcast_ctl: &'a Path, family: Family) -> Result<Exchange<'a>> {
    let ends = [SOURCE, CAPABLE[0]];
    let (testbed, config) = (&figure.testbed, &figure.config);
    Exchange::start(testbed, xcast_ctl, config, family, ends, &RECEIVERS)
}

/// Waits until the routing tables are those of figure 9.
fn wait_for_bgp(figure: &Figure8, xcast_ctl: &Path, family: Family) -> Result<()> {
    let started = Instant::now();
    loop {
        let mut missing = None;
        for (router, expected) in FIGURE_9 {
            let found = figure.next_hops(xcast_ctl, router, family)?;
            let has = |(host, via): &&(&str, &str)| {
                let mut found = found.iter();
                found.any(|(other, next)| other == host && next == via)
            };
            if !expected.iter().all(|row| has(&row)) {
                missing = Some(router);
            }
        }
        match missing {
            None => return Ok(()),
            Some(router) if started.elapsed() > PATIENCE => {
                bail!(
                    "the routing table of {router} is not that of figure 9 after {} s; see xcast-ctl tunnels there",
                    PATIENCE.as_secs()
                )
            }
            Some(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

impl Partial {
    fn add(&mut self, figure: &Figure8, family: Family, outcomes: &[Outcome], messages: u64) {
        const NAMES: [(&str, &str); 3] = [
            ("unicast", "unicast"),
            (
                "premature_x2u",
                "Xcast, and each router serves the next ones by unicast (premature X2U)",
            ),
            ("tunnels", "Xcast, and tunnels between X1, X3 and X7 (==)"),
        ];
        let mut document = serde_json::Map::new();
        self.text += &format!("{}: packets on each link per message\n", family.name());
        let mut first = 0;
        for ((key, name), outcome) in NAMES.into_iter().zip(outcomes) {
            // Tunnels and BGP say something now and then: less than once per message.
            let per_message: Vec<u64> = outcome
                .traffic
                .iter()
                .map(|link| link.packets / messages)
                .collect();
            let total: u64 = per_message.iter().sum();
            let counts: Vec<_> = per_message.iter().map(u64::to_string).collect();
            if key == "unicast" {
                first = total;
            }
            let is_tunnel = |at: usize| key == "tunnels" && IN_TUNNELS.contains(&at);
            let saved = 100.0 * (1.0 - total as f64 / first.max(1) as f64);
            self.text += &format!(
                "\n{name}: {total} in all, {saved:.0} % fewer\n\n{}\n",
                picture(&counts, is_tunnel)
            );
            let links = figure.testbed.plan().links.iter().zip(&per_message);
            let links: Vec<_> = links
                .map(|(link, packets)| {
                    let [from, to] = &link.nodes;
                    json!({"from": from, "to": to, "packets": packets})
                })
                .collect();
            document.insert(key.to_owned(), json!(links));
            self.is_complete &= outcome
                .inbox
                .values()
                .all(|host| host.messages == messages && host.repeated == 0);
        }
        self.text.push('\n');
        if let Some(all) = self.json.as_object_mut() {
            all.insert(family.name().to_lowercase(), document.into());
        }
    }
}

/// The routing tables as in figure 9.
fn tables(figure: &Figure8, xcast_ctl: &Path) -> Result<String> {
    let mut text = "Xcast routing tables, filled by BIRD (figure 9)\n\n".to_owned();
    for router in CAPABLE {
        let rows = figure.next_hops(xcast_ctl, router, Family::Ipv4)?;
        let rows = rows.iter().map(|(host, via)| format!("{host} via {via}"));
        text += &format!("  {router}  {}\n", rows.collect::<Vec<_>>().join(", "));
    }
    Ok(text)
}
