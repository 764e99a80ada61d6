//! What of the kernel's packet filter is in use in this network namespace.

use std::{convert::Infallible, fs};

use aya::programs::{links::LinkType, loaded_links};
use netlink_packet_core::{
    NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable,
    NlaBuffer, NlasIterator, parse_string,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::netlink::ask;

/// Where rules see packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// As they arrive by an interface, before anything else.
    Ingress,
    /// As they arrive, before they are routed.
    Prerouting,
    /// Those for this host.
    Input,
    /// Those that are forwarded.
    Forward,
    /// Those of this host.
    Output,
    /// As they leave.
    Postrouting,
}

/// A chain of rules that the kernel hands packets to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// `inet`, `ip`, `ip6` or `netdev`.
    pub(crate) family: &'static str,
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) hook: Hook,
    /// Translates addresses.
    pub(crate) nat: bool,
    /// Drops what no rule decides about.
    pub(crate) drops: bool,
    /// Number of rules.
    pub(crate) rules: u32,
}

/// The parts of the packet filter that are in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Netfilter {
    /// Chains of nftables, among them those of `iptables-nft`.
    pub(crate) chains: Vec<Chain>,
    /// Tables of the older iptables, as `ip filter` or `ip6 nat`.
    pub(crate) legacy_tables: Vec<String>,
    /// Ids of BPF links to netfilter hooks, in this network namespace or another one: the kernel
    /// does not tell (Linux 6.4).
    pub(crate) bpf_links: Vec<u32>,
}

/// Looks at the packet filter. What this process may not see is left out: the kernel shows chains
/// to those with `CAP_NET_ADMIN`, and links to those with `CAP_SYS_ADMIN`.
pub(crate) fn netfilter() -> Netfilter {
    let chains = ask(NETLINK_NETFILTER, Message::ListChains, NLM_F_DUMP).unwrap_or_default();
    let chains = chains.into_iter().filter_map(|message| match message {
        Message::Chain(chain) => Some(chain),
        Message::ListChains | Message::Other => None,
    });
    let legacy = |(family, file): (&str, &str)| {
        let tables = fs::read_to_string(format!("/proc/self/net/{file}")).unwrap_or_default();
        let tables = tables.lines().map(|table| format!("{family} {table}"));
        tables.collect::<Vec<_>>()
    };
    let links = loaded_links().filter_map(Result::ok);
    Netfilter {
        chains: chains.collect(),
        legacy_tables: [("ip", "ip_tables_names"), ("ip6", "ip6_tables_names")]
            .into_iter()
            .flat_map(legacy)
            .collect(),
        bpf_links: links
            .filter(|link| matches!(link.link_type(), Ok(LinkType::Netfilter)))
            .map(|link| link.id())
            .collect(),
    }
}

// Of linux/netfilter/nfnetlink.h and nf_tables.h.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWCHAIN: u16 = NFNL_SUBSYS_NFTABLES << 8 | 3;
const NFT_MSG_GETCHAIN: u16 = NFNL_SUBSYS_NFTABLES << 8 | 4;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_USE: u16 = 6;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NF_DROP: u32 = 0;

/// Length of `struct nfgenmsg`: family, version, resource.
const HEADER_LEN: usize = 4;

/// A message of nf_tables.
#[derive(Debug)]
enum Message {
    /// The request for all chains of all families.
    ListChains,
    Chain(Chain),
    /// A chain that packets come to from other chains only, or something else.
    Other,
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        NFT_MSG_GETCHAIN
    }

    fn buffer_len(&self) -> usize {
        HEADER_LEN
    }

    fn serialize(&self, buffer: &mut [u8]) {
        // Family 0 is all of them, version 0, no resource.
        buffer.fill(0);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        let chain = (header.message_type == NFT_MSG_NEWCHAIN)
            .then(|| chain(payload))
            .flatten();
        Ok(chain.map_or(Self::Other, Self::Chain))
    }
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        Self::InnerMessage(message)
    }
}

fn chain(payload: &[u8]) -> Option<Chain> {
    let (header, attributes) = payload.split_at_checked(HEADER_LEN)?;
    let family = match header.first()? {
        1 => "inet",
        2 => "ip",
        5 => "netdev",
        10 => "ip6",
        // Of ARP and of bridges: those see no IP packets that are routed.
        _ => return None,
    };
    let mut chain = Chain {
        family,
        table: String::new(),
        name: String::new(),
        hook: Hook::Ingress,
        nat: false,
        drops: false,
        rules: 0,
    };
    let mut is_base = false;
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            NFTA_CHAIN_TABLE => chain.table = parse_string(value).ok()?,
            NFTA_CHAIN_NAME => chain.name = parse_string(value).ok()?,
            NFTA_CHAIN_HOOK => {
                chain.hook = hook(family, value)?;
                is_base = true;
            }
            NFTA_CHAIN_POLICY => chain.drops = big_endian(value)? == NF_DROP,
            NFTA_CHAIN_USE => chain.rules = big_endian(value)?,
            NFTA_CHAIN_TYPE => chain.nat = parse_string(value).ok()? == "nat",
            _ => {}
        }
    }
    is_base.then_some(chain)
}

fn hook(family: &str, value: &[u8]) -> Option<Hook> {
    let number = NlasIterator::new(value)
        .filter_map(Result::ok)
        .find(|attribute: &NlaBuffer<&[u8]>| attribute.kind() == NFTA_HOOK_HOOKNUM)
        .and_then(|attribute| big_endian(attribute.value()))?;
    Some(match (family, number) {
        ("netdev", 0) | ("inet", 5) => Hook::Ingress,
        ("netdev", _) => Hook::Postrouting,
        (_, 0) => Hook::Prerouting,
        (_, 1) => Hook::Input,
        (_, 2) => Hook::Forward,
        (_, 3) => Hook::Output,
        (_, 4) => Hook::Postrouting,
        _ => return None,
    })
}

fn big_endian(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute as it lies in a message, padded.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut octets = (value.len() as u16 + 4).to_ne_bytes().to_vec();
        octets.extend(kind.to_ne_bytes());
        octets.extend(value);
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    }

    #[test]
    fn chains_with_a_hook_are_read() {
        let hook = attribute(NFTA_HOOK_HOOKNUM, &2_u32.to_be_bytes());
        let base = [
            vec![1, 0, 0, 0],
            attribute(NFTA_CHAIN_TABLE, b"f\0"),
            attribute(NFTA_CHAIN_NAME, b"forward\0"),
            attribute(NFTA_CHAIN_HOOK, &hook),
            attribute(NFTA_CHAIN_POLICY, &0_u32.to_be_bytes()),
            attribute(NFTA_CHAIN_USE, &3_u32.to_be_bytes()),
            attribute(NFTA_CHAIN_TYPE, b"filter\0"),
        ]
        .concat();
        let expected = Chain {
            family: "inet",
            table: "f".to_owned(),
            name: "forward".to_owned(),
            hook: Hook::Forward,
            nat: false,
            drops: true,
            rules: 3,
        };
        assert_eq!(chain(&base), Some(expected));
        let without = [vec![2, 0, 0, 0], attribute(NFTA_CHAIN_NAME, b"docker\0")].concat();
        assert_eq!(chain(&without), None);
        assert_eq!(chain(&[1]), None);
    }
}
