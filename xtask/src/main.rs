//! Developer tasks; see `cargo xtask --help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{
    bench, build, demo, deployment, dht, faults, partners, setup, simulate, test, testbed,
};

/// Developer tasks of Xcast for Linux
///
/// EXIT STATUS: 0 done, 1 the answer is no, 2 error.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building, testing and the demo need
    ///
    /// Says what is missing and why before it installs anything. What is there stays as it is.
    #[command(
        after_help = "EXAMPLES:\n  cargo xtask setup\n  cargo xtask setup --no-setup   only list what is missing"
    )]
    Setup(setup::Setup),
    /// Build xcast-ctl with the BPF programs in it, and print where it is
    #[command(after_help = "EXAMPLE:\n  sudo $(cargo xtask build --release) --help")]
    Build(build::Build),
    /// Check everything that a change must not break
    #[command(
        after_help = "EXAMPLES:\n  cargo xtask test\n  cargo xtask test --seed $RANDOM     other random cases\n  cargo xtask test -- ospf            only tests with `ospf` in their names"
    )]
    Test(test::Test),
    /// Measure the router side by side with every other way to make copies
    #[command(
        after_help = "EXAMPLES:\n  cargo xtask bench --quick\n  cargo xtask bench --json results.json --out docs/performance\n  cargo xtask bench -- --help     what else xcast-bench knows"
    )]
    Bench(bench::Bench),
    /// Measure what is lost when something fails, beside the kernel's unicast
    ///
    /// Exit status: 0 the router kept what it promises, 1 it did not, 2 error.
    #[command(
        after_help = "EXAMPLES:\n  cargo xtask faults --list\n  cargo xtask faults --only killed,restarted --family 4\n  cargo xtask faults --release --json faults.json --markdown faults.md\n  cargo xtask faults -- --help     what else xcast-faults knows"
    )]
    Faults(faults::Faults),
    /// A DHT of real nodes on a testbed: costs by link, losses, implosion, reflection, churn
    #[command(
        after_help = "EXAMPLES:\n  cargo xtask dht operations\n  cargo xtask dht --help     all experiments and options"
    )]
    Dht(dht::Dht),
    /// A multicast tree of 210 real members on a testbed: its costs by link, and members that die
    #[command(
        after_help = "EXAMPLES:\n  cargo xtask tree\n  cargo xtask tree --ipv6 --degree 20 --json\n  cargo xtask tree --help     all options"
    )]
    Tree(dht::Dht),
    /// Show one packet reaching three hosts, and what that saves
    #[command(
        after_help = "EXAMPLES:\n  cargo xtask demo\n  cargo xtask demo --messages 100 --json\n  cargo xtask demo --partial     only some routers speak Xcast\n  cargo xtask demo --uplink --messages 200     where it pays first"
    )]
    Demo(demo::Demo),
    /// Count what lists save where only some routers speak Xcast
    ///
    /// Raises a network of 40 routers, has more and more of them speak Xcast, at random and core first, and counts
    /// what crosses all links, beside unicast. EXIT STATUS: 0 every host got every message once, 1 not, 2 error.
    #[command(
        after_help = "EXAMPLES:\n  cargo xtask deployment\n  cargo xtask deployment --network 2,2,2 --shares 50,100 --json"
    )]
    Deployment(deployment::Deployment),
    /// Show what works between DHT nodes of ours and of others, both ways
    ///
    /// EXIT STATUS: 0 everything works, 1 something does not, 2 error.
    #[command(
        after_help = "EXAMPLES:\n  cargo xtask partners\n  cargo xtask partners --markdown     as in docs/overlays.md\n  cargo xtask partners --soak 20m"
    )]
    Partners(partners::Partners),
    /// Simulate overlays and multi-destination packets on large networks
    #[command(
        after_help = "EXAMPLES:\n  cargo xtask simulate savings\n  cargo xtask simulate kademlia --nodes 1000 --json\n  cargo xtask simulate --help     what else xcast-sim knows"
    )]
    Simulate(simulate::Simulate),
    /// Networks of namespaces to try things in
    #[command(after_help = "EXAMPLE:\n  cargo xtask testbed up fig3 --run")]
    Testbed(testbed::command::Command),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup(arguments) => setup::run(&arguments),
        Task::Build(arguments) => build::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Faults(arguments) => faults::run(&arguments),
        Task::Dht(arguments) => dht::run(&arguments),
        Task::Tree(arguments) => dht::tree(&arguments),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Deployment(arguments) => deployment::run(&arguments),
        Task::Partners(arguments) => partners::run(&arguments),
        Task::Simulate(arguments) => simulate::run(&arguments),
        Task::Testbed(arguments) => testbed::command::run(arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::from(2)
    })
}
