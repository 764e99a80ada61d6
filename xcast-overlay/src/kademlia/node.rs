//! A node of the DHT: what it does with datagrams and time.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tracing::{debug, trace};

use super::{
    bep42,
    config::Config,
    event::Event,
    external::ExternalAddress,
    many::Many,
    operation::{Operation, OperationId},
    request::{Answered, Purpose, Tag},
    scope::is_credible,
    server::Server,
    status::{FamilyStatus, Method, MethodCounters, ServedCounters, Status, WhyEmpty},
    table::{Refusal, Table},
    upkeep::Upkeep,
};
use crate::{
    id::Id,
    krpc::{Contact, DecodeError, ErrorCode, Family, Kind, Message, Query, QueryError, Response},
    runtime::{Body, Choice, Fanouts, Mode, Peers, Policy, Protocol, Random, Transmit},
};

/// Longest transaction identifier that is answered, in octets: it is sent back.
const MAX_TRANSACTION_OCTETS: usize = 32;
/// Version of the extensions of this project.
const EXTENSION_VERSION: i64 = 1;

/// A node of the DHT.
///
/// See the [module](super) for its use.
#[derive(Clone, Debug)]
pub struct Node {
    pub(super) config: Config,
    pub(super) id: Id,
    pub(super) random: Random,
    pub(super) tables: BTreeMap<Family, Table>,
    pub(super) operations: BTreeMap<OperationId, Operation>,
    pub(super) many: BTreeMap<OperationId, Many>,
    pub(super) next_operation: u64,
    pub(super) server: Server,
    pub(super) upkeep: Upkeep,
    pub(super) events: VecDeque<Event>,
    pub(super) leaving: bool,
    /// Whether [`Event::Joined`] is to come.
    pub(super) joining: bool,
    pub(super) peers: Peers,
    fanouts: Fanouts<Tag>,
    replies: VecDeque<Transmit>,
    external: BTreeMap<Family, ExternalAddress>,
    requests: BTreeMap<(Family, Method), MethodCounters>,
    served: ServedCounters,
    served_methods: BTreeMap<(Family, Method), u64>,
}

impl Node {
    /// A node that knows nobody yet. All its random numbers come from `random`.
    pub fn new(now: Instant, config: Config, mut random: Random) -> Self {
        let id = config.id.unwrap_or_else(|| Id::random(&mut random));
        let table = |family: &Family| (*family, Table::new(id, config.table));
        Self {
            id,
            tables: config.families.iter().map(table).collect(),
            operations: BTreeMap::new(),
            many: BTreeMap::new(),
            next_operation: 0,
            server: Server::new(now, id, &config, &mut random),
            upkeep: Upkeep::new(now, config.tick, &mut random),
            events: VecDeque::new(),
            leaving: false,
            joining: false,
            peers: Peers::new(config.max_peers, config.pace),
            fanouts: Fanouts::new(),
            replies: VecDeque::new(),
            external: BTreeMap::new(),
            requests: BTreeMap::new(),
            served: ServedCounters::default(),
            served_methods: BTreeMap::new(),
            random,
            config,
        }
    }

    /// Its identifier.
    pub fn id(&self) -> Id {
        self.id
    }

    /// From now on look-ups ask so many nodes in a round, chosen by this rule if there is one.
    pub fn set_rounds(&mut self, alpha: usize, choice: Option<Choice>) {
        self.config.alpha = alpha;
        self.config.choice = choice;
    }

    /// From now on the node asks and is not asked (BEP 43), or is asked again.
    pub fn set_read_only(&mut self, read_only: bool) {
        self.config.read_only = read_only;
    }

    /// The routing table of a family.
    pub fn table(&self, family: Family) -> Option<&Table> {
        self.tables.get(&family)
    }

    /// The routing tables.
    pub fn tables(&self) -> &BTreeMap<Family, Table> {
        &self.tables
    }

    /// Takes back tables that [`tables`](Self::tables) gave: to compare operations that begin with the
    /// same. Those of another identifier are left out.
    pub fn set_tables(&mut self, tables: &BTreeMap<Family, Table>) {
        for (family, table) in tables {
            if table.own() == self.id
                && let Some(own) = self.tables.get_mut(family)
            {
                own.clone_from(table);
            }
        }
    }

