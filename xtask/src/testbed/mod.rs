//! Testbeds: topologies raised as network namespaces on this machine.
//!
//! A [`Topology`] says what is connected to what, a [`Plan`] who gets which name and address, and a
//! [`Testbed`] is the plan come true. Nodes are ordinary namespaces joined by veth pairs; hosts run
//! nothing special. Interfaces are set up so that nothing gets lost silently where XDP programs
//! forward (GRO on, see [`ethtool::set_gro`]), checksums are complete on the wire, and IPv6 is off,
//! to keep the links quiet.
//!
//! ```no_run
//! use xtask::testbed::{Options, Testbed, Topology};
//!
//! # fn main() -> anyhow::Result<()> {
//! let testbed = Testbed::up(&Topology::fig3(), &Options::named("my-test"))?;
//! let b = testbed.node("B")?.address.expect("hosts have addresses");
//! let output = testbed.command("A", "ping")?.args(["-c1", &b.to_string()]).output()?;
//! assert!(output.status.success());
//! # Ok(())
//! # }
//! ```

pub mod command;
pub mod deployment;
pub mod ethtool;
pub mod netns;
pub mod plan;
pub mod router;
pub mod topology;
pub mod traffic;

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use nix::{
    fcntl::{Flock, FlockArg},
    ifaddrs::getifaddrs,
    net::if_::{InterfaceFlags, if_nametoindex},
    sys::signal::Signal,
    unistd::geteuid,
};

pub use self::{
    deployment::Deployment,
    plan::{Interface, Ipv6Plan, Mac, NextHop, Node, Plan, Routing},
    router::{Router, RouterConfig},
    topology::{Role, Topology},
    traffic::Traffic,
};
use crate::process;

/// Where running testbeds are described: like the namespaces, gone after a reboot.
const STATE: &str = "/run/xcast-testbed";
const SYSCTL: &str = "/proc/sys/net";
/// How long links may take to get ready; the kernel needs up to a second.
const LINK_PATIENCE: Duration = Duration::from_secs(10);
/// How long counters must stand still before links count as silent.
const SILENCE: Duration = Duration::from_millis(300);

/// How to raise a testbed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the testbed; the topology's where none is given.
    pub instance: Option<String>,
    /// Base of the address plan.
    pub base: Ipv4Addr,
    /// How IPv6 addresses follow from those of IPv4.
    pub ipv6: Ipv6Plan,
    /// Who writes the routers' routing tables.
    pub routing: Routing,
    /// Never ask again for a link layer address once known, so that only what is sent on purpose
    /// crosses the links.
    pub quiet: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            instance: None,
            base: plan::BASE,
            ipv6: Ipv6Plan::default(),
            routing: Routing::Static,
            quiet: false,
        }
    }
}

impl Options {
    /// The usual testbed, under a name of its own.
    pub fn named(instance: &str) -> Self {
        Self {
            instance: Some(instance.to_owned()),
            ..Self::default()
        }
    }
}

/// A running testbed; taken down when dropped, unless it is to be kept.
#[derive(Debug)]
pub struct Testbed {
    plan: Plan,
    routers: BTreeMap<String, Router>,
    keep: bool,
}

impl Testbed {
    /// Raises a testbed. One of the same name, or what a killed run left of it, is taken down first.
    ///
    /// # Errors
    ///
    /// Not root, no iproute2, or the kernel refuses something; nothing stays behind then.
    pub fn up(topology: &Topology, options: &Options) -> Result<Self> {
        let instance = options.instance.as_deref().unwrap_or(topology.name());
        let plan = Plan::new(
            topology,
            instance,
            options.base,
            options.ipv6,
            options.routing,
        )?;
        require_root()?;
        let _lock = lock()?;
        take_down(instance)?;
        // From here on, whatever happens, dropping cleans up.
        let mut testbed = Self {
            plan,
            routers: BTreeMap::new(),
            keep: false,
        };
        fs::create_dir_all(testbed.directory())?;
        testbed.create_links()?;
        testbed.configure_nodes(options.quiet)?;
        testbed.wait_for_links()?;
        testbed.save()?;
        if options.quiet {
            testbed.wait_for_silence()?;
        }
        Ok(testbed)
    }

