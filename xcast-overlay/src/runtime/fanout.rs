//! Requests to several peers at once.
//!
//! A fan-out is one request, its receivers, and one transaction identifier. It leaves as one
//! [`Transmit`]; the answers come by unicast, and are matched by identifier *and* source address.
//!
//! Losses of a shared packet are correlated: lost on the first link, it is lost for all. So silence
//! is judged by the whole list. As long as nobody has answered, nobody is reported silent. If all
//! time-outs pass so, half of the receivers are asked again at once, by unicast. After the first
//! answer each receiver is judged by itself.
//!
//! Some peers do not read long transaction identifiers. A peer that has never answered and is silent
//! is sent the request twice more by unicast, also with a short identifier
//! ([`Policy::short_transaction_octets`]). If only that is answered, the peer is asked with short
//! ones from then on, those that share this by a packet of their own.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    peers::Peers,
    random::Random,
    transmit::{Body, Mode, Transmit},
};

/// A random identifier that ties an answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId {
    octets: [u8; Self::MAX_OCTETS],
    len: u8,
}

impl TransactionId {
    /// Longest identifier: more than any implementation of BEP 5 is known to take.
    pub const MAX_OCTETS: usize = 16;

    /// A random identifier of `octets` octets, at most [`MAX_OCTETS`](Self::MAX_OCTETS).
    pub fn random(random: &mut Random, octets: usize) -> Self {
        let len = octets.min(Self::MAX_OCTETS);
        let mut all: [u8; Self::MAX_OCTETS] = random.octets();
        all[len..].fill(0);
        Self {
            octets: all,
            len: len as u8,
        }
    }

    /// Its octets.
    pub fn octets(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }

    /// Its first eight octets: all, by [`Policy::of_eight_octets`].
    pub fn first_eight(&self) -> [u8; 8] {
        let mut eight = [0; 8];
        eight.copy_from_slice(&self.octets[..8]);
        eight
    }
}

impl TryFrom<&[u8]> for TransactionId {
    type Error = ();

    fn try_from(id: &[u8]) -> Result<Self, ()> {
        let mut octets = [0; Self::MAX_OCTETS];
        octets.get_mut(..id.len()).ok_or(())?.copy_from_slice(id);
        Ok(Self {
            octets,
            len: id.len() as u8,
        })
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.octets()
            .iter()
            .try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// How a request is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How often a receiver that stays silent is asked again by unicast, each time with twice the
    /// time-out.
    pub retries: u32,
    /// Whether a list of which nobody answers is asked again, half of it, by unicast.
    pub repair: bool,
    /// Shortest time-out.
    pub min_timeout: Duration,
    /// Longest time-out.
    pub max_timeout: Duration,
    /// How long an answer still counts after its receiver was given up.
    pub linger: Duration,
    /// How long a request may wait for the receiver's budget of messages.
    pub max_wait: Duration,
    /// Length of transaction identifiers in octets.
    ///
    /// Eight is hard to guess for somebody who does not see the request. BEP 5 sets no length;
    /// libtorrent and Transmission answer identifiers of eight octets.
    pub transaction_octets: usize,
    /// Length of the identifier that a peer is tried with which has never answered a longer one;
    /// `None` to do without.
    ///
    /// The crate `mainline` (8.0) reads identifiers of exactly four octets, and does not answer
    /// others. What it costs: two datagrams more to each stranger that is silent, since one that is
    /// gone looks the same; a packet more in rounds that ask peers of both kinds; and a guess hits
    /// one of 2^32, if the source address fits, too. Look-ups do not wait for it: an answer then
    /// counts as a late one.
    pub short_transaction_octets: Option<usize>,
}

impl Policy {
    /// The same, for messages that have room for identifiers of eight octets and no others.
    #[must_use]
    pub fn of_eight_octets(self) -> Self {
        Self {
            transaction_octets: 8,
            short_transaction_octets: None,
            ..self
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retries: 0,
            repair: true,
            min_timeout: Duration::from_millis(200),
            max_timeout: Duration::from_secs(4),
            linger: Duration::from_secs(4),
            max_wait: Duration::from_secs(2),
            transaction_octets: 8,
            short_transaction_octets: None,
        }
    }
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// What the caller said of this receiver.
    pub tag: T,
    /// Whether the receiver had been reported silent.
    pub late: bool,
    /// How long it took; `None` if that cannot be told, since the request was repeated.
    pub measured: Option<Duration>,
}

/// A receiver was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent<T> {
    /// The receiver.
    pub peer: SocketAddr,
    /// What the caller said of it.
    pub tag: T,
    /// Whether it was asked at all; if not, its budget of messages was used up.
    pub asked: bool,
}

