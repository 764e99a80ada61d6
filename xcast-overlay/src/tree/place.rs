//! A member's place in the tree: its parent, how it finds one, and the pulses that come by it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    config::Config,
    message::{Beat, Found, MAX_NAMED, Message, Named, Pulse, Refusal, TreeKey},
    search::Search,
    siblings::{KEPT_BEATS, Siblings},
    status::Cause,
};
use crate::runtime::{Body, Fanouts, Peers, Random, Silent, TransactionId, Transmit};

/// How long whoever is in a hurry waits for better ones after the first good answer.
const HURRY: Duration = Duration::from_millis(150);
/// Longest pause between searches.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);
/// How often to ask one whose pulse is no newer.
const NOT_YET: u32 = 8;

#[derive(Clone, Debug)]
pub(super) struct Parent {
    pub address: SocketAddr,
    pub token: u64,
    pub grandparent: Option<Named>,
    siblings: Siblings,
    heard: Instant,
}

/// What came of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Joined,
    NoParent { retry: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Find,
    Attach,
}

#[derive(Clone, Copy, Debug)]
struct Attaching {
    to: SocketAddr,
    cookie: u64,
    /// How often the pulse was not new enough.
    not_yet: u32,
    /// When to ask again.
    again: Option<Instant>,
}

#[derive(Clone, Debug)]
pub(super) struct Place {
    tree: TreeKey,
    config: Arc<Config>,
    /// What the parent knows this child by.
    pub token: u64,
    /// The latest of the source's.
    pub pulse: Pulse,
    pulse_at: Instant,
    pub depth: u8,
    pub parent: Option<Parent>,
    /// The one before.
    pub former: Option<Parent>,
    /// This member's own address, as others see it.
    pub own: Option<SocketAddr>,
    search: Option<Search>,
    decide_at: Option<Instant>,
    attaching: Option<Attaching>,
    retry_at: Option<Instant>,
    failures: u32,
    fanouts: Fanouts<Asked>,
    peers: Peers,
}

impl Place {
    pub fn new(now: Instant, config: Arc<Config>, tree: TreeKey, random: &mut Random) -> Self {
        let is_source = config.signing_key.is_some();
        let first = config.first_seq;
        let pulse = config.signing_key.as_ref();
        let pulse = pulse.map(|key| tree.sign_pulse(key, first, first));
        Self {
            tree,
            token: u64::from_be_bytes(random.octets()),
            pulse: pulse.unwrap_or(Pulse::unsigned(0)),
            pulse_at: now,
            depth: 0,
            parent: None,
            former: None,
            own: None,
            search: None,
            decide_at: None,
            attaching: None,
            // A member that was started with others does not act with them.
            retry_at: (!is_source).then_some(now),
            failures: 0,
            fanouts: Fanouts::new(),
            peers: Peers::new(256, config.pace),
            config,
        }
    }

    pub fn is_source(&self) -> bool {
        self.config.signing_key.is_some()
    }

    /// Whether pulses of the source come.
    pub fn is_connected(&self, now: Instant) -> bool {
        self.is_source()
            || (self.parent.is_some() && now < self.pulse_at + self.config.orphan_after)
    }

    /// The source's next pulse, where messages up to below `head` exist.
    pub fn next_pulse(&mut self, now: Instant, head: u64) {
        if let Some(key) = &self.config.signing_key {
            self.pulse = self.tree.sign_pulse(key, self.pulse.number + 1, head);
            self.pulse_at = now;
        }
    }

    /// Who may have what is missing, with a token that he knows: the parent first.
    pub fn targets(&self) -> Vec<Named> {
        let known = self.parent.as_ref().or(self.former.as_ref());
        let Some(known) = known else {
            return Vec::new();
        };
        let parent = self
            .parent
            .as_ref()
            .map(|parent| (parent.address, parent.token));
        let siblings = known.siblings.others(self.own);
        let mut targets: Vec<Named> = parent.into_iter().chain(parent).collect();
        targets.extend(known.grandparent);
        targets.extend(siblings.map(|sibling| (sibling, known.token)));
        targets
    }

