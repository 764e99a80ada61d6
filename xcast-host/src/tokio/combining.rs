//! The combining queue with a clock and a sender.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ::tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time,
};
use tracing::{debug, warn};

use super::sender::Sender;
use crate::{
    envelope::Tag,
    packet::datagram_overhead,
    queue::{Message, Queue, QueueLimits, QueueStatistics, Refusal, TagTaken, Transmit},
    sender::{Destination, SendError, SenderStatistics},
};

/// Messages on their way to the task, beside those in the queue.
const BACKLOG: usize = 1024;

/// How late the runtime's timers may be on an idle machine: its ticks and the kernel's waiting are
/// both rounded up to milliseconds.
const TIMER: Duration = Duration::from_millis(2);

/// Most commands taken in before what is due is sent.
const BURST: usize = 64;

/// Sends messages through a [combining queue](crate::queue).
///
/// A task owns the queue and the sender. While no router can be used, no envelopes are sent: each
/// destination would get all of one for nothing.
#[derive(Debug)]
pub struct CombiningSender {
    commands: mpsc::Sender<Command>,
    task: JoinHandle<Report>,
    /// Largest packet the sender sends, in octets.
    mtu: usize,
}

/// What queue and sender have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Report {
    /// The queue.
    pub queue: QueueStatistics,
    /// The sender.
    pub sender: SenderStatistics,
    /// Packets that could not be sent, or not to everyone; the log has each.
    pub failures: u64,
}

#[derive(Debug)]
enum Command {
    Push(Message),
    OptIn(SocketAddr, Tag, oneshot::Sender<Result<(), TagTaken>>),
    OptOut(SocketAddr),
    Flush(oneshot::Sender<Report>),
}

impl CombiningSender {
    /// Starts the task.
    ///
    /// Messages wait for [`QueueLimits::max_delay`] less 2 ms, which the runtime's timers may add. If
    /// nothing is left of it, only messages that come in one burst are combined. On a busy machine
    /// the task may run later still; [`QueueStatistics::longest_delay_us`] tells.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn new(sender: Sender, limits: QueueLimits) -> Self {
        let mtu = sender.settings().limits.mtu_octets;
        let (commands, inbox) = mpsc::channel(BACKLOG);
        let limits = QueueLimits {
            max_delay: limits.max_delay.saturating_sub(TIMER),
            ..limits
        };
        let worker = Worker {
            queue: Queue::new(limits),
            sender,
            failures: 0,
        };
        Self {
            commands,
            task: ::tokio::spawn(worker.run(inbox)),
            mtu,
        }
    }

    /// Queues a message. Waits while there is no room.
    ///
    /// # Errors
    ///
    /// A destination cannot be sent to, or the message does not fit in a packet. What goes wrong when it leaves
    /// is logged and counted ([`Report::failures`]).
    pub async fn send(&self, message: Message) -> Result<(), SendError> {
        let payload = message.octets();
        let is_ipv6 = |to: &SocketAddr| to.ip().to_canonical().is_ipv6();
        let ipv6 = message.destinations.iter().any(is_ipv6);
        let largest = self.mtu.saturating_sub(datagram_overhead(ipv6));
        if payload > largest {
            return Err(SendError::TooLarge { payload, largest });
        }
        for (index, address) in message.destinations.iter().enumerate() {
            let address = *address;
            let entry = Destination::from(address).entry();
            entry.map_err(|reason| SendError::Destination {
                index,
                address,
                reason,
            })?;
        }
        self.command(Command::Push(message)).await
    }

    /// Lets messages to this destination be combined into envelopes, which its receiver opens with
    /// this tag.
    ///
    /// # Errors
    ///
    /// The sender is closed. The inner result says whether another destination has the tag.
    pub async fn opt_in(
        &self,
        destination: SocketAddr,
        tag: Tag,
    ) -> Result<Result<(), TagTaken>, SendError> {
        let (answer, answered) = oneshot::channel();
        self.command(Command::OptIn(destination, tag, answer))
            .await?;
        answered.await.map_err(|_| SendError::Closed)
    }

    /// Takes it back: the destination gets ordinary datagrams only.
    ///
    /// # Errors
    ///
    /// The sender is closed.
    pub async fn opt_out(&self, destination: SocketAddr) -> Result<(), SendError> {
        self.command(Command::OptOut(destination)).await
    }

    /// Sends all that waits, and says what was done so far.
    ///
    /// # Errors
    ///
    /// The sender is closed.
    pub async fn flush(&self) -> Result<Report, SendError> {
        let (answer, answered) = oneshot::channel();
        self.command(Command::Flush(answer)).await?;
        answered.await.map_err(|_| SendError::Closed)
    }

    /// Sends all that waits, and ends. Dropping does so, too, but does not wait for it.
    ///
    /// # Errors
    ///
    /// The task has failed.
    pub async fn close(self) -> Result<Report, SendError> {
        drop(self.commands);
        self.task.await.map_err(|_| SendError::Closed)
    }

    async fn command(&self, command: Command) -> Result<(), SendError> {
        let sent = self.commands.send(command).await;
        sent.map_err(|_| SendError::Closed)
    }
}

