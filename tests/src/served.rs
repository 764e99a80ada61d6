//! A flow that somebody else has served while a router between three hosts is attacked: packets of another source, by
//! another port, each of which has to arrive at two hosts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};

use crate::family;
use crate::tap::Tap;
use crate::trio::{self, A, B, C, Host, Trio, until};

/// Packets of the flow, at least.
const LEAST: u32 = 300;
/// Packets of the flow, at most: an attack is over by then.
const MOST: u32 = 20_000;
/// Time between two packets of the flow.
const PACE: Duration = Duration::from_millis(3);
/// How long a packet may be under way on a busy machine.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// Of so many attacks, the flow must not be harmed in most.
const ATTACKS: usize = 7;
/// So many of the first ones without harm are enough.
const ENOUGH: usize = 2;
/// Copies of each packet of the flow.
pub const COPIES: u64 = 2;

/// What became of the flow.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// Packets sent.
    pub sent: u64,
    /// Messages that did not arrive at the host that lost most.
    pub lost: u64,
}

/// Does `attack`, with a steady flow from C to A and B beside it.
///
/// # Errors
///
/// `attack` fails, or a message of the flow comes twice.
pub fn beside<T>(trio: &Trio, attack: impl FnOnce() -> Result<T>) -> Result<(T, Served)> {
    let tap = Tap::open(&trio.c.namespace, "c0")?;
    let numbers = trio.numbers(MOST);
    let first = numbers.start;
    let is_over = AtomicBool::new(false);
    let of = trio.family;
    let flow = || {
        family::with(of, || -> Result<u32> {
            for number in numbers {
                let sent = number - first;
                if sent >= LEAST && is_over.load(Ordering::Relaxed) {
                    return Ok(sent);
                }
                let mut packet = trio::xcast(C, &[B, A], number, 0);
                (packet.destination_mac, packet.source_mac) =
                    (trio::port_mac(3), trio::host_mac(3));
                tap.send(&packet.frame())?;
                thread::sleep(PACE);
            }
            bail!("the attack takes too long")
        })
    };
    let (outcome, sent) = thread::scope(|scope| {
        let flow = scope.spawn(flow);
        let outcome = attack();
        is_over.store(true, Ordering::Relaxed);
        let sent = flow.join().map_err(|_| anyhow!("the served flow"));
        (outcome, sent)
    });
    let (outcome, sent) = (outcome?, sent??);
    let lost_by = |host: &Host| -> Result<usize> {
        let mut lost = 0;
        for number in first..first + sent {
            match host.count(number)? {
                0 => lost += 1,
                1 => {}
                times => bail!("message {number} came {times} times"),
            }
        }
        Ok(lost)
    };
    let mut lost = 0;
    for host in [&trio.a, &trio.b] {
        until(UNDER_WAY, || Ok(lost_by(host)? == 0))?;
        lost = lost.max(lost_by(host)? as u64);
    }
    let sent = u64::from(sent);
    Ok((outcome, Served { sent, lost }))
}

impl Served {
    /// Whether the flow lost one message in a hundred, or more.
    fn is_harmed(&self) -> bool {
        self.lost * 100 >= self.sent
    }
}

/// Whoever is served beside `attack` loses less than one message in a hundred. What `attack` finds is for `judge`, once it
/// is known what the flow took.
///
/// A machine that is short of processors loses frames of its own at the ends of a link. So an attack in which the flow is
/// harmed does not count if the flow is harmed without any attack, too, right after it. If the flow is not harmed in the first
/// attacks, that is that. Otherwise it must not be in most of them: a router that lets it be harmed fails.
///
/// # Errors
///
/// `attack` or `judge` fails, the flow is harmed in most attacks, or it is without any.
pub fn is_served_beside<T>(
    trio: &Trio,
    attack: impl Fn() -> Result<T>,
    judge: impl Fn(T, Served) -> Result<()>,
) -> Result<()> {
    let (mut served_well, mut harmed, mut in_calm) = (0, Vec::new(), Vec::new());
    while served_well <= ATTACKS / 2 {
        let (found, served) = beside(trio, &attack)?;
        judge(found, served)?;
        if !served.is_harmed() {
            served_well += 1;
            if harmed.is_empty() && served_well == ENOUGH {
                break;
            }
            continue;
        }
        let ((), calm) = beside(trio, || Ok(()))?;
        if calm.is_harmed() {
            in_calm.push(calm);
            ensure!(
                in_calm.len() < ATTACKS,
                "this machine loses {in_calm:?} without any attack"
            );
            continue;
        }
        harmed.push(served);
        ensure!(
            harmed.len() <= ATTACKS / 2,
            "another source lost {harmed:?}, and nothing to speak of right after it"
        );
    }
    Ok(())
}
