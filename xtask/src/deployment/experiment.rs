//! Deploys more and more routers, and counts.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{
    network::{Network, Order, Random},
    report::{OfFamily, Report},
    row::{Mode, Row},
    tunnels::Tunnels,
};
use crate::{
    messages::{Exchange, Family, Outcome, Pace},
    testbed::{Options, RouterConfig, Testbed, deployment},
};

/// Name of the testbed.
const INSTANCE: &str = "deployment";

/// What is measured.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// The router's program.
    pub xcast_ctl: PathBuf,
    /// The network.
    pub network: Network,
    /// Messages of each source.
    pub messages: u64,
    /// Destinations of each message.
    pub destinations: usize,
    /// Hosts that send.
    pub sources: usize,
    /// Shares of the routers that speak Xcast, in percent.
    pub shares: Vec<u32>,
    /// How routers serve what is behind others.
    pub modes: Vec<Mode>,
    /// Chooses whatever is chosen.
    pub seed: u64,
}

/// A source, and whom it sends to.
struct Fanout {
    source: String,
    destinations: Vec<String>,
}

impl Fanout {
    fn destinations(&self) -> Vec<&str> {
        self.destinations.iter().map(String::as_str).collect()
    }
}

impl Experiment {
    /// Measures everything, and says what it is at.
    ///
    /// # Errors
    ///
    /// The network cannot be raised, or a router does not start.
    pub fn run(&self, families: &[Family], say: impl Fn(&str)) -> Result<Report> {
        let topology = self.network.topology()?;
        let options = Options {
            quiet: true,
            ..Options::named(&format!("{INSTANCE}-{}", std::process::id()))
        };
        say(&format!(
            "raising {} routers and {} hosts",
            self.network.routers(),
            self.network.hosts()
        ));
        let mut testbed = Testbed::up(&topology, &options)?;
        let fanouts = self.fanouts();
        let mut by_family = Vec::new();
        for &family in families {
            say(&format!("counting unicast by {}", family.name()));
            let unicast = self.count_unicast(&testbed, family, &fanouts)?;
            by_family.push((family, unicast, Vec::new()));
        }
        for order in [Order::Random, Order::CoreFirst] {
            let routers = self
                .network
                .routers_in(order, &mut Random(self.seed.wrapping_add(1)));
            for &share in &self.shares {
                let count = (routers.len() * share as usize).div_ceil(100);
                let capable: BTreeSet<&str> = routers[..count].iter().map(String::as_str).collect();
                for &mode in &self.modes {
                    say(&format!(
                        "{share} % ({order}, {mode}): starting {count} routers"
                    ));
                    self.deploy(&mut testbed, &capable, mode)?;
                    for (family, unicast, rows) in &mut by_family {
                        let (packets, complete) =
                            self.count_xcast(&testbed, *family, &fanouts, &capable, mode)?;
                        rows.push(Row {
                            mode,
                            order,
                            share,
                            routers: count,
                            packets,
                            saved_percent: saved_percent(packets, *unicast),
                            complete,
                        });
                    }
                }
            }
        }
        Ok(Report {
            routers: self.network.routers(),
            hosts: self.network.hosts(),
            links: topology.links().len(),
            destinations: self.destinations,
            messages: self.messages * fanouts.len() as u64,
            families: by_family
                .into_iter()
                .map(|(family, unicast, rows)| {
                    (family.name().to_lowercase(), OfFamily { unicast, rows })
                })
                .collect(),
        })
    }

    /// Who sends to whom.
    fn fanouts(&self) -> Vec<Fanout> {
        let mut random = Random(self.seed);
        let mut hosts = self.network.host_names();
        let fanouts = (0..self.sources.min(hosts.len())).map(|_| {
            random.shuffle(&mut hosts);
            let mut chosen = hosts.iter().take(self.destinations + 1).cloned();
            Fanout {
                source: chosen.next().unwrap_or_default(),
                destinations: chosen.collect(),
            }
        });
        fanouts.collect()
    }

    /// Has these routers run, and no others.
    fn deploy(&self, testbed: &mut Testbed, capable: &BTreeSet<&str>, mode: Mode) -> Result<()> {
        testbed.stop_routers()?;
        let plan = testbed.plan();
        let tunnels = match mode {
            Mode::PrematureX2u => None,
            Mode::Tunnels => {
                let hosts = self.network.host_names();
                Some(Tunnels::along(plan, capable, &hosts)?)
            }
        };
        let mut configs = Vec::new();
        for name in capable {
            let config = RouterConfig::default();
            let config = deployment::config_among(plan, capable, name, &config);
            let config = match &tunnels {
                Some(tunnels) => tunnels.configure(plan, name, config)?,
                None => config,
            };
            configs.push(((*name).to_owned(), config));
        }
        testbed.start_routers_with(&self.xcast_ctl, configs)?;
        match tunnels {
            Some(tunnels) => tunnels.fill_tables(testbed, &self.xcast_ctl),
            None => Ok(()),
        }
    }

    fn count_unicast(&self, testbed: &Testbed, family: Family, fanouts: &[Fanout]) -> Result<u64> {
        let config = RouterConfig::default();
        let mut total = 0;
        for fanout in fanouts {
            let to = fanout.destinations();
            let ends = [fanout.source.as_str(), ""];
            let exchange = Exchange::start(testbed, &self.xcast_ctl, &config, family, ends, &to)?;
            exchange.by_unicast(&to, 1)?;
            total += packets(&exchange.by_unicast(&to, self.messages)?, self.messages);
        }
        Ok(total)
    }

    /// Link transmissions, and whether everybody got everything once.
    fn count_xcast(
        &self,
        testbed: &Testbed,
        family: Family,
        fanouts: &[Fanout],
        capable: &BTreeSet<&str>,
        mode: Mode,
    ) -> Result<(u64, bool)> {
        let config = RouterConfig::default();
        let (mut total, mut complete) = (0, true);
        for fanout in fanouts {
            let to = fanout.destinations();
            let router = deployment::nearest(testbed.plan(), capable, &fanout.source);
            let router = &router.context("no router speaks Xcast")?.name;
            let ends = [fanout.source.as_str(), router];
            let mut exchange =
                Exchange::start(testbed, &self.xcast_ctl, &config, family, ends, &to)?;
            exchange.warm_up(&to)?;
            exchange.set_pace(Pace {
                is_noisy: mode == Mode::Tunnels,
                ..Pace::default()
            });
            let outcome = exchange.by_xcast(&to, self.messages)?;
            total += packets(&outcome, self.messages);
            complete &= outcome
                .inbox
                .values()
                .all(|delivery| delivery.messages == self.messages && delivery.repeated == 0);
        }
        Ok((total, complete))
    }
}

/// Link transmissions of the messages. Every one takes the same way, so what is left over is something else: what tunnels
/// say to each other.
fn packets(outcome: &Outcome, messages: u64) -> u64 {
    let links = outcome.traffic.iter();
    links.map(|link| link.packets / messages * messages).sum()
}

fn saved_percent(packets: u64, unicast: u64) -> i64 {
    let (packets, unicast) = (packets as f64, unicast as f64);
    (100.0 * (1.0 - packets / unicast)).round() as i64
}