/// What became of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Counters {
    /// Fan-outs.
    pub fanouts: u64,
    /// Receivers that were asked, each once for a fan-out.
    pub asked: u64,
    /// Answers in time.
    pub answered: u64,
    /// Answers after their receiver was given up.
    pub late: u64,
    /// Receivers that were given up.
    pub silent: u64,
    /// Receivers asked again by unicast because they were silent.
    pub retried: u64,
    /// Fan-outs to several without any answer, asked again by unicast.
    pub repaired: u64,
    /// Receivers tried with a short identifier because they have never answered a longer one.
    pub tried_short: u64,
    /// Answers to a short identifier where a longer one was not answered.
    pub answered_short: u64,
    /// Requests that waited for the receiver's budget of messages.
    pub paced: u64,
    /// Receivers not asked because their budget of messages was used up.
    pub over_budget: u64,
    /// Answers with an identifier that is not waited for.
    pub unknown_transaction: u64,
    /// Answers from somebody who was not asked.
    pub wrong_source: u64,
}

/// Requests under way. `T` is what the caller wants to know of a receiver when it answers, or does
/// not.
#[derive(Clone, Debug)]
pub struct Fanouts<T> {
    fanouts: BTreeMap<TransactionId, Fanout<T>>,
    /// Which fan-out a short identifier belongs to.
    shorts: BTreeMap<TransactionId, TransactionId>,
    timers: BTreeSet<(Instant, TransactionId)>,
    transmits: VecDeque<Transmit>,
    silent: VecDeque<Silent<T>>,
    counters: Counters,
}

