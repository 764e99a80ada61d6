//! An open uplink: sockets that reach the first router, and probes.

use std::{
    borrow::Cow,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    sync::atomic::{AtomicU8, Ordering},
};

use nix::{
    cmsg_space,
    errno::Errno,
    ifaddrs::getifaddrs,
    net::if_::if_nametoindex,
    sys::socket::{
        ControlMessageOwned, MsgFlags, RecvMsg, SockaddrStorage, recv, recvmsg, send, sendmsg,
        setsockopt,
        sockopt::{Ipv4RecvErr, Ipv6RecvErr},
    },
};
use socket2::SockRef;
use xcast_common::wire::origin;

use super::uplink::{PROBE_PORT, Uplink};
use crate::{
    packet::{Entry, datagram_overhead},
    raw_socket::RawSocket,
    relay::message::Cookie,
};

/// What probes say, for those who see one.
pub(crate) const PROBE: &[u8] = b"xcast probe";

/// An uplink that is open.
#[derive(Debug)]
pub(crate) struct OpenUplink {
    link: Link,
    /// Source address of the packets.
    pub source: IpAddr,
    /// Source port of the packets; `None` for that of the sender's own socket.
    pub source_port: Option<u16>,
}

#[derive(Debug)]
enum Link {
    Native(RawSocket),
    Tunnel {
        socket: UdpSocket,
        probe_at: SocketAddr,
        /// Of the outer packets, as the socket has it.
        dscp: AtomicU8,
    },
    Relay {
        socket: UdpSocket,
        to: SocketAddr,
        cookie: Cookie,
        /// What comes before each message.
        envelope: Option<[u8; origin::LEN]>,
    },
}

/// A router that was asked.
#[derive(Debug)]
pub(crate) struct Probe {
    socket: UdpSocket,
    native: bool,
}

impl OpenUplink {
    /// Opens an uplink for the family of `bound`; `None` for one that does not
    /// [serve](Uplink::serves) it.
    ///
    /// Packets have the source address `bound` or, if that is unspecified, the one the kernel
    /// chooses towards the router, or towards `toward` where the router is on this host.
    ///
    /// # Errors
    ///
    /// There is no such interface, no permission, or no route to the router.
    pub fn open(uplink: &Uplink, bound: IpAddr, toward: IpAddr) -> io::Result<Option<Self>> {
        let ipv6 = bound.is_ipv6();
        match uplink {
            _ if !uplink.serves(ipv6) => Ok(None),
            Uplink::Native { interface, .. } => {
                let index = if_nametoindex(interface.as_str())?;
                // The router looks at nothing but the IP packet of what comes by its own interface.
                let socket =
                    RawSocket::packet(index, [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], ipv6)?;
                let source = match bound.is_unspecified() {
                    false => bound,
                    true => match connected(bound, (toward, PROBE_PORT).into()) {
                        Ok(socket) => source_of(&socket)?,
                        // A router need not have a route to everywhere.
                        Err(error) => own_address(ipv6).ok_or(error)?,
                    },
                };
                let link = Link::Native(socket);
                Ok(Some(Self {
                    link,
                    source,
                    source_port: None,
                }))
            }
            Uplink::Udp {
                router, probe_port, ..
            } => {
                let Some(router) = router.address(ipv6) else {
                    return Ok(None);
                };
                let socket = connected(bound, router)?;
                forbid_fragments(&socket, ipv6)?;
                report_refusals(&socket, ipv6)?;
                let mut probe_at = router;
                probe_at.set_port(*probe_port);
                Ok(Some(Self {
                    source: source_of(&socket)?,
                    source_port: None,
                    link: Link::Tunnel {
                        socket,
                        probe_at,
                        dscp: AtomicU8::new(0),
                    },
                }))
            }
            // Opened by those who know which relay to use.
            Uplink::Relays { .. } | Uplink::Unicast => Ok(None),
        }
    }

    /// To a relay, by a socket that may send to others, too. Packets go behind this cookie, and messages in an envelope
    /// that names their origin, if that is given.
    pub fn relay(
        socket: UdpSocket,
        to: SocketAddr,
        cookie: Cookie,
        (source, source_port): (IpAddr, Option<u16>),
        origin: Option<SocketAddr>,
    ) -> Self {
        Self {
            link: Link::Relay {
                socket,
                to,
                cookie,
                envelope: origin.map(origin::encode),
            },
            source,
            source_port,
        }
    }

