//! `cargo xtask partners`: what works between our nodes and nodes of others.
//!
//! The talks themselves are those of the tests of `xcast-overlay`, by its example `partners`; this
//! makes a table of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Deserialize;

use crate::{build, process, setup, testbed};

/// Arguments of `partners`.
#[derive(Debug, Args)]
pub struct Partners {
    /// Fail instead of installing what is missing
    #[arg(long)]
    no_setup: bool,
    /// One JSON document, a row for each partner, family, direction and operation
    #[arg(long)]
    json: bool,
    /// The table as it is in docs/overlays.md
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Stay together for so long, in minutes as in 20m, and see whether partners still list us
    #[arg(long, value_name = "TIME", value_parser = minutes)]
    soak: Option<f64>,
}

fn minutes(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('m').unwrap_or(text).parse().ok();
    number
        .filter(|minutes: &f64| *minutes > 0.0 && *minutes < 10_000.0)
        .ok_or_else(|| format!("{text:?} is no number of minutes, as in 20m"))
}

/// What came of an operation.
#[derive(Debug, Deserialize)]
struct Row {
    partner: String,
    family: String,
    asks: String,
    operation: String,
    works: bool,
    note: String,
}

/// Runs `cargo xtask partners`: 1 if something does not work.
///
/// # Errors
///
/// Not root, something is missing, or does not compile.
pub fn run(arguments: &Partners) -> Result<ExitCode> {
    testbed::require_root()?;
    setup::ensure(setup::Purpose::Test, arguments.no_setup)?;
    let mut command = build::cargo();
    command.args([
        "run",
        "--quiet",
        "--package",
        "xcast-overlay",
        "--features",
        "net",
    ]);
    command.args(["--example", "partners", "--"]);
    if let Some(minutes) = arguments.soak {
        command.args(["--soak", &minutes.to_string()]);
    }
    eprintln!("talking with libtorrent, Transmission and mainline");
    let text = process::output(&mut command)?;
    let rows: Vec<Row> = serde_json::from_str(&text).context("the example said no list")?;
    if arguments.json {
        crate::print(text.trim_end())?;
    } else if arguments.soak.is_some() {
        crate::print(&list(&rows))?;
    } else {
        crate::print(&table(&rows, arguments.markdown))?;
    }
    for row in rows.iter().filter(|row| !row.works) {
        eprintln!(
            "{} {} {} ask, {}: {}",
            row.partner, row.family, row.asks, row.operation, row.note
        );
    }
    Ok(match rows.iter().all(|row| row.works) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    })
}

/// A line for each row.
fn list(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let works = if row.works { "yes" } else { "NO" };
        format!(
            "| {} | {} | {works} | {} |",
            row.partner, row.family, row.note
        )
    };
    let lines: Vec<_> = rows.iter().map(line).collect();
    format!(
        "| partner | family | stays | |\n|---|---|---|---|\n{}",
        lines.join("\n")
    )
}

/// A row for each operation, a column for each partner, family and direction.
fn table(rows: &[Row], markdown: bool) -> String {
    let mut columns: Vec<(String, String, String)> = Vec::new();
    let mut operations: Vec<&str> = Vec::new();
    let mut cells = BTreeMap::new();
    let mut notes = BTreeSet::new();
    for row in rows {
        let column = (row.partner.clone(), row.family.clone(), row.asks.clone());
        if !columns.contains(&column) {
            columns.push(column.clone());
        }
        if !operations.contains(&row.operation.as_str()) {
            operations.push(&row.operation);
        }
        let works = if row.works { "yes" } else { "NO" };
        let marked = row.works && !row.note.is_empty();
        if marked {
            notes.insert(format!("{}, {}: {}", row.partner, row.operation, row.note));
        }
        let mark = if marked { " *" } else { "" };
        cells.insert((column, row.operation.as_str()), format!("{works}{mark}"));
    }
    let mut lines = Vec::new();
    let heads = columns.iter().map(|(partner, family, asks)| {
        let asks = if asks == "we" { "we ask" } else { "they ask" };
        format!("{partner} {family}, {asks}")
    });
    lines.push([vec!["operation".to_owned()], heads.collect()].concat());
    for operation in operations {
        let of = |column: &(String, String, String)| {
            let cell = cells.get(&(column.clone(), operation));
            cell.cloned().unwrap_or_else(|| "-".to_owned())
        };
        let cells = columns.iter().map(of).collect();
        lines.push([vec![operation.to_owned()], cells].concat());
    }
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let row = match markdown {
            true => format!("| {} |", line.join(" | ")),
            false => line.join("  "),
        };
        text += &(row + "\n");
        if markdown && number == 0 {
            text += &format!("|{}\n", "---|".repeat(line.len()));
        }
    }
    let notes = notes.iter().map(|note| format!("\n\\* {note}"));
    text + &notes.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_for_each_partner_family_and_direction() {
        let row = |asks: &str, operation: &str, works| Row {
            partner: "one".to_owned(),
            family: "IPv4".to_owned(),
            asks: asks.to_owned(),
            operation: operation.to_owned(),
            works,
            note: String::new(),
        };
        let rows = [row("we", "ping", true), row("they", "put", false)];
        let expected = "| operation | one IPv4, we ask | one IPv4, they ask |\n|---|---|---|\n\
                        | ping | yes | - |\n| put | - | NO |\n";
        assert_eq!(table(&rows, true), expected);
    }

    #[test]
    fn times() {
        assert_eq!((minutes("20m"), minutes("0.5")), (Ok(20.0), Ok(0.5)));
        assert!(minutes("0m").is_err() && minutes("soon").is_err());
    }
}
