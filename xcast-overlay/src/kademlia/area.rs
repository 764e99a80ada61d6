//! Who is where (WO 2007/030742, paragraph 45): nodes announce themselves under the cells of the grid
//! that they are in, and are found by those of an area.
//!
//! An announcement is BEP 5's, so nodes of every kind store it. Cells of an area are several keys: nodes
//! of this kind are asked for all of them at once, others for one after the other, at the same time.

use std::time::Instant;

use super::{node::Node, operation::OperationId};
use crate::places::{Area, Place, PlaceError, key};

/// How the cells of an area are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// Of nodes of this kind, all of them by common rounds ([`Node::find_many`]): one operation.
    Together,
    /// Of any nodes, each by a look-up of its own ([`Node::find_peers`]), all at the same time: an operation
    /// for each.
    Each,
}

impl Node {
    /// Announces this node as a thing of this kind at a place: under the cell of each size that the place
    /// is in, each by an operation of its own.
    ///
    /// An announcement lives half an hour at least, so whoever wants to stay found repeats this.
    pub fn announce_at(
        &mut self,
        now: Instant,
        place: Place,
        kind: &[u8],
        port: Option<u16>,
    ) -> Vec<OperationId> {
        let cells = place.cells();
        cells
            .map(|cell| self.announce(now, key(cell, kind), port))
            .to_vec()
    }

    /// Finds who has announced itself as a thing of this kind in the cells that cover an area, at most
    /// `most_cells` of them. Who is near the area may be among them: whether it is within, only its
    /// place says.
    ///
    /// # Errors
    ///
    /// If the area is none, or too large.
    pub fn find_in_area(
        &mut self,
        now: Instant,
        area: &Area,
        kind: &[u8],
        most_cells: usize,
        asking: Asking,
    ) -> Result<Vec<OperationId>, PlaceError> {
        let cells = area.cells(most_cells)?.into_iter();
        let keys: Vec<_> = cells.map(|cell| key(cell, kind)).collect();
        Ok(match asking {
            Asking::Together => vec![self.find_many(now, &keys)],
            Asking::Each => {
                let keys = keys.into_iter();
                keys.map(|key| self.find_peers(now, key)).collect()
            }
        })
    }
}
