//! The tables of programs by which each of two generations leaves the other's frames to it (ADR 14).

use aya::{
    Ebpf,
    maps::{MapData, ProgramArray},
    programs::ProgramFd,
};
use xcast_common::maps::{ARRIVAL_TUNNEL, GENERATIONS, Settings};

use super::{
    error::{DatapathError, map},
    object::{duplicate, load_program, typed},
};

/// Both tables, which are forgotten by the kernel with their last user, unless pinned; and what a generation puts there.
pub(super) struct Entrances {
    arrivals: ProgramArray<MapData>,
    departures: ProgramArray<MapData>,
    /// Programs for what arrives, by place; `None` where this generation has none.
    arriving: Vec<(u32, Option<ProgramFd>)>,
    departing: (u32, ProgramFd),
}

impl Entrances {
    /// Loads the programs that go there. `copy` makes copies into what leaves.
    pub(super) fn load(
        ebpf: &mut Ebpf,
        settings: &Settings,
        copy: &ProgramFd,
    ) -> Result<Self, DatapathError> {
        let own = settings.generation();
        let mut load =
            |name, is_wanted: bool| is_wanted.then(|| load_program(ebpf, name)).transpose();
        let arriving = vec![
            (own, load("xcast", true)?),
            (own + GENERATIONS, load("xcast6", settings.ipv6 != 0)?),
            (
                own + ARRIVAL_TUNNEL,
                load("xcast_tunnel", settings.tunnels != 0)?,
            ),
        ];
        Ok(Self {
            arrivals: typed(ebpf, "ARRIVALS")?,
            departures: typed(ebpf, "DEPARTURES")?,
            arriving,
            departing: (own, duplicate(copy)?),
        })
    }

    /// Makes the programs known, right before the first of them runs. Not earlier: where a router was killed while it
    /// took over, some interfaces still run programs of a generation with the same place, and go on by these tables.
    pub(super) fn open(&mut self) -> Result<(), DatapathError> {
        let (place, program) = &self.departing;
        self.departures
            .set(*place, program, 0)
            .map_err(map("DEPARTURES"))?;
        for (place, program) in &self.arriving {
            match program {
                Some(program) => self
                    .arrivals
                    .set(*place, program, 0)
                    .map_err(map("ARRIVALS"))?,
                // There is none, or that of the generation before the last one.
                None => drop(self.arrivals.clear_index(place)),
            }
        }
        Ok(())
    }
}
