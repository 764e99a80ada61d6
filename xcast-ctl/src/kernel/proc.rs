//! Settings and facts that the kernel has in files.

use std::{
    fs::{self, File},
    io::{self, Read as _},
};

use anyhow::{Context as _, Result};

/// A number under /proc/sys/net, if it exists.
pub(crate) fn sysctl(path: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/sys/net/{path}")).ok()?;
    text.trim().parse().ok()
}

/// Writes a setting under /proc/sys/net.
pub(crate) fn set_sysctl(path: &str, value: u32) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/{path}"), value.to_string())
}

/// Whether a socket is bound to this UDP port, at whatever address.
pub(crate) fn udp_port_in_use(port: u16) -> bool {
    // A line per socket: "  42: 00000000:1092 00000000:0000 07 ...", number, local, remote, state.
    let bound_to = |line: &str| {
        let local = line.split_whitespace().nth(1)?;
        let (_, bound) = local.rsplit_once(':')?;
        u16::from_str_radix(bound, 16).ok()
    };
    ["udp", "udp6"].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
        text.lines().any(|line| bound_to(line) == Some(port))
    })
}

/// The capabilities of this process in effect, a bit for each (capabilities(7)).
pub(crate) fn capabilities() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

/// Release of the running kernel, as `uname -r` prints it.
pub(crate) fn release() -> Result<String> {
    let uname = nix::sys::utsname::uname().context("cannot ask for the kernel's release")?;
    Ok(uname.release().to_string_lossy().into_owned())
}

/// Frames that the driver of an interface dropped instead of sending, as the interface counts them.
pub(crate) fn transmit_drops(interface: &str) -> u64 {
    // /proc/net belongs to the network namespace of the reader, wherever /sys is from.
    let Ok(text) = fs::read_to_string("/proc/net/dev") else {
        return 0;
    };
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == interface)
        .and_then(|(_, fields)| fields.split_whitespace().nth(11)?.parse().ok())
        .unwrap_or(0)
}

/// A random number from the kernel.
pub(crate) fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    let mut file = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    file.read_exact(&mut bytes)
        .context("cannot read /dev/urandom")?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_bound_socket_uses_its_port() {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(udp_port_in_use(socket.local_addr().unwrap().port()));
        // Nothing can be bound to it.
        assert!(!udp_port_in_use(0));
    }

    #[test]
    fn a_process_has_capabilities_or_none() {
        assert!(capabilities().is_some());
    }

    #[test]
    fn sysctls_are_numbers() {
        assert!(sysctl("ipv4/ip_forward").is_some());
        assert_eq!(sysctl("ipv4/conf/no-such-interface/rp_filter"), None);
    }
}
