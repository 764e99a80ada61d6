//! `xcast-ctl dht join`.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use tracing::warn;
use xcast_host::queue::QueueLimits;
use xcast_overlay::{
    kademlia::Config,
    krpc::Family,
    net::{Settings, families},
    runtime::Pace,
};

use super::{
    message::NodeStatus,
    node::{self, Server, Start, Watch},
    parse::{Endpoint, endpoint},
    progress::Line,
    render, socket,
    state::State,
};
use crate::{
    output::{Outcome, print, print_json_line},
    tools::first_hop::WayOutArgs,
};

/// Run a node in the foreground
///
/// Once it has looked for others it prints one line that starts with "ready". SIGTERM, SIGINT and
/// `xcast-ctl dht leave` end it: what it stores for others is handed to those that are now closest,
/// and nodes to begin with are kept in the state file.
///
/// Messages to several nodes leave as one packet by the router that runs on this machine, or, with
/// --udp, inside UDP to a router on the network, which needs no privilege. The code points come from
/// --config, from --protocol and --group, or from the running router. Without any of these, or with
/// --unicast, each node is sent a datagram.
///
/// Without --bootstrap it is the first node of a network, or the state file names others.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl dht join --bootstrap router.bittorrent.com:6881 --state /var/lib/xcast/dht
  xcast-ctl dht join --listen 10.77.0.2:6881 --bootstrap 10.77.3.2:6881 \\
      --udp 10.77.0.1:4242 --protocol 253 --group 224.0.0.254
  xcast-ctl dht join --listen [::]:6881 --own-network --d-q 5 --bootstrap [fd00::1]:6881

EXIT STATUS
  0  left, or stopped by a signal
  2  error")]
pub(super) struct Args {
    /// Local address; `[::]` serves both families
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 6881))]
    listen: SocketAddr,

    /// Nodes to begin with
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 1.., value_parser = endpoint)]
    bootstrap: Vec<Endpoint>,

    /// File that keeps identifier, secret key, and nodes to begin with over restarts
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,

    /// Name of this node, where several run in one network namespace
    #[arg(long, value_name = "NAME", default_value = "node")]
    node: String,

    #[command(flatten)]
    way_out: WayOutArgs,

    /// How long a message waits for others to share a packet with (d_q of WO 2007/030742)
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1000))]
    d_q: u64,

    /// Requests in a round of a look-up
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=127))]
    alpha: Option<u16>,

    /// Nodes in a bucket (default: 8, and 20 with --own-network)
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u16).range(1..=127))]
    bucket: Option<u16>,

    /// Most nodes of one /24 or /64 in a bucket; 0 for any number
    #[arg(long, value_name = "N", default_value_t = 2)]
    per_network: usize,

    /// All nodes are of this kind: larger buckets, and no budget of messages to each
    ///
    /// Nodes of others would ban such a one: libtorrent does so for 50 messages in 10 seconds.
    #[arg(long)]
    own_network: bool,

    /// Keep nodes out whose identifier does not follow from their address (BEP 42)
    #[arg(long)]
    enforce_bep42: bool,

    /// Ask, and be not asked (BEP 43)
    #[arg(long)]
    read_only: bool,

    /// Neither say that this node knows extensions, nor send or answer them
    ///
    /// Services are then neither published nor found by it, nor kept for others.
    #[arg(long)]
    no_extensions: bool,

    /// When it has joined, print its status as a JSON document on one line, instead of the one that starts with
    /// "ready"
    #[arg(long)]
    json: bool,

    /// Log more: -v for information, -vv for debugging, -vvv for everything
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

pub(super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let (uplink, described) = args.way_out.uplink(router)?;
    let config = config(args)?;
    let mut settings = Settings::new(uplink);
    settings.combining = QueueLimits {
        max_delay: Duration::from_millis(args.d_q),
        ..QueueLimits::default()
    };
    let start = Start {
        listen: args.listen,
        config,
        settings,
        uplink: described,
        state: State::load(args.state.as_deref())?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        // First, so that a second node does not disturb a running one.
        let server = Server::bind(&socket::name(&args.node))?;
        let mut terminal = Terminal {
            line: Line::new(),
            json: args.json,
        };
        node::run(start, server, &mut terminal).await
    })?;
    Ok(Outcome::Done)
}

fn config(args: &Args) -> Result<Config> {
    let mut config = match args.own_network {
        true => Config::own_network(),
        false => Config::mainline(),
    };
    if args.own_network {
        config.pace = Pace::new(1000, Duration::from_millis(1));
    }
    config.families = families(args.listen);
    let given = args.bootstrap.iter().flat_map(|endpoint| &endpoint.0);
    let usable = |address: &&SocketAddr| config.families.contains(&Family::of(address));
    config.bootstrap = given.filter(usable).copied().collect();
    ensure!(
        args.bootstrap.is_empty() || !config.bootstrap.is_empty(),
        "--bootstrap: none of these nodes is of the family of --listen {}",
        args.listen
    );
    config.alpha = args.alpha.map_or(config.alpha, usize::from);
    config.table.k = args.bucket.map_or(config.table.k, usize::from);
    config.table.max_per_network = (args.per_network > 0).then_some(args.per_network);
    config.table.enforce_bep42 = args.enforce_bep42;
    config.read_only = args.read_only;
    config.extensions = !args.no_extensions;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    config.started_unix_s = since.as_secs() as i64;
    Ok(config)
}

/// Tells on standard output and error how it goes.
struct Terminal {
    line: Line,
    /// Whether programs read standard output.
    json: bool,
}

impl Watch for Terminal {
    fn joined(&mut self, status: &NodeStatus) {
        self.line.clear();
        let told = match self.json {
            true => print_json_line(status),
            false => print(&format!("ready {}\n", render::one_line(status))),
        };
        // Whoever wanted to know has gone; others may ask the node.
        if let Err(error) = told {
            warn!("{error:#}");
        }
    }

    fn joining(&mut self, status: &NodeStatus) {
        let counters = status.node.fanouts;
        self.line.show(&format!(
            "joining: {} nodes known, {} of {} requests answered",
            status.table.len(),
            counters.answered + counters.late,
            counters.asked
        ));
    }
}
