//! Operations of a node: look-ups, and storing at what they find.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    event::Event,
    lookup::{Lookup, Token},
    node::Node,
    operation::{Goal, Operation, OperationId, Origin, Run, Stage},
    request::{Answered, Purpose, Tag},
    scope::is_unicast,
    tokens::{MAX_TOKENS, TOKEN_OCTETS},
};
use crate::{
    id::Id,
    krpc::{Contact, Family, Item, MAX_ITEM_DATAGRAM_OCTETS, Query, QueryError, Want},
    runtime::Policy,
};

/// How often a node is asked again that does not answer a request to store.
pub(super) const STORE_RETRIES: u32 = 2;
/// So many times k nodes of the table a look-up begins with.
const SEEDS: usize = 4;
/// Room for everything in a `put` but value, salt and tokens, in octets.
const PUT_OCTETS: usize = 300;
/// A node that left more requests in a row unanswered is not asked again in the same look-up.
const MAX_SILENT_IN_A_ROW: u32 = 1;

/// A node that is to store, and its token.
pub(super) type Receiver = (Contact, Token);

/// A request to store, its receivers, and the token of each if it is not in the request.
pub(super) type StoreRequest = (Query, Vec<(SocketAddr, Option<Id>)>, Vec<Bytes>);

impl Node {
    /// Pings a node: the report has its identifier, if it answers.
    pub fn ping(&mut self, now: Instant, address: SocketAddr) -> OperationId {
        self.ping_all(now, &[address])
    }

    /// Pings nodes, those of a family by one message: the report has the identifiers of those that
    /// answer. Addresses of a family that this node does not use are left out.
    pub fn ping_all(&mut self, now: Instant, addresses: &[SocketAddr]) -> OperationId {
        let id = self.insert(now, Origin::Owner, Goal::Ping, Id::default());
        let policy = Policy {
            retries: 2,
            ..self.config.policy
        };
        for family in self.config.families.clone() {
            let of_family = addresses.iter().filter(|to| Family::of(to) == family);
            let to: BTreeSet<SocketAddr> = of_family.copied().collect();
            let to: Vec<_> = to.into_iter().map(|address| (address, None)).collect();
            if to.is_empty() {
                continue;
            }
            let mut lookup = Lookup::new(Id::default(), to.len(), to.len(), []);
            lookup.begin_with(to.iter().map(|(address, _)| *address));
            if let Some(operation) = self.operations.get_mut(&id) {
                operation.runs.insert(family, Run::new(lookup));
            }
            self.ask(now, policy, Purpose::Search(id), Query::Ping, &to, &[]);
        }
        self.advance(now, id);
        self.settle(now);
        id
    }

    /// Finds the closest nodes to `target`.
    pub fn find_node(&mut self, now: Instant, target: Id) -> OperationId {
        self.begin(now, Origin::Owner, Goal::FindNode, target)
    }

    /// Finds who has announced itself under `info_hash`.
    pub fn find_peers(&mut self, now: Instant, info_hash: Id) -> OperationId {
        self.begin(now, Origin::Owner, Goal::GetPeers, info_hash)
    }

    /// Announces this node under `info_hash`, at the port that messages leave from, or another.
    pub fn announce(&mut self, now: Instant, info_hash: Id, port: Option<u16>) -> OperationId {
        self.begin(now, Origin::Owner, Goal::Announce { port }, info_hash)
    }

    /// Finds an item. A mutable one needs the salt, which is not sent.
    pub fn find_item(&mut self, now: Instant, target: Id, salt: impl Into<Bytes>) -> OperationId {
        self.begin(now, Origin::Owner, Goal::Get { salt: salt.into() }, target)
    }

    /// Stores an item; with `cas`, only over one with this sequence number.
    ///
    /// # Errors
    ///
    /// If no node would store it: see [`Item::check`].
    pub fn put(
        &mut self,
        now: Instant,
        item: Item,
        cas: Option<i64>,
    ) -> Result<OperationId, QueryError> {
        item.check()?;
        let target = item.target();
        Ok(self.begin(now, Origin::Owner, Goal::Put { item, cas }, target))
    }

    pub(super) fn begin(
        &mut self,
        now: Instant,
        origin: Origin,
        goal: Goal,
        target: Id,
    ) -> OperationId {
        let id = self.insert(now, origin, goal, target);
        for family in self.config.families.clone() {
            self.begin_in(now, id, family);
        }
        self.find_here(now, id);
        self.advance(now, id);
        self.settle(now);
        id
    }

