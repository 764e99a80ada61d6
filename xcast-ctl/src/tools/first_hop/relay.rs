//! The way to a relay, for packets of our own making.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use xcast_host::relay::{
    Answer, Nonce, Question,
    message::{Cookie, LEN},
};

use crate::kernel;

/// How long one question waits for its answer.
const PATIENCE: Duration = Duration::from_millis(700);
/// How often a relay is asked.
const TRIES: u32 = 3;

/// A way to a relay.
pub(super) struct Way {
    /// A socket that is connected to it.
    pub(super) socket: UdpSocket,
    /// Goes before each packet.
    pub(super) cookie: Cookie,
    /// This host's address, as the relay sees it.
    pub(super) source: IpAddr,
}

/// Proves this host's address to a relay (ADR 21).
///
/// # Errors
///
/// It does not answer, or it sees this host at an address that is not its own.
pub(super) fn prove(relay: SocketAddr) -> Result<Way> {
    let any = match relay {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
    };
    let socket = UdpSocket::bind(any)
        .and_then(|socket| socket.connect(relay).map(|()| socket))
        .with_context(|| format!("no way to the relay {relay}"))?;
    let answer = ask(&socket, relay)?;
    let source = answer.seen.ip();
    if UdpSocket::bind((source, 0)).is_err() {
        bail!(
            "the relay {relay} sees this host at {source}, which is an address of a NAT: what routers behind the relay \
             answer to a probe does not come back through it"
        );
    }
    Ok(Way {
        socket,
        cookie: answer.cookie,
        source,
    })
}

fn ask(socket: &UdpSocket, relay: SocketAddr) -> Result<Answer> {
    socket.set_read_timeout(Some(PATIENCE))?;
    for _ in 0..TRIES {
        let nonce: Nonce = kernel::random()?.to_ne_bytes();
        let question = Question {
            nonce,
            through: false,
            cookie: [0; _],
            wants: None,
        };
        socket.send(&question.encode())?;
        let mut octets = [0; LEN + 1];
        match socket.recv(&mut octets) {
            Ok(len) => {
                let answer = Answer::decode(&octets[..len]).filter(|answer| answer.nonce == nonce);
                if let Some(answer) = answer {
                    return Ok(answer);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                bail!("{relay} is no relay: nobody answers at this port of it");
            }
            Err(error) => return Err(error).with_context(|| format!("cannot ask {relay}")),
        }
    }
    bail!("the relay {relay} does not answer")
}
