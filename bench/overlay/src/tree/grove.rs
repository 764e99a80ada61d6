//! The members of a tree, one on each host, and what they hear.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::mpsc::Sender,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use xcast_overlay::{
    krpc::{SigningKey, signing_key},
    net::{Fanout, Settings},
    tree::{Card, Config, Counters, Event, Member, Packets},
};

use crate::{
    bed::{Bed, PATIENCE},
    node::RunningNode,
};

/// Pause between messages of the source: sockets have room for many messages, but not for any number.
const PAUSE: Duration = Duration::from_millis(4);
/// Longer than any experiment.
const NEVER: Duration = Duration::from_secs(24 * 3600);

fn key() -> SigningKey {
    signing_key([19; 32])
}

/// The payload of a message, by its number.
fn payload(seq: u64, octets: usize) -> Vec<u8> {
    let number = seq.to_be_bytes();
    number.iter().copied().cycle().take(octets).collect()
}

/// How members are.
#[derive(Clone, Debug)]
pub struct Manner {
    /// Most children of a member, which one packet goes to.
    pub degree: usize,
    /// Length of messages in octets.
    pub payload: usize,
    /// Members say nothing by themselves.
    pub silent: bool,
}

impl Manner {
    /// The settings of the source, or of a member that joins by way of it.
    fn config(&self, source: Option<SocketAddr>) -> Config {
        let mut config = match source {
            None => Config::source("bench", key(), 1),
            Some(source) => {
                let bootstrap = (!self.silent).then_some(source).into_iter().collect();
                Config::receiver("bench", key().verifying_key().to_bytes(), bootstrap)
            }
        };
        config.packets = Packets {
            in_udp: true,
            max_destinations: self.degree,
            ..Packets::default()
        };
        config.packets_per_message = 1;
        config.max_payload_octets = self.payload;
        if self.silent {
            (config.beat, config.silence, config.orphan_after) = (NEVER, NEVER, NEVER);
        }
        config
    }
}

/// Who is below whom, by number of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The parent of each; none of the source.
    parents: Vec<Option<usize>>,
}

impl Shape {
    /// The children of a member.
    fn children(&self, of: usize) -> impl Iterator<Item = usize> {
        let parents = self.parents.iter().enumerate();
        parents.filter_map(move |(at, parent)| (*parent == Some(of)).then_some(at))
    }

    /// How far below the source a member is; `None` if it is in no tree.
    fn depth(&self, at: usize) -> Option<usize> {
        let way = std::iter::successors(Some(at), |at| self.parents.get(*at).copied().flatten());
        let depth = way.take(self.parents.len() + 1).count();
        (depth <= self.parents.len()).then(|| depth - 1)
    }

    /// How many members there are at each depth.
    pub fn depths(&self) -> Vec<usize> {
        let mut depths = Vec::new();
        for depth in (0..self.parents.len()).filter_map(|at| self.depth(at)) {
            depths.resize(depths.len().max(depth + 1), 0);
            depths[depth] += 1;
        }
        depths
    }

    /// Inner members, so many if there are, of which none is below another one or beside it: so that
    /// grandparents and siblings live on.
    pub fn apart(&self, count: usize) -> Vec<usize> {
        let mut chosen: Vec<usize> = Vec::new();
        for at in 1..self.parents.len() {
            let parent = self.parents[at];
            let near = |other: &usize| {
                self.parents[*other] == parent
                    || self.parents[*other] == Some(at)
                    || parent == Some(*other)
            };
            if chosen.len() < count
                && self.children(at).next().is_some()
                && !chosen.iter().any(near)
            {
                chosen.push(at);
            }
        }
        chosen
    }
}

/// What a member has heard.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Messages, in the order in which they were delivered.
    messages: Vec<u64>,
    /// Messages that had another payload than the source sent.
    wrong: usize,
    /// Messages that it was told are lost.
    lost: u64,
}