    /// The running testbed of that name, to use and to keep.
    ///
    /// # Errors
    ///
    /// There is none, or only a part of one.
    pub fn attach(instance: &str) -> Result<Self> {
        topology::check_instance(instance)?;
        let path = state_path(instance);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("no testbed `{instance}` is up; raise it with: cargo xtask testbed up TOPOLOGY --name {instance}")
        })?;
        let plan: Plan = serde_json::from_str(&text).with_context(|| {
            format!(
                "bad {}; run: cargo xtask testbed down {instance}",
                path.display()
            )
        })?;
        for node in &plan.nodes {
            if !netns::path(&node.namespace).exists() {
                bail!(
                    "testbed `{instance}` has lost namespace {}; run: cargo xtask testbed down {instance}",
                    node.namespace
                );
            }
        }
        Ok(Self {
            plan,
            routers: BTreeMap::new(),
            keep: true,
        })
    }

    /// Takes a testbed down, or what is left of it; says whether there was anything.
    ///
    /// # Errors
    ///
    /// Not root, or a namespace cannot be removed.
    pub fn down(instance: &str) -> Result<bool> {
        topology::check_instance(instance)?;
        require_root()?;
        let _lock = lock()?;
        take_down(instance)
    }

    /// The names of all testbeds, also of those that are only partly there.
    pub fn instances() -> Vec<String> {
        let saved = fs::read_dir(STATE)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                entry
                    .ok()
                    .filter(|entry| entry.path().is_dir())?
                    .file_name()
                    .into_string()
                    .ok()
            });
        let mut names: Vec<_> = netns::names()
            .iter()
            .filter_map(|namespace| Some(instance_and_node(namespace)?.0.to_owned()))
            .chain(saved)
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Leaves the testbed up when this value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// What is where.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The node of that name.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.plan.node(name)
    }

    /// The interface of a node that leads to another one; the first, if there are several.
    ///
    /// # Errors
    ///
    /// There is no such node, or no such link.
    pub fn interface(&self, node: &str, peer: &str) -> Result<&Interface> {
        let interfaces = &self.node(node)?.interfaces;
        interfaces
            .iter()
            .find(|interface| interface.peer == peer)
            .with_context(|| format!("no link joins `{node}` to `{peer}`"))
    }

    /// Runs a closure inside a node's namespace; see [`netns::enter`].
    ///
    /// # Errors
    ///
    /// There is no such node.
    pub fn in_namespace<T: Send>(
        &self,
        node: &str,
        closure: impl FnOnce() -> T + Send,
    ) -> Result<T> {
        netns::enter(&self.node(node)?.namespace, closure)
    }

    /// A command that will run in a node's namespace, with `/sys` showing that namespace.
    ///
    /// # Errors
    ///
    /// There is no such node.
    pub fn command(&self, node: &str, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.node(node)?.namespace])
            .arg(program);
        Ok(command)
    }

    /// Runs a command in a node's namespace to its end.
    ///
    /// # Errors
    ///
    /// There is no such node, or `ip` cannot be started; that the command fails is no error here.
    pub fn exec(&self, node: &str, words: &[&str]) -> Result<Output> {
        let (program, arguments) = words.split_first().context("no command given")?;
        let mut command = self.command(node, program)?;
        command.args(arguments);
        command
            .output()
            .with_context(|| format!("failed to start `{}`", process::name(&command)))
    }

    /// Starts the daemon on every router and waits until all are ready.
    ///
    /// # Errors
    ///
    /// One of them does not get ready; the message has its last words.
    pub fn start_routers(&mut self, xcast_ctl: &Path, config: &RouterConfig) -> Result<()> {
        let routers = self.plan.with_role(Role::Router);
        let configs = routers.map(|node| (node.name.clone(), config.clone()));
        self.start_routers_with(xcast_ctl, configs.collect())
    }

    /// Starts the daemon on these routers, each with a configuration of its own, and waits until all are ready.
    ///
    /// # Errors
    ///
    /// One of them does not get ready; the message has its last words.
    pub fn start_routers_with(
        &mut self,
        xcast_ctl: &Path,
        configs: Vec<(String, RouterConfig)>,
    ) -> Result<()> {
        for (name, config) in configs {
            self.spawn_router(&name, xcast_ctl, &config)?;
        }
        for router in self.routers.values_mut() {
            router.wait_ready()?;
        }
        Ok(())
    }

    /// Ends all routers' daemons that were started here.
    ///
    /// # Errors
    ///
    /// One of them does not end.
    pub fn stop_routers(&mut self) -> Result<()> {
        let running: Vec<_> = self.routers.keys().cloned().collect();
        for name in running {
            self.stop_router(&name, Signal::SIGTERM)
                .with_context(|| format!("failed to stop the router of `{name}`"))?;
        }
        Ok(())
    }

    /// Starts the daemon on one router and waits until it is ready.
    ///
    /// # Errors
    ///
    /// It does not get ready; the message has its last words.
    pub fn start_router(
        &mut self,
        node: &str,
        xcast_ctl: &Path,
        config: &RouterConfig,
    ) -> Result<()> {
        self.spawn_router(node, xcast_ctl, config)?.wait_ready()
    }

    /// The daemon that was started on a router.
    pub fn router(&self, node: &str) -> Option<&Router> {
        self.routers.get(node)
    }

    /// Ends a router's daemon with a signal and returns its exit status.
    ///
    /// # Errors
    ///
    /// None was started here, or it does not end.
    pub fn stop_router(&mut self, node: &str, signal: Signal) -> Result<ExitStatus> {
        let router = self.routers.remove(node);
        router
            .with_context(|| format!("no router was started on `{node}`"))?
            .stop(signal)
    }

    /// Where the routers' configuration files and what they print are.
    pub fn directory(&self) -> PathBuf {
        directory(&self.plan.instance)
    }

    fn spawn_router(
        &mut self,
        name: &str,
        xcast_ctl: &Path,
        config: &RouterConfig,
    ) -> Result<&mut Router> {
        if self.routers.contains_key(name) {
            bail!("a router is running on `{name}` already; stop it first");
        }
        let router = Router::start(self.node(name)?, xcast_ctl, config, &self.directory())?;
        Ok(self.routers.entry(name.to_owned()).or_insert(router))
    }

    /// Makes the namespaces, sets what new interfaces inherit, then makes the interfaces.
    fn create_links(&self) -> Result<()> {
        let nodes = &self.plan.nodes;
        let add: Vec<_> = nodes
            .iter()
            .map(|node| format!("netns add {}", node.namespace))
            .collect();
        process::ip_batch(None, &add)?;
        for node in nodes {
            netns::enter(&node.namespace, || set_sysctls(node.role))??;
        }
        let mut lines = Vec::new();
        for link in &self.plan.links {
            let mut ends = Vec::new();
            for (node, interface) in link.nodes.iter().zip(&link.interfaces) {
                let node = self.node(node)?;
                let Some(interface) = node
                    .interfaces
                    .iter()
                    .find(|other| &other.name == interface)
                else {
                    bail!("node `{}` has no interface `{interface}`", node.name);
                };
                let mtu = interface
                    .mtu
                    .map_or(String::new(), |mtu| format!(" mtu {mtu}"));
                ends.push(format!(
                    "name {} address {}{mtu} netns {}",
                    interface.name, interface.mac, node.namespace
                ));
            }
            lines.push(format!("link add {} type veth peer {}", ends[0], ends[1]));
        }
        process::ip_batch(None, &lines)
    }

    /// Waits until nothing crosses the links: IPv6 says a few things about its groups by itself, when
    /// addresses are new.
    fn wait_for_silence(&self) -> Result<()> {
        let started = Instant::now();
        let mut last = self.traffic()?;
        loop {
            thread::sleep(SILENCE);
            let now = self.traffic()?;
            // Who counts notices what never falls silent.
            if now == last || started.elapsed() > LINK_PATIENCE {
                return Ok(());
            }
            last = now;
        }
    }

    /// Gives every node its addresses and routes, all nodes at once.
    fn configure_nodes(&mut self, quiet: bool) -> Result<()> {
        let ipv6 = self.plan.ipv6;
        thread::scope(|scope| {
            let nodes = self.plan.nodes.iter_mut();
            let threads: Vec<_> = nodes
                .map(|node| scope.spawn(move || configure(node, ipv6, quiet)))
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| match thread.join() {
                    Ok(result) => result,
                    Err(payload) => std::panic::resume_unwind(payload),
                })
        })
    }

    /// The kernel reports a link as running some time after both its ends are up; daemons that start
    /// earlier would see links come and go.
    fn wait_for_links(&self) -> Result<()> {
        let started = Instant::now();
        for node in &self.plan.nodes {
            while let Some(down) = netns::enter(&node.namespace, interface_not_running)?? {
                if started.elapsed() > LINK_PATIENCE {
                    bail!(
                        "interface {down} of node `{}` does not get ready",
                        node.name
                    );
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    fn save(&self) -> Result<()> {
        let path = state_path(&self.plan.instance);
        let text = serde_json::to_string_pretty(&self.plan)?;
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for (_, router) in std::mem::take(&mut self.routers) {
            // The namespace goes anyway, and takes what is left of the router with it.
            let _ = router.stop(Signal::SIGTERM);
        }
        if let Err(error) = take_down(&self.plan.instance) {
            eprintln!(
                "xtask: failed to take testbed `{}` down: {error:#}",
                self.plan.instance
            );
        }
    }
}

fn directory(instance: &str) -> PathBuf {
    Path::new(STATE).join(instance)
}

fn state_path(instance: &str) -> PathBuf {
    directory(instance).join("testbed.json")
}

/// Keeps two commands from raising or taking down the same testbed at once.
fn lock() -> Result<Flock<fs::File>> {
    fs::create_dir_all(STATE).with_context(|| format!("failed to create {STATE}"))?;
    let path = Path::new(STATE).join("lock");
    let file =
        fs::File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("failed to lock {}", path.display()))
}

fn take_down(instance: &str) -> Result<bool> {
    let namespaces: Vec<_> = netns::names()
        .into_iter()
        .filter(|namespace| {
            instance_and_node(namespace).is_some_and(|(other, _)| other == instance)
        })
        .collect();
    netns::end_processes(&namespaces);
    let lines: Vec<_> = namespaces
        .iter()
        .map(|namespace| format!("netns del {namespace}"))
        .collect();
    process::ip_batch(None, &lines)?;
    let saved = match fs::remove_dir_all(directory(instance)) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            return Err(error)
                .with_context(|| format!("failed to remove {}", directory(instance).display()));
        }
    };
    Ok(saved || !namespaces.is_empty())
}

