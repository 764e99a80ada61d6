//! Whose packets each port takes: what the configuration says, and what the kernel's own settings for unicast do.

use xcast_common::maps::{SourceMode, source_mode_of};

use crate::{config::Source, kernel::Link};

/// Values of the kernel's reverse path filter.
const FILTER_STRICT: u32 = 1;
const FILTER_LOOSE: u32 = 2;
/// Modes in port entries.
const STRICT: u8 = SourceMode::Strict as u8;
const LOOSE: u8 = SourceMode::Loose as u8;

/// The modes of a port that takes nothing.
pub(super) const CLOSED: [u8; 2] = [SourceMode::Closed as u8; 2];

/// What the kernel's settings say about packets that arrive by an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KernelPolicy {
    /// The reverse path filter, for IPv4: 0 none, 1 strict, 2 loose. The kernel takes the higher of the interface's
    /// and the one for all.
    rp_filter: u32,
    /// Whether the kernel forwards IPv4 that arrives there.
    forwards: bool,
    /// Whether it forwards IPv6 that arrives there: one setting for all interfaces, apart from some.
    forwards6: bool,
}

impl KernelPolicy {
    /// What an interface's settings and those for all come to. What the kernel does not have forbids nothing.
    pub(super) fn of(link: &Link, all: ForAll) -> Self {
        Self {
            rp_filter: link.rp_filter.unwrap_or(0).max(all.rp_filter),
            forwards: link.forwarding.unwrap_or(true),
            forwards6: link.takes_ipv6 && (all.forwards6 || link.forces_forwarding6),
        }
    }

    /// Whether all that `other` takes is taken here, too, on a port that goes by this configuration.
    pub(super) fn takes_all_of(&self, other: &Self, configured: &Source) -> bool {
        let filters = match (self.rp_filter, other.rp_filter) {
            _ if *configured != Source::Auto => true,
            (own, other) => {
                own == other || own == 0 || (own, other) == (FILTER_LOOSE, FILTER_STRICT)
            }
        };
        filters && (self.forwards || !other.forwards) && (self.forwards6 || !other.forwards6)
    }

    /// Whether sources need a way back, by [`source_mode_of`] an IP version: as these modes say, or the kernel's own filter.
    pub(super) fn want_way_back(self, modes: [u8; 2]) -> [bool; 2] {
        let [ipv4, ipv6] = modes.map(|mode| mode == STRICT || mode == LOOSE);
        [ipv4 || self.rp_filter != 0, ipv6]
    }

    /// Whether these modes ask for more than the kernel's own filter sees to, which there is none of for IPv6.
    pub(super) fn exceeds_filter(self, modes: [u8; 2]) -> [bool; 2] {
        let asks = |mode, rp_filter| {
            mode == STRICT && rp_filter != FILTER_STRICT || mode == LOOSE && rp_filter == 0
        };
        [asks(modes[0], self.rp_filter), asks(modes[1], 0)]
    }
}

/// Settings for all interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ForAll {
    /// `net.ipv4.conf.all.rp_filter`.
    pub(super) rp_filter: u32,
    /// `net.ipv6.conf.all.forwarding`.
    pub(super) forwards6: bool,
}

