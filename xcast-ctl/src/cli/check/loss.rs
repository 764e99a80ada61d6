//! Copies that the running router lost.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding, ok},
};
use crate::report;

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(running) = &facts.running else {
        return;
    };
    let mut lossless = true;
    for port in &running.stats.ports {
        let loss = report::loss(&port.counters);
        let drops = port.driver_drops.unwrap_or(0);
        let mut add = |check, what: String, remedy: &str| {
            lossless = false;
            findings.push(Finding {
                interface: Some(port.name.clone()),
                ..finding(check, Severity::Warning, None, what, remedy)
            });
        };
        if loss > 0 {
            add(
                "loss",
                format!("{loss} copies were planned for this port but did not reach its driver"),
                "fix the faults above first; if the number still grows, the port is overloaded",
            );
        }
        if drops > 0 {
            add(
                "driver_drops",
                format!(
                    "the driver dropped {drops} copies, most likely because its queue was full"
                ),
                "use more or longer queues (ethtool -L, ethtool -G), or send fewer packets",
            );
        }
    }
    if lossless {
        findings.push(ok("loss", None, "every copy that was planned was sent"));
    }
}
