//! What a sender has done, by reason.

use super::cause::UnicastCause;
use crate::statistics::statistics;

statistics! {
    /// What a sender has done since it was made.
    SenderStatistics {
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
        /// Of these: [`UnicastCause::Configured`].
        unicast_configured,
        /// Of these: [`UnicastCause::NoAnswer`].
        unicast_no_answer,
        /// Of these: [`UnicastCause::Refused`].
        unicast_refused,
        /// Of these: [`UnicastCause::Unavailable`].
        unicast_unavailable,
        /// Of these: [`UnicastCause::Filtered`].
        unicast_filtered,
        /// Of these: [`UnicastCause::NotRelayed`].
        unicast_not_relayed,
        /// Of these: [`UnicastCause::Single`].
        unicast_single,
        /// Of these: [`UnicastCause::NotRouted`].
        unicast_not_routed,
        /// Of these: [`UnicastCause::PayloadSize`].
        unicast_payload_size,
        /// Of these: [`UnicastCause::PathMtu`].
        unicast_path_mtu,
        /// Of these: sent in place of a packet that the router, or somebody on the way to it, refused
        /// after it had left.
        sent_again,
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

impl SenderStatistics {
    pub(crate) fn count_unicast(&mut self, cause: UnicastCause) {
        self.unicast_packets += 1;
        *match cause {
            UnicastCause::Configured => &mut self.unicast_configured,
            UnicastCause::NoAnswer => &mut self.unicast_no_answer,
            UnicastCause::Refused => &mut self.unicast_refused,
            UnicastCause::Unavailable => &mut self.unicast_unavailable,
            UnicastCause::Filtered => &mut self.unicast_filtered,
            UnicastCause::NotRelayed => &mut self.unicast_not_relayed,
            UnicastCause::Single => &mut self.unicast_single,
            UnicastCause::NotRouted => &mut self.unicast_not_routed,
            UnicastCause::PayloadSize => &mut self.unicast_payload_size,
            UnicastCause::PathMtu => &mut self.unicast_path_mtu,
        } += 1;
    }

    /// Datagrams sent only because no router could be used: none, while all is well.
    pub fn fallbacks(&self) -> u64 {
        self.unicast_no_answer
            + self.unicast_refused
            + self.unicast_unavailable
            + self.unicast_filtered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_count_are_shown() {
        let mut statistics = SenderStatistics::default();
        assert_eq!(statistics.to_string(), "nothing yet");
        statistics.count_unicast(UnicastCause::NoAnswer);
        assert_eq!(
            statistics.to_string(),
            "unicast_packets 1, unicast_no_answer 1"
        );
        assert_eq!(statistics.fallbacks(), 1);
    }
}
