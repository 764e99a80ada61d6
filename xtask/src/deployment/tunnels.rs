//! Tunnels between routers that speak Xcast, along the ways that unicast goes, and what is in the routing tables then.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    messages::Family,
    process,
    testbed::{Plan, RouterConfig, Testbed},
};

/// The Xcast routing table, by number.
const TABLE: u32 = 100;
/// A secret for a network that nobody else is in.
const KEY: &str = "a secret of the experiment";
/// How long tunnels may take to work.
const PATIENCE: Duration = Duration::from_secs(180);
const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// Which tunnels there are, and which hosts each router reaches by them.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    /// The other ends of each router's tunnels.
    ends: BTreeMap<String, BTreeSet<String>>,
    /// By router: hosts, and the other end of the tunnel towards each.
    routes: BTreeMap<String, Vec<(String, String)>>,
}

impl Tunnels {
    /// A tunnel from each router to the next one on the way to each host, unless they are neighbours.
    pub(super) fn along(plan: &Plan, capable: &BTreeSet<&str>, hosts: &[String]) -> Result<Self> {
        let mut tunnels = Self::default();
        for &router in capable {
            for host in hosts {
                let way = way(plan, router, host)?;
                let next = way.iter().position(|name| capable.contains(name.as_str()));
                let Some(at) = next.filter(|at| *at > 0) else {
                    continue;
                };
                let other = &way[at];
                for (one, other) in [(router, other.as_str()), (other.as_str(), router)] {
                    let ends = tunnels.ends.entry(one.to_owned()).or_default();
                    ends.insert(other.to_owned());
                }
                let routes = tunnels.routes.entry(router.to_owned()).or_default();
                routes.push((host.clone(), other.clone()));
            }
        }
        Ok(tunnels)
    }

    /// A router's configuration with its tunnels.
    pub(super) fn configure(
        &self,
        plan: &Plan,
        router: &str,
        mut config: RouterConfig,
    ) -> Result<RouterConfig> {
        for other in self.ends.get(router).into_iter().flatten() {
            for family in FAMILIES {
                let address = |name: &str| -> Result<toml::Value> {
                    Ok(family.of_node(plan.node(name)?)?.to_string().into())
                };
                config.tunnel.push(toml::Table::from_iter([
                    (
                        "name".to_owned(),
                        format!("{other}-{}", family.name()).into(),
                    ),
                    ("remote".to_owned(), address(other)?),
                    ("local".to_owned(), address(router)?),
                    ("mode".to_owned(), "ip".into()),
                    ("key".to_owned(), KEY.into()),
                ]));
            }
        }
        let table = i64::from(TABLE);
        config.router.insert("xcast_table".to_owned(), table.into());
        Ok(config)
    }

    /// Fills the routing tables of routers that run, and waits until all routes in them are in use.
    pub(super) fn fill_tables(&self, testbed: &Testbed, xcast_ctl: &Path) -> Result<()> {
        for (router, routes) in &self.routes {
            let mut lines = Vec::new();
            for family in FAMILIES {
                let address =
                    |name: &str| -> Result<IpAddr> { family.of_node(testbed.node(name)?) };
                // The far ends are on a link, as far as the kernel is concerned.
                for end in self.ends.get(router).into_iter().flatten() {
                    let end = address(end)?;
                    lines.push(format!(
                        "route replace {end} dev xcast0 scope link table {TABLE}"
                    ));
                }
                for (host, other) in routes {
                    let (host, other) = (address(host)?, address(other)?);
                    lines.push(format!(
                        "route replace {host} via {other} dev xcast0 table {TABLE}"
                    ));
                }
            }
            process::ip_batch(Some(&testbed.node(router)?.namespace), &lines)?;
        }
        for (router, routes) in &self.routes {
            wait(testbed, xcast_ctl, router, FAMILIES.len() * routes.len())?;
        }
        Ok(())
    }
}

fn wait(testbed: &Testbed, xcast_ctl: &Path, router: &str, routes: usize) -> Result<()> {
    let started = Instant::now();
    loop {
        let mut command = testbed.command(router, xcast_ctl)?;
        let text = process::output(command.args(["status", "--json"]))?;
        let status: serde_json::Value = serde_json::from_str(&text)?;
        let usable = status["xcast_table"]["usable"].as_u64().unwrap_or(0);
        if usable == routes as u64 {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            bail!(
                "of {routes} routes through the tunnels of {router}, only {usable} are in use: {}",
                status["xcast_table"]
            );
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The routers that unicast crosses from a router to a host, without the first.
fn way(plan: &Plan, router: &str, host: &str) -> Result<Vec<String>> {
    let to = plan.node(host)?.address.context("a host without address")?;
    let mut way: Vec<String> = Vec::new();
    let mut here = router.to_owned();
    loop {
        let node = plan.node(&here)?;
        let route = node
            .routes
            .iter()
            .find(|route| route.destination.contains(&to));
        let next_hop = route.and_then(|route| route.next_hops.first());
        let Some(next_hop) = next_hop else {
            return Ok(way);
        };
        let interface = node.interfaces.iter();
        let interface = interface
            .into_iter()
            .find(|interface| interface.name == next_hop.interface);
        here = interface.context("no such interface")?.peer.clone();
        if way.len() > plan.nodes.len() {
            bail!("the routes from {router} to {host} go round in circles");
        }
        way.push(here.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        deployment::Network,
        testbed::{Ipv6Plan, Routing, plan},
    };

    #[test]
    fn tunnels_join_the_next_ones_on_the_way() {
        let network = Network::from_numbers(&[2, 1, 2]).unwrap();
        let topology = network.topology().unwrap();
        let plan = Plan::new(
            &topology,
            "x",
            plan::BASE,
            Ipv6Plan::default(),
            Routing::Static,
        )
        .unwrap();
        // E1, E2 behind G1 behind C1; E3, E4 behind G2 behind C2.
        assert_eq!(
            way(&plan, "E1", "H3").unwrap(),
            ["G1", "C1", "C2", "G2", "E3"]
        );
        let capable = BTreeSet::from(["E1", "C1", "C2", "E4"]);
        let tunnels = Tunnels::along(&plan, &capable, &network.host_names()).unwrap();
        let of = |router: &str| -> Vec<&str> {
            tunnels.ends[router].iter().map(String::as_str).collect()
        };
        assert_eq!(of("E1"), ["C1"]);
        // C1 and C2 are neighbours; behind C1 is E1, and nobody for H2.
        assert_eq!(of("C1"), ["E1"]);
        assert_eq!(of("C2"), ["E4"]);
        assert_eq!(tunnels.routes["C1"], [("H1".to_owned(), "E1".to_owned())]);
        let config = tunnels.configure(&plan, "C1", RouterConfig::default());
        assert_eq!(config.unwrap().tunnel.len(), 2);
    }
}
