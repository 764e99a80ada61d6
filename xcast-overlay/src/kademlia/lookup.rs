//! An iterative look-up: which nodes to ask next, and when the closest are found.
//!
//! The look-up knows nothing of messages. It goes in rounds, because a round's requests leave as
//! one packet: up to alpha of the closest nodes that were not asked yet; the next round begins when
//! each has answered or was given up. A round that found nobody closer is followed by one to all of
//! the k closest that were not asked yet (Maymounkov and Mazières 2002, section 2.3). When the k
//! closest nodes that are not silent have all answered, the silent ones among them are asked once
//! more, in one round: it may have been the network that lost something. Then the end is reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use bytes::Bytes;

use crate::{id::Id, krpc::Contact, runtime::Choice};

/// Rounds after which a look-up ends anyway: somebody invents ever closer nodes.
const MAX_ROUNDS: u32 = 32;
/// A look-up for nodes of one kind gives up when so many of others were closer.
const MAX_PASSED: usize = 64;
/// By so many it widens its rounds at most, while it meets others.
const MAX_WIDER: usize = 13;

/// A look-up in one address family.
#[derive(Clone, Debug)]
pub struct Lookup {
    target: Id,
    k: usize,
    alpha: usize,
    /// Whom to ask of the k closest, if it is not the very closest.
    choice: Option<Choice>,
    /// By distance from the target, and by address: somebody may name a wrong address for an
    /// identifier before the right one is heard of.
    candidates: BTreeMap<(Id, SocketAddr), Candidate>,
    in_flight: BTreeSet<SocketAddr>,
    rounds: u32,
    asked: u32,
    /// Distance of the closest candidate when the last round began.
    closest_before: Option<Id>,
    finished: bool,
}

#[derive(Clone, Debug)]
struct Candidate {
    contact: Contact,
    state: State,
    attempts: u32,
    token: Option<Token>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Asked,
    Answered,
    /// It has answered, and named others, but is none of those that are looked for.
    Passed,
    /// It has not answered, and may be asked once more.
    Silent,
    /// It has not answered again, or there is no hope.
    Gone,
}

impl State {
    fn is_silent(self) -> bool {
        matches!(self, Self::Silent | Self::Gone)
    }
}

/// Permission to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// As the node gave it.
    pub octets: Bytes,
    /// Whether the node finds its token in a list of tokens of several nodes.
    pub in_list: bool,
}

/// A node that has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The node.
    pub contact: Contact,
    /// Its token, if it gave one.
    pub token: Option<Token>,
}

impl Lookup {
    /// A look-up for the `k` closest nodes to `target`, `alpha` requests in a round, that begins
    /// with `seeds`.
    pub fn new(
        target: Id,
        k: usize,
        alpha: usize,
        seeds: impl IntoIterator<Item = Contact>,
    ) -> Self {
        let mut lookup = Self {
            target,
            k,
            alpha: alpha.max(1),
            choice: None,
            candidates: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            rounds: 0,
            asked: 0,
            closest_before: None,
            finished: false,
        };
        lookup.add(seeds);
        lookup
    }

    /// The same, with rounds that are chosen from the k closest by a rule.
    pub fn with_choice(self, choice: Option<Choice>) -> Self {
        Self { choice, ..self }
    }

    /// What is looked for.
    pub fn target(&self) -> Id {
        self.target
    }

    /// Rounds so far.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Nodes asked so far.
    pub fn asked(&self) -> u32 {
        self.asked
    }

    /// Counts a first round to addresses whose identifiers are not known, as a node begins that
    /// knows nobody.
    pub fn begin_with(&mut self, addresses: impl IntoIterator<Item = SocketAddr>) {
        self.in_flight.extend(addresses);
        self.asked += self.in_flight.len() as u32;
        self.rounds += 1;
    }

    /// Nodes that somebody named.
    pub fn add(&mut self, contacts: impl IntoIterator<Item = Contact>) {
        for contact in contacts {
            self.candidates
                .entry(self.place(&contact))
                .or_insert(Candidate {
                    contact,
                    state: State::New,
                    attempts: 0,
                    token: None,
                });
        }
    }

    /// A node has answered, perhaps after it was given up.
    ///
    /// `expected` is the identifier it was asked under. A node with another one is not what was
    /// looked for: what it says does not count. It may be asked under its own, though, once:
    /// libtorrent takes another identifier when it has learnt its address (BEP 42).
    pub fn answered(
        &mut self,
        contact: Contact,
        expected: Option<Id>,
        token: Option<Token>,
        contacts: impl IntoIterator<Item = Contact>,
    ) {
        self.in_flight.remove(&contact.address);
        if let Some(expected) = expected
            && expected != contact.id
        {
            self.set_silent(expected, &contact.address, false);
            let mut candidates = self.candidates.values();
            let known = |known: &Candidate| {
                known.contact.address == contact.address && known.contact.id != expected
            };
            if !candidates.any(known) {
                self.add([contact]);
            }
            return;
        }
        let candidate = Candidate {
            contact,
            state: State::Answered,
            attempts: 1,
            token,
        };
        self.candidates.insert(self.place(&contact), candidate);
        self.add(contacts);
    }