fn instance_and_node(namespace: &str) -> Option<(&str, &str)> {
    namespace
        .strip_prefix(plan::NAMESPACE_PREFIX)?
        .rsplit_once('-')
}

/// Sets what new interfaces of the calling thread's namespace inherit.
fn set_sysctls(role: Role) -> Result<()> {
    let mut settings = vec![
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
    ];
    if Path::new(SYSCTL).join("ipv6").exists() {
        settings.extend([
            ("ipv6/conf/all/disable_ipv6", "0"),
            ("ipv6/conf/default/disable_ipv6", "0"),
            // Addresses are there at once, and nobody is asked for others.
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            // Those of a link that goes down stay, as those of IPv4 do.
            ("ipv6/conf/all/keep_addr_on_down", "1"),
            ("ipv6/conf/default/keep_addr_on_down", "1"),
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv6/conf/default/router_solicitations", "0"),
            // What is said of groups is said at once, in milliseconds.
            ("ipv6/conf/default/mldv1_unsolicited_report_interval", "10"),
            ("ipv6/conf/default/mldv2_unsolicited_report_interval", "10"),
        ]);
        if role == Role::Router {
            settings.push(("ipv6/conf/all/forwarding", "1"));
        }
        if role == Role::Switch {
            settings.push(("ipv6/conf/all/disable_ipv6", "1"));
            settings.push(("ipv6/conf/default/disable_ipv6", "1"));
        }
    }
    if role == Role::Router {
        settings.extend([
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
        ]);
    }
    settings
        .into_iter()
        .try_for_each(|(name, value)| set_sysctl(name, value))
}