    /// Begins a look-up in one family only.
    pub(super) fn begin_refresh(&mut self, now: Instant, family: Family, target: Id) {
        let id = self.insert(now, Origin::Refresh, Goal::FindNode, target);
        self.begin_in(now, id, family);
        self.advance(now, id);
    }

    fn insert(&mut self, now: Instant, origin: Origin, goal: Goal, target: Id) -> OperationId {
        let id = self.new_operation();
        let operation = Operation {
            origin,
            goal,
            target,
            started: now,
            runs: Default::default(),
            peers: Default::default(),
            item: None,
        };
        self.operations.insert(id, operation);
        id
    }

    pub(super) fn new_operation(&mut self) -> OperationId {
        let id = OperationId(self.next_operation);
        self.next_operation += 1;
        id
    }

    fn begin_in(&mut self, now: Instant, id: OperationId, family: Family) {
        let (Some(operation), Some(table)) =
            (self.operations.get_mut(&id), self.tables.get(&family))
        else {
            return;
        };
        let (target, origin) = (operation.target, operation.origin);
        let k = self.config.table.k;
        // More than are asked as long as all answer: where many are gone, nodes close to the target
        // name each other, and nobody else.
        let seeds = table.closest(now, target, SEEDS * k);
        let mut lookup = Lookup::new(target, k, self.config.alpha, seeds.iter().copied())
            .with_choice(self.config.choice.clone());
        // Who knows nobody, or wants to be known, asks the bootstrap nodes.
        let bootstrap: Vec<(SocketAddr, Option<Id>)> = if seeds.is_empty() || origin == Origin::Join
        {
            self.config
                .bootstrap
                .iter()
                .filter(|node| Family::of(node) == family)
                .map(|address| (*address, None))
                .collect()
        } else {
            Vec::new()
        };
        if !bootstrap.is_empty() {
            lookup.begin_with(bootstrap.iter().map(|(address, _)| *address));
        }
        operation.runs.insert(family, Run::new(lookup));
        // There may be nobody else, so they are asked twice.
        let policy = Policy {
            retries: self.config.policy.retries.max(1),
            ..self.config.policy
        };
        if let Some(query) = self.query(id, family) {
            self.ask(now, policy, Purpose::Search(id), query, &bootstrap, &[]);
        }
    }

