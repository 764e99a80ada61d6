//! What comes out: rows, ratios and their targets, as JSON and as text.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use crate::{
    changes,
    combining::Combining,
    family::number as family_number,
    lookup,
    machine::Machine,
    measure::{Measured, Summary},
    sender,
    stages::{self, Stages},
    subject::{Load, Spread},
};

/// The document of `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What it was measured on.
    pub machine: Machine,
    /// A row per subject and load.
    pub results: Vec<Row>,
    /// Ratios by name: the median over rounds of one subject's time by another's in the same round,
    /// both net of the generator.
    pub ratios: BTreeMap<String, f64>,
    /// What some of the ratios should be.
    pub targets: Vec<Target>,
    /// What following a table of routes takes.
    pub tables: Vec<Table>,
    /// The sending side.
    pub sender: Vec<sender::Row>,
    /// Route maps by themselves.
    pub lookup: Vec<lookup::Row>,
    /// The combining queue.
    #[serde(flatten)]
    pub combining: Combining,
    /// Stages of the ingress program.
    #[serde(flatten)]
    pub stages: Stages,
    /// Route changes.
    pub changes: Vec<changes::Row>,
}

/// A router with so many routes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Table {
    /// `4` or `6`.
    pub family: u8,
    /// Routes in the kernel's table.
    pub routes: usize,
    /// Milliseconds from the router's start until all of them were in its map.
    pub ready_ms: u128,
    /// Resident memory of the router's process, in octets.
    pub rss_bytes: u64,
}

/// What a ratio should be.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

/// A row: what one subject took for one load.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The sweep it belongs to.
    pub section: &'static str,
    /// Who made the copies.
    pub subject: &'static str,
    /// `4` or `6`.
    pub family: u8,
    /// Copies of a packet; for `unicast` packets.
    pub copies: usize,
    /// Destinations.
    pub destinations: usize,
    /// Octets of UDP payload.
    pub payload_bytes: usize,
    /// Routes in the table; 0 for who does not look at it.
    pub routes: usize,
    /// Where the copies went.
    pub spread: Spread,
    /// Different packets, in turns.
    pub flows: usize,
    /// Packets handed on at a time.
    pub batch: u32,
    /// Time per packet, from generator to sinks; none if copies were lost.
    pub ns_per_packet: Spans,
    /// The same without the generator's time.
    pub net_ns_per_packet: Spans,
    /// Whether every copy arrived.
    pub delivered: bool,
    /// Copies that did not arrive.
    pub lost: u64,
    /// Packets sent, warm-up included.
    pub packets: u64,
    /// What else speaks against the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objection: Option<String>,
    #[serde(skip)]
    net: Vec<f64>,
}

impl Row {
    /// Subject, and what is not usual about the row.
    pub fn label(&self) -> String {
        let mut label = self.subject.to_owned();
        if self.spread == Spread::Lan {
            label += ", one LAN";
        } else if self.batch != Load::HEADLINE.batch {
            label += &format!(", batch {}", self.batch);
        }
        if self.flows == 1 {
            label += ", one flow";
        } else if self.flows != Load::HEADLINE.flows {
            label += &format!(", {} flows", self.flows);
        }
        label
    }

    /// Time per packet without the generator's, if it can be believed.
    pub fn net(&self) -> Option<Summary> {
        Summary::of(&self.net)
    }
}

/// Least, middle and greatest, in nanoseconds; none where a row cannot be believed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spans {
    /// Least.
    pub min: Option<f64>,
    /// Middle.
    pub median: Option<f64>,
    /// Greatest.
    pub max: Option<f64>,
}

impl Spans {
    fn of(values: &[f64]) -> Self {
        let round = |value: f64| Some((value * 10.0).round() / 10.0);
        Summary::of(values).map_or_else(Self::default, |summary| Self {
            min: round(summary.min),
            median: round(summary.median),
            max: round(summary.max),
        })
    }
}

