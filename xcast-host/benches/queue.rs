//! How many messages a second of processor time the combining queue takes, on one core.
//!
//! `cargo bench -p xcast-host --bench queue`

mod common;

use std::{
    hint::black_box,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use xcast_host::{
    Message, Queue,
    envelope::Tag,
    queue::{QueueLimits, QueueStatistics},
};

const MESSAGES: usize = 2_000_000;
const PEERS: usize = 10_000;
const ROUNDS: usize = 5;

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 5000))
}

/// Messages a second, the median of some rounds. A message comes every microsecond of the
/// simulated time.
fn measure(
    limits: QueueLimits,
    opted_in: bool,
    message: impl Fn(usize) -> Message,
) -> (f64, QueueStatistics) {
    let mut rates = Vec::new();
    let mut statistics = QueueStatistics::default();
    for _ in 0..ROUNDS {
        let mut queue = Queue::new(limits);
        if opted_in {
            for n in 0..PEERS {
                let tag = Tag(n as u32);
                queue.opt_in(address(n), tag).expect("tags differ");
            }
        }
        let start = common::processor_time();
        let mut now = Instant::now();
        for n in 0..MESSAGES {
            now += Duration::from_micros(1);
            queue.push(now, message(n)).expect("there is room");
            while let Some(transmit) = queue.poll(now) {
                black_box(transmit.payload());
            }
        }
        queue.flush();
        while let Some(transmit) = queue.poll(now) {
            black_box(transmit.payload());
        }
        rates.push(MESSAGES as f64 / (common::processor_time() - start).as_secs_f64());
        statistics = *queue.statistics();
    }
    rates.sort_by(f64::total_cmp);
    (rates[ROUNDS / 2], statistics)
}

/// What a run is called, whether receivers opted in, and its messages.
type Row<'a> = (&'a str, bool, &'a dyn Fn(usize) -> Message);

fn main() {
    let limits = QueueLimits::default();
    let contents: Vec<_> = (0..64u8).map(|n| Bytes::from(vec![n; 100])).collect();
    let own: Vec<_> = (0..255u8).map(|n| Bytes::from(vec![n; 10])).collect();
    let large: Vec<_> = (0..64u8).map(|n| Bytes::from(vec![n; 1000])).collect();

    let to = |n: usize| address(n.wrapping_mul(7919) % PEERS);
    let rows: [Row<'_>; 4] = [
        ("whole overlap, 64 contents of 100 octets", false, &|n| {
            Message::to_one(to(n), [contents[n % 64].clone()])
        }),
        ("whole overlap, 64 contents of 1000 octets", false, &|n| {
            Message::to_one(to(n), [large[n % 64].clone()])
        }),
        ("partial overlap, 64 x 100 shared, 10 own", true, &|n| {
            let segments = [contents[n % 64].clone(), own[n % 255].clone()];
            Message::to_one(to(n), segments)
        }),
        ("no overlap, 100 octets", true, &|n| {
            let mut octets = vec![7; 100];
            octets[..8].copy_from_slice(&n.to_be_bytes());
            Message::to_one(to(n), [octets.into()])
        }),
    ];
    for (name, opted_in, message) in rows {
        let (rate, statistics) = measure(limits, opted_in, message);
        let per_packet = statistics.pushed as f64 / statistics.packets as f64;
        println!(
            "{name:44} {:5.2} M messages/s, {per_packet:5.1} a packet",
            rate / 1e6
        );
    }
}
