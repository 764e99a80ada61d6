//! Which ports the kernel gives to sockets that ask for any.

use std::{fs, io, ops::RangeInclusive};

const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Whether a socket that asks for any port may get this one, and then receives at it.
pub(crate) fn is_ephemeral(port: u16) -> bool {
    let range = fs::read_to_string(RANGE).unwrap_or_default();
    let mut ends = range.split_whitespace().map(str::parse);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return false;
    };
    (first..=last).contains(&port) && !is_reserved(port)
}

/// Whether a port is kept from sockets that ask for any, in this network namespace.
pub(crate) fn is_reserved(port: u16) -> bool {
    let reserved = fs::read_to_string(RESERVED).unwrap_or_default();
    parse(&reserved).iter().any(|range| range.contains(&port))
}

/// Keeps a port from sockets that ask for any, in this network namespace.
pub(crate) fn reserve(port: u16) -> io::Result<()> {
    let mut ranges = parse(&fs::read_to_string(RESERVED)?);
    ranges.push(port..=port);
    fs::write(RESERVED, text(&ranges))
}

/// Takes such a reservation back.
pub(crate) fn release(port: u16) -> io::Result<()> {
    let ranges = parse(&fs::read_to_string(RESERVED)?);
    fs::write(RESERVED, text(&without(&ranges, port)))
}

/// Reads a list such as `8080,9000-9010`.
fn parse(list: &str) -> Vec<RangeInclusive<u16>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.trim().split(',').filter_map(range).collect()
}

/// The list as the kernel reads it. It takes an empty line for an empty list.
fn text(ranges: &[RangeInclusive<u16>]) -> String {
    let range = |range: &RangeInclusive<u16>| format!("{}-{}", range.start(), range.end());
    let ranges: Vec<_> = ranges.iter().map(range).collect();
    ranges.join(",") + "\n"
}

/// The same without one port. The kernel may have joined it with its neighbours.
fn without(ranges: &[RangeInclusive<u16>], port: u16) -> Vec<RangeInclusive<u16>> {
    let around = |range: &RangeInclusive<u16>| {
        if !range.contains(&port) {
            return [Some(range.clone()), None];
        }
        let below = (*range.start() < port).then(|| *range.start()..=port - 1);
        let above = (port < *range.end()).then(|| port + 1..=*range.end());
        [below, above]
    };
    ranges.iter().flat_map(around).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_ports() {
        let list = parse("53,8080-8090,40000\n");
        assert_eq!(list, [53..=53, 8080..=8090, 40000..=40000]);
        assert_eq!(parse("\n"), []);
        assert_eq!(text(&list), "53-53,8080-8090,40000-40000\n");
        assert_eq!(
            without(&list, 8081),
            [53..=53, 8080..=8080, 8082..=8090, 40000..=40000]
        );
        assert_eq!(without(&list, 53), [8080..=8090, 40000..=40000]);
        assert_eq!(without(&list, 65535), list);
    }
}
