//! Policy rules, as netlink has them.

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, NlaBuffer, NlasIterator, parse_string, parse_u32};

use super::{
    parse_address::ip,
    rules::{Rule, RuleAction},
};

/// Length of `struct fib_rule_hdr`, in octets.
const HEADER_LEN: usize = 12;

/// Attributes of a rule (`FRA_*` of linux/fib_rules.h).
mod attribute {
    pub(super) const DST: u16 = 1;
    pub(super) const SRC: u16 = 2;
    pub(super) const IIFNAME: u16 = 3;
    pub(super) const GOTO: u16 = 4;
    pub(super) const PRIORITY: u16 = 6;
    pub(super) const FWMARK: u16 = 10;
    pub(super) const FLOW: u16 = 11;
    pub(super) const SUPPRESS_IFGROUP: u16 = 13;
    pub(super) const SUPPRESS_PREFIXLEN: u16 = 14;
    pub(super) const TABLE: u16 = 15;
    pub(super) const FWMASK: u16 = 16;
    pub(super) const OIFNAME: u16 = 17;
    pub(super) const PAD: u16 = 18;
    pub(super) const L3MDEV: u16 = 19;
    pub(super) const UID_RANGE: u16 = 20;
    pub(super) const PROTOCOL: u16 = 21;
}

/// Actions of a rule (`FR_ACT_*`).
mod action {
    pub(super) const TO_TABLE: u8 = 1;
    pub(super) const GOTO: u8 = 2;
    pub(super) const NOP: u8 = 3;
}

/// `FIB_RULE_INVERT`. The other flags say what the kernel knows of a rule at the moment, not what the rule says.
const INVERT: u32 = 2;

/// The rule of a message; `None` if it is about another family.
pub(super) fn rule(payload: &[u8]) -> Result<Option<Rule>, DecodeError> {
    let Some(header) = payload.first_chunk::<HEADER_LEN>() else {
        return Err("rule without a header".into());
    };
    let [
        family,
        to_len,
        from_len,
        tos,
        table,
        _,
        _,
        action,
        flags @ ..,
    ] = *header;
    let ipv6 = match i32::from(family) {
        libc::AF_INET => false,
        libc::AF_INET6 => true,
        _ => return Ok(None),
    };
    let mut rule = Rule {
        ipv6,
        priority: 0,
        invert: u32::from_ne_bytes(flags) & INVERT != 0,
        from: None,
        to: None,
        iif: None,
        oif: None,
        mark: None,
        l3mdev: false,
        uid_range: None,
        others: Vec::new(),
        action: RuleAction::Nop,
    };
    if tos != 0 {
        rule.others.push((0, vec![tos]));
    }
    let mut table = u32::from(table);
    let (mut mark, mut mask, mut target) = (None, None, None);
    let (mut suppress_prefix_len, mut suppress_group) = (None, None);
    for attribute in NlasIterator::new(&payload[HEADER_LEN..]) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            attribute::DST => rule.to = Some(prefix(&attribute, to_len)?),
            attribute::SRC => rule.from = Some(prefix(&attribute, from_len)?),
            attribute::IIFNAME => rule.iif = Some(parse_string(value)?),
            attribute::OIFNAME => rule.oif = Some(parse_string(value)?),
            attribute::PRIORITY => rule.priority = parse_u32(value)?,
            attribute::GOTO => target = Some(parse_u32(value)?),
            attribute::TABLE => table = parse_u32(value)?,
            attribute::FWMARK => mark = Some(parse_u32(value)?),
            attribute::FWMASK => mask = Some(parse_u32(value)?),
            attribute::L3MDEV => rule.l3mdev = value != [0],
            attribute::UID_RANGE => rule.uid_range = Some(uid_range(value)?),
            attribute::SUPPRESS_PREFIXLEN => suppress_prefix_len = set(parse_u32(value)?),
            attribute::SUPPRESS_IFGROUP => suppress_group = set(parse_u32(value)?),
            // Accounting, padding, and who made it.
            attribute::FLOW | attribute::PAD | attribute::PROTOCOL => {}
            other => rule.others.push((other, value.to_vec())),
        }
    }
    if mark.is_some() || mask.is_some() {
        rule.mark = Some((mark.unwrap_or_default(), mask.unwrap_or(u32::MAX)));
    }
    rule.action = match (action, target) {
        (action::TO_TABLE, _) => RuleAction::Lookup {
            table,
            suppress_prefix_len,
            suppress_group,
        },
        (action::GOTO, Some(target)) => RuleAction::Goto(target),
        (action::NOP, _) => RuleAction::Nop,
        (action, _) => RuleAction::Other(action),
    };
    Ok(Some(rule))
}

/// A number that the kernel also gives when it is not set, as -1.
fn set(value: u32) -> Option<u32> {
    (value != u32::MAX).then_some(value)
}

fn prefix(attribute: &NlaBuffer<&[u8]>, len: u8) -> Result<IpNet, DecodeError> {
    let prefix = IpNet::new(ip(attribute)?, len);
    let prefix = prefix.map_err(|_| "prefix of a rule is longer than an address")?;
    Ok(prefix.trunc())
}

/// `struct fib_rule_uid_range`.
fn uid_range(value: &[u8]) -> Result<(u32, u32), DecodeError> {
    let first = value.get(..4).ok_or("range of user ids ends early")?;
    let last = value.get(4..).unwrap_or_default();
    Ok((parse_u32(first)?, parse_u32(last)?))
}