    /// Looks for peers and items in what this node stores itself.
    fn find_here(&mut self, now: Instant, id: OperationId) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        match operation.goal {
            Goal::Get { .. } | Goal::Put { .. } => {
                let item = self.server.storage.item(now, operation.target).cloned();
                if let Some(item) = item {
                    self.found_item(id, item);
                }
            }
            Goal::GetPeers => {
                let target = operation.target;
                for family in self.config.families.clone() {
                    let storage = &self.server.storage;
                    let peers = storage.peers(now, target, family, usize::MAX, &mut self.random);
                    self.found_peers(id, peers);
                }
            }
            _ => {}
        }
    }

    /// The query of an operation's rounds.
    fn query(&self, id: OperationId, family: Family) -> Option<Query> {
        let operation = self.operations.get(&id)?;
        let target = operation.target;
        // BEP 32: nodes of the other family are asked for while that family's table is poor.
        let other_is_poor = self
            .tables
            .iter()
            .any(|(other, table)| *other != family && table.len() < self.config.table.k);
        let want = other_is_poor.then_some(Want::BOTH);
        Some(match &operation.goal {
            Goal::Ping => Query::Ping,
            Goal::FindNode => Query::FindNode { target, want },
            Goal::GetPeers | Goal::Announce { .. } => Query::GetPeers {
                info_hash: target,
                want,
            },
            Goal::Get { .. } | Goal::Put { .. } => Query::Get {
                target,
                seq: None,
                want,
            },
        })
    }

    /// Begins what comes next in an operation: a round, storing, or the end.
    pub(super) fn advance(&mut self, now: Instant, id: OperationId) {
        let Some(operation) = self.operations.get(&id) else {
            return;
        };
        let families: Vec<Family> = operation.runs.keys().copied().collect();
        for family in families {
            self.advance_in(now, id, family);
        }
        if self.operations.get(&id).is_some_and(Operation::is_done)
            && let Some(operation) = self.operations.remove(&id)
        {
            self.ended(now, id, operation);
        }
    }

    fn advance_in(&mut self, now: Instant, id: OperationId, family: Family) {
        let Some(run) = self
            .operations
            .get_mut(&id)
            .and_then(|operation| operation.runs.get_mut(&family))
        else {
            return;
        };
        if run.stage != Stage::Search {
            return;
        }
        let round: Vec<(SocketAddr, Option<Id>)> = run
            .lookup
            .next_round()
            .into_iter()
            .map(|contact| (contact.address, Some(contact.id)))
            .collect();
        if !round.is_empty() {
            if let Some(query) = self.query(id, family) {
                self.ask(
                    now,
                    self.config.policy,
                    Purpose::Search(id),
                    query,
                    &round,
                    &[],
                );
            }
        } else if run.lookup.is_finished() {
            run.stage = Stage::Done;
            self.store(now, id, family);
        }
    }

    /// Asks the closest nodes to store, each with its own token.
    fn store(&mut self, now: Instant, id: OperationId, family: Family) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        let Some(run) = operation.runs.get_mut(&family) else {
            return;
        };
        let found = run.lookup.closest();
        // Only who gave a token can be asked.
        let receivers: Vec<Receiver> = found
            .iter()
            .filter_map(|f| Some((f.contact, f.token.clone()?)))
            .collect();
        let mut requests = Vec::new();
        match &operation.goal {
            Goal::Announce { port } => {
                let (info_hash, port) = (operation.target, *port);
                requests.extend(store_requests(MAX_TOKENS, receivers.iter(), |token| {
                    Query::AnnouncePeer {
                        info_hash,
                        port,
                        token,
                    }
                }));
            }
            Goal::Put { item, cas } => {
                // BEP 44: only who has an item is sent `cas`.
                let holds = |(contact, _): &&Receiver| run.holders.contains(&contact.address);
                let put = |cas| {
                    move |token| Query::Put {
                        item: item.clone(),
                        cas,
                        token,
                    }
                };
                let most = tokens_beside(item);
                let (holders, others): (Vec<_>, Vec<_>) = receivers.iter().partition(holds);
                requests.extend(store_requests(most, holders.into_iter(), put(*cas)));
                requests.extend(store_requests(most, others.into_iter(), put(None)));
                // This node is one of the closest: it stores as well.
                let own = self.id.distance(operation.target);
                let farthest = found
                    .last()
                    .map(|f| f.contact.id.distance(operation.target));
                let among = found.len() < self.config.table.k || farthest > Some(own);
                if among && !self.config.read_only {
                    let _ = self.server.storage.put(now, item.clone(), *cas);
                }
            }
            _ => return,
        }
        if !receivers.is_empty() {
            run.stage = Stage::Store {
                waiting: receivers.len(),
            };
        }
        let policy = Policy {
            retries: STORE_RETRIES,
            max_wait: Duration::from_secs(10),
            ..self.config.policy
        };
        for (query, to, tokens) in requests {
            self.ask(now, policy, Purpose::Store(id), query, &to, &tokens);
        }
    }

    /// A node has answered a request.
    pub(super) fn search_answered(&mut self, now: Instant, answered: Answered) {
        let Answered {
            contact,
            tag,
            late,
            in_list,
            response,
            nodes,
        } = answered;
        let family = Family::of(&contact.address);
        // Nodes of the other family, and those that come too late for a look-up, are worth a ping
        // where the table is poor.
        for node in &nodes {
            let of = Family::of(&node.address);
            let poor = self
                .tables
                .get(&of)
                .is_some_and(|t| t.len() < self.config.table.k);
            let known = self
                .tables
                .get(&of)
                .is_some_and(|table| table.contains(node));
            if of != family && poor && !known {
                self.upkeep.check(now, node.address, node.id);
            }
        }
        let (Purpose::Search(id) | Purpose::Store(id)) = tag.purpose else {
            return;
        };
        let Some(run) = self
            .operations
            .get_mut(&id)
            .and_then(|o| o.runs.get_mut(&family))
        else {
            return;
        };
        if let Purpose::Store(_) = tag.purpose {
            run.stored += 1;
            if !late {
                run.stored_or_not();
            }
            return self.advance(now, id);
        }
        run.answered += 1;
        if late {
            run.silent = run.silent.saturating_sub(1);
        }
        if response.seq.is_some() {
            run.holders.insert(contact.address);
        }
        let nodes = nodes
            .into_iter()
            .filter(|node| Family::of(&node.address) == family);
        let token = response.token.map(|octets| Token { octets, in_list });
        if contact.id == self.id {
            // Somebody named this node under another identifier.
            run.lookup.silent(&contact.address, tag.expected, false);
        } else {
            run.lookup.answered(contact, tag.expected, token, nodes);
        }
        let peers = response.values.into_iter();
        let peers = peers
            .filter(|peer| Family::of(peer) == family && is_unicast(peer))
            .collect();
        self.found_peers(id, peers);
        if let Some(item) = response.item {
            self.found_item(id, item);
        }
        self.advance(now, id);
    }

    /// A node has answered a request with an error.
    pub(super) fn search_refused(
        &mut self,
        now: Instant,
        from: SocketAddr,
        tag: Tag,
        late: bool,
        error: QueryError,
    ) {
        let (Purpose::Search(id) | Purpose::Store(id)) = tag.purpose else {
            return;
        };
        let family = Family::of(&from);
        let Some(run) = self
            .operations
            .get_mut(&id)
            .and_then(|o| o.runs.get_mut(&family))
        else {
            return;
        };
        run.refused.push((from, error));
        match tag.purpose {
            Purpose::Store(_) if !late => run.stored_or_not(),
            Purpose::Search(_) => run.lookup.silent(&from, tag.expected, false),
            _ => {}
        }
        self.advance(now, id);
    }

    /// A node was given up.
    pub(super) fn search_silent(&mut self, now: Instant, peer: SocketAddr, tag: Tag) {
        let (Purpose::Search(id) | Purpose::Store(id)) = tag.purpose else {
            return;
        };
        let family = Family::of(&peer);
        let Some(run) = self
            .operations
            .get_mut(&id)
            .and_then(|o| o.runs.get_mut(&family))
        else {
            return;
        };
        run.silent += 1;
        let hope = self.peers.silent_in_a_row(&peer) <= MAX_SILENT_IN_A_ROW;
        match tag.purpose {
            Purpose::Store(_) => run.stored_or_not(),
            _ => run.lookup.silent(&peer, tag.expected, hope),
        }
        self.advance(now, id);
    }

    fn found_peers(&mut self, id: OperationId, peers: Vec<SocketAddr>) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        let new = peers
            .into_iter()
            .filter(|peer| operation.peers.insert(*peer));
        let peers: Vec<SocketAddr> = new.collect();
        if !peers.is_empty() && operation.origin == Origin::Owner {
            self.events.push_back(Event::Peers {
                operation: id,
                peers,
            });
        }
    }

    fn found_item(&mut self, id: OperationId, item: Item) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        if operation.found(item)
            && operation.origin == Origin::Owner
            && matches!(operation.goal, Goal::Get { .. })
            && let Some(item) = operation.item.clone()
        {
            self.events.push_back(Event::Found {
                operation: id,
                item,
            });
        }
    }

    fn ended(&mut self, now: Instant, id: OperationId, operation: Operation) {
        match operation.origin {
            Origin::Owner => {
                let report = Box::new(operation.report(now));
                self.events.push_back(Event::Finished {
                    operation: id,
                    report,
                });
            }
            Origin::Join => self.joined(now),
            Origin::Refresh => self.refresh_next(now),
            Origin::Republish => {}
        }
    }
}

