//! The interfaces that copies leave by and packets arrive by, as the programs know them.

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap as BpfHashMap, MapData, xdp::DevMap},
    programs::ProgramFd,
};
use xcast_common::maps::{PORT_PLACES, Port, PortMac, port_place};

use super::{
    bpf,
    error::{DatapathError, map},
    object::{map_fd, typed},
};

/// The port table, and the device map of all slots.
pub(super) struct Devices {
    ports: Array<MapData, Port>,
    slots: Array<MapData, Port>,
    /// The port table's places in use, with the interface indices there.
    places: HashMap<u32, u32>,
    /// Further link layer addresses.
    macs: BpfHashMap<MapData, PortMac, u32>,
    devices: DevMap<MapData>,
    devices_fd: OwnedFd,
    /// Runs on each copy, just before it leaves.
    copy_program: ProgramFd,
}

impl Devices {
    /// Takes over the programs' maps.
    pub(super) fn open(ebpf: &mut Ebpf, copy_program: ProgramFd) -> Result<Self, DatapathError> {
        let devices_fd = map_fd(ebpf, "DEVICES")?;
        Ok(Self {
            ports: typed(ebpf, "PORTS")?,
            slots: typed(ebpf, "SLOTS")?,
            places: HashMap::new(),
            macs: typed(ebpf, "PORT_MACS")?,
            devices: typed(ebpf, "DEVICES")?,
            devices_fd,
            copy_program,
        })
    }

    /// Makes an interface known under a slot, so that single copies can leave by it.
    pub(super) fn add(&mut self, ifindex: u32, port: Port) -> Result<(), DatapathError> {
        self.devices
            .set(u32::from(port.slot), ifindex, Some(&self.copy_program), 0)
            .map_err(|source| DatapathError::DeviceMap {
                map: "DEVICES",
                source,
            })?;
        self.update(ifindex, port)
    }

    /// Changes what is known of an interface.
    pub(super) fn update(&mut self, ifindex: u32, port: Port) -> Result<(), DatapathError> {
        let is = |place: &u32, found| self.places.get(place).copied() == found;
        let mut places = (0..PORT_PLACES).map(|attempt| port_place(ifindex, attempt));
        let place = places
            .clone()
            .find(|place| is(place, Some(ifindex)))
            .or_else(|| places.find(|place| is(place, None)))
            .ok_or(DatapathError::PortTableFull(ifindex))?;
        self.places.insert(place, ifindex);
        let entry = Port { ifindex, ..port };
        self.slots
            .set(u32::from(port.slot), entry, 0)
            .map_err(map("SLOTS"))?;
        self.ports.set(place, entry, 0).map_err(map("PORTS"))
    }

    /// Sets the further link layer addresses by which a port receives. They are only looked at where the
    /// port's entry says that there are any ([`PORT_MORE_MACS`](xcast_common::maps::PORT_MORE_MACS)).
    pub(super) fn set_macs(&mut self, slot: u8, macs: &[[u8; 6]]) -> Result<(), DatapathError> {
        let known: Vec<PortMac> = self.macs.keys().flatten().collect();
        for key in known.iter().filter(|key| key.slot == slot) {
            if !macs.contains(&key.mac) {
                self.macs.remove(key).map_err(map("PORT_MACS"))?;
            }
        }
        for mac in macs {
            let key = PortMac {
                slot,
                mac: *mac,
                ..PortMac::default()
            };
            self.macs.insert(key, 0, 0).map_err(map("PORT_MACS"))?;
        }
        Ok(())
    }

    /// Takes an interface out of the maps.
    pub(super) fn remove(&mut self, slot: u8, ifindex: u32) -> Result<(), DatapathError> {
        // The kernel removed the entry itself if the interface is gone.
        let _ = bpf::map_delete(self.devices_fd.as_fd(), u32::from(slot));
        self.slots
            .set(u32::from(slot), Port::default(), 0)
            .map_err(map("SLOTS"))?;
        let place = self.places.iter().find(|(_, index)| **index == ifindex);
        if let Some((&place, _)) = place {
            self.places.remove(&place);
            self.ports
                .set(place, Port::default(), 0)
                .map_err(map("PORTS"))?;
        }
        Ok(())
    }
}
