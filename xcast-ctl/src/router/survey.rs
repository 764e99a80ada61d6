//! What the kernel says of the interfaces, asked beside the loop: which XDP program each runs, what
//! its driver can do, what kind it is, by which names it goes, and what is set for it.
//!
//! Asking takes as long as the kernel takes. The loop goes on, and acts on the last answer.

use std::{collections::HashMap, sync::mpsc as std_mpsc, thread, time::Instant};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tokio::sync::watch;
use tracing::debug;

use super::{
    sources::{ForAll, KernelPolicy},
    stacked::{self, Links, Upper},
};
use crate::{
    kernel::{self, Barred, Link, XdpFeatures},
    sync::event,
};

/// One answer.
#[derive(Clone, Debug)]
pub(super) struct Survey {
    /// When it was asked for: it knows nothing of what happened later.
    pub(super) asked: Instant,
    links: Links,
    features: Features,
    for_all: ForAll,
    /// The sysctl `fib_multipath_use_neigh` of IPv4.
    pub(super) multipath_uses_neighbours: bool,
    /// Destinations that policies of IPsec apply to.
    pub(super) ipsec: Vec<IpNet>,
}

/// What drivers can do.
#[derive(Clone, Debug)]
enum Features {
    /// Nothing is known: the kernel did not answer.
    Unknown,
    /// The kernel is too old to tell; drivers are trusted.
    Untold,
    Known(HashMap<u32, XdpFeatures>),
}

impl Survey {
    /// Asks the kernel. What it does not answer is as it was in `before`.
    fn take(before: Option<&Self>) -> Self {
        let asked = Instant::now();
        let links = kernel::links().map(|links| {
            let by_index = links.into_iter().map(|link| (link.ifindex, link));
            by_index.collect()
        });
        let features = kernel::xdp_features().map(|features| match features {
            Some(list) => Features::Known(list.into_iter().collect()),
            None => Features::Untold,
        });
        let for_all = ForAll {
            rp_filter: kernel::sysctl("ipv4/conf/all/rp_filter").unwrap_or(0),
            forwards6: kernel::sysctl("ipv6/conf/all/forwarding") != Some(0),
        };
        let failed = |error: &anyhow::Error| debug!("{error:#}");
        Self {
            // An old answer stays an old one.
            asked: match (&links, before) {
                (Err(_), Some(before)) => before.asked,
                _ => asked,
            },
            links: links
                .inspect_err(failed)
                .unwrap_or_else(|_| before.map(|old| old.links.clone()).unwrap_or_default()),
            features: features
                .inspect_err(failed)
                .unwrap_or_else(|_| before.map_or(Features::Unknown, |old| old.features.clone())),
            for_all,
            multipath_uses_neighbours: kernel::sysctl("ipv4/fib_multipath_use_neigh") == Some(1),
            ipsec: kernel::ipsec_destinations()
                .inspect_err(failed)
                .unwrap_or_else(|_| before.map(|old| old.ipsec.clone()).unwrap_or_default()),
        }
    }

    /// The interface with this index.
    pub(super) fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    /// What the kernel's settings say about packets that arrive by it.
    pub(super) fn policy(&self, ifindex: u32) -> Option<KernelPolicy> {
        let link = self.link(ifindex)?;
        Some(KernelPolicy::of(link, self.for_all))
    }

    /// The index of the interface that has this name, or this as a further name.
    pub(super) fn named(&self, name: &str) -> Option<u32> {
        let links = || self.links.values();
        links()
            .find(|link| link.name == name)
            .or_else(|| links().find(|link| link.is_named(name)))
            .map(|link| link.ifindex)
    }

    /// The interface that the kernel takes what arrives by a port to have arrived by.
    pub(super) fn receiver(&self, ifindex: u32) -> u32 {
        stacked::receiver(&self.links, ifindex)
    }

    /// Why what a port receives does not arrive there, if it does not.
    pub(super) fn barred(&self, ifindex: u32) -> Option<Barred> {
        stacked::barred(&self.links, ifindex)
    }

    /// The index of the VRF that an interface belongs to.
    pub(super) fn vrf(&self, link: &event::Link) -> Option<u32> {
        link.in_vrf.then(|| self.link(link.ifindex)?.master)?
    }

    /// The interfaces on top of one.
    pub(super) fn above(&self, ifindex: u32) -> Vec<Upper<'_>> {
        stacked::above(&self.links, ifindex)
    }

    /// Whether the driver runs XDP programs; `None` if nobody knows.
    pub(super) fn native(&self, ifindex: u32) -> Option<bool> {
        match &self.features {
            Features::Known(known) => known.get(&ifindex).map(|features| features.native()),
            Features::Unknown | Features::Untold => None,
        }
    }

    /// Whether the driver sends what XDP redirects to it, as far as anybody knows.
    pub(super) fn transmits(&self, ifindex: u32) -> bool {
        match &self.features {
            Features::Unknown => false,
            Features::Untold => true,
            Features::Known(known) => known
                .get(&ifindex)
                .is_some_and(|features| features.transmit()),
        }
    }
}

/// Handle to the thread that asks. It ends with the handle.
pub(super) struct Surveyor {
    requests: std_mpsc::Sender<()>,
    answers: watch::Receiver<Survey>,
}

impl Surveyor {
    /// Asks for the first time, and starts the thread for the times to come.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub(super) fn start() -> Result<Self> {
        let (requests, queue) = std_mpsc::channel();
        let (publish, answers) = watch::channel(Survey::take(None));
        thread::Builder::new()
            .name("survey".to_owned())
            .spawn(move || {
                while queue.recv().is_ok() {
                    // One answer serves all who asked meanwhile.
                    while queue.try_recv().is_ok() {}
                    let survey = Survey::take(Some(&publish.borrow()));
                    if publish.send(survey).is_err() {
                        return;
                    }
                }
            })
            .context("cannot start a thread")?;
        Ok(Self { requests, answers })
    }

    /// Asks again; [`changed`](Self::changed) tells when there is an answer.
    pub(super) fn ask(&self) {
        // The thread only ends with this handle.
        let _ = self.requests.send(());
    }

    /// Waits for an answer that has not been looked at.
    pub(super) async fn changed(&mut self) {
        if self.answers.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The last answer.
    pub(super) fn last(&self) -> Survey {
        self.answers.borrow().clone()
    }
}
