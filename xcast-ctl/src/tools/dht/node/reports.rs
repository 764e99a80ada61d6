//! Reports of the protocol as verbs show them.

use std::time::{Duration, Instant};

use xcast_overlay::{
    kademlia::{ManyReport, Node, Report as NodeReport},
    krpc::{Contact, Item as NodeItem, bencode::Bencoded},
    net::Statistics,
};

use super::super::{
    message::{Item, Peer, Report, Sent, TableRow, UnderKey},
    parse::to_hex,
};

/// Adds what came of an operation.
pub(super) fn add(report: &mut Report, found: &NodeReport) {
    report.took_ms = report.took_ms.max(milliseconds(found.took));
    for family in &found.families {
        report.rounds += family.rounds;
        report.asked += family.asked;
        report.answered += family.answered;
        report.silent += family.silent;
        report.stored += family.stored;
        let refused = family.refused.iter();
        report
            .refused
            .extend(refused.map(|(from, error)| (*from, error.to_string())));
        report.nodes.extend(family.closest.iter().map(peer));
    }
    report.peers.extend(&found.peers);
    if let Some(found) = &found.item
        && report.item.is_none()
    {
        report.item = Some(item(found));
    }
}

/// Adds what came of a look-up for several keys.
pub(super) fn add_many(report: &mut Report, found: &ManyReport) {
    report.took_ms = report.took_ms.max(milliseconds(found.took));
    report.rounds += found.rounds;
    report.asked += found.asked;
    report.answered += found.answered;
    report.silent += found.asked.saturating_sub(found.answered);
    report.stored += found.stored;
    let refused = found.refused.iter();
    report
        .refused
        .extend(refused.map(|(from, error)| (*from, error.to_string())));
    for (key, found) in &found.targets {
        let under = UnderKey {
            nodes: found.closest.iter().map(peer).collect(),
            peers: found.peers.iter().copied().collect(),
            item: found.item.as_ref().map(item),
        };
        report.keys.insert(*key, under);
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn peer(contact: &Contact) -> Peer {
    Peer {
        id: contact.id,
        address: contact.address,
    }
}

/// An item, for people and scripts.
pub(super) fn item(item: &NodeItem) -> Item {
    let value = Bencoded::read(&item.value).ok();
    let octets = value.as_ref().and_then(|value| value.octets());
    let signed = item.signed.as_ref();
    Item {
        text: octets.and_then(|octets| String::from_utf8(octets.to_vec()).ok()),
        value: to_hex(&item.value),
        public_key: signed.map(|signed| to_hex(&signed.key)),
        seq: item.seq(),
    }
}

/// What a driver has sent and received.
pub(super) fn sent(statistics: &Statistics) -> Sent {
    Sent {
        messages: statistics.messages,
        receivers: statistics.receivers,
        xcast_packets: statistics.sender.xcast_packets,
        datagrams: statistics.sender.unicast_packets,
        combined: statistics.combined(),
        received: statistics.received,
        failed: statistics.failed,
    }
}

/// The nodes of the tables, those of far buckets first.
pub(super) fn table_rows(node: &Node, now: Instant) -> Vec<TableRow> {
    let mut rows = Vec::new();
    for (family, table) in node.tables() {
        let mut closest = table.closest(now, node.id(), table.len());
        closest.reverse();
        rows.extend(closest.iter().map(|contact| {
            TableRow {
                family: *family,
                prefix_bits: node.id().common_prefix(contact.id),
                peer: peer(contact),
                rtt_us: node
                    .peers()
                    .rtt(&contact.address)
                    .map(|rtt| rtt.smoothed().as_micros() as u64),
                silent_in_a_row: node.peers().silent_in_a_row(&contact.address),
            }
        }));
    }
    rows
}
