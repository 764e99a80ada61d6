//! The router's own veth pair.
//!
//! `xcast0` is what the host sees: copies for the kernel stack arrive on it, and applications send
//! Xcast packets into it. Its other end, `xcast0-dp`, runs the ingress program: what is sent into
//! `xcast0` is forwarded as if it had arrived by a port.

use std::{io::ErrorKind, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use netlink_packet_route::{address::AddressAttribute, link::LinkAttribute};
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth,
    packet_route::link::{InfoData, InfoVeth, LinkMessage},
};
use tracing::warn;

use super::ownership;
use crate::kernel::{self, Link};

/// MTU of both ends: the largest whose frames stay linear under XDP on veth (a page of 4096 less
/// 256 octets of headroom, 320 of bookkeeping, and the Ethernet header), with some room to spare.
pub const MTU_BYTES: u32 = 3498;

/// Link layer addresses of the ends, the host's first: local ones, spelling "XCAS". The pair leads nowhere but into this
/// host, so they need not be unique. An interface that is made with an address keeps it: udev's
/// `MACAddressPolicy=` is for those that the kernel gave a random one (`addr_assign_type`).
const MACS: [[u8; 6]; 2] = [
    [0x02, b'X', b'C', b'A', b'S', 1],
    [0x02, b'X', b'C', b'A', b'S', 2],
];

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
                .add(message(name, peer))
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
        for (path, value) in settings(name, peer, ipv6) {
            set(&path, value);
        }
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
        add_address(handle, host, address)
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

    /// Removes the pair.
    ///
    /// # Errors
    ///
    /// Refuses to remove an interface that no router made.
    pub fn remove(name: &str, peer: &str) -> Result<()> {
        if !ownership::is_there(name, peer)? {
            return Ok(());
        }
        let removed = kernel::remove_link(made(name)?.ifindex);
        removed.with_context(|| format!("cannot remove the interface {name}"))
    }
}

/// Gives the host's end its address, marked as a router's, unless it has it.
pub async fn add_address(
    handle: &Handle,
    host: u32,
    address: Ipv4Addr,
) -> Result<(), rtnetlink::Error> {
    let mut request = handle.address().add(host, address.into(), 32);
    let origin = AddressAttribute::Protocol(kernel::ADDRESS_ORIGIN);
    request.message_mut().attributes.push(origin);
    match request.execute().await {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EEXIST => Ok(()),
        result => result,
    }
}

/// Takes the addresses away that routers with another configuration gave the host's end.
///
/// # Errors
///
/// The kernel does not list or remove them.
pub async fn remove_other_addresses(handle: &Handle, host: u32, but: Ipv4Addr) -> Result<()> {
    let request = handle.address().get().set_link_index_filter(host);
    let mut addresses = request.execute();
    let mut others = Vec::new();
    while let Some(address) = addresses.next().await {
        let address = address.context("cannot list the addresses of the router's own interface")?;
        let is_ours = address
            .attributes
            .contains(&AddressAttribute::Protocol(kernel::ADDRESS_ORIGIN));
        let is_wanted = address
            .attributes
            .contains(&AddressAttribute::Local(but.into()));
        if address.header.index == host && is_ours && !is_wanted {
            others.push(address);
        }
    }
    for address in others {
        let removed = handle.address().del(address).execute().await;
        removed.context("cannot remove an address of the router's own interface")?;
    }
    Ok(())
}

/// Asks for a pair whose ends have their addresses from the beginning.
fn message(name: &str, peer: &str) -> LinkMessage {
    let [own, others] = MACS.map(Vec::from);
    let other = LinkUnspec::new_with_name(peer).address(others).build();
    LinkVeth::new(name, peer)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(other)))
        .address(own)
        .build()
}

/// The settings of the pair under /proc/sys/net, and the values they have to have; with `ipv6`,
/// packets of IPv6 go through it, too.
pub fn settings(name: &str, peer: &str, ipv6: bool) -> Vec<(String, u32)> {
    let mut settings = vec![(format!("ipv6/conf/{peer}/disable_ipv6"), 1)];
    let mut own = |family: &str, wanted: &[(&str, u32)]| {
        let path = |setting| format!("{family}/conf/{name}/{setting}");
        settings.extend(
            wanted
                .iter()
                .map(|(setting, value)| (path(setting), *value)),
        );
    };
    // Nothing but Xcast is wanted here: no address that speaks up by itself.
    if ipv6 {
        own(
            "ipv6",
            &[("addr_gen_mode", 1), ("accept_ra", 0), ("disable_ipv6", 0)],
        );
    } else {
        own("ipv6", &[("disable_ipv6", 1)]);
    }
    // Copies for the stack come from anywhere, also from addresses that are this host's own, and
    // from where there is no way back to. The larger value of `all` and the interface counts: a
    // strict `all` (1) becomes loose by 2; where there is no filter, none is wanted here.
    let filtered = kernel::sysctl("ipv4/conf/all/rp_filter").is_some_and(|filter| filter != 0);
    own(
        "ipv4",
        &[
            ("rp_filter", if filtered { 2 } else { 0 }),
            ("accept_local", 1),
            ("forwarding", 1),
            ("send_redirects", 0),
        ],
    );
    settings
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
