//! One run of `xcast-ctl tree`: what happens, until the stream or the user's patience ends.

use std::{
    future, io,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time,
};
use xcast_host::UnicastCause;
use xcast_overlay::{
    net::Driver,
    tree::{Event, Member},
};

use super::{
    args::Args,
    report::{Report, say, say_json},
    streams::{self, Output},
};
use crate::output::{Outcome, OutputClosed};

/// How long a router may take to answer before the source begins.
const ROUTER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often to look whether children have come, or have all that there is.
const LOOK: Duration = Duration::from_millis(100);
/// How long to stay after a child has been silent: those below it notice it at about the same time, and
/// come here for what they miss.
const ORPHANS: Duration = Duration::from_secs(5);

pub(super) struct Session<'a> {
    args: &'a Args,
    public_key: String,
    driver: Driver<Member>,
    input: Option<mpsc::Receiver<io::Result<Bytes>>>,
    output: Option<Output>,
    interrupted: [Signal; 2],
    deadline: Option<Instant>,
    report_at: Option<Instant>,
    /// Least time between messages, however short: only so many are kept.
    shortest: Duration,
    /// When the next message may be sent.
    free_at: Instant,
    /// There were as many children as were to be waited for.
    started: bool,
    octets: u64,
    dropped: u64,
    /// The stream has ended, at this time.
    ended: Option<Instant>,
    /// Children that had been silent so far, and when the last one was noticed.
    silent: (u64, Option<Instant>),
}

