//! The crate `mainline`: IPv4 only. It reads transaction identifiers of exactly four octets.

#![expect(
    deprecated,
    reason = "its other interface needs a feature more, and tells no more"
)]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use mainline::{Dht, Id as TheirId, MutableItem, SigningKey};
use tokio::task::spawn_blocking;
use xcast_overlay::{id::Id, kademlia::Method};

use super::{
    namespace::address,
    ours::Ours,
    outcome::{Asker, Talk},
};

const NAME: &str = "mainline";

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

/// A node of ours, and the partner. Each begins with the other: a partner without a node to begin with
/// would enter whoever asks for an identifier as the node of that identifier, and so also who asks
/// whether it lists us.
fn both() -> (Ours, Dht, SocketAddr) {
    let ours = Ours::start(address(false, 9, 6881), &[address(false, 1, 6882)]);
    let (partner, local) = start(&[ours.address()]);
    (ours, partner, local)
}

/// It answers all that we ask.
pub async fn we_ask() -> Talk {
    let mut talk = Talk::new(NAME, false, Asker::We);
    let (mut ours, _partner, local) = both();
    ours.ask_bep5(&mut talk, local).await;
    ours.ask_bep44(&mut talk, local).await;
    let listed = ours.is_listed_by(local).await;
    talk.add("lists us", listed);
    ours.close().await;
    talk
}

/// It stays with us for so long.
pub async fn soak(time: Duration) -> Talk {
    let mut talk = Talk::new(NAME, false, Asker::We);
    let (mut ours, _partner, local) = both();
    let soaked = ours.soak(local, time).await;
    talk.note("soak", soaked);
    talk
}

/// A partner that knows of us, and nobody else.
struct Theirs {
    partner: Dht,
    local: SocketAddr,
    ours: Ours,
}

impl Theirs {
    /// A blocking call of the partner, while our node works.
    async fn ask<T: Send + 'static>(
        &mut self,
        what: impl FnOnce(Dht) -> T + Send + 'static,
    ) -> Result<T> {
        let partner = self.partner.clone();
        Ok(self
            .ours
            .ask(spawn_blocking(move || what(partner)))
            .await??)
    }

    async fn announce(&mut self, key: TheirId) -> Result<()> {
        self.ask(move |it| it.announce_peer(key, Some(7001)))
            .await??;
        ensure!(self.ours.stored().1 == 1, "it was not our node that stored");
        Ok(())
    }

    async fn get_peers(&mut self, key: TheirId) -> Result<()> {
        let peers = self.ask(move |it| it.get_peers(key).next()).await?;
        let peers = peers.context("no peers")?;
        let it = SocketAddr::new(self.local.ip(), 7001);
        ensure!(
            peers.iter().any(|peer| SocketAddr::V4(*peer) == it),
            "{peers:?}"
        );
        Ok(())
    }

    async fn immutable(&mut self) -> Result<()> {
        let target = self.ask(|it| it.put_immutable(b"never changes")).await??;
        let got = self.ask(move |it| it.get_immutable(target)).await?;
        ensure!(got.as_deref() == Some(&b"never changes"[..]), "{got:?}");
        Ok(())
    }

    async fn mutable(&mut self, salt: Option<&'static [u8]>) -> Result<()> {
        let signer = SigningKey::from_bytes(&[7; 32]);
        let public = signer.verifying_key().to_bytes();
        let item = MutableItem::new(signer, b"changes", 3, salt);
        self.ask(|it| it.put_mutable(item, None)).await??;
        let got = self
            .ask(move |it| it.get_mutable_most_recent(&public, salt))
            .await?;
        let got = got.context("no item")?;
        ensure!((got.value(), got.seq()) == (&b"changes"[..], 3), "{got:?}");
        Ok(())
    }
}

/// It finds us, lists us, and gets from us what it stored at us: nobody else is there.
pub async fn they_ask() -> Talk {
    let mut talk = Talk::new(NAME, false, Asker::They);
    let ours = Ours::start(address(false, 9, 6881), &[]);
    let (partner, local) = start(&[ours.address()]);
    let mut theirs = Theirs {
        partner,
        local,
        ours,
    };
    let listed = theirs.ours.is_listed_by(local).await;
    talk.add("lists us", listed);
    talk.add("find_node", theirs.ours.was_asked(Method::FindNode));
    let key = TheirId::from(*Id::hash_of(&[b"what they announce"]).octets());
    let announced = theirs.announce(key).await;
    talk.add("announce_peer", announced);
    let got = theirs.get_peers(key).await;
    talk.add("get_peers", got);
    let immutable = theirs.immutable().await;
    talk.add("put, get: immutable", immutable);
    let mutable = theirs.mutable(None).await;
    talk.add("put, get: mutable", mutable);
    let salted = theirs.mutable(Some(b"salt")).await;
    talk.add("put, get: mutable, with salt", salted);
    theirs.ours.close().await;
    talk
}
