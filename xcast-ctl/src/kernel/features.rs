//! Offloads of an interface (`ethtool -k`), by the names that the kernel has for them.

use anyhow::{Context as _, Result};
use netlink_packet_core::{
    DecodeError, Emitable, NLA_F_NESTED, NLA_TYPE_MASK, NLM_F_ACK, NlasIterator,
    ParseableParametrized, parse_string,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::netlink::ask;

/// Offloads by which the card or the driver makes one frame of several, or says that it does: no frame that XDP could
/// copy, so drivers refuse XDP programs or leave frames to the kernel.
const MERGING: [(&str, &str); 2] = [("rx-lro", "lro"), ("rx-gro-hw", "rx-gro-hw")];

/// The offloads of an interface that merge frames before XDP sees them, by the names that `ethtool -K` takes;
/// nothing if the kernel does not tell (before 5.7).
pub(crate) fn merging_offloads(ifindex: u32) -> Vec<&'static str> {
    active(ifindex).map_or_else(|_| Vec::new(), |active| merging(&active))
}

fn merging(active: &[String]) -> Vec<&'static str> {
    let is_on = |name: &str| active.iter().any(|one| one == name);
    let on = MERGING.iter().filter(|(name, _)| is_on(name));
    on.map(|(_, option)| *option).collect()
}

/// The offloads that are on.
fn active(ifindex: u32) -> Result<Vec<String>> {
    let request = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName("ethtool".to_owned())],
    });
    let answers = ask(NETLINK_GENERIC, request, NLM_F_ACK)
        .context("cannot look up the netlink family ethtool")?;
    let mut attributes = answers.iter().flat_map(|answer| &answer.payload.nlas);
    let family = attributes.find_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(id) => Some(*id),
        _ => None,
    });
    let mut request = GenlMessage::from_payload(Features {
        ifindex,
        active: Vec::new(),
    });
    request.set_resolved_family_id(family.context("the kernel has no netlink family ethtool")?);
    let answers = ask(NETLINK_GENERIC, request, NLM_F_ACK).context("cannot list the offloads")?;
    let active = answers.into_iter().map(|answer| answer.payload.active);
    Ok(active.flatten().collect())
}

/// ETHTOOL_MSG_FEATURES_GET, as a request, and its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Features {
    ifindex: u32,
    /// Names of those that are on.
    active: Vec<String>,
}

/// Attributes of linux/ethtool_netlink.h.
mod attribute {
    /// ETHTOOL_A_FEATURES_HEADER, and within it ETHTOOL_A_HEADER_DEV_INDEX.
    pub(super) const HEADER: u16 = 1;
    pub(super) const DEV_INDEX: u16 = 1;
    /// ETHTOOL_A_FEATURES_ACTIVE: a bit set. Within it, ETHTOOL_A_BITSET_BITS; of these, each ETHTOOL_A_BITSET_BITS_BIT;
    /// of that, ETHTOOL_A_BITSET_BIT_NAME. Bits that are listed are set: it has no mask.
    pub(super) const ACTIVE: u16 = 4;
    pub(super) const BITS: u16 = 3;
    pub(super) const BIT: u16 = 1;
    pub(super) const NAME: u16 = 2;
}

impl GenlFamily for Features {
    fn family_name() -> &'static str {
        "ethtool"
    }

    /// ETHTOOL_MSG_FEATURES_GET
    fn command(&self) -> u8 {
        11
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Features {
    fn buffer_len(&self) -> usize {
        12
    }

    fn emit(&self, buffer: &mut [u8]) {
        let header = [
            12_u16.to_ne_bytes(),
            (attribute::HEADER | NLA_F_NESTED).to_ne_bytes(),
            8_u16.to_ne_bytes(),
            attribute::DEV_INDEX.to_ne_bytes(),
        ];
        let bytes = header
            .concat()
            .into_iter()
            .chain(self.ifindex.to_ne_bytes());
        for (to, from) in buffer.iter_mut().zip(bytes) {
            *to = from;
        }
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Features {
    fn parse_with_param(buffer: &[u8], _header: GenlHeader) -> Result<Self, DecodeError> {
        let mut features = Self::default();
        within(buffer, attribute::ACTIVE, &mut |set| {
            within(set, attribute::BITS, &mut |bits| {
                within(bits, attribute::BIT, &mut |bit| {
                    within(bit, attribute::NAME, &mut |name| {
                        features.active.push(parse_string(name)?);
                        Ok(())
                    })
                })
            })
        })?;
        Ok(features)
    }
}

/// Does something with the value of each attribute of a kind.
fn within(
    value: &[u8],
    kind: u16,
    work: &mut dyn FnMut(&[u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    for attribute in NlasIterator::new(value) {
        let attribute = attribute?;
        if attribute.kind() & NLA_TYPE_MASK == kind {
            work(attribute.value())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_offloads_and_merges_nothing() {
        let active = active(1).unwrap();
        assert!(active.iter().any(|name| name == "loopback"), "{active:?}");
        assert_eq!(merging_offloads(1), [""; 0]);
    }

    /// No interface of a test has them: what the kernel would answer.
    #[test]
    fn offloads_that_merge() {
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let bit = |name: &str| {
            let name = attribute(attribute::NAME, format!("{name}\0").as_bytes());
            attribute(attribute::BIT | NLA_F_NESTED, &name)
        };
        let bits = [bit("rx-gro"), bit("rx-lro"), bit("rx-gro-hw")].concat();
        let bits = attribute(attribute::BITS | NLA_F_NESTED, &bits);
        let answer = [
            attribute(attribute::HEADER | NLA_F_NESTED, &[]),
            attribute(2 | NLA_F_NESTED, &bits),
            attribute(attribute::ACTIVE | NLA_F_NESTED, &bits),
        ];
        let header = GenlHeader {
            cmd: 11,
            version: 1,
        };
        let features = Features::parse_with_param(&answer.concat(), header).unwrap();
        assert_eq!(features.active, ["rx-gro", "rx-lro", "rx-gro-hw"]);
        assert_eq!(merging(&features.active), ["lro", "rx-gro-hw"]);
    }
}
