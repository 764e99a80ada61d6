//! What XDP can do on an interface.

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;
use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_ACK, NLM_F_DUMP, NlasIterator, ParseableParametrized, parse_u32,
    parse_u64,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::netlink::ask;

/// XDP features of an interface, as the kernel's `netdev` netlink family tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct XdpFeatures(pub(crate) u64);

impl XdpFeatures {
    /// The driver runs XDP programs (NETDEV_XDP_ACT_BASIC).
    pub(crate) fn native(self) -> bool {
        self.0 & 1 != 0
    }

    /// The driver sends frames that XDP programs redirect to it (NETDEV_XDP_ACT_NDO_XMIT).
    pub(crate) fn transmit(self) -> bool {
        self.0 & 4 != 0
    }
}

/// XDP features of every interface, by index; `None` on kernels before 6.3, which do not tell.
pub(crate) fn xdp_features() -> Result<Option<Vec<(u32, XdpFeatures)>>> {
    let request = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName("netdev".to_owned())],
    });
    let answers = match ask(NETLINK_GENERIC, request, NLM_F_ACK) {
        Ok(answers) => answers,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(error) => return Err(error).context("cannot look up the netlink family netdev"),
    };
    let Some(family) = answers
        .iter()
        .flat_map(|answer| &answer.payload.nlas)
        .find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        })
    else {
        return Ok(None);
    };
    let mut request = GenlMessage::from_payload(NetdevGet::default());
    request.set_resolved_family_id(family);
    let answers = ask(NETLINK_GENERIC, request, NLM_F_DUMP)
        .context("cannot list the XDP features of the interfaces")?;
    let features = |answer: GenlMessage<NetdevGet>| {
        (answer.payload.ifindex, XdpFeatures(answer.payload.features))
    };
    Ok(Some(answers.into_iter().map(features).collect()))
}

/// Name of a BPF program, if the kernel tells.
pub(crate) fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs()
        .flatten()
        .find(|program| program.id() == id)?;
    Some(program.name_as_str()?.to_owned()).filter(|name| !name.is_empty())
}

/// NETDEV_CMD_DEV_GET, as a request and as an answer.
#[derive(Clone, Copy, Debug, Default)]
struct NetdevGet {
    /// NETDEV_A_DEV_IFINDEX
    ifindex: u32,
    /// NETDEV_A_DEV_XDP_FEATURES
    features: u64,
}

impl GenlFamily for NetdevGet {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        1
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for NetdevGet {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _buffer: &mut [u8]) {}
}

impl ParseableParametrized<[u8], GenlHeader> for NetdevGet {
    fn parse_with_param(buffer: &[u8], _header: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self::default();
        for attribute in NlasIterator::new(buffer) {
            let attribute = attribute?;
            match attribute.kind() {
                1 => device.ifindex = parse_u32(attribute.value())?,
                3 => device.features = parse_u64(attribute.value())?,
                _ => {}
            }
        }
        Ok(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_of_lo_are_known_or_the_kernel_is_old() {
        if let Some(features) = xdp_features().unwrap() {
            let (_, lo) = features.iter().find(|(ifindex, _)| *ifindex == 1).unwrap();
            assert!(!lo.native());
        }
    }
}
