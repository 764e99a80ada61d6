//! What verbs show to people.

use std::{collections::BTreeMap, fmt::Write as _};

use xcast_overlay::{
    kademlia::{FamilyStatus, MethodCounters},
    krpc::Family,
};

use super::message::{Item, NodeStatus, Peer, Report, Service};
use crate::output::table::{Align, Table, or_dash, yes_no};

/// Name of a family.
fn name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}

/// How a node does, in a line.
pub(super) fn one_line(status: &NodeStatus) -> String {
    let mut line = format!("{} at {}:", status.node.id, status.listens);
    let mut separator = "";
    for family in &status.node.families {
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            "{separator} {} nodes of {}",
            family.nodes,
            name(family.family)
        );
        if let Some(why) = family.why_empty {
            let _ = write!(line, " ({why})");
        }
        separator = ",";
    }
    let _ = write!(line, "; {}", uplink(status));
    line
}

fn uplink(status: &NodeStatus) -> String {
    match &status.unicast_because {
        Some(why) if !status.uplink.starts_with("unicast") => {
            format!("{}; at the moment unicast: {why}", status.uplink)
        }
        _ => status.uplink.clone(),
    }
}

/// All about a node.
pub(super) fn status(status: &NodeStatus) -> String {
    let node = &status.node;
    let mut table = Table::plain([Align::Left, Align::Left]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("node", node.id.to_string());
    row("listens", status.listens.to_string());
    let external: Vec<_> = node.external.iter().map(ToString::to_string).collect();
    let external = (!external.is_empty()).then(|| external.join(" and "));
    row("seen at", or_dash(external));
    let state = match (status.leaving, status.joined) {
        (true, _) => "leaving",
        (false, true) => "joined",
        (false, false) => "joining",
    };
    row("state", state.to_owned());
    row("process", status.pid.to_string());
    row("up for", format!("{} s", status.uptime_seconds));
    row("sends", uplink(status));
    row("read-only", yes_no(node.read_only));
    let (keys, peers, items) = node.stored;
    row(
        "stores",
        format!("{peers} addresses under {keys} keys, and {items} items"),
    );
    row("under way", format!("{} operations", node.operations));
    let sent = &status.sent;
    row(
        "sent",
        format!(
            "{} messages to {} receivers as {} xcast packets and {} datagrams",
            sent.messages, sent.receivers, sent.xcast_packets, sent.datagrams
        ),
    );
    row(
        "combined",
        format!(
            "{} messages, which waited {} us on average",
            sent.combined, status.mean_delay_us
        ),
    );
    row("received", format!("{} datagrams", sent.received));
    let asked = &node.fanouts;
    row(
        "requests",
        format!(
            "{} to {} receivers: {} answered, {} late, {} not; {} rounds repaired by unicast",
            asked.fanouts, asked.asked, asked.answered, asked.late, asked.silent, asked.repaired
        ),
    );
    row(
        "paced",
        format!(
            "{} waited for a receiver's budget, {} were over it",
            asked.paced, asked.over_budget
        ),
    );
    let ignored = asked.unknown_transaction + asked.wrong_source;
    row(
        "ignored",
        format!("{ignored} answers that nobody waited for"),
    );
    let served = &node.served;
    row(
        "served",
        format!(
            "{} queries answered, {} refused, {} over budget, {} unanswered since read-only, {} malformed",
            served.answered, served.refused, served.over_budget, served.read_only, served.malformed
        ),
    );
    for service in &status.published {
        row("publishes", format!("{} {}", service.kind, service.uri));
    }
    let families = node.families.iter().map(family);
    format!("{table}{}", families.collect::<String>())
}

/// One family's table.
fn family(status: &FamilyStatus) -> String {
    let mut text = format!("\n{}: {} nodes", name(status.family), status.nodes);
    if let Some(why) = status.why_empty {
        // Writing to a string cannot fail.
        let _ = write!(text, ", because {why}");
    }
    text.push('\n');
    if !status.buckets.is_empty() {
        let mut table = Table::new([
            ("BUCKET", Align::Right),
            ("GOOD", Align::Right),
            ("QUESTIONABLE", Align::Right),
            ("BAD", Align::Right),
            ("WAITING", Align::Right),
        ]);
        for bucket in &status.buckets {
            table.row([
                bucket.prefix_bits.to_string(),
                bucket.good.to_string(),
                bucket.questionable.to_string(),
                bucket.bad.to_string(),
                bucket.replacements.to_string(),
            ]);
        }
        text += &table.to_string();
    }
    text += &requests(&status.requests);
    for (method, times) in &status.served {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{times} times {method} was answered");
    }
    for (reason, times) in &status.refusals {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{times} times a node was not taken: {reason}");
    }
    text
}

fn requests(requests: &BTreeMap<xcast_overlay::kademlia::Method, MethodCounters>) -> String {
    if requests.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        ("REQUEST", Align::Left),
        ("ASKED", Align::Right),
        ("ANSWERED", Align::Right),
        ("REFUSED", Align::Right),
        ("SILENT", Align::Right),
    ]);
    for (method, counters) in requests {
        table.row([
            method.to_string(),
            counters.asked.to_string(),
            counters.answered.to_string(),
            counters.refused.to_string(),
            counters.silent.to_string(),
        ]);
    }
    table.to_string()
}

