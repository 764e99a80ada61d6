//! What changes between a packet's plan and its copies: nothing leaves with addresses that belong to another way, and
//! what is lost is counted.
//!
//! In nature these moments last microseconds. Here the controller is stopped, so that a plan goes on to serve packets,
//! and its maps are written in its place.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use aya::{
    maps::{Array, Map, MapData, MapInfo},
    programs::loaded_programs,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::bpf::program_on;
use tests::cpu;
use tests::daemon::Counters;
use tests::trio::{self, B, C, SOON, Trio, host_mac, until};
use xcast_common::maps::{NEXT_HOP_NO_ROUTE, NextHop, NextHopKind, counter::Counter};

/// The controller, stopped for as long as this lives.
struct Stopped(Pid);

impl Stopped {
    fn new(trio: &Trio) -> Result<Self> {
        let pid = trio.daemon()?.pid();
        kill(pid, Signal::SIGSTOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to go on with.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// The next hops that the programs of the router read.
fn next_hops(trio: &Trio) -> Result<Array<MapData, NextHop>> {
    let id = program_on(&trio.r.namespace, "p1")?.context("no program on p1")?;
    for program in loaded_programs() {
        // Programs of others come and go.
        let Ok(program) = program else { continue };
        if program.id() != id {
            continue;
        }
        for map in program.map_ids()?.context("the kernel does not tell")? {
            if MapInfo::from_id(map)?.name_as_str() == Some("NEXT_HOPS") {
                return Ok(Array::try_from(Map::Array(MapData::from_id(map)?))?);
            }
        }
    }
    anyhow::bail!("no map of next hops")
}

/// The id of the next hop that is like this.
fn find(map: &Array<MapData, NextHop>, is_it: impl Fn(&NextHop) -> bool) -> Result<u32> {
    for id in 0..map.len() {
        if is_it(&map.get(&id, 0)?) {
            return Ok(id);
        }
    }
    anyhow::bail!("no such next hop")
}

/// Sends a list whose plan is known, after a next hop became `other`, in the middle of the way: it is counted that the
/// copy for B was not made, and nothing comes of it. Returns the number of the packet.
fn send_after_a_change(
    trio: &Trio,
    destinations: &[Ipv4Addr],
    is_it: impl Fn(&NextHop) -> bool,
    other: impl Fn(&Array<MapData, NextHop>, NextHop) -> Result<NextHop>,
) -> Result<u32> {
    // Plans are each CPU's own.
    cpu::stay()?;
    let before = Counters::read(&trio.r.namespace)?;
    let stopped = Stopped::new(trio)?;
    let mut map = next_hops(trio)?;
    let id = find(&map, is_it)?;
    let own = map.get(&id, 0)?;
    trio.send(destinations)?;
    map.set(id, other(&map, own)?, 0)?;
    let sent = trio.send(destinations);
    map.set(id, own, 0)?;
    drop(stopped);
    let sent = sent?;
    let counted = Counters::read(&trio.r.namespace)?.since(&before);
    ensure!(
        counted.contains_key("plan_reused"),
        "the plan is from after the change: {counted:?}"
    );
    ensure!(
        counted.get("drop_next_hop") == Some(&1),
        "not counted: {counted:?}"
    );
    ensure!(trio.b.misses(sent)?, "B gets it");
    Ok(sent)
}

fn is_to_b(entry: &NextHop) -> bool {
    entry.kind == NextHopKind::Forward as u8 && entry.destination_mac == host_mac(2)
}

/// The next hop's neighbour is forgotten: the copy would leave by B's port with the addresses of the own pair.
#[test]
fn next_hop_that_becomes_the_stack() {
    trio::with(|trio| {
        trio.resolve()?;
        ensure!(trio.is_reached(&trio.b, &[B, C])?, "at the start");
        let stack = |map: &Array<MapData, NextHop>, _| Ok(map.get(&NEXT_HOP_NO_ROUTE, 0)?);
        let sent = send_after_a_change(trio, &[B, C], is_to_b, stack)?;
        ensure!(trio.c.gets(sent)?, "the copy for C is lost with it");
        // The only copy of a packet takes another way through the programs.
        send_after_a_change(trio, &[B], is_to_b, stack).map(|_| ())
    });
}

/// The next hop moves to another port.
#[test]
fn next_hop_that_moves() {
    trio::with(|trio| {
        trio.resolve()?;
        ensure!(trio.is_reached(&trio.b, &[B, C])?, "at the start");
        let at_c = |map: &Array<MapData, NextHop>, _| {
            let c = find(map, |entry| entry.destination_mac == host_mac(3))?;
            Ok(map.get(&c, 0)?)
        };
        let sent = send_after_a_change(trio, &[B, C], is_to_b, at_c)?;
        ensure!(trio.c.gets(sent)?, "the copy for C is lost with it");
        send_after_a_change(trio, &[B], is_to_b, at_c).map(|_| ())
    });
}

/// The next hop's neighbour becomes known: the copy for the stack would have its addresses.
#[test]
fn next_hop_that_ceases_to_be_the_stack() {
    trio::with(|trio| {
        trio.resolve()?;
        ensure!(trio.is_reached(&trio.b, &[B, C])?, "at the start");
        let map = next_hops(trio)?;
        let to_b = map.get(&find(&map, is_to_b)?, 0)?;
        trio.r.ip("neigh del 10.66.2.2 dev p2")?;
        // Nobody answers any more, so it stays unknown.
        trio.b.ip("link set b0 arp off")?;
        let waits = |entry: &NextHop| {
            entry.kind == NextHopKind::Stack as u8
                && entry.reason == Counter::StackNoNeighbour as u8
                && entry.egress == to_b.egress
        };
        let unknown = || Ok(find(&next_hops(trio)?, is_to_b).is_err());
        ensure!(until(SOON, unknown)?, "B is still known");
        let known = |_: &Array<MapData, NextHop>, _| Ok(to_b);
        let sent = send_after_a_change(trio, &[B, C], waits, known)?;
        ensure!(trio.c.gets(sent)?, "the copy for C is lost with it");
        Ok(())
    });
}
