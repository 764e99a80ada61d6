//! Which sends share a packet. No I/O, no clock.
//!
//! A *group* is one content that a thread has sent by one socket to several destinations. It stays
//! open while the thread sends the same content by the same socket to further destinations, and ends
//! with whatever else it does. So nothing waits for what may come; the next call decides.
//!
//! **Order**: what a socket sends to a destination leaves in the order in which it was given, whichever
//! threads gave it. A datagram that leaves past the groups first ends those of its socket that hold
//! its destination.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    os::fd::RawFd,
    time::Instant,
};

use foldhash::fast::RandomState;

use crate::{address::Address, sockets::Fit};

/// Most destinations of a group. A longer list needs more than one packet anyway.
pub const MAX_DESTINATIONS: usize = 254;

/// What identifies a thread.
pub type Thread = usize;

/// What outlives a group for the next one of its socket: memory, and the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The latest content.
    pub payload: Vec<u8>,
    /// The latest list: each destination once, all of one family.
    pub list: Vec<SocketAddr>,
    /// What was found of all of them; `None` if that is not known, so that the list is of no use.
    pub fit: Option<Fit>,
}

/// One content to several destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The socket by which it was sent.
    pub socket: RawFd,
    /// When the first was given.
    pub opened: Instant,
    /// Content and destinations. Those that have not been given yet come last: the latest list had
    /// them in that order.
    memory: Memory,
    /// How many destinations have been given.
    given: usize,
    /// How many were given without a further look, as in the latest list.
    pub followed: usize,
}

impl Group {
    /// Content to a first destination. If that is the first one of the latest list, as it is in
    /// `memory`, the others are expected as well.
    fn open(
        socket: RawFd,
        to: SocketAddr,
        payload: &[u8],
        mut memory: Memory,
        now: Instant,
    ) -> Self {
        memory.payload.clear();
        memory.payload.extend_from_slice(payload);
        if memory.fit.is_none() || memory.list.first() != Some(&to) {
            memory.fit = None;
            memory.list.clear();
            memory.list.push(to);
        }
        Self {
            socket,
            opened: now,
            memory,
            given: 1,
            followed: 0,
        }
    }

    /// A whole group at once: destinations of one family, each once.
    pub fn whole(socket: RawFd, payload: &[u8], to: Vec<SocketAddr>, now: Instant) -> Self {
        Self {
            socket,
            opened: now,
            given: to.len(),
            memory: Memory {
                payload: payload.to_vec(),
                list: to,
                fit: None,
            },
            followed: 0,
        }
    }

    /// The content.
    pub fn payload(&self) -> &[u8] {
        &self.memory.payload
    }

    /// Destinations in the order in which they were given, each once, all of one family.
    pub fn to(&self) -> &[SocketAddr] {
        &self.memory.list[..self.given]
    }

    /// What the socket's next group may use.
    pub fn into_memory(mut self) -> Memory {
        if self.memory.fit.is_none() {
            self.memory.list.truncate(self.given);
        }
        self.memory
    }

    /// Whether this is the next destination that is expected.
    fn expects(&self, socket: RawFd, to: &Address, payload: &[u8]) -> bool {
        let next = self.memory.list.get(self.given);
        self.socket == socket
            && next.is_some_and(|next| Address::from(*next) == *to)
            && self.memory.payload == payload
    }

    /// Whether a datagram can join: the same content, and a new destination of the same family.
    fn admits(&self, socket: RawFd, to: SocketAddr, payload: &[u8]) -> bool {
        self.socket == socket
            && self.given < MAX_DESTINATIONS
            && is_ipv6(self.memory.list[0]) == is_ipv6(to)
            && !self.to().contains(&to)
            && self.memory.payload == payload
    }

    /// Takes a destination that was not expected.
    fn push(&mut self, to: SocketAddr) {
        self.memory.list.truncate(self.given);
        self.memory.fit = None;
        self.memory.list.push(to);
        self.given += 1;
    }
}

/// The open groups, at most one for each thread.
#[derive(Debug, Default)]
pub struct Groups {
    open: Vec<(Thread, Group)>,
}

impl Groups {
    /// Takes a datagram if the thread's group expects it as the next one. This is the way of nearly
    /// all datagrams of a program that sends to the same list again and again.
    #[inline]
    pub fn follow(&mut self, thread: Thread, socket: RawFd, to: &Address, payload: &[u8]) -> bool {
        let others = |(other, group): &(Thread, Group)| {
            let mut given = group.to().iter();
            *other != thread
                && group.socket == socket
                && given.any(|given| Address::from(*given) == *to)
        };
        if self.open.len() > 1 && self.open.iter().any(others) {
            return false;
        }
        match self.own(thread) {
            Some(group) if group.expects(socket, to, payload) => {
                group.given += 1;
                group.followed += 1;
                true
            }
            _ => false,
        }
    }

