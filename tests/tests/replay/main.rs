//! The simulator equals reality: what it makes of the senders' notes is what the interfaces counted, and
//! nodes that it leaves to themselves send such lists as those on sockets.

mod d1ht;
mod kademlia;
mod script;
mod stage;
mod tree;

use anyhow::{Context as _, Result, ensure};
use tests::{family::Family, namespace};
use xcast_sim::statistics::kolmogorov_smirnov;

use self::{
    d1ht::D1ht,
    kademlia::Kademlia,
    script::{List, Overlay, simulated},
    stage::{Deployment, FULL, HALF, Stage},
    tree::Tree,
};

/// Lists of two runs are taken for different if they would be so different by chance less often than once
/// in a thousand times.
const THRESHOLD: f64 = 0.001;

/// Packets and octets of each link are those that interfaces counted, and free runs are alike.
fn check<O: Overlay>(stage: &Stage) -> Result<()> {
    let (log, counted) = stage.played::<O>()?;
    let crossed = stage.replayed(&log)?;
    let shared = log.iter().filter(|fanout| fanout.to.len() > 1).count();
    ensure!(
        shared > 10,
        "{shared} messages to several: too few to compare"
    );
    let mut wrong = Vec::new();
    for (link, counted) in crossed.iter().zip(&counted) {
        let simulated = (link.packets, link.frame_octets);
        let counted = (counted.packets, counted.bytes);
        if simulated != counted {
            wrong.push(format!(
                "{}: simulated {simulated:?}, counted {counted:?}",
                link.nodes.join("-")
            ));
        }
    }
    let packets: u64 = crossed.iter().map(|link| link.packets).sum();
    println!(
        "{}, {:?}: {} messages, {shared} of them to several; {packets} packets on {} links",
        O::NAME,
        stage.family,
        log.len(),
        crossed.len()
    );
    ensure!(wrong.is_empty(), "{wrong:#?}");

    let lists = log.into_iter().map(|fanout| (fanout.source, fanout.to));
    let real = O::sizes(&lists.collect::<Vec<List>>());
    let bed = stage.bed()?;
    let mut free = Vec::new();
    for seed in 1..=O::SIMULATED_RUNS {
        free.extend(O::sizes(&simulated::<O>(&bed, stage.family, seed)?));
    }
    let likely = kolmogorov_smirnov(&real, &free);
    println!(
        "{}, {:?}: {} lists, {} of {} simulated runs; p = {likely:.3}",
        O::NAME,
        stage.family,
        real.len(),
        free.len(),
        O::SIMULATED_RUNS
    );
    ensure!(!real.is_empty() && !free.is_empty(), "no lists to compare");
    ensure!(likely > THRESHOLD, "{real:?} and {free:?}: p = {likely}");
    // As many of them, too, as far as so few runs can tell.
    let usual = (free.len() * O::RUNS) as f64 / O::SIMULATED_RUNS as f64;
    let ratio = real.len() as f64 / usual;
    ensure!(
        (0.6..1.7).contains(&ratio),
        "{} lists, and {usual:.0} in as many simulated runs",
        real.len()
    );
    Ok(())
}

#[track_caller]
fn all(deployment: &'static Deployment) {
    if !namespace::available() {
        return;
    }
    for family in Family::ALL {
        let test = || -> Result<()> {
            let stage = Stage::up(deployment, family)?;
            check::<Kademlia>(&stage).context(Kademlia::NAME)?;
            check::<D1ht>(&stage).context(D1ht::NAME)?;
            check::<Tree>(&stage).context(Tree::NAME)
        };
        if let Err(error) = test() {
            panic!("{family:?}: {error:#}");
        }
    }
}

#[test]
fn links_carry_what_the_simulator_says_in_a_full_deployment() {
    all(&FULL);
}

#[test]
fn and_where_half_of_the_routers_speak_xcast() {
    all(&HALF);
}
