//! A program that knows nothing of Xcast, plain and under `xcast-ctl exec`.
//!
//! It sends each message to everyone by a loop of `sendto`, and looks for an answer in between, as most
//! programs do. What is measured is the CPU time of its process: kernel, library and all, and natively
//! the router as well, since veth delivers before the call returns. With one destination it is what the
//! library costs a program that never sends to several.

use std::{
    env,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};

use ::tests::family::Family;

use crate::{
    family::{named, number},
    measure::{Effort, Summary, check_interrupt},
    progress::Progress,
    sender::{self, Host, PAYLOAD_BYTES, Row, SOURCE},
    sinks::Kind,
    sys,
};

/// The first argument that has this file be the program.
pub const AS_PROGRAM: &str = "send-to-everyone";
/// Destinations of a message.
pub const DESTINATIONS: [usize; 2] = [1, 20];
/// Rounds and pauses before anything is measured: the router has to answer.
const TRIAL: u32 = 50;
const PAUSE: Duration = Duration::from_millis(2);

/// The program: its arguments are the CPU, the number of messages, its own address, and destinations.
/// Prints the CPU time of a message in nanoseconds.
///
/// # Errors
///
/// It cannot send.
pub fn program(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut next = || arguments.next().context("an argument is missing");
    let (cpu, messages): (usize, u32) = (next()?.parse()?, next()?.parse()?);
    let own: IpAddr = next()?.parse()?;
    let to: Vec<SocketAddr> = arguments.map(|to| to.parse()).collect::<Result<_, _>>()?;
    sys::pin(cpu)?;
    let socket = UdpSocket::bind((own, 0))?;
    socket.set_nonblocking(true)?;
    let mut payload = [0x5a; PAYLOAD_BYTES];
    let mut send = |number: u32| -> Result<()> {
        payload[..4].copy_from_slice(&number.to_be_bytes());
        for to in &to {
            socket.send_to(&payload, to)?;
        }
        match socket.recv(&mut [0; 16]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            other => Err(anyhow::anyhow!("an answer: {other:?}")),
        }
    };
    for number in 0..TRIAL {
        send(number)?;
        thread::sleep(PAUSE);
    }
    let before = used()?;
    for number in 0..messages {
        send(number)?;
    }
    let ns = (used()? - before) / f64::from(messages);
    xtask::print(&format!("{ns}\n"))
}

/// CPU time of this process, in nanoseconds.
fn used() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(Duration::from(time).as_secs_f64() * 1e9)
}

/// Measures the program with one and with many destinations, plain and under `exec` by a router on its
/// host.
///
/// # Errors
///
/// Needs root; or it cannot be run, or its packets do not arrive.
pub fn measure(
    family: Family,
    cpu: usize,
    effort: Effort,
    progress: &mut Progress,
) -> Result<Vec<Row>> {
    let plain = Host::new(family, "plain", Kind::Tc)?;
    let host = Host::new(family, "exec", Kind::Xdp)?;
    let _daemon = sender::router(family, &host)?;
    let mut rows = Vec::new();
    for destinations in DESTINATIONS {
        progress.show(&named("programs", family));
        let to = sender::list(family, destinations);
        // What it costs who sends to one is only to be seen by the same links. Many copies are taken off the wire
        // by programs that suit their sender.
        let without = if destinations == 1 { &host } else { &plain };
        let mut sides = [(without, false), (&host, true)].map(|(host, exec)| Side {
            host,
            exec,
            own: family.address(SOURCE),
            to: &to,
            cpu,
            messages: 1000,
            ns: Vec::new(),
        });
        for side in &mut sides {
            let wanted = effort.run.as_nanos() as f64 / side.run()?;
            side.messages = (wanted as u32).max(1000);
        }
        // In turns, so that what else the machine does is the same for both.
        for _ in 0..effort.rounds {
            for side in &mut sides {
                let ns = side.run()?;
                side.ns.push(ns);
            }
        }
        for side in sides {
            rows.push(side.row(family)?);
        }
    }
    Ok(rows)
}

/// The program, plain or under `exec`.
struct Side<'a> {
    host: &'a Host,
    exec: bool,
    own: IpAddr,
    to: &'a [SocketAddr],
    cpu: usize,
    messages: u32,
    ns: Vec<f64>,
}

impl Side<'_> {
    /// A round: CPU time of a message in nanoseconds.
    fn run(&self) -> Result<f64> {
        check_interrupt()?;
        let Self { host, exec, .. } = *self;
        let program = env::current_exe().context("cannot find this program's own file")?;
        let mut command: Command = host.namespace.command(&program);
        if exec {
            command.args(["exec", "--"]).arg(&program);
        }
        command.arg(AS_PROGRAM);
        let (cpu, messages) = (self.cpu.to_string(), self.messages.to_string());
        command.args([cpu, messages, self.own.to_string()]);
        command.args(self.to.iter().map(ToString::to_string));
        let before = host.arrived()?;
        let output = command.output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{AS_PROGRAM}: {stderr}");
        let arrived = host.arrived()? - before;
        let all = u64::from(self.messages + TRIAL) * self.to.len() as u64;
        let shared = exec && self.to.len() > 1;
        ensure!(
            if shared {
                arrived < all / 2
            } else {
                arrived == all
            },
            "{AS_PROGRAM} with exec {exec}: {arrived} packets arrived for {all} datagrams"
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
    }

    fn row(self, family: Family) -> Result<Row> {
        Ok(Row {
            subject: match self.exec {
                true => "program, exec",
                false => "program",
            },
            family: number(family),
            destinations: self.to.len(),
            payload_bytes: PAYLOAD_BYTES,
            ns_per_message: Summary::of(&self.ns).context("no rounds")?,
            delivered: true,
        })
    }
}
