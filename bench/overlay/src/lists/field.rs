//! Nodes of one overlay on hosts of the testbed, which come and go, and do what the overlay is for.

use std::{
    net::SocketAddr,
    sync::{Arc, mpsc::Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use xcast_overlay::{
    net::{Fanout, Settings},
    runtime::{Protocol, Random},
};

use crate::{
    bed::{Bed, PATIENCE},
    node::{Held, RunningNode},
};

/// Pause between operations, as in `simulate lists`.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the last operations have time.
const LAST: Duration = Duration::from_secs(5);
/// Nodes by way of which one joins.
const BY: usize = 3;

/// Who is to come into being.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// Its number.
    pub number: usize,
    /// Its address.
    pub address: SocketAddr,
    /// Nodes by way of which it joins; nobody for the first.
    pub by: Vec<SocketAddr>,
    /// The addresses of those that are there from the beginning, in their order.
    pub first: Arc<[SocketAddr]>,
}

/// An overlay's node, and what it is for: as `simulate lists` has it.
pub trait Subject: Protocol<Event: Send> + Send + Sized + 'static {
    /// How long all have time, before it begins.
    const SETTLE: Duration = Duration::from_secs(30);
    /// Whether who goes comes back at its address, because neighbours are given.
    const RESTARTS: bool = false;

    /// Makes a node.
    fn create(now: Instant, random: Random, newcomer: &Newcomer) -> Self;

    /// Lets it join; many do so by themselves.
    fn start(&mut self, _now: Instant, _by: &[SocketAddr]) {}

    /// Whether it takes part.
    fn is_ready(&self, _now: Instant) -> bool {
        true
    }

    /// Begins an operation, at a node that is ready: how many are to say what came of it.
    ///
    /// # Errors
    ///
    /// A node has ended.
    fn ask(field: &mut Field<'_, Self>, asker: usize) -> Result<usize>;

    /// Whether this says that an operation has come to what it is for.
    fn is_done(event: &Self::Event) -> bool;
}

/// How many nodes there are, and what becomes of them.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// What they are asked to do, one after the other.
    pub operations: usize,
    /// Nodes that go meanwhile, each of which is replaced.
    pub changes: usize,
    /// How long they have time before; by default what the overlay needs.
    pub settle: Option<Duration>,
}

#[derive(Debug)]
struct Peer<P: Protocol> {
    node: RunningNode<P>,
    /// Who has gone stands still for good: its socket stays open, so that no ICMP says that it has gone.
    gone: Option<Held>,
}

/// Nodes on hosts.
#[derive(Debug)]
pub struct Field<'a, S: Protocol> {
    bed: &'a Bed,
    notes: Sender<Fanout>,
    hosts: Vec<String>,
    addresses: Vec<SocketAddr>,
    first: Arc<[SocketAddr]>,
    /// By the order of hosts.
    peers: Vec<Peer<S>>,
    random: fastrand::Rng,
    /// Number of the operation that begins.
    serial: u64,
}

impl<'a, S: Subject> Field<'a, S> {
    /// Lets nodes join one after the other, on hosts in a random order. So many hosts are left as nodes will go.
    ///
    /// # Errors
    ///
    /// One does not get ready.
    pub fn grown(bed: &'a Bed, work: &Work, notes: Sender<Fanout>) -> Result<Self> {
        let mut random = fastrand::Rng::with_seed(1);
        let mut hosts = bed.hosts();
        random.shuffle(&mut hosts);
        let addresses = hosts.iter().map(|host| bed.node_address(host));
        let addresses = addresses.collect::<Result<Vec<_>>>()?;
        let count = hosts.len().saturating_sub(work.changes);
        ensure!(count > 3, "there are too few hosts");
        let mut field = Self {
            bed,
            notes,
            first: addresses[..count].into(),
            hosts,
            addresses,
            peers: Vec::new(),
            random,
            serial: 0,
        };
        for _ in 0..count {
            let at = field.join()?;
            let deadline = Instant::now() + PATIENCE;
            // The first may have to wait for others.
            while at > 0 && !field.is_ready(at)? {
                let address = field.address(at);
                ensure!(Instant::now() < deadline, "{address} does not get ready");
                thread::sleep(Duration::from_millis(20));
            }
        }
        crate::progress(format!("{count} nodes have joined"));
        thread::sleep(work.settle.unwrap_or(S::SETTLE));
        field.events();
        Ok(field)
    }

    /// How many there are at a time.
    pub fn count(&self) -> usize {
        self.first.len()
    }

    /// Number of the operation that begins, from 1.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// A node's address.
    pub fn address(&self, at: usize) -> SocketAddr {
        self.addresses[at]
    }

