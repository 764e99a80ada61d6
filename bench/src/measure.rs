//! Rounds: all cases in turn, again and again, so that whatever else the machine does hits all of
//! them alike.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use ::tests::{family::Family, packet::hex};
use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

use crate::{
    family::named,
    generator::Generator,
    progress::Progress,
    shared::Arrived,
    subject::{Case, Load, Subject},
};

/// Set when the user wants an end.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Frames to begin with, to see how long they take.
const TRIAL: u32 = 512;
/// How long copies may take to be counted after the last packet was sent.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long a subject may take to get used to a case.
const SETTLING: Duration = Duration::from_secs(10);

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds; each gives one value.
    pub rounds: usize,
    /// How long a run should take.
    pub run: Duration,
}

/// The least, middle and greatest of several values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Least.
    pub min: f64,
    /// Middle; of two in the middle, their mean.
    pub median: f64,
    /// Greatest.
    pub max: f64,
}

impl Summary {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let (first, last) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        Some(Self {
            min: *first,
            median,
            max: *last,
        })
    }
}

/// What a case came to.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Whose case it was.
    pub subject: &'static str,
    /// What its packets were.
    pub family: Family,
    /// What was sent.
    pub load: Load,
    /// Routes in the table.
    pub routes: usize,
    /// Time a packet took, round by round, in nanoseconds; the generator's own time is in it.
    pub ns: Vec<f64>,
    /// Frames that do the work of one packet.
    pub frames_per_packet: usize,
    /// Packets sent in all, warm-up included.
    pub packets: u64,
    /// Copies of them that did not arrive.
    pub lost: u64,
    /// What else speaks against the numbers.
    pub objection: Option<String>,
}

/// Ends what is going on if the user wants that.
///
/// # Errors
///
/// The user does.
pub fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// A subject with its cases, all to be measured side by side with others.
struct Entry<'a> {
    subject: &'a mut dyn Subject,
    cases: Vec<Prepared>,
}

struct Prepared {
    case: Case,
    /// Frames in a run.
    frames: u32,
    measured: Measured,
    /// Every frame that may arrive, by port.
    wanted: HashSet<(usize, Vec<u8>)>,
}

/// Measures these loads on these subjects, interleaved, and has progress shown.
///
/// # Errors
///
/// A subject cannot carry a load, or what arrives is not what should.
pub fn measure(
    generator: &mut Generator,
    subjects: Vec<(&mut dyn Subject, Vec<Load>)>,
    effort: Effort,
    progress: &mut Progress,
) -> Result<Vec<Measured>> {
    let mut entries = Vec::new();
    for (subject, loads) in subjects {
        let name = subject.name();
        let mut cases = Vec::new();
        for load in loads {
            progress.show(&format!("preparing {name}: {} copies", load.copies));
            let case = subject.case(load)?;
            let name = named(name, case.family);
            let prepared = prepare(generator, subject, case, effort)
                .with_context(|| format!("{name}, {load:?}"))?;
            cases.push(prepared);
        }
        entries.push(Entry { subject, cases });
    }
    for round in 1..=effort.rounds {
        for entry in &mut entries {
            for prepared in &mut entry.cases {
                progress.show(&format!(
                    "round {round} of {}: {}",
                    effort.rounds,
                    named(prepared.case.subject, prepared.case.family)
                ));
                let frames = prepared.frames;
                let per_frame = run(generator, entry.subject, prepared, frames)?;
                let frames_per_packet = prepared.case.frames_per_packet as f64;
                let ns = f64::from(per_frame) * frames_per_packet;
                prepared.measured.ns.push(ns);
            }
        }
    }
    let mut all = Vec::new();
    for entry in entries {
        let cases = entry.cases.iter();
        let packets = cases.map(|prepared| prepared.measured.packets);
        let objection = entry.subject.objection(packets.sum())?;
        for prepared in entry.cases {
            all.push(Measured {
                objection: objection.clone(),
                ..prepared.measured
            });
        }
    }
    Ok(all)
}

