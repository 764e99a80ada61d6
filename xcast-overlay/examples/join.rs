//! A node of the BitTorrent DHT: joins, and finds who has announced itself under a key.
//! `cargo run -p xcast-overlay --features net --example join LOCAL KEY BOOTSTRAP...`

use anyhow::{Context as _, Result};
use xcast_overlay::{
    id::Id,
    kademlia::{Config, Event, Node},
    net::{Driver, Settings, families},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let local = arguments.next().context("LOCAL is missing")?.parse()?;
    let key: Id = arguments.next().context("KEY is missing")?.parse()?;
    let mut config = Config::mainline();
    config.families = families(local);
    config.bootstrap = arguments
        .map(|node| node.parse())
        .collect::<Result<_, _>>()?;

    // With Settings::new(Uplink::udp(...)), a round's requests leave as one packet.
    let settings = Settings::default();
    let mut driver = Driver::bind(local, settings, |now, random| {
        Node::new(now, config, random)
    })?;
    driver.command(|node, now| node.join(now));
    loop {
        match driver.next().await? {
            Event::Joined { nodes } => {
                println!("joined: {nodes} nodes");
                driver.command(|node, now| node.find_peers(now, key));
            }
            Event::Finished { report, .. } => break println!("peers: {:?}", report.peers),
            _ => {}
        }
    }
    println!("{}", driver.close().await.1);
    Ok(())
}
