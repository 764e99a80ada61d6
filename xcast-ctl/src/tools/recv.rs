//! `xcast-ctl recv`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt},
};
use serde::Serialize;
use xcast_common::wire::origin;
use xcast_host::envelope::{Envelope, Tag};

use super::interrupt::{Interrupt, Woken};
use crate::output::{Outcome, print, print_json_line};

/// Receive UDP datagrams and show them
///
/// Opens an ordinary UDP socket, as any receiver does: the last router delivers plain unicast.
/// Prints a line on standard error once it listens, so that a script can wait for it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl recv --port 5000
  xcast-ctl recv --port 5000 --count 3 --timeout 10 --json
  xcast-ctl recv --port 5000 --timeout 60 --quiet
  xcast-ctl recv --port 5000 --relay 198.51.100.1:4242

EXIT STATUS
  0  --count datagrams arrived, or at least one where no count is given
  1  the --timeout expired, or the user interrupted, before that
  2  error")]
pub(crate) struct Args {
    /// UDP port to listen on; 0 for a free one, which the line on standard error names
    #[arg(long, value_name = "PORT", default_value_t = 5000)]
    port: u16,

    /// Local address to listen on
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,

    /// End after this many datagrams
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    /// End after this many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,

    /// Also take combined messages: those in an envelope that has a part with this tag
    ///
    /// Up to eight hexadecimal digits. The sender has to use the same tag.
    #[arg(long, value_name = "TAG", value_parser = tag)]
    tag: Option<Tag>,

    /// Also open envelopes in which this relay, given with its port of Xcast inside UDP, sends messages from its own address
    #[arg(long, value_name = "ADDRESS:PORT")]
    relay: Vec<SocketAddr>,

    /// Only show at the end how much arrived, and how fast
    #[arg(short, long)]
    quiet: bool,

    /// One JSON document per datagram, each on its own line; with --quiet one at the end
    #[arg(long)]
    json: bool,
}

fn tag(text: &str) -> Result<Tag, String> {
    u32::from_str_radix(text, 16)
        .map(Tag)
        .map_err(|_| format!("{text:?} is not a tag of up to eight hexadecimal digits"))
}

/// One line of `xcast-ctl recv --json`.
#[derive(Debug, Serialize)]
struct Datagram {
    /// Address and port of the sender.
    from: SocketAddr,
    /// The relay that sent it in an envelope, which names the sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<SocketAddr>,
    /// Length of the payload, in octets.
    length: usize,
    /// It came in an envelope with others.
    combined: bool,
    /// DSCP of the packet.
    dscp: u8,
    /// ECN bits of the packet.
    ecn: u8,
    /// The payload, if it is text.
    payload: Option<String>,
    /// The payload in hexadecimal.
    payload_hex: String,
}

/// The document of `xcast-ctl recv --quiet --json`.
#[derive(Debug, Default, Serialize)]
struct Summary {
    /// Number of datagrams.
    datagrams: u64,
    /// Octets of their payloads.
    octets: u64,
    /// From the first to the last, in seconds.
    seconds: f64,
    #[serde(skip)]
    first: Option<Instant>,
}

impl Summary {
    fn add(&mut self, datagram: &Datagram, now: Instant) {
        self.datagrams += 1;
        self.octets += datagram.length as u64;
        let first = *self.first.get_or_insert(now);
        self.seconds = now.saturating_duration_since(first).as_secs_f64();
    }

    fn text(&self) -> String {
        let mut text = format!("{} datagrams, {} octets", self.datagrams, self.octets);
        if self.seconds > 0.0 {
            // The first datagram only starts the clock.
            let rate = (self.datagrams - 1) as f64 / self.seconds;
            text += &format!(" in {:.3} s, {rate:.0}/s", self.seconds);
        }
        text + "\n"
    }
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let mut summary = Summary::default();
    let outcome = listen(args, &mut summary)?;
    match (args.quiet, args.json) {
        (true, true) => print_json_line(&summary)?,
        (true, false) => print(&summary.text())?,
        _ => {}
    }
    Ok(outcome)
}

/// A socket for both families, unless an address was given or there is no IPv6 here.
fn bind(args: &Args) -> Result<UdpSocket> {
    let bind = |address| {
        let local = SocketAddr::new(address, args.port);
        UdpSocket::bind(local).with_context(|| format!("cannot listen on {local}"))
    };
    match args.address {
        Some(address) => bind(address),
        None => bind(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| bind(Ipv4Addr::UNSPECIFIED.into())),
    }
}

/// Has the kernel report the DS field of what arrives.
fn ask_for_ds(socket: &UdpSocket, local: SocketAddr) -> nix::Result<()> {
    if local.is_ipv6() {
        setsockopt(socket, sockopt::Ipv6RecvTClass, &true)?;
    }
    // Also for IPv4 that arrives at an IPv6 socket.
    setsockopt(socket, sockopt::IpRecvTos, &true)
}

