//! `cargo xtask testbed`.

use std::{net::Ipv4Addr, os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::{
    Deployment, Ipv6Plan, Options, Plan, RouterConfig, Routing, Testbed, Topology, netns, plan,
    topology,
};
use crate::{build, setup};

/// Where routers of the topology `dht` take Xcast inside UDP: hosts have no router of their own.
pub const UDP_PORT: u16 = 4242;

/// Arguments of `testbed`.
#[derive(Debug, Args)]
pub struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Raise a topology
    ///
    /// Namespaces are called xc-NAME-NODE, interfaces to-PEER; the i-th link is 10.77.i.0/24, with .1
    /// and .2 at its ends; router number n is also 10.255.0.n. A testbed that is up already stays.
    #[command(after_help = "EXAMPLES:\n  \
        cargo xtask testbed up fig3\n  \
        cargo xtask testbed up lan 20 --run\n  \
        cargo xtask testbed up dht --run --xcast half\n  \
        cargo xtask testbed up dht --base 198.18.0.0\n  \
        cargo xtask testbed up office.toml --name first --routing none\n\n\
        TOPOLOGIES:\n  \
        fig3     A - R1 - R2; R2 - R4 - B; R2 - R5 - R6 - R7; R7 - C; R7 - D\n  \
        line N   A - R1 - .. - RN - B\n  \
        star N   A - R1; R1 - H1 .. R1 - HN\n  \
        lan N    A - R1; R1 and H1 .. HN on one LAN\n  \
        mesh     A - R1; R1 - R2 - R4 and R1 - R3 - R4; R4 - B; R4 - C\n  \
        dht [N]  a ring R1 .. R5, R6 .. R15 behind it, N hosts behind each of these [default: 11];\n           \
        each host in a /64 of its own\n  \
        FILE     a .toml file: hosts = [..], routers = [..], switches = [..], and per link\n           \
        [[link]] with ends = [\"A\", \"R1\"] and optionally addresses = { A = \"192.0.2.1/24\", .. }, mtu")]
    Up(Up),
    /// Take testbeds down: processes, namespaces and all
    #[command(
        after_help = "EXAMPLES:\n  cargo xtask testbed down fig3\n  cargo xtask testbed down --all"
    )]
    Down {
        /// The testbed's name
        #[arg(required_unless_present = "all")]
        name: Option<String>,
        /// All of them
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Show testbeds: namespaces, interfaces, addresses
    #[command(
        after_help = "EXAMPLES:\n  cargo xtask testbed list\n  cargo xtask testbed list --json\n\n\
        With --json, an array of {instance, topology, routing, nodes: [{name, namespace, role, address, \
        interfaces: [{name, peer, address, prefix_len, mac, mtu, index}], routes}], links: [{nodes, interfaces}]}"
    )]
    List {
        /// Only this testbed
        name: Option<String>,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print both ends of each link: what `xcast-ctl dht --compare N --links FILE` reads
    #[command(after_help = "EXAMPLE:\n  cargo xtask testbed links fig3 > links")]
    Links {
        /// The testbed's name
        name: String,
    },
    /// Run a command in a node's namespace
    #[command(
        after_help = "EXAMPLES:\n  cargo xtask testbed exec A -- ping -c1 10.77.4.2\n  \
        cargo xtask testbed exec R1 --name fig3 -- xcast-ctl stats\n\n\
        The exit status is the command's."
    )]
    Exec {
        /// The node's name, such as R1
        node: String,
        /// The testbed's name; needed only if several are up
        #[arg(long)]
        name: Option<String>,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct Up {
    /// fig3, line N, star N, lan N, mesh, dht, dht N, or the path of a .toml file
    #[arg(required = true, num_args = 1..=2)]
    topology: Vec<String>,
    /// Name of the testbed [default: the topology's]
    #[arg(long)]
    name: Option<String>,
    /// Who writes the routers' routing tables
    #[arg(long, value_enum, default_value_t)]
    routing: Routing,
    /// Base of the address plan
    #[arg(long, default_value_t = plan::BASE)]
    base: Ipv4Addr,
    /// A /64 of its own for each link: 10.77.3.0/24 is also fd77:0:a:4d03::/64, and global
    /// addresses are 2001:db8:.. . Always so for `dht`
    #[arg(long)]
    own_networks: bool,
    /// Also start the router's daemon on the routers
    #[arg(long)]
    run: bool,
    /// With --run: which routers speak Xcast; `half` is every other one
    #[arg(long, value_enum, default_value_t, requires = "run")]
    xcast: Deployment,
    /// With --run: UDP port at which routers take Xcast inside UDP [default: 4242 for dht]
    #[arg(long, requires = "run")]
    udp: Option<u16>,
    /// Print the testbed as `list --json` does
    #[arg(long)]
    json: bool,
    /// With --run: fail instead of installing what is missing
    #[arg(long)]
    no_setup: bool,
}

/// Runs `cargo xtask testbed`.
///
/// # Errors
///
/// As told by the functions of [`Testbed`].
pub fn run(command: Command) -> Result<ExitCode> {
    match command.verb {
        Verb::Up(arguments) => up(&arguments)?,
        Verb::Down { name, .. } => down(name.as_deref())?,
        Verb::List { name, json } => list(name.as_deref(), json)?,
        Verb::Links { name } => crate::print(&Testbed::attach(&name)?.plan().link_ends())?,
        Verb::Exec {
            node,
            name,
            command,
        } => exec(&node, name, &command)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(arguments: &Up) -> Result<()> {
    let topology = Topology::from_words(&arguments.topology)?;
    let is_dht = topology.name() == "dht";
    let options = Options {
        instance: arguments.name.clone(),
        base: arguments.base,
        ipv6: match arguments.own_networks || is_dht {
            true => Ipv6Plan::own_networks(arguments.base),
            false => Ipv6Plan::default(),
        },
        routing: arguments.routing,
        quiet: false,
    };
    let instance = arguments.name.as_deref().unwrap_or(topology.name());
    let wanted = Plan::new(
        &topology,
        instance,
        options.base,
        options.ipv6,
        options.routing,
    )?;
    let mut testbed = match Testbed::attach(instance) {
        Ok(testbed) if same(testbed.plan(), &wanted) => {
            eprintln!("testbed `{instance}` is up already");
            testbed
        }
        _ => {
            let testbed = Testbed::up(&topology, &options)?;
            eprintln!(
                "testbed `{instance}` is up: {} namespaces",
                testbed.plan().nodes.len()
            );
            testbed
        }
    };
    if arguments.run {
        setup::ensure(setup::Purpose::Build, arguments.no_setup)?;
        let xcast_ctl = build::xcast_ctl()?;
        let running = testbed
            .plan()
            .with_role(topology::Role::Router)
            .any(|node| netns::occupied(&node.namespace));
        if running {
            eprintln!("routers are running already");
        } else {
            let mut config = RouterConfig::default();
            let udp = arguments.udp.or(is_dht.then_some(UDP_PORT));
            config.udp = udp.map(|port| {
                [("port".to_owned(), i64::from(port).into())]
                    .into_iter()
                    .collect()
            });
            testbed.deploy(arguments.xcast, &xcast_ctl, &config)?;
            let number = arguments.xcast.routers(testbed.plan()).len();
            eprintln!(
                "{number} routers are running; they write to {}",
                testbed.directory().display()
            );
        }
    }
    testbed.keep();
    if arguments.json {
        crate::print(&serde_json::to_string_pretty(testbed.plan())?)?;
    }
    Ok(())
}

/// Whether a running testbed is what a plan asks for; interfaces have got their indices meanwhile.
fn same(running: &Plan, wanted: &Plan) -> bool {
    let mut running = running.clone();
    for interface in running
        .nodes
        .iter_mut()
        .flat_map(|node| &mut node.interfaces)
    {
        interface.index = 0;
    }
    running == *wanted
}

fn down(name: Option<&str>) -> Result<()> {
    let names = match name {
        Some(name) => vec![name.to_owned()],
        None => Testbed::instances(),
    };
    if names.is_empty() {
        eprintln!("no testbed is up");
    }
    for name in names {
        match Testbed::down(&name)? {
            true => eprintln!("testbed `{name}` is down"),
            false => eprintln!("testbed `{name}` was not up"),
        }
    }
    Ok(())
}

fn list(name: Option<&str>, json: bool) -> Result<()> {
    let mut plans = Vec::new();
    for instance in Testbed::instances() {
        if name.is_none_or(|name| name == instance) {
            match Testbed::attach(&instance) {
                Ok(testbed) => plans.push(testbed.plan().clone()),
                Err(_) => eprintln!(
                    "testbed `{instance}` is only partly there; remove it with: cargo xtask testbed down {instance}"
                ),
            }
        }
    }
    if json {
        crate::print(&serde_json::to_string_pretty(&plans)?)
    } else if plans.is_empty() {
        eprintln!("no testbed is up");
        Ok(())
    } else {
        crate::print(&plans.iter().map(table).collect::<Vec<_>>().join("\n\n"))
    }
}

fn table(plan: &Plan) -> String {
    let mut lines = vec![format!(
        "testbed {} (topology {})",
        plan.instance, plan.topology
    )];
    let width = plan
        .nodes
        .iter()
        .map(|node| node.namespace.len())
        .max()
        .unwrap_or(0);
    for node in &plan.nodes {
        let role = format!("{:?}", node.role).to_lowercase();
        let address = node
            .address
            .map(|address| address.to_string())
            .unwrap_or_default();
        lines.push(format!("  {:width$}  {role:6}  {address}", node.namespace));
        for interface in &node.interfaces {
            let network = interface
                .network()
                .map_or("-".to_owned(), |network| network.to_string());
            lines.push(format!(
                "    {:15}  {network:18}  {}",
                interface.name, interface.mac
            ));
        }
    }
    lines.join("\n")
}

fn exec(node: &str, name: Option<String>, words: &[String]) -> Result<()> {
    let name = match name {
        Some(name) => name,
        None => match &Testbed::instances()[..] {
            [only] => only.clone(),
            [] => bail!("no testbed is up; raise one with: cargo xtask testbed up fig3"),
            several => bail!(
                "several testbeds are up; choose with --name: {}",
                several.join(", ")
            ),
        },
    };
    let testbed = Testbed::attach(&name)?;
    let Some((program, arguments)) = words.split_first() else {
        bail!("no command given");
    };
    // Becomes the command: its exit status, signals and terminal are nobody else's business.
    let error = testbed.command(node, program)?.args(arguments).exec();
    bail!("failed to start `ip`: {error}")
}