    fn own(&mut self, thread: Thread) -> Option<&mut Group> {
        let mut open = self.open.iter_mut();
        let (_, group) = open.find(|(other, _)| *other == thread)?;
        Some(group)
    }

    /// When the thread's group was opened, if the datagram can join it.
    pub fn admits(
        &mut self,
        thread: Thread,
        socket: RawFd,
        to: SocketAddr,
        payload: &[u8],
    ) -> Option<Instant> {
        let group = self.own(thread)?;
        group.admits(socket, to, payload).then_some(group.opened)
    }

    /// Takes a datagram into the thread's group, which [admits](Self::admits) it. Groups that have to
    /// leave before it are appended to `ended`, in order.
    pub fn join(&mut self, thread: Thread, socket: RawFd, to: SocketAddr, ended: &mut Vec<Group>) {
        self.end_others(thread, socket, to, ended);
        if let Some(group) = self.own(thread) {
            group.push(to);
        }
    }

    /// Opens a group of the thread, whose own group ends, like all that have to leave before it.
    #[expect(
        clippy::too_many_arguments,
        reason = "a datagram, who sends it when, and what is remembered"
    )]
    pub fn open(
        &mut self,
        thread: Thread,
        socket: RawFd,
        to: SocketAddr,
        payload: &[u8],
        memory: Memory,
        now: Instant,
        ended: &mut Vec<Group>,
    ) {
        self.end_thread(thread, ended);
        self.end_others(thread, socket, to, ended);
        let group = Group::open(socket, to, payload, memory, now);
        self.open.push((thread, group));
    }

    /// Ends groups of other threads that a destination's order needs to leave.
    fn end_others(
        &mut self,
        thread: Thread,
        socket: RawFd,
        to: SocketAddr,
        ended: &mut Vec<Group>,
    ) {
        self.end(ended, |other, group| {
            other != thread && group.socket == socket && group.to().contains(&to)
        });
    }

    /// Ends what has to leave before a datagram that is not taken: the thread's own group, and those
    /// of other threads that the order of its destination needs; all of the socket if that is unknown.
    pub fn make_way(
        &mut self,
        thread: Thread,
        socket: RawFd,
        to: Option<SocketAddr>,
        ended: &mut Vec<Group>,
    ) {
        self.end(ended, |other, group| {
            let on_the_way = to.is_none_or(|to| group.to().contains(&to));
            other == thread || (group.socket == socket && on_the_way)
        });
    }

    /// Ends the group of a thread.
    pub fn end_thread(&mut self, thread: Thread, ended: &mut Vec<Group>) {
        self.end(ended, |other, _| other == thread);
    }

    /// Ends the groups of a socket.
    pub fn end_socket(&mut self, socket: RawFd, ended: &mut Vec<Group>) {
        self.end(ended, |_, group| group.socket == socket);
    }

    /// Ends groups that were opened at this time or before it.
    pub fn end_older(&mut self, opened: Instant, ended: &mut Vec<Group>) {
        self.end(ended, |_, group| group.opened <= opened);
    }

    /// Ends all groups.
    pub fn end_all(&mut self, ended: &mut Vec<Group>) {
        self.end(ended, |_, _| true);
    }

    /// Number of open groups of a socket.
    pub fn count(&self, socket: RawFd) -> usize {
        let of_socket = |(_, group): &&(Thread, Group)| group.socket == socket;
        self.open.iter().filter(of_socket).count()
    }

    /// Whether no group is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn end(&mut self, ended: &mut Vec<Group>, ends: impl Fn(Thread, &Group) -> bool) {
        let mut at = 0;
        while let Some((thread, group)) = self.open.get(at) {
            if ends(*thread, group) {
                // The order of those that stay is that in which they were opened.
                ended.push(self.open.remove(at).1);
            } else {
                at += 1;
            }
        }
    }
}

/// Of which family packets to this address are.
fn is_ipv6(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_ipv6()
}

/// What a single call with many datagrams becomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Places of datagrams that share packets, group by group. Groups leave in this order.
    pub groups: Vec<Vec<usize>>,
    /// Places of those that leave one by one, in order.
    pub single: Vec<usize>,
}

/// A datagram of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Its content.
    pub content: &'a [u8],
    /// Its destination.
    pub to: SocketAddr,
    /// Whether it can be grouped.
    pub fit: bool,
}

