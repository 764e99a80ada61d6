//! What came of a fault, for people and programs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::family::Family;

/// What came of one fault, for one family.
#[derive(Clone, Debug)]
pub struct Row {
    /// Name of the fault.
    pub name: String,
    /// The fault in words.
    pub what: String,
    /// Family of the addresses.
    pub family: Family,
    /// Messages sent to each target, by either stream.
    pub sent: usize,
    /// What was sent in Xcast packets.
    pub xcast: Side,
    /// What the kernel forwarded beside it.
    pub unicast: Side,
    /// In the end everybody got everything again.
    pub recovered: bool,
    /// What the router counted meanwhile, apart from what it counts for each packet.
    pub counters: BTreeMap<String, u64>,
    /// What the router warned of meanwhile.
    pub log: Vec<String>,
    /// How long something took, where that is of interest.
    pub took: Vec<(&'static str, Duration)>,
}

/// What the targets got of one stream.
#[derive(Clone, Debug)]
pub struct Side {
    /// Of each target.
    pub shares: Vec<Share>,
}

/// What one target got.
#[derive(Clone, Debug)]
pub struct Share {
    /// Name of the target.
    pub target: String,
    /// It was to lose nothing.
    pub unharmed: bool,
    /// Messages that did not come.
    pub lost: usize,
    /// Messages that came more than once.
    pub twice: usize,
    /// How long messages were lost, from when they could be delivered again.
    pub recovery: Duration,
}

impl Side {
    /// Messages that did not come, each target's counted for itself.
    pub fn lost(&self) -> usize {
        self.shares.iter().map(|share| share.lost).sum()
    }

    /// Messages that came more than once.
    pub fn twice(&self) -> usize {
        self.shares.iter().map(|share| share.twice).sum()
    }

    /// The longest time that a target had to wait.
    pub fn recovery(&self) -> Duration {
        let all = self.shares.iter().map(|share| share.recovery);
        all.max().unwrap_or_default()
    }

    /// "0", or what each target lost that lost something.
    fn losses(&self) -> String {
        let harmed = self.shares.iter().filter(|share| share.lost > 0);
        let texts: Vec<_> = harmed
            .map(|share| format!("{} ({})", share.lost, share.target))
            .collect();
        match texts.as_slice() {
            [] => "0".to_owned(),
            texts => texts.join(", "),
        }
    }

    fn recovery_text(&self) -> String {
        match self.recovery() {
            Duration::ZERO => "-".to_owned(),
            time => format!("{:.2} s", time.as_secs_f64()),
        }
    }

    fn json(&self) -> Value {
        let shares = self.shares.iter().map(|share| {
            json!({
                "target": share.target,
                "unharmed": share.unharmed,
                "lost": share.lost,
                "twice": share.twice,
                "recovery_seconds": share.recovery.as_secs_f64(),
            })
        });
        json!({
            "lost": self.lost(),
            "twice": self.twice(),
            "recovery_seconds": self.recovery().as_secs_f64(),
            "targets": shares.collect::<Vec<_>>(),
        })
    }
}

impl Row {
    /// Why the router did not do what it promises; `None` if it did.
    pub fn failure(&self) -> Option<String> {
        let harmed = self
            .xcast
            .shares
            .iter()
            .find(|share| share.unharmed && share.lost > 0);
        if let Some(share) = harmed {
            let Share { target, lost, .. } = share;
            return Some(format!(
                "{target} lost {lost} messages and was to lose none"
            ));
        }
        match self.xcast.twice() {
            0 if self.recovered => None,
            0 => Some("messages are still lost a minute later".to_owned()),
            twice => Some(format!("{twice} messages came more than once")),
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "fault": self.name,
            "what": self.what,
            "family": family_name(self.family),
            "sent": self.sent,
            "xcast": self.xcast.json(),
            "unicast": self.unicast.json(),
            "recovered": self.recovered,
            "failure": self.failure(),
            "counters": self.counters,
            "log": self.log,
            "seconds": self.took.iter().map(|(what, time)| ((*what).to_owned(), time.as_secs_f64().into())).collect::<serde_json::Map<_, _>>(),
        })
    }

