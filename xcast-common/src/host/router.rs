//! A router that takes frames and returns frames.

use std::{boxed::Box, collections::BTreeMap, vec::Vec};

use super::{buffer::Buffer, tables::MemoryTables};
use crate::{
    family::traits::Family,
    forward::{
        emit::{Form, emit, emit_rest, encapsulate, strip},
        ingress::{Content, accept, check_content, is_xcast},
        mark::{MAX_SERIAL, Stripped},
        plan::{Memory, Plan, Scratch, Work, group, look_up},
        tunnel, tunnelled,
    },
    maps::{
        counter::{Counter, PortCounters},
        port::{MAX_PORTS, PORT_STACK, PORT_TO_STACK, PORT_TO_STACK6, PORT_TRUSTED, Port},
        settings::Settings,
    },
    packet::{ASK_WAY_BACK, Opened, Packet, Reject},
    wire::{ETH_LEN, frame::Frame as _},
};

/// An Xcast router for one family, in memory: the programs' own forwarding code, without a kernel.
///
/// What it does follows from its settings, its tables and the frames it was given, and from nothing else: no
/// clock, no randomness.
pub struct Router<F: Family> {
    /// Routes, next hops and addresses.
    pub tables: MemoryTables,
    /// Counters by port slot: events on arrival count on the port of arrival, copies on the port they leave by.
    pub counters: BTreeMap<u8, PortCounters>,
    /// The plan that was made or reused last; before the first packet, an empty one.
    pub plan: Box<Plan<F>>,
    /// How copies for several ports are made.
    pub fanouts: Fanouts,
    settings: Settings,
    ports: BTreeMap<u8, Port>,
    /// Whether there is a plan.
    is_planned: bool,
    scratch: Box<Scratch>,
    work: Box<Work>,
}

/// For which sets of ports there are device maps. The copies are the same either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fanouts {
    /// For all: every copy is made at once.
    #[default]
    All,
    /// For preset sets only, as when a set is new to the controller: a packet with the rest of the list
    /// recirculates, and the other copies are made from that.
    Preset,
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not for the Xcast router: the kernel gets the frame as it is.
    Passed,
    /// Dropped, and counted under this reason.
    Dropped(Counter),
    /// Copies, with the slot of the port that each leaves by; [`PORT_STACK`] is the kernel stack. There are none
    /// if every destination was skipped.
    Forwarded(Vec<(u8, Vec<u8>)>),
}

impl<F: Family> Router<F> {
    /// A router without ports.
    pub fn new(settings: Settings, tables: MemoryTables) -> Self {
        Self {
            tables,
            counters: BTreeMap::new(),
            fanouts: Fanouts::All,
            settings,
            ports: BTreeMap::new(),
            plan: Plan::boxed(),
            is_planned: false,
            scratch: Scratch::boxed(),
            work: Work::boxed(),
        }
    }

    /// Adds or changes the port with this slot.
    pub fn set_port(&mut self, port: Port) {
        self.ports.insert(port.slot, port);
    }

    /// Forwards a frame that arrives at the port with this slot. Frames at other interfaces pass.
    pub fn receive(&mut self, slot: u8, frame: &[u8]) -> Outcome {
        let Some(&port) = self.ports.get(&slot) else {
            return Outcome::Passed;
        };
        let mut copies = Vec::new();
        let mut rest = match self.forward(Buffer::new(frame), &port, None, &mut copies) {
            Ok(rest) => rest,
            Err(Reject::Pass) => return Outcome::Passed,
            Err(Reject::Drop(reason)) => {
                self.count(slot, reason);
                return Outcome::Dropped(reason);
            }
        };
        let trusted = Port {
            slot: PORT_STACK,
            // In the kernel, the mark says so.
            flags: PORT_TRUSTED | port.flags & (PORT_TO_STACK | PORT_TO_STACK6),
            ..Port::default()
        };
        while let Some(frame) = rest {
            rest = match self.forward(frame, &trusted, Some(slot), &mut copies) {
                Ok(rest) => rest,
                Err(Reject::Pass) => None,
                Err(Reject::Drop(reason)) => {
                    self.count(PORT_STACK, reason);
                    None
                }
            };
        }
        Outcome::Forwarded(copies)
    }

