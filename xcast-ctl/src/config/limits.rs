//! The `[limits]` table: how much one source may use.

use serde::Deserialize;
use xcast_common::forward::limits::price_ns;

/// The `[limits]` table. A source is an address of IPv4 or a /64 of IPv6, by port. Each limit is one of a second,
/// which may be used up at once; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Xcast packets of one source. Default: 10,000.
    pub packets_per_second: u32,
    /// Copies made of one source's packets. Default: 100,000.
    pub copies_per_second: u32,
    /// Copies handed to the kernel's stack, of all sources together; one has a quarter of it at most, and a port a half. Default:
    /// 10,000.
    pub stack_copies_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packets_per_second: 10_000,
            copies_per_second: 100_000,
            stack_copies_per_second: 10_000,
        }
    }
}

impl Limits {
    /// What one copy for the stack costs; see [`price_ns`].
    pub(super) fn stack_copy_ns(&self) -> u32 {
        price_ns(self.stack_copies_per_second)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::testing::{assert_says, with_ports};

    #[test]
    fn limits_can_be_set_for_all_ports_and_for_one() {
        let config = with_ports(
            "[limits]\npackets_per_second = 5\nstack_copies_per_second = 0\n\
             [[port]]\ninterface = 'eth0'\ncopies_per_second = 7\n[[port]]\ninterface = 'eth1'\n",
        )
        .unwrap();
        assert_eq!(config.limits.packets_per_second, 5);
        assert_eq!(config.limits.copies_per_second, 100_000);
        assert_eq!(config.settings([0; 2]).stack_copy_ns, 0);
        let [first, second] = [0, 1].map(|port: usize| config.ports[port].limits(&config.limits));
        assert_eq!((first.packets_per_second, first.copies_per_second), (5, 7));
        assert_eq!(second, config.limits);
        assert_says(
            with_ports("[limits]\npackets = 5\n[[port]]\ninterface = 'eth0'"),
            &["packets", "`packets_per_second`"],
        );
    }
}
