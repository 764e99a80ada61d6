//! ICMP as probes need it: echo requests out, replies and errors in (RFC 792); and datagrams in, for
//! probes by UDP.

use std::{
    io,
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, UdpSocket},
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
const UDP: u8 = 17;
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

impl Fault {
    /// Nobody has the port a datagram was sent to: all the same, it arrived.
    pub(super) const PORT: Self = Self::Unreachable(3);
}

/// What an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// An echo request.
    Echo(Echo),
    /// A datagram from this port.
    Udp(u16),
}

/// An ICMP message that answers a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Who sent it.
    pub(super) from: Ipv4Addr,
    /// The destination of the probe, as it was on the wire.
    pub(super) destination: Ipv4Addr,
    /// The probe.
    pub(super) about: About,
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
    let (source, _, message) = ip(packet).filter(|_| packet[9] == ICMP)?;
    match *message.get(..2)? {
        [0, 0] => Some(Answer {
            from: source,
            destination: source,
            about: About::Echo(echo(message)?),
            fault: None,
        }),
        [kind @ (3 | 11), code] => {
            // The probe's own IP header and at least eight octets of it.
            let quotation = message.get(8..)?;
            let (_, destination, quoted) = ip(quotation)?;
            let about = match (quotation[9], *quoted.first_chunk::<ECHO_LEN>()?) {
                (ICMP, [8, ..]) => About::Echo(echo(quoted)?),
                (UDP, [high, low, ..]) => About::Udp(u16::from_be_bytes([high, low])),
                _ => return None,
            };
            let fault = match kind {
                11 => Fault::TimeExceeded,
                _ => Fault::Unreachable(code),
            };
            Some(Answer {
                from: source,
                destination,
                about,
                fault: Some(fault),
            })
        }
        _ => None,
    }
}

/// Source, destination and content of an IP packet.
fn ip(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, &[u8])> {
    let header = packet.first_chunk::<IPV4_LEN>()?;
    if header[0] >> 4 != 4 {
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
    /// A datagram came back: from whom, and the number it begins with, if it is long enough for one.
    Datagram(Ipv4Addr, Option<u32>, Instant),
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
    datagrams: Option<UdpSocket>,
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
            datagrams: None,
        })
    }

    /// Receives what comes to this socket, too.
    pub(super) fn and_datagrams(mut self, socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        self.datagrams = Some(socket);
        Ok(self)
    }

    /// A datagram that is there.
    fn datagram(&self) -> io::Result<Option<Event>> {
        let Some(socket) = &self.datagrams else {
            return Ok(None);
        };
        let mut number = [0; 4];
        match socket.recv_from(&mut number) {
            Ok((length, from)) => {
                let IpAddr::V4(from) = from.ip() else {
                    return Ok(None);
                };
                let number = (length == number.len()).then(|| u32::from_be_bytes(number));
                Ok(Some(Event::Datagram(from, number, Instant::now())))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
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
            if let Some(event) = self.datagram().context("cannot receive datagrams")? {
                return Ok(event);
            }
            if self.signals.read_signal()?.is_some() {
                return Ok(Event::Interrupted);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Event::Timeout);
            }
            let sources = [Some(self.socket.as_fd()), Some(self.signals.as_fd())];
            let datagrams = self.datagrams.as_ref().map(|socket| socket.as_fd());
            let mut polled: Vec<_> = sources
                .into_iter()
                .chain([datagrams])
                .flatten()
                .map(|source| PollFd::new(source, PollFlags::POLLIN))
                .collect();
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
        assert_eq!((answer.about, answer.fault), (About::Echo(ECHO), None));

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
            assert_eq!(
                (answer.about, answer.fault),
                (About::Echo(ECHO), Some(fault))
            );
        }
        let mut quoted = packet(
            [10, 0, 0, 1],
            [10, 0, 0, 9],
            &[0x12, 0x34, 0, 9, 0, 8, 0, 0],
        );
        quoted[9] = UDP;
        let error = [&[3, 3, 0, 0, 0, 0, 0, 0], &quoted[..]].concat();
        let answer = parse(&packet([10, 0, 0, 9], [10, 0, 0, 1], &error)).unwrap();
        assert_eq!(
            (answer.about, answer.fault),
            (About::Udp(0x1234), Some(Fault::PORT))
        );
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
