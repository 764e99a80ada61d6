//! The router's own veth pair.
//!
//! `xcast0` is what the host sees: copies for the kernel stack arrive on it, and applications send
//! Xcast packets into it. Its other end, `xcast0-dp`, runs the ingress program: what is sent into
//! `xcast0` is forwarded as if it had arrived by a port.

use std::{
    fs,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::socket;
use rtnetlink::{Handle, LinkUnspec, LinkVeth};
use tracing::warn;

use super::Macs;

/// MTU of both ends: the largest whose frames stay linear under XDP on veth (a page of 4096 less
/// 256 octets of headroom, 320 of bookkeeping, and the Ethernet header), with some room to spare.
const MTU_BYTES: u32 = 3498;

/// The pair, as the kernel made it.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Index of the host's end.
    pub host: u32,
    /// Index of the end that runs the ingress program.
    pub datapath: u32,
    /// Addresses on frames for the kernel stack.
    pub macs: Macs,
}

impl Pair {
    /// Makes the pair, replacing one that a killed predecessor left; with `ipv6`, packets of IPv6 go
    /// through it, too.
    ///
    /// # Errors
    ///
    /// Needs CAP_NET_ADMIN. Fails if an interface of that name is there and is no veth.
    pub async fn create(
        handle: &Handle,
        name: &str,
        peer: &str,
        address: Ipv4Addr,
        ipv6: bool,
    ) -> Result<Self> {
        Self::remove(handle, name).await?;
        handle
            .link()
            .add(LinkVeth::new(name, peer).build())
            .execute()
            .await
            .with_context(|| format!("cannot create the veth pair {name}, {peer}"))?;
        Self::set_up(handle, name, peer, address, ipv6).await
    }

    async fn set_up(
        handle: &Handle,
        name: &str,
        peer: &str,
        address: Ipv4Addr,
        ipv6: bool,
    ) -> Result<Self> {
        // Nothing but Xcast is wanted here: no address that speaks up by itself.
        for end in [name, peer] {
            set(&format!("ipv6/conf/{end}/disable_ipv6"), "1");
        }
        if ipv6 {
            for (setting, value) in [
                ("addr_gen_mode", "1"),
                ("accept_ra", "0"),
                ("disable_ipv6", "0"),
            ] {
                set(&format!("ipv6/conf/{name}/{setting}"), value);
            }
        }
        // Copies for the stack come from anywhere, also from addresses that are this host's own.
        // Loose mode, because 0 would not override a strict `all`.
        set(&format!("ipv4/conf/{name}/rp_filter"), "2");
        set(&format!("ipv4/conf/{name}/accept_local"), "1");
        set(&format!("ipv4/conf/{name}/forwarding"), "1");
        set(&format!("ipv4/conf/{name}/send_redirects"), "0");
        let host = ifindex(name)?;
        let datapath = ifindex(peer)?;
        for end in [host, datapath] {
            handle
                .link()
                .set(LinkUnspec::new_with_index(end).mtu(MTU_BYTES).up().build())
                .execute()
                .await
                .with_context(|| format!("cannot set up the interface {name} or {peer}"))?;
        }
        // Without GRO (or a program) a veth end does not receive what XDP sends to it.
        enable_gro(name)?;
        handle
            .address()
            .add(host, address.into(), 32)
            .execute()
            .await
            .with_context(|| format!("cannot give {name} the address {address}"))?;
        Ok(Self {
            host,
            datapath,
            macs: Macs {
                destination: mac(name)?,
                source: mac(peer)?,
            },
        })
    }

    /// Removes the pair; true if there was one.
    ///
    /// # Errors
    ///
    /// Refuses to remove an interface that is no veth.
    pub async fn remove(handle: &Handle, name: &str) -> Result<bool> {
        let Ok(index) = ifindex(name) else {
            return Ok(false);
        };
        if !is_veth(name) {
            bail!(
                "interface {name} exists and is not a veth pair; set router.interface to another name"
            );
        }
        handle
            .link()
            .del(index)
            .execute()
            .await
            .with_context(|| format!("cannot remove the interface {name}"))?;
        Ok(true)
    }
}

/// Index of an interface in this network namespace.
fn ifindex(name: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(name).with_context(|| format!("there is no interface {name}"))
}

/// Link layer address of an interface.
fn mac(name: &str) -> Result<[u8; 6]> {
    let socket = datagram_socket()?;
    let mut request = interface_request(name)?;
    // SAFETY: the request is a valid ifreq, and the socket is open.
    unsafe { ioctl::interface_address(socket.as_raw_fd(), &raw mut request) }
        .with_context(|| format!("cannot read the link layer address of {name}"))?;
    // SAFETY: the kernel filled this member in.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(address.sa_data) {
        *to = from as u8;
    }
    Ok(mac)
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_SGRO: u32 = 0x2c;

/// `struct ethtool_drvinfo` of linux/ethtool.h.
#[repr(C)]
struct EthtoolDriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

mod ioctl {
    nix::ioctl_readwrite_bad!(interface_address, libc::SIOCGIFHWADDR, libc::ifreq);
    // SIOCETHTOOL of linux/sockios.h.
    nix::ioctl_readwrite_bad!(ethtool, 0x8946, libc::ifreq);
}

fn enable_gro(name: &str) -> Result<()> {
    let mut value = EthtoolValue {
        command: ETHTOOL_SGRO,
        data: 1,
    };
    ethtool_call(name, (&raw mut value).cast())
        .with_context(|| format!("cannot switch GRO on at {name}"))
}

fn is_veth(name: &str) -> bool {
    let mut info = EthtoolDriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        rest: [0; 160],
    };
    ethtool_call(name, (&raw mut info).cast()).is_ok() && info.driver.starts_with(b"veth\0")
}

fn ethtool_call(name: &str, data: *mut libc::c_char) -> Result<()> {
    let socket = datagram_socket()?;
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_data = data;
    // SAFETY: the request is a valid ifreq that points to the command's own structure.
    unsafe { ioctl::ethtool(socket.as_raw_fd(), &raw mut request) }?;
    Ok(())
}

fn datagram_socket() -> Result<OwnedFd> {
    socket::socket(
        socket::AddressFamily::Inet,
        socket::SockType::Datagram,
        socket::SockFlag::SOCK_CLOEXEC,
        None,
    )
    .context("cannot open a socket")
}

fn interface_request(name: &str) -> Result<libc::ifreq> {
    // SAFETY: all-zero is valid for this structure of integers and unions.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        bail!("interface name {name:?} is too long");
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// Writes a network setting. Not being able to is no reason to stop: `check` finds what matters.
fn set(path: &str, value: &str) {
    let path = format!("/proc/sys/net/{path}");
    if let Err(error) = fs::write(&path, value) {
        if error.kind() == std::io::ErrorKind::NotFound {
            return;
        }
        warn!("cannot set {path} to {value}: {error}");
    }
}
