//! ICMP as probes need it, of both families: echo requests out, replies and errors in (RFC 792, RFC
//! 4443); and datagrams in, for probes by UDP.

use std::{
    io,
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
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
use xcast_host::{
    CodePoints,
    packet::{icmpv6_checksum, internet_checksum},
};

/// ICMP's protocol number.
const ICMP: u8 = 1;
/// ICMPv6's.
const ICMPV6: u8 = 58;
const UDP: u8 = 17;
/// Octets of an echo message in front of its data.
pub(super) const ECHO_LEN: usize = 8;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;

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
    /// There is no way on; the code of RFC 792 and its successors, also for what ICMPv6 says.
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
    pub(super) from: IpAddr,
    /// The destination of the probe, as it was on the wire.
    pub(super) destination: IpAddr,
    /// The probe.
    pub(super) about: About,
    /// What went wrong; `None` for a reply.
    pub(super) fault: Option<Fault>,
}

/// The protocol of the ICMP that belongs to an address.
pub(super) fn protocol(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => ICMP,
        IpAddr::V6(_) => ICMPV6,
    }
}

/// A raw socket for it, which needs CAP_NET_RAW.
pub(super) fn socket(ipv6: bool) -> Result<Socket> {
    let (domain, protocol) = match ipv6 {
        false => (Domain::IPV4, Protocol::ICMPV4),
        true => (Domain::IPV6, Protocol::ICMPV6),
    };
    Socket::new(domain, Type::RAW, Some(protocol))
        .context("cannot use ICMP messages, which needs root, or CAP_NET_RAW")
}

/// An echo request with so many octets of data from this source, complete with its checksum: that
/// of ICMPv6 covers the IP destination, which to a source of Xcast packets is the group.
pub(super) fn request(
    echo: Echo,
    data_len: usize,
    source: IpAddr,
    code_points: CodePoints,
) -> Vec<u8> {
    let kind = match source {
        IpAddr::V4(_) => 8,
        IpAddr::V6(_) => 128,
    };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(echo.identifier.to_be_bytes());
    message.extend(echo.sequence.to_be_bytes());
    message.extend((0..data_len).map(|at| at as u8));
    let checksum = match (source, code_points.group_for(source)) {
        (IpAddr::V6(source), IpAddr::V6(group)) => icmpv6_checksum(source, group, &message),
        _ => internet_checksum(&message),
    };
    message[2..4].copy_from_slice(&checksum);
    message
}

/// What an ICMP message says.
enum Said {
    Reply,
    Fault(Fault),
}

/// The answer that an IPv4 packet is, if it is one.
fn parse(packet: &[u8]) -> Option<Answer> {
    let packet = ip(packet).filter(|packet| packet.protocol == ICMP)?;
    let said = match *packet.content.get(..2)? {
        [0, 0] => Said::Reply,
        [3, code] => Said::Fault(Fault::Unreachable(code)),
        [11, _] => Said::Fault(Fault::TimeExceeded),
        _ => return None,
    };
    answer(packet.source, said, packet.content)
}

/// The answer that an ICMPv6 message is, if it is one.
fn parse_icmpv6(from: Ipv6Addr, message: &[u8]) -> Option<Answer> {
    let said = match *message.get(..2)? {
        [129, 0] => Said::Reply,
        // What there is no way to, and what nobody listens for; the others are prohibitions.
        [1, code] => Said::Fault(Fault::Unreachable(match code {
            0 | 2 => 0,
            3 => 1,
            4 => 3,
            _ => 13,
        })),
        [2, _] => Said::Fault(Fault::Unreachable(4)),
        [3, _] => Said::Fault(Fault::TimeExceeded),
        _ => return None,
    };
    answer(from.into(), said, message)
}

fn answer(from: IpAddr, said: Said, message: &[u8]) -> Option<Answer> {
    let Said::Fault(fault) = said else {
        return Some(Answer {
            from,
            destination: from,
            about: About::Echo(echo(message)?),
            fault: None,
        });
    };
    // The probe's own IP header and at least eight octets of it.
    let quotation = ip(message.get(8..)?)?;
    let quoted = quotation.content;
    let about = match (quotation.protocol, *quoted.first_chunk::<ECHO_LEN>()?) {
        (ICMP, [8, ..]) | (ICMPV6, [128, ..]) => About::Echo(echo(quoted)?),
        (UDP, [high, low, ..]) => About::Udp(u16::from_be_bytes([high, low])),
        _ => return None,
    };
    Some(Answer {
        from,
        destination: quotation.destination,
        about,
        fault: Some(fault),
    })
}

/// An IP packet.
struct Packet<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    content: &'a [u8],
}

fn ip(packet: &[u8]) -> Option<Packet<'_>> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet.first_chunk::<IPV4_LEN>()?;
            let address = |at: usize| {
                Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into()
            };
            Some(Packet {
                source: address(12),
                destination: address(16),
                protocol: header[9],
                content: packet.get(usize::from(header[0] & 0xf) * 4..)?,
            })
        }
        6 => {
            let (header, content) = packet.split_first_chunk::<IPV6_LEN>()?;
            let address = |at: usize| {
                let octets = header[at..].first_chunk::<16>();
                octets.map(|octets| Ipv6Addr::from(*octets).into())
            };
            Some(Packet {
                source: address(8)?,
                destination: address(24)?,
                protocol: header[6],
                content,
            })
        }
        _ => None,
    }
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
    Datagram(IpAddr, Option<u32>, Instant),
    /// The time is over.
    Timeout,
    /// The user wants no more.
    Interrupted,
}

