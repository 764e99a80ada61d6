//! One end of a wire: puts frames on it and takes them off, octet by octet.

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, send, setsockopt,
    socket, sockopt,
};

use crate::namespace::Namespace;

/// A packet socket on one interface.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    interface: String,
    /// Whether frames that this end sends are meant, instead of those that arrive.
    outgoing: bool,
}

impl Tap {
    /// Opens `interface` of `namespace` for what others send there.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::new(namespace, interface, false)
    }

    /// Opens `interface` of `namespace` for what is sent by it: a router at the other end takes
    /// frames before anyone else there could see them.
    pub fn open_for_sent(namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::new(namespace, interface, true)
    }

    fn new(namespace: &Namespace, interface: &str, outgoing: bool) -> Result<Self> {
        let socket = namespace
            .enter(|| open(interface))
            .with_context(|| format!("open {interface} in {}", namespace.name()))?;
        Ok(Self {
            socket,
            interface: interface.to_owned(),
            outgoing,
        })
    }

    /// Puts a frame on the wire, exactly as given.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty())
            .with_context(|| format!("send {} octets by {}", frame.len(), self.interface))?;
        ensure!(sent == frame.len(), "sent {sent} of {} octets", frame.len());
        Ok(())
    }

    /// The next frame that arrived, waiting no longer than until `deadline`.
    pub fn receive(&self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = left.max(Duration::from_millis(1)).as_millis();
            let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
            let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("wait for a frame"),
            }
        }
    }

    /// The next frame that arrived, without waiting. Frames that this end sent are none, unless
    /// they are what is meant.
    pub fn take(&self) -> Result<Option<Vec<u8>>> {
        loop {
            match receive(&self.socket) {
                Ok((frame, outgoing)) if outgoing == self.outgoing => return Ok(Some(frame)),
                // The interface went down; it may come back.
                Ok(_) | Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => {
                    return Err(error).with_context(|| format!("receive by {}", self.interface));
                }
            }
        }
    }

    /// Forgets what arrived so far.
    pub fn drain(&self) -> Result<()> {
        while self.take()?.is_some() {}
        Ok(())
    }
}

fn open(interface: &str) -> Result<OwnedFd> {
    // No protocol yet: until it is bound, the socket would hear every interface.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20))?;
    let on: libc::c_int = 1;
    // SAFETY: the option reads a `c_int`, whose address and size these are.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_AUXDATA,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Errno::result(answer)?;
    // SAFETY: all zeros is a value of this struct of integers.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = if_nametoindex(interface)? as i32;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a whole `sockaddr_ll` of the family that says so, and `len` its length.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(len)) };
    let address = address.context("make a link layer address")?;
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

/// Receives a frame, and whether it was one that this end sent.
///
/// The kernel takes VLAN tags out of frames and tells them apart from the octets, in auxiliary data
/// that nix has no type for; they are put back here.
fn receive(socket: &OwnedFd) -> Result<(Vec<u8>, bool), Errno> {
    let mut frame = vec![0u8; 1 << 16];
    // Aligned for `cmsghdr`, and more than the one message that was asked for needs.
    let mut control = [0u64; 16];
    // SAFETY: all zeros is a value of these structs of integers and pointers.
    let (mut address, mut message) =
        unsafe { std::mem::zeroed::<(libc::sockaddr_ll, libc::msghdr)>() };
    let mut vector = libc::iovec {
        iov_base: frame.as_mut_ptr().cast(),
        iov_len: frame.len(),
    };
    message.msg_name = (&raw mut address).cast();
    message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in `message` is to a live buffer of the length beside it.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    frame.truncate(Errno::result(len)? as usize);
    // SAFETY: the kernel filled `message`, whose control buffer is still there.
    if let Some(header) = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() }
        && (header.cmsg_level, header.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA)
    {
        // SAFETY: the data of a message of this type is a `tpacket_auxdata`.
        let auxdata = unsafe {
            libc::CMSG_DATA(header)
                .cast::<libc::tpacket_auxdata>()
                .read_unaligned()
        };
        if auxdata.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
            let tag = [
                auxdata.tp_vlan_tpid.to_be_bytes(),
                auxdata.tp_vlan_tci.to_be_bytes(),
            ];
            frame.splice(12..12, tag.concat());
        }
    }
    Ok((frame, address.sll_pkttype == libc::PACKET_OUTGOING))
}