/// What became of messages, at all members together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Delivered {
    /// Members that should have got all.
    pub members: usize,
    /// Messages that the source sent.
    pub messages: usize,
    /// Messages delivered, each member counting.
    pub delivered: usize,
    /// Messages that were not delivered, each member counting.
    pub missing: usize,
    /// Messages that were delivered twice, in the wrong order or with another content.
    pub wrong: usize,
    /// Messages that came only when they were asked for.
    pub repaired: u64,
    /// How often a member lost its parent.
    pub orphaned: u64,
}

/// A member on each host; the first is the source.
#[derive(Debug)]
pub struct Grove {
    members: Vec<Option<RunningNode<Member>>>,
    addresses: Vec<SocketAddr>,
    heard: Vec<Heard>,
    manner: Manner,
    sent: Vec<u64>,
}

impl Grove {
    /// Starts a member on each host. They send by the routers that speak Xcast, if there are any.
    ///
    /// # Errors
    ///
    /// One cannot start.
    pub fn plant(bed: &Bed, manner: &Manner, notes: Option<&Sender<Fanout>>) -> Result<Self> {
        let hosts = bed.hosts();
        let addresses = hosts.iter().map(|host| bed.node_address(host));
        let addresses = addresses.collect::<Result<Vec<_>>>()?;
        let mut members = Vec::new();
        for (host, address) in hosts.iter().zip(&addresses) {
            let mut settings = Settings::new(bed.uplink(host)?);
            // Routers are there, and probes are not what is measured.
            settings.sender.probing = None;
            settings.fanouts = notes.cloned();
            let source = (*address != addresses[0]).then_some(addresses[0]);
            let config = manner.config(source);
            let namespace = bed.namespace(host)?;
            let member = RunningNode::start(namespace, *address, settings, |now, random| {
                Member::new(now, config, random)
            });
            members.push(Some(member?));
        }
        Ok(Self {
            heard: vec![Heard::default(); members.len()],
            members,
            addresses,
            manner: manner.clone(),
            sent: Vec::new(),
        })
    }

    /// Waits until all are connected to the source.
    ///
    /// # Errors
    ///
    /// One finds no parent.
    pub fn until_joined(&mut self) -> Result<Shape> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shape = self.shape()?;
            let joined = (0..self.members.len()).filter(|at| {
                let depth = shape.depth(*at);
                depth.is_some_and(|depth| depth > 0 || *at == 0)
            });
            let joined = joined.count();
            if joined == self.members.len() {
                return Ok(shape);
            }
            ensure!(
                Instant::now() < deadline,
                "only {joined} of {} members have found a parent",
                self.members.len()
            );
            self.listen();
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn shape(&self) -> Result<Shape> {
        let numbers: BTreeMap<SocketAddr, usize> =
            self.addresses.iter().copied().zip(0..).collect();
        let parents = self.members.iter().map(|member| {
            let Some(member) = member else {
                return Ok(None);
            };
            let parent = member.act(|member, _| member.parent())?;
            Ok(parent.and_then(|parent| numbers.get(&parent).copied()))
        });
        Ok(Shape {
            parents: parents.collect::<Result<_>>()?,
        })
    }

    /// Gives everybody a place, without a message.
    ///
    /// # Errors
    ///
    /// A member has ended, or the tree is another network's.
    pub fn seat(&self, shape: &Shape) -> Result<()> {
        ensure!(
            shape.parents.len() == self.members.len(),
            "the tree has other members"
        );
        let card = |at: usize| -> Result<Card> {
            let address = self.addresses[at];
            self.living(at)?.act(move |member, _| member.card(address))
        };
        for at in 0..self.members.len() {
            let depth = shape.depth(at).context("a member without a place")?;
            let parent = shape.parents[at].map(card).transpose()?;
            let children = shape.children(at).map(card).collect::<Result<Vec<_>>>()?;
            let own = self.addresses[at];
            self.living(at)?.act(move |member, now| {
                member.seat(now, own, depth as u8, parent, children);
            })?;
        }
        Ok(())
    }

    fn living(&self, at: usize) -> Result<&RunningNode<Member>> {
        let member = self.members.get(at).and_then(Option::as_ref);
        member.with_context(|| format!("member {at} is dead"))
    }