    /// The same, of a node that is none of those that are looked for: it only names others. As many as
    /// are looked for are found beyond it, within bounds.
    pub fn passed(
        &mut self,
        contact: Contact,
        expected: Option<Id>,
        contacts: impl IntoIterator<Item = Contact>,
    ) {
        self.answered(contact, expected, None, contacts);
        if let Some(candidate) = self.candidates.get_mut(&self.place(&contact))
            && candidate.state == State::Answered
        {
            candidate.state = State::Passed;
        }
    }

    /// Whether this node was asked, and has neither answered nor been given up.
    pub fn waits_for(&self, address: &SocketAddr) -> bool {
        self.in_flight.contains(address)
    }

    /// A node has not answered. With `hope` it may be asked once more at the end.
    pub fn silent(&mut self, address: &SocketAddr, expected: Option<Id>, hope: bool) {
        self.in_flight.remove(address);
        if let Some(expected) = expected {
            self.set_silent(expected, address, hope);
        }
    }

    /// Ends the look-up: what was looked for is found.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Whom to ask in the next round: nobody while a round is under way, or at the end.
    pub fn next_round(&mut self) -> Vec<Contact> {
        if !self.in_flight.is_empty() || self.finished {
            return Vec::new();
        }
        let closest = self
            .candidates
            .first_key_value()
            .map(|((distance, _), _)| *distance);
        let progress = self.rounds == 0 || closest < self.closest_before;
        let reach = self.reach();
        let width = if progress { self.alpha } else { reach };
        let mut round = self.choose(width, reach, State::New, self.choice.clone());
        if round.is_empty() {
            round = self.choose(self.k, self.k, State::Silent, None);
        }
        if round.is_empty() || self.rounds >= MAX_ROUNDS {
            self.finished = true;
            return Vec::new();
        }
        self.closest_before = closest;
        self.rounds += 1;
        self.asked += round.len() as u32;
        self.in_flight
            .extend(round.iter().map(|contact| contact.address));
        round
    }

    /// Whether the end is reached.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// The closest nodes that have answered, at most k, the closest first.
    pub fn closest(&self) -> Vec<Found> {
        let answered = self
            .candidates
            .values()
            .filter(|c| c.state == State::Answered);
        answered
            .take(self.k)
            .map(|candidate| Found {
                contact: candidate.contact,
                token: candidate.token.clone(),
            })
            .collect()
    }

    /// How many of the closest are worth asking: k, and more while so many are not found because others are
    /// closer.
    fn reach(&self) -> usize {
        let count = |state| {
            let candidates = self.candidates.values();
            candidates.filter(|known| known.state == state).count()
        };
        match count(State::Passed) {
            0 => self.k,
            _ if count(State::Answered) >= self.k => self.k,
            passed => self.k + passed.min(MAX_WIDER),
        }
    }

    /// Candidates in this state, up to `width`, that come before or among the `reach` closest that are
    /// neither silent nor passed: the closest, unless there is a rule to choose by.
    fn choose(
        &mut self,
        width: usize,
        reach: usize,
        state: State,
        choice: Option<Choice>,
    ) -> Vec<Contact> {
        let (mut others, mut passed) = (reach, 0);
        let mut places = Vec::new();
        for (place, candidate) in &self.candidates {
            if others == 0 || (places.len() >= width && choice.is_none()) {
                break;
            }
            if candidate.state == State::Passed {
                passed += 1;
                if passed >= MAX_PASSED {
                    break;
                }
            } else if candidate.state == state {
                places.push(*place);
                others -= 1;
            } else if !candidate.state.is_silent() {
                others -= 1;
            }
        }
        if let Some(choice) = choice
            && places.len() > width
        {
            let addresses: Vec<SocketAddr> = places.iter().map(|(_, address)| *address).collect();
            let chosen = choice.choose(&addresses, width);
            places = chosen.into_iter().map(|at| places[at]).collect();
        }
        let mut chosen = Vec::new();
        for place in places {
            if let Some(candidate) = self.candidates.get_mut(&place) {
                candidate.state = State::Asked;
                candidate.attempts += 1;
                chosen.push(candidate.contact);
            }
        }
        chosen
    }

    fn set_silent(&mut self, id: Id, address: &SocketAddr, hope: bool) {
        let place = self.place(&Contact {
            id,
            address: *address,
        });
        if let Some(candidate) = self.candidates.get_mut(&place) {
            let again = hope && candidate.attempts < 2;
            candidate.state = if again { State::Silent } else { State::Gone };
        }
    }

