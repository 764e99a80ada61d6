//! A UDP socket at all addresses of this host that says which of them a datagram came to, and answers from there.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
};

use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
        setsockopt, sockopt,
    },
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

/// A UDP socket of one family, within a tokio runtime.
#[derive(Debug)]
pub(crate) struct AddressedSocket(AsyncFd<Socket>);

/// A datagram, beside its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// Its sender.
    pub(crate) from: SocketAddr,
    /// Our address that it came to.
    pub(crate) at: IpAddr,
    /// Its length, in octets; what the buffer has no room for is cut off.
    pub(crate) len: usize,
}

impl AddressedSocket {
    /// Binds it.
    ///
    /// # Errors
    ///
    /// Another socket has the port, or the kernel has not this family.
    pub(crate) fn bind(ipv6: bool, port: u16) -> io::Result<Self> {
        let (domain, any): (_, IpAddr) = match ipv6 {
            false => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
            true => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        if ipv6 {
            socket.set_only_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        socket.bind(&SocketAddr::new(any, port).into())?;
        // SAFETY: the socket is open, and belongs to the `AsyncFd` from here on: it is deregistered before it is closed.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self(socket))
    }

    /// Waits for the next datagram. Nothing is lost if this is cancelled.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Arrived> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|socket| receive(socket.get_ref(), buffer)) {
                Ok(Ok(Some(arrived))) => return Ok(arrived),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(None)) | Err(_) => {}
            }
        }
    }

    /// Sends a datagram from an address of ours. Never waits.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn send(&self, octets: &[u8], at: IpAddr, to: SocketAddr) -> io::Result<()> {
        let parts = [IoSlice::new(octets)];
        let to = SockaddrStorage::from(to);
        let (ipv4, ipv6);
        let control = match at {
            IpAddr::V4(at) => {
                ipv4 = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from(at).to_be(),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                ControlMessage::Ipv4PacketInfo(&ipv4)
            }
            IpAddr::V6(at) => {
                ipv6 = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: at.octets(),
                    },
                    ipi6_ifindex: 0,
                };
                ControlMessage::Ipv6PacketInfo(&ipv6)
            }
        };
        let fd = self.0.get_ref().as_raw_fd();
        sendmsg(fd, &parts, &[control], MsgFlags::MSG_DONTWAIT, Some(&to))?;
        Ok(())
    }
}

/// The next datagram, if there is one whose addresses are known.
fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<Arrived>> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut space = cmsg_space!(libc::in6_pktinfo);
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let address = |storage: SockaddrStorage| -> Option<SocketAddr> {
        let ipv4 = storage.as_sockaddr_in();
        let ipv4 = ipv4.map(|address| SocketAddr::from((address.ip(), address.port())));
        let ipv6 = storage.as_sockaddr_in6();
        ipv4.or_else(|| ipv6.map(|address| SocketAddr::from((address.ip(), address.port()))))
    };
    let at = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::from(Ipv4Addr::from(
            u32::from_be(info.ipi_addr.s_addr),
        ))),
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(IpAddr::from(Ipv6Addr::from(info.ipi6_addr.s6_addr)))
        }
        _ => None,
    });
    let (from, len) = (message.address.and_then(address), message.bytes);
    Ok(from.zip(at).map(|(from, at)| Arrived { from, at, len }))
}