    /// Whether somebody who knows this token is of the family of this member's parent.
    pub fn is_sibling(&self, token: u64) -> bool {
        let mut families = self.parent.iter().chain(&self.former);
        families.any(|parent| parent.token == token)
    }

    /// Why the parent should be left, if so.
    pub fn trouble(&self, now: Instant) -> Option<Cause> {
        let parent = self.parent.as_ref()?;
        if now >= parent.heard + self.config.silence {
            return Some(Cause::ParentSilent);
        }
        (now >= self.pulse_at + self.config.orphan_after).then_some(Cause::NoPulse)
    }

    /// Leaves the parent, and looks for another. `children` are those below, if any.
    pub fn seek(&mut self, now: Instant, children: &[SocketAddr], random: &mut Random) {
        let gone = self.parent.take();
        let mut first = Vec::new();
        if let Some(parent) = &gone {
            first.extend(parent.grandparent.map(|(address, _)| address));
            let mut siblings: Vec<SocketAddr> = parent.siblings.others(self.own).collect();
            random.choose(&mut siblings, MAX_NAMED);
            siblings.truncate(MAX_NAMED);
            first.extend(siblings);
        }
        let mut bootstrap = self.config.bootstrap.clone();
        let count = bootstrap.len();
        random.choose(&mut bootstrap, count);
        first.extend(bootstrap);
        let gone_address = gone.as_ref().map(|parent| parent.address);
        let useless = |address: &SocketAddr| {
            Some(*address) == self.own
                || Some(*address) == gone_address
                || children.contains(address)
        };
        first.retain(|address| !useless(address));
        if first.is_empty() {
            first.extend(gone_address);
        }
        self.former = gone.or(self.former.take());
        (self.attaching, self.retry_at, self.decide_at) = (None, None, None);
        self.search = Some(Search::new(
            self.config.parents,
            first,
            !children.is_empty(),
        ));
        self.ask_on(now, random);
    }

    /// Takes a place that somebody else has found.
    pub fn seat(
        &mut self,
        now: Instant,
        own: SocketAddr,
        pulse: u64,
        depth: u8,
        parent: Option<Named>,
    ) {
        if !self.is_source() {
            self.pulse = Pulse::unsigned(pulse);
        }
        (self.own, self.pulse_at, self.depth) = (Some(own), now, depth);
        self.parent = parent.map(|(address, token)| Parent {
            address,
            token,
            grandparent: None,
            siblings: Siblings::default(),
            heard: now,
        });
        (self.search, self.attaching, self.retry_at, self.decide_at) = (None, None, None, None);
    }

    /// Stops all.
    pub fn stop(&mut self) {
        self.former = self.parent.take();
        (self.search, self.attaching, self.retry_at, self.decide_at) = (None, None, None, None);
        self.fanouts = Fanouts::new();
    }

    /// Asks who is to be asked next, or decides.
    fn ask_on(&mut self, now: Instant, random: &mut Random) -> Option<Change> {
        let round = self.search.as_mut()?.round();
        if round.is_empty() {
            return self.decide(now, random);
        }
        let to = round
            .into_iter()
            .map(|address| (address, Asked::Find))
            .collect();
        self.ask(now, to, random, |transaction| Message::Find { transaction });
        None
    }

    /// Attaches to the best that was found.
    fn decide(&mut self, now: Instant, random: &mut Random) -> Option<Change> {
        self.decide_at = None;
        if self.attaching.is_some() {
            return None;
        }
        let search = self.search.as_ref()?;
        // Whose pulse is not newer may be below this member, or just be a moment behind.
        let best = search
            .best(self.pulse.number.saturating_add(1))
            .or(search.best(0))
            .cloned();
        let Some(best) = best else {
            self.search = None;
            self.failures += 1;
            let pause = self.config.beat / 2 * (1 << self.failures.min(6));
            let pause = random.jitter(pause.min(LONGEST_PAUSE), 0.3);
            self.retry_at = Some(now + pause);
            return Some(Change::NoParent { retry: pause });
        };
        self.attaching = Some(Attaching {
            to: best.address,
            cookie: best.found.cookie,
            not_yet: 0,
            again: None,
        });
        self.attach(now, random);
        None
    }

