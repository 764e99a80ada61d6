//! The crate `mainline`.

#![expect(
    deprecated,
    reason = "its other interface needs a feature more, and tells no more"
)]

use std::net::SocketAddr;

use mainline::{Dht, Id as TheirId, MutableItem, SigningKey};
use tokio::task::spawn_blocking;
use xcast_overlay::id::Id;

use super::{
    namespace::{address, in_namespace},
    ours::Ours,
};

/// It reads transaction identifiers of exactly this length.
const TRANSACTION_OCTETS: usize = 4;

fn start(bootstrap: &[SocketAddr]) -> (Dht, SocketAddr) {
    let local = address(false, 1, 6882);
    let SocketAddr::V4(ipv4) = local else {
        panic!("{local} is an IPv4 address")
    };
    let mut builder = Dht::builder();
    builder
        .bind_address(*ipv4.ip())
        .port(ipv4.port())
        .bootstrap(bootstrap)
        .server_mode();
    (builder.build().expect("a socket"), local)
}

/// A blocking call of the partner, while our node works.
async fn ask<T: Send + 'static>(
    ours: &mut Ours,
    partner: &Dht,
    what: impl FnOnce(Dht) -> T + Send + 'static,
) -> T {
    let partner = partner.clone();
    ours.during(spawn_blocking(move || what(partner)))
        .await
        .expect("no panic")
}

#[test]
fn mainline_answers_us() {
    in_namespace(&[], async || {
        let (_partner, local) = start(&[]);
        let mut ours = Ours::start(address(false, 9, 6881), &[local], TRANSACTION_OCTETS);
        ours.ask_bep5(local).await;
        ours.ask_bep44(local).await;
        ours.is_listed_by(local).await;
        ours.close().await;
    });
}

/// If this fails, the crate has learnt to read longer identifiers: the advice at
/// `Policy::transaction_octets` can go.
#[test]
fn mainline_reads_no_longer_transaction_identifiers() {
    in_namespace(&[], async || {
        let (_partner, local) = start(&[]);
        let mut ours = Ours::start(address(false, 9, 6881), &[local], 8);
        let (_, ping) = ours.run(|node, now| node.ping(now, local)).await;
        assert_eq!((ping.answered, ping.silent), (0, 1), "{ping:?}");
        ours.close().await;
    });
}

#[test]
fn we_answer_mainline() {
    in_namespace(&[], async || {
        let mut ours = Ours::start(address(false, 9, 6881), &[], TRANSACTION_OCTETS);
        let (partner, local) = start(&[ours.address()]);
        ours.is_listed_by(local).await;

        let key = TheirId::from(*Id::hash_of(&[b"what they announce"]).octets());
        ask(&mut ours, &partner, move |it| {
            it.announce_peer(key, Some(7001))
        })
        .await
        .expect("stored");
        let peers = ask(&mut ours, &partner, move |it| it.get_peers(key).next()).await;
        let it = SocketAddr::new(local.ip(), 7001);
        let peers = peers.expect("peers");
        assert!(
            peers.iter().any(|peer| SocketAddr::V4(*peer) == it),
            "{peers:?}"
        );

        let target = ask(&mut ours, &partner, |it| it.put_immutable(b"never changes"));
        let target = target.await.expect("stored");
        let got = ask(&mut ours, &partner, move |it| it.get_immutable(target)).await;
        assert_eq!(got.as_deref(), Some(&b"never changes"[..]));

        let signer = SigningKey::from_bytes(&[7; 32]);
        let public = signer.verifying_key().to_bytes();
        for salt in [None, Some(&b"salt"[..])] {
            let item = MutableItem::new(signer.clone(), b"changes", 3, salt);
            ask(&mut ours, &partner, |it| it.put_mutable(item, None))
                .await
                .expect("stored");
            let got = ask(&mut ours, &partner, move |it| {
                it.get_mutable_most_recent(&public, salt)
            });
            let got = got.await.expect("an item");
            assert_eq!((got.value(), got.seq()), (&b"changes"[..], 3));
        }
        let (_, peers, items) = ours.stored();
        assert_eq!((peers, items), (1, 3), "it was our node that stored");
        ours.close().await;
    });
}
