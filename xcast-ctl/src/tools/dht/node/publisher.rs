//! Services that a node keeps alive.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
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
        let next = next(now, &service);
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
            published.next = next(now, &published.service);
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

/// Halfway to the end of its life, give or take a fifth, so that what was published together is not
/// refreshed together.
fn next(now: Instant, service: &Service) -> Instant {
    let half = Duration::from_secs(service.life_s.unsigned_abs()) / 2;
    // The keys of such a state are random.
    let random = RandomState::new().hash_one(0);
    let part = random as f64 / u64::MAX as f64;
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

#[cfg(test)]
mod tests {
    use xcast_overlay::{
        kademlia::Config,
        krpc::signing_key,
        runtime::{Protocol as _, Random},
    };

    use super::*;

    fn service(uri: &str) -> Service {
        Service {
            kind: "ldap".to_owned(),
            uri: uri.to_owned(),
            life_s: 1000,
            ..Service::default()
        }
    }

    #[test]
    fn a_refresh_comes_around_half_of_the_life_and_never_together() {
        let now = Instant::now();
        let times: Vec<Duration> = (0..200)
            .map(|_| next(now, &service("ldap://a")) - now)
            .collect();
        let seconds = |s| Duration::from_secs(s);
        assert!(
            times
                .iter()
                .all(|t| (seconds(400)..=seconds(600)).contains(t))
        );
        assert!(times.iter().any(|t| *t < seconds(450)) && times.iter().any(|t| *t > seconds(550)));
    }

    #[test]
    fn what_is_published_is_signed_anew_before_it_expires_until_it_is_withdrawn() {
        let now = Instant::now();
        let mut node = Node::new(now, Config::own_network(), Random::from_number(1));
        let (mut publisher, key) = (Publisher::default(), signing_key([1; 32]));
        let (name, begun, left_out) = publisher
            .publish(&mut node, now, &key, service("ldap://a"))
            .unwrap();
        assert_eq!(left_out, 0);
        // Nobody is there to be asked, so each operation ends at once.
        let ended = |node: &mut Node| std::iter::from_fn(|| node.poll_event()).count();
        assert_eq!(ended(&mut node), begun.len());
        let at = |seconds| now + Duration::from_secs(seconds);
        publisher.refresh(&mut node, at(399), &key);
        assert_eq!(ended(&mut node), 0);
        publisher.refresh(&mut node, at(601), &key);
        assert_eq!(ended(&mut node), begun.len());
        publisher.refresh(&mut node, at(602), &key);
        assert_eq!(ended(&mut node), 0, "the next one is due later");
        assert_eq!((publisher.withdraw(name), publisher.withdraw(name)), (1, 0));
        publisher.refresh(&mut node, at(5000), &key);
        assert_eq!(ended(&mut node), 0);
    }

    #[test]
    fn no_life_longer_than_others_store() {
        let now = Instant::now();
        let mut node = Node::new(now, Config::own_network(), Random::from_number(1));
        for life_s in [0, ShelfConfig::default().max_life_s + 1] {
            let service = Service {
                life_s,
                ..service("ldap://a")
            };
            let published =
                Publisher::default().publish(&mut node, now, &signing_key([1; 32]), service);
            assert!(published.unwrap_err().to_string().contains("life"));
        }
    }
}
