//! `xcast-ctl check`: [`facts`] asks the kernel and the router, [`rules`] judge the answers.

mod facts;
mod ipv6;
mod rules;
mod udp;

use std::{fmt::Write as _, path::PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::{Outcome, print, print_json};
use crate::config::Config;

/// Find what would lose packets silently
///
/// Looks at the kernel, at every configured port and, if it exists, at the router's own interface.
/// Works with and without a running router; with one, it also looks at its counters.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl check --config xcast.toml
  xcast-ctl check --config xcast.toml --json | jq -r '.findings[] | select(.severity == \"fault\")'

EXIT STATUS
  0  no fault, perhaps warnings
  1  at least one fault
  2  error")]
pub(super) struct Args {
    /// Configuration file of the router
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,

    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// Packets will be lost, or the router cannot run.
    Fault,
    /// Packets may be lost, depending on what cannot be seen from here.
    Warning,
    /// Looked at and found good.
    Ok,
}

/// What a check found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// Stable name of the check.
    check: &'static str,
    /// How bad it is.
    severity: Severity,
    /// The interface it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    /// What was found, and what it does to packets.
    what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// The document of `xcast-ctl check --json`.
#[derive(Debug, Serialize)]
struct Report {
    /// Number of faults.
    faults: usize,
    /// Number of warnings.
    warnings: usize,
    /// Everything that was looked at.
    findings: Vec<Finding>,
}

pub(super) fn run(args: &Args) -> Result<Outcome> {
    let config = Config::load(&args.config)?;
    let findings = rules::judge(&facts::Facts::gather(&config)?);
    let count = |severity| {
        let found = findings
            .iter()
            .filter(|finding| finding.severity == severity);
        found.count()
    };
    let report = Report {
        faults: count(Severity::Fault),
        warnings: count(Severity::Warning),
        findings,
    };
    if args.json {
        print_json(&report)?;
    } else {
        print(&render(&report))?;
    }
    Ok(if report.faults == 0 {
        Outcome::Done
    } else {
        Outcome::No
    })
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Fault => "FAULT",
            Severity::Warning => "warning",
            Severity::Ok => "ok",
        };
        let subject = match &finding.interface {
            Some(interface) => format!("{interface}: "),
            None => String::new(),
        };
        let _ = writeln!(text, "{severity:<7}  {subject}{}", finding.what);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "{:<7}  -> {remedy}", "");
        }
    }
    let plural = |n| if n == 1 { "" } else { "s" };
    let _ = writeln!(
        text,
        "{} fault{}, {} warning{}",
        report.faults,
        plural(report.faults),
        report.warnings,
        plural(report.warnings)
    );
    text
}
