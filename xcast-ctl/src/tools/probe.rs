//! What `ping` and `trace` send.

use std::{net::IpAddr, time::Duration};

use xcast_host::packet::{Entry, Template};

use super::first_hop::FirstHop;

/// Headers of a probe.
pub(super) fn template(first_hop: &FirstHop, ttl: u8, dscp: u8) -> Template {
    Template {
        code_points: first_hop.code_points,
        source: first_hop.source,
        to: first_hop.to,
        ttl,
        dscp,
        channel: 0,
        x: false,
        anonymous: false,
        source_port: 0,
        port_list: false,
    }
}

/// A list of destinations with one port; 0 where a probe has none.
pub(super) fn entries(addresses: &[IpAddr], port: u16) -> Vec<Entry> {
    let entry = |&address: &IpAddr| Entry {
        address,
        port,
        dscp: None,
    };
    addresses.iter().map(entry).collect()
}

/// A time in seconds with a fraction.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Duration::try_from_secs_f64(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_a_fraction() {
        assert_eq!(seconds("0.2"), Ok(Duration::from_millis(200)));
        assert!(seconds("-1").is_err() && seconds("soon").is_err());
    }
}
