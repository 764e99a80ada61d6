//! Three receivers, two of which open envelopes, and a sender that combines what it sends them.
//!
//! `cargo run -p xcast-host --example combine`

use std::net::UdpSocket;

use anyhow::Result;
use xcast_host::tokio::{CombiningSender, Receiver, Sender};
use xcast_host::{Message, Settings, Uplink, envelope::Tag, queue::QueueLimits};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let local = "127.0.0.1:0";
    let bind = tokio::net::UdpSocket::bind;
    let mut receivers = Vec::new();
    for tag in [Some(Tag::random()), Some(Tag::random()), None] {
        receivers.push(Receiver::new(bind(local).await?, tag));
    }

    // Uplink::udp(code_points, router) where there is a router.
    let sender = Sender::new(UdpSocket::bind(local)?, Settings::new(Uplink::Unicast))?;
    let sender = CombiningSender::new(sender, QueueLimits::default());
    for (number, receiver) in receivers.iter().enumerate() {
        let to = receiver.socket().local_addr()?;
        if let Some(tag) = receiver.tag() {
            // A receiver tells its tag by whatever the application speaks.
            sender.opt_in(to, tag).await??;
        }
        let own = format!("and {number}");
        let segments = ["some news for everyone, ".into(), own.into()];
        sender.send(Message::to_one(to, segments)).await?;
    }
    for receiver in &mut receivers {
        let received = receiver.receive().await?;
        println!("{}", String::from_utf8_lossy(received.payload));
    }
    println!("{}", sender.close().await?.queue);
    Ok(())
}