    /// What packets carry for a message.
    pub fn content<'a>(&self, message: &'a [u8]) -> Cow<'a, [u8]> {
        match &self.link {
            Link::Relay {
                envelope: Some(envelope),
                ..
            } => [envelope, message].concat().into(),
            _ => message.into(),
        }
    }

    /// Octets in front of each Xcast packet, and those of an envelope in it.
    pub fn overhead_octets(&self) -> usize {
        match &self.link {
            Link::Native(_) => 0,
            Link::Tunnel { .. } => datagram_overhead(self.source.is_ipv6()),
            Link::Relay {
                cookie, envelope, ..
            } => {
                let envelope_len = envelope.map_or(0, |envelope| envelope.len());
                datagram_overhead(self.source.is_ipv6()) + cookie.len() + envelope_len
            }
        }
    }

    /// Sends one packet, given from its IP header on, with this DSCP, which an outer packet has as
    /// well (RFC 2983 section 3.1, the uniform model). Never waits.
    pub fn send(&self, packet: &[u8], wanted: u8) -> io::Result<()> {
        match &self.link {
            Link::Native(socket) => socket.send(packet),
            Link::Tunnel { socket, dscp, .. } => {
                if dscp.load(Ordering::Relaxed) != wanted {
                    let value = u32::from(wanted) << 2;
                    match self.source {
                        IpAddr::V4(_) => SockRef::from(socket).set_tos_v4(value)?,
                        IpAddr::V6(_) => SockRef::from(socket).set_tclass_v6(value)?,
                    }
                    dscp.store(wanted, Ordering::Relaxed);
                }
                send(socket.as_raw_fd(), packet, MsgFlags::MSG_DONTWAIT)?;
                Ok(())
            }
            Link::Relay {
                socket, to, cookie, ..
            } => {
                let parts = [IoSlice::new(cookie), IoSlice::new(packet)];
                let to = SockaddrStorage::from(*to);
                let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
                sendmsg(fd, &parts, &[], flags, Some(&to))?;
                Ok(())
            }
        }
    }

    /// Whether packets can be refused after they have left.
    pub fn can_be_refused(&self) -> bool {
        matches!(self.link, Link::Tunnel { .. })
    }

    /// An error that has come back for a packet that had left; a later [`send`](Self::send) would
    /// report it.
    pub fn error(&self) -> Option<io::Error> {
        match &self.link {
            // What comes of packets to a relay, its answers say.
            Link::Native(_) | Link::Relay { .. } => None,
            Link::Tunnel { socket, .. } => socket.take_error().ok().flatten(),
        }
    }

    /// The beginnings of packets that had left and that somebody on the way, or the router's host,
    /// has refused by ICMP since this was called last.
    pub fn refused(&self) -> Vec<Vec<u8>> {
        let mut refused = Vec::new();
        let Link::Tunnel { socket, .. } = &self.link else {
            return refused;
        };
        let mut buffer = [0; 2048];
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let mut control = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
            let message = recvmsg::<SockaddrStorage>(
                socket.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
            );
            let (len, by_icmp) = match message {
                Ok(message) => (message.bytes, is_by_icmp(&message)),
                Err(Errno::EINTR) => continue,
                Err(_) => return refused,
            };
            if by_icmp {
                refused.push(buffer[..len].to_vec());
            }
        }
    }

    /// A probe by this uplink: its socket, the port it is at, and the destination to name.
    pub fn probe(&self) -> io::Result<(Probe, u16, Entry)> {
        let (socket, to) = match &self.link {
            Link::Native(_) => {
                let socket = UdpSocket::bind((self.source, 0))?;
                let port = socket.local_addr()?.port();
                (socket, SocketAddr::from((self.source, port)))
            }
            // Its questions are its probes.
            Link::Relay { .. } => return Err(io::ErrorKind::Unsupported.into()),
            Link::Tunnel { probe_at, .. } => (connected(self.source, *probe_at)?, *probe_at),
        };
        let port = socket.local_addr()?.port();
        let native = matches!(self.link, Link::Native(_));
        let entry = Entry {
            address: to.ip(),
            port: to.port(),
            dscp: None,
        };
        Ok((Probe { socket, native }, port, entry))
    }
}

impl AsFd for OpenUplink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.link {
            Link::Native(socket) => socket.as_fd(),
            Link::Tunnel { socket, .. } | Link::Relay { socket, .. } => socket.as_fd(),
        }
    }
}

impl Probe {
    /// Whether the answer has come. Never waits.
    pub fn is_answered(&self) -> bool {
        let mut buffer = [0; PROBE.len() + 1];
        match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(len) => !self.native || &buffer[..len] == PROBE,
            Err(errno) => !self.native && errno == Errno::ECONNREFUSED,
        }
    }
}

impl AsFd for Probe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn connected(from: IpAddr, to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((from, 0))?;
    socket.connect(to)?;
    Ok(socket)
}

fn source_of(socket: &UdpSocket) -> io::Result<IpAddr> {
    Ok(socket.local_addr()?.ip())
}

/// The first address of this host that others can reach.
fn own_address(ipv6: bool) -> Option<IpAddr> {
    let addresses = getifaddrs().ok()?.filter_map(|interface| interface.address);
    let ips = addresses.filter_map(|address| match ipv6 {
        false => Some(address.as_sockaddr_in()?.ip().into()),
        true => Some(address.as_sockaddr_in6()?.ip().into()),
    });
    ips.into_iter().find(|ip| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    })
}

/// Any address that is not special: it stands for the way out where no destination is known yet.
pub(crate) fn anywhere(ipv6: bool) -> IpAddr {
    match ipv6 {
        false => Ipv4Addr::new(198, 51, 100, 1).into(),
        true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// Whether a message of the error queue is about a packet that somebody else refused.
fn is_by_icmp<S>(message: &RecvMsg<'_, '_, S>) -> bool {
    let origins = message
        .cmsgs()
        .into_iter()
        .flatten()
        .filter_map(|control| match control {
            ControlMessageOwned::Ipv4RecvErr(error, _) => Some(error.ee_origin),
            ControlMessageOwned::Ipv6RecvErr(error, _) => Some(error.ee_origin),
            _ => None,
        });
    let icmp = [libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6];
    origins.into_iter().any(|origin| icmp.contains(&origin))
}

/// Has the kernel keep what comes back by ICMP, with the beginning of the packet it is about.
fn report_refusals(socket: &UdpSocket, ipv6: bool) -> io::Result<()> {
    match ipv6 {
        false => setsockopt(socket, Ipv4RecvErr, &true)?,
        true => setsockopt(socket, Ipv6RecvErr, &true)?,
    }
    Ok(())
}

/// Routers drop fragments of Xcast packets: rather be told that one is too large.
pub(super) fn forbid_fragments(socket: &UdpSocket, ipv6: bool) -> io::Result<()> {
    let (level, option, value) = match ipv6 {
        false => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        ),
        true => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        ),
    };
    // SAFETY: the option reads a `c_int`, whose address and size these are.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Errno::result(answer)?;
    Ok(())
}
