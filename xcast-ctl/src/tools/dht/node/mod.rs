//! A running node: a protocol on a socket, and verbs that ask it.

mod control;
mod job;
mod publisher;
mod reports;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};
use xcast_overlay::{
    id::Id,
    kademlia::{Config, Event, Node, Table, bep42},
    krpc::{Family, SigningKey, signing_key},
    net::{Driver, Settings},
    runtime::Random,
};

pub(super) use self::control::Server;
use self::{
    control::Call,
    job::Job,
    publisher::Publisher,
    reports::{sent, table_rows},
};
use super::{
    message::{Delivery, NodeStatus, Operation, Progress, Report, Request, Response},
    state::State,
};

/// How often operations under way tell how far they are, and what is due is looked after.
const TICK: Duration = Duration::from_millis(250);
/// How often the state is saved.
const SAVE: Duration = Duration::from_secs(300);
/// How long a comparison waits until nothing is under way any more, and a node that leaves.
const SETTLE: Duration = Duration::from_secs(10);
/// How long to wait for the first answer of a router, so that messages share packets from the first on.
const ROUTER: Duration = Duration::from_secs(2);

/// How a node is started.
pub(super) struct Start {
    /// Where it listens.
    pub(super) listen: SocketAddr,
    /// The protocol's settings.
    pub(super) config: Config,
    /// The driver's settings.
    pub(super) settings: Settings,
    /// What to call its uplink.
    pub(super) uplink: String,
    /// What it kept.
    pub(super) state: State,
}

/// What a node tells while it runs.
pub(super) trait Watch {
    /// It has joined, or looked for others in vain.
    fn joined(&mut self, status: &NodeStatus);
    /// It has not joined yet.
    fn joining(&mut self, status: &NodeStatus);
}

/// Runs a node until it leaves, or is interrupted: then it leaves.
///
/// # Errors
///
/// It cannot begin, or its socket has failed.
pub(super) async fn run(start: Start, server: Server, watch: &mut impl Watch) -> Result<()> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let (calls, mut receiver) = mpsc::channel(16);
    let serving = tokio::spawn(server.serve(calls));
    let mut node = Running::begin(start).await?;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        select! {
            event = node.driver.next() => node.event(event?, watch),
            Some(call) = receiver.recv() => node.call(call),
            _ = ticks.tick() => node.tick(watch),
            _ = interrupts.recv() => node.leave(None),
            _ = terminations.recv() => node.leave(None),
        }
        node.end_jobs();
        if node.has_left() {
            break;
        }
    }
    let report = node.end().await?;
    // The socket goes last: that it is gone tells others that the node is.
    for leaver in report.1 {
        let _ = leaver
            .send(Response::Done(Box::new(report.0.clone())))
            .await;
    }
    drop(receiver);
    // What was said is on its way.
    tokio::time::sleep(Duration::from_millis(50)).await;
    serving.abort();
    Ok(())
}

struct Running {
    driver: Driver<Node>,
    uplink: String,
    state: State,
    key: SigningKey,
    started: Instant,
    saved: Instant,
    joined: bool,
    jobs: Vec<Job>,
    publisher: Publisher,
    /// Tables that a comparison begins with.
    kept: BTreeMap<Family, Table>,
    /// Until when it waits for what is under way, and whom it tells.
    leaving: Option<(Instant, Vec<mpsc::Sender<Response>>)>,
}

impl Running {
    async fn begin(start: Start) -> Result<Self> {
        let Start {
            listen,
            mut config,
            settings,
            uplink,
            mut state,
        } = start;
        config.bootstrap.extend(&state.nodes);
        let make = |now, mut random: Random| {
            let ip = listen.ip();
            let follows = |id: &Id| ip.is_unspecified() || bep42::is_valid(*id, ip);
            let id = state.id.filter(follows);
            let id = id.unwrap_or_else(|| match ip.is_unspecified() {
                true => Id::random(&mut random),
                false => bep42::random_id(ip, &mut random),
            });
            config.id = Some(id);
            Node::new(now, config, random)
        };
        let mut driver = Driver::bind(listen, settings, make)?;
        state.id = Some(driver.protocol().id());
        state.save()?;
        if let Ok(false) = driver.wait_for_router(ROUTER).await
            && let Err(cause) = driver.router()
        {
            info!("messages leave as unicast: {cause}");
        }
        driver.command(|node, now| node.join(now));
        let now = Instant::now();
        Ok(Self {
            key: signing_key(state.secret),
            driver,
            uplink,
            state,
            started: now,
            saved: now,
            joined: false,
            jobs: Vec::new(),
            publisher: Publisher::default(),
            kept: BTreeMap::new(),
            leaving: None,
        })
    }

    fn event(&mut self, event: Event, watch: &mut impl Watch) {
        match event {
            Event::Joined { .. } => {
                if !self.joined {
                    self.joined = true;
                    watch.joined(&self.status());
                }
            }
            Event::ExternalAddress { address } => {
                let changed = self
                    .driver
                    .command(|node, now| node.follow_address(now, address));
                if changed {
                    let id = self.driver.protocol().id();
                    warn!("others see this node at {address}: its identifier is now {id} (BEP 42)");
                    self.state.id = Some(id);
                    self.save();
                }
            }
            Event::Finished { operation, report } => {
                for job in &mut self.jobs {
                    job.finished(operation, &report);
                }
            }
            Event::FinishedMany { operation, report } => {
                for job in &mut self.jobs {
                    job.finished_many(operation, &report);
                }
            }
            Event::Peers { .. } | Event::Found { .. } => {}
        }
    }