fn listen(args: &Args, summary: &mut Summary) -> Result<Outcome> {
    let deadline = match args.timeout {
        Some(seconds) => {
            ensure!(
                (0.0..=1e9).contains(&seconds),
                "--timeout {seconds}: give a number of seconds"
            );
            Some(Instant::now() + Duration::from_secs_f64(seconds))
        }
        None => None,
    };
    let socket = bind(args)?;
    let local = socket.local_addr().context("cannot ask for the port")?;
    ask_for_ds(&socket, local).context("cannot ask for the DS field")?;
    let interrupt = Interrupt::new().context("cannot wait for signals")?;
    eprintln_listening(&local.to_string());

    while args.count.is_none_or(|count| summary.datagrams < count) {
        if interrupt.wait(Some(socket.as_fd()), deadline)? != Woken::Ready {
            let enough = args.count.is_none() && summary.datagrams > 0;
            return Ok(if enough { Outcome::Done } else { Outcome::No });
        }
        let received = receive(&socket, args.tag, &args.relay).context("cannot receive")?;
        let Some(datagram) = received else {
            continue;
        };
        summary.add(&datagram, Instant::now());
        if args.quiet {
            continue;
        }
        if args.json {
            print_json_line(&datagram)?;
        } else {
            print(&render(&datagram))?;
        }
    }
    Ok(Outcome::Done)
}

/// For scripts that wait until there is a receiver. With standard error closed nobody does.
fn eprintln_listening(local: &str) {
    let _ = io::Write::write_all(
        &mut io::stderr(),
        format!("xcast-ctl: listening on {local}\n").as_bytes(),
    );
}

/// The next datagram; `None` if there is none, or for an envelope without a part for us.
fn receive(
    socket: &UdpSocket,
    tag: Option<Tag>,
    relays: &[SocketAddr],
) -> Result<Option<Datagram>> {
    let mut payload = vec![0; 65536];
    let mut control = nix::cmsg_space!(u8, libc::c_int);
    let mut parts = [io::IoSliceMut::new(&mut payload)];
    let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
    let message = match recvmsg::<SockaddrStorage>(
        fd,
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    ) {
        Ok(message) => message,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
        // About a datagram that this socket never sent.
        Err(Errno::ECONNREFUSED) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let from = message.address.and_then(|address| {
        let ipv4 = address
            .as_sockaddr_in()
            .map(|from| (from.ip().into(), from.port()));
        let ipv6 = address.as_sockaddr_in6();
        let ipv6 = ipv6.map(|from| (IpAddr::from(from.ip()).to_canonical(), from.port()));
        ipv4.or(ipv6)
    });
    let Some(from) = from else {
        bail!("the kernel reports no sender of a datagram");
    };
    let ds = message
        .cmsgs()?
        .find_map(|message| match message {
            ControlMessageOwned::Ipv4Tos(tos) => Some(tos),
            ControlMessageOwned::Ipv6TClass(class) => u8::try_from(class).ok(),
            _ => None,
        })
        .unwrap_or(0);
    let length = message.bytes;
    payload.truncate(length);
    let mut from = SocketAddr::from(from);
    let mut relay = None;
    if relays.contains(&from)
        && let Some((origin, message)) = origin::decode(&payload)
    {
        payload = message.to_vec();
        relay = Some(std::mem::replace(&mut from, origin));
    }
    let mut combined = false;
    if let Some(tag) = tag
        && let Ok(envelope) = Envelope::parse(&payload)
    {
        let mut part = Vec::new();
        if !envelope.extract(tag, &mut part) {
            return Ok(None);
        }
        payload = part;
        combined = true;
    }
    Ok(Some(Datagram {
        from,
        relay,
        length: payload.len(),
        combined,
        dscp: ds >> 2,
        ecn: ds & 3,
        payload_hex: payload.iter().map(|octet| format!("{octet:02x}")).collect(),
        payload: String::from_utf8(payload).ok(),
    }))
}

/// Text is shown with control characters escaped: it comes from anybody, and goes to a terminal.
fn render(datagram: &Datagram) -> String {
    let Datagram {
        from, length, dscp, ..
    } = datagram;
    let by = datagram
        .relay
        .map_or_else(String::new, |relay| format!(" by {relay}"));
    let payload = match &datagram.payload {
        Some(text) => text.escape_debug().to_string(),
        None => format!("0x{}", datagram.payload_hex),
    };
    format!("{from}{by} {length} octets dscp {dscp}: {payload}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_with_its_dscp() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&receiver, sockopt::IpRecvTos, &true).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&sender, sockopt::Ipv4Tos, &(46 << 2 | 1)).unwrap();
        sender
            .send_to(b"hi\x1b", receiver.local_addr().unwrap())
            .unwrap();
        let datagram = receive(&receiver, None, &[]).unwrap().unwrap();
        assert_eq!((datagram.dscp, datagram.ecn), (46, 1));
        assert_eq!(datagram.payload_hex, "68691b");
        let from = sender.local_addr().unwrap();
        assert_eq!(
            render(&datagram),
            format!("{from} 3 octets dscp 46: hi\\u{{1b}}\n")
        );
    }

    /// Both families come to one socket, and say so with their own addresses.
    #[test]
    fn a_datagram_of_either_family() {
        let receiver = UdpSocket::bind("[::]:0").unwrap();
        ask_for_ds(&receiver, receiver.local_addr().unwrap()).unwrap();
        let port = receiver.local_addr().unwrap().port();
        let ipv4 = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&ipv4, sockopt::Ipv4Tos, &(46 << 2 | 1)).unwrap();
        let ipv6 = UdpSocket::bind("[::1]:0").unwrap();
        setsockopt(&ipv6, sockopt::Ipv6TClass, &(10 << 2)).unwrap();
        for (sender, to, dscp) in [(ipv4, "127.0.0.1", 46), (ipv6, "::1", 10)] {
            let to: IpAddr = to.parse().unwrap();
            sender.send_to(b"hi", (to, port)).unwrap();
            let datagram = receive(&receiver, None, &[]).unwrap().unwrap();
            assert_eq!(
                (datagram.from, datagram.dscp),
                (sender.local_addr().unwrap(), dscp)
            );
        }
    }
}
