//! As much as there can be: 127 copies, 64 ports, many hosts on one link.

use anyhow::{Result, ensure};
use tests::layout::{self, Gateways, Layout};
use tests::packet::Destination;
use tests::rig::{self, list};

/// Repeats: whatever device maps are made on the way, every packet has to be answered exactly.
fn repeatedly(rig: &rig::Rig, frame: &[u8], copies: usize) -> Result<()> {
    for _ in 0..5 {
        let expected = rig.check(0, frame)?;
        ensure!(expected.branches.len() == copies);
    }
    Ok(())
}

/// 127 hosts behind one port each get their own packet.
#[test]
fn one_port_127_hosts() {
    let layout = Layout {
        ports: 2,
        hosts: 127,
        ..Layout::default()
    };
    rig::with(&layout, |rig| {
        for count in [2, 31, 64, rig.family().most_destinations()] {
            let hosts = (0..count).map(|index| layout::host(1, index));
            repeatedly(rig, &rig::udp(list(hosts)).frame(), count)?;
        }
        // With X as well: 127 Xcast packets with one destination each.
        let mut packet = rig::udp(list((0..127).map(|index| layout::host(1, index))));
        packet.xcast.x = true;
        repeatedly(rig, &packet.frame(), rig.family().most_destinations())
    });
}

/// A gateway that does not speak Xcast gets all of them by premature X2U.
#[test]
fn premature_x2u_of_127() {
    let layout = Layout {
        ports: 2,
        gateways: Gateways::None,
        ..Layout::default()
    };
    rig::with(&layout, |rig| {
        let destinations: Vec<_> = (0..127)
            .map(|last| Destination::new(layout::behind(1, last)).port(5000 + last as u16))
            .collect();
        let most = rig.family().most_destinations();
        repeatedly(rig, &rig::udp_with_ports(destinations).frame(), most)
    });
}

/// 64 ports, one or two copies by each.
#[test]
fn sixty_four_ports() {
    let layout = Layout {
        ports: 64,
        hosts: 1,
        ..Layout::default()
    };
    rig::with(&layout, |rig| {
        let mut addresses: Vec<_> = (0..64).map(|port| layout::behind(port, 1)).collect();
        repeatedly(rig, &rig::udp(list(addresses.clone())).frame(), 64)?;
        addresses.extend((0..63).map(|port| layout::host(port, 0)));
        let most = rig.family().most_destinations();
        repeatedly(rig, &rig::udp(list(addresses.clone())).frame(), most)?;
        // From the last port to all others.
        let mut packet = rig::udp(list(addresses));
        packet.destination_mac = layout::router_mac(63);
        packet.source_mac = layout::neighbour_mac(63, 2);
        rig.check(63, &packet.frame())?;
        Ok(())
    });
}
