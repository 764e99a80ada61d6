//! The experiment's result, as a table and as JSON.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{
    network::Order,
    row::{Mode, Row},
};

/// What crossed the links, deployment by deployment.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Routers of the network.
    pub routers: usize,
    /// Its hosts.
    pub hosts: usize,
    /// Its links.
    pub links: usize,
    /// Destinations of each message.
    pub destinations: usize,
    /// Messages in all.
    pub messages: u64,
    /// By family.
    pub families: BTreeMap<String, OfFamily>,
}

/// The figures of one family.
#[derive(Clone, Debug, Serialize)]
pub struct OfFamily {
    /// Link transmissions by unicast.
    pub unicast: u64,
    /// Every deployment.
    pub rows: Vec<Row>,
}

/// What an independent simulation of a transit-stub network of 9200 nodes saves with 10 destinations, in percent: by
/// share, with random routers and core first, each with premature X2U only and with tunnels. Its network is larger, so
/// these are bands, not expectations.
const SIMULATED: [(u32, [u32; 4]); 5] = [
    (10, [1, 4, 11, 44]),
    (25, [3, 10, 29, 44]),
    (50, [9, 23, 35, 44]),
    (75, [18, 33, 41, 44]),
    (100, [44, 44, 44, 44]),
];

impl Report {
    /// Every host got every message once, whatever was deployed.
    pub fn is_complete(&self) -> bool {
        let mut rows = self.families.values().flat_map(|family| &family.rows);
        rows.all(|row| row.complete)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} routers, {} hosts, {} links; {} messages to {} destinations each\n",
            self.routers, self.hosts, self.links, self.messages, self.destinations
        );
        for (name, family) in &self.families {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "\n{name}: link transmissions; unicast {}\n\n  {:>5}  {:>7}  {:10}  {:13}  {:>8}  {:>6}  {:>9}\n",
                family.unicast,
                "share",
                "routers",
                "order",
                "mode",
                "packets",
                "saved",
                "simulated"
            );
            for row in &family.rows {
                let simulated = match simulated(row) {
                    Some(percent) => format!("{percent} %"),
                    None => "-".to_owned(),
                };
                let trouble = match row.complete {
                    true => "",
                    false => "  NOT EVERYBODY GOT EVERYTHING ONCE",
                };
                let _ = writeln!(
                    text,
                    "  {:>3} %  {:>7}  {:10}  {:13}  {:>8}  {:>4} %  {simulated:>9}{trouble}",
                    row.share,
                    row.routers,
                    row.order.to_string(),
                    row.mode.to_string(),
                    row.packets,
                    row.saved_percent,
                );
            }
        }
        text += "\nsimulated: an independent simulation of a transit-stub network of 9200 nodes, 10 destinations\n";
        text
    }
}

fn simulated(row: &Row) -> Option<u32> {
    let known = SIMULATED.iter().find(|(share, _)| *share == row.share)?;
    let at = match row.mode {
        Mode::PrematureX2u => 0,
        Mode::Tunnels => 2,
    } + match row.order {
        Order::Random => 0,
        Order::CoreFirst => 1,
    };
    known.1.get(at).copied()
}
