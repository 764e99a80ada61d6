//! What the programs count.

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use xcast_common::maps::{
    GROUP_PRESETS, MAX_PORTS, PortCounters, PresetFanout, SLOT_GROUPS, counter::Counter,
};

use super::{
    error::{DatapathError, map},
    object::typed,
};

/// The maps that the programs count in.
pub(super) struct Counters {
    by_port: PerCpuArray<MapData, PortCounters>,
    /// Packets by usual set of ports, whose copies the programs do not count one by one.
    planned: PerCpuArray<MapData, [u64; GROUP_PRESETS]>,
}

impl Counters {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            by_port: typed(ebpf, "COUNTERS")?,
            planned: typed(ebpf, "PLANNED")?,
        })
    }

    /// Counters of every slot, summed over CPUs.
    pub(super) fn sum(&self) -> Result<Vec<PortCounters>, DatapathError> {
        let mut all = vec![PortCounters::default(); MAX_PORTS];
        for (slot, sum) in (0..).zip(&mut all) {
            let per_cpu = self.by_port.get(&slot, 0).map_err(map("COUNTERS"))?;
            for cpu in per_cpu.iter() {
                for (total, count) in sum.counts.iter_mut().zip(cpu.counts) {
                    *total += count;
                }
            }
        }
        for group in 0..SLOT_GROUPS as u32 {
            let per_cpu = self.planned.get(&group, 0).map_err(map("PLANNED"))?;
            for cpu in per_cpu.iter() {
                for (index, packets) in (0..).zip(cpu).filter(|(_, packets)| **packets != 0) {
                    for slot in PresetFanout::slots_of(group, index) {
                        all[slot]
                            .tally()
                            .add_index(Counter::Planned as u8, *packets);
                    }
                }
            }
        }
        Ok(all)
    }
}
