//! The network, and what runs in it.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::{
    bird::Birds,
    plan::{CAPABLE, KEY, LINKS, PLAIN, SOURCE, TABLE, UDP_PORT, neighbours},
};
use crate::{
    messages::Family,
    process,
    testbed::{Options, Role, RouterConfig, Testbed, Topology, topology::Link},
};

/// The network, up and running.
pub struct Figure8 {
    /// Its nodes.
    pub testbed: Testbed,
    /// What all routers have in common.
    pub config: RouterConfig,
    birds: Option<Birds>,
}

impl Figure8 {
    /// Raises the network. No router speaks Xcast yet; those that never do drop what comes from the wrong side.
    ///
    /// # Errors
    ///
    /// Not root, or the kernel refuses something.
    pub fn raise(instance: &str) -> Result<Self> {
        let mut nodes: Vec<_> = [SOURCE, "B", "C", "D"]
            .map(|name| (name.to_owned(), Role::Host))
            .into();
        let routers = ["X1", "R2", "X3", "R4", "R5", "R6", "X7", "R8", "R9"];
        nodes.extend(routers.map(|name| (name.to_owned(), Role::Router)));
        let links = LINKS.map(|(one, other)| Link::new(one, other));
        let topology = Topology::new("figure8", nodes, links.into())?;
        let options = Options {
            quiet: true,
            ..Options::named(instance)
        };
        let testbed = Testbed::up(&topology, &options)?;
        for router in PLAIN {
            set(&testbed, router, "net.ipv4.conf.all.rp_filter=1")?;
        }
        let mut config = RouterConfig::default();
        // Nobody beside a router speaks Xcast, and nobody is asked: only messages are to be counted.
        config.router.insert("gateways".to_owned(), "none".into());
        Ok(Self {
            testbed,
            config,
            birds: None,
        })
    }

    /// Has X1, X3 and X7 speak Xcast, without tunnels.
    ///
    /// # Errors
    ///
    /// One of them does not start.
    pub fn start_routers(&mut self, xcast_ctl: &Path) -> Result<()> {
        self.birds = None;
        self.testbed.stop_routers()?;
        let configs = CAPABLE.map(|name| (name.to_owned(), self.config.clone()));
        self.testbed.start_routers_with(xcast_ctl, configs.into())
    }

    /// The same with tunnels X1 - X3 and X3 - X7, whose ends are neighbours in BGP: BIRD writes what it learns into each
    /// one's Xcast routing table.
    ///
    /// # Errors
    ///
    /// A router or BIRD does not start.
    pub fn start_with_tunnels(&mut self, xcast_ctl: &Path) -> Result<()> {
        self.birds = None;
        self.testbed.stop_routers()?;
        let mut configs = Vec::new();
        for name in CAPABLE {
            let mut config = self.config.clone();
            config
                .router
                .insert("xcast_table".to_owned(), i64::from(TABLE).into());
            let port = toml::Table::from_iter([("port".to_owned(), UDP_PORT.into())]);
            config.udp = Some(port);
            for other in neighbours(name) {
                for family in [Family::Ipv4, Family::Ipv6] {
                    config.tunnel.push(self.tunnel(name, other, family)?);
                }
            }
            configs.push((name.to_owned(), config));
        }
        self.testbed.start_routers_with(xcast_ctl, configs)?;
        for name in CAPABLE {
            // The far ends are gateways in the table: on a link, as far as the kernel is concerned.
            let namespace = &self.testbed.node(name)?.namespace;
            let ends = neighbours(name).into_iter().flat_map(|other| {
                let node = self.testbed.node(other);
                [Family::Ipv4, Family::Ipv6]
                    .map(move |family| family.of_node(node.as_ref().ok()?).ok())
            });
            let lines: Vec<_> = ends
                .flatten()
                .map(|end| format!("route replace {end} dev xcast0 scope link table {TABLE}"))
                .collect();
            process::ip_batch(Some(namespace), &lines)?;
        }
        self.birds = Some(Birds::start(&self.testbed)?);
        Ok(())
    }

    /// Ends BIRD on one router, as if it had crashed; its neighbours find that out.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn end_bird(&mut self, router: &str) -> Result<()> {
        match &mut self.birds {
            Some(birds) => birds.end(router),
            None => bail!("BIRD does not run"),
        }
    }

    /// The routes of a router's route map that its Xcast routing table decides about, as `xcast-ctl routes --json` has them.
    ///
    /// # Errors
    ///
    /// The router does not answer.
    pub fn routes(&self, xcast_ctl: &Path, router: &str) -> Result<Vec<serde_json::Value>> {
        let mut command = self.testbed.command(router, xcast_ctl)?;
        let text = process::output(command.args(["routes", "--json"]))?;
        let rows: Vec<serde_json::Value> = serde_json::from_str(&text)?;
        let is_ours = |row: &serde_json::Value| row["table"] == TABLE;
        Ok(rows.into_iter().filter(is_ours).collect())
    }

    /// Figure 9: whom each router sends lists to for each host, by name. Empty for hosts that the kernel's table decides about.
    ///
    /// # Errors
    ///
    /// A router does not answer.
    pub fn next_hops(
        &self,
        xcast_ctl: &Path,
        router: &str,
        family: Family,
    ) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        let rows = self.routes(xcast_ctl, router)?;
        for host in [SOURCE, "B", "C", "D"] {
            let address = family.of_node(self.testbed.node(host)?)?;
            let row = rows.iter().find(|row| {
                let prefix = row["prefix"].as_str().unwrap_or_default();
                prefix
                    .parse::<ipnet::IpNet>()
                    .is_ok_and(|prefix| prefix.contains(&address))
            });
            let via = row.and_then(|row| row["via"].as_str());
            let Some(via) = via else { continue };
            for other in CAPABLE {
                if family.of_node(self.testbed.node(other)?)?.to_string() == via {
                    found.push((host.to_owned(), other.to_owned()));
                }
            }
        }
        Ok(found)
    }

    fn tunnel(&self, router: &str, other: &str, family: Family) -> Result<toml::Table> {
        let end = |name| -> Result<toml::Value> {
            Ok(family.of_node(self.testbed.node(name)?)?.to_string().into())
        };
        Ok(toml::Table::from_iter([
            (
                "name".to_owned(),
                format!("{other}-{}", family.name()).into(),
            ),
            ("remote".to_owned(), end(other)?),
            ("local".to_owned(), end(router)?),
            ("key".to_owned(), KEY.into()),
        ]))
    }
}

fn set(testbed: &Testbed, node: &str, setting: &str) -> Result<()> {
    let output = testbed.exec(node, &["sysctl", "-qw", setting])?;
    if !output.status.success() {
        return Err(anyhow::anyhow!(
            "{}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
        .with_context(|| format!("failed to set {setting} on {node}"));
    }
    Ok(())
}
