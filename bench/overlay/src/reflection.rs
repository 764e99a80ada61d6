//! What a forged source brings: one packet makes many nodes answer somebody who asked nothing.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use serde::Serialize;
use xcast_host::{
    RawSocket,
    packet::{Entry, Template},
};
use xcast_overlay::{
    id::Id,
    krpc::{Family, Kind, Message, Query},
};
use xtask::testbed::{Deployment, command::UDP_PORT, netns};

use crate::{
    bed::{Bed, PORT, Setup, code_points, router_config},
    links,
    swarm::Swarm,
    table::Table,
};

const ATTACKER: &str = "H1";
/// Most destinations of a packet, which an IPv6 packet of 1500 octets has no room for.
const MOST: usize = 127;
const MOST6: usize = 60;

/// How the forged packet is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A plain datagram to one node: what the DHT brings an attacker without Xcast.
    Datagram,
    /// An Xcast packet.
    Native,
    /// An Xcast packet inside UDP, both with the forged source.
    InUdp,
}

/// What one forged packet brought.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// How it was sent.
    pub form: Form,
    /// Whom the attacker's first router takes packets from.
    pub source_policy: &'static str,
    /// Nodes that it named.
    pub nodes: usize,
    /// Its octets, from the Ethernet header on.
    pub sent_octets: u64,
    /// Packets that came to the victim.
    pub packets: u64,
    /// Their octets.
    pub octets: u64,
    /// What the first router counted: drops by reason.
    pub drops: Vec<(String, u64)>,
}

impl Row {
    /// Octets at the victim for each octet sent.
    pub fn amplification(&self) -> f64 {
        self.octets as f64 / self.sent_octets.max(1) as f64
    }
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What was tried.
    pub rows: Vec<Row>,
}

/// Runs the experiment.
///
/// # Errors
///
/// The network cannot be raised, or the packet cannot be sent.
pub fn run(setup: &Setup) -> Result<Outcome> {
    let mut bed = Bed::up(setup)?;
    let hosts = bed.hosts();
    let victim = hosts.last().context("no hosts")?.clone();
    let others = hosts
        .iter()
        .filter(|host| *host != ATTACKER && **host != victim);
    let most = match setup.family {
        Family::Ipv4 => MOST,
        Family::Ipv6 => MOST6,
    };
    let members: Vec<String> = others.take(most).cloned().collect();
    let swarm = Swarm::join(&bed, &members)?;
    let mut rows = Vec::new();
    for (policy, source) in [("any", Some("any")), ("default", None)] {
        let mut config = router_config();
        config
            .port
            .extend(source.map(|source| ("source".to_owned(), source.into())));
        bed.deploy_with(Deployment::All, &config)?;
        for form in [Form::Datagram, Form::Native, Form::InUdp] {
            crate::progress(format!("source = {policy}: {form:?}"));
            // The first time, link-layer addresses are asked for.
            for counted in [false, true] {
                let row = attack(&bed, &swarm, &victim, form, policy)?;
                if counted {
                    rows.push(row);
                }
            }
        }
    }
    Ok(Outcome { rows })
}

fn attack(
    bed: &Bed,
    swarm: &Swarm,
    victim: &str,
    form: Form,
    source_policy: &'static str,
) -> Result<Row> {
    let source = SocketAddr::new(bed.address(victim)?, PORT);
    let mut to: Vec<SocketAddr> = swarm.addresses();
    if form == Form::Datagram {
        to.truncate(1);
    }
    let packet = forge(bed, source, &to, form)?;
    let router = bed.first_router(ATTACKER)?;
    let (from, at) = (
        bed.testbed.interface(ATTACKER, router)?,
        bed.testbed.interface(router, ATTACKER)?,
    );
    let counted = drops(bed, router)?;
    let before = links::to_host(bed, victim)?;
    let ipv6 = source.is_ipv6();
    netns::enter(bed.namespace(ATTACKER)?, || {
        RawSocket::packet(from.index, from.mac.0, at.mac.0, ipv6)?.send(&packet)
    })??;
    links::wait_for_silence(bed)?;
    let got = links::to_host(bed, victim)? - before;
    let after = drops(bed, router)?;
    let drops = after.into_iter().map(|(reason, count)| {
        let earlier = counted.iter().find(|(name, _)| *name == reason);
        let earlier = earlier.map_or(0, |(_, count)| *count);
        (reason, count - earlier)
    });
    Ok(Row {
        form,
        source_policy,
        nodes: to.len(),
        sent_octets: 14 + packet.len() as u64,
        packets: got.packets,
        octets: got.bytes,
        drops: drops.filter(|(_, count)| *count > 0).collect(),
    })
}

