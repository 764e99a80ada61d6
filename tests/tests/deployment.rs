//! What lists save where only some routers speak Xcast, on a small network: `cargo xtask deployment` in short.

use anyhow::{Result, ensure};
use tests::daemon;
use tests::namespace;
use xtask::deployment::{Experiment, Mode, Network, Order};
use xtask::messages::Family;

#[test]
fn a_tunnelled_core_brings_nearly_everything() {
    if !namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let experiment = Experiment {
            xcast_ctl: daemon::program().to_owned(),
            network: Network::from_numbers(&[2, 1, 3])?,
            messages: 20,
            destinations: 4,
            sources: 1,
            shares: vec![20, 100],
            modes: vec![Mode::PrematureX2u, Mode::Tunnels],
            seed: 1,
        };
        let report = experiment.run(&[Family::Ipv4, Family::Ipv6], |_| {})?;
        ensure!(report.is_complete(), "{}", report.text());
        for family in report.families.values() {
            let row = |mode, order, share| {
                let mut rows = family.rows.iter();
                let found =
                    rows.find(|row| (row.mode, row.order, row.share) == (mode, order, share));
                found.map_or(i64::MIN, |row| row.saved_percent)
            };
            for mode in [Mode::PrematureX2u, Mode::Tunnels] {
                let all = row(mode, Order::Random, 100);
                ensure!(all > 0 && all == row(mode, Order::CoreFirst, 100));
                // The core alone brings something, and not more than everybody does.
                let core = row(mode, Order::CoreFirst, 20);
                ensure!((0..=all).contains(&core), "{core} of {all}");
            }
            let core = |mode| row(mode, Order::CoreFirst, 20);
            ensure!(core(Mode::Tunnels) >= core(Mode::PrematureX2u));
        }
        Ok(())
    };
    test().expect("more routers save more");
}
