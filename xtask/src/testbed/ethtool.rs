//! The few interface settings and statistics that only the ethtool ioctl gives, without the tool.

use std::{
    collections::BTreeMap,
    io,
    net::UdpSocket,
    os::fd::{AsRawFd as _, RawFd},
};

use anyhow::{Context as _, Result, bail};

// From linux/ethtool.h.
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSTATS: u32 = 0x1d;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETH_SS_STATS: u32 = 1;
const ETH_GSTRING_LEN: usize = 32;
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// Switches generic receive offload, in the namespace of the calling thread.
///
/// A veth interface accepts frames that XDP programs send to it only with this or an XDP program
/// of its own; without, they vanish uncounted.
///
/// # Errors
///
/// There is no such interface, or it cannot do so.
pub fn set_gro(interface: &str, on: bool) -> Result<()> {
    set_value(interface, ETHTOOL_SGRO, on)
        .with_context(|| format!("failed to switch GRO of {interface}"))
}

/// Switches transmit checksum offload, in the namespace of the calling thread.
///
/// With it, frames cross a veth pair with their UDP and TCP checksums unfinished. The kernel at the
/// other end knows, but an XDP program that forwards such a frame passes the wrong checksum on.
///
/// # Errors
///
/// There is no such interface, or it cannot do so.
pub fn set_tx_checksum(interface: &str, on: bool) -> Result<()> {
    set_value(interface, ETHTOOL_STXCSUM, on)
        .with_context(|| format!("failed to switch checksum offload of {interface}"))
}

/// The driver's own statistics by name, in the namespace of the calling thread.
///
/// # Errors
///
/// There is no such interface, or its driver keeps none.
pub fn statistics(interface: &str) -> Result<BTreeMap<String, u64>> {
    let context = || format!("failed to read driver statistics of {interface}");
    // struct ethtool_sset_info: cmd, reserved, sset_mask (u64), data[1].
    let mut info = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_STATS, 0, 0, 0];
    ioctl(interface, info.as_mut_ptr().cast()).with_context(context)?;
    let count = info[4];
    if info[2] == 0 || count == 0 {
        bail!("the driver of {interface} keeps no statistics");
    }
    let len = count as usize;

    // struct ethtool_gstrings: cmd, string_set, len, data; in words, for alignment.
    let mut strings = vec![0_u32; 3 + len * ETH_GSTRING_LEN / 4];
    strings[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_STATS, count]);
    ioctl(interface, strings.as_mut_ptr().cast()).with_context(context)?;
    let names: Vec<u8> = strings[3..]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();

    // struct ethtool_stats: cmd, n_stats, data[] of u64.
    let mut values = vec![0_u64; 1 + len];
    let [a, b, c, d] = ETHTOOL_GSTATS.to_ne_bytes();
    let [e, f, g, h] = count.to_ne_bytes();
    values[0] = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    ioctl(interface, values.as_mut_ptr().cast()).with_context(context)?;

    Ok(names
        .chunks_exact(ETH_GSTRING_LEN)
        .map(|name| {
            String::from_utf8_lossy(name)
                .trim_end_matches('\0')
                .to_owned()
        })
        .zip(values[1..].iter().copied())
        .collect())
}

fn set_value(interface: &str, command: u32, on: bool) -> Result<()> {
    // struct ethtool_value: cmd, data.
    let mut value = [command, u32::from(on)];
    ioctl(interface, value.as_mut_ptr().cast())
}

/// `data` is one of ethtool's structures, with room for what its own command says it returns.
fn ioctl(interface: &str, data: *mut libc::c_char) -> Result<()> {
    let name = interface.as_bytes();
    if name.len() >= libc::IFNAMSIZ {
        bail!("interface name `{interface}` is too long");
    }
    let socket = UdpSocket::bind("0.0.0.0:0").context("failed to open a socket")?;
    let fd: RawFd = socket.as_raw_fd();
    // SAFETY: all zeroes is a value of this structure of integers, arrays and a pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, &from) in request.ifr_name.iter_mut().zip(name) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = data;
    // SAFETY: the name is terminated, since the structure was zeroed and the name is shorter; the
    // callers' buffers outlive the call and are as long as their first words tell the kernel.
    if unsafe { libc::ioctl(fd, SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(())
}
