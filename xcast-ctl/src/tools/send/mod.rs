//! `xcast-ctl send`.

mod args;
mod outbound;
mod payloads;
mod progress;
mod summary;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

pub(crate) use self::args::Args;
use self::{
    outbound::Outbound,
    payloads::Payloads,
    progress::Progress,
    summary::{Sent, render},
};
use crate::output::{Outcome, print, print_json};

pub(crate) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let mut outbound = Outbound::open(args, router)?;
    let mut payloads = Payloads::open(args)?;
    let pause = match args.rate {
        Some(rate) => Duration::from_secs(1) / rate,
        None => Duration::from_millis(args.interval),
    };
    let start = Instant::now();
    let mut progress = Progress::new(start, (!args.lines).then_some(args.count));
    let (mut packets, mut next, mut payload_octets) = (0, start, 0);
    while let Some(payload) = payloads.next(packets)? {
        if packets > 0 && !pause.is_zero() {
            // From the schedule, not from the last packet: a late packet does not lower the rate.
            next += pause;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        outbound.send(&args.destinations, payload)?;
        payload_octets = payload.len();
        packets += 1;
        progress.show(packets);
    }
    progress.clear();
    let sent = Sent {
        packets,
        seconds: (start.elapsed().as_secs_f64() * 1e6).round() / 1e6,
        payload_octets,
        destinations: args.destinations.len(),
        how: outbound.how(),
    };
    if args.json {
        print_json(&sent)?;
    } else {
        print(&render(&sent))?;
    }
    Ok(Outcome::Done)
}