    /// What is known of peers: round-trip times, silence.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Whether no request waits for an answer.
    pub fn is_idle(&self) -> bool {
        self.fanouts.is_idle() && self.operations.is_empty() && self.many.is_empty()
    }

    /// Its state at this moment.
    pub fn status(&self, now: Instant) -> Status {
        let family = |(family, table): (&Family, &Table)| {
            let served = self
                .served_methods
                .iter()
                .filter(|((of, _), _)| of == family);
            let served = served
                .map(|((_, method), count)| (*method, *count))
                .collect();
            let requests: BTreeMap<Method, MethodCounters> = self
                .requests
                .iter()
                .filter(|((of, _), _)| of == family)
                .map(|((_, method), counters)| (*method, *counters))
                .collect();
            let bootstrap = self.bootstrap(*family).count();
            let why_empty = table
                .is_empty()
                .then(|| WhyEmpty::find(bootstrap, &requests, table.refusals()));
            FamilyStatus {
                family: *family,
                nodes: table.len(),
                buckets: table.buckets(now),
                refusals: table.refusals().clone(),
                requests,
                served,
                why_empty,
            }
        };
        Status {
            id: self.id,
            external: self
                .external
                .values()
                .filter_map(ExternalAddress::address)
                .collect(),
            read_only: self.config.read_only,
            families: self.tables.iter().map(family).collect(),
            fanouts: self.fanouts.counters(),
            served: self.served,
            stored: self.server.storage.counts(),
            operations: self.operations.len() + self.many.len(),
        }
    }