    fn attach(&mut self, now: Instant, random: &mut Random) {
        let Some(attaching) = &mut self.attaching else {
            return;
        };
        attaching.again = None;
        let (to, cookie) = (attaching.to, attaching.cookie);
        let (token, pulse) = (self.token, self.pulse.number);
        self.ask(now, vec![(to, Asked::Attach)], random, |transaction| {
            Message::Attach {
                transaction,
                cookie,
                token,
                pulse,
            }
        });
    }

    fn ask(
        &mut self,
        now: Instant,
        to: Vec<(SocketAddr, Asked)>,
        random: &mut Random,
        message: impl Fn([u8; 8]) -> Message,
    ) {
        let mut policy = self.config.policy.of_eight_octets();
        policy.retries = policy.retries.max(1);
        let tag = self.tree.tag;
        let body = |id: &TransactionId| Body::shared(message(id.first_eight()).encode(tag));
        self.fanouts
            .start(now, &mut self.peers, random, policy, to, body);
    }

    /// Somebody has said who he is.
    pub fn found(
        &mut self,
        now: Instant,
        from: SocketAddr,
        transaction: [u8; 8],
        found: Found,
        random: &mut Random,
    ) -> Option<Change> {
        let answer = self
            .fanouts
            .answer(now, &mut self.peers, &transaction, from)?;
        if answer.tag != Asked::Find {
            return None;
        }
        self.own = Some(found.seen);
        let rtt = self.peers.rtt(&from).map(|rtt| rtt.smoothed());
        let search = self.search.as_mut()?;
        search.found(from, found, rtt);
        if self.former.is_some() && search.best(self.pulse.number.saturating_add(1)).is_some() {
            self.decide_at.get_or_insert(now + HURRY);
        }
        if self.attaching.is_none() && self.fanouts.is_idle() {
            return self.ask_on(now, random);
        }
        None
    }

    /// Somebody has taken this member as a child.
    pub fn attached(
        &mut self,
        now: Instant,
        from: SocketAddr,
        transaction: [u8; 8],
        beat: Beat,
        random: &mut Random,
    ) -> Option<Change> {
        let answer = self
            .fanouts
            .answer(now, &mut self.peers, &transaction, from)?;
        let attaching = self.attaching.filter(|attaching| attaching.to == from);
        if answer.tag != Asked::Attach || attaching.is_none() {
            return None;
        }
        if !self.is_new(&beat.pulse) {
            // Worth as much as a refusal: it might be an ancestor's, or nobody's.
            return self.give_up(now, from, random);
        }
        let mut siblings = Siblings::default();
        siblings.name(now, beat.siblings, self.config.beat * KEPT_BEATS);
        self.pulse = beat.pulse;
        self.pulse_at = now;
        self.depth = beat.depth.saturating_add(1);
        self.parent = Some(Parent {
            address: from,
            token: beat.token,
            grandparent: beat.grandparent,
            siblings,
            heard: now,
        });
        (self.search, self.attaching, self.decide_at) = (None, None, None);
        self.failures = 0;
        Some(Change::Joined)
    }

    /// Somebody does not want this member as a child.
    pub fn refused(
        &mut self,
        now: Instant,
        from: SocketAddr,
        transaction: [u8; 8],
        why: Refusal,
        random: &mut Random,
    ) -> Option<Change> {
        let answer = self
            .fanouts
            .answer(now, &mut self.peers, &transaction, from)?;
        let attaching = self
            .attaching
            .as_mut()
            .filter(|attaching| attaching.to == from)?;
        if answer.tag != Asked::Attach {
            return None;
        }
        if why == Refusal::NotYet && attaching.not_yet < NOT_YET {
            attaching.not_yet += 1;
            attaching.again = Some(now + random.jitter(self.config.beat / 4, 0.3));
            return None;
        }
        self.give_up(now, from, random)
    }

