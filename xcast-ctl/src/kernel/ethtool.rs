//! Settings of interfaces that only ethtool's ioctl has.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd as _,
};

const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SGRO: u32 = 0x2c;

/// ETH_FLAG_TXVLAN: tags of what is sent are not in the frame, but beside it.
const FLAG_TXVLAN: u32 = 1 << 7;
/// ETH_FLAG_RXVLAN: tags are taken off what arrives.
const FLAG_RXVLAN: u32 = 1 << 8;

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

nix::ioctl_readwrite_bad!(ethtool, libc::SIOCETHTOOL, libc::ifreq);

/// Whether generic receive offload is on; `None` if the kernel does not tell.
pub(crate) fn gro(interface: &str) -> Option<bool> {
    let value = call(interface, ETHTOOL_GGRO, 0).ok()?;
    Some(value != 0)
}

/// Switches generic receive offload on or off.
pub(crate) fn set_gro(interface: &str, on: bool) -> io::Result<()> {
    call(interface, ETHTOOL_SGRO, on.into()).map(drop)
}

/// Whether the interface takes VLAN tags off the frames that arrive, so that XDP does not see them
/// (`rx-vlan-offload`); `None` if the kernel does not tell.
pub(crate) fn takes_vlan_tags_off(interface: &str) -> Option<bool> {
    let flags = call(interface, ETHTOOL_GFLAGS, 0).ok()?;
    Some(flags & FLAG_RXVLAN != 0)
}

/// Whether the interface sends VLAN tags beside the frames instead of in them (`tx-vlan-offload`);
/// `None` if the kernel does not tell.
pub(crate) fn leaves_vlan_tags_out(interface: &str) -> Option<bool> {
    let flags = call(interface, ETHTOOL_GFLAGS, 0).ok()?;
    Some(flags & FLAG_TXVLAN != 0)
}

/// Carries out one command; returns the value as the kernel left it.
fn call(interface: &str, command: u32, data: u32) -> io::Result<u32> {
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut value = Value { command, data };
    // SAFETY: `ifreq` is plain old data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // Shorter than the field, so that the name ends with a zero, as the kernel requires.
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the kernel reads an `ethtool_value` through the pointer and writes one back; `value`
    // is one, and outlives the call.
    unsafe { ethtool(socket.as_raw_fd(), &raw mut request) }?;
    Ok(value.data)
}
