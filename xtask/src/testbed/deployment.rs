//! Which routers speak Xcast, and what that means for their neighbours and for hosts.

use std::{collections::BTreeSet, fmt, path::Path};

use anyhow::Result;

use super::{
    Testbed,
    plan::{Node, Plan},
    router::RouterConfig,
    topology::Role,
};

/// Which routers of a testbed speak Xcast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Deployment {
    /// All of them.
    #[default]
    All,
    /// Every other one, in the order of the topology, from the first.
    Half,
    /// None.
    None,
}

impl fmt::Display for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Half => "half",
            Self::None => "none",
        })
    }
}

impl Deployment {
    /// The routers that speak Xcast.
    pub fn routers(self, plan: &Plan) -> BTreeSet<&str> {
        let routers = plan.with_role(Role::Router).enumerate();
        routers
            .filter(|(index, _)| match self {
                Self::All => true,
                Self::Half => index % 2 == 0,
                Self::None => false,
            })
            .map(|(_, node)| node.name.as_str())
            .collect()
    }

    /// The router that a host sends Xcast packets to: the nearest one that speaks it.
    pub fn router_for<'a>(self, plan: &'a Plan, host: &str) -> Option<&'a Node> {
        nearest(plan, &self.routers(plan), host)
    }

    /// The configuration of one router: it sends Xcast packets to those of its neighbours that speak
    /// Xcast. Where all do, it is `config` as it is.
    pub fn config(self, plan: &Plan, router: &str, config: &RouterConfig) -> RouterConfig {
        match self {
            Self::All => config.clone(),
            Self::Half | Self::None => config_among(plan, &self.routers(plan), router, config),
        }
    }
}

/// The nearest of some routers to a host.
pub fn nearest<'a>(plan: &'a Plan, capable: &BTreeSet<&str>, host: &str) -> Option<&'a Node> {
    let mut seen = BTreeSet::from([host]);
    let mut here = vec![host];
    while !here.is_empty() {
        if let Some(found) = here.iter().find(|name| capable.contains(*name)) {
            return plan.node(found).ok();
        }
        let neighbours = here.iter().flat_map(|name| neighbours(plan, name));
        let new: BTreeSet<_> = neighbours.filter(|name| !seen.contains(name)).collect();
        seen.extend(&new);
        here = new.into_iter().collect();
    }
    None
}

/// The configuration of one router among some that speak Xcast: it sends lists to those of them that are its
/// neighbours, and asks nobody.
pub fn config_among(
    plan: &Plan,
    capable: &BTreeSet<&str>,
    router: &str,
    config: &RouterConfig,
) -> RouterConfig {
    let mut config = config.clone();
    let gateways = gateways(plan, capable, router);
    let value = match gateways.is_empty() {
        true => "none".into(),
        false => gateways.into(),
    };
    config.router.insert("gateways".to_owned(), value);
    config
}

fn gateways(plan: &Plan, capable: &BTreeSet<&str>, router: &str) -> Vec<String> {
    let neighbours = neighbours(plan, router);
    let nodes = plan.nodes.iter().filter(|node| {
        neighbours.contains(node.name.as_str()) && capable.contains(node.name.as_str())
    });
    let mut addresses = Vec::new();
    for interface in nodes.flat_map(|node| &node.interfaces) {
        addresses.extend(interface.address.map(|address| address.to_string()));
        addresses.extend(interface.address6.map(|address| address.to_string()));
    }
    addresses
}

impl Testbed {
    /// Has the routers of a deployment run, and no others; those that run already are stopped first.
    ///
    /// # Errors
    ///
    /// One of them does not get ready, or does not end.
    pub fn deploy(
        &mut self,
        deployment: Deployment,
        xcast_ctl: &Path,
        config: &RouterConfig,
    ) -> Result<()> {
        self.stop_routers()?;
        let names = deployment.routers(&self.plan);
        let configs = names.into_iter().map(|name| {
            let config = deployment.config(&self.plan, name, config);
            (name.to_owned(), config)
        });
        let configs = configs.collect();
        self.start_routers_with(xcast_ctl, configs)
    }
}

/// The nodes that share a segment with a node; switches are no nodes here.
pub fn neighbours<'a>(plan: &'a Plan, name: &str) -> BTreeSet<&'a str> {
    let is_switch = |name: &str| plan.node(name).is_ok_and(|node| node.role == Role::Switch);
    let beside = |name: &str| {
        let name = name.to_owned();
        let links = plan.links.iter().filter_map(move |link| {
            let [one, other] = &link.nodes;
            match (*one == name, *other == name) {
                (true, _) => Some(other.as_str()),
                (_, true) => Some(one.as_str()),
                _ => None,
            }
        });
        links.collect::<Vec<_>>()
    };
    let mut found = BTreeSet::new();
    let mut switches = BTreeSet::new();
    let mut queue = beside(name);
    while let Some(other) = queue.pop() {
        if !is_switch(other) {
            found.insert(other);
        } else if switches.insert(other) {
            queue.extend(beside(other));
        }
    }
    found.remove(name);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::{Ipv6Plan, Routing, Topology, plan};

    fn dht() -> Plan {
        let topology = Topology::dht(2).with_switch("W", "R6", "R1").unwrap();
        let ipv6 = Ipv6Plan::own_networks(plan::BASE);
        Plan::new(&topology, "x", plan::BASE, ipv6, Routing::Static).unwrap()
    }

    #[test]
    fn hosts_send_to_the_nearest_router_that_speaks_xcast() {
        let plan = dht();
        let router = |deployment: Deployment, host| {
            deployment
                .router_for(&plan, host)
                .map(|node| node.name.as_str())
        };
        assert_eq!(router(Deployment::All, "H1"), Some("R6"));
        // R6 does not speak it, R1 behind it does.
        assert_eq!(router(Deployment::Half, "H1"), Some("R1"));
        assert_eq!(router(Deployment::Half, "H3"), Some("R7"));
        assert_eq!(router(Deployment::None, "H1"), None);
    }

    #[test]
    fn routers_know_which_neighbours_speak_xcast() {
        let plan = dht();
        let config = RouterConfig::default();
        let gateways = |router| {
            let config = Deployment::Half.config(&plan, router, &config);
            config.router["gateways"].clone()
        };
        let of = |name: &str, peer: &str| {
            let interfaces = &plan.node(name).unwrap().interfaces;
            let interface = interfaces.iter().find(|other| other.peer == peer).unwrap();
            toml::Value::from(interface.address.unwrap().to_string())
        };
        let r1 = gateways("R1");
        let list = r1.as_array().unwrap();
        // R5 on the ring and R7 at the edge; not R2, nor R6 behind the switch.
        assert!(list.contains(&of("R5", "R1")) && list.contains(&of("R7", "R1")));
        assert!(!list.contains(&of("R2", "R1")) && !list.contains(&of("R6", "W")));
        assert_eq!(gateways("R9"), "none".into());
        let all = Deployment::All.config(&plan, "R1", &config);
        assert_eq!(all.router["gateways"], "all".into());
    }
}
