//! Settings and statistics of interfaces that only ethtool's ioctl has.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd as _,
};

const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSTATS: u32 = 0x1d;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETH_SS_STATS: u32 = 1;
const ETH_GSTRING_LEN: usize = 32;

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

/// The driver's own statistics by name; none if it keeps none.
pub(crate) fn statistics(interface: &str) -> io::Result<BTreeMap<String, u64>> {
    // struct ethtool_sset_info: cmd, reserved, sset_mask (u64), data[1].
    let mut info = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_STATS, 0, 0, 0];
    carry_out(interface, info.as_mut_ptr().cast())?;
    let [_, _, known, _, count, _] = info;
    if known == 0 || count == 0 {
        return Ok(BTreeMap::new());
    }
    let len = count as usize;
    // struct ethtool_gstrings: cmd, string_set, len, data; in words, for alignment.
    let mut strings = vec![0_u32; 3 + len * ETH_GSTRING_LEN / size_of::<u32>()];
    strings[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_STATS, count]);
    carry_out(interface, strings.as_mut_ptr().cast())?;
    let names: Vec<u8> = strings[3..]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    // struct ethtool_stats: cmd, n_stats, data[] of u64; in halves of these.
    let mut values = vec![0_u64; 1 + len];
    let [a, b, c, d] = ETHTOOL_GSTATS.to_ne_bytes();
    let [e, f, g, h] = count.to_ne_bytes();
    values[0] = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    carry_out(interface, values.as_mut_ptr().cast())?;
    let names = names.chunks_exact(ETH_GSTRING_LEN).map(|name| {
        let name = String::from_utf8_lossy(name);
        name.trim_end_matches('\0').to_owned()
    });
    Ok(names.zip(values[1..].iter().copied()).collect())
}

/// Carries out one command; returns the value as the kernel left it.
fn call(interface: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut value = Value { command, data };
    carry_out(interface, std::ptr::from_mut(&mut value).cast())?;
    Ok(value.data)
}

/// Carries out the command that `data` begins with: one of ethtool's structures, with room for what the
/// kernel puts there.
fn carry_out(interface: &str, data: *mut libc::c_char) -> io::Result<()> {
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: `ifreq` is plain old data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // Shorter than the field, so that the name ends with a zero, as the kernel requires.
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = data;
    // SAFETY: the kernel reads and writes one of its structures through the pointer; the callers' are
    // as long as their first words say, and outlive the call.
    unsafe { ethtool(socket.as_raw_fd(), &raw mut request) }?;
    Ok(())
}
