//! What probes of neighbours have in common: frames of our own making out, frames that a filter lets pass in.

use std::net::IpAddr;

use xcast_common::wire::{ETH_LEN, eth};

use crate::{kernel::Instruction, sync::WayTo};

/// A gateway and the interface that it is on.
pub(super) type Gateway = (u32, IpAddr);

/// DSCP of probes, network control (RFC 4594): what routers say to each other is not dropped first.
pub(super) const NETWORK_CONTROL: u8 = 48;

/// The frame of a packet to a neighbour.
pub(super) fn frame(way: &WayTo, packet: &[u8]) -> Vec<u8> {
    let ether_type = match packet.first() {
        Some(first) if first >> 4 == 6 => eth::TYPE_IPV6,
        _ => eth::TYPE_IPV4,
    };
    [
        &way.destination_mac[..],
        &way.source_mac,
        &ether_type.to_be_bytes(),
        packet,
    ]
    .concat()
}

/// Where a UDP or ICMP message has its payload, in octets from the frame's beginning; IPv4 without options.
const PAYLOAD_IPV4: usize = ETH_LEN + 20 + 8;
const PAYLOAD_IPV6: usize = ETH_LEN + 40 + 8;

/// The payload of a frame that a [`filter`] lets pass.
pub(super) fn payload_of(frame: &[u8]) -> Option<&[u8]> {
    let ether_type = frame.get(12..14)?.try_into().ok().map(u16::from_be_bytes)?;
    match ether_type {
        eth::TYPE_IPV4 => frame.get(PAYLOAD_IPV4..),
        eth::TYPE_IPV6 => frame.get(PAYLOAD_IPV6..),
        _ => None,
    }
}

/// Lets messages of two protocols pass, for IPv4 and IPv6, whose payload begins with `magic`. Both have a header of 8
/// octets.
pub(super) fn filter(protocols: [u8; 2], magic: [u8; 4]) -> [Instruction; 13] {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP: u16 = 0x05;
    const RETURN: u16 = 0x06;
    let [ipv4, ipv6] = protocols.map(u32::from);
    let step = |code, jt, jf, k| Instruction { code, jt, jf, k };
    // Jumps are relative to the next instruction.
    [
        step(LOAD_HALF, 0, 0, 12),
        step(JUMP_IF_EQUAL, 5, 0, eth::TYPE_IPV6.into()),
        step(JUMP_IF_EQUAL, 0, 9, eth::TYPE_IPV4.into()),
        step(LOAD_BYTE, 0, 0, ETH_LEN as u32 + 9),
        step(JUMP_IF_EQUAL, 0, 7, ipv4),
        step(LOAD_WORD, 0, 0, PAYLOAD_IPV4 as u32),
        step(JUMP, 0, 0, 3),
        step(LOAD_BYTE, 0, 0, ETH_LEN as u32 + 6),
        step(JUMP_IF_EQUAL, 0, 3, ipv6),
        step(LOAD_WORD, 0, 0, PAYLOAD_IPV6 as u32),
        step(JUMP_IF_EQUAL, 0, 1, u32::from_be_bytes(magic)),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Runs the filter as the kernel does, for the instructions that it has.
    pub(in crate::router) fn passes(program: &[Instruction], frame: &[u8]) -> bool {
        let (mut at, mut loaded) = (0, 0_u32);
        loop {
            let step = program[at];
            at += 1;
            let octets = |count: usize| {
                let from = step.k as usize;
                let octets = frame.get(from..from + count)?;
                Some(
                    octets
                        .iter()
                        .fold(0, |all, octet| all << 8 | u32::from(*octet)),
                )
            };
            let wanted = match step.code {
                0x28 => octets(2),
                0x30 => octets(1),
                0x20 => octets(4),
                0x15 => {
                    at += usize::from(if loaded == step.k { step.jt } else { step.jf });
                    continue;
                }
                0x05 => {
                    at += step.k as usize;
                    continue;
                }
                _ => return step.k != 0,
            };
            // A load behind the end ends the program.
            let Some(octets) = wanted else { return false };
            loaded = octets;
        }
    }
}
