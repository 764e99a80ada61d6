//! What the demo found out, as a picture and as JSON.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use serde_json::Number;

use crate::{messages::Delivery, testbed::Traffic};

/// One link and what crossed it while all messages were sent, one way and the other.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// The end nearer to the source.
    pub(super) from: String,
    /// The end farther from it.
    pub(super) to: String,
    pub(super) xcast: Traffic,
    pub(super) unicast: Traffic,
}

/// The demo's result; links in the order of a walk from the source, which is the first one's end.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) messages: u64,
    pub(super) links: Vec<Link>,
    pub(super) delivered: BTreeMap<String, Delivery>,
}

/// The JSON document. Figures of links are per message.
#[derive(Serialize)]
struct Document<'a> {
    messages: u64,
    xcast: Totals,
    unicast: Totals,
    links: Vec<DocumentLink<'a>>,
    delivered: BTreeMap<&'a str, u64>,
}

#[derive(Serialize)]
struct Totals {
    link_packets: Number,
    link_bytes: Number,
    first_link_packets: Number,
}

#[derive(Serialize)]
struct DocumentLink<'a> {
    from: &'a str,
    to: &'a str,
    xcast_packets: Number,
    xcast_bytes: Number,
    unicast_packets: Number,
    unicast_bytes: Number,
}

impl Report {
    /// Whether every host got every message once.
    pub(super) fn complete(&self) -> bool {
        let complete = |host: &Delivery| host.messages == self.messages && host.repeated == 0;
        self.delivered.values().all(complete)
    }

    pub(super) fn json(&self) -> Result<serde_json::Value> {
        let totals = |traffic: fn(&Link) -> Traffic| {
            let all = self.total(traffic);
            let first = self.links.first().map(traffic).unwrap_or_default();
            Totals {
                link_packets: self.per_message(all.packets),
                link_bytes: self.per_message(all.bytes),
                first_link_packets: self.per_message(first.packets),
            }
        };
        let links = self.links.iter().map(|link| DocumentLink {
            from: &link.from,
            to: &link.to,
            xcast_packets: self.per_message(link.xcast.packets),
            xcast_bytes: self.per_message(link.xcast.bytes),
            unicast_packets: self.per_message(link.unicast.packets),
            unicast_bytes: self.per_message(link.unicast.bytes),
        });
        let delivered = self.delivered.iter();
        let document = Document {
            messages: self.messages,
            xcast: totals(|link| link.xcast),
            unicast: totals(|link| link.unicast),
            links: links.collect(),
            delivered: delivered
                .map(|(host, delivery)| (host.as_str(), delivery.messages))
                .collect(),
        };
        Ok(serde_json::to_value(&document)?)
    }

    pub(super) fn text(&self) -> String {
        let mut lines = vec![
            format!("{:26}{:^18}    {:^18}", "", "Xcast", "unicast"),
            format!(
                "{:26}{:>9}{:>9}    {:>9}{:>9}",
                "per message, by link", "packets", "bytes", "packets", "bytes"
            ),
        ];
        if let Some(first) = self.links.first() {
            lines.push(first.from.clone());
            self.branches(&first.from, "", &mut lines);
        }
        let (xcast, unicast) = (
            self.total(|link| link.xcast),
            self.total(|link| link.unicast),
        );
        lines.push(self.row("all links", xcast, unicast));
        lines.push(String::new());
        for (host, delivery) in &self.delivered {
            let example = delivery.example.as_ref();
            let example =
                example.map(|(source, text)| format!(", the first one from {source}: \"{text}\""));
            let repeated = match delivery.repeated {
                0 => String::new(),
                n => format!(", {n} of them more than once"),
            };
            lines.push(format!(
                "{host} received {} of {} messages by Xcast{repeated}{}",
                delivery.messages,
                self.messages,
                example.unwrap_or_default()
            ));
        }
        lines.push(String::new());
        lines.push(format!(
            "Xcast saved {} of the packets and {} of the bytes: {} link transmissions instead of {},",
            percent(xcast.packets, unicast.packets),
            percent(xcast.bytes, unicast.bytes),
            self.per_message(xcast.packets),
            self.per_message(unicast.packets),
        ));
        if let Some(first) = self.links.first() {
            lines.push(format!(
                "and {} instead of {} on the first link.",
                self.per_message(first.xcast.packets),
                self.per_message(first.unicast.packets),
            ));
        }
        lines.join("\n")
    }

