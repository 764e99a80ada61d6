//! Frames that keep tunnels alive: what is sent through them, what comes back, and what routers on the path report.
//!
//! A probe is an Xcast packet to one destination, the other end of the tunnel, and passes through the tunnel as any copy
//! does: the other router has to take it out, forward it to its own stack as unicast, and answer it there, since what is
//! in it is an ICMP echo request. The reply comes back as unicast, so that each direction of a tunnel is proven by itself.

use std::net::IpAddr;

use xcast_common::{
    family::{V4, V6},
    forward::emit::encapsulate_packet,
    host::Buffer,
    maps::Tunnel,
    wire::{ETH_LEN, eth, in_ip, transport},
};
use xcast_host::{
    CodePoints,
    packet::{Entry, Template, icmpv6_checksum, internet_checksum},
};
use xcast_overlay::backbone::discovery::Nonce;

use crate::kernel::Instruction;

/// Begins the data of a probe's echo request; the nonce follows.
const MAGIC: [u8; 4] = *b"XcTn";
/// The other router delivers the probe, and nobody forwards it.
const TTL: u8 = 1;
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST6: u8 = 128;
const ECHO_REPLY6: u8 = 129;
/// Octets of an echo message in front of its data.
const ECHO_LEN: usize = 8;
/// Destination unreachable, fragmentation needed (RFC 792, RFC 1191).
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
/// Packet too big (RFC 4443 section 3.2).
const TOO_BIG6: u8 = 2;

/// Where ICMP messages are in frames; of IPv4 without options.
const ICMP_IPV4: usize = ETH_LEN + 20;
const ICMP_IPV6: usize = ETH_LEN + 40;

/// What was heard of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The probe with this nonce was answered.
    Answer(Nonce),
    /// A router on the path cannot pass packets on that are longer than this.
    TooBig {
        /// Outer source.
        source: IpAddr,
        /// Outer destination.
        destination: IpAddr,
        /// The longest that it can, in octets; 0 if it does not say.
        mtu_bytes: u32,
    },
}

/// A probe from one end of a tunnel to the other, as it is sent; `None` if there are no code points of the family.
pub(super) fn probe(
    code_points: &CodePoints,
    (local, remote): (IpAddr, IpAddr),
    tunnel: &Tunnel,
    nonce: &Nonce,
) -> Option<Vec<u8>> {
    let group = code_points.group_for(remote);
    let kind = if remote.is_ipv6() {
        ECHO_REQUEST6
    } else {
        ECHO_REQUEST
    };
    let mut message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &MAGIC, nonce].concat();
    let (protocol, checksum) = match (local, group) {
        (IpAddr::V6(local), IpAddr::V6(group)) => {
            (transport::ICMPV6, icmpv6_checksum(local, group, &message))
        }
        _ => (transport::ICMP, internet_checksum(&message)),
    };
    message[2..4].copy_from_slice(&checksum);
    let template = Template {
        code_points: *code_points,
        source: local,
        to: group,
        ttl: TTL,
        // Network control (RFC 4594): what routers say to each other is not dropped first.
        dscp: 48,
        channel: 0,
        x: false,
        anonymous: false,
        source_port: 0,
        port_list: false,
    };
    let entry = Entry {
        address: remote,
        port: 0,
        dscp: None,
    };
    let mut packet = Vec::new();
    template
        .emit_segment(&[entry], protocol, &message, &mut packet)
        .ok()?;
    let ether_type = if remote.is_ipv6() {
        eth::TYPE_IPV6
    } else {
        eth::TYPE_IPV4
    };
    let frame = [&[0; 12][..], &ether_type.to_be_bytes(), &packet].concat();
    let mut buffer = Buffer::new(&frame);
    if remote.is_ipv6() {
        encapsulate_packet::<V6>(&mut buffer, 0, tunnel)?;
    } else {
        encapsulate_packet::<V4>(&mut buffer, 0, tunnel)?;
    }
    Some(buffer.frame().to_vec())
}

