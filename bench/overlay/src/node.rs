//! A node of the DHT, or a peer of another overlay, on a thread of its own, in the namespace of its host: all its sockets, also those
//! that it opens later, are the host's.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::{SocketAddr, UdpSocket},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::{select, sync::mpsc as orders};
use xcast_overlay::{
    kademlia::Node,
    net::{Driver, Settings, Statistics},
    runtime::{Protocol, Random},
};
use xtask::testbed::netns;

use crate::bed::PATIENCE;

type Work<P> = Box<dyn FnOnce(&mut Driver<P>) + Send>;

enum Order<P> {
    Work(Work<P>),
    Die,
}

/// A node that stands still as long as this is there.
#[derive(Debug)]
pub struct Held {
    _until: mpsc::Sender<()>,
}

/// A node that runs.
pub struct RunningNode<P: Protocol = Node> {
    address: SocketAddr,
    orders: orders::UnboundedSender<Order<P>>,
    events: mpsc::Receiver<P::Event>,
    thread: JoinHandle<Result<Option<(P, Statistics)>>>,
}

impl<P: Protocol> fmt::Debug for RunningNode<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, .. } = self;
        f.debug_struct("RunningNode")
            .field("address", address)
            .finish_non_exhaustive()
    }
}

impl<P: Protocol<Event: Send> + Send + 'static> RunningNode<P> {
    /// Starts a node in a namespace, and waits until its socket is bound.
    ///
    /// # Errors
    ///
    /// There is no such namespace, or the address is not to be had.
    pub fn start(
        namespace: &str,
        address: SocketAddr,
        settings: Settings,
        node: impl FnOnce(Instant, Random) -> P + Send + 'static,
    ) -> Result<Self> {
        let (orders, to_do) = orders::unbounded_channel();
        let (told, events) = mpsc::channel();
        let (bound, is_bound) = mpsc::channel();
        let namespace = namespace.to_owned();
        let thread = thread::spawn(move || {
            netns::enter(&namespace, move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(async {
                    let socket = bind(address).with_context(|| format!("node {address}"))?;
                    let driver = Driver::on(socket, settings, node)
                        .with_context(|| format!("node {address}"))?;
                    let _ = bound.send(());
                    live(driver, to_do, &told).await
                })
            })?
        });
        match is_bound.recv() {
            Ok(()) => Ok(Self {
                address,
                orders,
                events,
                thread,
            }),
            Err(_) => match join(thread) {
                Err(error) => Err(error),
                Ok(_) => bail!("node {address} ended at once"),
            },
        }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has something done with the node, and waits for the answer.
    ///
    /// # Errors
    ///
    /// The node has ended.
    pub fn act<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut P, Instant) -> T + Send + 'static,
    ) -> Result<T> {
        self.with_driver(|driver| driver.command(work))
    }

    /// Has something done with the node's driver, and waits for the answer.
    ///
    /// # Errors
    ///
    /// The node has ended.
    pub fn with_driver<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Driver<P>) -> T + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = mpsc::channel();
        let work = move |driver: &mut Driver<P>| {
            let _ = reply.send(work(driver));
        };
        let ended = || anyhow!("node {} has ended", self.address);
        self.orders
            .send(Order::Work(Box::new(work)))
            .map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())
    }

    /// Stops the node, if something is so at this moment, until what is returned is dropped: nothing that comes
    /// meanwhile is read before.
    ///
    /// # Errors
    ///
    /// The node has ended.
    pub fn hold_if(&self, is_so: impl FnOnce(&P) -> bool + Send + 'static) -> Result<Option<Held>> {
        let (reply, answer) = mpsc::channel();
        let (held, until) = mpsc::channel();
        let work = move |driver: &mut Driver<P>| {
            let holds = is_so(driver.protocol());
            let _ = reply.send(holds);
            if holds {
                // Nothing is ever sent: it ends when the other end is dropped.
                let _ = until.recv();
            }
        };
        let ended = || anyhow!("node {} has ended", self.address);
        self.orders
            .send(Order::Work(Box::new(work)))
            .map_err(|_| ended())?;
        let holds = answer.recv().map_err(|_| ended())?;
        Ok(holds.then_some(Held { _until: held }))
    }

    /// Waits until the node's first router answers its probes.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn until_router_answers(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(cause) = self.with_driver(|driver| driver.router())? {
            if Instant::now() > deadline {
                bail!("no router answers: {cause:?}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The next event that `wanted` takes; others are dropped.
    ///
    /// # Errors
    ///
    /// None comes.
    pub fn wait<T>(&self, mut wanted: impl FnMut(P::Event) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left);
            let event = event.with_context(|| format!("node {} says nothing", self.address))?;
            if let Some(found) = wanted(event) {
                return Ok(found);
            }
        }
    }

    /// What has happened, without waiting for long.
    pub fn poll(&self, wait: Duration) -> Option<P::Event> {
        self.events.recv_timeout(wait).ok()
    }

    /// Ends it properly, and gives back what it was.
    ///
    /// # Errors
    ///
    /// It had failed.
    pub fn stop(self) -> Result<(P, Statistics)> {
        let Self {
            address,
            orders,
            thread,
            ..
        } = self;
        drop(orders);
        join(thread)?.with_context(|| format!("node {address} was killed"))
    }

    /// Ends it in the middle of whatever it does.
    ///
    /// # Errors
    ///
    /// It had failed.
    pub fn kill(self) -> Result<()> {
        let _ = self.orders.send(Order::Die);
        join(self.thread).map(drop)
    }
}

/// Binds a socket. An address that a node before had is waited for: a process that is being started holds a copy of every
/// descriptor until it calls `execve`.
fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let until = Instant::now() + PATIENCE;
    loop {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread
        .join()
        .unwrap_or_else(|payload| std::panic::resume_unwind(payload))
}

/// Works until nobody has orders any more.
async fn live<P: Protocol>(
    mut driver: Driver<P>,
    mut orders: orders::UnboundedReceiver<Order<P>>,
    told: &mpsc::Sender<P::Event>,
) -> Result<Option<(P, Statistics)>> {
    loop {
        select! {
            order = orders.recv() => match order {
                Some(Order::Work(work)) => work(&mut driver),
                Some(Order::Die) => return Ok(None),
                None => return Ok(Some(driver.close().await)),
            },
            event = driver.next() => {
                // That nobody listens is no error.
                let _ = told.send(event?);
            }
        }
    }
}