/// A question with somebody else's address.
fn forge(bed: &Bed, source: SocketAddr, to: &[SocketAddr], form: Form) -> Result<Vec<u8>> {
    let target = Id::hash_of(&[b"reflection"]);
    let message = Message {
        transaction: Bytes::from_static(b"reflects"),
        version: None,
        extension: None,
        kind: Kind::Query {
            sender: Id::hash_of(&[b"nobody"]),
            // Nobody pings the victim on top of it.
            read_only: true,
            query: Query::FindNode { target, want: None },
        },
    };
    let question = message.encode().datagram(0);
    let code_points = code_points()?;
    let template = Template {
        code_points,
        source: source.ip(),
        to: code_points.group_for(source.ip()),
        ttl: 64,
        dscp: 0,
        channel: 0,
        x: false,
        anonymous: false,
        source_port: source.port(),
        port_list: false,
    };
    let entry = |address: SocketAddr| Entry {
        address: address.ip(),
        port: address.port(),
        dscp: None,
    };
    let entries: Vec<Entry> = to.iter().copied().map(entry).collect();
    let mut packet = Vec::new();
    match form {
        Form::Datagram => {
            let entry = entries.first().context("no nodes")?;
            template.emit_datagram(entry, &question, &mut packet)?;
        }
        Form::Native => template.emit(&entries, &question, &mut packet)?,
        Form::InUdp => {
            let inner = template.build(&entries, &question)?;
            let router = bed.testbed.node(bed.first_router(ATTACKER)?)?;
            let address = match source.is_ipv4() {
                true => router.address.map(IpAddr::from),
                false => router.address6.map(IpAddr::from),
            };
            let address = address.context("the router has no address")?;
            let outer = entry(SocketAddr::new(address, UDP_PORT));
            template.emit_datagram(&outer, &inner, &mut packet)?;
        }
    }
    Ok(packet)
}

/// What a router has dropped, by reason.
fn drops(bed: &Bed, router: &str) -> Result<Vec<(String, u64)>> {
    let mut command = bed.testbed.command(router, &bed.setup().xcast_ctl)?;
    let output = command.args(["stats", "--json"]).output()?;
    ensure!(
        output.status.success(),
        "xcast-ctl stats failed on {router}"
    );
    let stats: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let Some(totals) = stats["totals"].as_object() else {
        bail!("xcast-ctl stats has no totals");
    };
    let drops = totals.iter().filter(|(name, _)| name.starts_with("drop_"));
    Ok(drops
        .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)))
        .collect())
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "One question with a forged source, and what came to whom it belongs.\n"
        )?;
        let mut table = Table::new([
            "form",
            "source policy",
            "nodes",
            "octets sent",
            "packets at the victim",
            "octets",
            "amplification",
            "dropped by the first router",
        ]);
        for row in &self.rows {
            let drops = row
                .drops
                .iter()
                .map(|(reason, count)| format!("{reason} {count}"));
            table.row([
                format!("{:?}", row.form),
                row.source_policy.to_owned(),
                row.nodes.to_string(),
                row.sent_octets.to_string(),
                row.packets.to_string(),
                row.octets.to_string(),
                format!("{:.1}", row.amplification()),
                drops.collect::<Vec<_>>().join(", "),
            ]);
        }
        write!(f, "{table}")
    }
}
