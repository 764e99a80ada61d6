//! What a sender and a queue have done, by reason.

use std::fmt;

/// Defines a struct of counters that prints those which are not zero.
macro_rules! statistics {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$field_meta])* pub $field: u64,)*
        }

        impl ::std::fmt::Display for $name {
            /// Name and value of every counter that is not zero; `nothing yet` if all are.
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                $crate::statistics::display(&[$((stringify!($field), self.$field)),*], f)
            }
        }
    };
}
pub(crate) use statistics;

pub(crate) fn display(counters: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut separator = "";
    for (name, value) in counters.iter().filter(|(_, value)| *value > 0) {
        write!(f, "{separator}{name} {value}")?;
        separator = ", ";
    }
    if separator.is_empty() {
        f.write_str("nothing yet")?;
    }
    Ok(())
}

/// Why a destination is served by ordinary unicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The sender is configured so.
    Configured,
    /// No router has answered a probe yet, or not recently.
    NoAnswer,
    /// The router's host says that nobody listens on the port.
    Refused,
    /// There is no such interface, no permission for it, or no route to the router.
    Unavailable,
    /// It was alone.
    Single,
    /// Loopback, link-local, or the sender's own address: no router delivers there.
    NotRouted,
    /// The payload leaves no room for a list in a packet.
    PayloadSize,
    /// The kernel knows a smaller MTU on the way to the router than the packet has.
    PathMtu,
}

impl Cause {
    /// Why, as the name of a counter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::NoAnswer => "no_answer",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Single => "single",
            Self::NotRouted => "not_routed",
            Self::PayloadSize => "payload_size",
            Self::PathMtu => "path_mtu",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configured => "the sender is configured for unicast",
            Self::NoAnswer => "no router has answered",
            Self::Refused => "nobody listens on the router's port",
            Self::Unavailable => "the way to the router is not available",
            Self::Single => "there is one destination",
            Self::NotRouted => "no router delivers there",
            Self::PayloadSize => "the payload leaves no room for a list",
            Self::PathMtu => "the packet exceeds the MTU on the way to the router",
        })
    }
}

statistics! {
    /// What a sender has done since it was made.
    Statistics {
        /// Messages taken.
        messages,
        /// Xcast packets sent.
        xcast_packets,
        /// Destinations named in them.
        xcast_destinations,
        /// Octets of them, from the Xcast packet's IP header on.
        xcast_octets,
        /// Ordinary datagrams sent.
        unicast_packets,
        /// Of these: [`Cause::Configured`].
        unicast_configured,
        /// Of these: [`Cause::NoAnswer`].
        unicast_no_answer,
        /// Of these: [`Cause::Refused`].
        unicast_refused,
        /// Of these: [`Cause::Unavailable`].
        unicast_unavailable,
        /// Of these: [`Cause::Single`].
        unicast_single,
        /// Of these: [`Cause::NotRouted`].
        unicast_not_routed,
        /// Of these: [`Cause::PayloadSize`].
        unicast_payload_size,
        /// Of these: [`Cause::PathMtu`].
        unicast_path_mtu,
        /// Destinations that the kernel refused a datagram to.
        failed,
        /// Probes sent to the router.
        probes,
        /// Probes answered.
        answers,
        /// Times the router was lost after it had answered.
        lost,
    }
}

impl Statistics {
    pub(crate) fn count_unicast(&mut self, cause: Cause) {
        self.unicast_packets += 1;
        *match cause {
            Cause::Configured => &mut self.unicast_configured,
            Cause::NoAnswer => &mut self.unicast_no_answer,
            Cause::Refused => &mut self.unicast_refused,
            Cause::Unavailable => &mut self.unicast_unavailable,
            Cause::Single => &mut self.unicast_single,
            Cause::NotRouted => &mut self.unicast_not_routed,
            Cause::PayloadSize => &mut self.unicast_payload_size,
            Cause::PathMtu => &mut self.unicast_path_mtu,
        } += 1;
    }

    /// Datagrams sent only because no router could be used: none, while all is well.
    pub fn fallbacks(&self) -> u64 {
        self.unicast_no_answer + self.unicast_refused + self.unicast_unavailable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_count_are_shown() {
        let mut statistics = Statistics::default();
        assert_eq!(statistics.to_string(), "nothing yet");
        statistics.count_unicast(Cause::NoAnswer);
        assert_eq!(
            statistics.to_string(),
            "unicast_packets 1, unicast_no_answer 1"
        );
        assert_eq!(statistics.fallbacks(), 1);
    }
}
