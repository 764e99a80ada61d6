//! Runs one fault.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::catalogue::Fault;
use super::row::{Row, Share, Side};
use super::stage::Stage;
use super::stream::{Kind, PACE, Stream};
use crate::daemon::Counters;
use crate::family::{self, Family};
use crate::trio::{Trio, until};

/// How long streams may take to be well again. It ends the run, and judges no fault that does well.
const PATIENCE: Duration = Duration::from_secs(60);
/// Counters that go up with every packet, whatever happens.
const ORDINARY: [&str; 8] = [
    "received",
    "planned",
    "sent",
    "x2u",
    "recirculated",
    "returned",
    "plan_reused",
    "stack_local",
];

/// Has a fault happen to a router of its own, in namespaces of its own.
///
/// # Errors
///
/// The fault could not be made to happen. That the router does badly is no error: the row says so.
pub fn measure(fault: &Fault, of: Family) -> Result<Row> {
    family::with(of, || {
        let mut trio = Trio::new(of).context("set up")?;
        fault.prepare(&mut trio)?;
        trio.start()?;
        trio.resolve()?;
        run(fault, &mut trio)
            .with_context(|| fault.name)
            .inspect_err(|_| {
                if let Some(daemon) = &trio.daemon {
                    eprintln!("the router's log:\n{}", daemon.log());
                }
            })
    })
}

fn run(fault: &Fault, trio: &mut Trio) -> Result<Row> {
    let targets = fault.targets();
    let stream = Stream::new(&targets);
    let mut stage = Stage::new(trio);
    let mut before = Counters::default();
    let (mut log_before, mut recovered) = (0, false);
    let ended = thread::scope(|scope| -> Result<()> {
        let threads = stream.start(scope, stage.trio)?;
        let outcome = (|| {
            // The first messages find out who is there.
            let begun = Instant::now();
            let well = until(PATIENCE, || Ok(stream.is_well_since(begun)))?;
            ensure!(well, "messages are lost before anything happened");
            before = Counters::read(&stage.trio.r.namespace)?;
            log_before = stage.trio.daemon()?.log().len();
            stage.mended();
            fault.happen(&mut stage)?;
            let happened = Instant::now();
            recovered = until(PATIENCE, || Ok(stream.is_well_since(happened)))?;
            Ok(())
        })();
        stream.end(threads).and(outcome)
    });
    ended?;
    if stage.trio.daemon.is_none() {
        // Whoever counts on.
        stage.start()?;
    }
    let after = Counters::read(&stage.trio.r.namespace)?;
    let mut log = std::mem::take(&mut stage.log);
    log += &stage.trio.daemon()?.log();
    let log = log.get(log_before..).unwrap_or_default();
    let side = |kind| Side {
        shares: targets
            .iter()
            .enumerate()
            .map(|(at, target)| {
                let outcome = stream.outcome(kind, at);
                Share {
                    target: target.name.to_owned(),
                    unharmed: at < fault.unharmed.len(),
                    lost: outcome.lost.len(),
                    twice: outcome.twice,
                    recovery: recovery(outcome.lost.last().copied(), stage.mended),
                }
            })
            .collect(),
    };
    let (xcast, unicast) = (side(Kind::Xcast), side(Kind::Unicast));
    let mut counters: BTreeMap<String, u64> = after.since(&before);
    // At rest now; in the midst of a stream some copies are under way.
    let loss = after.value("planned").saturating_sub(after.value("sent"));
    counters.retain(|name, _| !ORDINARY.contains(&name.as_str()));
    if loss > 0 {
        counters.insert("loss".to_owned(), loss);
    }
    Ok(Row {
        name: fault.name.to_owned(),
        what: fault.what.to_owned(),
        family: stage.trio.family,
        sent: stream.sent(),
        xcast,
        unicast,
        recovered,
        counters,
        log: warnings(log),
        took: std::mem::take(&mut stage.took),
    })
}

/// How long messages were lost after a moment.
fn recovery(last_lost: Option<Instant>, mended: Instant) -> Duration {
    match last_lost {
        Some(last) if last >= mended => last - mended + PACE,
        _ => Duration::ZERO,
    }
}

/// The warnings and errors in a log, without their times, each once.
fn warnings(log: &str) -> Vec<String> {
    let mut warnings: Vec<String> = Vec::new();
    for line in log.lines() {
        let message = [" WARN ", "ERROR "].iter().find_map(|level| {
            let (_, message) = line.split_once(level)?;
            // The module that says it is of no interest here.
            let message = message.trim_start();
            Some(match message.split_once(": ") {
                Some((module, rest)) if module.contains("::") => rest,
                _ => message,
            })
        });
        if let Some(message) = message
            && !warnings.iter().any(|other| other == message)
        {
            warnings.push(message.to_owned());
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_to_recover_is_that_of_the_last_loss() {
        let mended = Instant::now();
        assert_eq!(recovery(None, mended), Duration::ZERO);
        let earlier = mended.checked_sub(Duration::from_secs(1));
        assert_eq!(recovery(earlier, mended), Duration::ZERO);
        let later = mended + Duration::from_secs(3);
        assert_eq!(recovery(Some(later), mended), Duration::from_secs(3) + PACE);
    }

    #[test]
    fn warnings_without_their_times() {
        let log = "2026-01-01T00:00:00Z  WARN xcast_ctl::router::ports: port p3: gone\n\
                   2026-01-01T00:00:01Z  WARN xcast_ctl::router::ports: port p3: gone\n\
                   2026-01-01T00:00:01Z  INFO xcast_ctl::router::ports: port p3 attached\n\
                   2026-01-01T00:00:02Z ERROR lost: it\n";
        assert_eq!(warnings(log), ["port p3: gone", "lost: it"]);
    }
}
