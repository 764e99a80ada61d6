//! Questions to the kernel about the program's sockets, and datagrams sent one by one.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{MsgFlags, SockaddrStorage, sendto},
        stat::fstat,
    },
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{
    raw::{Descriptor, option},
    sockets::{Path, Traits},
};

/// Of asm/socket.h and linux/in6.h, which libc does not have for every target.
const SO_NO_CHECK: i32 = 11;
const SO_BINDTOIFINDEX: i32 = 62;
const IPV6_UNICAST_IF: i32 = 76;
/// Of linux/net_tstamp.h: the kernel reports when packets leave.
const TIMESTAMPING_TX: i32 = 1 | 1 << 1 | 1 << 8 | 1 << 9;

/// Options that an Xcast packet would not honour, where they are not 0.
const NUMBERS: [(i32, i32); 10] = [
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_DONTROUTE),
    (libc::SOL_SOCKET, SO_NO_CHECK),
    (libc::SOL_SOCKET, SO_BINDTOIFINDEX),
    (libc::SOL_UDP, libc::UDP_CORK),
    (libc::SOL_UDP, libc::UDP_ENCAP),
    (libc::SOL_UDP, libc::UDP_NO_CHECK6_TX),
    (libc::SOL_UDP, libc::UDP_SEGMENT),
    (libc::IPPROTO_IP, libc::IP_UNICAST_IF),
    (libc::IPPROTO_IPV6, IPV6_UNICAST_IF),
];

/// Options that are lists, where they are not empty.
const LISTS: [(i32, i32); 5] = [
    (libc::IPPROTO_IP, libc::IP_OPTIONS),
    (libc::IPPROTO_IPV6, libc::IPV6_HOPOPTS),
    (libc::IPPROTO_IPV6, libc::IPV6_RTHDR),
    (libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS),
    (libc::IPPROTO_IPV6, libc::IPV6_RTHDRDSTOPTS),
];

/// What the kernel says of a socket.
pub fn traits(fd: RawFd) -> Traits {
    let socket = Descriptor(fd);
    let kernel = SockRef::from(&socket);
    let number = |(level, name)| option(fd, level, name).map_or(0, |value| value.number);
    let is_udp = kernel.protocol().ok().flatten() == Some(Protocol::UDP);
    let local = kernel.local_addr().ok().filter(|_| is_udp);
    let local = local.and_then(|local| local.as_socket());
    let ipv6 = local.is_some_and(|local| local.is_ipv6());
    // A socket of IPv6 may serve IPv4, with the TTL and TOS that it has for it.
    let v4 = (
        number((libc::IPPROTO_IP, libc::IP_TTL)),
        number((libc::IPPROTO_IP, libc::IP_TOS)),
    );
    let v6 = (
        number((libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS)),
        number((libc::IPPROTO_IPV6, libc::IPV6_TCLASS)),
    );
    let fragments = [
        libc::IP_PMTUDISC_WANT,
        libc::IP_PMTUDISC_DO,
        libc::IP_PMTUDISC_PROBE,
    ];
    let mtu_discovery = number((libc::IPPROTO_IP, libc::IP_MTU_DISCOVER));
    let priority = number((libc::SOL_SOCKET, libc::SO_PRIORITY));
    let timestamps = number((libc::SOL_SOCKET, libc::SO_TIMESTAMPING)) & TIMESTAMPING_TX != 0;
    Traits {
        local,
        connected: kernel.peer_addr().is_ok(),
        // An Xcast packet of IPv4 has DF.
        special: timestamps
            || (!ipv6 && !fragments.contains(&mtu_discovery))
            || (priority != 0 && priority != priority_of(v4.1))
            || NUMBERS.into_iter().any(|of| number(of) != 0)
            || LISTS
                .into_iter()
                .any(|(level, name)| option(fd, level, name).is_some_and(|value| value.len > 0)),
        errors: number((libc::IPPROTO_IP, libc::IP_RECVERR)) != 0
            || number((libc::IPPROTO_IPV6, libc::IPV6_RECVERR)) != 0,
        headers: [Some(v4), ipv6.then_some(v6)],
    }
}

/// The priority that a socket has by its TOS alone (tc-prio(8); of the kernel's `rt_tos2priority`).
fn priority_of(tos: i32) -> i32 {
    match tos & 0x1e {
        0..0x08 => 0,
        0x08..0x10 => 2,
        0x10..0x18 => 6,
        _ => 4,
    }
}

/// What tells a socket from others that have had its number.
pub fn inode(fd: RawFd) -> Option<u64> {
    fstat(Descriptor(fd)).ok().map(|stat| stat.st_ino)
}

/// Whether an error waits to be reported by the socket's next call.
pub fn has_error(fd: RawFd) -> bool {
    let socket = Descriptor(fd);
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    // Rather yes than no.
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

/// Looks at the way of datagrams from a socket that is bound to `local`; `None` if the kernel knows
/// none, or if the destination is on this host.
pub fn look(local: IpAddr, to: SocketAddr) -> Option<Path> {
    let (local, ip) = (local.to_canonical(), to.ip().to_canonical());
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Nothing is sent: a datagram socket that is connected has had its route looked up.
    let connected = |from: IpAddr| -> io::Result<(Socket, IpAddr)> {
        let to = SocketAddr::new(ip, to.port());
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
        if !from.is_unspecified() {
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        socket.connect(&to.into())?;
        let source = socket.local_addr()?.as_socket();
        let source = source.ok_or(io::ErrorKind::Unsupported)?;
        Ok((socket, source.ip()))
    };
    let (mut socket, mut source) = connected(any).ok()?;
    // The source of what a host sends to itself is the destination.
    if source == ip {
        return None;
    }
    if !local.is_unspecified() {
        (socket, source) = connected(local).ok()?;
    }
    let (level, name) = match ip {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mtu = option(socket.as_raw_fd(), level, name)?;
    let mtu = usize::try_from(mtu.number).ok()?;
    Some(Path { source, mtu })
}

/// Sends a datagram as the program would have, and waits for room in the buffer, though not for ever:
/// the program has been told that it is sent.
///
/// # Errors
///
/// The kernel's.
pub fn send(fd: RawFd, to: SocketAddr, payload: &[u8]) -> Result<(), Errno> {
    let address = SockaddrStorage::from(to);
    loop {
        match sendto(fd, payload, &address, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let socket = Descriptor(fd);
                let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, PollTimeout::from(1000_u16)) == Ok(0) {
                    return Err(Errno::EAGAIN);
                }
            }
            Err(errno) => return Err(errno),
        }
    }
}
