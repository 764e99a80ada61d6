//! Has the kernel keep gateways resolved, so that the first packet need not wait, and tells it which
//! neighbours packets use, so that it finds out when one is gone or has moved.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use netlink_packet_core::{ErrorMessage, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState,
    },
};
use nix::errno::Errno;
use rtnetlink::{Error, Handle};
use tokio::{sync::mpsc, task::JoinHandle};
use tracing::{debug, warn};

use crate::kernel;

/// Asks the kernel to resolve gateways, one after the other, in a task of its own.
///
/// What the kernel refuses is logged. Traffic then waits for the first resolution, in the kernel.
#[derive(Debug)]
pub struct Resolver {
    requests: mpsc::UnboundedSender<Request>,
    used: mpsc::Sender<Vec<(u32, IpAddr)>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
enum Request {
    Adopt {
        wanted: HashSet<(u32, IpAddr)>,
        others: HashSet<u32>,
    },
    Resolve(u32, IpAddr),
    Release(u32, IpAddr),
}

impl Resolver {
    /// Starts the task, which asks through `handle`. Must be called within a tokio runtime.
    pub fn start(handle: Handle) -> Self {
        // Unbounded, but there are never more requests under way than gateways that change at a
        // time.
        let (requests, queue) = mpsc::unbounded_channel();
        let (used, in_use) = mpsc::channel(1);
        let neighbours = Neighbours {
            handle,
            installed: HashMap::new(),
            refused: HashSet::new(),
        };
        Self {
            requests,
            used,
            task: tokio::spawn(neighbours.carry_out(queue, in_use)),
        }
    }

    /// Has the kernel keep a gateway resolved. Repeating the request does no harm.
    ///
    /// Entries that the administrator made permanent are left alone, and so are those that another control plane keeps.
    ///
    /// # Minimum kernel version
    ///
    /// 5.16 keeps the entry resolved. Before, the gateway is resolved now, and again when the kernel
    /// itself sends to it.
    pub fn resolve(&self, ifindex: u32, gateway: IpAddr) {
        self.send(Request::Resolve(ifindex, gateway));
    }

    /// Tells the kernel that packets use these neighbours, so that it probes those that are STALE
    /// (`NTF_USE`). As long as it has not been told of earlier ones, this does nothing: if they are in
    /// use, they come again.
    pub fn note_use(&self, neighbours: &[(u32, IpAddr)]) {
        let _ = self.used.try_send(neighbours.to_vec());
    }

    /// Takes back what [`resolve`](Self::resolve) asked for, and removes the entry if it is still
    /// that and was not there before.
    pub fn release(&self, ifindex: u32, gateway: IpAddr) {
        self.send(Request::Release(ifindex, gateway));
    }

    /// Takes over the entries that routers before this one had the kernel keep: those that are `wanted` still go on,
    /// the rest is released. What is on interfaces of `others`, which are other routers' ports, is theirs.
    pub fn adopt(&self, wanted: HashSet<(u32, IpAddr)>, others: HashSet<u32>) {
        self.send(Request::Adopt { wanted, others });
    }

    /// Leaves every gateway as it is, for a router that takes over.
    pub fn abandon(self) {
        self.task.abort();
    }

    /// Releases every gateway and waits until that is done.
    pub async fn stop(self) {
        drop(self.requests);
        drop(self.used);
        if let Err(error) = self.task.await {
            debug!("{error}");
        }
    }

