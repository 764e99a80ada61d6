//! Senders on a socket that belongs to somebody else.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::IoSliceMut,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    time::Duration,
};

use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{Ipv4RecvTtl, Ipv6RecvHopLimit},
    },
};
use socket2::SockRef;
use xcast_host::{Options, Sender, Settings, Uplink};

/// TTL and DSCP of the next datagram.
fn received(socket: &UdpSocket) -> (i32, i32) {
    let mut buffer = [0; 100];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let mut control = cmsg_space!(i32, i32);
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    );
    let message = message.unwrap();
    let (mut ttl, mut dscp) = (-1, -1);
    for control in message.cmsgs().unwrap() {
        match control {
            ControlMessageOwned::Ipv4Ttl(hops) | ControlMessageOwned::Ipv6HopLimit(hops) => {
                ttl = hops;
            }
            ControlMessageOwned::Ipv4Tos(tos) => dscp = i32::from(tos) >> 2,
            ControlMessageOwned::Ipv6TClass(class) => dscp = class >> 2,
            other => panic!("{other:?}"),
        }
    }
    (ttl, dscp)
}

#[test]
fn ttl_and_dscp_leave_with_the_datagram_and_the_socket_keeps_its_own() {
    for (from, to) in [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("[::1]:0", "[::1]:0"),
        // A socket of IPv6 that sends IPv4.
        ("[::]:0", "127.0.0.1:0"),
    ] {
        let receiver = UdpSocket::bind(to).unwrap();
        receiver
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        match receiver.local_addr().unwrap() {
            SocketAddr::V4(_) => {
                setsockopt(&receiver, Ipv4RecvTtl, &true).unwrap();
                SockRef::from(&receiver).set_recv_tos_v4(true).unwrap();
            }
            SocketAddr::V6(_) => {
                setsockopt(&receiver, Ipv6RecvHopLimit, &true).unwrap();
                SockRef::from(&receiver).set_recv_tclass_v6(true).unwrap();
            }
        }
        let to = [receiver.local_addr().unwrap()];
        let socket = UdpSocket::bind(from).unwrap();
        let mut sender = Sender::new(socket.as_fd(), Settings::new(Uplink::Unicast)).unwrap();
        let options = Options {
            ttl: 7,
            dscp: 46,
            ..Options::default()
        };
        sender.try_send_with(&options, &to, b"theirs").unwrap();
        assert_eq!(received(&receiver), (7, 46), "{from}");
        socket.send_to(b"own", to[0]).unwrap();
        assert_eq!(received(&receiver), (64, 0), "{from}");
    }
}

#[test]
fn what_is_no_udp_socket_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = Sender::new(&listener, Settings::new(Uplink::Unicast)).unwrap_err();
    assert!(error.to_string().contains("not a UDP socket"), "{error}");
}
