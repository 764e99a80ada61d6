//! The loop that every protocol needs: receive, tell the time, send.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use bytes::Bytes;
use socket2::{Domain, Protocol as Transport, SockRef, Socket, Type};
use tokio::{select, time};
use tracing::debug;
use xcast_host::{UnicastCause, envelope::Tag, queue::TagTaken, tokio::Receiver};

use super::{
    error::NetError, fanout::Notes, outbox::Outbox, settings::Settings, statistics::Statistics,
};
use crate::{
    krpc::Family,
    runtime::{Protocol, Random, WayOut},
};

/// A pause that nothing interrupts: much longer than any timer of a protocol.
const IDLE: Duration = Duration::from_secs(3600);

/// A protocol on a UDP socket.
///
/// It works while [`next`](Self::next) is awaited. A program that is busy with something else for
/// long loses datagrams, since its socket's buffer fills up.
#[derive(Debug)]
pub struct Driver<P> {
    protocol: P,
    receiver: Receiver,
    outbox: Outbox,
    local: SocketAddr,
    received: u64,
    /// How the protocol thinks that messages to several of IPv4 and of IPv6 leave.
    ways_out: [Option<WayOut>; 2],
}

/// The address families that a socket of this local address serves: both for `[::]`.
pub fn families(local: SocketAddr) -> Vec<Family> {
    match local.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() => Family::ALL.to_vec(),
        _ => vec![Family::of(&local)],
    }
}

