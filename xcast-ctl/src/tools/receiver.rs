//! Waits for answers to probes: ICMP messages, and datagrams for probes by UDP.

use std::{
    io,
    mem::MaybeUninit,
    net::{IpAddr, UdpSocket},
    os::fd::AsFd as _,
    time::Instant,
};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    icmp::{Answer, parse, parse_icmpv6},
    interrupt::{Interrupt, rounded_up},
};

/// A raw socket for the ICMP of a family. It needs CAP_NET_RAW.
pub(super) fn socket(ipv6: bool) -> Result<Socket> {
    let (domain, protocol) = match ipv6 {
        false => (Domain::IPV4, Protocol::ICMPV4),
        true => (Domain::IPV6, Protocol::ICMPV6),
    };
    Socket::new(domain, Type::RAW, Some(protocol))
        .context("cannot use ICMP messages, which needs root, or CAP_NET_RAW")
}

/// What came while waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// An answer, when the kernel handed it over.
    Answer(Answer, Instant),
    /// A datagram: its sender, and the number in its first four octets, if it has as many.
    Datagram(IpAddr, Option<u32>, Instant),
    /// The deadline has passed.
    Timeout,
    /// The user interrupted.
    Interrupted,
}

/// Receives the ICMP messages of this network namespace. Interrupts no longer end the process: they
/// become an event.
pub(super) struct Receiver {
    /// One for each family, and whether it is IPv6's.
    sockets: Vec<(Socket, bool)>,
    interrupt: Interrupt,
    datagrams: Vec<UdpSocket>,
}

impl Receiver {
    /// Receives in the families of these addresses. Needs CAP_NET_RAW.
    pub(super) fn new(addresses: &[IpAddr]) -> Result<Self> {
        let mut sockets = Vec::new();
        for ipv6 in [false, true] {
            if addresses.iter().any(|address| address.is_ipv6() == ipv6) {
                let socket = socket(ipv6)?;
                socket.set_nonblocking(true)?;
                sockets.push((socket, ipv6));
            }
        }
        Ok(Self {
            sockets,
            interrupt: Interrupt::new()?,
            datagrams: Vec::new(),
        })
    }

    /// Also receives what arrives at this socket.
    pub(super) fn and_datagrams(mut self, socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        self.datagrams.push(socket);
        Ok(self)
    }

    /// A datagram that has arrived.
    fn datagram(&self) -> io::Result<Option<Event>> {
        for socket in &self.datagrams {
            let mut number = [0; 4];
            match socket.recv_from(&mut number) {
                Ok((length, from)) => {
                    let number = (length == number.len()).then(|| u32::from_be_bytes(number));
                    return Ok(Some(Event::Datagram(from.ip(), number, Instant::now())));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// An answer that has arrived. Other ICMP messages are passed over.
    fn message(&self) -> io::Result<Option<Answer>> {
        for (socket, ipv6) in &self.sockets {
            let mut buffer = [MaybeUninit::uninit(); 2048];
            loop {
                let (len, from) = match socket.recv_from(&mut buffer) {
                    Ok(received) => received,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                // SAFETY: the kernel has written `len` octets.
                let octets = unsafe { buffer[..len].assume_init_ref() };
                let answer = match (ipv6, from.as_socket_ipv6()) {
                    (true, Some(from)) => parse_icmpv6(*from.ip(), octets),
                    _ => parse(octets),
                };
                if answer.is_some() {
                    return Ok(answer);
                }
            }
        }
        Ok(None)
    }

    /// Waits for the next answer, until `deadline` at most.
    pub(super) fn wait(&self, deadline: Instant) -> Result<Event> {
        loop {
            if let Some(answer) = self.message().context("cannot receive ICMP messages")? {
                return Ok(Event::Answer(answer, Instant::now()));
            }
            if let Some(event) = self.datagram().context("cannot receive datagrams")? {
                return Ok(event);
            }
            if self.interrupt.happened()? {
                return Ok(Event::Interrupted);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Event::Timeout);
            }
            let sockets = self.sockets.iter().map(|(socket, _)| socket.as_fd());
            let datagrams = self.datagrams.iter().map(|socket| socket.as_fd());
            let mut polled: Vec<_> = sockets
                .chain(datagrams)
                .chain([self.interrupt.as_fd()])
                .map(|source| PollFd::new(source, PollFlags::POLLIN))
                .collect();
            poll(&mut polled, rounded_up(left))?;
        }
    }
}
