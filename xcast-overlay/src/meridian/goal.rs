//! What a query looks for.

use std::{net::SocketAddr, time::Duration};

use crate::wire::{Reader, Writer};

/// Most targets of a query.
pub(super) const MAX_TARGETS: usize = 31;

/// What a query looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The node with the least average round trip to these. With one target that is the closest
    /// node; with several it is their central leader.
    Central(Vec<SocketAddr>),
    /// A node whose round trip to each of these is no longer than its bound.
    Within(Vec<(SocketAddr, Duration)>),
}

impl Goal {
    /// The node closest to this target.
    pub fn closest(target: SocketAddr) -> Self {
        Self::Central(vec![target])
    }

    /// The central leader of at most 31 targets.
    pub fn central(mut targets: Vec<SocketAddr>) -> Self {
        targets.truncate(MAX_TARGETS);
        Self::Central(targets)
    }

    /// From where round trips count.
    pub fn targets(&self) -> Vec<SocketAddr> {
        match self {
            Self::Central(targets) => targets.clone(),
            Self::Within(bounds) => bounds.iter().map(|(target, _)| *target).collect(),
        }
    }

    /// How far a node with these round trips to the targets is from the goal; `None` if one of the
    /// targets is out of reach.
    ///
    /// The average for [`Self::Central`]; the root of the sum of squares of what is too long for
    /// [`Self::Within`], where zero is success.
    pub fn distance(&self, rtts: &[Option<Duration>]) -> Option<Duration> {
        let rtts: Option<Vec<Duration>> = rtts.iter().copied().collect();
        let rtts = rtts.filter(|rtts| !rtts.is_empty() && rtts.len() == self.targets().len())?;
        Some(match self {
            Self::Central(_) => rtts.iter().sum::<Duration>() / rtts.len() as u32,
            Self::Within(bounds) => {
                let excess = bounds.iter().zip(&rtts);
                let excess =
                    excess.map(|((_, bound), rtt)| rtt.saturating_sub(*bound).as_secs_f64());
                Duration::from_secs_f64(excess.map(|excess| excess * excess).sum::<f64>().sqrt())
            }
        })
    }

    /// Bounds within which ring members are asked by a node with these round trips to the targets.
    ///
    /// A good node is at least `(1 - beta)` and at most `(1 + beta)` of the own distance away, or the
    /// triangle inequality does not hold (SIGCOMM 2005, section 3.1).
    pub(super) fn band(&self, rtts: &[Option<Duration>], beta: f64) -> Vec<(Duration, Duration)> {
        let band = |rtt: Duration| (rtt.mul_f64(1.0 - beta), rtt.mul_f64(1.0 + beta));
        match self {
            Self::Central(_) => self.distance(rtts).map(band).into_iter().collect(),
            Self::Within(_) => rtts.iter().flatten().map(|rtt| band(*rtt)).collect(),
        }
    }

    pub(super) fn write(&self, w: &mut Writer) {
        match self {
            Self::Central(targets) => {
                w.u8(0);
                w.list(targets, Writer::address);
            }
            Self::Within(bounds) => {
                w.u8(1);
                w.list(bounds, |w, (target, bound)| {
                    w.address(target);
                    w.u32(u32::try_from(bound.as_micros()).unwrap_or(u32::MAX));
                });
            }
        }
    }

    pub(super) fn read(r: &mut Reader) -> Option<Self> {
        match r.u8()? {
            0 => r.list(MAX_TARGETS, Reader::address).map(Self::Central),
            1 => {
                let bounds = r.list(MAX_TARGETS, |r| {
                    let target = r.address()?;
                    Some((target, Duration::from_micros(r.u32()?.into())))
                });
                bounds.map(Self::Within)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let ms = Duration::from_millis;
        let [a, b] = [1, 2].map(|n| SocketAddr::from(([192, 0, 2, n], 1)));
        let central = Goal::Central(vec![a, b]);
        assert_eq!(
            central.distance(&[Some(ms(10)), Some(ms(30))]),
            Some(ms(20))
        );
        assert_eq!(central.distance(&[Some(ms(10)), None]), None);
        let within = Goal::Within(vec![(a, ms(7)), (b, ms(26))]);
        assert_eq!(within.distance(&[Some(ms(10)), Some(ms(30))]), Some(ms(5)));
        assert_eq!(within.distance(&[Some(ms(1)), Some(ms(26))]), Some(ms(0)));
        let closest = Goal::closest(a);
        assert_eq!(closest.band(&[Some(ms(40))], 0.5), [(ms(20), ms(60))]);
    }
}
