//! Paths to destinations, and the tree they form.

use std::{fmt::Write as _, net::IpAddr};

use serde::Serialize;

/// What the Xcast probe was when it came to a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    /// Still an Xcast packet.
    Xcast,
    /// Ordinary unicast.
    Unicast,
    /// Nobody answered.
    Unknown,
}

/// A hop of a path.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Hop {
    /// Its distance, as a hop limit.
    pub(super) ttl: u8,
    /// Who answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<IpAddr>,
    /// How long that took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rtt_ms: Option<f64>,
    /// What the Xcast probe was when it came here.
    pub(super) form: Form,
    /// Somebody else answered the ordinary probe.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) apart: bool,
    /// It answered that the destination is unreachable.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) unreachable: bool,
}

/// The way to a destination.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Path {
    /// The destination.
    pub(super) destination: IpAddr,
    /// The Xcast probe arrived and was answered.
    pub(super) reached: bool,
    /// The hops, in their order.
    pub(super) hops: Vec<Hop>,
}

impl Path {
    /// A path of no hops yet.
    pub(super) fn new(destination: IpAddr) -> Self {
        Self {
            destination,
            reached: false,
            hops: Vec::new(),
        }
    }
}

/// A place in the tree, which several paths may share.
struct Node {
    hop: Hop,
    /// The destination, if a path ends here.
    end: Option<(IpAddr, bool)>,
    below: Vec<Self>,
}

impl Node {
    fn is(&self, hop: &Hop) -> bool {
        (self.hop.address, self.hop.form) == (hop.address, hop.form) && self.end.is_none()
    }

    fn text(&self) -> String {
        let mut text = self
            .hop
            .address
            .map_or_else(|| "*".to_owned(), |address| address.to_string());
        text += match (self.end, self.hop.form) {
            (Some((destination, _)), _) if self.hop.address != Some(destination) => "",
            (Some((_, true)), _) => "  reached",
            (Some((_, false)), _) => "  answers, but not to the Xcast packet",
            (None, Form::Xcast) => "  Xcast",
            (None, Form::Unicast) => "  unicast",
            (None, Form::Unknown) => "",
        };
        if let Some(rtt) = self.hop.rtt_ms {
            // Writing to a string cannot fail.
            let _ = write!(text, "  {rtt:.3} ms");
        }
        if self.hop.apart {
            text += "  not on the ordinary path";
        }
        if let Some((destination, _)) = self.end
            && self.hop.address != Some(destination)
        {
            let why = match self.hop.unreachable {
                true => "reports that it cannot reach",
                false => "is the last known hop towards",
            };
            let _ = write!(text, "  {why} {destination}");
        }
        text
    }
}

/// Draws the tree of these paths.
pub(super) fn draw(start: &str, paths: &[Path]) -> String {
    let mut top = Vec::new();
    for path in paths {
        insert(&mut top, path);
    }
    let mut text = format!("{start}\n");
    lines(&top, "", &mut text);
    text += "\nXcast: the packet was still Xcast here (inferred: the ordinary probe was answered, the \
             Xcast probe was not)\nunicast: it had become ordinary unicast before (measured: the \
             Xcast probe was answered)\n";
    if paths
        .iter()
        .flat_map(|path| &path.hops)
        .any(|hop| hop.apart)
    {
        text += "not on the ordinary path: somebody else answered the ordinary probe; the packet passed routers inside \
                 a tunnel, or\nthe paths differ. Xcast hops before it are named after the ordinary path\n";
    }
    text
}

