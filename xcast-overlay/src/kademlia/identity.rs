//! A node's identifier, and what changes with it.

use std::{net::IpAddr, time::Instant};

use super::{bep42, node::Node, table::Table};
use crate::{id::Id, krpc::Family};

impl Node {
    /// Takes an identifier that follows from this address, unless the present one does (BEP 42), and
    /// joins again with it: whether it was changed.
    ///
    /// An identifier can follow from one address only. So an IPv6 address counts for nodes that do
    /// not use IPv4.
    ///
    /// A node whose identifier was not given does this itself when others tell it its address.
    pub fn follow_address(&mut self, now: Instant, address: IpAddr) -> bool {
        let counts = address.is_ipv4() || !self.tables.contains_key(&Family::Ipv4);
        if !counts || self.leaving || bep42::is_valid(self.id, address) {
            return false;
        }
        let id = bep42::random_id(address, &mut self.random);
        self.set_id(now, id);
        true
    }

    /// Takes another identifier, and joins again with it. Good nodes of the tables, and what is
    /// stored and published, are kept.
    fn set_id(&mut self, now: Instant, id: Id) {
        self.id = id;
        for table in self.tables.values_mut() {
            let mut changed = Table::new(id, self.config.table);
            for contact in table.good(now) {
                // Its bucket may be another one, and full.
                let _ = changed.answered(now, contact);
                let extensions = table.extensions(&contact).unwrap_or(false);
                changed.set_extensions(&contact, extensions);
            }
            *table = changed;
        }
        self.server.set_id(id);
        self.upkeep.refreshes.clear();
        self.join(now);
    }
}