/// Has the kernel never ask again for link layer addresses behind an interface, once known.
fn keep_neighbours(interface: &str) -> Result<()> {
    for (name, value) in [
        ("base_reachable_time_ms", "3600000"),
        ("delay_first_probe_time", "3600"),
        // Since Linux 6.0: how often neighbours that the kernel keeps resolved are asked.
        ("interval_probe_time_ms", "3600000"),
    ] {
        for family in ["ipv4", "ipv6"] {
            let name = format!("{family}/neigh/{interface}/{name}");
            if Path::new(SYSCTL).join(&name).exists() {
                set_sysctl(&name, value)?;
            }
        }
    }
    Ok(())
}

/// Sets something of the calling thread's namespace.
fn set_sysctl(name: &str, value: &str) -> Result<()> {
    fs::write(Path::new(SYSCTL).join(name), value)
        .with_context(|| format!("failed to set net/{name} to {value}"))
}

fn configure(node: &mut Node, plan: Ipv6Plan, quiet: bool) -> Result<()> {
    netns::enter(&node.namespace, || {
        for interface in &mut node.interfaces {
            ethtool::set_tx_checksum(&interface.name, false)?;
            if quiet {
                keep_neighbours(&interface.name)?;
            }
            interface.index = if_nametoindex(interface.name.as_str())
                .with_context(|| format!("failed to find interface {}", interface.name))?;
        }
        Ok::<_, anyhow::Error>(())
    })?
    .with_context(|| format!("failed to configure node `{}`", node.name))?;
    let ipv6 = Path::new(SYSCTL).join("ipv6").exists();
    let mut lines = vec!["link set lo up".to_owned()];
    if let (Role::Router, Some(address)) = (node.role, node.address) {
        lines.push(format!("address add {address}/32 dev lo"));
        if ipv6 {
            lines.push(format!("address add {}/128 dev lo", plan.address(address)));
        }
    }
    if node.role == Role::Switch {
        lines.push("link add bridge up type bridge stp_state 0 mcast_snooping 0".to_owned());
    }
    for interface in &node.interfaces {
        let name = &interface.name;
        if let Some(network) = interface.network() {
            let broadcast = network.broadcast();
            lines.push(format!(
                "address add {network} broadcast {broadcast} dev {name}"
            ));
            if ipv6 {
                let network = plan.network(network)?;
                lines.push(format!("address add {network} dev {name} nodad"));
            }
        }
        if node.role == Role::Switch {
            lines.push(format!("link set {name} master bridge"));
        }
        lines.push(format!("link set {name} up"));
    }
    for route in &node.routes {
        let word = match route.next_hops.len() {
            1 => "",
            _ => "nexthop ",
        };
        let command = |to: IpNet, via: &dyn Fn(Ipv4Addr) -> IpAddr| {
            let hop =
                |hop: &NextHop| format!("{word}via {} dev {}", via(hop.gateway), hop.interface);
            let hops: Vec<_> = route.next_hops.iter().map(hop).collect();
            format!("route add {to} {}", hops.join(" "))
        };
        lines.push(command(route.destination.into(), &IpAddr::V4));
        if ipv6 {
            let destination = plan.network(route.destination)?;
            let via = |gateway| IpAddr::V6(plan.address(gateway));
            lines.push(command(destination.into(), &via));
        }
    }
    process::ip_batch(Some(&node.namespace), &lines)?;
    // Only of an interface that is up does the driver note that the other end may send to it by XDP.
    netns::enter(&node.namespace, || {
        let mut interfaces = node.interfaces.iter();
        interfaces.try_for_each(|interface| ethtool::set_gro(&interface.name, true))
    })?
}

/// An interface of the calling thread's namespace that is not running yet.
fn interface_not_running() -> Result<Option<String>> {
    let mut interfaces = getifaddrs().context("failed to list interfaces")?;
    let running = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    let waiting = interfaces.find(|interface| !interface.flags.contains(running));
    Ok(waiting.map(|interface| interface.interface_name))
}

pub(crate) fn require_root() -> Result<()> {
    if !geteuid().is_root() {
        bail!("testbeds are made of network namespaces, which need root; run this with sudo");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::instance_and_node;

    #[test]
    fn the_last_dash_separates_instance_and_node() {
        assert_eq!(instance_and_node("xc-fig3-R1"), Some(("fig3", "R1")));
        assert_eq!(instance_and_node("xc-my-own-R1"), Some(("my-own", "R1")));
        assert_eq!(instance_and_node("other-fig3-R1"), None);
        assert_eq!(instance_and_node("xc-"), None);
    }
}