/// Groups the datagrams of a single call. A destination has all of its datagrams in groups of at least
/// `min`, or none, so that they leave in the order given whether groups or single datagrams leave
/// first.
pub fn within_call(datagrams: &[Datagram<'_>], min: usize) -> Call {
    let unfit = datagrams.iter().filter(|datagram| !datagram.fit);
    let mut single: HashSet<SocketAddr, RandomState> = unfit.map(|datagram| datagram.to).collect();
    loop {
        let groups = group_by_content(datagrams, &single);
        let before = single.len();
        let small = groups.iter().filter(|group| group.len() < min).flatten();
        single.extend(small.map(|place| datagrams[*place].to));
        if single.len() == before {
            let is_single = |place: &usize| single.contains(&datagrams[*place].to);
            let single = (0..datagrams.len()).filter(is_single).collect();
            return Call { groups, single };
        }
    }
}

fn group_by_content(
    datagrams: &[Datagram<'_>],
    without: &HashSet<SocketAddr, RandomState>,
) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut by_content: HashMap<&[u8], Vec<usize>, RandomState> = HashMap::default();
    // The latest group of each destination: its next datagram may not join an earlier one.
    let mut latest: HashMap<SocketAddr, usize, RandomState> = HashMap::default();
    for (place, Datagram { content, to, .. }) in datagrams.iter().enumerate() {
        if without.contains(to) {
            continue;
        }
        let after = latest.get(to).map_or(0, |latest| latest + 1);
        let same = by_content.entry(content).or_default();
        let first = same.partition_point(|group| *group < after);
        let fits = |group: &&usize| {
            let members = &groups[**group];
            let first = members.first().map(|place| datagrams[*place].to);
            members.len() < MAX_DESTINATIONS
                && first.is_none_or(|there| is_ipv6(there) == is_ipv6(*to))
        };
        let group = match same[first..].iter().find(fits) {
            Some(group) => *group,
            None => {
                groups.push(Vec::new());
                same.push(groups.len() - 1);
                groups.len() - 1
            }
        };
        groups[group].push(place);
        latest.insert(*to, group);
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sockets::Path;

    /// What happens, with threads, sockets, destinations and contents by small numbers.
    #[derive(Clone, Debug)]
    enum Event {
        Take(Thread, RawFd, u8, u8),
        Pass(Thread, RawFd, u8, u8),
        PassUnknown(Thread, RawFd, u8),
        EndThread(Thread),
        EndSocket(RawFd),
        EndAll,
    }

    fn event() -> impl Strategy<Value = Event> {
        let (thread, socket, to, content) = (0..3_usize, 0..2, 0..6_u8, 0..2_u8);
        prop_oneof![
            12 => (thread.clone(), socket.clone(), to.clone(), content.clone())
                .prop_map(|(t, s, d, c)| Event::Take(t, s, d, c)),
            3 => (thread.clone(), socket.clone(), to, content.clone())
                .prop_map(|(t, s, d, c)| Event::Pass(t, s, d, c)),
            1 => (thread.clone(), socket.clone(), content)
                .prop_map(|(t, s, c)| Event::PassUnknown(t, s, c)),
            2 => thread.prop_map(Event::EndThread),
            1 => socket.prop_map(Event::EndSocket),
            1 => Just(Event::EndAll),
        ]
    }

    /// Destinations 4 and 5 are of IPv6.
    fn address(number: u8) -> SocketAddr {
        match number {
            0..4 => ([10, 0, 0, number], 5000).into(),
            _ => ([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)], 5000).into(),
        }
    }

    /// What a destination of a socket gets: contents in order. Content 255 of destination `None` is
    /// one that went somewhere unknown.
    type Order = HashMap<(RawFd, SocketAddr), Vec<u8>>;

    struct Model {
        groups: Groups,
        /// What the latest group of each socket left.
        memories: HashMap<RawFd, Memory>,
        given: Order,
        left: Order,
        followed: usize,
        now: Instant,
    }

    impl Model {
        fn leave(&mut self, ended: Vec<Group>) {
            for group in ended {
                let given = group.to().to_vec();
                let mut to = given.clone();
                to.sort();
                to.dedup();
                assert_eq!(to.len(), given.len(), "a destination is repeated");
                let ipv6 = given.iter().filter(|to| to.is_ipv6()).count();
                assert!(ipv6 == 0 || ipv6 == given.len(), "two families");
                for to in given {
                    let left = self.left.entry((group.socket, to)).or_default();
                    left.push(group.payload()[0]);
                }
                let socket = group.socket;
                let mut memory = group.into_memory();
                memory.fit = Some(fit(self.now));
                self.memories.insert(socket, memory);
            }
        }

        /// As the engine does it.
        fn take(
            &mut self,
            thread: Thread,
            socket: RawFd,
            to: SocketAddr,
            content: u8,
            ended: &mut Vec<Group>,
        ) {
            let groups = &mut self.groups;
            if groups.follow(thread, socket, &to.into(), &[content]) {
                self.followed += 1;
            } else if groups.admits(thread, socket, to, &[content]).is_some() {
                groups.join(thread, socket, to, ended);
            } else {
                let memory = self.memories.remove(&socket).unwrap_or_default();
                groups.open(thread, socket, to, &[content], memory, self.now, ended);
            }
        }

        fn apply(&mut self, event: &Event) {
            let mut ended = Vec::new();
            match *event {
                Event::Take(thread, socket, to, content) => {
                    let to = address(to);
                    self.take(thread, socket, to, content, &mut ended);
                    self.given.entry((socket, to)).or_default().push(content);
                    self.leave(ended);
                }
                Event::Pass(thread, socket, to, content) => {
                    let to = address(to);
                    self.groups.make_way(thread, socket, Some(to), &mut ended);
                    self.leave(ended);
                    self.given.entry((socket, to)).or_default().push(content);
                    self.left.entry((socket, to)).or_default().push(content);
                    assert!(self.groups.open.iter().all(|(other, _)| *other != thread));
                }
                Event::PassUnknown(thread, socket, _) => {
                    self.groups.make_way(thread, socket, None, &mut ended);
                    self.leave(ended);
                    assert_eq!(self.groups.count(socket), 0);
                }
                Event::EndThread(thread) => {
                    self.groups.end_thread(thread, &mut ended);
                    self.leave(ended);
                    assert!(self.groups.open.iter().all(|(other, _)| *other != thread));
                }
                Event::EndSocket(socket) => {
                    self.groups.end_socket(socket, &mut ended);
                    self.leave(ended);
                    assert_eq!(self.groups.count(socket), 0);
                }
                Event::EndAll => {
                    self.groups.end_all(&mut ended);
                    self.leave(ended);
                    assert!(self.groups.is_empty());
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn every_destination_gets_everything_in_order(events in prop::collection::vec(event(), 0..80)) {
            let mut model = Model {
                groups: Groups::default(),
                memories: HashMap::new(),
                given: Order::new(),
                left: Order::new(),
                followed: 0,
                now: Instant::now(),
            };
            for event in &events {
                model.apply(event);
                // What has left is what was given first.
                for (way, left) in &model.left {
                    prop_assert!(model.given[way].starts_with(left), "{:?}", way);
                }
            }
            model.apply(&Event::EndAll);
            prop_assert_eq!(model.given, model.left);
        }

        #[test]
        fn within_a_call_too(
            sends in prop::collection::vec((0..6_u8, 0..4_u8, prop::bool::weighted(0.98)), 0..60),
            min in 1..4_usize,
            singles_first in any::<bool>(),
        ) {
            let contents: Vec<[u8; 1]> = (0..4).map(|content| [content]).collect();
            let datagram = |&(to, content, fit): &(u8, u8, bool)| Datagram {
                content: &contents[usize::from(content)],
                to: address(to),
                fit,
            };
            let datagrams: Vec<_> = sends.iter().map(datagram).collect();
            let Call { groups, single } = within_call(&datagrams, min);
            for group in &groups {
                let members: Vec<_> = group.iter().map(|place| datagrams[*place]).collect();
                let first = members[0];
                prop_assert!(members.len() >= min);
                prop_assert!(members.iter().all(|member| member.fit));
                prop_assert!(members.iter().all(|member| member.content == first.content));
                prop_assert!(members.iter().all(|member| is_ipv6(member.to) == is_ipv6(first.to)));
                let mut to: Vec<_> = members.iter().map(|member| member.to).collect();
                to.sort();
                to.dedup();
                prop_assert_eq!(to.len(), group.len());
            }
            let mut places: Vec<usize> = groups.iter().flatten().copied().collect();
            match singles_first {
                true => places.splice(0..0, single.iter().copied()).for_each(drop),
                false => places.extend(&single),
            }
            let order = |places: &mut dyn Iterator<Item = usize>| {
                let mut order: HashMap<SocketAddr, Vec<&[u8]>> = HashMap::new();
                for Datagram { content, to, .. } in places.map(|place| datagrams[place]) {
                    order.entry(to).or_default().push(content);
                }
                order
            };
            let left = order(&mut places.iter().copied());
            prop_assert_eq!(left, order(&mut (0..datagrams.len())));
            places.sort_unstable();
            prop_assert!(places.into_iter().eq(0..datagrams.len()));
        }
    }

    #[test]
    fn client_by_client_is_a_group_for_each_content() {
        let contents: [&[u8]; 2] = [b"first", b"second"];
        let datagrams: Vec<_> = (0..4)
            .flat_map(|to| {
                contents.map(|content| Datagram {
                    content,
                    to: address(to),
                    fit: true,
                })
            })
            .collect();
        let call = within_call(&datagrams, 3);
        assert_eq!(call.groups, [[0, 2, 4, 6], [1, 3, 5, 7]]);
        assert!(call.single.is_empty());
        assert_eq!(within_call(&datagrams, 5).single.len(), 8);
    }

    #[test]
    fn one_content_to_four_is_one_group() {
        let mut groups = Groups::default();
        let (now, mut ended) = (Instant::now(), Vec::new());
        groups.open(
            1,
            3,
            address(0),
            b"same",
            Memory::default(),
            now,
            &mut ended,
        );
        for to in 1..4 {
            assert!(!groups.follow(1, 3, &address(to).into(), b"same"));
            assert_eq!(groups.admits(1, 3, address(to), b"same"), Some(now));
            groups.join(1, 3, address(to), &mut ended);
        }
        assert!(ended.is_empty());
        // A destination again: the same content is the next message. Other content, or another socket.
        assert_eq!(groups.admits(1, 3, address(0), b"same"), None);
        assert_eq!(groups.admits(1, 3, address(4), b"same"), None);
        assert_eq!(groups.admits(1, 3, address(3), b"more"), None);
        assert_eq!(groups.admits(1, 2, address(3), b"same"), None);
        groups.open(
            1,
            3,
            address(0),
            b"same",
            Memory::default(),
            now,
            &mut ended,
        );
        assert_eq!((ended.len(), ended[0].to().len()), (1, 4));
    }

    #[test]
    fn a_list_is_followed_until_it_is_another() {
        let (now, mut ended) = (Instant::now(), Vec::new());
        let memory = Memory {
            list: (0..4).map(address).collect(),
            fit: Some(fit(now)),
            ..Memory::default()
        };
        let open = |memory: &Memory, content: &[u8]| {
            let mut groups = Groups::default();
            groups.open(
                1,
                3,
                address(0),
                content,
                memory.clone(),
                now,
                &mut Vec::new(),
            );
            groups
        };
        let mut groups = open(&memory, b"1");
        for to in 1..4 {
            assert!(!groups.follow(1, 3, &address(to).into(), b"2"));
            assert!(!groups.follow(2, 3, &address(to).into(), b"1"));
            assert!(!groups.follow(1, 2, &address(to).into(), b"1"));
            assert!(groups.follow(1, 3, &address(to).into(), b"1"));
        }
        groups.end_all(&mut ended);
        // A part of the list, then somebody else.
        let mut groups = open(&memory, b"2");
        assert!(groups.follow(1, 3, &address(1).into(), b"2"));
        groups.end_all(&mut ended);
        let mut groups = open(&memory, b"3");
        assert!(!groups.follow(1, 3, &address(3).into(), b"3"));
        groups.join(1, 3, address(3), &mut ended);
        assert!(!groups.follow(1, 3, &address(2).into(), b"3"));
        groups.end_all(&mut ended);
        // Nothing is followed of a list that nothing is known of.
        let mut groups = open(
            &Memory {
                fit: None,
                ..memory.clone()
            },
            b"4",
        );
        assert!(!groups.follow(1, 3, &address(1).into(), b"4"));
        groups.end_all(&mut ended);
        let given: Vec<_> = ended.iter().map(|group| group.to().len()).collect();
        assert_eq!(given, [4, 2, 2, 1]);
        let followed: Vec<_> = ended.iter().map(|group| group.followed).collect();
        assert_eq!(followed, [3, 1, 0, 0]);
        let left: Vec<_> = ended.into_iter().map(Group::into_memory).collect();
        assert!(
            left[..2]
                .iter()
                .all(|left| left.list == memory.list && left.fit == memory.fit)
        );
        assert_eq!(left[2].list, [address(0), address(3)]);
        assert!(left[2..].iter().all(|left| left.fit.is_none()));
    }

    fn fit(now: Instant) -> Fit {
        let path = Path {
            source: [10, 0, 0, 9].into(),
            mtu: 1500,
        };
        Fit { path, until: now }
    }
}