/// How many tokens fit into a datagram beside an item.
fn tokens_beside(item: &Item) -> usize {
    let salt = item.signed.as_ref().map_or(0, |signed| signed.salt.len());
    let used = PUT_OCTETS + item.value.len() + salt;
    let left = MAX_ITEM_DATAGRAM_OCTETS.saturating_sub(used);
    (left / TOKEN_OCTETS).clamp(1, MAX_TOKENS)
}

/// Requests to store, with up to `most` tokens in a list: to nodes that find their token in a list one request, the same for all; to
/// strangers another, with a part of its own for each.
pub(super) fn store_requests<'a>(
    most: usize,
    receivers: impl Iterator<Item = &'a Receiver>,
    query: impl Fn(Bytes) -> Query,
) -> Vec<StoreRequest> {
    let (listed, strangers): (Vec<&Receiver>, Vec<&Receiver>) =
        receivers.partition(|(_, token)| token.in_list && token.octets.len() == TOKEN_OCTETS);
    let to = |receivers: &[&Receiver]| {
        let address = |(contact, _): &&Receiver| (contact.address, Some(contact.id));
        receivers.iter().map(address).collect::<Vec<_>>()
    };
    let tokens = |receivers: &[&Receiver]| {
        let token = |(_, token): &&Receiver| token.octets.clone();
        receivers.iter().map(token).collect::<Vec<_>>()
    };
    let mut requests = Vec::new();
    for listed in listed.chunks(most) {
        requests.push((
            query(tokens(listed).concat().into()),
            to(listed),
            Vec::new(),
        ));
    }
    if !strangers.is_empty() {
        requests.push((query(Bytes::new()), to(&strangers), tokens(&strangers)));
    }
    requests
}