/// What a ratio should be, and whether it is.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    /// Name of the ratio.
    pub ratio: String,
    /// What it says.
    pub meaning: &'static str,
    /// It should be this at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// It should be this at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// What it is; none if it could not be measured.
    pub value: Option<f64>,
    /// Whether it is what it should be.
    pub met: bool,
}

/// Makes rows of what was measured side by side; the generator's own times are in `floors`.
pub fn rows(section: &'static str, all: &[Measured]) -> Vec<Row> {
    let row = |measured: &Measured| {
        let floor = all.iter().find(|other| {
            (other.subject, other.family) == ("generate", measured.family)
                && Load {
                    copies: measured.load.copies,
                    spread: measured.load.spread,
                    ..other.load
                } == measured.load
        });
        let delivered = measured.lost == 0;
        let believed = delivered && measured.objection.is_none();
        let ns: &[f64] = if believed { &measured.ns } else { &[] };
        let net: Vec<_> = floor.map_or_else(Vec::new, |floor| {
            let pairs = ns.iter().zip(&floor.ns);
            let frames = measured.frames_per_packet as f64;
            pairs.map(|(ns, floor)| ns - frames * floor).collect()
        });
        Row {
            section,
            subject: measured.subject,
            family: family_number(measured.family),
            copies: measured.load.copies,
            destinations: measured.load.destinations,
            payload_bytes: measured.load.payload_bytes,
            routes: measured.routes,
            spread: measured.load.spread,
            flows: measured.load.flows,
            batch: measured.load.batch,
            ns_per_packet: Spans::of(ns),
            net_ns_per_packet: Spans::of(&net),
            delivered,
            lost: measured.lost,
            packets: measured.packets,
            objection: measured.objection.clone(),
            net,
        }
    };
    all.iter().map(row).collect()
}

/// How many times as long the one takes as the other, the median over rounds.
pub fn ratio(one: &Row, other: &Row) -> Option<f64> {
    let ratios: Vec<_> = one
        .net
        .iter()
        .zip(&other.net)
        .map(|(a, b)| a / b)
        .filter(|ratio| ratio.is_finite())
        .collect();
    Some(Summary::of(&ratios)?.median)
}

