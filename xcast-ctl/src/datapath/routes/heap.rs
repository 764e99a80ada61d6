//! A route map's memory for tests.

use std::{collections::BTreeMap, ops::Range};

use xcast_common::maps::lpm::{BLOCK_ENTRIES, Entry, Reader, SEGMENT_ENTRIES};

use super::trie::{Full, Memory, Table};

/// Plain memory, which hands out released blocks first and limits their number.
pub(super) struct Heap {
    pub(super) root: Vec<Entry>,
    pub(super) segments: BTreeMap<u32, Vec<Entry>>,
    pub(super) blocks: Vec<Vec<Entry>>,
    pub(super) free: Vec<u32>,
    pub(super) limit: usize,
}

impl Heap {
    pub(super) fn new(limit: usize, root_bits: u32) -> Self {
        Self {
            root: vec![Entry::NONE; 1 << root_bits],
            segments: BTreeMap::new(),
            blocks: Vec::new(),
            free: Vec::new(),
            limit,
        }
    }

    fn table_mut(&mut self, table: Table) -> &mut Vec<Entry> {
        match table {
            Table::Root => &mut self.root,
            Table::Segment(number) => self.segments.get_mut(&number).unwrap(),
            Table::Block(block) => &mut self.blocks[block as usize],
        }
    }

    fn table(&self, table: Table) -> &Vec<Entry> {
        match table {
            Table::Root => &self.root,
            Table::Segment(number) => &self.segments[&number],
            Table::Block(block) => &self.blocks[block as usize],
        }
    }
}

impl Memory for Heap {
    fn set(&mut self, table: Table, index: usize, entry: Entry) {
        self.table_mut(table)[index] = entry;
    }
    fn get(&self, table: Table, index: usize) -> Entry {
        self.table(table)[index]
    }
    fn update(
        &mut self,
        table: Table,
        slots: Range<usize>,
        mut change: impl FnMut(usize, Entry) -> Option<Entry>,
    ) {
        let table = self.table_mut(table);
        for (slot, entry) in slots.clone().zip(&mut table[slots]) {
            if let Some(new) = change(slot, *entry) {
                *entry = new;
            }
        }
    }
    fn add_segment(&mut self, number: u32, content: Entry) -> Result<(), Full> {
        if self.segments.len() == self.limit {
            return Err(Full(None));
        }
        let content = vec![content; SEGMENT_ENTRIES];
        assert!(self.segments.insert(number, content).is_none());
        Ok(())
    }
    fn remove_segment(&mut self, number: u32) {
        let segment = self.segments.remove(&number).unwrap();
        let root = self.root[number as usize];
        // Not all of them: that takes long in a debug build.
        assert!(segment.iter().step_by(127).all(|entry| *entry == root));
    }
    fn allocate(&mut self) -> Result<u32, Full> {
        if let Some(block) = self.free.pop() {
            return Ok(block);
        }
        if self.blocks.len() == self.limit {
            return Err(Full(None));
        }
        // Not zeroed: nobody may count on that.
        self.blocks
            .push(vec![Entry::route(0xbad, 32); BLOCK_ENTRIES]);
        Ok(self.blocks.len() as u32 - 1)
    }
    fn release(&mut self, block: u32) {
        assert!(!self.free.contains(&block));
        self.free.push(block);
    }
}

impl Reader for Heap {
    fn root(&self, index: u32) -> Option<Entry> {
        self.root.get(index as usize).copied()
    }
    fn segment(&self, segment: u32, index: u32) -> Option<Entry> {
        self.segments.get(&segment)?.get(index as usize).copied()
    }
    fn entry(&self, block: u32, index: u32) -> Option<Entry> {
        self.blocks
            .get(block as usize)?
            .get(index as usize)
            .copied()
    }
}
