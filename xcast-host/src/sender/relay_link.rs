//! Relays as a sender uses them: the socket that asks them, and by which packets go to the one that
//! [`Choice`] takes.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    time::Instant,
};

use nix::sys::socket::{MsgFlags, SockaddrStorage, sendto};
use tracing::{debug, info};

use super::{
    cause::UnicastCause,
    destination::Options,
    open_uplink::{OpenUplink, forbid_fragments},
    statistics::SenderStatistics,
    uplink::Relays,
};
use crate::{
    code_points::CodePoints,
    packet::{Entry, Template},
    relay::{
        Answer, Question, Wanted,
        choice::{Ask, Choice, Known, SourceAddress, Standing, Way},
        message::{Cookie, Nonce, decode_reply},
    },
};

/// Longest datagram that is received whole, in octets.
const BUFFER: usize = 1 << 16;
/// Datagrams of others that wait to be taken; the oldest give way.
const WAITING: usize = 256;

/// A datagram that came to the address that receivers see, where that is not the sender's own socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Who sent it.
    pub from: SocketAddr,
    /// What.
    pub payload: Vec<u8>,
}

/// A relay as a sender sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayStatus {
    /// Where it takes packets.
    pub address: SocketAddr,
    /// What is known of it.
    pub known: Known,
    /// The address and port that it sees the sender at.
    pub seen: Option<SocketAddr>,
}

/// How packets go to the relay that is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outlet {
    to: SocketAddr,
    cookie: Cookie,
    /// The source of the packets; without a port, that of the sender's own socket.
    source: (IpAddr, Option<u16>),
    /// The sender, where messages are in envelopes that name it.
    origin: Option<SocketAddr>,
}

/// One family's relays.
#[derive(Debug)]
pub(crate) struct RelayLink {
    socket: UdpSocket,
    relays: Vec<SocketAddr>,
    witness: Option<SocketAddr>,
    wants: Option<Wanted>,
    code_points: CodePoints,
    choice: Choice,
    nonces: RandomState,
    /// The last address that a relay saw, and whether it is one of this host.
    seen: Option<(IpAddr, bool)>,
    replies: VecDeque<Reply>,
    buffer: Vec<u8>,
    asked: u64,
}

impl RelayLink {
    /// A socket to ask by, at the address of the sender's own, with a port of its own.
    pub fn open(code_points: CodePoints, relays: &Relays, bound: IpAddr) -> io::Result<Self> {
        let ipv6 = bound.is_ipv6();
        let socket = UdpSocket::bind((bound, 0))?;
        socket.set_nonblocking(true)?;
        forbid_fragments(&socket, ipv6)?;
        let addresses: Vec<_> = relays.addresses(ipv6).collect();
        Ok(Self {
            choice: Choice::new(
                addresses.len(),
                relays.timing,
                relays.preference,
                relays.source,
            ),
            relays: addresses,
            witness: relays.witness.and_then(|witness| witness.address(ipv6)),
            wants: match relays.source {
                SourceAddress::Own => None,
                SourceAddress::Relayed | SourceAddress::Tested => Some(Wanted::Port),
                SourceAddress::Enveloped => Some(Wanted::Envelopes),
            },
            code_points,
            socket,
            nonces: RandomState::new(),
            seen: None,
            replies: VecDeque::new(),
            buffer: vec![0; BUFFER],
            asked: 0,
        })
    }

    /// Takes in what has come, and asks whom it is time to ask. `packet` is where questions are built.
    pub fn advance(
        &mut self,
        now: Instant,
        statistics: &mut SenderStatistics,
        packet: &mut Vec<u8>,
    ) {
        while let Ok((len, from)) = self.socket.recv_from(&mut self.buffer) {
            self.take_in(now, from, len, statistics);
        }
        let before = self.choice.changes();
        while let Some(ask) = {
            let nonce = self.nonce();
            self.choice.poll(now, nonce)
        } {
            self.asked += 1;
            statistics.probes += 1;
            if let Err(error) = self.ask(now, ask, packet) {
                debug!(relay = %self.relays[ask.relay], %error, "cannot ask");
            }
        }
        if self.choice.changes() != before
            && let Some((relay, _)) = self.choice.current(now)
        {
            info!(relay = %self.relays[relay], "another relay is taken");
        }
    }

