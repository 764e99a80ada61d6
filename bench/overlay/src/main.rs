//! `xcast-overlay-bench`: see `cargo xtask dht --help` and `cargo xtask tree --help`.

use std::{
    fmt,
    io::{self, Write as _},
    net::Ipv4Addr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::{Parser, Subcommand, builder::PossibleValuesParser};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use xcast_overlay::krpc::Family;
use xcast_overlay_bench::{
    bed::Setup, churn, combining, implosion, lists, losses, members, operations, reflection,
    together, tree,
};
use xtask::testbed::{Deployment, plan, topology::HOSTS_PER_EDGE};

/// Overlays of real nodes on a network of namespaces: a DHT's costs by link, losses, implosion,
/// reflection, churn; a multicast tree; all protocols at once
///
/// Raises a testbed of its own (15 routers, `testbed up dht`), runs one experiment, prints a table, and
/// takes everything down. Needs root.
///
/// EXIT STATUS: 0 done, 1 answers by Xcast are not those by unicast, or links not crossed by what was sent, 2 error.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask dht",
    bin_name = "cargo xtask dht",
    disable_help_subcommand = true,
    after_help = "EXAMPLES:\n  \
        cargo xtask dht operations\n  \
        cargo xtask dht operations --ipv6 --json\n  \
        cargo xtask dht losses --lookups 500\n  \
        cargo xtask dht lists --overlay Meridian --overlay CAN\n  \
        cargo xtask dht combining --base 198.18.0.0\n  \
        cargo xtask tree --degree 10 --ipv6"
)]
struct Cli {
    #[command(subcommand)]
    experiment: Experiment,
    /// The router's program
    #[arg(long, env = "XCAST_CTL", global = true, default_value = "xcast-ctl")]
    xcast_ctl: PathBuf,
    /// Hosts behind each of the ten edge routers
    #[arg(long, global = true)]
    hosts: Option<usize>,
    /// The overlay's messages are of IPv6
    #[arg(long, global = true)]
    ipv6: bool,
    /// Base of the address plan; with 198.18.0.0, identifiers are checked against addresses (BEP 42),
    /// which private addresses are exempt from
    #[arg(long, global = true, default_value_t = plan::BASE)]
    base: Ipv4Addr,
    /// Name of the testbed
    #[arg(long, global = true, default_value = "dht-bench")]
    name: String,
    /// Print one JSON document instead of a table
    #[arg(long, global = true)]
    json: bool,
}

/// So that there are 210 of them behind the ten edge routers.
const MEMBERS_PER_EDGE: usize = 21;