    /// If the frame is Xcast inside UDP for this router, removes the outer headers. Returns whether it did, and if so
    /// what was known of its sender.
    ///
    /// # Errors
    ///
    /// [`Reject::Pass`] if the datagram is for somebody else, [`Reject::Drop`] if it is malformed or not permitted.
    pub fn decapsulate(&self, frame: &mut Buffer, port: &Port) -> Result<Option<Opened>, Reject> {
        if !tunnel::is_candidate::<F>(frame.view(), &self.settings) {
            return Ok(None);
        }
        let opened = tunnel::check::<F>(frame.view(), port, &self.settings, &self.tables)?;
        tunnel::decapsulate::<F>(frame, opened).ok_or(Reject::Drop(Counter::DropNoRoom))?;
        Ok(Some(opened))
    }

    /// Decides about an accepted packet: reuses [`plan`](Self::plan) if it applies, or makes a new one there.
    /// Returns what was counted about skipped destinations; `None` if the frame is too short for its list.
    ///
    /// As `plan` in `xcast-ebpf`, which has several plans to choose from and finds one by a hash of the list.
    pub fn decide(&mut self, frame: &mut Buffer, packet: &Packet) -> Option<PortCounters> {
        /// There are no limits here.
        const NOBODY: u32 = 0;
        let mut counters = PortCounters::default();
        let serial = self.plan.serial;
        if self.is_planned
            && self
                .plan
                .applies(serial, frame, packet, NOBODY, &self.tables)?
        {
            counters.bump(Counter::PlanReused);
            return Some(counters);
        }
        self.is_planned = true;
        let serial = self.work.serial;
        self.work.serial = serial.wrapping_add(1) & MAX_SERIAL;
        self.plan.begin(packet, NOBODY, serial);
        // Tables in memory do everything in the first step.
        look_up(frame, &mut self.plan, &mut self.work, &self.tables)?;
        let memory = Memory {
            plan: &mut self.plan,
            scratch: &mut self.scratch,
            work: &mut self.work,
        };
        group(
            frame,
            packet,
            &self.settings,
            &self.tables,
            memory,
            counters.tally(),
        )?;
        Some(counters)
    }