    fn take_in(
        &mut self,
        now: Instant,
        from: SocketAddr,
        len: usize,
        statistics: &mut SenderStatistics,
    ) {
        let octets = &self.buffer[..len];
        let is_relay = self.relays.contains(&from) || self.witness == Some(from);
        if is_relay && let Some(answer) = Answer::decode(octets) {
            statistics.answers += u64::from(self.choice.answered(now, &answer));
            return;
        }
        let reply = match decode_reply(octets).filter(|_| is_relay) {
            Some((from, payload)) => Reply {
                from,
                payload: payload.to_vec(),
            },
            None => Reply {
                from,
                payload: octets.to_vec(),
            },
        };
        if self.replies.len() == WAITING {
            self.replies.pop_front();
        }
        self.replies.push_back(reply);
    }

    /// Random enough that nobody who does not see questions can answer one: SipHash under keys of the kernel.
    fn nonce(&self) -> Nonce {
        let mut hasher = self.nonces.build_hasher();
        hasher.write_u64(self.asked);
        hasher.finish().to_be_bytes()
    }

    fn ask(&self, now: Instant, ask: Ask, packet: &mut Vec<u8>) -> io::Result<()> {
        let to = self.relays[ask.relay];
        let answer = self.choice.answer(now, ask.relay);
        let question = Question {
            nonce: ask.nonce,
            cookie: answer.map_or([0; _], |answer| answer.cookie),
            through: ask.way != Way::Directly,
            wants: self.wants,
        };
        let question = question.encode();
        let past = match ask.way {
            Way::Directly => return send(&self.socket, &question, to),
            Way::Through => to,
            Way::Past => self.witness.unwrap_or(to),
        };
        let Some(answer) = answer else {
            return Ok(());
        };
        let entry = Entry {
            address: past.ip(),
            port: past.port(),
            dscp: None,
        };
        Template::new(self.code_points, answer.seen, &Options::default())
            .emit(&[entry], &question, packet)
            .map_err(io::Error::other)?;
        packet.splice(0..0, answer.cookie);
        send(&self.socket, packet, to)
    }

    /// How packets go at this time; `None` while there is no relay to use.
    pub fn outlet(&mut self, now: Instant) -> Option<Outlet> {
        let (relay, answer) = self.choice.current(now)?;
        let (to, seen) = (self.relays[relay], answer.seen);
        let cookie = answer.cookie;
        let relayed = answer.relayed.zip(answer.relayed_port());
        if let Some((cookie, port)) = relayed.filter(|_| self.choice.is_relayed(now, relay)) {
            let origin = (self.wants == Some(Wanted::Envelopes)).then_some(seen);
            return Some(Outlet {
                to,
                cookie,
                source: (to.ip(), Some(port)),
                origin,
            });
        }
        let is_own = match self.seen {
            Some((address, is_own)) if address == seen.ip() => is_own,
            // A socket can be bound to the addresses of its host only.
            _ => UdpSocket::bind((seen.ip(), 0)).is_ok(),
        };
        self.seen = Some((seen.ip(), is_own));
        // Behind a NAT, what receivers see is what the NAT makes of this socket, not of the sender's own.
        let source = (seen.ip(), (!is_own).then_some(seen.port()));
        Some(Outlet {
            to,
            cookie,
            source,
            origin: None,
        })
    }

    /// Opens an outlet.
    pub fn uplink(&self, outlet: Outlet) -> io::Result<OpenUplink> {
        let Outlet {
            to,
            cookie,
            source,
            origin,
        } = outlet;
        let socket = self.socket.try_clone()?;
        Ok(OpenUplink::relay(socket, to, cookie, source, origin))
    }

    /// Whether there is a relay to use.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self, now: Instant) -> Result<(), UnicastCause> {
        match self.choice.obstacle(now) {
            None => Ok(()),
            Some(Standing::Filtered) => Err(UnicastCause::Filtered),
            Some(Standing::NotRelayed) => Err(UnicastCause::NotRelayed),
            Some(_) => Err(UnicastCause::NoAnswer),
        }
    }

    /// When a relay is asked next; `None` for at once.
    pub fn deadline(&self) -> Option<Instant> {
        self.choice.deadline()
    }

    /// The oldest datagram that has come to the address that receivers see.
    pub fn take_reply(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }

    /// What is known of the relays.
    pub fn status(&self, now: Instant) -> impl Iterator<Item = RelayStatus> {
        self.relays
            .iter()
            .enumerate()
            .map(move |(relay, &address)| RelayStatus {
                address,
                known: self.choice.known(now, relay),
                seen: self.choice.answer(now, relay).map(|answer| answer.seen),
            })
    }
}

impl AsFd for RelayLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn send(socket: &UdpSocket, octets: &[u8], to: SocketAddr) -> io::Result<()> {
    let to = SockaddrStorage::from(to);
    sendto(socket.as_raw_fd(), octets, &to, MsgFlags::MSG_DONTWAIT)?;
    Ok(())
}
