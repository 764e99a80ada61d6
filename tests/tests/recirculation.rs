//! Sets of ports that no device map was made for yet: the packet goes round, and nothing is lost.

use std::time::Instant;

use anyhow::{Result, ensure};
use tests::daemon::PATIENCE;
use tests::layout::{self, Layout};
use tests::packet::Destination;
use tests::rig::{self, Rig};

/// A list for the ports whose bits are set, some with several next hops.
fn for_ports(set: u32, ports: usize) -> Vec<Destination> {
    let mut destinations = Vec::new();
    for port in (0..ports).filter(|port| set >> port & 1 == 1) {
        destinations.push(Destination::new(layout::behind(port, 1)));
        if (set as usize + port).is_multiple_of(3) {
            destinations.push(Destination::new(layout::behind_second(port, 1)));
        }
        if (set as usize + port).is_multiple_of(2) {
            destinations.push(Destination::new(layout::behind(port, 2)));
        }
    }
    destinations
}

fn layout() -> Layout {
    Layout {
        ports: 8,
        ..Layout::default()
    }
}

/// Repeats a packet until it no longer goes round; each time, every copy must come once.
fn until_exact(rig: &Rig, frame: &[u8]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let before = rig.counters()?;
        rig.check(0, frame)?;
        if rig.counters()?.value("recirculated") == before.value("recirculated") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it goes round for ever");
    }
}

/// Every set of eight ports, all of them new, in one go, and again when device maps are being made.
#[test]
fn new_sets_lose_nothing() {
    rig::with(&layout(), |rig| {
        let frames: Vec<_> = (1..256)
            .map(|set| (0, rig::udp(for_ports(set, 8)).frame()))
            .collect();
        let before = rig.counters()?;
        rig.check_all(&frames)?;
        let counted = rig.counters()?.since(&before);
        ensure!(counted.contains_key("recirculated"), "{counted:?}");
        ensure!(counted["planned"] == counted["sent"], "{counted:?}");
        ensure!(counted["received"] == 255, "{counted:?}");
        for _ in 0..3 {
            rig.check_all(&frames)?;
        }
        Ok(())
    });
}

/// A set that is used gets its device map without anyone's help.
#[test]
fn used_sets_are_installed() {
    rig::with(&layout(), |rig| {
        for set in [0b11, 0b1010_1010, 0xff] {
            until_exact(rig, &rig::udp(for_ports(set, 8)).frame())?;
        }
        let status = tests::daemon::report(&rig.router, &["status"])?;
        ensure!(status["subsets_installed"].as_u64() >= Some(3), "{status}");
        Ok(())
    });
}

/// Far more sets than there is room for: the oldest make way, and still nothing is lost.
#[test]
fn more_sets_than_room() {
    if !tests::namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let mut rig = Rig::prepare(&layout())?;
        rig.configure("[router]", "[router]\nsubsets = 16");
        rig.start_daemon()?;
        let frames: Vec<_> = (1..256)
            .map(|set| (0, rig::udp(for_ports(set, 8)).frame()))
            .collect();
        for _ in 0..3 {
            rig.check_all(&frames)?;
        }
        let status = tests::daemon::report(&rig.router, &["status"])?;
        ensure!(status["subsets_installed"].as_u64() <= Some(16), "{status}");
        until_exact(&rig, &frames[200].1)?;
        rig.stop()
    };
    test().unwrap();
}

/// The longest lists that go round: 127 unicast packets from one Xcast packet, with nothing made
/// for them.
#[test]
fn long_lists_go_round() {
    let layout = Layout {
        ports: 8,
        hosts: 20,
        ..Layout::default()
    };
    rig::with(&layout, |rig| {
        let destinations = |count: usize| -> Vec<_> {
            (0..count)
                .map(|index| Destination::new(layout::host(index % 8, index / 8)))
                .collect()
        };
        for count in [127, 126, 100, 65, 64] {
            let count = rig.family().most_destinations().min(count);
            let frame = rig::udp(destinations(count)).frame();
            let expected = rig.check(0, &frame)?;
            ensure!(expected.branches.len() == count);
            until_exact(rig, &frame)?;
        }
        Ok(())
    });
}