#[derive(Debug, Subcommand)]
enum Experiment {
    /// Every operation by unicast and by Xcast: same answers, and what crosses each link
    Operations {
        /// How many clients ask, each behind another edge router
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=10))]
        clients: u8,
        /// Requests in a round
        #[arg(long, value_delimiter = ',', default_values_t = [3, 20])]
        alpha: Vec<usize>,
        /// Which routers speak Xcast, in turn
        #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Deployment::All, Deployment::Half])]
        xcast: Vec<Deployment>,
    },
    /// What a member of an overlay says to all others: join, leave, states, tables, events
    Members {
        /// Which routers speak Xcast, in turn
        #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Deployment::All, Deployment::Half])]
        xcast: Vec<Deployment>,
    },
    /// What the lists of each overlay save on all links, against the same messages by unicast
    ///
    /// Nodes of one overlay at a time, one on each host, do what the overlay is for, as in `cargo xtask simulate
    /// lists`. Then the same messages are sent again as datagrams, and counted by the same interfaces. All
    /// overlays take three quarters of an hour, of which Accordion takes seven minutes.
    #[command(after_help = "EXAMPLES:\n  \
        cargo xtask dht lists --overlay flooding --operations 50\n  \
        cargo xtask dht lists --ipv6 --json")]
    Lists {
        /// Only this overlay; may be given several times
        #[arg(long, value_parser = PossibleValuesParser::new(lists::Overlay::ALL.map(lists::Overlay::name)))]
        overlay: Vec<String>,
        /// What its nodes are asked to do, one after the other, five a second
        #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
        operations: u32,
        /// Nodes that go meanwhile, each replaced on a host that is kept free for that
        #[arg(long, default_value_t = 8)]
        changes: usize,
        /// How long nodes have time before it begins, in seconds; by default what the overlay needs
        #[arg(long)]
        settle: Option<u64>,
        /// Which routers speak Xcast
        #[arg(long, value_enum, default_value_t = Deployment::All)]
        xcast: Deployment,
    },
    /// How often messages of different operations share a packet, by d_q
    Combining {
        /// Operations of a kind at the same time
        #[arg(long, default_value_t = 20)]
        parallel: usize,
        /// Such batches
        #[arg(long, default_value_t = 5)]
        batches: usize,
        /// d_q in milliseconds
        #[arg(long, value_delimiter = ',', default_values_t = [0, 1, 5, 20])]
        delay: Vec<u64>,
    },
    /// Look-ups where packets are lost: on the first link, in the middle, at the leaves
    Losses {
        /// Look-ups in each row
        #[arg(long, default_value_t = 300)]
        lookups: usize,
        /// Requests in a round
        #[arg(long, default_value_t = 3)]
        alpha: usize,
        /// Lost packets in percent
        #[arg(long, value_delimiter = ',', default_values_t = [0.0, 1.0, 5.0])]
        loss: Vec<f64>,
    },
    /// Many answers at one moment into a slow access link
    Implosion {
        /// How many answer
        #[arg(long, value_delimiter = ',', default_values_t = [20, 50, 127])]
        crowd: Vec<usize>,
        /// Rate of the access link in Mbit/s
        #[arg(long, default_value_t = 10)]
        rate: u32,
        /// What its queue holds, in octets
        #[arg(long, default_value_t = 32_768)]
        queue: u32,
        /// How often each row is repeated
        #[arg(long, default_value_t = 5)]
        repeats: usize,
    },
    /// One packet with a forged source to 127 nodes
    Reflection,
    /// A multicast tree of at least 200 members: what its stream costs, and who dies in it
    ///
    /// Also `cargo xtask tree`.
    Tree {
        /// Messages of the stream whose packets are counted
        #[arg(long, default_value_t = 100)]
        messages: usize,
        /// Their length in octets
        #[arg(long, default_value_t = 900, value_parser = clap::value_parser!(u16).range(8..=1200))]
        payload: u16,
        /// Most children of a member; one packet goes to all of them
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=50))]
        degree: u8,
        /// Messages of the stream while members die
        #[arg(long, default_value_t = 400)]
        live_messages: usize,
        /// Inner members that die
        #[arg(long, default_value_t = 5)]
        killed: usize,
        /// Which routers speak Xcast, in turn; with none, all is unicast
        #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Deployment::None, Deployment::All, Deployment::Half])]
        xcast: Vec<Deployment>,
    },
    /// All protocols in one process at the same time
    Together {
        /// Which routers speak Xcast
        #[arg(long, value_enum, default_value_t = Deployment::All)]
        xcast: Deployment,
    },
    /// Look-ups while nodes die
    Churn {
        /// Look-ups in each row
        #[arg(long, default_value_t = 100)]
        lookups: usize,
        /// Requests in a round
        #[arg(long, default_value_t = 3)]
        alpha: usize,
        /// Nodes that die at once, in percent
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u8).range(0..=90))]
        percent: u8,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(differences) if differences.is_empty() => ExitCode::SUCCESS,
        Ok(differences) => {
            for difference in differences {
                eprintln!("dht: {difference}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("dht: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Every node needs some files, and the usual limit is 1024.
fn allow_many_files() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Who may not do that hears of it when there are too many.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Runs the experiment: what by Xcast was not as by unicast, and should be.
fn run(cli: Cli) -> Result<Vec<String>> {
    allow_many_files();
    let setup = |hosts| Setup {
        xcast_ctl: cli.xcast_ctl.clone(),
        instance: cli.name.clone(),
        ring: 5,
        edges: 2,
        hosts: cli.hosts.unwrap_or(hosts),
        family: match cli.ipv6 {
            true => Family::Ipv6,
            false => Family::Ipv4,
        },
        base: cli.base,
    };
    let json = cli.json;
    let done = match cli.experiment {
        Experiment::Operations {
            clients,
            alpha: alphas,
            xcast: deployments,
        } => {
            let arguments = operations::Arguments {
                clients: clients.into(),
                alphas,
                deployments,
            };
            let outcome = operations::run(&setup(HOSTS_PER_EDGE), &arguments)?;
            print(&outcome, json)?;
            return Ok(outcome.differences());
        }
        // Twenty members.
        Experiment::Members { xcast } => {
            let outcome = members::run(&setup(2), &xcast)?;
            print(&outcome, json)?;
            return Ok(outcome.differences());
        }
        Experiment::Lists {
            overlay: names,
            operations,
            changes,
            settle,
            xcast: deployment,
        } => {
            let is_wanted = |overlay: &lists::Overlay| {
                names.is_empty() || names.iter().any(|name| name == overlay.name())
            };
            let arguments = lists::Arguments {
                overlays: lists::Overlay::ALL.into_iter().filter(is_wanted).collect(),
                work: lists::Work {
                    operations: operations as usize,
                    changes,
                    settle: settle.map(Duration::from_secs),
                },
                deployment,
            };
            let outcome = lists::run(&setup(HOSTS_PER_EDGE), &arguments)?;
            print(&outcome, json)?;
            return Ok(outcome.differences());
        }
        Experiment::Combining {
            parallel,
            batches,
            delay: delays_ms,
        } => {
            let arguments = combining::Arguments {
                parallel,
                batches,
                delays_ms,
            };
            print(&combining::run(&setup(HOSTS_PER_EDGE), &arguments)?, json)
        }
        Experiment::Losses {
            lookups,
            alpha,
            loss: percents,
        } => {
            let arguments = losses::Arguments {
                lookups,
                alpha,
                percents,
            };
            print(&losses::run(&setup(HOSTS_PER_EDGE), &arguments)?, json)
        }
        Experiment::Implosion {
            crowd: crowds,
            rate: rate_mbit,
            queue: queue_octets,
            repeats,
        } => {
            let arguments = implosion::Arguments {
                crowds,
                rate_mbit,
                queue_octets,
                repeats,
            };
            print(&implosion::run(&setup(HOSTS_PER_EDGE), &arguments)?, json)
        }
        Experiment::Tree {
            messages,
            payload,
            degree,
            live_messages,
            killed,
            xcast: deployments,
        } => {
            let arguments = tree::Arguments {
                messages,
                payload: payload.into(),
                degree: degree.into(),
                live_messages,
                killed,
                deployments,
            };
            print(&tree::run(&setup(MEMBERS_PER_EDGE), &arguments)?, json)
        }
        Experiment::Together { xcast } => print(&together::run(&setup(2), xcast)?, json),
        // Room for 127 nodes, attacker and victim.
        Experiment::Reflection => print(&reflection::run(&setup(13))?, json),
        Experiment::Churn {
            lookups,
            alpha,
            percent,
        } => {
            let arguments = churn::Arguments {
                lookups,
                alpha,
                percent: percent.into(),
            };
            print(&churn::run(&setup(HOSTS_PER_EDGE), &arguments)?, json)
        }
    };
    done.map(|()| Vec::new())
}

/// Prints what came of an experiment. That nobody reads to the end is no error.
fn print(outcome: &(impl Serialize + fmt::Display), json: bool) -> Result<()> {
    let text = match json {
        true => serde_json::to_string_pretty(outcome)?,
        false => outcome.to_string().trim_end().to_owned(),
    };
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
