//! Which plots there are.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::{
    lookup,
    measure::Summary,
    plot::{Plot, Series},
    report::{Report, Row},
};

/// A sweep's section, title, and what is on its x axis.
type Sweep = (&'static str, &'static str, &'static str, fn(&Row) -> usize);

const SWEEPS: [Sweep; 4] = [
    (
        "copies",
        "Copies of a packet, one destination each, 200 octets",
        "copies",
        |row| row.copies,
    ),
    (
        "destinations",
        "Destinations of a packet, behind up to 8 next hops, 200 octets",
        "destinations",
        |row| row.destinations,
    ),
    (
        "payload",
        "Payload of a packet with 8 destinations and 8 copies",
        "octets of payload",
        |row| row.payload_bytes,
    ),
    (
        "routes",
        "Routes in the table, 8 destinations and 8 copies, 200 octets",
        "routes",
        |row| row.routes,
    ),
];

/// Writes the plots of what was measured into a directory.
///
/// # Errors
///
/// They cannot be written.
pub fn write(report: &Report, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    // Those of IPv6 have files of their own: a plot of both would have too many lines.
    for (family, suffix, in_title) in [(4, "", ""), (6, "-ipv6", ", IPv6")] {
        for (section, title, x, value) in SWEEPS {
            let mut lines = Lines::default();
            let rows = report.results.iter();
            for row in rows.filter(|row| (row.section, row.family) == (section, family)) {
                if let Some(net) = row.net().filter(|_| row.subject != "generate") {
                    lines.add(&row.label(), value(row), net);
                }
            }
            lines.write(
                directory,
                &format!("{section}{suffix}"),
                &format!("{title}{in_title}"),
                x,
                "ns per packet, net of the generator",
            )?;
        }
        let mut lines = Lines::default();
        for row in report.sender.iter().filter(|row| row.family == family) {
            lines.add(row.subject, row.destinations, row.ns_per_message);
        }
        lines.write(
            directory,
            &format!("sender{suffix}"),
            &format!("Sending a message of 200 octets{in_title}"),
            "destinations",
            "ns per message",
        )?;
    }
    let mut lines = Lines::default();
    for row in &report.lookup {
        let addresses = match row.addresses {
            lookup::HOT => "hot",
            _ => "random",
        };
        let family = if row.family == 6 { " IPv6" } else { "" };
        lines.add(
            &format!("{}{family}, {addresses}", row.map),
            row.routes,
            row.ns_per_lookup,
        );
    }
    let title = "Looking up a next hop: a million random addresses, or a thousand hot ones";
    lines.write(directory, "lookup", title, "routes", "ns per look-up")
}

/// The lines of a plot, by name, in the order they came.
#[derive(Default)]
struct Lines(Vec<Series>);

impl Lines {
    fn add(&mut self, name: &str, x: usize, y: Summary) {
        let point = (x as f64, [y.min, y.median, y.max]);
        match self.0.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => self.0.push(Series {
                name: name.to_owned(),
                points: vec![point],
            }),
        }
    }

    /// Writes the plot, if anything of it was measured.
    fn write(
        self,
        directory: &Path,
        name: &str,
        title: &str,
        x: &'static str,
        y: &'static str,
    ) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let plot = Plot {
            title: title.to_owned(),
            x,
            y,
            series: self.0,
        };
        plot.write(&directory.join(format!("{name}.svg")))
    }
}