    /// Forwards one frame, once; returns the frame with the rest of the list, if that has to recirculate. A frame
    /// that came round has the slot where its packet arrived in `arrival`.
    fn forward(
        &mut self,
        mut frame: Buffer,
        port: &Port,
        arrival: Option<u8>,
        copies: &mut Vec<(u8, Vec<u8>)>,
    ) -> Result<Option<Buffer>, Reject> {
        const NO_ROOM: Reject = Reject::Drop(Counter::DropNoRoom);
        let mut port = *port;
        if tunnelled::is_candidate(frame.view(), &self.settings) {
            let counters = self.counters.entry(port.slot).or_default().tally();
            tunnelled::open(&mut frame, &port, &self.settings, &self.tables, counters)?;
        }
        let is_sealed = tunnelled::is_sealed(frame.view(), &self.settings);
        port = port.for_permitted(F::VERSION, is_sealed.into());
        let ext_len = match is_xcast::<F>(frame.view(), &self.settings) {
            Some(ext_len) => ext_len,
            None => {
                let opened = self.decapsulate(&mut frame, &port)?.ok_or(Reject::Pass)?;
                self.count(port.slot, Counter::Decapsulated);
                port = port.for_permitted(F::VERSION, opened.permitted());
                port.relayed_port = opened.relayed_port;
                is_xcast::<F>(frame.view(), &self.settings)
                    .ok_or(Reject::Drop(Counter::DropUdpContent))?
            }
        };
        let port = &port;
        let packet = accept::<F>(frame.view(), ext_len, port, &self.settings, &self.tables)?;
        if port.flags & PORT_TRUSTED == 0 {
            let view = frame.view().skip(Content::at::<F>(&packet) as usize);
            let content = Content::of(&packet, port.relayed_port);
            if let Some(reason) = check_content::<F>(view, content, &self.settings) {
                return Err(Reject::Drop(reason));
            }
        }
        match arrival {
            None => self.count(port.slot, Counter::Received),
            Some(arrival) => self.count(arrival & !ASK_WAY_BACK, Counter::Returned),
        }
        let packet = Packet {
            arrival: arrival.unwrap_or(packet.arrival),
            ..packet
        };
        let padding = frame.frame().len() - (ETH_LEN + packet.total_len as usize);
        if !frame.trim(padding as u32) {
            return Err(NO_ROOM);
        }
        let counted = self.decide(&mut frame, &packet);
        let counted = counted.ok_or(Reject::Drop(Counter::DropTruncated))?;
        let arrival = self.counters.entry(port.slot).or_default();
        for (count, more) in arrival.counts.iter_mut().zip(counted.counts) {
            *count += more;
        }

        let preset = self.plan.fanout.preset();
        let is_round = self.fanouts == Fanouts::Preset && self.plan.copies > 1 && !preset.is_all;
        if !is_round {
            let mut stripped = None;
            if self.plan.copies > 1 && self.plan.is_unicast() {
                let begun = strip(&mut frame, &self.plan, &self.settings).ok_or(NO_ROOM)?;
                stripped = Some(begun);
            }
            for slot in 0..MAX_PORTS as u8 {
                for _ in 0..self.plan.fanout.copies[slot as usize] {
                    self.copy(&frame, slot, port, stripped, copies);
                }
            }
            return Ok(None);
        }
        self.plan.begin_rounds();
        let slots: Vec<u8> = (0..8)
            .map(|slot| (8 * preset.group + slot) as u8)
            .filter(|&slot| self.plan.first_on(slot).is_some())
            .collect();
        for &slot in &slots {
            self.plan.leave(slot);
        }
        let mut rest = frame.clone();
        emit_rest(&mut rest, &mut self.plan).ok_or(NO_ROOM)?;
        self.count(packet.arrival_slot(), Counter::Recirculated);
        for slot in slots {
            self.copy(&frame, slot, port, None, copies);
        }
        Ok(Some(rest))
    }

    /// Makes the next of the copies that leave by a port.
    fn copy(
        &mut self,
        frame: &Buffer,
        slot: u8,
        arrival: &Port,
        stripped: Option<Stripped>,
        copies: &mut Vec<(u8, Vec<u8>)>,
    ) {
        self.count(slot, Counter::Planned);
        let Some(b) = self.plan.take(slot) else {
            self.count(slot, Counter::DropPlanLost);
            return;
        };
        let id = u32::from(self.plan.branches[b as usize].next_hop);
        let Some(&next_hop) = self.tables.next_hop(id) else {
            self.count(slot, Counter::SkipNextHop);
            return;
        };
        if slot == PORT_STACK {
            let counters = self.counters.entry(arrival.slot).or_default();
            counters.bump_index(next_hop.reason);
        }
        let mut copy = frame.clone();
        let form = emit(
            &mut copy,
            &mut self.plan,
            b,
            &next_hop,
            &self.settings,
            stripped,
        );
        let Some(form) = form else {
            self.count(slot, Counter::DropNoRoom);
            return;
        };
        if form == Form::Tunnel {
            let tunnel = self.tables.tunnel(next_hop.group_or_tunnel);
            let encapsulated = tunnel.and_then(|tunnel| encapsulate(&mut copy, &self.plan, tunnel));
            if encapsulated.is_none() {
                self.count(slot, Counter::DropNoRoom);
                return;
            }
            self.count(slot, Counter::TunnelSent);
            if slot == self.plan.packet.arrival_slot() {
                self.count(slot, Counter::TunnelHairpin);
            }
        }
        self.count(slot, Counter::Sent);
        if form == Form::Unicast {
            self.count(slot, Counter::X2u);
        }
        copies.push((slot, copy.frame().to_vec()));
    }

    fn count(&mut self, slot: u8, counter: Counter) {
        self.counters.entry(slot).or_default().bump(counter);
    }
}
