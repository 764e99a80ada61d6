//! Tunnels to other routers: outer headers, and who is at the other ends.

use aya::{
    Ebpf,
    maps::{Array, HashMap as BpfHashMap, MapData},
};
use xcast_common::maps::{Tunnel, TunnelCookies, TunnelPeer};

use super::{
    error::{DatapathError, ignore_missing, map},
    object::typed,
};

/// The programs' maps of tunnels.
pub(super) struct TunnelMaps {
    tunnels: Array<MapData, Tunnel>,
    peers: BpfHashMap<MapData, TunnelPeer, TunnelCookies>,
}

impl TunnelMaps {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            tunnels: typed(ebpf, "TUNNELS")?,
            peers: typed(ebpf, "TUNNEL_PEERS")?,
        })
    }

    /// Writes outer headers. A copy that is made meanwhile may get half of either: the other end takes no such packet,
    /// as its cookie is of other addresses.
    pub(super) fn set(&mut self, index: u16, tunnel: Tunnel) -> Result<(), DatapathError> {
        self.tunnels
            .set(u32::from(index), tunnel, 0)
            .map_err(map("TUNNELS"))
    }

    pub(super) fn set_peer(
        &mut self,
        peer: TunnelPeer,
        cookies: Option<TunnelCookies>,
    ) -> Result<(), DatapathError> {
        match cookies {
            Some(cookies) => self.peers.insert(peer, cookies, 0),
            None => ignore_missing(self.peers.remove(&peer)),
        }
        .map_err(map("TUNNEL_PEERS"))
    }
}