    fn place(&self, contact: &Contact) -> (Id, SocketAddr) {
        (contact.id.distance(self.target), contact.address)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::runtime::Random;

    fn contact(id: Id, number: usize) -> Contact {
        Contact {
            id,
            address: ([10, 0, (number >> 8) as u8, number as u8], 1).into(),
        }
    }

    /// A network in which each node knows some of each distance from itself, as routing tables do.
    struct World {
        nodes: Vec<Contact>,
        known: Vec<Vec<usize>>,
    }

    impl World {
        fn new(count: usize, k: usize, random: &mut Random) -> Self {
            let nodes: Vec<Contact> = (0..count)
                .map(|number| contact(Id::random(random), number))
                .collect();
            let known = nodes
                .iter()
                .map(|node| {
                    let mut others: Vec<usize> = (0..count).collect();
                    random.choose(&mut others, count);
                    let mut in_bucket = [0; 161];
                    others.retain(|other| {
                        let bucket = node.id.common_prefix(nodes[*other].id);
                        in_bucket[bucket] += 1;
                        in_bucket[bucket] <= k && bucket < Id::BITS
                    });
                    others
                })
                .collect();
            Self { nodes, known }
        }

        fn closest(&self, among: &[usize], target: Id, k: usize) -> Vec<Contact> {
            let mut nodes: Vec<Contact> = among.iter().map(|at| self.nodes[*at]).collect();
            nodes.sort_by_key(|node| node.id.distance(target));
            nodes.truncate(k);
            nodes
        }

        fn answer(&self, node: &Contact, target: Id, k: usize) -> Vec<Contact> {
            let at = self
                .nodes
                .iter()
                .position(|other| other == node)
                .expect("a node");
            self.closest(&self.known[at], target, k)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Answers in any order, some nodes dead, some late, some answering twice: the look-up ends,
        /// and finds the closest of the living.
        #[test]
        fn the_closest_living_nodes_are_found(seed in any::<u64>(), dead_percent in 0usize..40) {
            let mut random = Random::from_number(seed);
            let k = 8;
            let world = World::new(200, k, &mut random);
            let target = Id::random(&mut random);
            let dead: BTreeSet<SocketAddr> = world
                .nodes
                .iter()
                .filter(|_| random.below(100) < dead_percent)
                .map(|node| node.address)
                .collect();
            let seeds = world.closest(&world.known[0], target, k);
            let mut lookup = Lookup::new(target, k, 3, seeds);
            let mut asked = BTreeMap::new();
            loop {
                let mut round = lookup.next_round();
                if lookup.is_finished() {
                    break;
                }
                prop_assert!(!round.is_empty());
                let all = round.len();
                random.choose(&mut round, all);
                for node in round {
                    let times = asked.entry(node.address).or_insert(0);
                    *times += 1;
                    prop_assert!(*times <= 2, "nobody is asked three times");
                    let late = random.below(10) == 0;
                    if dead.contains(&node.address) || late {
                        lookup.silent(&node.address, Some(node.id), true);
                    }
                    if !dead.contains(&node.address) {
                        for _ in 0..=random.below(2) {
                            let known = world.answer(&node, target, k);
                            lookup.answered(node, Some(node.id), None, known);
                        }
                    }
                }
            }
            let found: Vec<Contact> = lookup.closest().iter().map(|found| found.contact).collect();
            prop_assert!(found.iter().all(|node| !dead.contains(&node.address)));
            let most = if dead.is_empty() { 10 } else { 20 };
            prop_assert!(lookup.rounds() <= most, "{} rounds", lookup.rounds());
            if dead.is_empty() {
                let all: Vec<usize> = (0..world.nodes.len()).collect();
                let best = world.closest(&all, target, k);
                let missed = best.iter().filter(|node| !found.contains(node)).count();
                prop_assert!(missed <= 1, "{missed} missed");
            }
        }
    }

    #[test]
    fn somebody_who_invents_closer_nodes_is_not_followed_for_ever() {
        let mut random = Random::from_number(1);
        let target = Id::random(&mut random);
        let mut lookup = Lookup::new(target, 8, 3, [contact(Id::random(&mut random), 0)]);
        let mut number = 0;
        while !lookup.is_finished() {
            for node in lookup.next_round() {
                number += 1;
                let closer = target.random_with_prefix((number / 2).min(159), &mut random);
                lookup.answered(node, Some(node.id), None, [contact(closer, number)]);
            }
        }
        assert!(lookup.rounds() <= MAX_ROUNDS);
    }

    #[test]
    fn a_node_that_answers_under_another_identifier_does_not_count() {
        let mut random = Random::from_number(1);
        let (asked, claimed) = (Id::random(&mut random), Id::random(&mut random));
        let mut lookup = Lookup::new(claimed, 8, 3, [contact(asked, 0)]);
        assert_eq!(lookup.next_round().len(), 1);
        let another = Id::random(&mut random);
        lookup.answered(contact(claimed, 0), Some(asked), None, []);
        assert!(lookup.closest().is_empty());
        // It is asked under that one, once.
        assert_eq!(lookup.next_round(), [contact(claimed, 0)]);
        lookup.answered(contact(another, 0), Some(claimed), None, []);
        assert!(lookup.next_round().is_empty() && lookup.is_finished());
        assert!(lookup.closest().is_empty());
    }
}