/// What a frame that [`filter`] lets pass says.
pub(super) fn parse(frame: &[u8], udp_port: u16) -> Option<Heard> {
    let ether_type = be16(frame, eth::ETHER_TYPE)?;
    let (is_ipv6, message) = match ether_type {
        eth::TYPE_IPV4 => (false, frame.get(ICMP_IPV4..)?),
        eth::TYPE_IPV6 => (true, frame.get(ICMP_IPV6..)?),
        _ => return None,
    };
    match (is_ipv6, message.get(..2)?) {
        (false, [ECHO_REPLY, 0]) | (true, [ECHO_REPLY6, 0]) => {
            let data = message.get(ECHO_LEN..)?.strip_prefix(&MAGIC)?;
            Some(Heard::Answer(data.get(..8)?.try_into().ok()?))
        }
        (false, [UNREACHABLE, FRAGMENTATION_NEEDED]) => {
            let mtu_bytes = u32::from(be16(message, 6)?);
            too_big(message.get(ECHO_LEN..)?, mtu_bytes, udp_port)
        }
        (true, [TOO_BIG6, _]) => {
            let mtu_bytes = message.get(4..8)?.try_into().ok().map(u32::from_be_bytes)?;
            too_big(message.get(ECHO_LEN..)?, mtu_bytes, udp_port)
        }
        _ => None,
    }
}

/// What a report says about the packet that begins with this, if it may have been one in a tunnel.
fn too_big(packet: &[u8], mtu_bytes: u32, udp_port: u16) -> Option<Heard> {
    let (protocol, header_len, source, destination) = match packet.first()? >> 4 {
        4 => {
            let address =
                |at: usize| Some(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into());
            let header_len = 4 * usize::from(packet[0] & 0xf);
            (*packet.get(9)?, header_len, address(12)?, address(16)?)
        }
        6 => {
            let address =
                |at: usize| Some(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?.into());
            (*packet.get(6)?, 40, address(8)?, address(24)?)
        }
        _ => return None,
    };
    let is_tunnel = match protocol {
        in_ip::IPV4 | in_ip::IPV6 => true,
        transport::UDP => be16(packet, header_len + 2)? == udp_port,
        _ => false,
    };
    is_tunnel.then_some(Heard::TooBig {
        source,
        destination,
        mtu_bytes,
    })
}

fn be16(octets: &[u8], at: usize) -> Option<u16> {
    octets
        .get(at..at + 2)?
        .try_into()
        .ok()
        .map(u16::from_be_bytes)
}

/// Lets answers to probes pass, and reports of what is too big.
pub(super) fn filter() -> [Instruction; 22] {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| Instruction { code, jt, jf, k };
    let load = |code, at: usize| step(code, 0, 0, at as u32);
    // Jumps are relative to the next instruction.
    [
        load(LOAD_HALF, eth::ETHER_TYPE),                   // 0
        step(JUMP_IF_EQUAL, 10, 0, eth::TYPE_IPV6.into()),  // 1 -> 12
        step(JUMP_IF_EQUAL, 0, 18, eth::TYPE_IPV4.into()),  // 2 -> 21
        load(LOAD_BYTE, ETH_LEN + 9),                       // 3
        step(JUMP_IF_EQUAL, 0, 16, transport::ICMP.into()), // 4 -> 21
        load(LOAD_HALF, ICMP_IPV4),                         // 5: type and code
        step(
            JUMP_IF_EQUAL,
            13,
            0,
            u16::from_be_bytes([UNREACHABLE, FRAGMENTATION_NEEDED]).into(),
        ), // 6 -> 20
        step(
            JUMP_IF_EQUAL,
            0,
            13,
            u16::from_be_bytes([ECHO_REPLY, 0]).into(),
        ), // 7 -> 21
        load(LOAD_WORD, ICMP_IPV4 + ECHO_LEN),              // 8
        step(JUMP_IF_EQUAL, 10, 11, u32::from_be_bytes(MAGIC)), // 9 -> 20 or 21
        step(RETURN, 0, 0, 0),                              // 10
        step(RETURN, 0, 0, 0),                              // 11
        load(LOAD_BYTE, ETH_LEN + 6),                       // 12
        step(JUMP_IF_EQUAL, 0, 7, transport::ICMPV6.into()), // 13 -> 21
        load(LOAD_BYTE, ICMP_IPV6),                         // 14
        step(JUMP_IF_EQUAL, 4, 0, TOO_BIG6.into()),         // 15 -> 20
        step(JUMP_IF_EQUAL, 0, 4, ECHO_REPLY6.into()),      // 16 -> 21
        load(LOAD_WORD, ICMP_IPV6 + ECHO_LEN),              // 17
        step(JUMP_IF_EQUAL, 1, 2, u32::from_be_bytes(MAGIC)), // 18 -> 20 or 21
        step(RETURN, 0, 0, 0),                              // 19
        step(RETURN, 0, 0, u32::MAX),                       // 20
        step(RETURN, 0, 0, 0),                              // 21
    ]
}
