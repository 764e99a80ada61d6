//! The same messages again, as datagrams.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use xcast_overlay::net::Fanout;
use xtask::testbed::netns;

use crate::bed::Bed;

/// So many datagrams leave at once, and then others have a moment: queues of interfaces have room for many
/// datagrams, but not for any number.
const AT_ONCE: usize = 32;
const MOMENT: Duration = Duration::from_millis(1);

/// Sends these messages from where they were sent, a datagram of the same length to each of their receivers.
///
/// # Errors
///
/// Nobody has the address of a message, or its host cannot send.
pub fn by_unicast(bed: &Bed, messages: &[Fanout]) -> Result<()> {
    let hosts = bed.hosts();
    let addresses = hosts.iter().map(|host| Ok((bed.address(host)?, host)));
    let addresses = addresses.collect::<Result<BTreeMap<_, _>>>()?;
    let mut by_source: BTreeMap<_, Vec<&Fanout>> = BTreeMap::new();
    for message in messages {
        by_source
            .entry(message.source.ip())
            .or_default()
            .push(message);
    }
    for (source, messages) in by_source {
        let host = addresses.get(&source).context("a message of nobody")?;
        netns::enter(bed.namespace(host)?, || -> Result<()> {
            let socket = UdpSocket::bind(SocketAddr::new(source, 0))?;
            let datagrams = messages.into_iter().flat_map(|message| {
                let receivers = message.to.iter();
                receivers.map(|to| (*to, vec![0; message.payload_octets]))
            });
            for (number, (to, payload)) in datagrams.enumerate() {
                if number % AT_ONCE == 0 {
                    thread::sleep(MOMENT);
                }
                socket.send_to(&payload, to)?;
            }
            Ok(())
        })??;
    }
    Ok(())
}