    fn send(&self, request: Request) {
        // The task only ends with this handle.
        let _ = self.requests.send(request);
    }
}

/// The kernel's neighbour tables, and what was put there.
struct Neighbours {
    handle: Handle,
    /// Entries that the kernel keeps for this router, and whether they were there before, for another reason.
    installed: HashMap<(u32, IpAddr), Found>,
    /// Those that the kernel refused last time, so that it is told once.
    refused: HashSet<(u32, IpAddr)>,
}

/// Whether an entry was there before the router asked for it.
type Found = bool;

impl Neighbours {
    async fn carry_out(
        mut self,
        mut queue: mpsc::UnboundedReceiver<Request>,
        mut used: mpsc::Receiver<Vec<(u32, IpAddr)>>,
    ) {
        loop {
            let request = tokio::select! {
                biased;
                request = queue.recv() => match request {
                    Some(request) => request,
                    None => break,
                },
                Some(neighbours) = used.recv() => {
                    self.use_all(&neighbours).await;
                    continue;
                }
            };
            match request {
                Request::Adopt { wanted, others } => {
                    if let Err(error) = self.adopt(&wanted, &others).await {
                        warn!("neighbours that a router before this one kept stay so: {error:#}");
                    }
                }
                Request::Resolve(ifindex, gateway) => match self.resolve(ifindex, gateway).await {
                    Ok(()) => drop(self.refused.remove(&(ifindex, gateway))),
                    Err(error) if self.refused.insert((ifindex, gateway)) => warn!("{error:#}"),
                    Err(error) => debug!("{error:#}"),
                },
                Request::Release(ifindex, gateway) => {
                    self.refused.remove(&(ifindex, gateway));
                    if let Err(error) = self.release(ifindex, gateway).await {
                        warn!("{error:#}");
                    }
                }
            }
        }
        let installed: Vec<_> = self.installed.keys().copied().collect();
        for (ifindex, gateway) in installed {
            if let Err(error) = self.release(ifindex, gateway).await {
                debug!("{error:#}");
            }
        }
    }

    async fn adopt(
        &mut self,
        wanted: &HashSet<(u32, IpAddr)>,
        others: &HashSet<u32>,
    ) -> Result<()> {
        let mut all = self.handle.neighbours().get().execute();
        let mut kept = Vec::new();
        while let Some(neighbour) = all.next().await {
            kept.extend(kernel::kept_neighbour(&neighbour?));
        }
        kept.retain(|(ifindex, _)| !others.contains(ifindex));
        for (ifindex, address) in kept {
            self.installed.entry((ifindex, address)).or_insert(false);
            if !wanted.contains(&(ifindex, address)) {
                self.release(ifindex, address).await?;
            }
        }
        Ok(())
    }

    async fn resolve(&mut self, ifindex: u32, gateway: IpAddr) -> Result<()> {
        let installed = self.install(ifindex, gateway).await;
        let installed = installed.with_context(|| {
            format!("cannot resolve neighbour {gateway} on interface {ifindex}")
        })?;
        if let Some(found) = installed {
            *self.installed.entry((ifindex, gateway)).or_default() |= found;
        }
        Ok(())
    }

    /// Makes an entry, or takes over the one that is there; `None` if that is somebody else's.
    async fn install(&self, ifindex: u32, gateway: IpAddr) -> Result<Option<Found>, Error> {
        let request = || {
            let neighbours = self.handle.neighbours();
            let mut request = neighbours
                .add(ifindex, gateway)
                .state(NeighbourState::None)
                .flags(NeighbourFlags::Use);
            let managed = NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed);
            let origin = NeighbourAttribute::Protocol(kernel::ORIGIN);
            request.message_mut().attributes.extend([managed, origin]);
            request
        };
        // A new entry first: replacing would take the permanence from an administrator's entry.
        match request().execute().await {
            Err(Error::NetlinkError(error)) if is(&error, Errno::EEXIST) => {
                let known = self.find(ifindex, gateway).await?;
                let is_foreign = |known| is_static(known) || kernel::is_of_others(known);
                if known.as_ref().is_some_and(is_foreign) {
                    return Ok(None);
                }
                request().replace().execute().await?;
                Ok(Some(known.is_some_and(|known| !kernel::is_managed(&known))))
            }
            made => made.map(|()| Some(false)),
        }
    }

    async fn use_all(&self, neighbours: &[(u32, IpAddr)]) {
        for &(ifindex, address) in neighbours {
            if let Err(error) = self.use_one(ifindex, address).await {
                debug!("cannot have neighbour {address} on interface {ifindex} probed: {error}");
            }
        }
    }

