//! What is saved: three numbers always, and the source's own link.

use serde::Serialize;

use crate::{statistics::Estimate, world::Tally};

/// What one packet saves against one for each destination, in percent.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Savings {
    /// Transmissions, access links included.
    pub links: Estimate,
    /// Transmissions where each destination answers by unicast.
    pub links_with_replies: Estimate,
    /// Octets, summed over transmissions.
    pub octets: Estimate,
    /// Octets where each destination answers by unicast.
    pub octets_with_replies: Estimate,
    /// Packets on the source's own access link, from the source.
    pub first_link_out_packets: Estimate,
    /// Octets on the source's own access link, from the source.
    pub first_link_out_octets: Estimate,
    /// Octets on the source's own access link in both directions, with replies. Replies alone save
    /// nothing: each comes by itself, on the first link in as on any other.
    pub first_link_both_octets: Estimate,
}

/// Paired differences to the baseline, in percentage points.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Difference {
    /// Of links.
    pub links: Estimate,
    /// Of octets.
    pub octets: Estimate,
}

/// What a seed's requests and the replies to them cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Requests, each to one receiver or several.
    pub requests: Tally,
    /// Replies, each by unicast.
    pub replies: Tally,
}

impl Cost {
    /// The same, to be compared with what another run cost instead of with its own unicast.
    #[must_use]
    pub fn against(self, other: &Self) -> Self {
        let against = |tally: Tally, other: &Tally| Tally {
            unicast: other.sent,
            ..tally
        };
        Self {
            requests: against(self.requests, &other.requests),
            replies: against(self.replies, &other.replies),
        }
    }

    fn all(self, of: impl Fn(&Tally) -> [u64; 2]) -> f64 {
        let ([sent, unicast], [more, more_unicast]) = (of(&self.requests), of(&self.replies));
        percent(sent + more, unicast + more_unicast)
    }
}

impl Savings {
    /// Of what each seed cost; none of no seed.
    #[must_use]
    pub fn of(costs: &[Cost]) -> Option<Self> {
        let estimate = |percent: &dyn Fn(&Cost) -> f64| {
            Estimate::of(&costs.iter().map(percent).collect::<Vec<_>>())
        };
        Some(Self {
            links: estimate(&links)?,
            links_with_replies: estimate(&|cost| {
                cost.all(|tally| [tally.sent.links, tally.unicast.links])
            })?,
            octets: estimate(&octets)?,
            octets_with_replies: estimate(&|cost| {
                cost.all(|tally| [tally.sent.octets, tally.unicast.octets])
            })?,
            first_link_out_packets: estimate(&|cost| {
                let Tally { sent, unicast, .. } = cost.requests;
                percent(sent.up_packets, unicast.up_packets)
            })?,
            first_link_out_octets: estimate(&|cost| {
                let Tally { sent, unicast, .. } = cost.requests;
                percent(sent.up_octets, unicast.up_octets)
            })?,
            first_link_both_octets: estimate(&|cost| {
                let (out, back) = (cost.requests, cost.replies);
                percent(
                    out.sent.up_octets + back.sent.down_octets,
                    out.unicast.up_octets + back.unicast.down_octets,
                )
            })?,
        })
    }
}

impl Difference {
    /// Between what each seed cost in one way and in another.
    ///
    /// # Panics
    ///
    /// There are not equally many of both.
    #[must_use]
    pub fn of(costs: &[Cost], baseline: &[Cost]) -> Option<Self> {
        let difference = |percent: fn(&Cost) -> f64| {
            let of = |costs: &[Cost]| costs.iter().map(percent).collect::<Vec<_>>();
            Estimate::of_differences(&of(costs), &of(baseline))
        };
        Some(Self {
            links: difference(links)?,
            octets: difference(octets)?,
        })
    }
}

fn links(cost: &Cost) -> f64 {
    percent(cost.requests.sent.links, cost.requests.unicast.links)
}

fn octets(cost: &Cost) -> f64 {
    percent(cost.requests.sent.octets, cost.requests.unicast.octets)
}

/// The share that is saved, in percent; below 0 where there is more.
fn percent(sent: u64, unicast: u64) -> f64 {
    100.0 * (1.0 - sent as f64 / unicast.max(1) as f64)
}
