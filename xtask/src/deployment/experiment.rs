//! Deploys more and more routers, and counts.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{
    network::{Network, Order, Random},
    report::{OfFamily, Report},
    row::{Mode, Row},
};
use crate::{
    messages::{Exchange, Family, Outcome},
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
                say(&format!("{share} % ({order}): starting {count} routers"));
                let capable: BTreeSet<&str> = routers[..count].iter().map(String::as_str).collect();
                self.deploy(&mut testbed, &capable)?;
                for (family, unicast, rows) in &mut by_family {
                    let (packets, complete) =
                        self.count_xcast(&testbed, *family, &fanouts, &capable)?;
                    rows.push(Row {
                        mode: Mode::PrematureX2u,
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
    fn deploy(&self, testbed: &mut Testbed, capable: &BTreeSet<&str>) -> Result<()> {
        testbed.stop_routers()?;
        let config = RouterConfig::default();
        let configs = capable.iter().map(|name| {
            let config = deployment::config_among(testbed.plan(), capable, name, &config);
            ((*name).to_owned(), config)
        });
        let configs = configs.collect();
        testbed.start_routers_with(&self.xcast_ctl, configs)
    }

    fn count_unicast(&self, testbed: &Testbed, family: Family, fanouts: &[Fanout]) -> Result<u64> {
        let config = RouterConfig::default();
        let mut total = 0;
        for fanout in fanouts {
            let to = fanout.destinations();
            let ends = [fanout.source.as_str(), ""];
            let exchange = Exchange::start(testbed, &self.xcast_ctl, &config, family, ends, &to)?;
            exchange.by_unicast(&to, 1)?;
            total += packets(&exchange.by_unicast(&to, self.messages)?);
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
    ) -> Result<(u64, bool)> {
        let config = RouterConfig::default();
        let (mut total, mut complete) = (0, true);
        for fanout in fanouts {
            let to = fanout.destinations();
            let router = deployment::nearest(testbed.plan(), capable, &fanout.source);
            let router = &router.context("no router speaks Xcast")?.name;
            let ends = [fanout.source.as_str(), router];
            let exchange = Exchange::start(testbed, &self.xcast_ctl, &config, family, ends, &to)?;
            exchange.warm_up(&to)?;
            let outcome = exchange.by_xcast(&to, self.messages)?;
            total += packets(&outcome);
            complete &= outcome
                .inbox
                .values()
                .all(|delivery| delivery.messages == self.messages && delivery.repeated == 0);
        }
        Ok((total, complete))
    }
}

fn packets(outcome: &Outcome) -> u64 {
    outcome.traffic.iter().map(|link| link.packets).sum()
}

fn saved_percent(packets: u64, unicast: u64) -> i64 {
    let (packets, unicast) = (packets as f64, unicast as f64);
    (100.0 * (1.0 - packets / unicast)).round() as i64
}