/// The modes of a port, by [`source_mode_of`] an IP version. `has_gateway`: some route leads to a gateway behind it.
pub(super) fn modes(configured: &Source, kernel: KernelPolicy, has_gateway: bool) -> [u8; 2] {
    let mode = |rp_filter| match configured {
        Source::Strict => SourceMode::Strict,
        Source::Loose => SourceMode::Loose,
        Source::Any => SourceMode::Any,
        Source::Proven => SourceMode::Proven,
        Source::Prefixes(_) => SourceMode::Prefixes,
        // Hosts have the addresses of their links. Without a filter, the kernel also forwards from sources that it has
        // no route to at all: one-way feeds.
        Source::Auto if !has_gateway && rp_filter == 0 => SourceMode::NotElsewhere,
        Source::Auto if !has_gateway => SourceMode::Strict,
        Source::Auto => match rp_filter {
            0 => SourceMode::Any,
            1 => SourceMode::Strict,
            _ => SourceMode::Loose,
        },
    };
    let open = |forwards, mode| {
        if forwards { mode } else { SourceMode::Closed }
    };
    let mut modes = [0; 2];
    modes[source_mode_of(4)] = open(kernel.forwards, mode(kernel.rp_filter)) as u8;
    // The kernel has no such filter for IPv6.
    modes[source_mode_of(6)] = open(kernel.forwards6, mode(0)) as u8;
    modes
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: KernelPolicy = KernelPolicy {
        rp_filter: 0,
        forwards: true,
        forwards6: true,
    };

    fn filter(rp_filter: u32) -> KernelPolicy {
        KernelPolicy { rp_filter, ..OPEN }
    }

    #[track_caller]
    fn assert_modes(source: &Source, kernel: KernelPolicy, has_gateway: bool, is: [SourceMode; 2]) {
        let modes = modes(source, kernel, has_gateway);
        assert_eq!(modes, is.map(|mode| mode as u8));
    }

    #[test]
    fn the_stricter_filter_counts_and_what_is_not_there_forbids_nothing() {
        let all = |rp_filter| ForAll {
            rp_filter,
            forwards6: true,
        };
        let link = |rp_filter, forwarding| Link {
            rp_filter,
            forwarding,
            takes_ipv6: true,
            ..Link::default()
        };
        for (own, of_all, expected) in [(0, 0, 0), (1, 0, 1), (0, 2, 2), (2, 1, 2)] {
            let link = link(Some(own), Some(true));
            assert_eq!(KernelPolicy::of(&link, all(of_all)), filter(expected));
        }
        assert_eq!(KernelPolicy::of(&link(None, None), all(0)), OPEN);
        let closed = KernelPolicy::of(&link(Some(0), Some(false)), all(0));
        assert!(!closed.forwards && closed.forwards6);
    }

    #[test]
    fn what_one_interface_takes_another_may_not() {
        for (own, other, all) in [
            (0, 1, true),
            (0, 2, true),
            (2, 1, true),
            (1, 2, false),
            (1, 0, false),
            (2, 0, false),
            (1, 1, true),
        ] {
            let takes = |source| filter(own).takes_all_of(&filter(other), &source);
            assert_eq!(takes(Source::Auto), all, "{own} {other}");
            assert!(takes(Source::Loose));
        }
        let closed = [(false, true), (true, false)].map(|(forwards, forwards6)| KernelPolicy {
            forwards,
            forwards6,
            ..OPEN
        });
        for closed in closed {
            assert!(OPEN.takes_all_of(&closed, &Source::Any));
            assert!(!closed.takes_all_of(&OPEN, &Source::Any));
        }
    }

    #[test]
    fn ipv6_by_interface() {
        let forwards = |takes_ipv6, forces_forwarding6, forwards6| {
            let link = Link {
                takes_ipv6,
                forces_forwarding6,
                ..Link::default()
            };
            let all = ForAll {
                rp_filter: 0,
                forwards6,
            };
            KernelPolicy::of(&link, all).forwards6
        };
        assert!(forwards(true, false, true) && forwards(true, true, false));
        assert!(!forwards(true, false, false) && !forwards(false, true, true));
    }

    #[test]
    fn by_default_a_port_is_as_strict_as_the_kernel_and_strict_towards_hosts() {
        use SourceMode::{Any, Loose, NotElsewhere, Strict};
        for (rp_filter, mode) in [(0, Any), (1, Strict), (2, Loose)] {
            assert_modes(&Source::Auto, filter(rp_filter), true, [mode, Any]);
            let hosts = if rp_filter == 0 { NotElsewhere } else { Strict };
            assert_modes(
                &Source::Auto,
                filter(rp_filter),
                false,
                [hosts, NotElsewhere],
            );
        }
    }

    #[test]
    fn the_configuration_decides_if_it_says_anything() {
        use SourceMode::{Any, Loose, Prefixes, Strict};
        let listed = Source::Prefixes(vec!["10.0.0.0/8".parse().unwrap()]);
        for (source, mode) in [
            (Source::Strict, Strict),
            (Source::Loose, Loose),
            (Source::Any, Any),
            (listed, Prefixes),
        ] {
            assert_modes(&source, filter(1), false, [mode; 2]);
        }
    }

    #[test]
    fn what_the_kernel_does_not_forward_is_not_forwarded() {
        use SourceMode::{Any, Closed};
        let only6 = KernelPolicy {
            forwards: false,
            ..OPEN
        };
        assert_modes(&Source::Any, only6, false, [Closed, Any]);
        let only4 = KernelPolicy {
            forwards6: false,
            ..OPEN
        };
        assert_modes(&Source::Any, only4, false, [Any, Closed]);
    }
}
