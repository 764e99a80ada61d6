//! What is where in the figure.

/// Who sends.
pub const SOURCE: &str = "A";
/// Who receives.
pub const RECEIVERS: [&str; 3] = ["B", "C", "D"];
/// Routers that speak Xcast; each has tunnels to those beside it here.
pub const CAPABLE: [&str; 3] = ["X1", "X3", "X7"];
/// Routers that only forward.
pub(super) const PLAIN: [&str; 6] = ["R2", "R4", "R5", "R6", "R8", "R9"];
/// The Xcast routing table, by number.
pub const TABLE: u32 = 100;
/// A secret for a network that nobody else is in.
pub(super) const KEY: &str = "a secret of the figure";
/// UDP port of tunnels that cannot do without.
pub(super) const UDP_PORT: i64 = 4242;

/// Links, from the source on.
pub(super) const LINKS: [(&str, &str); 12] = [
    ("A", "X1"),
    ("X1", "R2"),
    ("R2", "X3"),
    ("X3", "R4"),
    ("R4", "B"),
    ("X3", "R5"),
    ("R5", "R6"),
    ("R6", "X7"),
    ("X7", "R8"),
    ("R8", "C"),
    ("X7", "R9"),
    ("R9", "D"),
];

/// The routers that one has tunnels to.
pub(super) fn neighbours(router: &str) -> Vec<&'static str> {
    match router {
        "X1" | "X7" => vec!["X3"],
        _ => vec!["X1", "X7"],
    }
}

/// Figure 9 of RFC 5058: the next hop of each host in each routing table.
pub const FIGURE_9: [(&str, &[(&str, &str)]); 3] = [
    ("X1", &[("B", "X3"), ("C", "X3"), ("D", "X3")]),
    ("X3", &[("A", "X1"), ("C", "X7"), ("D", "X7")]),
    ("X7", &[("A", "X3"), ("B", "X3")]),
];
