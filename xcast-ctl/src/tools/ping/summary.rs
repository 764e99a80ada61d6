//! What `ping` shows at the end.

use std::{fmt::Write as _, net::IpAddr};

use serde::Serialize;

use super::tally::RoundTrip;
use crate::output::table::{Align, Table};

/// The document of `xcast-ctl ping --json`.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// Number of rounds.
    pub(super) rounds: u64,
    /// Packets sent; more than rounds where the list does not fit one.
    pub(super) packets: u64,
    /// Octets of the last packet, from its IP header on.
    pub(super) octets: usize,
    /// How the packets left, for each family in the list.
    pub(super) ways: Vec<Way>,
    /// The destinations, as given.
    pub(super) destinations: Vec<Line>,
}

/// How the packets of one family left.
#[derive(Debug, Serialize)]
pub(super) struct Way {
    /// IP source.
    pub(super) source: IpAddr,
    /// Interface the packets left by.
    pub(super) interface: String,
}

/// What came back from one destination.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) address: IpAddr,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) duplicates: u64,
    pub(super) errors: u64,
    pub(super) loss_percent: f64,
    #[serde(flatten)]
    pub(super) round_trip: Option<RoundTrip>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_error: Option<String>,
}

/// The summary as a table.
pub(super) fn render(summary: &Summary) -> String {
    let mut text = format!(
        "\n{} packet{} of {} octets in {} round{}\n",
        summary.packets,
        if summary.packets == 1 { "" } else { "s" },
        summary.octets,
        summary.rounds,
        if summary.rounds == 1 { "" } else { "s" },
    );
    let mut table = Table::new([
        ("destination", Align::Left),
        ("sent", Align::Right),
        ("received", Align::Right),
        ("loss", Align::Right),
        ("min ms", Align::Right),
        ("avg", Align::Right),
        ("max", Align::Right),
        ("mdev", Align::Right),
        ("", Align::Left),
    ]);
    for line in &summary.destinations {
        let ms = |value: fn(RoundTrip) -> f64| {
            line.round_trip
                .map_or_else(|| "-".to_owned(), |times| format!("{:.3}", value(times)))
        };
        let mut remark = Vec::new();
        if line.duplicates > 0 {
            remark.push(format!("{} duplicates", line.duplicates));
        }
        remark.extend(line.last_error.clone());
        table.row([
            line.address.to_string(),
            line.sent.to_string(),
            line.received.to_string(),
            format!("{}%", line.loss_percent),
            ms(|times| times.min_ms),
            ms(|times| times.avg_ms),
            ms(|times| times.max_ms),
            ms(|times| times.mdev_ms),
            remark.join(", "),
        ]);
    }
    // Writing to a string cannot fail.
    let _ = write!(text, "{table}");
    text
}
