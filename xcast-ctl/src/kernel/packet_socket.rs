//! A packet socket: whole frames to and from interfaces, seen before the kernel's IP does.

use std::{io, mem::MaybeUninit, os::fd::AsRawFd as _};

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

/// Longest frame that is received whole, in octets.
const LONGEST: usize = 2048;

/// One instruction of a filter (`struct sock_filter`).
pub(crate) type Instruction = libc::sock_filter;

/// A packet socket for frames that a filter lets pass, whichever interface of the network namespace they arrive by.
#[derive(Debug)]
pub(crate) struct PacketSocket(AsyncFd<Socket>);

impl PacketSocket {
    /// Opens it, within a tokio runtime. `filter` is a classic BPF program over whole frames: nothing else wakes us.
    ///
    /// # Errors
    ///
    /// No `CAP_NET_RAW` (`PermissionDenied`), or a filter that the kernel refuses.
    pub(crate) fn open(filter: &mut [Instruction]) -> io::Result<Self> {
        // Protocol 0 at first: nothing arrives before the filter is there.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
        let program = libc::sock_fprog {
            len: filter.len().try_into().map_err(io::Error::other)?,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: the option reads a `sock_fprog`, whose address and size these are, and the instructions it points
        // to, which live as long as `filter`.
        let answer = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of_val(&program) as libc::socklen_t,
            )
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        socket.bind(&link_address(0, libc::ETH_P_ALL as u16))?;
        // SAFETY: the socket is open, and belongs to the `AsyncFd` from here on: it is deregistered before it is closed.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self(socket))
    }

    /// Sends a frame by an interface. Never waits.
    ///
    /// # Errors
    ///
    /// What the kernel says: the interface is down or gone, or its queue is full.
    pub(crate) fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        let ether_type = match frame.get(12..14) {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let to = link_address(ifindex, ether_type);
        self.0.get_ref().send_to(frame, &to).map(drop)
    }

    /// Waits for a frame that the filter lets pass.
    ///
    /// # Errors
    ///
    /// What the kernel says. Cancelling loses nothing.
    pub(crate) async fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            let mut guard = self.0.readable().await?;
            let mut room = [MaybeUninit::uninit(); LONGEST];
            match guard.try_io(|socket| socket.get_ref().recv(&mut room)) {
                Ok(Ok(length)) => {
                    // SAFETY: the kernel wrote that many octets.
                    return Ok(unsafe { room[..length].assume_init_ref() }.to_vec());
                }
                // Reported once for each interface that goes down.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

fn link_address(ifindex: u32, ether_type: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is larger than any socket address and aligned for each; its zeroes are a valid `sockaddr_ll`.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ether_type.to_be();
    address.sll_ifindex = ifindex as i32;
    // SAFETY: the storage was just made a `sockaddr_ll`, whose length this is.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}