    /// Draws what is behind a node, a line per link.
    fn branches(&self, node: &str, indent: &str, lines: &mut Vec<String>) {
        let links: Vec<_> = self.links.iter().filter(|link| link.from == node).collect();
        for (index, link) in links.iter().enumerate() {
            let (branch, rest) = match index + 1 == links.len() {
                true => ("└─", "  "),
                false => ("├─", "│ "),
            };
            lines.push(self.row(
                &format!("{indent}{branch}{}", link.to),
                link.xcast,
                link.unicast,
            ));
            self.branches(&link.to, &format!("{indent}{rest}"), lines);
        }
    }

    fn row(&self, name: &str, xcast: Traffic, unicast: Traffic) -> String {
        let [a, b, c, d] = [xcast.packets, xcast.bytes, unicast.packets, unicast.bytes]
            .map(|figure| self.per_message(figure).to_string());
        format!("{name:26}{a:>9}{b:>9}    {c:>9}{d:>9}")
    }

    fn total(&self, traffic: impl Fn(&Link) -> Traffic) -> Traffic {
        self.links
            .iter()
            .map(traffic)
            .fold(Traffic::default(), |sum, link| Traffic {
                packets: sum.packets + link.packets,
                bytes: sum.bytes + link.bytes,
            })
    }

    /// A whole number if it is one. Messages differ in length, by the digits of their numbers.
    fn per_message(&self, figure: u64) -> Number {
        if figure.is_multiple_of(self.messages) {
            return (figure / self.messages).into();
        }
        let hundredths = (figure * 100 + self.messages / 2) / self.messages;
        Number::from_f64(hundredths as f64 / 100.0).unwrap_or_else(|| 0.into())
    }
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "nothing".to_owned(),
        _ => format!(
            "{} %",
            (whole.saturating_sub(part) * 100 + whole / 2) / whole
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(report: &Report) -> serde_json::Value {
        report.json().unwrap()
    }

    fn report() -> Report {
        let link = |from: &str, to: &str, xcast, unicast| Link {
            from: from.to_owned(),
            to: to.to_owned(),
            xcast: Traffic {
                packets: xcast,
                bytes: 100 * xcast,
            },
            unicast: Traffic {
                packets: unicast,
                bytes: 70 * unicast,
            },
        };
        let delivery = Delivery {
            messages: 10,
            repeated: 0,
            example: Some(("10.77.1.1:5058".to_owned(), "message 1".to_owned())),
        };
        Report {
            messages: 10,
            links: vec![
                link("A", "R1", 10, 20),
                link("R1", "B", 10, 10),
                link("R1", "C", 10, 10),
            ],
            delivered: ["B", "C"]
                .map(|host| (host.to_owned(), delivery.clone()))
                .into(),
        }
    }

    #[test]
    fn json_has_figures_per_message() {
        let json = json(&report());
        assert_eq!(json["messages"], 10);
        assert_eq!(json["xcast"]["link_packets"], 3);
        assert_eq!(json["xcast"]["first_link_packets"], 1);
        assert_eq!(json["unicast"]["link_packets"], 4);
        assert_eq!(json["unicast"]["link_bytes"], 280);
        assert_eq!(json["links"][0]["from"], "A");
        assert_eq!(json["links"][0]["unicast_packets"], 2);
        assert_eq!(json["delivered"]["B"], 10);
    }

    #[test]
    fn uneven_figures_are_not_rounded_away() {
        let mut report = report();
        report.links[0].xcast.packets = 11;
        assert_eq!(json(&report)["links"][0]["xcast_packets"], 1.1);
    }

    #[test]
    fn the_tree_has_a_line_per_link() {
        let text = report().text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[2], "A");
        assert_eq!(
            lines[3],
            "└─R1                              1      100            2      140"
        );
        assert!(lines[4].starts_with("  ├─B "));
        assert!(lines[5].starts_with("  └─C "));
        assert!(lines[6].starts_with("all links"));
        assert!(text.contains("B received 10 of 10 messages by Xcast, the first one from 10.77.1.1:5058: \"message 1\""));
        assert!(text.contains("saved 25 % of the packets"));
    }

    #[test]
    fn lost_and_repeated_messages_are_no_success() {
        assert!(report().complete());
        for change in [
            |host: &mut Delivery| host.messages = 9,
            |host: &mut Delivery| host.repeated = 1,
        ] {
            let mut report = report();
            report.delivered.values_mut().for_each(change);
            assert!(!report.complete());
        }
    }
}