impl<'a> Session<'a> {
    pub(super) async fn new(
        args: &'a Args,
        public_key: String,
        shortest: Duration,
        mut driver: Driver<Member>,
    ) -> Result<Self> {
        let now = Instant::now();
        let is_source = args.key.is_some();
        if is_source && driver.router() != Err(UnicastCause::Configured) {
            // Nothing that could be missed has happened at a source yet.
            let router = driver.wait_for_router(ROUTER_TIMEOUT).await?;
            if !router && let Err(cause) = driver.router() {
                say(&format!(
                    "no answer of the router ({cause}): unicast for now"
                ));
            }
        }
        let input = is_source.then(|| streams::input(args.payload.into()));
        let output = (!is_source).then(Output::open);
        Ok(Self {
            public_key,
            shortest,
            driver,
            input: input.transpose()?,
            output: output.transpose()?,
            interrupted: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            ],
            deadline: args
                .timeout
                .map(|seconds| now + Duration::from_secs(seconds)),
            report_at: args
                .interval
                .map(|seconds| now + Duration::from_secs(seconds)),
            free_at: now,
            started: false,
            octets: 0,
            dropped: 0,
            ended: None,
            silent: (0, None),
            args,
        })
    }

    pub(super) async fn run(mut self) -> Result<Outcome> {
        loop {
            let now = Instant::now();
            let silent = self.driver.protocol().counters().silent_children;
            if silent > self.silent.0 {
                self.silent = (silent, Some(now));
            }
            if self.is_over(now) {
                break;
            }
            if self.report_at.is_some_and(|at| at <= now) {
                self.report()?;
                let seconds = self.args.interval.unwrap_or(1);
                self.report_at = Some(now + Duration::from_secs(seconds));
            }
            self.started |= self.driver.protocol().children().count() >= self.args.wait;
            // Nothing tells when children come, or have all; so that is looked at.
            let look = (!self.started || self.ended.is_some()).then(|| now + LOOK);
            let wake = [self.deadline, self.report_at, look]
                .into_iter()
                .flatten()
                .min();
            let may_send = self.started && self.ended.is_none();
            let [interrupt, terminate] = &mut self.interrupted;
            select! {
                event = self.driver.next() => {
                    let event = event?;
                    self.happened(event);
                }
                piece = next(&mut self.input, self.free_at, may_send) => self.send(piece)?,
                ended = output_ended(&mut self.output) => {
                    if let Err(error) = ended {
                        self.leave().await;
                        return Err(OutputClosed(error).into());
                    }
                }
                () = sleep(wake) => {}
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
            }
        }
        self.report_if_wanted()?;
        let complete = self.ended.is_some();
        let lost = self.driver.protocol().counters().lost + self.dropped;
        self.leave().await;
        Ok(match complete && lost == 0 {
            true => Outcome::Done,
            false => Outcome::No,
        })
    }

    fn is_over(&self, now: Instant) -> bool {
        let up_to_date = self.driver.protocol().children_behind() == 0
            && self.silent.1.is_none_or(|at| now >= at + ORPHANS);
        let linger = Duration::from_secs(self.args.linger);
        let done = self
            .ended
            .is_some_and(|at| up_to_date || now >= at + linger);
        done || self.deadline.is_some_and(|at| now >= at)
    }

    /// A piece of standard input, or its end, which is an empty message.
    fn send(&mut self, piece: Option<io::Result<Bytes>>) -> Result<()> {
        let piece = piece.transpose().context("cannot read standard input")?;
        let is_end = piece.is_none();
        let payload = piece.unwrap_or_default();
        self.octets += payload.len() as u64;
        self.driver
            .command(|member, now| member.send(now, &payload))?;
        let now = Instant::now();
        let seconds = payload.len() as f64 * 8.0 / (f64::from(self.args.rate) * 1e3);
        // From the schedule, not from the last message: a late one does not lower the rate.
        let earliest = now.checked_sub(Duration::from_millis(100)).unwrap_or(now);
        let takes = Duration::from_secs_f64(seconds).max(self.shortest);
        self.free_at = self.free_at.max(earliest) + takes;
        if is_end {
            self.ended = Some(now);
            self.input = None;
        }
        Ok(())
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Message { payload, .. } if payload.is_empty() => {
                self.ended.get_or_insert(Instant::now());
            }
            Event::Message { payload, .. } => {
                let len = payload.len() as u64;
                match self
                    .output
                    .as_ref()
                    .is_some_and(|output| output.write(payload))
                {
                    true => self.octets += len,
                    false => self.dropped += 1,
                }
            }
            Event::Lost { from, to } => say(&format!("{} messages are lost", to - from)),
            _ if self.args.quiet => {}
            Event::Joined { parent, depth } => say(&format!("parent {parent}, depth {depth}")),
            Event::Orphaned(cause) => say(&format!("no parent: {cause}")),
            Event::NoParent { retry } => say(&format!(
                "nobody answers, or has room; next try in {:.1} s",
                retry.as_secs_f64()
            )),
        }
    }

    /// Says goodbye, and waits until all is written.
    async fn leave(mut self) {
        self.driver.command(Member::leave);
        self.driver.close().await;
        if let Some(mut output) = self.output {
            output.close();
            // An error was there before, or whoever reads has gone at the very end.
            let _ = time::timeout(Duration::from_secs(self.args.linger), output.ended).await;
        }
    }

    fn report_if_wanted(&self) -> Result<()> {
        if self.args.json {
            return self.report();
        }
        if !self.args.quiet {
            let statistics = self.driver.statistics();
            let counters = self.driver.protocol().counters();
            say(&format!(
                "{} octets; {} messages repaired, {} lost, {} dropped; {} xcast packets and {} \
                 datagrams left",
                self.octets,
                counters.repaired,
                counters.lost,
                self.dropped,
                statistics.sender.xcast_packets,
                statistics.sender.unicast_packets
            ));
        }
        Ok(())
    }

    fn report(&self) -> Result<()> {
        let statistics = self.driver.statistics();
        let report = Report {
            name: self.args.name.clone(),
            source: self.args.key.is_some(),
            public_key: self.public_key.clone(),
            address: self.driver.local_address(),
            complete: self.ended.is_some(),
            octets: self.octets,
            dropped: self.dropped,
            xcast_packets: statistics.sender.xcast_packets,
            unicast_packets: statistics.sender.unicast_packets,
            status: self.driver.protocol().status(Instant::now()),
        };
        Ok(say_json(&report)?)
    }
}

/// The next piece of standard input, when it may be sent.
async fn next(
    input: &mut Option<mpsc::Receiver<io::Result<Bytes>>>,
    free_at: Instant,
    may_send: bool,
) -> Option<io::Result<Bytes>> {
    match input {
        Some(input) if may_send => {
            time::sleep_until(free_at.into()).await;
            input.recv().await
        }
        _ => future::pending().await,
    }
}

async fn output_ended(output: &mut Option<Output>) -> io::Result<()> {
    match output {
        Some(output) => match (&mut output.ended).await {
            Ok(ended) => ended,
            // The thread is gone without a word.
            Err(_) => future::pending().await,
        },
        None => future::pending().await,
    }
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => time::sleep_until(until.into()).await,
        None => future::pending().await,
    }
}