/// Tries a case until it goes as it should, and finds out how many frames a run is to have.
fn prepare(
    generator: &mut Generator,
    subject: &mut dyn Subject,
    case: Case,
    effort: Effort,
) -> Result<Prepared> {
    let wanted = case.copies.iter().flatten();
    let wanted = wanted.map(|copy| (copy.port, copy.frame.clone())).collect();
    let measured = Measured {
        subject: case.subject,
        family: case.family,
        load: case.load,
        routes: case.routes,
        ns: Vec::new(),
        frames_per_packet: case.frames_per_packet,
        packets: 0,
        lost: 0,
        objection: None,
    };
    let mut prepared = Prepared {
        case,
        frames: TRIAL,
        measured,
        wanted,
    };
    let deadline = Instant::now() + SETTLING;
    let per_frame = loop {
        let before = subject.detours()?;
        let per_frame = run(generator, subject, &mut prepared, TRIAL)?;
        if subject.detours()? == before {
            break per_frame;
        }
        ensure!(
            Instant::now() < deadline,
            "it does not get used to these packets"
        );
        thread::sleep(Duration::from_millis(20));
    };
    ensure!(
        prepared.measured.lost == 0,
        "{} of {} packets' copies were lost when nothing was measured yet",
        prepared.measured.lost,
        prepared.measured.packets
    );
    let batch = prepared.case.load.batch;
    let wanted = effort.run.as_nanos() / u128::from(per_frame.max(1));
    // Whole batches, and whole turns for subjects that need several frames for a packet.
    let unit = batch * prepared.case.frames_per_packet as u32;
    prepared.frames = (wanted as u32 / unit).max(1) * unit;
    Ok(prepared)
}

/// Sends frames and checks that all their copies arrive, and that those kept are what they should
/// be. Returns the time a frame took, in nanoseconds.
fn run(
    generator: &mut Generator,
    subject: &mut dyn Subject,
    prepared: &mut Prepared,
    frames: u32,
) -> Result<u32> {
    check_interrupt()?;
    let case = &prepared.case;
    subject.select(case)?;
    let before = subject.sinks().arrived()?;
    let per_frame = generator.send(case.device, &case.frames, frames, case.load.batch)?;
    let frames = u64::from(frames);
    let expected = expected(case, frames, before.len());

    let deadline = Instant::now() + PATIENCE;
    let arrived = loop {
        let now = subject.sinks().arrived()?;
        let arrived: Vec<_> = now.iter().zip(&before).map(since).collect();
        if arrived == expected || Instant::now() > deadline {
            break arrived;
        }
        thread::sleep(Duration::from_millis(1));
    };
    let copies = |counts: &[Arrived]| counts.iter().map(|count| count.frames).sum::<u64>();
    ensure!(
        copies(&arrived) <= copies(&expected),
        "{} sent {} copies instead of {}",
        case.subject,
        copies(&arrived),
        copies(&expected)
    );
    let lost = copies(&expected) - copies(&arrived);
    ensure!(
        lost > 0 || arrived == expected,
        "{} sent copies of a wrong length or by wrong ports: {arrived:?} instead of {expected:?}",
        case.subject
    );
    for (port, frame) in subject.sinks().take_samples()? {
        let sample = (port, frame);
        ensure!(
            prepared.wanted.contains(&sample),
            "{} sent by port {port} what it should not have:\n{}",
            case.subject,
            hex(&sample.1)
        );
    }
    let measured = &mut prepared.measured;
    measured.packets += frames / case.frames_per_packet as u64;
    measured.lost += lost;
    Ok(per_frame)
}

fn since((now, before): (&Arrived, &Arrived)) -> Arrived {
    Arrived {
        frames: now.frames - before.frames,
        octets: now.octets - before.octets,
    }
}

/// What must arrive at each sink after so many frames.
fn expected(case: &Case, frames: u64, sinks: usize) -> Vec<Arrived> {
    let turns = case.frames.len() as u64;
    let mut expected = vec![Arrived::default(); sinks];
    for (index, copies) in case.copies.iter().enumerate() {
        let sent = frames / turns + u64::from((index as u64) < frames % turns);
        for copy in copies {
            expected[copy.port].frames += sent;
            expected[copy.port].octets += sent * copy.frame.len() as u64;
        }
    }
    expected
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn a_summary_is_of_the_middle() {
        let summary = Summary::of(&[3.0, 1.0, 10.0, 2.0]);
        let expected = Summary {
            min: 1.0,
            median: 2.5,
            max: 10.0,
        };
        assert_eq!(summary, Some(expected));
        assert_eq!(Summary::of(&[]), None);
    }
}
