//! What can be set for an interface that changes where unicast goes, and not where copies go.

/// A setting of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// Routers may tell of better gateways by ICMP (RFC 1812 section 5.2.7.2 has routers ignore that).
    AcceptRedirects,
    /// Packets to a network's broadcast address are forwarded (RFC 2644).
    BcForwarding,
    /// 127.0.0.0/8 is routed.
    RouteLocalnet,
}

impl Setting {
    pub(super) const ALL: [Self; 3] = [
        Self::AcceptRedirects,
        Self::BcForwarding,
        Self::RouteLocalnet,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AcceptRedirects => "accept_redirects",
            Self::BcForwarding => "bc_forwarding",
            Self::RouteLocalnet => "route_localnet",
        }
    }

    /// Whether it holds, by what it is for all interfaces and for this one (linux/inetdevice.h).
    pub(super) fn holds(self, all: bool, own: bool) -> bool {
        match self {
            Self::AcceptRedirects | Self::BcForwarding => all && own,
            Self::RouteLocalnet => all || own,
        }
    }

    /// What it does to unicast and not to copies.
    pub(super) fn effect(self) -> &'static str {
        match self {
            Self::AcceptRedirects => {
                "ICMP redirects change the gateway of unicast, and copies still go to the one of the route"
            }
            Self::BcForwarding => {
                "unicast to a network's broadcast address is forwarded, and no copy ever goes there"
            }
            Self::RouteLocalnet => "unicast to 127.0.0.0/8 is routed, and no copy ever goes there",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_hold_as_in_the_kernel() {
        assert!(!Setting::AcceptRedirects.holds(true, false));
        assert!(Setting::BcForwarding.holds(true, true));
        assert!(Setting::RouteLocalnet.holds(false, true));
    }
}
