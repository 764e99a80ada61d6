//! Ways for Xcast packets to leave this host.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    net::if_::if_nametoindex,
    sys::socket::{MsgFlags, recv, send},
};

use crate::{
    CodePoints,
    packet::{Entry, datagram_overhead},
    raw::Way,
};

/// The way Xcast packets take to the first router.
///
/// It is one for each family of addresses: IPv6 has one where [`CodePoints::ipv6`] says how its
/// packets are marked and, in UDP, where the router has an IPv6 address. A family without a way is
/// served by unicast.
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
        /// The router's own addresses, and the UDP port it takes Xcast packets at.
        router: Router,
        /// UDP port of the router's addresses where nobody listens, or where somebody answers.
        probe_port: u16,
    },
    /// None: every destination gets a datagram of its own.
    Unicast,
}

/// Where a router takes Xcast packets in UDP: an address of its own for each family, as the inner
/// and the outer packet must be of one. Made of a [`SocketAddr`], or of a pair of one of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Router {
    /// For Xcast packets of IPv4.
    pub ipv4: Option<SocketAddrV4>,
    /// For Xcast packets of IPv6: an address that is not link-local, because the source of the
    /// packets is chosen by it.
    pub ipv6: Option<SocketAddrV6>,
}

impl Router {
    fn address(self, ipv6: bool) -> Option<SocketAddr> {
        match ipv6 {
            false => self.ipv4.map(SocketAddr::V4),
            true => self.ipv6.map(SocketAddr::V6),
        }
    }
}

impl From<SocketAddr> for Router {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Self {
                ipv4: Some(address),
                ipv6: None,
            },
            SocketAddr::V6(address) => Self {
                ipv4: None,
                ipv6: Some(address),
            },
        }
    }
}

impl From<(SocketAddrV4, SocketAddrV6)> for Router {
    fn from((ipv4, ipv6): (SocketAddrV4, SocketAddrV6)) -> Self {
        Self {
            ipv4: Some(ipv4),
            ipv6: Some(ipv6),
        }
    }
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
    pub fn udp(code_points: CodePoints, router: impl Into<Router>) -> Self {
        Self::Udp {
            code_points,
            router: router.into(),
            probe_port: PROBE_PORT,
        }
    }

    pub(crate) fn code_points(&self) -> Option<CodePoints> {
        match self {
            Self::Native { code_points, .. } | Self::Udp { code_points, .. } => Some(*code_points),
            Self::Unicast => None,
        }
    }

    /// Whether there is a way for packets of this family.
    pub(crate) fn serves(&self, ipv6: bool) -> bool {
        let marked = |code_points: &CodePoints| !ipv6 || code_points.ipv6.is_some();
        match self {
            Self::Native { code_points, .. } => marked(code_points),
            Self::Udp {
                code_points,
                router,
                ..
            } => marked(code_points) && router.address(ipv6).is_some(),
            Self::Unicast => false,
        }
    }

    /// What contradicts itself, and what to do.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Udp { router, .. } if *router == Router::default() => {
                Err("router: name an address of it")
            }
            Self::Udp {
                code_points: CodePoints { ipv6: None, .. },
                router: Router { ipv6: Some(_), .. },
                ..
            } => Err(
                "router: it has an IPv6 address, so name the code points of IPv6 (CodePoints::ipv6)",
            ),
            _ => Ok(()),
        }
    }
}

/// An outlet that is open.
#[derive(Debug)]
pub(crate) struct Exit {
    link: Link,
    /// Source address of the packets.
    pub source: IpAddr,
}

#[derive(Debug)]
enum Link {
    Native(Way),
    Tunnel {
        socket: UdpSocket,
        probe_at: SocketAddr,
    },
}

/// A router that was asked.
#[derive(Debug)]
pub(crate) struct Probe {
    socket: UdpSocket,
    native: bool,
}

impl Exit {
    /// Opens an outlet for the family of `bound`; `None` for one that does not
    /// [serve](Outlet::serves) it.
    ///
    /// Packets have the source address `bound` or, if that is unspecified, the one the kernel
    /// chooses towards the router, or towards `toward` where the router is on this host.
    ///
    /// # Errors
    ///
    /// There is no such interface, no permission, or no route to the router.
    pub fn open(outlet: &Outlet, bound: IpAddr, toward: IpAddr) -> io::Result<Option<Self>> {
        let ipv6 = bound.is_ipv6();
        match outlet {
            _ if !outlet.serves(ipv6) => Ok(None),
            Outlet::Native { interface, .. } => {
                let index = if_nametoindex(interface.as_str())?;
                // The router looks at nothing but the IP packet of what comes by its own interface.
                let way = Way::frame(index, [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], ipv6)?;
                let source = match bound.is_unspecified() {
                    false => bound,
                    true => match connected(bound, (toward, PROBE_PORT).into()) {
                        Ok(socket) => source_of(&socket)?,
                        // A router need not have a route to everywhere.
                        Err(error) => own_address(ipv6).ok_or(error)?,
                    },
                };
                let link = Link::Native(way);
                Ok(Some(Self { link, source }))
            }
            Outlet::Udp {
                router, probe_port, ..
            } => {
                let Some(router) = router.address(ipv6) else {
                    return Ok(None);
                };
                let socket = connected(bound, router)?;
                forbid_fragments(&socket, ipv6)?;
                let mut probe_at = router;
                probe_at.set_port(*probe_port);
                Ok(Some(Self {
                    source: source_of(&socket)?,
                    link: Link::Tunnel { socket, probe_at },
                }))
            }
            Outlet::Unicast => Ok(None),
        }
    }

    /// Octets in front of each Xcast packet.
    pub fn overhead(&self) -> usize {
        match &self.link {
            Link::Native(_) => 0,
            Link::Tunnel { .. } => datagram_overhead(self.source.is_ipv6()),
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
                (socket, SocketAddr::from((self.source, port)))
            }
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

/// Routers drop fragments of Xcast packets: rather be told that one is too large.
fn forbid_fragments(socket: &UdpSocket, ipv6: bool) -> io::Result<()> {
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
