//! The programs' log of dropped packets, for debugging.
//!
//! Off by default: a counter per reason and port costs next to nothing, a line per packet does not.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use tracing::debug;
use xcast_common::maps::counter::NAMES;

/// Reads what the programs log. Poll its file descriptor and call `flush`.
pub type DropLog = EbpfLogger<Names>;

/// Starts reading.
pub fn open(ebpf: &mut Ebpf) -> Result<DropLog, aya_log::Error> {
    EbpfLogger::init_with_logger(ebpf, Names)
}

/// Turns the programs' numbers into names.
pub struct Names;

impl Log for Names {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.args().to_string();
        let numbers = line.split_once(' ');
        let parsed = numbers.and_then(|(slot, reason)| {
            let reason: usize = reason.trim().parse().ok()?;
            Some((slot.to_owned(), *NAMES.get(reason)?))
        });
        match parsed {
            Some((slot, reason)) => debug!("packet dropped at port slot {slot}: {reason}"),
            None => debug!("the programs say: {line}"),
        }
    }

    fn flush(&self) {}
}
