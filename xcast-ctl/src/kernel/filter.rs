//! Filters of traffic control.

use anyhow::{Context as _, Result};
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::ask;

/// Where a filter is among those of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FilterPlace {
    pub(crate) priority: u16,
    pub(crate) handle: u32,
}

/// The BPF filters of this name that run where frames arrive on an interface.
pub(crate) fn ingress_filters(ifindex: u32, name: &str) -> Result<Vec<FilterPlace>> {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(ifindex)?;
    message.header.parent = TcHandle {
        major: u16::MAX,
        minor: TcHandle::MIN_INGRESS,
    };
    let request = RouteNetlinkMessage::GetTrafficFilter(message);
    let answers = ask(NETLINK_ROUTE, request, NLM_F_DUMP).context("cannot list the filters")?;
    let is_it = |option: &TcOption| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(found)) => found == name,
        _ => false,
    };
    let place = |answer: RouteNetlinkMessage| {
        let RouteNetlinkMessage::NewTrafficFilter(filter) = answer else {
            return None;
        };
        let found = filter.attributes.iter().any(|attribute| match attribute {
            TcAttribute::Options(options) => options.iter().any(is_it),
            _ => false,
        });
        found.then(|| FilterPlace {
            // The low half is the protocol.
            priority: (filter.header.info >> 16) as u16,
            handle: filter.header.handle.into(),
        })
    };
    Ok(answers.into_iter().filter_map(place).collect())
}