struct Worker {
    queue: Queue,
    sender: Sender,
    failures: u64,
}

impl Worker {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) -> Report {
        loop {
            let command = match self.queue.deadline() {
                None => inbox.recv().await,
                Some(deadline) => match time::timeout_at(deadline.into(), inbox.recv()).await {
                    Ok(command) => command,
                    Err(_) => {
                        self.transmit().await;
                        continue;
                    }
                },
            };
            let Some(command) = command else {
                break;
            };
            self.handle(command).await;
            for _ in 1..BURST {
                match inbox.try_recv() {
                    Ok(command) => self.handle(command).await,
                    Err(_) => break,
                }
            }
            self.transmit().await;
        }
        self.queue.flush();
        self.transmit().await;
        debug!(queue = %self.queue.statistics(), sender = %self.sender.statistics(), "closed");
        self.report()
    }

    async fn handle(&mut self, command: Command) {
        match command {
            Command::Push(message) => self.push(message).await,
            Command::OptIn(destination, tag, answer) => {
                // Whoever asked may be gone.
                let _ = answer.send(self.queue.opt_in(destination, tag));
            }
            Command::OptOut(destination) => self.queue.opt_out(destination),
            Command::Flush(answer) => {
                self.queue.flush();
                self.transmit().await;
                let _ = answer.send(self.report());
            }
        }
    }

    async fn push(&mut self, message: Message) {
        let Err(refused) = self.queue.push(Instant::now(), message) else {
            return;
        };
        // What waits leaves early rather than keep the caller waiting.
        self.queue.flush();
        self.transmit().await;
        let message = refused.message;
        if let Err(refused) = self.queue.push(Instant::now(), message) {
            debug_assert_eq!(refused.reason, Refusal::TooLong);
            self.transmit_past_the_queue(refused.message).await;
        }
    }

    /// Sends what is due.
    async fn transmit(&mut self) {
        while let Some(transmit) = self.queue.poll(Instant::now()) {
            self.send(&transmit).await;
        }
    }

    async fn send(&mut self, transmit: &Transmit) {
        // Not to be combined for a family that has no router.
        let has_router = |ip: IpAddr| self.sender.router_for(ip).is_ok();
        if transmit.destinations().all(|to| has_router(to.ip())) {
            let to: Vec<_> = transmit.destinations().collect();
            self.send_to(&to, &transmit.payload()).await;
        } else {
            for (to, payload) in transmit.apart() {
                self.send_to(&to, &payload).await;
            }
        }
    }

    /// A message that the queue has no room for even when it is empty.
    async fn transmit_past_the_queue(&mut self, message: Message) {
        let payload = message.segments.concat();
        self.send_to(&message.destinations, &payload).await;
    }

    async fn send_to(&mut self, to: &[SocketAddr], payload: &[u8]) {
        if let Err(error) = self.sender.send(to, payload).await {
            self.failures += 1;
            warn!(%error, "message not sent, or not to everyone");
        }
    }

    fn report(&self) -> Report {
        Report {
            queue: *self.queue.statistics(),
            sender: *self.sender.statistics(),
            failures: self.failures,
        }
    }
}