    /// Has the kernel probe an entry as if it had sent to it, if the entry is STALE.
    async fn use_one(&self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        let Some(known) = self.find(ifindex, address).await? else {
            return Ok(());
        };
        // The request would take the permanence from an administrator's entry.
        if known.header.state != NeighbourState::Stale {
            return Ok(());
        }
        self.touch(&known, (ifindex, address), kernel::is_managed(&known))
            .await
    }

    /// Writes an entry that is there as it is, but for whether the kernel keeps it resolved, and uses it.
    async fn touch(
        &self,
        known: &NeighbourMessage,
        (ifindex, address): (u32, IpAddr),
        is_managed: bool,
    ) -> Result<(), Error> {
        let mut message = neighbour_message(ifindex, address);
        // What the request does not say again is taken away. Without NTF_USE, its state would be, too.
        message.header.flags = kept_flags(known) | NeighbourFlags::Use;
        if is_managed {
            let managed = NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed);
            message.attributes.push(managed);
        }
        // Without NLM_F_CREATE: an entry that has gone by now stays gone.
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let mut answers = self.handle.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::Error(error) if error.code.is_none() => {}
                NetlinkPayload::Error(error) if is(&error, Errno::ENOENT) => {}
                NetlinkPayload::Error(error) => return Err(Error::NetlinkError(error)),
                _ => {}
            }
        }
        Ok(())
    }

    async fn release(&mut self, ifindex: u32, gateway: IpAddr) -> Result<()> {
        let Some(found) = self.installed.remove(&(ifindex, gateway)) else {
            return Ok(());
        };
        self.remove(ifindex, gateway, found)
            .await
            .with_context(|| format!("cannot release neighbour {gateway} on interface {ifindex}"))
    }

    /// Removes an entry, unless it is somebody else's by now; one that was there before only loses what the router asked for.
    async fn remove(&self, ifindex: u32, gateway: IpAddr, found: Found) -> Result<(), Error> {
        let known = match self.find(ifindex, gateway).await? {
            Some(known) if !is_static(&known) && !kernel::is_of_others(&known) => known,
            _ => return Ok(()),
        };
        if found {
            return self.touch(&known, (ifindex, gateway), false).await;
        }
        let message = neighbour_message(ifindex, gateway);
        match self.handle.neighbours().del(message).execute().await {
            Err(Error::NetlinkError(error)) if is(&error, Errno::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// The kernel's entry for a neighbour.
    async fn find(&self, ifindex: u32, address: IpAddr) -> Result<Option<NeighbourMessage>, Error> {
        let message = RouteNetlinkMessage::GetNeighbour(neighbour_message(ifindex, address));
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST;
        let mut answers = self.handle.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(known)) => {
                    return Ok(Some(known));
                }
                // ENODEV: the link went, and its neighbours with it.
                NetlinkPayload::Error(error)
                    if is(&error, Errno::ENOENT) || is(&error, Errno::ENODEV) =>
                {
                    return Ok(None);
                }
                NetlinkPayload::Error(error) => return Err(Error::NetlinkError(error)),
                _ => {}
            }
        }
        Ok(None)
    }
}

fn neighbour_message(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = ifindex;
    let destination = match address {
        IpAddr::V4(address) => {
            message.header.family = AddressFamily::Inet;
            NeighbourAddress::Inet(address)
        }
        IpAddr::V6(address) => {
            message.header.family = AddressFamily::Inet6;
            NeighbourAddress::Inet6(address)
        }
    };
    message
        .attributes
        .push(NeighbourAttribute::Destination(destination));
    message
}

/// Flags of an entry that a request has to repeat, or they go.
fn kept_flags(neighbour: &NeighbourMessage) -> NeighbourFlags {
    neighbour.header.flags & NeighbourFlags::ExtLearned
}

fn is(error: &ErrorMessage, errno: Errno) -> bool {
    error.raw_code() == -(errno as i32)
}

/// The administrator's, or not in need of resolution.
fn is_static(neighbour: &NeighbourMessage) -> bool {
    matches!(
        neighbour.header.state,
        NeighbourState::Permanent | NeighbourState::Noarp
    )
}
