//! Packets with the same list again and again: they go by the plan of the first, and nothing shows of it.

use anyhow::{Result, ensure};
use tests::{
    cpu,
    layout::{self, GROUP, Layout},
    oracle,
    packet::{self, Destination, Packet},
    rig::{self, Rig, SOURCE, list},
};

/// The packet of a stream with this number: of varying length, from varying ports.
fn nth(list: &[Destination], number: usize) -> Packet {
    let mut packet = rig::udp(list.to_vec());
    let payload = vec![number as u8; 200 - 7 * (number % 20)];
    let from = (SOURCE, 4000 + number as u16);
    let checksum = (number % 5 == 4).then_some(0);
    packet.segment = packet::udp(from, (GROUP, 5000), &payload, checksum);
    packet.ip.identification = number as u16;
    packet.ip.ds = (number % 3) as u8;
    packet
}

fn frames<'a>(lists: impl IntoIterator<Item = &'a [Destination]>) -> Vec<(usize, Vec<u8>)> {
    let packets = lists.into_iter().enumerate();
    packets
        .map(|(number, list)| (0, nth(list, number).frame()))
        .collect()
}

/// Lists whose copies are made by device maps that are always there: one copy, several by ports of their own,
/// several by one port, Xcast and unicast.
fn usual_lists() -> Vec<Vec<Destination>> {
    let [one, other, third] = [1, 2, 3].map(|port| layout::behind(port, 1));
    vec![
        list([one]),
        list([one, layout::behind(1, 2)]),
        list([one, other, third]),
        list([
            one,
            layout::behind_second(1, 1),
            layout::host(1, 0),
            layout::host(1, 1),
        ]),
        list([other, third, layout::host(1, 1)]),
        vec![
            Destination::new(one),
            Destination::new(other).cleared(),
            Destination::new(third),
        ],
    ]
}

/// Each list by itself: packets but the first go by a plan that is there.
#[test]
fn one_stream() {
    rig::with(&Layout::default(), |rig| {
        for list in usual_lists() {
            let before = rig.counters()?;
            let frames = frames((0..40).map(|_| &list[..]));
            cpu::on_one(|| rig.check_all(&frames))?;
            let counted = rig.counters()?.since(&before);
            ensure!(counted.get("received") == Some(&40), "{counted:?}");
            // Now and then the tables' revision is raised though nothing changed.
            ensure!(counted.get("plan_reused") > Some(&30), "{counted:?}");
            ensure!(counted.get("planned") == counted.get("sent"), "{counted:?}");
        }
        Ok(())
    });
}

/// Many in turns, in one go, so that copies of many packets are under way at a time. With some that go round at
/// first, by the stack as well, and by the same ports as others; and with one that only its order
/// tells from another, and no checksum.
#[test]
fn streams_in_turns() {
    rig::with(&Layout::default(), |rig| {
        let [one, other, third] = [1, 2, 3].map(|port| layout::behind(port, 1));
        let mut lists = usual_lists();
        lists.push(list([other, one, third]));
        lists.push(list([one, [10, 0, 1, 1].into(), other]));
        lists.push(list([one, layout::host(1, 1), other, layout::host(2, 0)]));
        let before = rig.counters()?;
        for _ in 0..3 {
            let frames = frames((0..20).flat_map(|_| &lists).map(|list| &list[..]));
            cpu::on_one(|| rig.check_all(&frames))?;
        }
        let counted = rig.counters()?.since(&before);
        ensure!(counted.get("plan_reused") > Some(&100), "{counted:?}");
        ensure!(counted.get("planned") == counted.get("sent"), "{counted:?}");
        Ok(())
    });
}

/// Whatever is skipped is counted for each packet, so these have plans of their own.
#[test]
fn skipped_destinations_are_counted_each_time() {
    rig::with(&Layout::default(), |rig| {
        let [one, other] = [layout::behind(1, 1), layout::behind(2, 1)];
        for list in [
            list([one, other, [224, 0, 0, 9].into()]),
            list([layout::host(1, 0), layout::host(1, 0)]),
        ] {
            let before = rig.counters()?;
            for number in 0..5 {
                rig.check(0, &nth(&list, number).frame())?;
            }
            let counted = rig.counters()?.since(&before);
            ensure!(!counted.contains_key("plan_reused"), "{counted:?}");
        }
        Ok(())
    });
}

/// Sets of ports of which no device map stays for long: a plan whose packets went out by one has to do
/// for packets that go round.
#[test]
fn device_maps_that_come_and_go() {
    let layout = Layout {
        ports: 12,
        hosts: 2,
        ..Layout::default()
    };
    if !tests::namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let mut rig = Rig::prepare(&layout)?;
        rig.configure("[router]", "[router]\nsubsets = 16");
        rig.start_daemon()?;
        let lists: Vec<Vec<_>> = (1..40_usize)
            .map(|set| {
                // Ports of two groups of eight.
                let ports = (1..12).filter(move |port| *port > 8 || set >> (port % 6) & 1 == 1);
                list(ports.flat_map(|port| [layout::behind(port, 1), layout::behind(port, 2)]))
            })
            .collect();
        for _ in 0..3 {
            for some in lists.chunks(13) {
                let frames = frames((0..4).flat_map(|_| some).map(|list| &list[..]));
                cpu::on_one(|| rig.check_all(&frames))?;
            }
        }
        rig.stop()
    };
    test().unwrap();
}

/// An interface's MTU goes down under a stream, and up again.
#[test]
fn mtu_changes() {
    rig::with(&Layout::default(), |rig| {
        let list = list([
            layout::behind(1, 1),
            layout::behind(1, 2),
            layout::behind(2, 1),
        ]);
        let mut packet = nth(&list, 0);
        packet.segment = packet::udp((SOURCE, 4000), (GROUP, 5000), &[7; 1350], None);
        let frame = packet.frame();
        rig.eventually(0, &frame)?;
        for mtu in [1300, 1500, 1300] {
            rig.run(&format!("link set p1 mtu {mtu}"))?;
            rig.view.ports[1].mtu = mtu;
            let expected = oracle::expect(&rig.view, 0, &frame);
            ensure!(
                expected.stack.is_empty() == (mtu == 1500),
                "the packet does not show a difference"
            );
            rig.eventually(0, &frame)?;
        }
        Ok(())
    });
}
