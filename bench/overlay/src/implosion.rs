//! Many answers at one moment into one access link.
//!
//! One packet asks many, and all answer at once, each by unicast. The client's first router has a
//! token bucket (tc tbf) towards it, as an access line has; what its queue cannot hold is lost.
//! Those who are asked are plain sockets that answer 1000 octets, after a random time if the question
//! says so.

use std::{
    collections::BTreeSet,
    fmt,
    net::{SocketAddr, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use xcast_host::{Sender, Settings, Uplink};
use xtask::testbed::{Deployment, netns};

use crate::{
    bed::{Bed, Setup},
    client::By,
    table::{Table, quantile},
};

const CLIENT: &str = "H1";
const FIRST_PORT: u16 = 7000;
const ANSWER_OCTETS: usize = 1000;
/// How long to wait for answers when none comes any more.
const QUIET: Duration = Duration::from_millis(400);

/// What is measured.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// How many are asked.
    pub crowds: Vec<usize>,
    /// Rate of the access link in Mbit/s.
    pub rate_mbit: u32,
    /// What its queue holds, in octets.
    pub queue_octets: u32,
    /// How often each row is repeated.
    pub repeats: usize,
}

/// One way to ask.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// How many were asked.
    pub asked: usize,
    /// `unicast` or `xcast`.
    pub by: &'static str,
    /// How many at one time.
    pub alpha: usize,
    /// Answers come after a random time up to this, in milliseconds.
    pub jitter_ms: u16,
    /// Answers that never came, on average.
    pub lost: f64,
    /// Median time until the last answer, in milliseconds; where some are lost, until the last that
    /// came.
    pub last_ms: f64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Rate of the access link in Mbit/s.
    pub rate_mbit: u32,
    /// What its queue holds, in octets.
    pub queue_octets: u32,
    /// What was measured.
    pub rows: Vec<Row>,
}

/// Those who answer.
struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
    addresses: Vec<SocketAddr>,
}

impl Crowd {
    fn start(bed: &Bed, hosts: &[String], count: usize) -> Result<Self> {
        let mut crowd = Self {
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
            addresses: Vec::new(),
        };
        for number in 0..count {
            let host = hosts.get(number % hosts.len()).context("no hosts")?;
            let port = FIRST_PORT + u16::try_from(number / hosts.len())?;
            let address = SocketAddr::new(bed.address(host)?, port);
            let socket = netns::enter(bed.namespace(host)?, || UdpSocket::bind(address))??;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            let stop = Arc::clone(&crowd.stop);
            crowd.addresses.push(address);
            crowd
                .threads
                .push(thread::spawn(move || answer(&socket, &stop)));
        }
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn answer(socket: &UdpSocket, stop: &AtomicBool) {
    let mut question = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut question) else {
            continue;
        };
        let jitter = match question[..len] {
            [high, low, ..] => u16::from_be_bytes([high, low]),
            _ => 0,
        };
        if jitter > 0 {
            thread::sleep(Duration::from_micros(fastrand::u64(
                0..u64::from(jitter) * 1000,
            )));
        }
        // One that is lost is what is measured.
        let _ = socket.send_to(&[0; ANSWER_OCTETS], from);
    }
}

