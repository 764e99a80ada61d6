//! What processor time a message to many costs its sender, by Xcast and by unicast, with building the packets.
//!
//! `cargo bench -p xcast-host --bench sender` sends on the loopback network: Xcast inside UDP to a
//! socket that drops what it gets, unicast to as many sockets. Neither passes a network card.

mod common;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::Result;
use xcast_host::{
    CodePoints, Sender, Settings, Uplink,
    packet::{Entry, Template},
};

const ROUNDS: usize = 7;
const MESSAGES: usize = 20_000;

/// Nanoseconds for each of many, the median of some rounds.
fn measure(mut one: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = common::processor_time();
        for _ in 0..MESSAGES {
            one()?;
        }
        times.push((common::processor_time() - start).as_nanos() as f64 / MESSAGES as f64);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[ROUNDS / 2])
}

/// A socket that drops what it gets, as soon as its small buffer is full.
fn sink(address: Ipv4Addr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((address, 0))?;
    socket2::SockRef::from(&socket).set_recv_buffer_size(1)?;
    Ok(socket)
}

fn sender(uplink: Uplink) -> Result<Sender> {
    let settings = Settings {
        probing: None,
        ..Settings::new(uplink)
    };
    Ok(Sender::new(UdpSocket::bind("127.0.0.1:0")?, settings)?)
}

fn main() -> Result<()> {
    let code_points = CodePoints::new(253, Ipv4Addr::new(224, 0, 0, 254))?;
    let router = sink(Ipv4Addr::new(127, 0, 0, 100))?;
    for count in [2usize, 5, 20, 50, 100] {
        let sinks = (0..count)
            .map(|n| sink(Ipv4Addr::new(127, 0, 1, n as u8)))
            .collect::<Result<Vec<_>>>()?;
        let to = sinks
            .iter()
            .map(UdpSocket::local_addr)
            .collect::<Result<Vec<SocketAddr>, _>>()?;
        let payload = [7; 200];

        let mut xcast = sender(Uplink::udp(code_points, router.local_addr()?))?;
        let by_xcast = measure(|| {
            xcast.send(&to, &payload)?;
            Ok(())
        })?;
        assert_eq!(xcast.statistics().unicast_packets, 0);
        let mut unicast = sender(Uplink::Unicast)?;
        let by_unicast = measure(|| {
            unicast.send(&to, &payload)?;
            Ok(())
        })?;

        let template = Template {
            code_points,
            source: Ipv4Addr::LOCALHOST.into(),
            to: code_points.group.into(),
            ttl: 64,
            dscp: 0,
            channel: 0,
            x: false,
            anonymous: false,
            source_port: 4000,
            port_list: true,
        };
        let entries: Vec<_> = (0..count)
            .map(|n| Entry {
                address: Ipv4Addr::new(10, 0, 0, n as u8).into(),
                port: 5000,
                dscp: None,
            })
            .collect();
        let mut packet = Vec::new();
        let build = measure(|| Ok(template.emit(&entries, &payload, &mut packet)?))?;
        println!(
            "{count:4} destinations, 200 octets: xcast {by_xcast:6.0} ns (building {build:4.0}), \
             sendmmsg {by_unicast:6.0} ns, {:5.1} times as much",
            by_unicast / by_xcast
        );
    }
    Ok(())
}
