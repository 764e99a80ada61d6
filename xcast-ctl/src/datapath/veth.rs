//! The router's own veth pair.
//!
//! `xcast0` is what the host sees: copies for the kernel stack arrive on it, and applications send
//! Xcast packets into it. Its other end, `xcast0-dp`, runs the ingress program: what is sent into
//! `xcast0` is forwarded as if it had arrived by a port.

use std::{io::ErrorKind, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use netlink_packet_route::link::LinkAttribute;
use rtnetlink::{Handle, LinkUnspec, LinkVeth};
use tracing::warn;

use super::ownership;
use crate::kernel::{self, Link};

/// MTU of both ends: the largest whose frames stay linear under XDP on veth (a page of 4096 less
/// 256 octets of headroom, 320 of bookkeeping, and the Ethernet header), with some room to spare.
const MTU_BYTES: u32 = 3498;

/// Link layer addresses of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Macs {
    /// Of the receiver.
    pub destination: [u8; 6],
    /// Of the sender.
    pub source: [u8; 6],
}

/// The pair, as the kernel made it.
#[derive(Clone, Debug)]
pub struct VethPair {
    /// Index of the host's end.
    pub host: u32,
    /// Index of the end that runs the ingress program.
    pub datapath: u32,
    /// Addresses on frames for the kernel stack.
    pub macs: Macs,
}

impl VethPair {
    /// Makes the pair, or takes over the one that a predecessor left; with `ipv6`, packets of IPv6 go
    /// through it, too.
    ///
    /// # Errors
    ///
    /// Needs CAP_NET_ADMIN. Fails if an interface of that name is there that no router made.
    pub async fn create(
        handle: &Handle,
        name: &str,
        peer: &str,
        address: Ipv4Addr,
        ipv6: bool,
    ) -> Result<Self> {
        let adopted = ownership::is_there(name, peer)?;
        if !adopted {
            handle
                .link()
                .add(LinkVeth::new(name, peer).build())
                .execute()
                .await
                .with_context(|| format!("cannot create the veth pair {name}, {peer}"))?;
            for end in [name, peer] {
                let alias = LinkAttribute::IfAlias(ownership::ALIAS.to_owned());
                let end = LinkUnspec::new_with_index(made(end)?.ifindex);
                let request = handle.link().set(end.append_extra_attribute(alias).build());
                request
                    .execute()
                    .await
                    .context("cannot mark the veth pair as own")?;
            }
            // Nothing but Xcast is wanted here: no address that speaks up by itself.
            set(&format!("ipv6/conf/{name}/disable_ipv6"), 1);
        }
        Self::set_up(handle, name, peer, address, ipv6).await
    }

    async fn set_up(
        handle: &Handle,
        name: &str,
        peer: &str,
        address: Ipv4Addr,
        ipv6: bool,
    ) -> Result<Self> {
        set(&format!("ipv6/conf/{peer}/disable_ipv6"), 1);
        if ipv6 {
            for (setting, value) in [("addr_gen_mode", 1), ("accept_ra", 0), ("disable_ipv6", 0)] {
                set(&format!("ipv6/conf/{name}/{setting}"), value);
            }
        }
        // Copies for the stack come from anywhere, also from addresses that are this host's own.
        // Loose mode, because 0 would not override a strict `all`.
        set(&format!("ipv4/conf/{name}/rp_filter"), 2);
        set(&format!("ipv4/conf/{name}/accept_local"), 1);
        set(&format!("ipv4/conf/{name}/forwarding"), 1);
        set(&format!("ipv4/conf/{name}/send_redirects"), 0);
        let host = made(name)?.ifindex;
        let datapath = made(peer)?.ifindex;
        for end in [host, datapath] {
            handle
                .link()
                .set(LinkUnspec::new_with_index(end).mtu(MTU_BYTES).up().build())
                .execute()
                .await
                .with_context(|| format!("cannot set up the interface {name} or {peer}"))?;
        }
        // Without GRO (or a program) a veth end does not receive what XDP sends to it.
        kernel::set_gro(name, true).with_context(|| format!("cannot switch GRO on at {name}"))?;
        match handle
            .address()
            .add(host, address.into(), 32)
            .execute()
            .await
        {
            // It had it already.
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EEXIST => {}
            result => {
                result.with_context(|| format!("cannot give {name} the address {address}"))?;
            }
        }
        Ok(Self {
            host,
            datapath,
            macs: Macs {
                destination: mac(name)?,
                source: mac(peer)?,
            },
        })
    }

    /// Removes the pair.
    ///
    /// # Errors
    ///
    /// Refuses to remove an interface that no router made.
    pub async fn remove(handle: &Handle, name: &str, peer: &str) -> Result<()> {
        if !ownership::is_there(name, peer)? {
            return Ok(());
        }
        let removed = handle.link().del(made(name)?.ifindex).execute().await;
        removed.with_context(|| format!("cannot remove the interface {name}"))
    }
}

/// An interface that has just been made.
fn made(name: &str) -> Result<Link> {
    kernel::link_named(name)?.with_context(|| format!("there is no interface {name}"))
}

/// Link layer address of an interface.
fn mac(name: &str) -> Result<[u8; 6]> {
    made(name)?
        .mac
        .with_context(|| format!("{name} has no Ethernet address"))
}

/// Writes a network setting. A failure is no reason to stop: `check` finds what matters.
fn set(path: &str, value: u32) {
    if let Err(error) = kernel::set_sysctl(path, value)
        // A kernel without IPv6 has no settings for it.
        && error.kind() != ErrorKind::NotFound
    {
        warn!("cannot set {path} to {value}: {error}");
    }
}
