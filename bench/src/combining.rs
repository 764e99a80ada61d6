//! The combining queue: messages a second on one core, and octets on the first link.

use std::{
    hint::black_box,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use serde::Serialize;
use xcast_host::{
    Message, Queue,
    envelope::Tag,
    packet::{UDP_LEN, packet_len},
    queue::{QueueLimits, QueueStatistics},
};

use crate::{
    measure::{Effort, Summary, check_interrupt},
    progress::Progress,
    sys,
};

/// Messages of a run.
const MESSAGES: usize = 500_000;
/// Receivers that they go to.
const PEERS: usize = 10_000;
/// Contents, or shared halves of them, that there are at a time.
const CONTENTS: usize = 64;
/// Receivers of a fan-out on the first link.
pub const FAN_OUT: usize = 20;
/// Octets of a message's payload on the first link.
const PAYLOADS: [usize; 4] = [50, 100, 400, 1000];
/// Octets of it that are each receiver's own, in a combined message.
const OWN_BYTES: usize = 10;
const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;

/// What the queue takes.
#[derive(Clone, Debug, Serialize)]
pub struct QueueRow {
    /// How messages overlap: `whole`, `partial`, or `none`.
    pub overlap: &'static str,
    /// Messages a second.
    pub messages_per_second: Summary,
    /// Messages in a packet.
    pub messages_per_packet: f64,
}

/// Octets on the first link, Ethernet headers included, for one message to each of several.
#[derive(Clone, Debug, Serialize)]
pub struct LinkRow {
    /// Octets of a message.
    pub payload_bytes: usize,
    /// Receivers.
    pub destinations: usize,
    /// As unicast.
    pub unicast_bytes: usize,
    /// As one Xcast packet, where all are sent the same.
    pub same_bytes: usize,
    /// As combined by the queue, where the end of each message is its receiver's own.
    pub combined_bytes: usize,
    /// Packets that the queue made of them.
    pub combined_packets: usize,
}

/// What was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Combining {
    /// What the queue takes.
    pub queue: Vec<QueueRow>,
    /// Octets on the first link.
    pub first_link: Vec<LinkRow>,
}

/// Measures both.
///
/// # Errors
///
/// The queue loses a message.
pub fn measure(cpu: usize, effort: Effort, progress: &mut Progress) -> Result<Combining> {
    let mut queue = Vec::new();
    for overlap in ["whole", "partial", "none"] {
        let (mut rates, mut statistics) = (Vec::new(), QueueStatistics::default());
        for round in 0..effort.rounds {
            check_interrupt()?;
            progress.show(&format!(
                "{overlap} overlap: round {} of {}",
                round + 1,
                effort.rounds
            ));
            let took;
            (took, statistics) = on_cpu(cpu, || run(overlap))??;
            rates.push(MESSAGES as f64 / took.as_secs_f64());
        }
        queue.push(QueueRow {
            overlap,
            messages_per_second: Summary::of(&rates).context("no rounds")?,
            messages_per_packet: statistics.pushed as f64 / statistics.packets.max(1) as f64,
        });
    }
    let first_link = PAYLOADS
        .map(first_link)
        .into_iter()
        .collect::<Result<_>>()?;
    Ok(Combining { queue, first_link })
}

/// In a thread of its own, since children would inherit its CPU.
fn on_cpu<T: Send>(cpu: usize, work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys::pin(cpu)?;
            Ok(work())
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the queue's thread panicked")))
    })
}

fn address(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 5000))
}

/// A queue all of whose peers take envelopes.
fn queue() -> Result<Queue> {
    let mut queue = Queue::new(QueueLimits::default());
    for number in 0..PEERS {
        queue.opt_in(address(number), Tag(number as u32))?;
    }
    Ok(queue)
}

/// Pushes messages, one a microsecond of simulated time, and takes out what is ready.
fn run(overlap: &str) -> Result<(Duration, QueueStatistics)> {
    let shared: Vec<_> = (0..CONTENTS)
        .map(|number| Bytes::from(vec![number as u8; 100]))
        .collect();
    let own: Vec<_> = (0..=u8::MAX)
        .map(|octet| Bytes::from(vec![octet; OWN_BYTES]))
        .collect();
    let message = |number: usize| {
        let to = address(number.wrapping_mul(7919) % PEERS);
        let body = shared[number % CONTENTS].clone();
        match overlap {
            "whole" => Message::to_one(to, [body]),
            "partial" => Message::to_one(to, [body, own[number % own.len()].clone()]),
            _ => {
                let mut octets = body.to_vec();
                octets[..8].copy_from_slice(&number.to_be_bytes());
                Message::to_one(to, [octets.into()])
            }
        }
    };
    let mut queue = queue()?;
    let start = Instant::now();
    let mut now = start;
    for number in 0..MESSAGES {
        now += Duration::from_micros(1);
        queue.push(now, message(number))?;
        while let Some(transmit) = queue.poll(now) {
            black_box(transmit.payload());
        }
    }
    queue.flush();
    while let Some(transmit) = queue.poll(now) {
        black_box(transmit.payload());
    }
    let took = start.elapsed();
    let statistics = *queue.statistics();
    let left = statistics.alone + statistics.whole + statistics.partial;
    ensure!(
        left == MESSAGES as u64 && queue.is_empty(),
        "{left} of {MESSAGES} messages left the queue"
    );
    Ok((took, statistics))
}

/// What the first link carries, from the packets that the library builds.
fn first_link(payload_bytes: usize) -> Result<LinkRow> {
    let on_link =
        |destinations, payload| ETHERNET_LEN + packet_len(false, destinations, 0, payload);
    let mut queue = queue()?;
    let now = Instant::now();
    let shared = Bytes::from(vec![0x55; payload_bytes - OWN_BYTES]);
    for number in 0..FAN_OUT {
        let own = Bytes::from(vec![number as u8; OWN_BYTES]);
        queue.push(now, Message::to_one(address(number), [shared.clone(), own]))?;
    }
    queue.flush();
    let (mut combined_bytes, mut combined_packets, mut served) = (0, 0, 0);
    while let Some(transmit) = queue.poll(now) {
        let destinations = transmit.destinations().len();
        served += destinations;
        combined_packets += 1;
        combined_bytes += match destinations {
            1 => ETHERNET_LEN + IPV4_LEN + UDP_LEN + transmit.payload().len(),
            _ => on_link(destinations, transmit.payload().len()),
        };
    }
    ensure!(served == FAN_OUT, "{served} of {FAN_OUT} messages left");
    Ok(LinkRow {
        payload_bytes,
        destinations: FAN_OUT,
        unicast_bytes: FAN_OUT * (ETHERNET_LEN + IPV4_LEN + UDP_LEN + payload_bytes),
        same_bytes: on_link(FAN_OUT, payload_bytes),
        combined_bytes,
        combined_packets,
    })
}
