//! The routes of one prefix in one routing table, in the order in which the kernel prefers them.

use super::{
    event::Placement,
    path::{PathId, Paths, Resolution},
};

/// The routes of one prefix in one table.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// In the kernel's order: by metric, then as they were placed.
    pub(super) candidates: Vec<Candidate>,
    /// What the prefix stood for when forwarding last looked.
    pub(super) standing: Standing,
}

/// One route of a prefix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) metric: u32,
    pub(super) path: PathId,
    pub(super) generation: u32,
}

/// What a table says at one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Standing {
    /// Nothing.
    #[default]
    Silent,
    /// The next table decides.
    Throw,
    /// A route.
    Route,
}

/// The route that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) path: PathId,
    /// For packets that come by some interfaces, another one is.
    pub(super) by_arrival: bool,
}

impl Node {
    /// Puts a candidate in its place and returns those it displaced; `None` if nothing changed.
    pub(super) fn place(&mut self, new: Candidate, placement: Placement) -> Option<Vec<Candidate>> {
        let all = &mut self.candidates;
        let first = all.partition_point(|c| c.metric < new.metric);
        let last = first + all[first..].partition_point(|c| c.metric == new.metric);
        let known = (first..last).find(|&at| all[at].path == new.path);
        match (placement, known) {
            // The dump gives the order: those it mentioned stand behind those it has not yet.
            (Placement::Dump, Some(at)) if all[at].generation != new.generation => {
                all[at] = new;
                all[at..last].rotate_left(1);
                return (at + 1 != last).then(Vec::new);
            }
            (_, Some(at)) => {
                all[at] = new;
                return None;
            }
            (Placement::Dump | Placement::Last, None) => all.insert(last, new),
            (Placement::First, None) => all.insert(first, new),
            // The kernel knows of no other, so neither do we.
            (Placement::Only, None) => return Some(all.splice(first..last, [new]).collect()),
            (Placement::Replace, None) => {
                let end = last.min(first + 1);
                return Some(all.splice(first..end, [new]).collect());
            }
        }
        Some(Vec::new())
    }

    /// The route that is in force, if there is a usable one.
    pub(super) fn best(&self, paths: &Paths) -> Option<PathId> {
        self.choice(paths).map(|choice| choice.path)
    }

    /// The route that is in force, if there is a usable one, and whether that is so for all packets.
    ///
    /// Of IPv6, the one with the highest preference among those of the lowest metric; if none of these is
    /// usable, among all others (`find_rr_leaf` in the kernel). Of several that are as good, the kernel prefers one by the
    /// interface that a packet came by (`rt6_score_route`).
    pub(super) fn choice(&self, paths: &Paths) -> Option<Choice> {
        let usable = |c: &&Candidate| {
            !matches!(
                paths[c.path].resolution,
                Resolution::Unusable | Resolution::Waiting { .. }
            )
        };
        let all = &self.candidates;
        let first = all.first()?.metric;
        let (lowest, others) = all.split_at(all.partition_point(|c| c.metric == first));
        let preferred = |candidates: &[Candidate]| {
            let preference = |c: &Candidate| paths[c.path].spec.preference;
            let usable = || candidates.iter().filter(usable);
            let highest = usable().map(preference).max()?;
            let mut best = usable().filter(|c| preference(c) == highest);
            let path = best.next()?.path;
            let differs = |c: &Candidate| paths[c.path].resolution != paths[path].resolution;
            Some(Choice {
                path,
                by_arrival: paths[path].spec.ipv6 && best.any(differs),
            })
        };
        preferred(lowest).or_else(|| preferred(others))
    }
}
