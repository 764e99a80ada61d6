//! Sockets for packets that are complete from their IP header on.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, BorrowedFd},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use xcast_common::wire;

const FLAGS: libc::c_int = libc::MSG_DONTWAIT;

/// A socket for packets that are complete from their IP header on, as
/// [`Template::emit`](crate::packet::Template::emit) builds them.
///
/// It only sends, and never waits. Both kinds need `CAP_NET_RAW`.
#[derive(Debug)]
pub enum RawSocket {
    /// A raw IP socket: the kernel routes the packets, and resolves the next hop.
    Ip {
        /// The socket, of protocol `IPPROTO_RAW`.
        socket: Socket,
        /// IP destination of the packets.
        to: SockAddr,
    },
    /// A packet socket: the packets leave in an Ethernet frame of our own making, by one interface,
    /// whatever their IP destination is.
    Packet {
        /// The socket.
        socket: Socket,
        /// The interface, as a `sockaddr_ll`.
        address: SockAddr,
        /// The Ethernet header, as it is on the wire.
        header: [u8; wire::ETH_LEN],
    },
}

impl RawSocket {
    /// A raw IP socket for packets whose IP destination is `to`; bound to `interface` if one is
    /// named.
    ///
    /// `scope_id` is the index of the interface that a link-local address of IPv6 is to be found on
    /// (RFC 4007 section 11); 0 for any other address.
    ///
    /// # Errors
    ///
    /// No `CAP_NET_RAW` (`PermissionDenied`), or no such interface.
    pub fn ip(to: IpAddr, scope_id: u32, interface: Option<&str>) -> io::Result<Self> {
        let to: SocketAddr = match to {
            IpAddr::V4(to) => (to, 0).into(),
            IpAddr::V6(to) => SocketAddrV6::new(to, 0, 0, scope_id).into(),
        };
        // IPPROTO_RAW: packets are given with their IP header, and none are received.
        let socket = Socket::new(
            Domain::for_address(to),
            Type::RAW,
            Some(Protocol::from(libc::IPPROTO_RAW)),
        )?;
        socket.bind_device(interface.map(str::as_bytes))?;
        let to = to.into();
        Ok(Self::Ip { socket, to })
    }

    /// A packet socket that sends by the interface with index `ifindex`, from one MAC address to
    /// another. `ipv6` says of which family the packets are.
    ///
    /// # Errors
    ///
    /// No `CAP_NET_RAW` (`PermissionDenied`).
    pub fn packet(
        ifindex: u32,
        source: [u8; 6],
        destination: [u8; 6],
        ipv6: bool,
    ) -> io::Result<Self> {
        // Protocol 0: nothing is received.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        let ether_type = match ipv6 {
            false => wire::eth::TYPE_IPV4,
            true => wire::eth::TYPE_IPV6,
        };
        let mut header = [0; wire::ETH_LEN];
        header[..6].copy_from_slice(&destination);
        header[6..12].copy_from_slice(&source);
        header[12..].copy_from_slice(&ether_type.to_be_bytes());
        Ok(Self::Packet {
            socket,
            address: link_address(ifindex, ether_type),
            header,
        })
    }

    /// Sends one packet, given from its IP header on. Never waits.
    ///
    /// # Errors
    ///
    /// What the kernel says; [`io::ErrorKind::WouldBlock`] while the socket's buffer is full.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        match self {
            Self::Ip { socket, to } => {
                socket.send_to_with_flags(packet, to, FLAGS)?;
            }
            Self::Packet {
                socket,
                address,
                header,
            } => {
                let parts = [IoSlice::new(header), IoSlice::new(packet)];
                socket.send_to_vectored_with_flags(&parts, address, FLAGS)?;
            }
        }
        Ok(())
    }
}

/// The address of an interface, for packet sockets.
fn link_address(ifindex: u32, ether_type: u16) -> SockAddr {
    let mut storage = socket2::SockAddrStorage::zeroed();
    // SAFETY: the storage is larger than any socket address and aligned for each; its zeroes are a
    // valid `sockaddr_ll`.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ether_type.to_be();
    address.sll_ifindex = ifindex as i32;
    // SAFETY: the storage was just made a `sockaddr_ll`, whose length this is.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let (Self::Ip { socket, .. } | Self::Packet { socket, .. }) = self;
        socket.as_fd()
    }
}
