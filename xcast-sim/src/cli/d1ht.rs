//! D1HT under churn.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use xcast_overlay::d1ht::Grouping;
use xcast_sim::{
    experiments::{D1ht, D1htRow},
    world::WorldSettings,
};

use super::{
    common::{Common, Topologies, memory_mib, sure, within},
    table::Table,
};

/// Arguments of `d1ht`.
#[derive(Debug, Args)]
pub struct D1htArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    topologies: Topologies,
    /// Peers, each on a host of its own at a random edge router
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=500_000))]
    peers: u32,
    /// How long peers stay, on average, in minutes
    #[arg(long, default_value_t = 60.0, value_parser = within(0.01..=1e6))]
    session: f64,
    /// Intervals (Theta) that are measured, after as many that are not
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    intervals: u32,
    /// Each peer has a table of its own: 40 octets for each other peer, 4 GB for 10,000 peers
    #[arg(long)]
    own_tables: bool,
    /// Compare only this grouping of levels with unicast
    #[arg(long, value_enum)]
    grouping: Option<GroupingName>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GroupingName {
    /// One packet for all levels
    One,
    /// No more octets on the links of senders and receivers than by unicast
    Ends,
    /// As `ends`, if octets in the network are expected to become fewer, too
    Octets,
}

/// Runs it.
pub fn d1ht(args: &D1htArgs) -> Result<()> {
    let mut rows = Vec::new();
    let octets = Grouping::Octets { saved: 0.15 };
    let groupings = match args.grouping {
        None => vec![Grouping::One, Grouping::Ends, octets],
        Some(GroupingName::One) => vec![Grouping::One],
        Some(GroupingName::Ends) => vec![Grouping::Ends],
        Some(GroupingName::Octets) => vec![octets],
    };
    for source in args.topologies.sources()? {
        let mut world = WorldSettings::full(0);
        world.family = args.common.family();
        let experiment = D1ht {
            source,
            seeds: args.common.seeds(),
            peers: args.peers as usize,
            session: Duration::from_secs_f64(args.session * 60.0),
            groupings: groupings.clone(),
            intervals: args.intervals,
            own_tables: args.own_tables,
            world,
        };
        let name = experiment.source.name();
        let measured = experiment.run(|seed, grouping| {
            let memory = memory_mib().unwrap_or_default();
            eprintln!("{name}, seed {seed}: {grouping}, {memory} MiB");
        });
        rows.extend(measured.with_context(|| format!("cannot measure {name}"))?);
    }
    if !args.common.rows("d1ht.json", &rows)? {
        table(&rows)?;
    }
    Ok(())
}

fn table(rows: &[D1htRow]) -> Result<()> {
    let mut table = Table::new(
        2,
        [
            "topology",
            "grouping",
            "requests",
            "replies",
            "octets",
            "messages",
            "expected",
            "packets",
            "kbit/s",
            "stale",
            "worst ends",
            "worst links",
        ],
    );
    for row in rows {
        let saved = &row.saved_percent;
        table.row([
            &row.topology,
            &row.grouping,
            &sure(saved.links),
            &sure(saved.links_with_replies),
            &sure(saved.octets_with_replies),
            &format!("{:.2}", row.messages.mean),
            &format!("{:.2}", row.expected_messages),
            &format!("{:.2}", row.packets.mean),
            &format!("{:.3}", row.kbit_per_s.mean),
            &format!("{:.2} %", row.stale_percent.mean),
            &format!("{:.1} %", row.worst_ends_percent),
            &format!("{:.1} %", row.worst_links_percent),
        ]);
    }
    table.print(&format!(
        "requests, replies, octets: saved on all links against the same events told by unicast, in percent: messages,\n\
         with acknowledgements, octets of both; messages: receivers of a peer's messages in an interval, beside what\n\
         the analysis expects; packets: in which they leave; kbit/s: from a peer, acknowledgements included.\n\
         stale: table entries that are wrong; worst: octets of the interval in which they are most, of those by unicast,\n\
         on the links of senders and receivers (which is what groupings go by), and on all links with acknowledgements.\n{}",
        if rows.iter().all(|row| row.own_tables) {
            "Each peer has a table of its own."
        } else {
            "Peers share one table with differences of their own."
        }
    ))
}
