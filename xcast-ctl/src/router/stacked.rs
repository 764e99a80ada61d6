//! Interfaces on top of ports: the bridge or bond that a port belongs to, and macvlans on it. To the kernel, packets that
//! arrive by the port arrive by those.

use std::collections::HashMap;

use crate::kernel::{Barred, Link};

/// Interfaces, by index.
pub(super) type Links = HashMap<u32, Link>;

/// An interface to which what arrives by a port may belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Upper<'a> {
    pub(super) link: &'a Link,
    /// Whether frames without a tag belong to it, as far as anybody can tell: a bridge that keeps VLANs apart is asked
    /// for each of its members.
    pub(super) is_sure: bool,
}

/// Whether what its members receive is the interface's.
fn is_group(link: &Link) -> bool {
    matches!(link.kind.as_deref(), Some("bridge" | "bond" | "team"))
}

/// The bridge, bond or team that an interface is a member of.
fn group_of(links: &Links, ifindex: u32) -> Option<&Link> {
    let master = links.get(&ifindex)?.master?;
    links.get(&master).filter(|master| is_group(master))
}

/// The macvlans on an interface. What a macvtap receives is a virtual machine's, and a VLAN's frames have tags.
fn macvlans_on(links: &Links, ifindex: u32) -> impl Iterator<Item = &Link> {
    links.values().filter(move |link| {
        link.kind.as_deref() == Some("macvlan")
            && link.peer == Some(ifindex)
            && !link.peer_elsewhere
    })
}

/// The interface that the kernel takes frames to have arrived by that an interface received by its own address.
pub(super) fn receiver(links: &Links, ifindex: u32) -> u32 {
    ascend(links, ifindex).0
}

/// Why what an interface receives does not arrive at its [`receiver`], if it does not.
pub(super) fn barred(links: &Links, ifindex: u32) -> Option<Barred> {
    ascend(links, ifindex).1
}

/// Goes from one interface to the next one on top of it: where that ends, and what bars the way.
fn ascend(links: &Links, ifindex: u32) -> (u32, Option<Barred>) {
    let mut receiver = ifindex;
    let mut barred = None;
    // What was asked for while it changed may form a ring.
    for _ in 0..links.len() {
        // One that has the address itself gets everything (`passthru`).
        let mac = links.get(&receiver).and_then(|link| link.mac);
        let has_all = |link: &&Link| link.up && mac.is_some() && link.mac == mac;
        let group = group_of(links, receiver);
        if group.is_some() {
            barred = barred.max(links.get(&receiver).and_then(|link| link.barred));
        }
        match group.or_else(|| macvlans_on(links, receiver).find(has_all)) {
            Some(upper) => receiver = upper.ifindex,
            None => break,
        }
    }
    (receiver, barred)
}

/// All interfaces on top of one, by index.
pub(super) fn above(links: &Links, ifindex: u32) -> Vec<Upper<'_>> {
    let mut found: Vec<Upper<'_>> = Vec::new();
    let mut looked_at = 0;
    let (mut below, mut is_sure) = (ifindex, true);
    loop {
        let group = group_of(links, below).into_iter();
        for link in group.chain(macvlans_on(links, below)) {
            if link.ifindex != ifindex && found.iter().all(|other| other.link != link) {
                found.push(Upper {
                    link,
                    is_sure: is_sure && !link.filters_vlans,
                });
            }
        }
        let Some(next) = found.get(looked_at) else {
            break;
        };
        (below, is_sure) = (next.link.ifindex, next.is_sure);
        looked_at += 1;
    }
    found.sort_unstable_by_key(|upper| upper.link.ifindex);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links<const N: usize>(list: [Link; N]) -> Links {
        list.into_iter().map(|link| (link.ifindex, link)).collect()
    }

    fn link(ifindex: u32, kind: &str, below: Option<u32>, master: Option<u32>) -> Link {
        Link {
            ifindex,
            kind: Some(kind.to_owned()),
            peer: below,
            master,
            ..Link::default()
        }
    }

    fn indices(links: &Links, ifindex: u32) -> Vec<(u32, bool)> {
        let above = above(links, ifindex);
        let pairs = above.iter();
        pairs
            .map(|upper| (upper.link.ifindex, upper.is_sure))
            .collect()
    }

    #[test]
    fn what_bars_the_way() {
        let links = |barred: [Option<Barred>; 2]| {
            let member = |ifindex, kind, master, barred| Link {
                barred,
                ..link(ifindex, kind, None, master)
            };
            links([
                member(7, "veth", Some(8), barred[0]),
                member(8, "bond", Some(9), barred[1]),
                link(9, "bridge", None, None),
            ])
        };
        let bars = |bars| barred(&links(bars), 7);
        let (locked, backup) = (Some(Barred::Locked), Some(Barred::Backup));
        assert_eq!(bars([None, None]), None);
        assert_eq!(bars([None, locked]), locked);
        assert_eq!(bars([backup, locked]), backup);
        assert_eq!(receiver(&links([locked, None]), 7), 9);
    }

    #[test]
    fn what_is_on_top_of_what_is_on_top() {
        let mut links = links([
            link(1, "veth", Some(90), Some(10)),
            link(2, "veth", Some(91), Some(20)),
            link(3, "veth", Some(92), Some(40)),
            link(10, "bond", None, Some(20)),
            link(11, "macvlan", Some(1), None),
            link(12, "macvtap", Some(1), None),
            link(13, "vlan", Some(1), None),
            link(20, "bridge", None, None),
            link(21, "macvlan", Some(20), None),
            link(40, "vrf", None, None),
        ]);
        let all = [(10, true), (11, true), (20, true), (21, true)];
        assert_eq!(indices(&links, 1), all);
        assert_eq!(indices(&links, 2), [(20, true), (21, true)]);
        assert_eq!(indices(&links, 3), []);
        assert_eq!(
            [1, 2, 3, 21].map(|one| receiver(&links, one)),
            [20, 20, 3, 21]
        );
        let own_address = |links: &mut Links, ifindex: u32| {
            let link = links.get_mut(&ifindex).unwrap();
            (link.mac, link.up) = (Some([2; 6]), true);
        };
        own_address(&mut links, 3);
        links.insert(31, link(31, "macvlan", Some(3), None));
        assert_eq!(receiver(&links, 3), 3);
        own_address(&mut links, 31);
        assert_eq!(receiver(&links, 3), 31);
        // Only the bridge knows whose frames without a tag are.
        links.get_mut(&20).unwrap().filters_vlans = true;
        assert_eq!(indices(&links, 2), [(20, false), (21, false)]);
        assert_eq!(indices(&links, 1)[..2], [(10, true), (11, true)]);
    }

    #[test]
    fn rings_end() {
        let links = links([
            link(1, "bridge", None, Some(2)),
            link(2, "bond", None, Some(1)),
        ]);
        assert_eq!(indices(&links, 1), [(2, true)]);
        receiver(&links, 1);
    }
}
