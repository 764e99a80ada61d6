//! Runs the experiments of the simulator, and writes their rows and plots.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cli;

/// Simulates multi-destination packets on router graphs
///
/// EXIT STATUS: 0 done, 2 error.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// What one packet to m random hosts saves, on each topology
    #[command(
        after_help = "EXAMPLES:\n  xcast-sim savings\n  xcast-sim savings --graph xcast-sim/data/Uninett2010.txt --seeds 3"
    )]
    Savings(cli::fanouts::SavingsArgs),
    /// What it saves where only some routers speak Xcast (m = 10, transit-stub)
    #[command(after_help = "EXAMPLE:\n  xcast-sim deployment --seeds 3")]
    Deployment(cli::fanouts::RowsArgs),
    /// How many octets it saves, by the length of what is sent (transit-stub)
    #[command(after_help = "EXAMPLE:\n  xcast-sim payload --seeds 3")]
    Payload(cli::lengths::PayloadArgs),
    /// What look-ups of Kademlia save where links lose packets (transit-stub)
    #[command(after_help = "EXAMPLE:\n  xcast-sim loss --nodes 300 --lookups 300 --seeds 3")]
    Loss(cli::loss::LossArgs),
    /// Look-ups of Kademlia, by its real nodes in simulated time
    #[command(
        after_help = "EXAMPLES:\n  xcast-sim kademlia --nodes 1000 --lookups 1000\n  xcast-sim kademlia --nodes 1000 --choose --malicious 10 --seeds 3"
    )]
    Kademlia(cli::kademlia::KademliaArgs),
    /// Every operation of Kademlia, by its real nodes: pings, look-ups, announcing, storing, joining, leaving
    #[command(
        after_help = "EXAMPLE:\n  xcast-sim operations --topology transit-stub --nodes 1000 --seeds 1"
    )]
    Operations(cli::operations::OperationsArgs),
    /// D1HT under churn, by its real peers: what EDRA's messages save
    #[command(after_help = "EXAMPLE:\n  xcast-sim d1ht --peers 1000 --session 60 --seeds 3")]
    D1ht(cli::d1ht::D1htArgs),
    /// Events of D1HT among a million peers: does each reach each once, and in time?
    #[command(
        after_help = "EXAMPLES:\n  xcast-sim edra\n  xcast-sim edra --peers 10000 --events 20 --seeds 1"
    )]
    Edra(cli::edra::EdraArgs),
    /// Multicast trees of real members, beside unicast, a star, and IP multicast
    #[command(
        after_help = "EXAMPLES:\n  xcast-sim tree --members 500 --seeds 3\n  xcast-sim tree --members 1000000 --made-up --destinations 50 --packets 2 --messages 1 --topology transit-stub --seeds 1 --height 3"
    )]
    Tree(cli::tree::TreeArgs),
    /// At which load searches collapse: Gia beside flooding
    #[command(after_help = "EXAMPLE:\n  xcast-sim gia --nodes 1000 --seeds 3")]
    Gia(cli::gia::GiaArgs),
    /// Chord and EpiChord on the same work under churn: hops, times and packets for each p
    #[command(
        after_help = "EXAMPLES:\n  xcast-sim rings --seeds 1\n  xcast-sim rings --peers 300 --load lookups --parallel 3 --seeds 1"
    )]
    Rings(cli::rings::RingsArgs),
    /// What Meridian finds, and what near parents bring a tree, on measured round trips
    #[command(
        after_help = "EXAMPLES:\n  xcast-sim near\n  xcast-sim near --latencies xcast-sim/data/PlanetLab490.txt --hosts 200 --queries 100 --seeds 1"
    )]
    Near(cli::near::NearArgs),
    /// What the lists of all overlays save on each topology
    #[command(
        after_help = "EXAMPLES:\n  xcast-sim lists --peers 300 --seeds 2\n  xcast-sim lists --overlay meridian --topology transit-stub --seeds 1"
    )]
    Lists(cli::lists::ListsArgs),
    /// How overlays come through churn and loss, and how soon they are right again
    #[command(
        after_help = "EXAMPLES:\n  xcast-sim converge\n  xcast-sim converge --overlay chord --peers 1000 --loss 5 --session 10"
    )]
    Converge(cli::converge::ConvergeArgs),
    /// Nodes of Kademlia or D1HT for hours: what they send, and how much memory it takes
    #[command(
        after_help = "EXAMPLES:\n  xcast-sim soak --nodes 100 --hours 24 --flat\n  xcast-sim soak --overlay d1ht --nodes 100 --hours 24 --flat"
    )]
    Soak(cli::soak::SoakArgs),
    /// What a testbed's senders sent, counted on its links
    #[command(
        after_help = "EXAMPLE:\n  cargo xtask testbed list --json > bed.json\n  xcast-sim replay --bed bed.json --log fanouts.jsonl"
    )]
    Replay(cli::replay::ReplayArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Savings(args) => cli::fanouts::savings(&args),
        Verb::Deployment(args) => cli::fanouts::deployment(&args),
        Verb::Payload(args) => cli::lengths::payload(&args),
        Verb::Loss(args) => cli::loss::loss(&args),
        Verb::Operations(args) => cli::operations::operations(&args),
        Verb::Kademlia(args) => cli::kademlia::kademlia(&args),
        Verb::D1ht(args) => cli::d1ht::d1ht(&args),
        Verb::Edra(args) => cli::edra::edra(&args),
        Verb::Tree(args) => cli::tree::tree(&args),
        Verb::Gia(args) => cli::gia::gia(&args),
        Verb::Lists(args) => cli::lists::lists(&args),
        Verb::Converge(args) => cli::converge::converge(&args),
        Verb::Near(args) => cli::near::near(&args),
        Verb::Rings(args) => cli::rings::rings(&args),
        Verb::Soak(args) => cli::soak::soak(&args),
        Verb::Replay(args) => cli::replay::replay(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xcast-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn examples_of_the_help_are_understood() {
        let mut examples = 0;
        for verb in Cli::command().get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string);
            for line in help.unwrap_or_default().lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                if words.first() != Some(&"xcast-sim") {
                    continue;
                }
                examples += 1;
                if let Err(error) = Cli::try_parse_from(&words) {
                    panic!("{line}: {error}");
                }
                for file in words.iter().filter(|word| word.starts_with("xcast-sim/")) {
                    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
                    assert!(file.exists(), "{line}: there is no such file");
                }
            }
        }
        assert!(examples > 10, "{examples} examples");
    }
}