    /// Not him: somebody else.
    fn give_up(&mut self, now: Instant, who: SocketAddr, random: &mut Random) -> Option<Change> {
        self.attaching = None;
        if let Some(search) = &mut self.search {
            search.remove(who);
            if search.best(0).is_none() {
                return self.ask_on(now, random);
            }
        }
        self.decide(now, random)
    }

    /// Whether a pulse is newer than the latest, and the source's.
    fn is_new(&self, pulse: &Pulse) -> bool {
        pulse.number > self.pulse.number && self.tree.is_pulse_signed(pulse)
    }

    /// The parent's pulse: whether it is a new one. `None` if it is not the parent's.
    pub fn beat(&mut self, now: Instant, from: SocketAddr, beat: Beat) -> Option<bool> {
        let parent = self.parent.as_mut()?;
        if parent.address != from || parent.token != beat.token {
            return None;
        }
        parent.heard = now;
        parent.grandparent = beat.grandparent;
        let kept = self.config.beat * KEPT_BEATS;
        parent.siblings.name(now, beat.siblings, kept);
        if !self.is_new(&beat.pulse) {
            return Some(false);
        }
        self.pulse = beat.pulse;
        self.pulse_at = now;
        self.depth = beat.depth.saturating_add(1);
        Some(true)
    }

    /// A sign of life of the parent.
    pub fn heard(&mut self, now: Instant, from: SocketAddr) {
        if let Some(parent) = self.parent.as_mut().filter(|parent| parent.address == from) {
            parent.heard = now;
        }
    }

    pub fn handle_timeout(
        &mut self,
        now: Instant,
        children: &[SocketAddr],
        random: &mut Random,
    ) -> Option<Change> {
        self.fanouts.handle_timeout(now, &mut self.peers);
        let mut change = None;
        while let Some(Silent { peer, tag, .. }) = self.fanouts.poll_silent() {
            let was_attaching = self.attaching.is_some_and(|attaching| attaching.to == peer);
            if tag == Asked::Attach && was_attaching {
                change = self.give_up(now, peer, random).or(change);
            }
        }
        if self.attaching.is_none() && self.search.is_some() && self.fanouts.is_idle() {
            change = self.ask_on(now, random).or(change);
        }
        if self.decide_at.is_some_and(|at| at <= now) {
            change = self.decide(now, random).or(change);
        }
        if self
            .attaching
            .and_then(|attaching| attaching.again)
            .is_some_and(|at| at <= now)
        {
            self.attach(now, random);
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.seek(now, children, random);
        }
        change
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let parent = self.parent.as_ref();
        let silent = parent.map(|parent| parent.heard + self.config.silence);
        let adrift = parent.map(|_| self.pulse_at + self.config.orphan_after);
        let again = self.attaching.and_then(|attaching| attaching.again);
        let fanouts = self.fanouts.poll_timeout();
        [
            silent,
            adrift,
            again,
            fanouts,
            self.decide_at,
            self.retry_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.fanouts.poll_transmit()
    }

    /// What proves that somebody gets what is sent to his address.
    pub fn cookie(&self, address: SocketAddr, secret: &[u8; 16]) -> u64 {
        let text = address.to_string();
        let hash = crate::id::Id::hash_of(&[b"xcast tree cookie", secret, text.as_bytes()]);
        let mut octets = [0; 8];
        octets.copy_from_slice(&hash.octets()[..8]);
        u64::from_be_bytes(octets)
    }

    /// Writes a message for this tree.
    pub fn encode(&self, message: &Message) -> Bytes {
        message.encode(self.tree.tag)
    }
}
