//! Edits that could not be carried out: remembered, tried again, and shown.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::{
    report::{PendingEdit, PendingEdits},
    sync::Edit,
};

/// Most seconds between two attempts.
const LONGEST_PAUSE: u64 = 64;
/// Most edits that are tried again at a time, so that the loop goes on.
const AT_A_TIME: usize = 256;
/// How many are shown one by one.
const EXAMPLES: usize = 10;

/// What an edit writes. A later edit of the same takes the place of one that failed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    NextHop(u32),
    Ecmp(u16),
    Route(IpNet),
    Address(IpAddr),
    PolicySource(IpNet),
    Tunnel(usize),
}

impl Subject {
    /// `None` for requests to the kernel, which nobody waits for.
    fn of(edit: &Edit) -> Option<Self> {
        match *edit {
            Edit::NextHop { id, .. } => Some(Self::NextHop(id)),
            Edit::Ecmp { group, .. } => Some(Self::Ecmp(group)),
            Edit::Route { prefix, .. } | Edit::RemoveRoute { prefix } => Some(Self::Route(prefix)),
            Edit::OwnAddress { address, .. } | Edit::RemoveOwnAddress { address } => {
                Some(Self::Address(address))
            }
            Edit::PolicySource { source, .. } => Some(Self::PolicySource(source)),
            Edit::Tunnel { tunnel, .. } => Some(Self::Tunnel(tunnel)),
            _ => None,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::NextHop(id) => format!("next hop {id}"),
            Self::Ecmp(group) => format!("multipath group {group}"),
            Self::Route(prefix) => format!("route {prefix}"),
            Self::Address(address) => format!("own address {address}"),
            Self::PolicySource(source) => format!("source {source} of a policy rule"),
            Self::Tunnel(tunnel) => format!("tunnel number {}", tunnel + 1),
        }
    }
}

struct Failed {
    edit: Edit,
    error: String,
    attempts: u32,
    /// When to try again, in seconds since the router started.
    due: u64,
}

/// All of them. Times are seconds since the router started.
#[derive(Default)]
pub(super) struct Pending {
    failed: BTreeMap<Subject, Failed>,
}

impl Pending {
    /// Takes note of what became of an edit at `now`; true if that is an error, and news.
    pub(super) fn note(&mut self, edit: &Edit, error: Option<String>, now: u64) -> bool {
        let Some(subject) = Subject::of(edit) else {
            return error.is_some();
        };
        let Some(error) = error else {
            self.failed.remove(&subject);
            return false;
        };
        let attempts = self.failed.get(&subject).map_or(0, |old| old.attempts) + 1;
        let pause = 1_u64.checked_shl(attempts - 1).unwrap_or(LONGEST_PAUSE);
        let failed = Failed {
            edit: edit.clone(),
            error,
            attempts,
            due: now + pause.min(LONGEST_PAUSE),
        };
        self.failed.insert(subject, failed);
        attempts == 1
    }

    /// Room was made: everything may be tried again, as if it had failed once.
    pub(super) fn hurry(&mut self, now: u64) {
        for failed in self.failed.values_mut() {
            failed.attempts = 1;
            failed.due = failed.due.min(now);
        }
    }

    /// Some of those whose time has come: the ones that have waited longest.
    pub(super) fn due(&self, now: u64) -> Vec<Edit> {
        let mut due: Vec<&Failed> = self.failed.values().filter(|f| f.due <= now).collect();
        due.sort_by_key(|failed| failed.due);
        due.truncate(AT_A_TIME);
        due.into_iter().map(|failed| failed.edit.clone()).collect()
    }

    /// Whether this route is not in the route map as it should be.
    pub(super) fn has_route(&self, prefix: IpNet) -> bool {
        self.failed.contains_key(&Subject::Route(prefix))
    }

    /// For the `status` verb.
    pub(super) fn report(&self) -> PendingEdits {
        let example = |(subject, failed): (&Subject, &Failed)| PendingEdit {
            what: subject.describe(),
            error: failed.error.clone(),
            attempts: failed.attempts,
        };
        PendingEdits {
            count: self.failed.len(),
            examples: self.failed.iter().take(EXAMPLES).map(example).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str, next_hop: u32) -> Edit {
        let prefix = text.parse().unwrap();
        Edit::Route { prefix, next_hop }
    }

    #[test]
    fn pauses_grow() {
        let mut pending = Pending::default();
        let edit = route("10.0.0.0/24", 7);
        let mut attempts = Vec::new();
        pending.note(&edit, Some("full".to_owned()), 0);
        for now in 1..=200 {
            for edit in pending.due(now) {
                attempts.push(now);
                pending.note(&edit, Some("full".to_owned()), now);
            }
        }
        assert_eq!(attempts, [1, 3, 7, 15, 31, 63, 127, 191]);
        pending.hurry(200);
        assert_eq!(pending.due(200), [edit]);
    }

    #[test]
    fn the_latest_edit_of_a_prefix_counts() {
        let mut pending = Pending::default();
        assert!(pending.note(&route("10.0.0.0/24", 7), Some("full".to_owned()), 0));
        assert!(!pending.note(&route("10.0.0.0/24", 8), Some("full".to_owned()), 1));
        assert_eq!(pending.due(9), [route("10.0.0.0/24", 8)]);
        let report = pending.report();
        assert_eq!((report.count, report.examples[0].attempts), (1, 2));
        assert_eq!(report.examples[0].what, "route 10.0.0.0/24");
        let prefix = "10.0.0.0/24".parse().unwrap();
        assert!(pending.has_route(prefix));
        pending.note(&Edit::RemoveRoute { prefix }, None, 9);
        assert_eq!(pending.report().count, 0);
        // A source that is not known would go by the wrong table.
        let source = Edit::PolicySource {
            source: prefix,
            is_there: true,
        };
        assert!(pending.note(&source, Some("full".to_owned()), 9));
        assert_eq!(pending.due(10), [source]);
        assert_eq!(
            pending.report().examples[0].what,
            "source 10.0.0.0/24 of a policy rule"
        );
    }
}
