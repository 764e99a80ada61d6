//! Settings and facts that the kernel has in files.

use std::{
    collections::HashMap,
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

/// Release of the running kernel, as `uname -r` prints it.
pub(crate) fn release() -> Result<String> {
    let uname = nix::sys::utsname::uname().context("cannot ask for the kernel's release")?;
    Ok(uname.release().to_string_lossy().into_owned())
}

/// Frames that the driver of each interface dropped instead of sending, as the interface counts them, by its name.
pub(crate) fn transmit_drops() -> HashMap<String, u64> {
    // /proc/net belongs to the network namespace of the reader, wherever /sys is from.
    let Ok(text) = fs::read_to_string("/proc/net/dev") else {
        return HashMap::new();
    };
    let interface = |line: &str| {
        let (name, fields) = line.split_once(':')?;
        let drops = fields.split_whitespace().nth(11)?.parse().ok()?;
        Some((name.trim().to_owned(), drops))
    };
    text.lines().filter_map(interface).collect()
}

/// This process's ancestors, the most distant one first.
pub(crate) fn ancestors() -> Vec<String> {
    let mut found = Vec::new();
    let mut process = nix::unistd::getpid().to_string();
    // A process without a parent in this process namespace has number 0.
    while let Some(parent) = parent(&process)
        && parent != "0"
    {
        found.insert(0, parent.clone());
        process = parent;
    }
    found
}

fn parent(process: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Some(line.trim().to_owned())
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
    fn every_interface_counts_what_it_drops() {
        assert!(transmit_drops().contains_key("lo"));
    }

    #[test]
    fn sysctls_are_numbers() {
        assert!(sysctl("ipv4/ip_forward").is_some());
        assert_eq!(sysctl("ipv4/conf/no-such-interface/rp_filter"), None);
    }
}
