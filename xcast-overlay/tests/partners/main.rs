//! Our nodes with nodes of others that know nothing of us: libtorrent, Transmission, and the crate
//! `mainline`. Both ways: we ask, and they ask. `cargo xtask partners` makes a table of the same.
//!
//! Each test has a network namespace of its own, in which the addresses 198.18.N.1 and
//! 2001:db8:N::1 are this host: no two in one /24 or /64, and such that BEP 42 counts.

mod example;
mod libtorrent;
mod mainline;
mod namespace;
mod ours;
mod outcome;
mod program;
mod services;
mod transmission;

use std::time::Duration;

use self::{namespace::in_namespace, outcome::Talk};

/// A short form of `cargo xtask partners --soak 20m`.
const SOAK: Duration = Duration::from_secs(2);

#[track_caller]
fn works(missing: &[&str], talks: impl AsyncFnOnce() -> Vec<Talk> + Send + 'static) {
    let talks = in_namespace(missing, talks).unwrap_or_default();
    for talk in talks {
        let Talk {
            partner,
            ipv6,
            asker,
            outcomes,
        } = &talk;
        let failed: Vec<_> = outcomes
            .iter()
            .filter(|outcome| outcome.result.is_err())
            .collect();
        assert!(
            failed.is_empty() && !outcomes.is_empty(),
            "{partner}, IPv6 {ipv6}, {asker:?} ask: {failed:#?}"
        );
    }
}

#[test]
fn libtorrent_answers_us() {
    works(libtorrent::missing(), async || {
        vec![libtorrent::we_ask(false).await]
    });
}

#[test]
fn libtorrent_answers_us_over_ipv6() {
    works(libtorrent::missing(), async || {
        vec![libtorrent::we_ask(true).await]
    });
}

#[test]
fn we_answer_libtorrent() {
    works(libtorrent::missing(), async || {
        vec![libtorrent::they_ask(false).await]
    });
}

#[test]
fn we_answer_libtorrent_over_ipv6() {
    works(libtorrent::missing(), async || {
        vec![libtorrent::they_ask(true).await]
    });
}

#[test]
fn transmission_both_ways() {
    works(transmission::missing(), async || {
        transmission::both_ways(false).await.into()
    });
}

#[test]
fn transmission_both_ways_over_ipv6() {
    works(transmission::missing(), async || {
        transmission::both_ways(true).await.into()
    });
}

/// Our own extensions work where each of ours knows a stranger only.
#[test]
fn services_by_way_of_libtorrent() {
    works(libtorrent::missing(), async || {
        vec![libtorrent::services(false).await]
    });
}

#[test]
fn services_by_way_of_libtorrent_over_ipv6() {
    works(libtorrent::missing(), async || {
        vec![libtorrent::services(true).await]
    });
}

#[test]
fn services_by_way_of_transmission() {
    works(transmission::missing(), async || {
        vec![transmission::services(false).await]
    });
}

#[test]
fn transmission_with_a_torrent() {
    works(transmission::missing(), async || {
        vec![transmission::with_a_torrent(false).await]
    });
}

#[test]
fn transmission_with_a_torrent_over_ipv6() {
    works(transmission::missing(), async || {
        vec![transmission::with_a_torrent(true).await]
    });
}

/// With identifiers of eight octets first, of which it answers none.
#[test]
fn mainline_answers_us() {
    works(&[], async || {
        let talk = mainline::we_ask().await;
        let ping = talk
            .outcomes
            .iter()
            .find(|outcome| outcome.operation == "ping");
        let note = ping.and_then(|ping| ping.result.clone().ok());
        // If this fails, the crate has learnt to read longer identifiers: the second attempt can go.
        assert!(
            note.is_some_and(|note| note.contains("4 octets")),
            "{talk:?}"
        );
        vec![talk]
    });
}

#[test]
fn we_answer_mainline() {
    works(&[], async || vec![mainline::they_ask().await]);
}

#[test]
fn partners_stay() {
    let missing = [libtorrent::missing(), transmission::missing()].concat();
    works(&missing, async || vec![libtorrent::soak(false, SOAK).await]);
    works(&missing, async || {
        vec![transmission::soak(true, SOAK).await]
    });
    works(&missing, async || vec![mainline::soak(SOAK).await]);
}

/// `examples/join.rs`: nobody in that network knows anything of us.
#[test]
fn the_example_joins_an_unmodified_swarm() {
    let missing = libtorrent::missing();
    for ipv6 in [false, true] {
        if let Some(said) = in_namespace(missing, async move || example::join(ipv6).await) {
            said.unwrap_or_else(|error| panic!("IPv6 {ipv6}: {error:#}"));
        }
    }
}