    /// Those that have not gone.
    pub fn living(&self) -> Vec<usize> {
        let peers = self.peers.iter().enumerate();
        peers
            .filter_map(|(at, peer)| peer.gone.is_none().then_some(at))
            .collect()
    }

    /// One of these.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn random_living(&mut self) -> Result<usize> {
        let living = self.living();
        let chosen = self.random.choice(&living);
        chosen.copied().context("nobody lives")
    }

    /// Has something done with a node.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn act<T: Send + 'static>(
        &self,
        at: usize,
        work: impl FnOnce(&mut S, Instant) -> T + Send + 'static,
    ) -> Result<T> {
        self.peers[at].node.act(work)
    }

    /// Whether a node takes part.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn is_ready(&self, at: usize) -> Result<bool> {
        self.act(at, |node, now| node.is_ready(now))
    }

    /// Has nodes do what the overlay is for, while some go and others come: how many outcomes there should be.
    ///
    /// # Errors
    ///
    /// A node has ended.
    pub fn work(&mut self, work: &Work) -> Result<usize> {
        let changes_until = |operation: usize| operation * work.changes / work.operations;
        let mut expected = 0;
        let mut next = Instant::now();
        for operation in 1..=work.operations {
            for _ in changes_until(operation - 1)..changes_until(operation) {
                self.change()?;
            }
            let mut asker = self.random_living()?;
            while !self.is_ready(asker)? {
                asker = self.random_living()?;
            }
            self.serial += 1;
            expected += S::ask(self, asker)?;
            if operation % 100 == 0 {
                crate::progress(format!("{operation} of {} operations", work.operations));
            }
            next += PAUSE;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        thread::sleep(LAST);
        Ok(expected)
    }

    /// Stops all nodes until what is returned is dropped.
    ///
    /// # Errors
    ///
    /// One has ended.
    pub fn hold(&self) -> Result<Vec<Held>> {
        let living = self.peers.iter().filter(|peer| peer.gone.is_none());
        let held = living.map(|peer| hold(&peer.node));
        held.collect()
    }

    /// What nodes have told since they were last asked.
    pub fn events(&self) -> Vec<S::Event> {
        let peers = self.peers.iter();
        peers
            .flat_map(|peer| std::iter::from_fn(|| peer.node.poll(Duration::ZERO)))
            .collect()
    }

    /// Ends all nodes.
    ///
    /// # Errors
    ///
    /// One had failed before.
    pub fn end(self) -> Result<()> {
        for Peer { node, gone } in self.peers {
            drop(gone);
            node.kill()?;
        }
        Ok(())
    }

    /// One node goes, but not the first, and another comes.
    fn change(&mut self) -> Result<()> {
        let mut at = 0;
        while at == 0 {
            at = self.random_living()?;
        }
        if S::RESTARTS {
            let newcomer = self.newcomer(at)?;
            let random = Random::from_number(self.random.u64(..));
            return self.act(at, move |node, now| {
                *node = S::create(now, random, &newcomer);
                node.start(now, &newcomer.by);
            });
        }
        self.peers[at].gone = Some(hold(&self.peers[at].node)?);
        self.join().map(drop)
    }

    /// Starts a node on the next host.
    fn join(&mut self) -> Result<usize> {
        let at = self.peers.len();
        let newcomer = self.newcomer(at)?;
        let host = &self.hosts[at];
        let mut settings = Settings::new(self.bed.uplink(host)?);
        // Routers are there, and probes are not what is measured.
        settings.sender.probing = None;
        settings.fanouts = Some(self.notes.clone());
        let (by, number) = (newcomer.by.clone(), at as u64);
        let node = RunningNode::start(
            self.bed.namespace(host)?,
            newcomer.address,
            settings,
            move |now, _| S::create(now, Random::from_number(number), &newcomer),
        )?;
        node.act(move |node, now| node.start(now, &by))?;
        self.peers.push(Peer { node, gone: None });
        Ok(at)
    }

    fn newcomer(&mut self, at: usize) -> Result<Newcomer> {
        let mut by = Vec::new();
        for _ in 0..BY {
            // The first one has nobody.
            let Ok(other) = self.random_living() else {
                break;
            };
            if other != at && self.is_ready(other)? {
                by.push(self.addresses[other]);
            }
        }
        if by.is_empty() && at > 0 {
            by.push(self.addresses[0]);
        }
        Ok(Newcomer {
            number: at,
            address: self.addresses[at],
            by,
            first: Arc::clone(&self.first),
        })
    }
}

fn hold<S: Subject>(node: &RunningNode<S>) -> Result<Held> {
    node.hold_if(|_| true)?.context("a node goes on")
}