impl<P: Protocol> Driver<P> {
    /// Binds a socket, and makes a protocol for it with the time and random numbers of a seed that
    /// the kernel gave (`getrandom(2)`).
    ///
    /// A socket of `[::]` serves both families, one of another address its own.
    ///
    /// # Errors
    ///
    /// The address is not to be had, the uplink contradicts itself or needs `CAP_NET_RAW`, or the
    /// kernel has no random numbers.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn bind(
        local: SocketAddr,
        settings: Settings,
        protocol: impl FnOnce(Instant, Random) -> P,
    ) -> Result<Self, NetError> {
        let socket = bind(local).map_err(|source| NetError::Bind { local, source })?;
        Self::on(socket, settings, protocol)
    }

    /// Like [`bind`](Self::bind), on a socket that is bound already. It is made non-blocking.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn on(
        socket: UdpSocket,
        settings: Settings,
        protocol: impl FnOnce(Instant, Random) -> P,
    ) -> Result<Self, NetError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(NetError::Random)?;
        let wanted = settings.receive_buffer_octets;
        if let Err(error) = SockRef::from(&socket).set_recv_buffer_size(wanted) {
            debug!(%error, "the receive buffer stays as it is");
        }
        let now = Instant::now();
        let outbox = |socket| Outbox::new(socket, settings.sender, settings.combining, now);
        let outbox = socket
            .try_clone()
            .and_then(outbox)
            .map_err(NetError::Uplink)?;
        let ready = |socket: UdpSocket| {
            socket.set_nonblocking(true)?;
            let local = socket.local_addr()?;
            io::Result::Ok((tokio::net::UdpSocket::from_std(socket)?, local))
        };
        let (socket, local) = ready(socket).map_err(NetError::Receive)?;
        let notes = settings.fanouts.map(|to| Notes::new(to, local));
        Ok(Self {
            protocol: protocol(now, Random::new(seed)),
            receiver: Receiver::new(socket, settings.tag),
            outbox: outbox.with_notes(notes),
            local,
            received: 0,
            ways_out: [None; 2],
        })
    }

    /// Gives a command to the protocol. What it sends leaves when [`next`](Self::next) is awaited.
    pub fn command<T>(&mut self, command: impl FnOnce(&mut P, Instant) -> T) -> T {
        self.tell_ways_out();
        command(&mut self.protocol, Instant::now())
    }

    /// The protocol.
    pub fn protocol(&self) -> &P {
        &self.protocol
    }

    /// Works until the protocol has something to tell.
    ///
    /// A future that is dropped has lost nothing, so this can be one of several branches of
    /// `tokio::select!`.
    ///
    /// # Errors
    ///
    /// The socket has failed. What goes wrong with single packets is counted
    /// ([`Statistics::failed`]).
    pub async fn next(&mut self) -> Result<P::Event, NetError> {
        loop {
            if let Some(event) = self.turn() {
                return Ok(event);
            }
            let now = Instant::now();
            let wake = [self.protocol.poll_timeout(), self.outbox.deadline()];
            let wake = wake.into_iter().flatten().min().unwrap_or(now + IDLE);
            select! {
                // What has come in may be what a timer waits for.
                biased;
                received = self.receiver.receive() => match received {
                    Ok(received) => {
                        self.received += 1;
                        let datagram = Bytes::copy_from_slice(received.payload);
                        let (now, from) = (Instant::now(), received.from);
                        self.tell_ways_out();
                        self.protocol.handle(now, from, datagram);
                    }
                    Err(error) if is_of_one_packet(&error) => debug!(%error, "a packet came back"),
                    Err(error) => return Err(NetError::Receive(error)),
                },
                () = time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Waits until a router has answered, so that messages leave as Xcast from the first on; until
    /// then they are unicast. Works on meanwhile. Returns whether it came in time.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next). Events that happen meanwhile are lost, so call this first.
    pub async fn wait_for_router(&mut self, timeout: Duration) -> Result<bool, NetError> {
        let deadline = Instant::now() + timeout;
        while self.router().is_err() {
            if Instant::now() >= deadline || self.router() == Err(UnicastCause::Configured) {
                return Ok(false);
            }
            let look = time::timeout(Duration::from_millis(20), self.next());
            if let Ok(Err(error)) = look.await {
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Whether messages go by a router at this time, in every family that uplink and socket have.
    ///
    /// # Errors
    ///
    /// Why they do not.
    pub fn router(&self) -> Result<(), UnicastCause> {
        self.outbox.router()
    }

    /// From now on all messages leave as unicast, or no longer so: to compare, with the same
    /// protocol in the same state.
    pub fn set_unicast(&mut self, unicast: bool) {
        self.outbox.set_unicast(Instant::now(), unicast);
    }

    /// Lets messages to this receiver share packets with others that are the same in part: it opens
    /// envelopes with this tag.
    ///
    /// # Errors
    ///
    /// Another receiver has the tag.
    pub fn opt_in(&mut self, receiver: SocketAddr, tag: Tag) -> Result<(), TagTaken> {
        self.outbox.opt_in(receiver, tag)
    }

    /// Takes it back.
    pub fn opt_out(&mut self, receiver: SocketAddr) {
        self.outbox.opt_out(receiver);
    }

    /// The address of the socket.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// What was done so far.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            received: self.received,
            ..self.outbox.statistics()
        }
    }

    /// Sends what the protocol has still to say and what waits in the queue, and closes the socket.
    /// Gives back the protocol as it was left.
    pub async fn close(mut self) -> (P, Statistics) {
        let now = Instant::now();
        while let Some(transmit) = self.protocol.poll_transmit() {
            self.outbox.push(now, transmit);
        }
        self.outbox.flush(now);
        while let Some(room) = self.outbox.waits_for_room() {
            time::sleep_until(room.into()).await;
            self.outbox.work(Instant::now());
        }
        let statistics = self.statistics();
        (self.protocol, statistics)
    }

    /// Tells the protocol how messages to several leave, where that has changed. What waits in the queue
    /// at that moment was reckoned otherwise.
    fn tell_ways_out(&mut self) {
        let ways = self.outbox.ways_out();
        for ((way, known), ipv6) in ways.into_iter().zip(&mut self.ways_out).zip([false, true]) {
            if *known != Some(way) {
                *known = Some(way);
                self.protocol.set_way_out(ipv6, way);
            }
        }
    }

    /// Does all that is due now.
    fn turn(&mut self) -> Option<P::Event> {
        let now = Instant::now();
        self.outbox.tend(now);
        self.tell_ways_out();
        if self.protocol.poll_timeout().is_some_and(|at| at <= now) {
            self.protocol.handle_timeout(now);
        }
        while let Some(transmit) = self.protocol.poll_transmit() {
            self.outbox.push(now, transmit);
        }
        self.outbox.work(now);
        self.protocol.poll_event()
    }
}

fn bind(local: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(local),
        Type::DGRAM,
        Some(Transport::UDP),
    )?;
    if let IpAddr::V6(ip) = local.ip() {
        // Whatever net.ipv6.bindv6only says.
        socket.set_only_v6(!ip.is_unspecified())?;
    }
    socket.bind(&local.into())?;
    Ok(socket.into())
}

/// Errors that an earlier packet brought back, for example by ICMP. The socket is as good as before.
fn is_of_one_packet(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionReset | HostUnreachable | Interrupted | NetworkUnreachable
    )
}
