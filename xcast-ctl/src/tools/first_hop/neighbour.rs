//! Finds out the link layer address of the first-hop router.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};

use crate::kernel::{Link, Neighbour, neighbour};

/// How long a neighbour may take to answer. The kernel asks three times, a second apart
/// (`mcast_solicit`, `retrans_time_ms`), and then gives up.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The discard port (RFC 863).
const DISCARD: u16 = 9;

/// The link layer address of a neighbour, which the kernel is made to ask for; `None` if nobody
/// answers.
///
/// # Errors
///
/// The kernel cannot be asked.
pub(super) fn resolve(address: IpAddr, link: &Link) -> Result<Option<[u8; 6]>> {
    let deadline = Instant::now() + TIMEOUT;
    let mut asked = false;
    loop {
        match neighbour(link.ifindex, address)? {
            Neighbour::Known(mac) => return Ok(Some(mac)),
            // An entry from before is asked for again.
            Neighbour::Failed if asked => return Ok(None),
            Neighbour::Failed | Neighbour::Unknown => {}
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        if !asked {
            ask(address, link)
                .context("cannot open a socket to resolve the first-hop router with")?;
            asked = true;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Has the kernel send an empty datagram. What happens to it does not matter.
fn ask(address: IpAddr, link: &Link) -> std::io::Result<()> {
    let (any, to): (SocketAddr, SocketAddr) = match address {
        IpAddr::V4(address) => ((Ipv4Addr::UNSPECIFIED, 0).into(), (address, DISCARD).into()),
        IpAddr::V6(address) => (
            (Ipv6Addr::UNSPECIFIED, 0).into(),
            SocketAddrV6::new(address, DISCARD, 0, link.ifindex).into(),
        ),
    };
    let socket = Socket::new(Domain::for_address(any), Type::DGRAM, None)?;
    socket.bind_device(Some(link.name.as_bytes()))?;
    socket.bind(&any.into())?;
    // Without a route nobody is asked, and the time runs out.
    let _ = socket.send_to(&[], &to.into());
    Ok(())
}