/// Runs the experiment.
///
/// # Errors
///
/// The network cannot be raised, or the link cannot be made slow.
pub fn run(setup: &Setup, arguments: &Arguments) -> Result<Outcome> {
    let mut bed = Bed::up(setup)?;
    bed.deploy(Deployment::All)?;
    let hosts: Vec<String> = bed.hosts().into_iter().filter(|h| h != CLIENT).collect();
    let most = arguments.crowds.iter().copied().max().unwrap_or(0);
    let crowd = Crowd::start(&bed, &hosts, most)?;
    // Link-layer addresses are known before the link is slow.
    for _ in 0..2 {
        ask(&bed, &crowd.addresses, By::Unicast, most, 0)?;
        ask(&bed, &crowd.addresses, By::Xcast, most, 0)?;
    }
    slow_down(&bed, arguments)?;
    let mut rows = Vec::new();
    for &asked in &arguments.crowds {
        crate::progress(format!("{asked} answers"));
        let to = crowd.addresses.get(..asked).context("too few answer")?;
        let jitters = [20, 50, 100, 200].map(|jitter| (By::Xcast, asked, jitter));
        let alphas = [20, 8, 3].map(|alpha| (By::Xcast, alpha, 0));
        let ways = [(By::Unicast, asked, 0), (By::Xcast, asked, 0)];
        let ways = ways.into_iter().chain(jitters).chain(alphas);
        for (by, alpha, jitter_ms) in ways.filter(|(_, alpha, _)| *alpha <= asked) {
            let (mut lost, mut took) = (0, Vec::new());
            for _ in 0..arguments.repeats {
                let (answered, last) = ask(&bed, to, by, alpha, jitter_ms)?;
                lost += asked - answered;
                took.push(last.as_secs_f64() * 1000.0);
            }
            took.sort_by(f64::total_cmp);
            rows.push(Row {
                asked,
                by: match by {
                    By::Unicast => "unicast",
                    By::Xcast => "xcast",
                },
                alpha,
                jitter_ms,
                lost: lost as f64 / arguments.repeats.max(1) as f64,
                last_ms: quantile(&took, 0.5),
            });
        }
    }
    Ok(Outcome {
        rate_mbit: arguments.rate_mbit,
        queue_octets: arguments.queue_octets,
        rows,
    })
}

/// Asks all, `alpha` at a time, each time waiting for the answers: how many came, and when the last.
fn ask(
    bed: &Bed,
    to: &[SocketAddr],
    by: By,
    alpha: usize,
    jitter_ms: u16,
) -> Result<(usize, Duration)> {
    let uplink = match by {
        By::Unicast => Uplink::Unicast,
        By::Xcast => bed.uplink(CLIENT)?,
    };
    let local = SocketAddr::new(bed.address(CLIENT)?, 0);
    netns::enter(bed.namespace(CLIENT)?, || {
        let socket = UdpSocket::bind(local)?;
        let mut settings = Settings::new(uplink);
        settings.probing = None;
        let mut sender = Sender::new(&socket, settings)?;
        let started = Instant::now();
        let (mut answered, mut last) = (0, started);
        for round in to.chunks(alpha) {
            sender.send(round, &jitter_ms.to_be_bytes())?;
            let mut waiting: BTreeSet<SocketAddr> = round.iter().copied().collect();
            let quiet = QUIET + Duration::from_millis(jitter_ms.into());
            socket.set_read_timeout(Some(quiet))?;
            let mut buffer = [0; ANSWER_OCTETS];
            while !waiting.is_empty() {
                match socket.recv_from(&mut buffer) {
                    Ok((_, from)) if waiting.remove(&from) => {
                        answered += 1;
                        last = Instant::now();
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
        Ok((answered, last - started))
    })?
}

/// Makes the last link to the client slow.
fn slow_down(bed: &Bed, arguments: &Arguments) -> Result<()> {
    let router = bed.first_router(CLIENT)?;
    let interface = &bed.testbed.interface(router, CLIENT)?.name;
    let output = Command::new("tc")
        .args([
            "-n",
            bed.namespace(router)?,
            "qdisc",
            "replace",
            "dev",
            interface,
            "root",
            "tbf",
        ])
        .args([
            "rate",
            &format!("{}mbit", arguments.rate_mbit),
            "burst",
            "3200",
        ])
        .args(["limit", &arguments.queue_octets.to_string()])
        .output()
        .context("failed to start `tc`")?;
    if !output.status.success() {
        bail!(
            "tc failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Answers of {ANSWER_OCTETS} octets into an access link of {} Mbit/s with a queue of {} octets.\n",
            self.rate_mbit, self.queue_octets
        )?;
        let mut table = Table::new([
            "asked",
            "by",
            "at a time",
            "jitter ms",
            "answers lost",
            "last answer ms",
        ]);
        for row in &self.rows {
            table.row([
                row.asked.to_string(),
                row.by.to_owned(),
                row.alpha.to_string(),
                row.jitter_ms.to_string(),
                format!("{:.1}", row.lost),
                format!("{:.0}", row.last_ms),
            ]);
        }
        write!(f, "{table}")
    }
}