impl Report {
    /// A report of nothing yet.
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            results: Vec::new(),
            ratios: BTreeMap::new(),
            targets: Vec::new(),
            tables: Vec::new(),
            sender: Vec::new(),
            lookup: Vec::new(),
            combining: Combining::default(),
            stages: Stages::default(),
            changes: Vec::new(),
        }
    }

    /// Adds a ratio, if it could be measured.
    pub fn ratio(&mut self, name: &str, value: Option<f64>) {
        if let Some(value) = value {
            let rounded = (value * 1000.0).round() / 1000.0;
            self.ratios.insert(name.to_owned(), rounded);
        }
    }

    /// Adds a ratio that should be something.
    pub fn target(&mut self, name: &str, value: Option<f64>, bound: Bound, meaning: &'static str) {
        self.ratio(name, value);
        let (at_most, at_least) = match bound {
            Bound::AtMost(most) => (Some(most), None),
            Bound::AtLeast(least) => (None, Some(least)),
        };
        // As it is shown, so that nobody wonders.
        let value = self.ratios.get(name).copied();
        self.targets.push(Target {
            ratio: name.to_owned(),
            meaning,
            at_most,
            at_least,
            value,
            met: value.is_some_and(|value| match bound {
                Bound::AtMost(most) => value <= most,
                Bound::AtLeast(least) => value >= least,
            }),
        });
    }

    /// The table of how routes are loaded.
    pub fn load_table(&self) -> String {
        let mut lines = vec![
            ["routes", "IPv", "ready after ms", "RSS MiB", ""]
                .map(str::to_owned)
                .to_vec(),
        ];
        for table in &self.tables {
            lines.push(vec![
                table.routes.to_string(),
                table.family.to_string(),
                table.ready_ms.to_string(),
                (table.rss_bytes >> 20).to_string(),
                String::new(),
            ]);
        }
        align(&lines)
    }

    /// The table of the sending side.
    pub fn sender_table(&self) -> String {
        let mut lines = vec![
            [
                "sending",
                "IPv",
                "dests",
                "payload",
                "ns/message",
                "min",
                "max",
                "delivered",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        for row in &self.sender {
            let ns = |value: f64| format!("{value:.0}");
            lines.push(vec![
                row.subject.to_owned(),
                row.family.to_string(),
                row.destinations.to_string(),
                row.payload_bytes.to_string(),
                ns(row.ns_per_message.median),
                ns(row.ns_per_message.min),
                ns(row.ns_per_message.max),
                if row.delivered { "all" } else { "LOST" }.to_owned(),
            ]);
        }
        align(&lines)
    }

    /// The table of a section.
    pub fn table(&self, section: &str) -> String {
        let mut lines = vec![
            [
                "subject",
                "IPv",
                "copies",
                "dests",
                "payload",
                "routes",
                "ns/packet",
                "min",
                "max",
                "net",
                "net/copy",
                "delivered",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        for row in self.results.iter().filter(|row| row.section == section) {
            let ns = |value: Option<f64>| value.map_or("-".to_owned(), |ns| format!("{ns:.0}"));
            let per_copy = row
                .net_ns_per_packet
                .median
                .map(|net| net / row.copies as f64);
            lines.push(vec![
                row.label(),
                row.family.to_string(),
                row.copies.to_string(),
                row.destinations.to_string(),
                row.payload_bytes.to_string(),
                match row.routes {
                    0 => "-".to_owned(),
                    routes => routes.to_string(),
                },
                ns(row.ns_per_packet.median),
                ns(row.ns_per_packet.min),
                ns(row.ns_per_packet.max),
                ns(row.net_ns_per_packet.median),
                ns(per_copy.filter(|_| row.subject != "generate")),
                match (&row.objection, row.delivered) {
                    (None, true) => "all".to_owned(),
                    (Some(objection), true) => objection.clone(),
                    _ => format!("{} LOST", row.lost),
                },
            ]);
        }
        align(&lines)
    }

    /// The table of route maps.
    pub fn lookup_table(&self) -> String {
        let mut lines = vec![
            [
                "route map",
                "IPv",
                "routes",
                "addresses",
                "ns/look-up",
                "min",
                "max",
                "MiB",
                "fill ms",
                "change us",
                "",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        for row in &self.lookup {
            let ns = row.ns_per_lookup;
            let [median, min, max] = [ns.median, ns.min, ns.max].map(|ns| format!("{ns:.1}"));
            lines.push(vec![
                row.map.to_owned(),
                row.family.to_string(),
                row.routes.to_string(),
                row.addresses.to_string(),
                median,
                min,
                max,
                format!("{:.1}", row.memory_bytes as f64 / f64::from(1 << 20)),
                format!("{:.1}", row.fill_ms),
                format!("{:.2}", row.change_us),
                String::new(),
            ]);
        }
        align(&lines)
    }

    /// The tables of stages, one for each family, and that of programs.
    pub fn stages_table(&self) -> String {
        let mut text = String::new();
        for family in [4, 6] {
            let rows = self.stages.stages.iter();
            let rows: Vec<_> = rows.filter(|row| row.family == family).collect();
            if !rows.is_empty() {
                text += &align(&stages_lines(family, &rows));
                text.push('\n');
            }
        }
        let mut programs = vec![
            [
                "program",
                "IPv",
                "instructions verified",
                "octets of code",
                "",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        for program in &self.stages.programs {
            programs.push(vec![
                program.name.to_owned(),
                program.family.to_string(),
                program
                    .verified_instructions
                    .map_or_else(|| "-".to_owned(), |count| count.to_string()),
                program.jited_bytes.to_string(),
                String::new(),
            ]);
        }
        text + &align(&programs)
    }

    /// The tables of the combining queue.
    pub fn combining_table(&self) -> String {
        let heading = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut queue: Vec<Vec<String>> = vec![heading(&[
            "overlap",
            "M messages/s",
            "min",
            "max",
            "messages/packet",
            "",
        ])];
        for row in &self.combining.queue {
            let rate = row.messages_per_second;
            let mut line = vec![row.overlap.to_owned()];
            line.extend([rate.median, rate.min, rate.max].map(|rate| format!("{:.2}", rate / 1e6)));
            line.extend([format!("{:.1}", row.messages_per_packet), String::new()]);
            queue.push(line);
        }
        let mut link: Vec<Vec<String>> = vec![heading(&[
            "first link, octets",
            "dests",
            "unicast",
            "same to all",
            "combined",
            "packets",
            "",
        ])];
        for row in &self.combining.first_link {
            let mut line = vec![format!("payload {}", row.payload_bytes)];
            let numbers = [
                row.destinations,
                row.unicast_bytes,
                row.same_bytes,
                row.combined_bytes,
                row.combined_packets,
            ];
            line.extend(numbers.map(|number| number.to_string()));
            line.push(String::new());
            link.push(line);
        }
        format!("{}\n{}", align(&queue), align(&link))
    }

    /// The table of route changes.
    pub fn changes_table(&self) -> String {
        let mut lines = vec![
            [
                "IPv",
                "changes/s",
                "reached",
                "routes",
                "p50 us",
                "p99 us",
                "max us",
                "CPU %",
                "RSS MiB",
                "arrived",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        for row in &self.changes {
            let whole = |value: f64| format!("{value:.0}");
            lines.push(vec![
                row.family.to_string(),
                row.rate.to_string(),
                whole(row.rate_reached),
                row.routes.to_string(),
                whole(row.p50_us),
                whole(row.p99_us),
                whole(row.max_us),
                format!("{:.1}", row.controller_cpu_percent),
                (row.controller_rss_bytes >> 20).to_string(),
                if row.delivered { "all" } else { "NOT ALL" }.to_owned(),
            ]);
        }
        align(&lines)
    }

    /// The ratios, those with a target first.
    pub fn ratio_table(&self) -> String {
        let mut lines = vec![["ratio", "", "target", "", ""].map(str::to_owned).to_vec()];
        for target in &self.targets {
            lines.push(vec![
                target.ratio.clone(),
                number(target.value),
                match (target.at_most, target.at_least) {
                    (Some(most), _) => format!("<= {most}"),
                    (_, Some(least)) => format!(">= {least}"),
                    _ => String::new(),
                },
                if target.met { "met" } else { "NOT MET" }.to_owned(),
                target.meaning.to_owned(),
            ]);
        }
        for (name, value) in &self.ratios {
            if self.targets.iter().all(|target| target.ratio != *name) {
                let blank = String::new;
                lines.push(vec![
                    name.clone(),
                    number(Some(*value)),
                    blank(),
                    blank(),
                    blank(),
                ]);
            }
        }
        align(&lines)
    }
}

/// The stages of a family: a line each, a column for each number of destinations.
fn stages_lines(family: u8, rows: &[&stages::Row]) -> Vec<Vec<String>> {
    let mut columns: Vec<_> = rows.iter().map(|row| row.destinations).collect();
    columns.dedup();
    let mut lines = vec![vec![format!(
        "stage, IPv{family}, ns a packet, median (min)"
    )]];
    let names = columns.iter().map(|count| format!("D = {count}"));
    lines[0].extend(names.chain([String::new()]));
    for row in rows.iter().filter(|row| row.destinations == columns[0]) {
        let mut line = vec![row.stage.to_owned()];
        for &destinations in &columns {
            let cell = rows
                .iter()
                .find(|other| (other.stage, other.destinations) == (row.stage, destinations));
            line.push(cell.map_or_else(String::new, |cell| {
                let ns = cell.ns_per_packet;
                format!("{:.0} ({:.0})", ns.median, ns.min)
            }));
        }
        line.push(String::new());
        lines.push(line);
    }
    lines
}

fn number(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.2}"))
}

/// Lines of cells in columns: the first and the last to the left, numbers to the right.
pub fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut out = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            // Writing to a string cannot fail.
            let _ = match column {
                0 => write!(out, "{cell:width$}"),
                _ if column + 1 == columns => write!(out, "  {cell}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        text += out.trim_end();
        text.push('\n');
    }
    text
}