    /// A line of the table for people, with lines below it about what was counted and logged.
    pub fn text(&self) -> String {
        let name = format!("{} ({})", self.name, family_name(self.family));
        let mut text = line([
            &name,
            &self.xcast.losses(),
            &self.unicast.losses(),
            &self.xcast.recovery_text(),
            &self.unicast.recovery_text(),
            &self.xcast.twice().to_string(),
        ]);
        let counted = self.counted();
        if !counted.is_empty() {
            text += &format!("    counted: {counted}\n");
        }
        for line in self.times() {
            text += &format!("    {line}\n");
        }
        for line in &self.log {
            text += &format!("    logged: {line}\n");
        }
        if let Some(failure) = self.failure() {
            text += &format!("    FAILED: {failure}\n");
        }
        text
    }

    fn times(&self) -> impl Iterator<Item = String> {
        let took = self.took.iter();
        took.map(|(what, time)| format!("{what}: {:.1} s", time.as_secs_f64()))
    }

    fn counted(&self) -> String {
        let counters = self.counters.iter();
        let texts: Vec<_> = counters
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        texts.join(", ")
    }
}

/// The line above those of [`Row::text`].
pub fn heading() -> String {
    line([
        "FAULT",
        "XCAST LOST",
        "UNICAST LOST",
        "RECOVERED",
        "UNICAST",
        "TWICE",
    ])
}

fn line([name, lost, unicast_lost, recovery, unicast_recovery, twice]: [&str; 6]) -> String {
    let text = format!(
        "{name:<26} {lost:<26} {unicast_lost:<26} {recovery:>9} {unicast_recovery:>9} {twice:>5}"
    );
    format!("{}\n", text.trim_end())
}

/// A table in Markdown, a row for each fault and the families side by side.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| fault | family | Xcast lost | unicast lost | Xcast recovered | unicast recovered | twice | counted, logged |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let mut told: Vec<_> = row.times().collect();
        told.extend(row.log.iter().cloned());
        let counted = row.counted();
        if !counted.is_empty() {
            told.insert(0, counted);
        }
        // A bar would end the cell.
        let told = told.join("; ").replace('|', "\\|");
        text += &format!(
            "| {} (`{}`) | {} | {} | {} | {} | {} | {} | {told} |\n",
            row.what,
            row.name,
            family_name(row.family),
            row.xcast.losses(),
            row.unicast.losses(),
            row.xcast.recovery_text(),
            row.unicast.recovery_text(),
            row.xcast.twice(),
        );
    }
    text
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(lost: usize, unharmed: bool) -> Row {
        let side = |lost| Side {
            shares: vec![Share {
                target: "B".to_owned(),
                unharmed,
                lost,
                twice: 0,
                recovery: Duration::from_millis(10 * lost as u64),
            }],
        };
        Row {
            name: "killed".to_owned(),
            what: "controller killed".to_owned(),
            family: Family::Ipv4,
            sent: 100,
            xcast: side(lost),
            unicast: side(0),
            recovered: true,
            counters: BTreeMap::from([("stack_local".to_owned(), 3)]),
            log: vec!["a | b".to_owned()],
            took: Vec::new(),
        }
    }

    #[test]
    fn a_target_that_was_to_lose_nothing_and_did_is_a_failure() {
        assert_eq!(row(0, true).failure(), None);
        assert_eq!(row(3, false).failure(), None);
        let failure = row(3, true).failure().unwrap();
        assert!(failure.contains("B lost 3"), "{failure}");
        let failure = Row {
            recovered: false,
            ..row(0, true)
        }
        .failure()
        .unwrap();
        assert!(failure.contains("still lost"), "{failure}");
        let mut twice = row(0, false);
        twice.xcast.shares[0].twice = 1;
        assert!(twice.failure().is_some());
    }

    #[test]
    fn a_row_in_text_and_in_markdown() {
        let text = row(3, true).text();
        let first = "killed (IPv4)              3 (B)                      0                             0.03 s         -     0\n";
        assert!(text.starts_with(first), "{text}");
        assert!(
            text.contains("counted: stack_local 3") && text.contains("FAILED"),
            "{text}"
        );
        let table = markdown(&[row(0, true)]);
        let expected = "| controller killed (`killed`) | IPv4 | 0 | 0 | - | - | 0 | stack_local 3; a \\| b |\n";
        assert!(table.ends_with(expected), "{table}");
    }
}
