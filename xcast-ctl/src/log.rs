//! The log, which may be lost but never holds anybody up.
//!
//! Log lines go through a bounded queue to a thread that writes them to standard error. A line is
//! lost, and counted, when the queue is full (the reader of a pipe has stopped), when it cannot be
//! written (a full file system, a pipe that nobody reads, a terminal that is gone), or when there are
//! too many of them: what packets cause is logged for debugging, and packets can come fast.
//! The router forwards on in every case.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::SigSet;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 1024;
/// How much may be written at once, in octets, for each class of lines.
const BURST_BYTES: f64 = 128.0 * 1024.0;
/// How much may be written in the long run, in octets per second, for each class of lines.
const RATE_BYTES: f64 = 16.0 * 1024.0;
/// Without a line for so long, the writer tells how many were lost.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the end of the process waits for lines to be written.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// Lines lost since the start.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Log lines that were lost since the process started.
pub fn lost_lines() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Where the subscriber gets a writer for each line.
#[derive(Debug)]
pub(crate) struct LossyLog {
    queue: SyncSender<Item>,
    /// Warnings have a budget of their own: no flood of other lines hides them.
    urgent: Mutex<Budget>,
    other: Mutex<Budget>,
}

/// The end of the process: lines that wait are given some time to be written.
#[derive(Debug)]
pub(crate) struct Flush(SyncSender<Item>);

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    /// Everything before is written once this sender is dropped.
    Flush(SyncSender<()>),
}

impl LossyLog {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub(crate) fn start(sink: impl Write + Send + 'static) -> io::Result<(Self, Flush)> {
        let (queue, lines) = sync_channel(QUEUE_LINES);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                // Tools wait for signals that they block. One that this thread does not block would end
                // the process instead.
                let _ = SigSet::all().thread_block();
                write_lines(sink, &lines);
            })?;
        let log = Self {
            queue: queue.clone(),
            urgent: Mutex::new(Budget::new(Instant::now())),
            other: Mutex::new(Budget::new(Instant::now())),
        };
        Ok((log, Flush(queue)))
    }

    fn line(&self, urgent: bool) -> Line<'_> {
        Line {
            log: self,
            urgent,
            text: Vec::new(),
        }
    }

    fn send(&self, line: Vec<u8>, urgent: bool) {
        let budget = if urgent { &self.urgent } else { &self.other };
        let affordable = budget
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(line.len(), Instant::now());
        let sent = affordable && self.queue.try_send(Item::Line(line)).is_ok();
        if !sent {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let deadline = Instant::now() + FLUSH_PATIENCE;
        let (written, wait) = sync_channel(0);
        let mut item = Item::Flush(written);
        while let Err(TrySendError::Full(back)) = self.0.try_send(item) {
            if Instant::now() > deadline {
                return;
            }
            item = back;
            thread::sleep(Duration::from_millis(10));
        }
        // Nothing is ever sent: the sender is dropped when its turn comes.
        let _ = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

fn write_lines(mut sink: impl Write, lines: &Receiver<Item>) {
    let mut told = 0;
    loop {
        // Losses are told as soon as there is a pause.
        let wait = if lost_lines() > told {
            lines.recv_timeout(PAUSE)
        } else {
            lines.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match wait {
            Ok(Item::Line(line)) => {
                if sink.write_all(&line).and_then(|()| sink.flush()).is_err() {
                    LOST.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(Item::Flush(written)) => drop(written),
            Err(RecvTimeoutError::Timeout) => {
                let lost = lost_lines();
                // This line does not count if it is lost: it would bring the next one about.
                let _ = writeln!(sink, "{} log lines were lost", lost - told);
                told = lost;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl<'a> MakeWriter<'a> for LossyLog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        self.line(true)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        self.line(*metadata.level() <= Level::WARN)
    }
}

/// Collects one line, and sends it off when it is dropped.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    log: &'a LossyLog,
    urgent: bool,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            self.log.send(mem::take(&mut self.text), self.urgent);
        }
    }
}

/// A token bucket of octets.
#[derive(Debug)]
struct Budget {
    bytes: f64,
    at: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            bytes: BURST_BYTES,
            at: now,
        }
    }

    /// Whether a line of this length may be written; then it is paid for.
    fn take(&mut self, len: usize, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.bytes = (self.bytes + passed * RATE_BYTES).min(BURST_BYTES);
        let cost = len as f64;
        // Whatever is longer than a burst is written when nothing else was.
        let affordable = self.bytes >= cost.min(BURST_BYTES);
        if affordable {
            self.bytes -= cost.min(BURST_BYTES);
        }
        affordable
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Shows what was written, or fails.
    #[derive(Clone, Default)]
    struct Sink {
        written: Arc<Mutex<Vec<u8>>>,
        full: bool,
    }

    impl Write for Sink {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            if self.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.lock().unwrap().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_before_the_end() {
        let sink = Sink::default();
        let (log, flush) = LossyLog::start(sink.clone()).unwrap();
        for _ in 0..3 {
            log.make_writer().write_all(b"a line\n").unwrap();
        }
        drop(flush);
        assert_eq!(*sink.written.lock().unwrap(), b"a line\n".repeat(3));
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let sink = Sink {
            full: true,
            ..Sink::default()
        };
        let (log, flush) = LossyLog::start(sink).unwrap();
        let before = lost_lines();
        log.make_writer().write_all(b"a line\n").unwrap();
        drop(flush);
        assert!(lost_lines() > before);
    }

    #[test]
    fn a_flood_is_bounded_and_leaves_room_for_warnings() {
        let sink = Sink::default();
        let (log, flush) = LossyLog::start(sink.clone()).unwrap();
        for _ in 0..20_000 {
            log.send(vec![b'x'; 100], false);
        }
        drop(flush);
        let flood = sink.written.lock().unwrap().len();
        assert!(flood < 200_000, "{flood}");
        log.send(b"a warning\n".to_vec(), true);
        drop(Flush(log.queue.clone()));
        assert!(sink.written.lock().unwrap().ends_with(b"a warning\n"));
    }

    #[test]
    fn budgets_are_refilled() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert!(budget.take(BURST_BYTES as usize, start));
        assert!(!budget.take(1000, start));
        assert!(budget.take(1000, start + Duration::from_secs(1)));
    }
}