    /// The bootstrap nodes of a family.
    pub(super) fn bootstrap(&self, family: Family) -> impl Iterator<Item = SocketAddr> + '_ {
        self.config
            .bootstrap
            .iter()
            .copied()
            .filter(move |node| Family::of(node) == family)
    }

    fn extension(&self) -> Option<i64> {
        self.config.extensions.then_some(EXTENSION_VERSION)
    }

    /// Whether a node that says this and this one understand each other's extensions. What another version
    /// means is not known, so who has it is a stranger.
    fn understands(&self, extension: Option<i64>) -> bool {
        extension.is_some() && extension == self.extension()
    }

    /// Asks nodes of one family, all by one message.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        policy: Policy,
        purpose: Purpose,
        query: Query,
        receivers: &[(SocketAddr, Option<Id>)],
        tokens: &[Bytes],
    ) {
        let Some((first, _)) = receivers.first() else {
            return;
        };
        let method = Method::of(&query);
        self.requests
            .entry((Family::of(first), method))
            .or_default()
            .asked += receivers.len() as u64;
        let receivers = receivers
            .iter()
            .map(|(address, expected)| {
                (
                    *address,
                    Tag {
                        purpose,
                        method,
                        expected: *expected,
                    },
                )
            })
            .collect();
        let (sender, read_only) = (self.id, self.config.read_only);
        let version = Bytes::copy_from_slice(&self.config.version);
        let extension = self.extension();
        self.fanouts.start(
            now,
            &mut self.peers,
            &mut self.random,
            policy,
            receivers,
            |transaction| {
                let message = Message {
                    transaction: Bytes::copy_from_slice(transaction.octets()),
                    version: Some(version.clone()),
                    extension,
                    kind: Kind::Query {
                        sender,
                        read_only,
                        query: query.clone(),
                    },
                };
                message.encode_for(tokens)
            },
        );
    }

    /// Takes what has come of requests until nothing is left to be done now.
    pub(super) fn settle(&mut self, now: Instant) {
        loop {
            while let Some(silent) = self.fanouts.poll_silent() {
                let counters = self
                    .requests
                    .entry((Family::of(&silent.peer), silent.tag.method));
                counters.or_default().silent += 1;
                if silent.asked
                    && let Some(table) = self.tables.get_mut(&Family::of(&silent.peer))
                {
                    table.failed(&silent.peer);
                }
                trace!(peer = %silent.peer, method = ?silent.tag.method, "no answer");
                match silent.tag.purpose {
                    Purpose::Many(id) => {
                        self.many_not_understood(now, id, silent.peer, silent.tag);
                    }
                    Purpose::OneOfMany(id, key) => {
                        self.one_of_many_silent(now, (id, key), silent.peer, silent.tag);
                    }
                    Purpose::PutEntry(id) | Purpose::GetEntries(id, _) => {
                        self.entries_silent(now, id, None);
                    }
                    _ => self.search_silent(now, silent.peer, silent.tag),
                }
            }
            // An answer may have made a neighbour's time-out due.
            if self.fanouts.poll_timeout().is_some_and(|at| at <= now) {
                self.fanouts.handle_timeout(now, &mut self.peers);
            } else {
                break;
            }
        }
    }

    fn serve(
        &mut self,
        now: Instant,
        transaction: Bytes,
        contact: Contact,
        (read_only, extension): (bool, Option<i64>),
        query: Query,
    ) {
        let Contact {
            id: sender,
            address: from,
        } = contact;
        if let Some(table) = self.tables.get_mut(&Family::of(&from)) {
            if read_only {
                table.refuse(Refusal::ReadOnly);
            } else if table.asked(now, contact) && !self.leaving {
                self.upkeep.check(now, from, sender);
            }
        }
        if self.config.read_only {
            self.served.read_only += 1;
            return;
        }
        let method = Method::of(&query);
        let extended = self.understands(extension);
        let tables = &self.tables;
        let answer = match query {
            Query::GetMany { .. } | Query::PutEntry { .. } | Query::GetEntries { .. }
                if !extended =>
            {
                let message = format!("method {method} is unknown");
                Err(QueryError::new(ErrorCode::MethodUnknown, message))
            }
            query => self
                .server
                .answer(now, (from, extended), query, tables, &mut self.random),
        };
        if answer.is_ok() {
            *self
                .served_methods
                .entry((Family::of(&from), method))
                .or_default() += 1;
        }
        self.reply(now, from, transaction, answer);
    }

    fn reply(
        &mut self,
        now: Instant,
        to: SocketAddr,
        transaction: Bytes,
        answer: Result<Response, QueryError>,
    ) {
        if transaction.len() > MAX_TRANSACTION_OCTETS {
            self.served.malformed += 1;
            return;
        }
        let refused = answer.is_err();
        let kind = match answer {
            Ok(response) => Kind::Response {
                sender: self.id,
                external: Some(to),
                response: Box::new(response),
            },
            Err(error) => Kind::Error(error),
        };
        let version = Some(Bytes::copy_from_slice(&self.config.version));
        let datagram = Message {
            transaction,
            version,
            extension: self.extension(),
            kind,
        }
        .encode()
        .datagram(0);
        let in_budget = self.peers.reserve(now, to, Duration::ZERO).is_some()
            && self.server.may_answer(now, &to, datagram.len());
        if !in_budget {
            self.served.over_budget += 1;
            return;
        }
        if refused {
            self.served.refused += 1;
        } else {
            self.served.answered += 1;
        }
        let body = Body::shared(datagram);
        self.replies.push_back(Transmit {
            to: vec![to],
            body,
            mode: Mode::Unicast,
        });
    }

    fn response(
        &mut self,
        now: Instant,
        contact: Contact,
        message: (&[u8], Option<i64>),
        external: Option<SocketAddr>,
        response: Response,
    ) {
        let (transaction, extension) = message;
        let Contact {
            id: sender,
            address: from,
        } = contact;
        let Some(answer) = self.fanouts.answer(now, &mut self.peers, transaction, from) else {
            return;
        };
        let family = Family::of(&from);
        self.requests
            .entry((family, answer.tag.method))
            .or_default()
            .answered += 1;
        let seen = external.filter(|seen| Family::of(seen) == family);
        let address = seen.and_then(|seen| {
            let external = self.external.entry(family).or_default();
            external.vote(from.ip(), seen.ip())
        });
        if let Some(table) = self.tables.get_mut(&family) {
            if answer
                .tag
                .expected
                .is_some_and(|expected| expected != sender)
            {
                self.served.wrong_id += 1;
            }
            if let Err(refusal) = table.answered(now, contact) {
                trace!(%from, %refusal, "not in the table");
            }
        }
        if let Some(address) = address {
            self.events.push_back(Event::ExternalAddress { address });
            if self.config.id.is_none() {
                self.follow_address(now, address);
            }
        }
        let nodes = self.credible(&from, &response);
        let in_list = self.understands(extension);
        if let Some(table) = self.tables.get_mut(&family) {
            table.set_extensions(&contact, in_list);
        }
        let answered = Answered {
            contact,
            tag: answer.tag,
            late: answer.late,
            in_list,
            response,
            nodes,
        };
        match answered.tag.purpose {
            Purpose::Many(id) => self.many_answered(now, id, answered),
            Purpose::OneOfMany(id, key) => self.one_of_many_answered(now, (id, key), answered),
            Purpose::PutEntry(id) | Purpose::GetEntries(id, _) => {
                self.entries_answered(now, id, answered);
            }
            _ => self.search_answered(now, answered),
        }
    }

    /// The nodes that an answer names, those that can be believed.
    pub(super) fn credible(&self, from: &SocketAddr, response: &Response) -> Vec<Contact> {
        let named = [&response.nodes, &response.nodes6]
            .into_iter()
            .flatten()
            .flatten();
        named
            .filter(|contact| {
                contact.id != self.id
                    && is_credible(from, &contact.address)
                    && self.tables.contains_key(&Family::of(&contact.address))
                    && (!self.config.table.enforce_bep42
                        || bep42::is_valid(contact.id, contact.address.ip()))
            })
            .copied()
            .collect()
    }
}

