//! What a verb asked for, while it is under way.

use std::{
    collections::BTreeSet,
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::mpsc;
use xcast_overlay::{
    kademlia::{ManyReport, Node, OperationId, Report as NodeReport},
    krpc::{Item, SigningKey},
    places::{Area, Place, SIZES},
    services::Query,
};

use super::{
    super::{
        message::{Operation, Progress, Report, Response, Sent, Where},
        parse::hex,
    },
    publisher::{Publisher, described},
    reports::{add, add_many, item},
};

/// Most cells of an area that are asked for.
const MAX_CELLS: usize = 16;

/// What a verb asked for, while it is under way.
pub(super) struct Job {
    waiting: BTreeSet<OperationId>,
    report: Report,
    /// What services were asked for, where the nearest ones are wanted, and how many.
    query: Option<(Query, Option<Place>, Option<u32>)>,
    /// Whether it is one of two that are compared.
    pub(super) comparing: bool,
    /// How long to wait for what else is under way.
    pub(super) settle_until: Option<Instant>,
    /// What the node had done before.
    pub(super) before: (Sent, Progress),
    /// Who asked.
    pub(super) reply: Option<mpsc::Sender<Response>>,
}

/// Begins an operation.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn begin(
    node: &mut Node,
    now: Instant,
    operation: Operation,
    signer: &SigningKey,
    publisher: &mut Publisher,
) -> Result<Job> {
    let mut report = Report::default();
    let mut query = None;
    let waiting = match operation {
        Operation::Ping { to } => vec![node.ping_all(now, &to)],
        Operation::Lookup { key, peers } => {
            report.key = Some(key);
            vec![match peers {
                true => node.find_peers(now, key),
                false => node.find_node(now, key),
            }]
        }
        Operation::LookupMany { keys } => vec![node.find_many(now, &keys)],
        Operation::Store { key, port, keep } => {
            report.key = Some(key);
            vec![match keep {
                true => node.publish_peer(now, key, port),
                false => node.announce(now, key, port),
            }]
        }
        Operation::Put {
            value,
            mutable,
            cas,
            keep,
        } => {
            let value = hex(&value).map_err(anyhow::Error::msg).context("value")?;
            let put = match mutable {
                None => Item::immutable(value),
                Some((salt, seq)) => Item::sign(signer, salt.into_bytes(), seq, value),
            };
            report.key = Some(put.target());
            report.item = Some(item(&put));
            let begun = match keep {
                true => node.publish_item(now, put),
                false => node.put(now, put, cas),
            };
            vec![begun.map_err(|error| anyhow!("value: {error}"))?]
        }
        Operation::Get { key, salt } => {
            report.key = Some(key);
            vec![node.find_item(now, key, salt.into_bytes())]
        }
        Operation::Publish(service) => {
            let (name, operations, left_out) =
                publisher.publish(node, now, signer, service.clone())?;
            report.key = Some(name);
            report.services = vec![service];
            report.keys_left_out = left_out;
            operations
        }
        Operation::Find {
            kind,
            text,
            near,
            area: wanted,
            limit,
        } => {
            let near = near.map(place).transpose().context("near")?;
            let area = wanted.map(area).transpose().context("area")?;
            let text = text.iter().map(|pattern| pattern.parse());
            let asked = Query {
                mechanism: kind.map(|kind| kind.to_lowercase()),
                text: text.collect::<Result<_, _>>().context("text")?,
                area,
            };
            let keys = asked.keys(MAX_CELLS)?;
            query = Some((asked, near, limit));
            vec![node.find_entries(now, &keys)]
        }
    };
    Ok(Job {
        waiting: waiting.into_iter().collect(),
        report,
        query,
        comparing: false,
        settle_until: None,
        before: Default::default(),
        reply: None,
    })
}

fn place((latitude, longitude): (f64, f64)) -> Result<Place> {
    Ok(Place::new(latitude, longitude)?)
}

fn area(wanted: Where) -> Result<Area> {
    Ok(match wanted {
        Where::Neighbourhood {
            around,
            rings: 0,
            size,
        } if size + 1 == SIZES.len() => Area::Point(place(around)?),
        Where::Neighbourhood {
            around,
            rings,
            size,
        } => Area::Neighbourhood {
            place: place(around)?,
            size,
            rings,
        },
        Where::Circle { around, radius_m } => Area::Circle {
            place: place(around)?,
            radius_m,
        },
        Where::Polygon(corners) => {
            Area::Polygon(corners.into_iter().map(place).collect::<Result<_>>()?)
        }
    })
}

impl Job {
    /// An operation has ended; it may be one of this job.
    pub(super) fn finished(&mut self, operation: OperationId, report: &NodeReport) {
        if self.waiting.remove(&operation) {
            add(&mut self.report, report);
        }
    }

    /// A look-up for several keys has ended; it may be one of this job.
    pub(super) fn finished_many(&mut self, operation: OperationId, report: &ManyReport) {
        if !self.waiting.remove(&operation) {
            return;
        }
        add_many(&mut self.report, report);
        if let Some((query, near, limit)) = &self.query {
            let found = report.targets.values().flat_map(|found| &found.entries);
            let chosen = query.choose(found.cloned(), unix_s(), *near);
            let services = chosen.iter().map(|entry| described(entry, unix_s(), *near));
            let most = limit.map_or(usize::MAX, |limit| limit as usize);
            self.report.services = services.take(most).collect();
            self.report.keys.clear();
        }
    }

    /// Whether all has ended.
    pub(super) fn is_finished(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Tells how far it is.
    pub(super) fn tell(&self, now: &Progress) {
        let Progress { asked, answered } = self.before.1;
        let progress = Response::Progress(Progress {
            asked: now.asked - asked,
            answered: now.answered - answered,
        });
        if let Some(reply) = &self.reply {
            // Who does not read fast enough misses some.
            let _ = reply.try_send(progress);
        }
    }

    /// Tells what came of it, to whoever is still there.
    pub(super) fn end(mut self, sent: &Sent) {
        self.report.sent = sent.since(&self.before.0);
        if let Some(reply) = self.reply {
            let done = Response::Done(Box::new(self.report));
            tokio::spawn(async move { reply.send(done).await });
        }
    }
}

/// Seconds since 1970.
pub(super) fn unix_s() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}
