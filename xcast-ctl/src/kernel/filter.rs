//! Traffic control: filters, and queueing disciplines.

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
    let filters = all_ingress_filters(ifindex)?;
    let found = filters.iter().filter(|filter| is_named(filter, name));
    Ok(found.map(place).collect())
}

/// The filters that see frames which arrive on an interface before the BPF filter of this name, if that is there: kind and
/// priority of each.
pub(crate) fn ingress_filters_before(ifindex: u32, name: &str) -> Result<Vec<String>> {
    let filters = all_ingress_filters(ifindex)?;
    let Some(own) = filters.iter().find(|filter| is_named(filter, name)) else {
        return Ok(Vec::new());
    };
    let own = place(own).priority;
    let before = filters.iter().filter(|filter| place(filter).priority < own);
    Ok(texts(before))
}

/// What traffic control does on an interface, apart from programs at tcx.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TrafficControl {
    /// Filters that see what arrives.
    pub(crate) ingress: Vec<String>,
    /// Filters that see what leaves, and queueing disciplines that do more with it than to have it wait for its turn.
    pub(crate) egress: Vec<String>,
}

/// What traffic control does on an interface.
pub(crate) fn traffic_control(ifindex: u32) -> Result<TrafficControl> {
    const INGRESS: &str = "ingress";
    const CLSACT: &str = "clsact";
    /// What interfaces have by default (`net.core.default_qdisc`).
    const PLAIN: [&str; 7] = [
        "noqueue",
        "mq",
        "fq_codel",
        "fq",
        "pfifo_fast",
        "pfifo",
        "bfifo",
    ];
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let answers =
        ask(NETLINK_ROUTE, request, NLM_F_DUMP).context("cannot list the queueing disciplines")?;
    let mut control = TrafficControl::default();
    for answer in answers {
        let RouteNetlinkMessage::NewQueueDiscipline(discipline) = answer else {
            continue;
        };
        if u32::try_from(discipline.header.index) != Ok(ifindex) {
            continue;
        }
        let kind = kind(&discipline);
        if kind == INGRESS || kind == CLSACT {
            control.ingress = texts(filters(ifindex, TcHandle::MIN_INGRESS)?.iter());
        }
        if kind == CLSACT {
            let filters = texts(filters(ifindex, TcHandle::MIN_EGRESS)?.iter());
            control.egress.extend(filters);
        }
        let text = format!("tc qdisc {kind}");
        let is_known = PLAIN.contains(&kind) || [INGRESS, CLSACT].contains(&kind);
        if !is_known && !control.egress.contains(&text) {
            control.egress.push(text);
        }
    }
    Ok(control)
}

/// Kind and priority of each filter.
fn texts<'a>(filters: impl Iterator<Item = &'a TcMessage>) -> Vec<String> {
    let text = |filter| format!("tc filter {} pref {}", kind(filter), place(filter).priority);
    let mut texts: Vec<_> = filters.map(text).collect();
    // There is a message about each place, and one about each filter in it.
    texts.dedup();
    texts
}

fn kind(message: &TcMessage) -> &str {
    let mut attributes = message.attributes.iter();
    let kind = attributes.find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    });
    kind.unwrap_or("?")
}

/// All filters that run where frames arrive on an interface, in their order.
fn all_ingress_filters(ifindex: u32) -> Result<Vec<TcMessage>> {
    filters(ifindex, TcHandle::MIN_INGRESS)
}

/// All filters at one of the two places that `clsact` has.
fn filters(ifindex: u32, place: u16) -> Result<Vec<TcMessage>> {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(ifindex)?;
    message.header.parent = TcHandle {
        major: u16::MAX,
        minor: place,
    };
    let request = RouteNetlinkMessage::GetTrafficFilter(message);
    let answers = ask(NETLINK_ROUTE, request, NLM_F_DUMP).context("cannot list the filters")?;
    let filters = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewTrafficFilter(filter) => Some(filter),
        _ => None,
    });
    Ok(filters.collect())
}

fn is_named(filter: &TcMessage, name: &str) -> bool {
    let is_it = |option: &TcOption| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(found)) => found == name,
        _ => false,
    };
    filter.attributes.iter().any(|attribute| match attribute {
        TcAttribute::Options(options) => options.iter().any(is_it),
        _ => false,
    })
}

fn place(filter: &TcMessage) -> FilterPlace {
    FilterPlace {
        // The low half is the protocol.
        priority: (filter.header.info >> 16) as u16,
        handle: filter.header.handle.into(),
    }
}
