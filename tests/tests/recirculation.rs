//! Sets of ports that no device map was made for yet: the packet goes round, and nothing is lost.

use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use tests::cpu;
use tests::daemon::{self, PATIENCE};
use tests::layout::{self, Layout};
use tests::oracle;
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
        let status = daemon::report(&rig.router, &["status"])?;
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
        let status = daemon::report(&rig.router, &["status"])?;
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

/// What `stats` shows as loss.
fn loss(rig: &Rig) -> Result<u64> {
    let stats = daemon::report(&rig.router, &["stats"])?;
    stats["loss"].as_u64().context("stats has no loss")
}

/// Does something while the controller makes no device maps, and repairs nothing.
fn without_controller<T>(rig: &Rig, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let pid = rig.daemon()?.pid();
    kill(pid, Signal::SIGSTOP)?;
    let done = work();
    kill(pid, Signal::SIGCONT)?;
    done
}

/// A round that does not come back takes its copies with it: that is shown as loss, although no copy of it was planned.
#[test]
fn rounds_that_are_lost_are_shown() {
    rig::with(&layout(), |rig| {
        let frame = rig::udp(for_ports(0b1000_0001, 8)).frame();
        let before = rig.counters()?;
        let lost = loss(rig)?;
        without_controller(rig, || {
            rig.router.ip("link set xcast0 down")?;
            let sent = rig.taps[0].send(&frame);
            rig.router.ip("link set xcast0 up")?;
            sent
        })?;
        let counted = rig.counters()?.since(&before);
        ensure!(counted.get("recirculated") == Some(&1), "{counted:?}");
        ensure!(!counted.contains_key("returned"), "{counted:?}");
        ensure!(loss(rig)? - lost == 1, "{} shown", loss(rig)? - lost);
        Ok(())
    });
}

/// Two processors send packets round as fast as they can, more than the own pair may have room for. Each copy that is due
/// is sent, or what is missing is shown.
#[test]
fn rounds_of_two_processors_are_sent_or_shown() {
    rig::with(&layout(), |rig| {
        let packet = rig::udp(for_ports(0b1000_0011, 8));
        let expected = oracle::expect(&rig.view, 0, &packet.frame());
        let copies = expected.branches.len() as u64;
        let before = rig.counters()?;
        let lost = loss(rig)?;
        let flood = |port: usize| {
            let mut packet = packet.clone();
            packet.destination_mac = layout::router_mac(port);
            let frame = packet.frame();
            cpu::on_one(|| {
                for _ in 0..20_000 {
                    // What the wire has no room for never arrives.
                    let _ = rig.taps[port].send(&frame);
                }
                Ok(())
            })
        };
        without_controller(rig, || {
            thread::scope(|scope| {
                let other = scope.spawn(|| flood(2));
                flood(3)?;
                other.join().unwrap_or_else(|_| bail!("panicked"))
            })
        })?;
        let counted = rig.counters()?.since(&before);
        ensure!(counted.contains_key("recirculated"), "{counted:?}");
        let of = |name| counted.get(name).copied().unwrap_or(0);
        let limited = of("drop_packet_limit") + of("drop_copy_limit");
        let due = (of("received") - limited) * copies;
        let missing = due.checked_sub(of("sent"));
        let missing = missing.with_context(|| format!("more than {due} sent: {counted:?}"))?;
        let shown = loss(rig)? - lost + of("drop_redirect");
        ensure!(
            (missing > 0) == (shown > 0) && shown <= missing,
            "{missing} of {due} missing, {shown} shown: {counted:?}"
        );
        Ok(())
    });
}
