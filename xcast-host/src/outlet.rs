//! Ways for Xcast packets to leave this host.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{MsgFlags, recv, send},
};

use crate::{CodePoints, packet::Entry, plan::DATAGRAM_OVERHEAD, raw::Way};

/// The way Xcast packets take to the first router.
///
/// # How a router is known to work
///
/// By probes, small Xcast packets with one destination, which a working router turns into ordinary
/// unicast that comes back in some form; see [`Liveness`](crate::liveness::Liveness) for when.
///
/// * *native*: the destination is the probe's own socket. The router hands the packet to this
///   host's kernel, which delivers it.
/// * *in UDP*: a packet from the sender to itself would be dropped by its kernel when it came back
///   from the network, because its source is one of the host's own addresses. So the destination
///   is the *router's own address*, at a port where nobody listens: the router hands the packet to
///   its kernel, and that answers with ICMP port unreachable, which ends up at the probe's socket.
///   An answer from a program that does listen there counts as well. Without an Xcast router the
///   packet is never unwrapped, and the kernel's own port unreachable, for the outer port, says so
///   at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlet {
    /// Raw packets into the interface of a router on this host. Needs CAP_NET_RAW.
    Native {
        /// Numbers that mark a packet as Xcast.
        code_points: CodePoints,
        /// The router's own interface.
        interface: String,
    },
    /// Xcast packets inside UDP, to a router on the network. No privileges are needed.
    ///
    /// The router accepts them only with an inner source that is the outer source, so a NAT in
    /// between means unicast.
    Udp {
        /// Numbers that mark a packet as Xcast.
        code_points: CodePoints,
        /// The router's own address, and the UDP port it takes Xcast packets at.
        router: SocketAddr,
        /// UDP port of the router's address where nobody listens, or where somebody answers.
        probe_port: u16,
    },
    /// None: every destination gets a datagram of its own.
    Unicast,
}

/// The discard port, where hardly anybody listens.
const PROBE_PORT: u16 = 9;

/// What probes say, for those who see one.
pub(crate) const PROBE: &[u8] = b"xcast probe";

impl Outlet {
    /// Into `xcast0`, as a router calls its interface unless told otherwise.
    pub fn native(code_points: CodePoints) -> Self {
        Self::Native {
            code_points,
            interface: "xcast0".to_owned(),
        }
    }

    /// Inside UDP to a router.
    pub fn udp(code_points: CodePoints, router: SocketAddr) -> Self {
        Self::Udp {
            code_points,
            router,
            probe_port: PROBE_PORT,
        }
    }

    pub(crate) fn code_points(&self) -> Option<CodePoints> {
        match self {
            Self::Native { code_points, .. } | Self::Udp { code_points, .. } => Some(*code_points),
            Self::Unicast => None,
        }
    }
}

/// An outlet that is open.
#[derive(Debug)]
pub(crate) struct Exit {
    link: Link,
    /// Source address of the packets.
    pub source: Ipv4Addr,
}

#[derive(Debug)]
enum Link {
    Native(Way),
    Tunnel {
        socket: UdpSocket,
        probe_at: SocketAddrV4,
    },
}

/// A router that was asked.
#[derive(Debug)]
pub(crate) struct Probe {
    socket: UdpSocket,
    native: bool,
}

impl Exit {
    /// Opens an outlet; `None` for one that sends no Xcast packets.
    ///
    /// Packets have the source address `bound` or, if that is unspecified, the one the kernel
    /// chooses towards the router, or towards `toward` where the router is on this host.
    ///
    /// # Errors
    ///
    /// There is no such interface, no permission, or no route to the router.
    pub fn open(outlet: &Outlet, bound: Ipv4Addr, toward: Ipv4Addr) -> io::Result<Option<Self>> {
        match outlet {
            Outlet::Native { interface, .. } => {
                let index = if_nametoindex(interface.as_str())?;
                // The router looks at nothing but the IP packet of what comes by its own interface.
                let way = Way::frame(index, [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], false)?;
                let source = match bound.is_unspecified() {
                    false => bound,
                    true => source_of(&connected(bound, SocketAddrV4::new(toward, PROBE_PORT))?)?,
                };
                let link = Link::Native(way);
                Ok(Some(Self { link, source }))
            }
            Outlet::Udp {
                router, probe_port, ..
            } => {
                let SocketAddr::V4(router) = *router else {
                    return Err(io::Error::new(
                        io::ErrorKind::Unsupported,
                        format!("router {router}: IPv6 is not supported yet"),
                    ));
                };
                let socket = connected(bound, router)?;
                forbid_fragments(&socket)?;
                Ok(Some(Self {
                    source: source_of(&socket)?,
                    link: Link::Tunnel {
                        socket,
                        probe_at: SocketAddrV4::new(*router.ip(), *probe_port),
                    },
                }))
            }
            Outlet::Unicast => Ok(None),
        }
    }

    /// Octets in front of each Xcast packet.
    pub fn overhead(&self) -> usize {
        match &self.link {
            Link::Native(_) => 0,
            Link::Tunnel { .. } => DATAGRAM_OVERHEAD,
        }
    }

    /// Sends one packet, given from its IP header on. Never waits.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        match &self.link {
            Link::Native(way) => way.send(packet),
            Link::Tunnel { socket, .. } => {
                send(socket.as_raw_fd(), packet, MsgFlags::MSG_DONTWAIT)?;
                Ok(())
            }
        }
    }

    /// A probe of this exit: its socket, the port it is at, and the destination to name.
    pub fn probe(&self) -> io::Result<(Probe, u16, Entry)> {
        let (socket, to) = match &self.link {
            Link::Native(_) => {
                let socket = UdpSocket::bind((self.source, 0))?;
                let port = socket.local_addr()?.port();
                (socket, SocketAddrV4::new(self.source, port))
            }
            Link::Tunnel { probe_at, .. } => (connected(self.source, *probe_at)?, *probe_at),
        };
        let port = socket.local_addr()?.port();
        let native = matches!(self.link, Link::Native(_));
        let entry = Entry {
            address: (*to.ip()).into(),
            port: to.port(),
            dscp: None,
        };
        Ok((Probe { socket, native }, port, entry))
    }
}

impl AsFd for Exit {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.link {
            Link::Native(way) => way.as_fd(),
            Link::Tunnel { socket, .. } => socket.as_fd(),
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

fn connected(from: Ipv4Addr, to: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((from, 0))?;
    socket.connect(to)?;
    Ok(socket)
}

fn source_of(socket: &UdpSocket) -> io::Result<Ipv4Addr> {
    match socket.local_addr()? {
        SocketAddr::V4(address) => Ok(*address.ip()),
        SocketAddr::V6(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Routers drop fragments of Xcast packets: rather be told that one is too large.
fn forbid_fragments(socket: &UdpSocket) -> io::Result<()> {
    let value = libc::IP_PMTUDISC_DO;
    // SAFETY: the option reads a `c_int`, whose address and size these are.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Errno::result(answer)?;
    Ok(())
}