    fn call(&mut self, Call { request, reply }: Call) {
        let comparing = self.jobs.iter().any(|job| job.comparing);
        let answer = match request {
            Request::Status => Response::Status(Box::new(self.status())),
            Request::Leave => return self.leave(Some(reply)),
            _ if self.leaving.is_some() => Response::Error("the node is leaving".to_owned()),
            Request::KeepTables => {
                self.kept = self.driver.protocol().tables().clone();
                Response::Done(Box::default())
            }
            Request::Withdraw { key } => {
                let withdrawn = self.driver.command(|node, _| node.withdraw(&key));
                let services = self.publisher.withdraw(key);
                Response::Done(Box::new(Report {
                    stored: u32::from(withdrawn) + services,
                    ..Report::default()
                }))
            }
            Request::Run(run)
                if comparing || (run.comparing.is_some() && !self.jobs.is_empty()) =>
            {
                drop(run);
                Response::Error(
                    "the node compares, or is to, and is busy: try again when it is done"
                        .to_owned(),
                )
            }
            Request::Run(run) => match self.run(run.operation, run.comparing, reply.clone()) {
                Ok(()) => return,
                Err(error) => Response::Error(format!("{error:#}")),
            },
        };
        // A client that has gone needs no answer.
        let _ = reply.try_send(answer);
    }

    fn run(
        &mut self,
        operation: Operation,
        comparing: Option<Delivery>,
        reply: mpsc::Sender<Response>,
    ) -> Result<()> {
        if let Some(delivery) = comparing {
            let kept = &self.kept;
            self.driver.command(|node, _| node.set_tables(kept));
            self.driver.set_unicast(delivery == Delivery::Unicast);
        }
        let before = (sent(&self.driver.statistics()), self.progress());
        let begun = self.begin_operation(operation);
        if begun.is_err() {
            self.driver.set_unicast(false);
        }
        let mut job = begun?;
        job.comparing = comparing.is_some();
        (job.before, job.reply) = (before, Some(reply));
        self.jobs.push(job);
        Ok(())
    }

    fn begin_operation(&mut self, operation: Operation) -> Result<Job> {
        let (key, publisher) = (&self.key, &mut self.publisher);
        self.driver
            .command(|node, now| job::begin(node, now, operation, key, publisher))
    }

    /// Answers what is finished.
    fn end_jobs(&mut self) {
        let now = Instant::now();
        for at in (0..self.jobs.len()).rev() {
            let job = &mut self.jobs[at];
            if !job.is_finished() {
                continue;
            }
            if job.comparing {
                let until = *job.settle_until.get_or_insert(now + SETTLE);
                if !self.driver.protocol().is_idle() && now < until {
                    continue;
                }
                self.driver.set_unicast(false);
            }
            let job = self.jobs.swap_remove(at);
            let own = sent(&self.driver.statistics());
            job.end(&own);
        }
    }

    /// What is due from time to time.
    fn tick(&mut self, watch: &mut impl Watch) {
        if !self.joined {
            watch.joining(&self.status());
        }
        let progress = self.progress();
        for job in &self.jobs {
            job.tell(&progress);
        }
        let (key, publisher) = (&self.key, &mut self.publisher);
        self.driver
            .command(|node, now| publisher.refresh(node, now, key));
        if self.saved.elapsed() > SAVE {
            self.save();
        }
    }

    fn leave(&mut self, reply: Option<mpsc::Sender<Response>>) {
        if self.leaving.is_none() {
            let good = self.driver.command(|node, now| node.leave(now));
            self.state.nodes = good.iter().map(|contact| contact.address).collect();
            self.leaving = Some((Instant::now() + SETTLE, Vec::new()));
        } else if reply.is_none() {
            // A second interrupt is meant.
            self.leaving = Some((Instant::now(), Vec::new()));
        }
        if let Some((_, leavers)) = &mut self.leaving {
            leavers.extend(reply);
        }
    }

    fn has_left(&self) -> bool {
        let idle = || self.driver.protocol().is_idle() && self.jobs.is_empty();
        self.leaving
            .as_ref()
            .is_some_and(|(until, _)| *until <= Instant::now() || idle())
    }

    /// Ends the node: what it says of itself, and to whom.
    async fn end(self) -> Result<(Report, Vec<mpsc::Sender<Response>>)> {
        let leavers = self.leaving.map_or(Vec::new(), |(_, leavers)| leavers);
        self.state.save()?;
        let kept = self.state.nodes.len() as u32;
        let (_, statistics) = self.driver.close().await;
        info!("{statistics}");
        let report = Report {
            stored: kept,
            sent: sent(&statistics),
            ..Report::default()
        };
        Ok((report, leavers))
    }

    fn save(&mut self) {
        self.saved = Instant::now();
        let good = self.driver.command(|node, now| {
            let tables = node.tables().values();
            tables.flat_map(|table| table.good(now)).collect::<Vec<_>>()
        });
        if !good.is_empty() {
            self.state.nodes = good.iter().map(|contact| contact.address).collect();
        }
        if let Err(error) = self.state.save() {
            warn!("{error:#}");
        }
    }

    fn progress(&self) -> Progress {
        let counters = self.driver.protocol().status(Instant::now()).fanouts;
        Progress {
            asked: counters.asked,
            answered: counters.answered + counters.late,
        }
    }

    fn status(&self) -> NodeStatus {
        let now = Instant::now();
        let node = self.driver.protocol();
        let statistics = self.driver.statistics();
        NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            listens: self.driver.local_address(),
            uplink: self.uplink.clone(),
            unicast_because: self.driver.router().err().map(|cause| cause.to_string()),
            joined: self.joined,
            leaving: self.leaving.is_some(),
            node: node.status(now),
            sent: sent(&statistics),
            mean_delay_us: statistics.mean_delay().as_micros() as u64,
            table: table_rows(node, now),
            published: self.publisher.services(),
        }
    }
}
