//! `xcast-ctl send`.

mod args;
mod outbound;
mod payloads;
mod progress;
mod summary;

use std::time::{Duration, Instant};

use anyhow::Result;

pub(crate) use self::args::Args;
use self::{
    outbound::Outbound,
    payloads::{Next, Payloads},
    progress::Progress,
    summary::{Sent, render},
};
use super::interrupt::Interrupt;
use crate::output::{Outcome, print_answer};

pub(crate) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let mut outbound = Outbound::open(args, router)?;
    let mut payloads = Payloads::open(args)?;
    let pause = match args.rate {
        Some(rate) => Duration::from_secs(1) / rate,
        None => Duration::from_millis(args.interval),
    };
    let start = Instant::now();
    let mut progress = Progress::new(start, (!args.lines).then_some(args.count));
    let interrupt = Interrupt::new()?;
    let (mut packets, mut next, mut payload_octets) = (0, start, 0);
    let interrupted = loop {
        let payload = match payloads.next(packets, &interrupt)? {
            Next::Payload(payload) => payload,
            Next::End => break false,
            Next::Interrupted => break true,
        };
        if packets > 0 {
            // From the schedule, not from the last packet: a late packet does not lower the rate.
            next += pause;
            if interrupt.before(next)? {
                break true;
            }
        }
        outbound.send(&args.destinations, payload)?;
        payload_octets = payload.len();
        packets += 1;
        progress.show(packets);
    };
    progress.clear();
    let sent = Sent {
        packets,
        seconds: (start.elapsed().as_secs_f64() * 1e6).round() / 1e6,
        payload_octets,
        destinations: args.destinations.len(),
        how: outbound.how(),
    };
    print_answer(args.json, &sent, render)?;
    // Lines go on until somebody ends them.
    Ok(if interrupted && !args.lines {
        Outcome::No
    } else {
        Outcome::Done
    })
}