#[derive(Clone, Debug)]
struct Fanout<T> {
    policy: Policy,
    body: Body,
    /// The same request with a short identifier, for receivers that have never answered.
    short: Option<(TransactionId, Body)>,
    receivers: Vec<Receiver<T>>,
    answered: bool,
    may_repair: bool,
    timer: Instant,
    /// When late answers no longer count.
    closes: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Receiver<T> {
    address: SocketAddr,
    tag: T,
    attempts: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits for its budget.
    Paced {
        until: Instant,
    },
    /// Was asked.
    Waiting {
        sent: Instant,
        deadline: Instant,
    },
    /// Its time is over, but nobody else has answered either.
    Overdue,
    Answered,
    Silent,
}

impl<T: Clone> Fanouts<T> {
    /// No requests.
    pub fn new() -> Self {
        Self {
            fanouts: BTreeMap::new(),
            shorts: BTreeMap::new(),
            timers: BTreeSet::new(),
            transmits: VecDeque::new(),
            silent: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// What became of requests so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether no request waits for an answer.
    pub fn is_idle(&self) -> bool {
        self.fanouts
            .values()
            .all(|fanout| !fanout.receivers.iter().any(Receiver::is_open))
    }

    /// Asks receivers, all by one message that `body` makes for the transaction identifier; those
    /// that are known to read only short ones by another.
    ///
    /// An address that comes twice is asked once; the pieces of its own in the body follow the
    /// list as given.
    pub fn start(
        &mut self,
        now: Instant,
        peers: &mut Peers,
        random: &mut Random,
        policy: Policy,
        receivers: Vec<(SocketAddr, T)>,
        mut body: impl FnMut(&TransactionId) -> Body,
    ) {
        let short = policy.short_transaction_octets;
        let reads_short = |(address, _): &(SocketAddr, T)| peers.reads_short_only(address);
        if short.is_none() || !receivers.iter().any(reads_short) {
            return self.begin(now, peers, random, policy, receivers, body);
        }
        let groups = [false, true].map(|wanted| {
            let all = receivers.iter().enumerate();
            let group = all.filter(|(_, receiver)| reads_short(receiver) == wanted);
            group.map(|(place, _)| place).collect::<Vec<_>>()
        });
        for (group, octets) in groups
            .iter()
            .zip([policy.transaction_octets, short.unwrap_or(0)])
        {
            let policy = Policy {
                transaction_octets: octets,
                ..policy
            };
            let receivers = group
                .iter()
                .map(|place| receivers[*place].clone())
                .collect();
            let body = |id: &TransactionId| body(id).select(group);
            self.begin(now, peers, random, policy, receivers, body);
        }
    }

    /// Asks receivers, all by one message.
    fn begin(
        &mut self,
        now: Instant,
        peers: &mut Peers,
        random: &mut Random,
        policy: Policy,
        receivers: Vec<(SocketAddr, T)>,
        mut body: impl FnMut(&TransactionId) -> Body,
    ) {
        if receivers.is_empty() {
            return;
        }
        let id = TransactionId::random(random, policy.transaction_octets);
        let mut short = None;
        let stranger = |(address, _): &(SocketAddr, T)| peers.heard(address).is_none();
        if let Some(octets) = policy.short_transaction_octets
            && octets < policy.transaction_octets
            && receivers.iter().any(stranger)
        {
            let short_id = TransactionId::random(random, octets);
            short = Some((short_id, body(&short_id)));
        }
        let mut seen = BTreeSet::new();
        let receivers: Vec<Receiver<T>> = receivers
            .into_iter()
            .map(|(address, tag)| {
                let state = if !seen.insert(address) {
                    State::Answered
                } else {
                    match peers.reserve(now, address, policy.max_wait) {
                        Some(at) if at > now => {
                            self.counters.paced += 1;
                            State::Paced { until: at }
                        }
                        Some(_) => State::Waiting {
                            sent: now,
                            deadline: now + timeout(peers, &address, policy, 0),
                        },
                        None => {
                            self.counters.over_budget += 1;
                            self.silent.push_back(Silent {
                                peer: address,
                                tag: tag.clone(),
                                asked: false,
                            });
                            State::Silent
                        }
                    }
                };
                Receiver {
                    address,
                    tag,
                    attempts: 0,
                    state,
                }
            })
            .collect();
        let places: Vec<usize> = places(&receivers, |state| matches!(state, State::Waiting { .. }));
        let mut fanout = Fanout {
            policy,
            body: body(&id),
            short,
            receivers,
            answered: false,
            may_repair: policy.repair && places.len() > 1,
            timer: now,
            closes: None,
        };
        self.counters.fanouts += 1;
        self.counters.asked += places.len() as u64;
        self.transmits
            .extend(fanout.transmit(&places, Mode::Shared));
        if let Some(timer) = fanout.next_timer(now) {
            fanout.timer = timer;
            self.timers.insert((timer, id));
            self.shorts
                .extend(fanout.short.iter().map(|(short, _)| (*short, id)));
            self.fanouts.insert(id, fanout);
        }
    }

    /// Takes an answer: whose it is, or `None` for one that nobody waits for.
    pub fn answer(
        &mut self,
        now: Instant,
        peers: &mut Peers,
        id: &[u8],
        from: SocketAddr,
    ) -> Option<Answer<T>> {
        let given = TransactionId::try_from(id).ok();
        let short = given.and_then(|given| self.shorts.get(&given).copied());
        let id = short.or(given);
        let Some((id, fanout)) = id.and_then(|id| Some((id, self.fanouts.get_mut(&id)?))) else {
            self.counters.unknown_transaction += 1;
            return None;
        };
        let Some(receiver) = fanout.receivers.iter_mut().find(|receiver| {
            receiver.address == from && !matches!(receiver.state, State::Paced { .. })
        }) else {
            self.counters.wrong_source += 1;
            return None;
        };
        let late = receiver.state == State::Silent;
        // Who answers both reads both, whichever answer comes first.
        if fanout.short.is_some() && (short.is_none() || receiver.state != State::Answered) {
            peers.set_reads_short_only(from, short.is_some());
        }
        if receiver.state == State::Answered {
            // The same answer again, or the answers to a request and to its repetition.
            self.counters.unknown_transaction += 1;
            return None;
        }
        let measured = match receiver.state {
            State::Waiting { sent, .. } if receiver.attempts == 0 => Some(now - sent),
            _ => None,
        };
        receiver.state = State::Answered;
        let answer = Answer {
            tag: receiver.tag.clone(),
            late,
            measured,
        };
        peers.answered(now, from, measured);
        if short.is_some() {
            self.counters.answered_short += 1;
        }
        if late {
            self.counters.late += 1;
        } else {
            self.counters.answered += 1;
        }
        // The packet left and arrived: from now on who is overdue is judged by itself.
        fanout.answered = true;
        self.set_timer(now, id);
        Some(answer)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant, peers: &mut Peers) {
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.due(now, peers, id);
            // A timer that did not move would be due for ever.
            let moved = self.set_timer(now, id);
            debug_assert!(
                moved.is_none_or(|timer| timer > now),
                "{moved:?} after {now:?}"
            );
        }
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next receiver that was given up.
    pub fn poll_silent(&mut self) -> Option<Silent<T>> {
        self.silent.pop_front()
    }

    fn due(&mut self, now: Instant, peers: &mut Peers, id: TransactionId) {
        let Some(fanout) = self.fanouts.get_mut(&id) else {
            return;
        };
        let policy = fanout.policy;
        let (mut ask, mut try_short) = (Vec::new(), Vec::new());
        for (place, receiver) in fanout.receivers.iter_mut().enumerate() {
            match receiver.state {
                State::Paced { until } if until <= now => {
                    if receiver.attempts == 0 {
                        self.counters.asked += 1;
                    }
                    receiver.wait(now, peers, policy);
                    ask.push(place);
                }
                State::Waiting { deadline, .. } if deadline <= now => {
                    receiver.state = State::Overdue;
                }
                _ => {}
            }
        }
        let waits = fanout.receivers.iter().any(Receiver::is_waiting);
        let overdue = places(&fanout.receivers, |state| *state == State::Overdue);
        if !fanout.may_repair || fanout.answered {
            for place in overdue {
                let receiver = &mut fanout.receivers[place];
                if receiver.attempts < policy.retries {
                    self.counters.retried += 1;
                    receiver.ask_again(now, peers, policy, place, &mut ask);
                } else {
                    self.counters.silent += 1;
                    give_up(receiver, peers, &mut self.silent);
                    // Nobody waits for it, but an answer is welcome.
                    if receiver.attempts == 0 {
                        try_short.push(place);
                    }
                }
            }
        } else if !waits && !overdue.is_empty() {
            fanout.may_repair = false;
            self.counters.repaired += 1;
            let half = overdue.len().div_ceil(2);
            for (at, place) in overdue.into_iter().enumerate() {
                let receiver = &mut fanout.receivers[place];
                if at < half || policy.retries > 0 {
                    receiver.ask_again(now, peers, policy, place, &mut ask);
                } else {
                    self.counters.silent += 1;
                    give_up(receiver, peers, &mut self.silent);
                }
            }
        }
        self.transmits.extend(fanout.transmit(&ask, Mode::Unicast));
        // Who has never answered may not have read the identifier.
        if let Some((_, short)) = &fanout.short {
            let mut again = Vec::new();
            for place in &try_short {
                let address = fanout.receivers[*place].address;
                if peers.heard(&address).is_none()
                    && peers.reserve(now, address, Duration::ZERO).is_some()
                {
                    again.push(*place);
                }
            }
            // First what others read as well, so that they answer that first.
            self.transmits
                .extend(fanout.transmit(&again, Mode::Unicast));
            let address = |place: &usize| fanout.receivers[*place].address;
            ask.retain(|place| {
                fanout.receivers[*place].attempts > 0 && peers.heard(&address(place)).is_none()
            });
            again.extend(ask);
            self.counters.tried_short += again.len() as u64;
            if !again.is_empty() {
                self.transmits.push_back(Transmit {
                    to: again.iter().map(address).collect(),
                    body: short.select(&again),
                    mode: Mode::Unicast,
                });
            }
        }
    }

    /// Sets the timer of a fan-out to its next event, or forgets the fan-out.
    fn set_timer(&mut self, now: Instant, id: TransactionId) -> Option<Instant> {
        let fanout = self.fanouts.get_mut(&id)?;
        self.timers.remove(&(fanout.timer, id));
        match fanout.next_timer(now) {
            Some(timer) => {
                fanout.timer = timer;
                self.timers.insert((timer, id));
                Some(timer)
            }
            None => {
                let fanout = self.fanouts.remove(&id);
                if let Some((short, _)) = fanout.and_then(|fanout| fanout.short) {
                    self.shorts.remove(&short);
                }
                None
            }
        }
    }
}

impl<T: Clone> Default for Fanouts<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone> Fanout<T> {
    fn transmit(&self, places: &[usize], mode: Mode) -> Option<Transmit> {
        if places.is_empty() {
            return None;
        }
        let to = places
            .iter()
            .map(|place| self.receivers[*place].address)
            .collect();
        Some(Transmit {
            to,
            body: self.body.select(places),
            mode,
        })
    }

    /// The next time to look at this fan-out; `None` if nothing more can come of it.
    fn next_timer(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut given_up = false;
        for receiver in &self.receivers {
            let at = match receiver.state {
                State::Paced { until } => until,
                State::Waiting { deadline, .. } => deadline,
                State::Overdue if self.answered => now,
                State::Overdue | State::Answered => continue,
                State::Silent => {
                    given_up = true;
                    continue;
                }
            };
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        if next.is_some() || !given_up {
            return next;
        }
        let closes = *self.closes.get_or_insert(now + self.policy.linger);
        (closes > now).then_some(closes)
    }
}

impl<T: Clone> Receiver<T> {
    fn is_waiting(&self) -> bool {
        matches!(self.state, State::Paced { .. } | State::Waiting { .. })
    }

    fn is_open(&self) -> bool {
        self.is_waiting() || self.state == State::Overdue
    }

    fn wait(&mut self, now: Instant, peers: &Peers, policy: Policy) {
        let timeout = timeout(peers, &self.address, policy, self.attempts);
        self.state = State::Waiting {
            sent: now,
            deadline: now + timeout,
        };
    }

    fn ask_again(
        &mut self,
        now: Instant,
        peers: &mut Peers,
        policy: Policy,
        place: usize,
        ask: &mut Vec<usize>,
    ) {
        self.attempts += 1;
        match peers.reserve(now, self.address, policy.max_wait) {
            Some(at) if at <= now => {
                self.wait(now, peers, policy);
                ask.push(place);
            }
            Some(at) => self.state = State::Paced { until: at },
            // Its budget is used up: it gets its time once more, without being asked.
            None => self.wait(now, peers, policy),
        }
    }

    fn silent(&self) -> Silent<T> {
        Silent {
            peer: self.address,
            tag: self.tag.clone(),
            asked: true,
        }
    }
}

fn give_up<T: Clone>(
    receiver: &mut Receiver<T>,
    peers: &mut Peers,
    silent: &mut VecDeque<Silent<T>>,
) {
    receiver.state = State::Silent;
    peers.silent(receiver.address);
    silent.push_back(receiver.silent());
}

fn places<T>(receivers: &[Receiver<T>], wanted: impl Fn(&State) -> bool) -> Vec<usize> {
    let all = receivers.iter().enumerate();
    all.filter(|(_, receiver)| wanted(&receiver.state))
        .map(|(place, _)| place)
        .collect()
}

fn timeout(peers: &Peers, peer: &SocketAddr, policy: Policy, attempts: u32) -> Duration {
    let timeout = peers.timeout(peer).max(policy.min_timeout);
    (timeout * 2u32.saturating_pow(attempts)).min(policy.max_timeout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::pace::Pace;

    struct Bench {
        now: Instant,
        peers: Peers,
        random: Random,
        fanouts: Fanouts<u16>,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                now: Instant::now(),
                peers: Peers::new(100, Pace::new(20, Duration::from_millis(500))),
                random: Random::from_number(1),
                fanouts: Fanouts::new(),
            }
        }

        fn ask(&mut self, ports: &[u16], policy: Policy) -> (TransactionId, Option<Transmit>) {
            let receivers = ports.iter().map(|port| (address(*port), *port)).collect();
            let mut id = None;
            self.fanouts.start(
                self.now,
                &mut self.peers,
                &mut self.random,
                policy,
                receivers,
                |given| {
                    id = Some(*given);
                    Body::shared(given.octets().to_vec())
                },
            );
            (id.expect("a body is made"), self.fanouts.poll_transmit())
        }

        fn answer(&mut self, id: TransactionId, port: u16) -> Option<Answer<u16>> {
            self.fanouts
                .answer(self.now, &mut self.peers, id.octets(), address(port))
        }

        /// The tag of an answer, and whether it is late.
        fn whose(&mut self, id: TransactionId, port: u16) -> Option<(u16, bool)> {
            let answer = self.answer(id, port)?;
            Some((answer.tag, answer.late))
        }

        /// Goes on to the next timer: what is then sent, and who is given up.
        fn next(&mut self) -> (Vec<Transmit>, Vec<u16>) {
            self.now = self
                .fanouts
                .poll_timeout()
                .expect("something is due")
                .max(self.now);
            self.fanouts.handle_timeout(self.now, &mut self.peers);
            let sent = std::iter::from_fn(|| self.fanouts.poll_transmit()).collect();
            let silent = std::iter::from_fn(|| self.fanouts.poll_silent());
            (sent, silent.map(|silent| silent.tag).collect())
        }
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn one_packet_asks_all_and_answers_are_matched_by_id_and_source() {
        let mut bench = Bench::new();
        let (id, transmit) = bench.ask(&[1, 2, 3], Policy::default());
        let transmit = transmit.expect("a message");
        assert_eq!((transmit.to.len(), transmit.mode), (3, Mode::Shared));
        assert_eq!(transmit.datagram(2).len(), 8);
        assert_eq!(bench.answer(id, 4), None);
        assert_eq!(bench.answer(TransactionId { len: 7, ..id }, 1), None);
        assert_eq!(bench.whose(id, 2), Some((2, false)));
        assert_eq!(bench.answer(id, 2), None, "an answer counts once");
        let counters = bench.fanouts.counters();
        assert_eq!(
            (counters.wrong_source, counters.unknown_transaction),
            (1, 2)
        );
    }

    #[test]
    fn a_round_without_any_answer_is_asked_again_half_of_it_by_unicast() {
        let mut bench = Bench::new();
        let (id, _) = bench.ask(&[1, 2, 3], Policy::default());
        let (sent, silent) = bench.next();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].mode, Mode::Unicast);
        assert_eq!(sent[0].to, [address(1), address(2)]);
        assert_eq!(silent, [3]);
        assert_eq!(bench.whose(id, 1), Some((1, false)));
        assert_eq!(bench.whose(id, 3), Some((3, true)));
        assert!(
            bench.peers.rtt(&address(1)).is_none(),
            "a repeated request measures nothing"
        );
        let (sent, silent) = bench.next();
        assert_eq!((sent, silent), (vec![], vec![2]));
        assert_eq!(bench.fanouts.counters().repaired, 1);
    }

    #[test]
    fn after_one_answer_nobody_is_asked_again() {
        let mut bench = Bench::new();
        let (id, _) = bench.ask(&[1, 2, 3], Policy::default());
        bench.now += Duration::from_millis(30);
        assert!(bench.answer(id, 3).is_some());
        let (sent, silent) = bench.next();
        assert_eq!((sent, silent), (vec![], vec![1, 2]));
        assert_eq!(
            bench
                .peers
                .rtt(&address(3))
                .map(|rtt| rtt.smoothed().as_millis()),
            Some(30)
        );
        assert_eq!(bench.peers.silent_in_a_row(&address(1)), 1);
        // Late answers count until the fan-out is forgotten.
        let (sent, silent) = bench.next();
        assert!(sent.is_empty() && silent.is_empty() && bench.fanouts.poll_timeout().is_none());
        assert_eq!(bench.answer(id, 1), None);
    }

    #[test]
    fn an_answer_after_a_neighbours_time_out_makes_the_neighbour_due_at_once() {
        let mut bench = Bench::new();
        bench
            .peers
            .answered(bench.now, address(1), Some(Duration::from_millis(10)));
        let (id, _) = bench.ask(
            &[1, 2],
            Policy {
                retries: 1,
                ..Policy::default()
            },
        );
        let (sent, silent) = bench.next();
        assert!(
            sent.is_empty() && silent.is_empty(),
            "nobody has answered yet"
        );
        assert!(bench.answer(id, 2).is_some());
        let (sent, silent) = bench.next();
        assert_eq!((sent[0].to.clone(), silent), (vec![address(1)], vec![]));
        assert_eq!(bench.next().1, [1]);
    }

    #[test]
    fn retries_double_the_time_out() {
        let mut bench = Bench::new();
        let start = bench.now;
        bench.ask(
            &[1],
            Policy {
                retries: 2,
                ..Policy::default()
            },
        );
        let mut times = Vec::new();
        for _ in 0..3 {
            bench.next();
            times.push((bench.now - start).as_secs());
        }
        assert_eq!(times, [1, 3, 7]);
    }

    #[test]
    fn a_stranger_is_tried_with_a_short_identifier_and_remembered() {
        let mut bench = Bench::new();
        let policy = Policy {
            short_transaction_octets: Some(4),
            ..Policy::default()
        };
        bench.ask(&[1], policy);
        let (sent, silent) = bench.next();
        assert_eq!(silent, [1], "nobody waits for it");
        let ids: Vec<_> = sent.iter().map(|sent| sent.datagram(0)).collect();
        assert_eq!(ids.iter().map(|id| id.len()).collect::<Vec<_>>(), [8, 4]);
        let short = TransactionId::try_from(&ids[1][..]).expect("an identifier");
        assert_eq!(bench.answer(short, 2), None, "the source counts as well");
        assert_eq!(bench.whose(short, 1), Some((1, true)));
        let (short, transmit) = bench.ask(&[1], policy);
        let to = |transmit: Option<Transmit>| transmit.map(|transmit| transmit.to);
        assert_eq!(
            (short.octets().len(), to(transmit)),
            (4, Some(vec![address(1)]))
        );
        // With others it is asked apart, since they get a long one.
        let (_, transmit) = bench.ask(&[1, 2], policy);
        assert_eq!(to(transmit), Some(vec![address(2)]));
        assert_eq!(to(bench.fanouts.poll_transmit()), Some(vec![address(1)]));
        let counters = bench.fanouts.counters();
        assert_eq!((counters.tried_short, counters.answered_short), (1, 1));
    }

    /// A packet may have been lost: who answers the long one in the end is asked with long ones.
    #[test]
    fn who_answers_both_identifiers_reads_both() {
        for short_first in [false, true] {
            let mut bench = Bench::new();
            let policy = Policy {
                short_transaction_octets: Some(4),
                retries: 1,
                ..Policy::default()
            };
            let (long, _) = bench.ask(&[1, 2], policy);
            let (sent, silent) = bench.next();
            assert!(silent.is_empty());
            let short = sent.last().map(|sent| sent.datagram(0)).expect("another");
            let short = TransactionId::try_from(&short[..]).expect("an identifier");
            let [first, second] = if short_first {
                [short, long]
            } else {
                [long, short]
            };
            assert!(bench.answer(first, 1).is_some_and(|answer| !answer.late));
            assert_eq!(bench.answer(second, 1), None);
            assert!(!bench.peers.reads_short_only(&address(1)));
        }
    }

    #[test]
    fn requests_beyond_the_budget_wait_and_then_are_refused() {
        let mut bench = Bench::new();
        let policy = Policy {
            max_wait: Duration::from_secs(1),
            ..Policy::default()
        };
        let sent: Vec<bool> = (0..24)
            .map(|_| bench.ask(&[1], policy).1.is_some())
            .collect();
        assert_eq!(sent.iter().filter(|sent| **sent).count(), 20);
        let counters = bench.fanouts.counters();
        assert_eq!((counters.paced, counters.over_budget), (2, 2));
        let refused = bench.fanouts.poll_silent().expect("one was refused");
        assert!(!refused.asked);
        let (sent, _) = bench.next();
        assert_eq!(sent[0].mode, Mode::Unicast);
    }
}
