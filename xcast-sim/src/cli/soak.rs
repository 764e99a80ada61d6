//! A network of nodes for hours: does it stay as it is?

use std::{io::Write as _, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use xcast_sim::{
    experiments::{join, reference_models},
    fanout::Network,
    random::Random,
    routing::{Routing, Ties},
    topology::{Hosts, Model},
    world::{World, WorldSettings},
};

use super::common::memory_mib;

/// Arguments of `soak`.
#[derive(Debug, Args)]
pub struct SoakArgs {
    /// Nodes, on a transit-stub graph
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..))]
    nodes: u32,
    /// Simulated hours
    #[arg(long, default_value_t = 24)]
    hours: u32,
    /// The seed; the same seed gives the same messages
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print a JSON object for each hour instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Hour {
    /// Simulated hours since the nodes have joined.
    hour: u32,
    /// Messages in that hour.
    messages: u64,
    /// Transmissions on links.
    links: u64,
    /// What unicast would have cost.
    unicast_links: u64,
    /// Events that wait.
    waiting: usize,
    /// Memory of the whole program, in MiB; none where the kernel does not tell.
    memory_mib: Option<u64>,
}

/// Runs it.
pub fn soak(args: &SoakArgs) -> Result<()> {
    let models = reference_models();
    let model = models
        .iter()
        .find(|model| matches!(model, Model::TransitStub(_)));
    let topology = model
        .context("the reference models have no transit-stub graph")?
        .generate(args.seed)?;
    let mut random = Random::for_purpose(args.seed, "nodes");
    let network = Network {
        routing: Routing::new(&topology.graph, Ties::LinkCosts, args.seed),
        hosts: Hosts::random(&topology, args.nodes as usize, &mut random),
    };
    let mut world = World::new(network, WorldSettings::full(args.seed));
    let honest = vec![false; args.nodes as usize];
    join(&mut world, 20, &honest, args.seed, &mut |_| {});
    let mut out = std::io::stdout().lock();
    if !args.json {
        writeln!(
            out,
            "{:>6} {:>10} {:>12} {:>14} {:>9} {:>11}",
            "hour", "messages", "links", "unicast links", "waiting", "memory, MiB"
        )?;
    }
    for hour in 1..=args.hours {
        world.meter.reset();
        world.run_for(Duration::from_secs(3600));
        while world.poll_event().is_some() {}
        let tally = world.meter.tally(0);
        let row = Hour {
            hour,
            messages: tally.messages,
            links: tally.sent.links,
            unicast_links: tally.unicast.links,
            waiting: world.waiting(),
            memory_mib: memory_mib(),
        };
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&row)?)?;
        } else {
            let memory = row
                .memory_mib
                .map_or_else(String::new, |mib| mib.to_string());
            writeln!(
                out,
                "{:>6} {:>10} {:>12} {:>14} {:>9} {memory:>11}",
                row.hour, row.messages, row.links, row.unicast_links, row.waiting
            )?;
        }
    }
    Ok(())
}