impl Protocol for Node {
    type Event = Event;

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: Bytes) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if !self.tables.contains_key(&Family::of(&from)) {
            self.served.other_family += 1;
            return;
        }
        match Message::decode(&datagram) {
            Ok(Message {
                transaction,
                kind,
                extension,
                ..
            }) => match kind {
                Kind::Query {
                    sender,
                    read_only,
                    query,
                } => {
                    let contact = Contact {
                        id: sender,
                        address: from,
                    };
                    let said = (read_only, extension);
                    self.serve(now, transaction, contact, said, query);
                }
                Kind::Response {
                    sender,
                    external,
                    response,
                } => {
                    let contact = Contact {
                        id: sender,
                        address: from,
                    };
                    let message = (&transaction[..], extension);
                    self.response(now, contact, message, external, *response);
                }
                Kind::Error(error) => {
                    let answer = self
                        .fanouts
                        .answer(now, &mut self.peers, &transaction, from);
                    if let Some(answer) = answer {
                        debug!(%from, %error, method = ?answer.tag.method, "refused");
                        let key = (Family::of(&from), answer.tag.method);
                        self.requests.entry(key).or_default().refused += 1;
                        match answer.tag.purpose {
                            Purpose::Many(id) => {
                                self.many_not_understood(now, id, from, answer.tag);
                            }
                            Purpose::OneOfMany(id, key) => {
                                self.one_of_many_silent(now, (id, key), from, answer.tag);
                            }
                            Purpose::PutEntry(id) | Purpose::GetEntries(id, _) => {
                                if !answer.late {
                                    self.entries_silent(now, id, Some((from, error)));
                                }
                            }
                            _ => self.search_refused(now, from, answer.tag, answer.late, error),
                        }
                    }
                }
            },
            Err(DecodeError::Query { transaction, error }) if !self.config.read_only => {
                self.reply(now, from, transaction, Err(error));
            }
            Err(error) => {
                trace!(%from, %error, "ignored");
                self.served.malformed += 1;
            }
        }
        self.settle(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.fanouts.handle_timeout(now, &mut self.peers);
        self.settle(now);
        self.look_after(now);
        self.settle(now);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.replies
            .pop_front()
            .or_else(|| self.fanouts.poll_transmit())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let upkeep = (!self.leaving).then(|| self.upkeep.next());
        [self.fanouts.poll_timeout(), upkeep]
            .into_iter()
            .flatten()
            .min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}
