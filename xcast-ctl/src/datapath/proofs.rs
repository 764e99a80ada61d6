//! Gateways that proved that they speak Xcast, in a map that is pinned: whoever takes over goes on with them. Until answers
//! to probes of its own were there, it would send them no lists, and drop what may only be sent as a list.

use std::net::{IpAddr, Ipv6Addr};

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use aya_obj::generated::bpf_map_type;
use tracing::warn;

use super::pin::Pins;

/// What the map is pinned as.
const PIN: &str = "proofs";
/// Gateways that it holds. Others have to prove it anew.
const CAPACITY: u32 = 4096;

/// A gateway: its interface's index, and its address, as one of IPv6.
type Key = [u8; 20];

/// The key of the time until which the others are good. No interface has the index 0.
const UNTIL: Key = [0; 20];

/// The map.
pub(super) struct Proofs(BpfHashMap<MapData, Key, u64>);

impl Proofs {
    /// Opens what the predecessor left, or makes a map. Without one, nothing is handed on.
    pub(super) fn open(pins: &Pins) -> Option<Self> {
        let pinned = MapData::from_pin(pins.path(PIN)).ok().and_then(typed);
        let map = pinned.or_else(|| {
            make(pins)
                .inspect_err(|error| {
                    warn!("what gateways proved will end with this process: {error:#}");
                })
                .ok()
        });
        map.map(Self)
    }

    /// The gateways, if whoever noted them has gone for no longer than its tables are trusted.
    pub(super) fn read(&self, now_ns: u64) -> Vec<(u32, IpAddr)> {
        if self.0.get(&UNTIL, 0).is_ok_and(|until| until < now_ns) {
            return Vec::new();
        }
        let keys = self.0.keys().filter_map(Result::ok);
        keys.filter(|key| *key != UNTIL).map(gateway).collect()
    }

    /// Notes until when they are good.
    pub(super) fn trust_until(&mut self, time_ns: u64) {
        self.write(UNTIL, Some(time_ns));
    }

    /// Notes that a gateway counts as proven, or does no longer.
    pub(super) fn note(&mut self, (ifindex, address): (u32, IpAddr), is_proven: bool) {
        self.write(key(ifindex, address), is_proven.then_some(0));
    }

    fn write(&mut self, key: Key, value: Option<u64>) {
        // What cannot be noted has to be proved anew, and what is not there need not be removed.
        let _ = match value {
            Some(value) => self.0.insert(key, value, 0),
            None => self.0.remove(&key),
        };
    }
}

fn key(ifindex: u32, address: IpAddr) -> Key {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut key = Key::default();
    key[..4].copy_from_slice(&ifindex.to_ne_bytes());
    key[4..].copy_from_slice(&address.octets());
    key
}

fn gateway(key: Key) -> (u32, IpAddr) {
    let [a, b, c, d, address @ ..] = key;
    let address = Ipv6Addr::from(address).to_canonical();
    (u32::from_ne_bytes([a, b, c, d]), address)
}

fn make(pins: &Pins) -> anyhow::Result<BpfHashMap<MapData, Key, u64>> {
    let definition = aya_obj::Map::new_from_params(
        bpf_map_type::BPF_MAP_TYPE_HASH as u32,
        size_of::<Key>() as u32,
        size_of::<u64>() as u32,
        CAPACITY,
        0,
    );
    let map = MapData::create(definition, "xcast_proofs", None)?;
    pins.remove(PIN);
    map.pin(pins.path(PIN))?;
    Ok(Map::HashMap(map).try_into()?)
}

fn typed(map: MapData) -> Option<BpfHashMap<MapData, Key, u64>> {
    Map::HashMap(map).try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_of_both_families() {
        for address in ["10.0.0.1", "2001:db8::1", "fe80::1"] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(gateway(key(7, address)), (7, address));
        }
    }
}
