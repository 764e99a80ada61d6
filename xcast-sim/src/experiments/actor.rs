//! Nodes, honest or not.

use std::{collections::BTreeMap, net::SocketAddr, rc::Rc, time::Instant};

use bytes::Bytes;
use xcast_overlay::{
    id::Id,
    kademlia::{Event, Node},
    krpc::{Contact, Kind, Message, Query},
    runtime::{Protocol, Transmit},
};

/// Questions that a malicious node remembers until it has answered.
const MAX_QUESTIONS: usize = 256;

/// A node that is honest, or answers questions for nodes with its accomplices only.
pub struct Actor {
    /// The real node.
    pub node: Node,
    malice: Option<Malice>,
}

struct Malice {
    accomplices: Rc<[Contact]>,
    /// How many it names.
    k: usize,
    /// What it was asked for, by who asked and the question's identifier.
    questions: BTreeMap<(SocketAddr, Bytes), Id>,
}

impl Actor {
    /// An honest node.
    pub fn honest(node: Node) -> Self {
        Self { node, malice: None }
    }

    /// One that names the `k` accomplices closest to what it is asked for, and nobody else.
    pub fn malicious(node: Node, accomplices: Rc<[Contact]>, k: usize) -> Self {
        let malice = Malice {
            accomplices,
            k,
            questions: BTreeMap::new(),
        };
        Self {
            node,
            malice: Some(malice),
        }
    }
}

impl Malice {
    fn hear(&mut self, from: SocketAddr, datagram: &Bytes) {
        if let Ok(Message {
            transaction,
            kind:
                Kind::Query {
                    query: Query::FindNode { target, .. },
                    ..
                },
            ..
        }) = Message::decode(datagram)
        {
            if self.questions.len() >= MAX_QUESTIONS {
                self.questions.pop_first();
            }
            self.questions.insert((from, transaction), target);
        }
    }

    fn distort(&mut self, transmit: Transmit) -> Transmit {
        let ([to], Ok(mut message)) = (&transmit.to[..], Message::decode(&transmit.datagram(0)))
        else {
            return transmit;
        };
        let question = self.questions.remove(&(*to, message.transaction.clone()));
        let (Some(target), Kind::Response { response, .. }) = (question, &mut message.kind) else {
            return transmit;
        };
        for nodes in [&mut response.nodes, &mut response.nodes6] {
            if nodes.is_some() {
                let mut closest = self.accomplices.to_vec();
                closest.sort_unstable_by_key(|contact| contact.id.distance(target));
                closest.truncate(self.k);
                *nodes = Some(closest);
            }
        }
        Transmit {
            body: message.encode(),
            ..transmit
        }
    }
}

impl Protocol for Actor {
    type Event = Event;

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: Bytes) {
        if let Some(malice) = &mut self.malice {
            malice.hear(from, &datagram);
        }
        self.node.handle(now, from, datagram);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.node.handle_timeout(now);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        let transmit = self.node.poll_transmit()?;
        Some(match &mut self.malice {
            Some(malice) => malice.distort(transmit),
            None => transmit,
        })
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.node.poll_timeout()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.node.poll_event()
    }
}