    /// Sends messages from the source.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn send(&mut self, count: usize, pause: Duration) -> Result<()> {
        for _ in 0..count {
            let octets = self.manner.payload;
            let number = self.sent.last().copied().unwrap_or(0) + 1;
            let payload = payload(number, octets);
            let sent = self
                .living(0)?
                .act(move |source, now| source.send(now, &payload))?;
            ensure!(sent? == number, "the source numbers messages otherwise");
            self.sent.push(number);
            self.listen();
            thread::sleep(PAUSE.max(pause));
        }
        Ok(())
    }

    /// Takes what members have to tell.
    fn listen(&mut self) {
        let octets = self.manner.payload;
        for (member, heard) in self.members.iter().zip(&mut self.heard) {
            let events = member
                .iter()
                .flat_map(|member| std::iter::from_fn(move || member.poll(Duration::ZERO)));
            for event in events {
                match event {
                    Event::Message { seq, payload: got } => {
                        heard.wrong += usize::from(got != payload(seq, octets));
                        heard.messages.push(seq);
                    }
                    Event::Lost { from, to } => heard.lost += to - from,
                    Event::Joined { .. } | Event::Orphaned(_) | Event::NoParent { .. } => {}
                }
            }
        }
    }

    /// Waits until each living member has got every message, or knows that it will not.
    ///
    /// # Errors
    ///
    /// A member waits for ever.
    pub fn until_delivered(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.listen();
            let members = self.members.iter().zip(&self.heard).skip(1);
            let waits = members.filter(|(member, heard)| {
                let got = heard.messages.len() + heard.lost as usize;
                member.is_some() && got < self.sent.len()
            });
            let waits = waits.count();
            if waits == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{waits} members still wait for messages");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills these members in the middle of what they do.
    ///
    /// # Errors
    ///
    /// One had failed before.
    pub fn kill(&mut self, who: &[usize]) -> Result<()> {
        for at in who {
            if let Some(member) = self.members.get_mut(*at).and_then(Option::take) {
                member.kill()?;
            }
        }
        Ok(())
    }

    /// What became of all messages at those that live, and ends them.
    ///
    /// # Errors
    ///
    /// One had failed before.
    pub fn end(mut self) -> Result<Delivered> {
        self.listen();
        let mut delivered = Delivered {
            messages: self.sent.len(),
            ..Delivered::default()
        };
        for (member, heard) in self.members.into_iter().zip(&self.heard).skip(1) {
            let Some(member) = member else { continue };
            let (member, _) = member.stop()?;
            let Counters {
                repaired, orphaned, ..
            } = member.counters();
            let mut expected = self.sent.iter();
            // Each message once and in order: whatever is not, is wrong.
            let right = heard.messages.iter();
            let right = right.filter(|seq| expected.any(|expected| expected == *seq));
            let right = right.count();
            delivered.members += 1;
            delivered.delivered += right;
            delivered.missing += self.sent.len() - right;
            delivered.wrong += heard.wrong + heard.messages.len() - right;
            delivered.repaired += repaired;
            delivered.orphaned += orphaned;
        }
        Ok(delivered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_are_killed_leave_relatives() {
        // 1 and 2 below the source, 3 and 4 below 1, 5 below 2, 6 below 3, 7 below 5.
        let parents = [
            None,
            Some(0),
            Some(0),
            Some(1),
            Some(1),
            Some(2),
            Some(3),
            Some(5),
        ];
        let shape = Shape {
            parents: parents.into(),
        };
        assert_eq!(shape.depths(), [1, 2, 3, 2]);
        // Not 2, a sibling of 1; not 3, a child of 1.
        assert_eq!(shape.apart(9), [1, 5]);
        assert_eq!(shape.apart(1), [1]);
        let cycle = Shape {
            parents: vec![None, Some(2), Some(1)],
        };
        assert_eq!((cycle.depth(0), cycle.depth(1)), (Some(0), None));
    }
}
