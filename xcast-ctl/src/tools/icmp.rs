//! ICMP messages as probes need them: echo requests out, replies and errors in (RFC 792, RFC 4443).
//! No I/O; see [`receiver`](super::receiver).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// Which sender.
    pub(super) identifier: u16,
    /// Which request.
    pub(super) sequence: u16,
}

/// Why a request did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its hop limit was exceeded on the path.
    TimeExceeded,
    /// The destination is unreachable. The code is that of ICMPv4 (RFC 792 and its successors), into
    /// which ICMPv6's is translated.
    Unreachable(u8),
}

impl Fault {
    /// Nobody listens on the port a datagram was sent to, so it did arrive.
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

/// The IP protocol number of ICMP in the family of an address.
pub(super) fn protocol(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => ICMP,
        IpAddr::V6(_) => ICMPV6,
    }
}

/// An echo request with its checksum. The checksum of ICMPv6 covers the IP destination, which for
/// an Xcast packet is the group (RFC 8200 section 8.1).
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
pub(super) fn parse(packet: &[u8]) -> Option<Answer> {
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
pub(super) fn parse_icmpv6(from: Ipv6Addr, message: &[u8]) -> Option<Answer> {
    let said = match *message.get(..2)? {
        [129, 0] => Said::Reply,
        // No route, address unreachable, port unreachable; the others are prohibitions.
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