/// The nodes of the tables, and why there are none.
pub(super) fn table(status: &NodeStatus) -> String {
    let mut text = String::new();
    for of in &status.node.families {
        text += family(of).trim_start();
        let rows = status.table.iter().filter(|row| row.family == of.family);
        let rows: Vec<_> = rows.collect();
        if rows.is_empty() {
            continue;
        }
        let mut table = Table::new([
            ("BUCKET", Align::Right),
            ("NODE", Align::Left),
            ("ADDRESS", Align::Left),
            ("RTT", Align::Right),
            ("SILENT", Align::Right),
        ]);
        for row in rows {
            let rtt = row.rtt_us.map(|us| format!("{:.1} ms", us as f64 / 1e3));
            table.row([
                row.prefix_bits.to_string(),
                row.peer.id.to_string(),
                row.peer.address.to_string(),
                or_dash(rtt),
                row.silent_in_a_row.to_string(),
            ]);
        }
        text += &table.to_string();
    }
    text
}

/// What an operation did, in a line.
fn how(report: &Report) -> String {
    let Report {
        took_ms,
        rounds,
        asked,
        answered,
        silent,
        ..
    } = report;
    let mut line = format!(
        "{answered} of {asked} nodes answered in {rounds} rounds and {took_ms:.1} ms, {silent} did not\n"
    );
    for (from, error) in &report.refused {
        // Writing to a string cannot fail.
        let _ = writeln!(line, "{from} refused: {error}");
    }
    line
}

fn nodes(nodes: &[Peer]) -> String {
    let line = |node: &Peer| format!("{}  {}\n", node.id, node.address);
    nodes.iter().map(line).collect()
}

/// Nodes that were found.
pub(super) fn found_nodes(report: &Report) -> String {
    nodes(&report.nodes) + &how(report)
}

/// Who is stored under a key.
pub(super) fn found_peers(report: &Report) -> String {
    let peers: String = report
        .peers
        .iter()
        .map(|peer| format!("{peer}\n"))
        .collect();
    peers + &how(report)
}

/// What was found under several keys.
pub(super) fn found_under_keys(report: &Report) -> String {
    let mut text = String::new();
    for (key, under) in &report.keys {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key}");
        for peer in &under.peers {
            let _ = writeln!(text, "  peer  {peer}");
        }
        if let Some(found) = &under.item {
            let _ = writeln!(text, "  item  {}", item(found));
        }
        for node in &under.nodes {
            let _ = writeln!(text, "  node  {}  {}", node.id, node.address);
        }
    }
    text + &how(report)
}

fn item(item: &Item) -> String {
    item.text
        .clone()
        .unwrap_or_else(|| format!("{} (bencoded)", item.value))
}

/// Where something was stored.
pub(super) fn stored(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    if let Some(key) = report.key {
        let _ = writeln!(text, "key         {key}");
    }
    if let Some(found) = &report.item
        && let (Some(public), Some(seq)) = (&found.public_key, found.seq)
    {
        let _ = writeln!(text, "public key  {public}\nseq         {seq}");
    }
    let _ = writeln!(text, "{} nodes stored it", report.stored);
    if report.keys_left_out > 0 {
        let _ = writeln!(
            text,
            "{} words or parts of words are not found by: it has more than there is room for",
            report.keys_left_out
        );
    }
    text + &how(report)
}

/// An item that was found, or not.
pub(super) fn found_item(report: &Report) -> String {
    match &report.item {
        Some(found) => format!("{}\n", item(found)),
        None => format!("nothing found: {}", how(report)),
    }
}

/// Services that were found.
pub(super) fn services(report: &Report) -> String {
    let mut table = Table::new([
        ("TYPE", Align::Left),
        ("URI", Align::Left),
        ("DISTANCE", Align::Right),
        ("PLACE", Align::Left),
        ("ATTRIBUTES", Align::Left),
    ]);
    for service in &report.services {
        let Service {
            kind,
            uri,
            attributes,
            place,
            distance_m,
            ..
        } = service;
        let attributes: Vec<_> = attributes
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        table.row([
            kind.clone(),
            uri.clone(),
            or_dash(distance_m.map(|metres| format!("{:.1} km", metres / 1e3))),
            or_dash(place.map(|(latitude, longitude)| format!("{latitude},{longitude}"))),
            attributes.join(" "),
        ]);
    }
    match report.services.is_empty() {
        true => format!("nothing found: {}", how(report)),
        false => table.to_string(),
    }
}
