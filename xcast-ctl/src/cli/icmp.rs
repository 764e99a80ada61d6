//! ICMP as probes need it: echo requests out, replies and errors in (RFC 792).

use std::{
    io,
    mem::MaybeUninit,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use socket2::{Domain, Protocol, Socket, Type};
use xcast_host::packet::internet_checksum;

/// ICMP's protocol number.
pub(super) const ICMP: u8 = 1;
/// Octets of an echo message in front of its data.
pub(super) const ECHO_LEN: usize = 8;
const IPV4_LEN: usize = 20;

/// What tells an echo request from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Echo {
    /// Who asks.
    pub(super) identifier: u16,
    /// Which request.
    pub(super) sequence: u16,
}

/// Why a request did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its time to live was over on the way.
    TimeExceeded,
    /// There is no way on; the code of RFC 792 and its successors.
    Unreachable(u8),
}

/// An ICMP message that answers an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Who sent it.
    pub(super) from: Ipv4Addr,
    /// The destination of the request, as it was on the wire.
    pub(super) destination: Ipv4Addr,
    /// The request.
    pub(super) echo: Echo,
    /// What went wrong; `None` for a reply.
    pub(super) fault: Option<Fault>,
}

/// An echo request with so many octets of data, complete with its checksum.
pub(super) fn request(echo: Echo, data_len: usize) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0];
    message.extend(echo.identifier.to_be_bytes());
    message.extend(echo.sequence.to_be_bytes());
    message.extend((0..data_len).map(|at| at as u8));
    let checksum = internet_checksum(&message);
    message[2..4].copy_from_slice(&checksum);
    message
}

/// The answer that an IP packet is, if it is one.
pub(super) fn parse(packet: &[u8]) -> Option<Answer> {
    let (source, _, message) = ip(packet)?;
    match *message.get(..2)? {
        [0, 0] => Some(Answer {
            from: source,
            destination: source,
            echo: echo(message)?,
            fault: None,
        }),
        [kind @ (3 | 11), code] => {
            // The request's own IP header and at least eight octets of it.
            let (_, destination, quoted) = ip(message.get(8..)?)?;
            if *quoted.first()? != 8 {
                return None;
            }
            let fault = match kind {
                11 => Fault::TimeExceeded,
                _ => Fault::Unreachable(code),
            };
            Some(Answer {
                from: source,
                destination,
                echo: echo(quoted)?,
                fault: Some(fault),
            })
        }
        _ => None,
    }
}

/// Source, destination and content of an IP packet that carries ICMP.
fn ip(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, &[u8])> {
    let header = packet.first_chunk::<IPV4_LEN>()?;
    if header[0] >> 4 != 4 || header[9] != ICMP {
        return None;
    }
    let address =
        |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    let content = packet.get(usize::from(header[0] & 0xf) * 4..)?;
    Some((address(12), address(16), content))
}

fn echo(message: &[u8]) -> Option<Echo> {
    let header = message.first_chunk::<ECHO_LEN>()?;
    Some(Echo {
        identifier: u16::from_be_bytes([header[4], header[5]]),
        sequence: u16::from_be_bytes([header[6], header[7]]),
    })
}

/// What came while waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// An answer, when the kernel handed it over.
    Answer(Answer, Instant),
    /// The time is over.
    Timeout,
    /// The user wants no more.
    Interrupted,
}

/// Receives ICMP messages of this network namespace, and notices interrupts, which do not end the
/// process any more.
pub(super) struct Receiver {
    socket: Socket,
    signals: SignalFd,
}

impl Receiver {
    /// Needs CAP_NET_RAW.
    pub(super) fn new() -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))
            .context("cannot receive ICMP messages, which needs root, or CAP_NET_RAW")?;
        socket.set_nonblocking(true)?;
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        Ok(Self {
            socket,
            signals: SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK)?,
        })
    }

    /// Waits for the next answer, until `deadline` at most.
    pub(super) fn wait(&self, deadline: Instant) -> Result<Event> {
        loop {
            let mut buffer = [MaybeUninit::uninit(); 2048];
            match self.socket.recv(&mut buffer) {
                Ok(len) => {
                    // SAFETY: the kernel has written so many octets.
                    let packet = unsafe { buffer[..len].assume_init_ref() };
                    if let Some(answer) = parse(packet) {
                        return Ok(Event::Answer(answer, Instant::now()));
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("cannot receive ICMP messages"),
            }
            if self.signals.read_signal()?.is_some() {
                return Ok(Event::Interrupted);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Event::Timeout);
            }
            let mut polled = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            // Rounded up, so as not to spin through the last millisecond.
            let left = left + Duration::from_millis(1);
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            poll(&mut polled, timeout)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ECHO: Echo = Echo {
        identifier: 0x1234,
        sequence: 7,
    };

    fn packet(source: [u8; 4], destination: [u8; 4], content: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, ICMP, 0, 0];
        packet.extend(source);
        packet.extend(destination);
        packet.extend(content);
        packet
    }

    #[test]
    fn requests_have_a_right_checksum() {
        let message = request(ECHO, 3);
        assert_eq!(message.len(), ECHO_LEN + 3);
        assert_eq!(internet_checksum(&message), [0, 0]);
        assert_eq!(message[4..8], [0x12, 0x34, 0, 7]);
    }

    #[test]
    fn replies_and_errors() {
        let mut reply = request(ECHO, 10);
        reply[0] = 0;
        let answer = parse(&packet([10, 0, 0, 9], [10, 0, 0, 1], &reply)).unwrap();
        assert_eq!(answer.from, Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!((answer.echo, answer.fault), (ECHO, None));

        let quoted = packet([10, 0, 0, 1], [10, 0, 0, 9], &request(ECHO, 0));
        for (header, fault) in [
            ([11, 0], Fault::TimeExceeded),
            ([3, 1], Fault::Unreachable(1)),
        ] {
            let mut error = header.to_vec();
            error.extend([0; 6]);
            error.extend(&quoted);
            let answer = parse(&packet([10, 0, 5, 5], [10, 0, 0, 1], &error)).unwrap();
            assert_eq!(answer.from, Ipv4Addr::new(10, 0, 5, 5));
            assert_eq!(answer.destination, Ipv4Addr::new(10, 0, 0, 9));
            assert_eq!((answer.echo, answer.fault), (ECHO, Some(fault)));
        }
        // Requests, of ours on the loopback for one, are no answers.
        assert_eq!(parse(&packet([0; 4], [0; 4], &request(ECHO, 0))), None);
    }

    proptest! {
        #[test]
        fn anything_may_arrive(octets in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&octets);
            let mut error = vec![11, 0, 0, 0, 0, 0, 0, 0];
            error.extend(&octets);
            let _ = parse(&packet([1; 4], [2; 4], &error));
        }
    }
}
