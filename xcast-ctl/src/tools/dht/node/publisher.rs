//! Services that a node keeps alive.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use xcast_overlay::{
    id::Id,
    kademlia::{Node, OperationId},
    krpc::SigningKey,
    places::Place,
    services::{Entry, Keys, Service as Description, ShelfConfig},
};

use super::super::message::Service;

/// Services that a node keeps alive.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    /// By what tells them apart.
    published: BTreeMap<Id, Published>,
}

#[derive(Debug)]
struct Published {
    service: Service,
    next: Instant,
}

impl Publisher {
    /// Publishes a service, and keeps it alive from now on: what it can be withdrawn by, what was
    /// begun, and how many keys were left out.
    ///
    /// # Errors
    ///
    /// What is wrong with the description.
    pub(super) fn publish(
        &mut self,
        node: &mut Node,
        now: Instant,
        signer: &SigningKey,
        service: Service,
    ) -> Result<(Id, Vec<OperationId>, usize)> {
        let most = ShelfConfig::default().max_life_s;
        ensure!(
            (1..=most).contains(&service.life_s),
            "life: {} s is not within 1 to {most} s",
            service.life_s
        );
        let entry = sign(&service, signer)?;
        let left_out = Keys::of(&entry.service).left_out;
        let next = next(now, &service, node);
        self.published
            .insert(entry.name(), Published { service, next });
        Ok((entry.name(), node.put_entry(now, &entry), left_out))
    }

    /// Publishes again what would soon expire.
    pub(super) fn refresh(&mut self, node: &mut Node, now: Instant, signer: &SigningKey) {
        for published in self.published.values_mut() {
            if published.next > now {
                continue;
            }
            published.next = next(now, &published.service, node);
            // It could be signed before.
            if let Ok(entry) = sign(&published.service, signer) {
                node.put_entry(now, &entry);
            }
        }
    }

    /// No longer keeps a service alive: how many there were, one or none.
    pub(super) fn withdraw(&mut self, name: Id) -> u32 {
        u32::from(self.published.remove(&name).is_some())
    }

    /// What is kept alive.
    pub(super) fn services(&self) -> Vec<Service> {
        let services = self.published.values();
        services
            .map(|published| published.service.clone())
            .collect()
    }
}

/// Halfway to the end of its life, give or take a fifth, so that publishers that were started together
/// do not refresh together.
fn next(now: Instant, service: &Service, node: &Node) -> Instant {
    let half = Duration::from_secs(service.life_s.unsigned_abs()) / 2;
    let part = f64::from(node.id()[19]) / f64::from(u8::MAX);
    now + half.mul_f64(0.8 + 0.4 * part)
}

fn sign(service: &Service, signer: &SigningKey) -> Result<Entry> {
    let place = service
        .place
        .map(|(latitude, longitude)| Place::new(latitude, longitude));
    let description = Description {
        mechanism: service.kind.clone(),
        uri: service.uri.clone(),
        attributes: service.attributes.clone(),
        place: place.transpose().context("place")?,
    };
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    // Newer than what was signed in the same second.
    let seq = since.as_millis() as i64;
    let expires = since.as_secs() as i64 + service.life_s;
    Ok(Entry::sign(signer, description, seq, expires)?)
}

/// An entry, for people and scripts.
pub(super) fn described(entry: &Entry, now_unix_s: i64, near: Option<Place>) -> Service {
    let service = &entry.service;
    Service {
        kind: service.mechanism.clone(),
        uri: service.uri.clone(),
        attributes: service.attributes.clone(),
        place: service
            .place
            .map(|place| (place.latitude(), place.longitude())),
        distance_m: near
            .zip(service.place)
            .map(|(near, place)| near.distance_m(place)),
        life_s: entry.expires_unix_s - now_unix_s,
    }
}