/// Receives ICMP messages of this network namespace, and notices interrupts, which do not end the
/// process any more.
pub(super) struct Receiver {
    /// One for each family, and whether it is IPv6's.
    sockets: Vec<(Socket, bool)>,
    signals: SignalFd,
    datagrams: Vec<UdpSocket>,
}

impl Receiver {
    /// What comes in the families of these addresses. Needs CAP_NET_RAW.
    pub(super) fn new(addresses: &[IpAddr]) -> Result<Self> {
        let mut sockets = Vec::new();
        for ipv6 in [false, true] {
            if addresses.iter().any(|address| address.is_ipv6() == ipv6) {
                let socket = socket(ipv6)?;
                socket.set_nonblocking(true)?;
                sockets.push((socket, ipv6));
            }
        }
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        Ok(Self {
            sockets,
            signals: SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK)?,
            datagrams: Vec::new(),
        })
    }

    /// Receives what comes to this socket, too.
    pub(super) fn and_datagrams(mut self, socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        self.datagrams.push(socket);
        Ok(self)
    }

    /// A datagram that is there.
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

    /// An ICMP message that is there and answers something. Others are passed over.
    fn message(&self) -> io::Result<Option<Answer>> {
        for (socket, ipv6) in &self.sockets {
            let mut buffer = [MaybeUninit::uninit(); 2048];
            loop {
                let (len, from) = match socket.recv_from(&mut buffer) {
                    Ok(received) => received,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                // SAFETY: the kernel has written so many octets.
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
            if self.signals.read_signal()?.is_some() {
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
                .chain([self.signals.as_fd()])
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

    fn code_points() -> CodePoints {
        CodePoints {
            protocol: 253,
            group: Ipv4Addr::new(224, 0, 0, 254),
            ipv6: Some(xcast_host::Ipv6CodePoints {
                group: "ff02::114".parse().unwrap(),
                routing_type: 253,
                ports_option: 0x5e,
            }),
        }
    }

    fn request(echo: Echo, data_len: usize) -> Vec<u8> {
        super::request(
            echo,
            data_len,
            Ipv4Addr::new(10, 0, 0, 1).into(),
            code_points(),
        )
    }

    #[test]
    fn requests_have_a_right_checksum() {
        let message = request(ECHO, 3);
        assert_eq!(message.len(), ECHO_LEN + 3);
        assert_eq!(internet_checksum(&message), [0, 0]);
        assert_eq!(message[4..8], [0x12, 0x34, 0, 7]);
    }

    /// Checked by hand: the pseudo header of RFC 8200 section 8.1 and the message add up to nothing.
    #[test]
    fn requests_of_icmpv6_have_a_right_checksum() {
        let source: Ipv6Addr = "fd77::1".parse().unwrap();
        let message = super::request(ECHO, 2, source.into(), code_points());
        assert_eq!(message[0], 128);
        let group: Ipv6Addr = "ff02::114".parse().unwrap();
        let mut covered = [source.octets(), group.octets()].concat();
        covered.extend([0, 0, 0, 10, 0, 0, 0, 58]);
        covered.extend(&message);
        assert_eq!(internet_checksum(&covered), [0, 0]);
    }

    #[test]
    fn replies_and_errors_of_icmpv6() {
        let (router, host): (Ipv6Addr, Ipv6Addr) =
            ("fd77::5".parse().unwrap(), "fd77::9".parse().unwrap());
        let own: Ipv6Addr = "fd77::1".parse().unwrap();
        let probe = super::request(ECHO, 0, own.into(), code_points());
        let mut reply = probe.clone();
        reply[0] = 129;
        let answer = parse_icmpv6(host, &reply).unwrap();
        assert_eq!((answer.about, answer.fault), (About::Echo(ECHO), None));
        assert_eq!(answer.destination, host);
        let mut quoted = vec![0x60, 0, 0, 0, 0, 8, ICMPV6, 1];
        quoted.extend(own.octets());
        quoted.extend(host.octets());
        quoted.extend(&probe);
        for (header, fault) in [
            ([3, 0], Fault::TimeExceeded),
            ([1, 0], Fault::Unreachable(0)),
            ([1, 3], Fault::Unreachable(1)),
            ([1, 4], Fault::PORT),
            ([1, 5], Fault::Unreachable(13)),
            ([2, 0], Fault::Unreachable(4)),
        ] {
            let mut error = header.to_vec();
            error.extend([0; 6]);
            error.extend(&quoted);
            let answer = parse_icmpv6(router, &error).unwrap();
            assert_eq!(answer.from, router);
            assert_eq!(answer.destination, host);
            assert_eq!(
                (answer.about, answer.fault),
                (About::Echo(ECHO), Some(fault))
            );
        }
        assert_eq!(parse_icmpv6(own, &probe), None);
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
            let _ = parse_icmpv6(Ipv6Addr::LOCALHOST, &octets);
            let mut quoting = vec![3, 0, 0, 0, 0, 0, 0, 0, 0x60];
            quoting.extend(&octets);
            let _ = parse_icmpv6(Ipv6Addr::LOCALHOST, &quoting);
            let mut error = vec![11, 0, 0, 0, 0, 0, 0, 0];
            error.extend(&octets);
            let _ = parse(&packet([1; 4], [2; 4], &error));
        }
    }
}
