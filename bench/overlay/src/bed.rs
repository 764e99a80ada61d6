//! The network: testbed, addresses, and how hosts reach their first router.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use xcast_host::{CodePoints, Ipv6CodePoints, RouterAddresses, Uplink};
use xcast_overlay::krpc::Family;
use xtask::testbed::{
    Deployment, Ipv6Plan, Options, Role, RouterConfig, Testbed, Topology, command::UDP_PORT,
};

/// The port of every node.
pub const PORT: u16 = 6881;
/// How long anything may take that should take seconds.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What network to raise.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The router's program.
    pub xcast_ctl: PathBuf,
    /// Name of the testbed.
    pub instance: String,
    /// Routers of the ring in the middle.
    pub ring: usize,
    /// Edge routers behind each of these.
    pub edges: usize,
    /// Hosts behind each edge router.
    pub hosts: usize,
    /// Family of the overlay's messages.
    pub family: Family,
    /// Base of the address plan.
    pub base: Ipv4Addr,
}

impl Setup {
    /// The topology.
    pub fn topology(&self) -> Topology {
        Topology::ring_with_edges(self.ring, self.edges, self.hosts)
    }

    /// A link in the middle: between two routers of the ring, or between the only one and an edge
    /// router that the first host is not behind.
    pub fn middle_link(&self) -> [String; 2] {
        let other = match self.ring {
            1 => 3,
            _ => 2,
        };
        [1, other].map(|number| format!("R{number}"))
    }
}

/// A network that is up.
#[derive(Debug)]
pub struct Bed {
    /// The testbed.
    pub testbed: Testbed,
    setup: Setup,
    deployment: Deployment,
}

impl Bed {
    /// Raises [`Setup::topology`]; no router speaks Xcast yet.
    ///
    /// # Errors
    ///
    /// Not root, or the kernel refuses something.
    pub fn up(setup: &Setup) -> Result<Self> {
        Self::with(setup, setup.topology())
    }

    /// Raises a topology of this kind.
    ///
    /// # Errors
    ///
    /// As [`up`](Self::up).
    pub fn with(setup: &Setup, topology: Topology) -> Result<Self> {
        let started = Instant::now();
        let options = Options {
            base: setup.base,
            ipv6: Ipv6Plan::own_networks(setup.base),
            quiet: true,
            ..Options::named(&setup.instance)
        };
        let testbed = Testbed::up(&topology, &options)?;
        crate::progress(format!(
            "network of {} namespaces: {:.1} s",
            testbed.plan().nodes.len(),
            started.elapsed().as_secs_f64()
        ));
        Ok(Self {
            testbed,
            setup: setup.clone(),
            deployment: Deployment::None,
        })
    }

    /// What was asked for.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Has these routers speak Xcast, and no others.
    ///
    /// # Errors
    ///
    /// One of them does not get ready.
    pub fn deploy(&mut self, deployment: Deployment) -> Result<()> {
        self.deploy_with(deployment, &router_config())
    }

    /// The same with another configuration than [`router_config`].
    ///
    /// # Errors
    ///
    /// One of them does not get ready.
    pub fn deploy_with(&mut self, deployment: Deployment, config: &RouterConfig) -> Result<()> {
        let started = Instant::now();
        self.testbed
            .deploy(deployment, &self.setup.xcast_ctl, config)?;
        self.deployment = deployment;
        crate::progress(format!(
            "routers that speak Xcast: {} ({:.1} s)",
            deployment.routers(self.testbed.plan()).len(),
            started.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// Which routers speak Xcast.
    pub fn deployment(&self) -> Deployment {
        self.deployment
    }

    /// The names of all hosts.
    pub fn hosts(&self) -> Vec<String> {
        let hosts = self.testbed.plan().with_role(Role::Host);
        hosts.map(|node| node.name.clone()).collect()
    }

    /// A host's address, of the overlay's family.
    ///
    /// # Errors
    ///
    /// There is no such host.
    pub fn address(&self, host: &str) -> Result<IpAddr> {
        let node = self.testbed.node(host)?;
        let address = match self.setup.family {
            Family::Ipv4 => node.address.map(IpAddr::from),
            Family::Ipv6 => node.address6.map(IpAddr::from),
        };
        address.with_context(|| format!("{host} has no address"))
    }

    /// The address of a host's node.
    ///
    /// # Errors
    ///
    /// There is no such host.
    pub fn node_address(&self, host: &str) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.address(host)?, PORT))
    }

    /// The namespace of a node of the testbed.
    ///
    /// # Errors
    ///
    /// There is no such node.
    pub fn namespace(&self, node: &str) -> Result<&str> {
        Ok(&self.testbed.node(node)?.namespace)
    }

    /// How a host sends Xcast packets: inside UDP, to the nearest router that speaks Xcast.
    ///
    /// # Errors
    ///
    /// The code points are unusable.
    pub fn uplink(&self, host: &str) -> Result<Uplink> {
        let Some(router) = self.deployment.router_for(self.testbed.plan(), host) else {
            return Ok(Uplink::Unicast);
        };
        let addresses = RouterAddresses {
            ipv4: router.address.map(|ip| SocketAddrV4::new(ip, UDP_PORT)),
            ipv6: router
                .address6
                .map(|ip| SocketAddrV6::new(ip, UDP_PORT, 0, 0)),
        };
        Ok(Uplink::udp(code_points()?, addresses))
    }

    /// The router next to a host.
    ///
    /// # Errors
    ///
    /// The host has no link.
    pub fn first_router(&self, host: &str) -> Result<&str> {
        let first = Deployment::All.router_for(self.testbed.plan(), host);
        Ok(&first.with_context(|| format!("{host} has no router"))?.name)
    }
}

/// The configuration of the routers: Xcast inside UDP is taken, and no limit is in the way of an
/// experiment.
pub fn router_config() -> RouterConfig {
    let mut config = RouterConfig::default();
    let port = ("port".to_owned(), i64::from(UDP_PORT).into());
    config.udp = Some([port].into_iter().collect());
    config
}

/// The code points of the testbed's routers.
///
/// # Errors
///
/// They are unusable.
pub fn code_points() -> Result<CodePoints> {
    let given = RouterConfig::default().code_points;
    let ipv6 = Ipv6CodePoints {
        group: given.group6,
        routing_type: given.routing_type,
        ports_option: given.ports_option,
    };
    Ok(CodePoints::new(given.protocol, given.group)?.with_ipv6(ipv6)?)
}