fn insert(mut nodes: &mut Vec<Node>, path: &Path) {
    // Unknown hops at the end are left out.
    let known = path.hops.iter().rposition(|hop| hop.address.is_some());
    let hops = &path.hops[..known.map_or(0, |last| last + 1)];
    for (at, hop) in hops.iter().enumerate() {
        let end = (at + 1 == hops.len()).then_some((path.destination, path.reached));
        let place = match nodes.iter().position(|node| end.is_none() && node.is(hop)) {
            Some(place) => place,
            None => {
                nodes.push(Node {
                    hop: *hop,
                    end,
                    below: Vec::new(),
                });
                nodes.len() - 1
            }
        };
        nodes = &mut nodes[place].below;
    }
    if hops.is_empty() {
        let hop = Hop {
            ttl: 0,
            address: None,
            rtt_ms: None,
            form: Form::Unknown,
            apart: false,
            unreachable: false,
        };
        nodes.push(Node {
            hop,
            end: Some((path.destination, false)),
            below: Vec::new(),
        });
    }
}

fn lines(nodes: &[Node], indent: &str, text: &mut String) {
    for (at, node) in nodes.iter().enumerate() {
        let (branch, below) = match at + 1 == nodes.len() {
            true => ("└─ ", "   "),
            false => ("├─ ", "│  "),
        };
        let _ = writeln!(text, "{indent}{branch}{}", node.text());
        lines(&node.below, &format!("{indent}{below}"), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(destination: &str, reached: bool, hops: &[(&str, Form)]) -> Path {
        let hop = |(at, (address, form)): (usize, &(&str, Form))| Hop {
            ttl: at as u8 + 1,
            address: address.parse().ok(),
            rtt_ms: (*address != "*").then_some(0.5),
            form: *form,
            apart: false,
            unreachable: false,
        };
        Path {
            destination: destination.parse().unwrap(),
            reached,
            hops: hops.iter().enumerate().map(hop).collect(),
        }
    }

    #[test]
    fn shared_hops_are_drawn_once() {
        use Form::{Unicast, Unknown, Xcast};
        let paths = [
            path(
                "10.0.3.2",
                true,
                &[
                    ("10.0.0.1", Xcast),
                    ("10.0.1.1", Unicast),
                    ("10.0.3.2", Unicast),
                ],
            ),
            path(
                "10.0.7.2",
                true,
                &[
                    ("10.0.0.1", Xcast),
                    ("10.0.5.1", Xcast),
                    ("10.0.7.2", Unicast),
                ],
            ),
            path(
                "10.0.8.2",
                false,
                &[
                    ("10.0.0.1", Xcast),
                    ("10.0.5.1", Xcast),
                    ("10.0.8.2", Xcast),
                ],
            ),
            path("10.0.9.2", false, &[("10.0.0.1", Xcast), ("*", Unknown)]),
        ];
        let drawn = draw("A", &paths);
        let tree = drawn.split("\n\n").next().unwrap();
        assert_eq!(
            tree,
            "\
A
├─ 10.0.0.1  Xcast  0.500 ms
│  ├─ 10.0.1.1  unicast  0.500 ms
│  │  └─ 10.0.3.2  reached  0.500 ms
│  └─ 10.0.5.1  Xcast  0.500 ms
│     ├─ 10.0.7.2  reached  0.500 ms
│     └─ 10.0.8.2  answers, but not to the Xcast packet  0.500 ms
└─ 10.0.0.1  0.500 ms  is the last known hop towards 10.0.9.2"
        );
    }

    #[test]
    fn a_hop_behind_a_tunnel() {
        use Form::{Unicast, Xcast};
        let mut behind = path(
            "10.0.3.2",
            true,
            &[("10.0.0.1", Xcast), ("10.0.3.2", Unicast)],
        );
        behind.hops[1].apart = true;
        let drawn = draw("A", &[behind]);
        assert!(
            drawn.contains("10.0.3.2  reached  0.500 ms  not on the ordinary path\n"),
            "{drawn}"
        );
        assert!(drawn.contains("inside a tunnel"), "{drawn}");
    }

    #[test]
    fn a_destination_nobody_knows_of() {
        let drawn = draw("A", &[path("10.0.9.2", false, &[])]);
        assert!(
            drawn.contains("└─ *  is the last known hop towards 10.0.9.2"),
            "{drawn}"
        );
    }
}
