//! A copy gets what it needs to pass through a tunnel.
//!
//! ```text
//! [Ethernet | IP | UDP | Xcast packet | cookie]
//!            '- outer; UDP only if the tunnel has a port
//! ```
//!
//! The cookie is behind the packet, since routers on the way, and the other end's kernel, expect an IP header behind an
//! IP header that says so (RFC 2003, RFC 2473, RFC 4213), and look at no octet that its length leaves over.

use crate::{
    family::{V4, V6, traits::Family},
    forward::plan::Plan,
    maps::tunnel::{COOKIE_LEN, Tunnel},
    verifier::fresh,
    wire::{
        ETH_LEN, IPV4_LEN,
        checksum::Sum,
        endian::{Be16, Be32},
        eth,
        frame::{Frame, View, Window},
        ipv4, ipv6, transport, udp,
    },
};

/// Longest packet in a tunnel, as a mask: a bound that the verifier sees, and more than a linear frame has.
const MAX_LEN: usize = 0xfff;
/// Don't fragment (RFC 791), in the word that begins with the identification, which need not say anything then
/// (RFC 6864).
const DONT_FRAGMENT: u32 = 1 << 14;
/// Where source ports of tunnels begin: those that say which flow a packet belongs to (RFC 7510 section 3, RFC 8086).
const FIRST_PORT: u16 = 0xc000;

/// What outer headers are made of.
struct Outer<'a> {
    tunnel: &'a Tunnel,
    /// Protocol of what is inside, if there is no UDP header.
    protocol: u8,
    /// DS field and ECN of what is inside: outer headers get the same (RFC 2983, RFC 6040 section 4.1, normal mode).
    traffic_class: u8,
    /// The same for packets of a flow.
    entropy: u32,
    /// Length of what is behind the outer headers, in octets.
    len: usize,
}

/// Puts the outer headers in front of a copy, and the cookie behind it. `None` if the frame has no room.
#[inline(always)]
pub fn encapsulate<F: Family>(
    frame: &mut impl Frame,
    plan: &Plan<F>,
    tunnel: &Tunnel,
) -> Option<()> {
    encapsulate_packet::<F>(frame, plan.ext_len(), tunnel)
}

/// The same for an Xcast packet with so many octets of other headers before its Xcast header.
#[inline(always)]
pub fn encapsulate_packet<F: Family>(
    frame: &mut impl Frame,
    ext_len: u16,
    tunnel: &Tunnel,
) -> Option<()> {
    let view = frame.view();
    let inner_len = view.len().wrapping_sub(ETH_LEN) & MAX_LEN;
    let flow = F::flow(view, ext_len)?.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let outer = Outer {
        tunnel,
        protocol: F::IN_IP,
        traffic_class: F::traffic_class(view)?,
        entropy: (flow >> 32) as u32,
        len: inner_len + COOKIE_LEN,
    };
    if !frame.grow(COOKIE_LEN as u32) {
        return None;
    }
    let behind = frame.view().skip(inner_len).window::<COOKIE_LEN>(ETH_LEN)?;
    behind.set_u64(0, tunnel.cookie);
    if fresh(&tunnel.version) == V4::VERSION {
        outer.push::<V4>(frame, Outer::write_ipv4)
    } else {
        outer.push::<V6>(frame, Outer::write_ipv6)
    }
}

impl Outer<'_> {
    /// Makes room for an outer header of this family, and writes it.
    #[inline(always)]
    fn push<O: Family>(
        &self,
        frame: &mut impl Frame,
        write: impl FnOnce(&Self, View<'_>, u8, usize) -> Option<()>,
    ) -> Option<()> {
        let is_udp = fresh(&self.tunnel.port) != Be16::default();
        let (protocol, len, more) = if is_udp {
            (transport::UDP, self.len + udp::HEADER_LEN, udp::HEADER_LEN)
        } else {
            (self.protocol, self.len, 0)
        };
        if !frame.adjust_head(-((O::IP_LEN + more) as i32)) {
            return None;
        }
        let view = frame.view();
        write(self, view, protocol, len)?;
        if !is_udp {
            return Some(());
        }
        let header = view.window::<{ udp::HEADER_LEN }>(O::XCAST_AT)?;
        let source = Be16::new(FIRST_PORT | self.entropy as u16 & !FIRST_PORT);
        header.set_u16(udp::SOURCE_PORT, source.memory());
        header.set_u16(udp::DESTINATION_PORT, self.tunnel.port.memory());
        header.set_u16(udp::LENGTH, Be16::new(len as u16).memory());
        // What is inside has checksums of its own (RFC 6935, RFC 6936 section 5).
        header.set_u16(udp::CHECKSUM, 0);
        Some(())
    }

    #[inline(always)]
    fn write_ipv4(&self, view: View<'_>, protocol: u8, len: usize) -> Option<()> {
        const AFTER: usize = ETH_LEN + IPV4_LEN;
        let header = view.window::<AFTER>(0)?;
        self.write_ethernet(header, V4::ETHER_TYPE);
        let total_len = (len + IPV4_LEN) as u16;
        let first = 0x4500_0000 | u32::from(self.traffic_class) << 16 | u32::from(total_len);
        let third = u32::from(self.tunnel.ttl) << 24 | u32::from(protocol) << 16;
        let words = [
            Be32::new(first),
            Be32::new(DONT_FRAGMENT),
            Be32::new(third),
            self.tunnel.addresses[0],
            self.tunnel.addresses[1],
        ];
        let mut sum = Sum::default();
        for (at, word) in words.iter().enumerate() {
            header.set_u32(ETH_LEN + 4 * at, word.memory());
            sum = sum.add32(word.memory());
        }
        header.set_u16(ipv4::CHECKSUM, !sum.fold_few());
        Some(())
    }

    #[inline(always)]
    fn write_ipv6(&self, view: View<'_>, protocol: u8, len: usize) -> Option<()> {
        const AFTER: usize = ETH_LEN + ipv6::LEN;
        let header = view.window::<AFTER>(0)?;
        self.write_ethernet(header, V6::ETHER_TYPE);
        // The flow label tells flows apart where there is no UDP header (RFC 6438).
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.entropy & 0xf_ffff;
        let second = (len as u32) << 16 | u32::from(protocol) << 8 | u32::from(self.tunnel.ttl);
        header.set_u32(ETH_LEN, Be32::new(first).memory());
        header.set_u32(ETH_LEN + 4, Be32::new(second).memory());
        for (at, word) in self.tunnel.addresses.iter().enumerate() {
            header.set_u32(ipv6::SOURCE + 4 * at, word.memory());
        }
        Some(())
    }

    #[inline(always)]
    fn write_ethernet<const N: usize>(&self, header: Window<'_, N>, ether_type: u16) {
        let (first, last) = self.tunnel.ethernet();
        header.set_u64(eth::DESTINATION, first);
        header.set_u32(eth::DESTINATION + 8, last);
        header.set_u16(eth::ETHER_TYPE, ether_type.to_be());
    }
}
