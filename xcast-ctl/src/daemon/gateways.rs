//! Has the kernel keep gateways resolved, so that the first packet need not wait.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use tokio::{sync::mpsc, task::JoinHandle};
use tracing::{debug, warn};

use crate::sync::Netlink;

/// Carries requests to the kernel out one after the other, beside the event loop.
pub struct Gateways {
    requests: mpsc::UnboundedSender<Request>,
    task: JoinHandle<()>,
}

enum Request {
    Resolve(u32, IpAddr),
    Release(u32, IpAddr),
}

impl Gateways {
    /// Starts the task.
    pub fn start(netlink: Arc<Netlink>) -> Self {
        // Unbounded, but there are no more requests on the way than gateways change at a time.
        let (requests, queue) = mpsc::unbounded_channel();
        Self {
            requests,
            task: tokio::spawn(carry_out(netlink, queue)),
        }
    }

    /// Keep this gateway resolved.
    pub fn resolve(&self, ifindex: u32, gateway: IpAddr) {
        self.send(Request::Resolve(ifindex, gateway));
    }

    /// This gateway need not be kept resolved any more.
    pub fn release(&self, ifindex: u32, gateway: IpAddr) {
        self.send(Request::Release(ifindex, gateway));
    }

    /// Releases every gateway and ends.
    pub async fn stop(self) {
        drop(self.requests);
        if let Err(error) = self.task.await {
            debug!("{error}");
        }
    }

    fn send(&self, request: Request) {
        // The task only ends with this handle.
        let _ = self.requests.send(request);
    }
}

async fn carry_out(netlink: Arc<Netlink>, mut queue: mpsc::UnboundedReceiver<Request>) {
    let mut held = HashSet::new();
    while let Some(request) = queue.recv().await {
        let result = match request {
            Request::Resolve(ifindex, gateway) => {
                held.insert((ifindex, gateway));
                netlink.resolve(ifindex, gateway).await
            }
            Request::Release(ifindex, gateway) => {
                held.remove(&(ifindex, gateway));
                netlink.release(ifindex, gateway).await
            }
        };
        if let Err(error) = result {
            // Traffic then waits for the first resolution, in the kernel's hands.
            warn!("{:#}", anyhow::Error::from(error));
        }
    }
    for (ifindex, gateway) in held {
        if let Err(error) = netlink.release(ifindex, gateway).await {
            debug!("{:#}", anyhow::Error::from(error));
        }
    }
}
