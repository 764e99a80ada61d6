//! Sends a line to everyone on the command line, and says how it went.
//!
//! `cargo run -p xcast-host --example send -- 127.0.0.1:4242 hello 127.0.0.1:5001 127.0.0.1:5002`
//! sends by the Xcast router at the first address, or by unicast if there is none, as here.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use xcast_host::{CodePoints, Sender, Settings, Uplink};

fn main() -> Result<()> {
    let usage = "send ROUTER:PORT TEXT ADDRESS:PORT...";
    let mut words = std::env::args().skip(1);
    let router: SocketAddr = words.next().context(usage)?.parse()?;
    let text = words.next().context(usage)?;
    let to = words
        .map(|word| word.parse())
        .collect::<Result<Vec<SocketAddr>, _>>()?;

    // The network's own choice: these are for experiments (RFC 4727).
    let code_points = CodePoints::new(253, Ipv4Addr::new(224, 0, 0, 254))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut sender = Sender::new(socket, Settings::new(Uplink::udp(code_points, router)))?;
    sender.wait_for_router(Duration::from_millis(200))?;
    sender.send(&to, text.as_bytes())?;
    println!("{}", sender.statistics());
    Ok(())
}
