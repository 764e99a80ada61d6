//! How the route map is kept.
//!
//! Only the entries are visible to readers. Each entry is written once and whole, and a new table is
//! filled before it is linked. An entry says how long the prefix of its route is. So a new route
//! takes those entries below it that come from shorter prefixes, and a route that is removed gives
//! its own entries back to the next shorter one. The writer finds that one in the `PrefixTree` of
//! each table: the prefixes that end within a table are the nodes of a complete binary tree whose
//! leaves are the entries, and the next shorter route is the nearest one above.
//!
//! Addresses are the leading bits of 128, so IPv6 needs nothing else.

use std::ops::Range;

use thiserror::Error;
use xcast_common::maps::lpm::{BLOCK_BITS, BLOCK_ENTRIES, Entry, SEGMENT_BITS, SEGMENT_ENTRIES};

/// A prefix: leading bits of an address, the rest zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The address, from the most significant bit on.
    pub bits: u128,
    /// How many bits count.
    pub len: u8,
}

impl Prefix {
    /// The prefix of this length around it.
    pub fn leading(self, len: u8) -> Self {
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        Self {
            bits: self.bits & mask,
            len,
        }
    }
}

impl From<ipnet::IpNet> for Prefix {
    fn from(net: ipnet::IpNet) -> Self {
        Self {
            bits: match net {
                ipnet::IpNet::V4(net) => u128::from(net.network().to_bits()) << 96,
                ipnet::IpNet::V6(net) => net.network().to_bits(),
            },
            len: net.prefix_len(),
        }
    }
}

/// A table of the trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// The first 8 bits, or the first 16 of IPv6.
    Root,
    /// The next 16, for this value of the first.
    Segment(u32),
    /// Another 8.
    Block(u32),
}

/// The memory that readers see.
pub trait Memory {
    /// Writes an entry. Readers see it at once, and everything written before it.
    fn set(&mut self, table: Table, index: usize, entry: Entry);

    /// Reads an entry.
    fn get(&self, table: Table, index: usize) -> Entry;

    /// Goes through entries, from the first on, and writes what `change` makes of them.
    fn update(
        &mut self,
        table: Table,
        slots: Range<usize>,
        change: impl FnMut(usize, Entry) -> Option<Entry>,
    );

    /// Makes a segment that is all `content`. Readers may go on with the root's entry for a while.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory for it.
    fn add_segment(&mut self, number: u32, content: Entry) -> Result<(), Full>;

    /// Takes a segment back whose entries all say what the root's does. Readers may go on with it for a while, and see
    /// in it what the root's entry says.
    fn remove_segment(&mut self, number: u32);

    /// A block that no reader can have in its hands, with any content.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory for it.
    fn allocate(&mut self) -> Result<u32, Full>;

    /// Takes a block back that is not linked any more; readers may still hold it for a moment.
    fn release(&mut self, block: u32);
}

/// There is no memory for another segment or block.
#[derive(Debug, Error)]
#[error("no memory for more of the route map")]
pub struct Full(#[source] pub Option<std::io::Error>);

/// A route does not fit.
#[derive(Debug)]
pub struct NoRoom {
    /// The longest prefix around it that is not divided any further; shorter than the route's.
    pub around: Prefix,
    /// Why.
    pub source: Full,
}

/// The routes whose prefixes end within a table.
struct PrefixTree {
    /// By node of the tree above the entries, next-hop id + 1; 0 is no route. Node 1 is the root,
    /// nodes 2n and 2n + 1 are below node n. Zeroed, so that what is never written takes no memory.
    nodes: Box<[u16]>,
    /// Routes that end here, and tables below.
    in_use: u32,
}

impl PrefixTree {
    fn new(entries: usize) -> Self {
        Self {
            nodes: vec![0; entries].into_boxed_slice(),
            in_use: 0,
        }
    }

    fn get(&self, node: usize) -> Option<u32> {
        u32::from(self.nodes[node]).checked_sub(1)
    }

    fn set(&mut self, node: usize, next_hop: Option<u32>) {
        self.nodes[node] = next_hop.map_or(0, |id| id as u16 + 1);
    }
}

/// A table, and which bits of addresses index it.
#[derive(Clone, Copy, Debug)]
struct Level {
    table: Table,
    /// Bits before those that index this table.
    base: u32,
    /// Bits that index this table.
    stride: u32,
}

impl Level {
    fn top(root_bits: u32) -> Self {
        Self {
            table: Table::Root,
            base: 0,
            stride: root_bits,
        }
    }

    /// Bits before those that index the tables below.
    fn end(self) -> u32 {
        self.base + self.stride
    }

    fn entries(self) -> usize {
        1 << self.stride
    }

    /// The table below an entry, if that says there is one.
    fn below(self, table: Table) -> Self {
        let stride = match table {
            Table::Segment(_) => SEGMENT_BITS,
            _ => BLOCK_BITS,
        };
        Self {
            table,
            base: self.end(),
            stride,
        }
    }

    /// Whether the prefix ends in this table below, or further down. A prefix that ends exactly at
    /// an entry belongs to the block that has taken the entry's place.
    fn leads_to(self, prefix: Prefix, table: Table) -> bool {
        let from = match table {
            Table::Block(_) => self.end(),
            _ => self.end() + 1,
        };
        u32::from(prefix.len) >= from
    }

    /// The first `bits` of those that index this table.
    fn leading(self, prefix: Prefix, bits: u32) -> usize {
        let from_base = prefix.bits << self.base;
        // In two steps, since shifting all 128 bits out is an overflow.
        (from_base >> 1 >> (127 - bits)) as usize
    }

    /// Index of the entry on the way to the prefix.
    fn slot(self, prefix: Prefix) -> usize {
        self.leading(prefix, self.stride)
    }

    /// The prefix's own node: above the entries if below their number, else an entry.
    fn node(self, prefix: Prefix) -> usize {
        let bits = u32::from(prefix.len) - self.base;
        1 << bits | self.leading(prefix, bits)
    }

    /// Length of the prefixes that the nodes of this node's row stand for.
    fn prefix_len(self, node: usize) -> u8 {
        (self.base + node.ilog2()) as u8
    }

    /// The entries below a node.
    fn covered(self, node: usize) -> Range<usize> {
        let size = self.entries() >> node.ilog2();
        let first = node * size - self.entries();
        first..first + size
    }
}

/// Which entries a change takes.
#[derive(Clone, Copy, Debug)]
enum Taken {
    /// A route comes: those of prefixes that are not longer.
    UpTo(u8),
    /// A route goes: its own.
    Only(u8),
}

impl Taken {
    fn contains(self, entry: Entry) -> bool {
        match self {
            Self::UpTo(len) => entry.prefix_len() <= Some(len),
            Self::Only(len) => entry.prefix_len() == Some(len),
        }
    }
}

/// The writer's side of the route map.
pub struct Trie<M> {
    memory: M,
    /// Bits of an address that index the root.
    root_bits: u32,
    root: PrefixTree,
    segments: Vec<Option<PrefixTree>>,
    blocks: Vec<Option<PrefixTree>>,
    routes: usize,
}

impl<M: Memory> Trie<M> {
    /// A trie without any route, whose root is indexed by so many bits. `memory`'s root must be all
    /// [`Entry::NONE`].
    pub fn new(memory: M, root_bits: u32) -> Self {
        Self {
            memory,
            root_bits,
            root: PrefixTree::new(1 << root_bits),
            segments: (0..1 << root_bits).map(|_| None).collect(),
            blocks: Vec::new(),
            routes: 0,
        }
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.routes
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.routes == 0
    }

    /// Blocks in use.
    pub fn blocks(&self) -> usize {
        self.blocks.iter().flatten().count()
    }

    /// The memory that readers see.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The memory that readers see.
    pub fn memory_mut(&mut self) -> &mut M {
        &mut self.memory
    }

    /// Adds a route or changes its next hop.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] if a table is needed and there is no memory; every address keeps its next hop then.
    pub fn insert(&mut self, prefix: Prefix, next_hop: u32) -> Result<(), NoRoom> {
        let mut level = Level::top(self.root_bits);
        let mut path = vec![level];
        loop {
            let slot = level.slot(prefix);
            let table = match self.table_below(level, slot) {
                Some(table) if level.leads_to(prefix, table) => table,
                None if u32::from(prefix.len) > level.end() => match self.grow(level, slot) {
                    Ok(table) => table,
                    Err(source) => {
                        self.prune(&path, prefix);
                        let around = prefix.leading(level.end() as u8);
                        return Err(NoRoom { around, source });
                    }
                },
                _ => break,
            };
            level = level.below(table);
            path.push(level);
        }
        let node = level.node(prefix);
        let is_new = self.route_at(level, node).is_none();
        let new = Entry::route(next_hop, prefix.len);
        let tree = self.tree_mut(level.table);
        if node < level.entries() {
            tree.set(node, Some(next_hop));
        }
        if is_new {
            tree.in_use += 1;
            self.routes += 1;
        }
        self.take(level, level.covered(node), Taken::UpTo(prefix.len), new);
        Ok(())
    }

    /// Removes a route; whether there was one.
    pub fn remove(&mut self, prefix: Prefix) -> bool {
        let mut level = Level::top(self.root_bits);
        let mut path = vec![level];
        loop {
            match self.table_below(level, level.slot(prefix)) {
                Some(table) if level.leads_to(prefix, table) => level = level.below(table),
                None if u32::from(prefix.len) > level.end() => return false,
                _ => break,
            }
            path.push(level);
        }
        let node = level.node(prefix);
        if self.route_at(level, node).is_none() {
            return false;
        }
        let shorter = self.shorter(&path, prefix);
        let tree = self.tree_mut(level.table);
        if node < level.entries() {
            tree.set(node, None);
        }
        tree.in_use -= 1;
        self.routes -= 1;
        self.take(level, level.covered(node), Taken::Only(prefix.len), shorter);
        self.prune(&path, prefix);
        true
    }

    /// The next hop of a route, if there is one of exactly this prefix.
    pub fn get(&self, prefix: Prefix) -> Option<u32> {
        let mut level = Level::top(self.root_bits);
        loop {
            match self.table_below(level, level.slot(prefix)) {
                Some(table) if level.leads_to(prefix, table) => level = level.below(table),
                None if u32::from(prefix.len) > level.end() => return None,
                _ => return self.route_at(level, level.node(prefix)),
            }
        }
    }

    /// What readers find for an address, from its most significant bit on.
    pub fn lookup(&self, bits: u128) -> u32 {
        let address = Prefix { bits, len: 128 };
        let mut level = Level::top(self.root_bits);
        while let Some(table) = self.table_below(level, level.slot(address)) {
            level = level.below(table);
        }
        self.memory.get(level.table, level.slot(address)).next_hop()
    }

    /// The route of a node's prefix.
    fn route_at(&self, level: Level, node: usize) -> Option<u32> {
        match node.checked_sub(level.entries()) {
            None => self.tree(level.table).get(node),
            Some(slot) => {
                let entry = self.memory.get(level.table, slot);
                let own = entry.prefix_len() == Some(level.prefix_len(node));
                (entry.block().is_none() && own).then(|| entry.next_hop())
            }
        }
    }

    /// The longest route that is shorter than the prefix, which ends in the last table of the path.
    fn shorter(&self, path: &[Level], prefix: Prefix) -> Entry {
        let mut node = path.last().map_or(1, |level| level.node(prefix));
        for level in path.iter().rev() {
            let tree = self.tree(level.table);
            while node > 1 {
                node /= 2;
                if let Some(next_hop) = tree.get(node) {
                    return Entry::route(next_hop, level.prefix_len(node));
                }
            }
            // The root of this table's tree is an entry of the table above.
            let base = level.base;
            if let Some(&above) = path.iter().find(|above| above.end() == base) {
                node = above.entries() + above.slot(prefix);
                if let Some(next_hop) = self.route_at(above, node) {
                    return Entry::route(next_hop, above.prefix_len(node));
                }
            }
        }
        Entry::NONE
    }

    /// The table that an entry leads to.
    fn table_below(&self, level: Level, slot: usize) -> Option<Table> {
        match level.table {
            Table::Root => self.segments[slot]
                .is_some()
                .then_some(Table::Segment(slot as u32)),
            table => self.memory.get(table, slot).block().map(Table::Block),
        }
    }

    /// Writes `new` to those entries of a table, and of all tables below them, that a change takes.
    fn take(&mut self, level: Level, slots: Range<usize>, taken: Taken, new: Entry) {
        let mut tables = Vec::new();
        let is_root = level.table == Table::Root;
        self.memory.update(level.table, slots, |slot, entry| {
            let block = entry.block();
            if is_root && self.segments[slot].is_some() {
                tables.push(Table::Segment(slot as u32));
            } else if let Some(block) = block {
                tables.push(Table::Block(block));
            }
            (block.is_none() && taken.contains(entry)).then_some(new)
        });
        for table in tables {
            let below = level.below(table);
            self.take(below, 0..below.entries(), taken, new);
        }
    }

    /// Puts a table below an entry, every entry of it what that one was.
    fn grow(&mut self, level: Level, slot: usize) -> Result<Table, Full> {
        let content = self.memory.get(level.table, slot);
        if level.table == Table::Root {
            self.memory.add_segment(slot as u32, content)?;
            self.segments[slot] = Some(PrefixTree::new(SEGMENT_ENTRIES));
            return Ok(Table::Segment(slot as u32));
        }
        let moved = self.route_at(level, level.entries() + slot);
        let block = self.memory.allocate()?;
        let table = Table::Block(block);
        for index in 0..BLOCK_ENTRIES {
            self.memory.set(table, index, content);
        }
        let mut tree = PrefixTree::new(BLOCK_ENTRIES);
        tree.set(1, moved);
        tree.in_use = u32::from(moved.is_some());
        let at = block as usize;
        if self.blocks.len() <= at {
            self.blocks.resize_with(at + 1, || None);
        }
        self.blocks[at] = Some(tree);
        self.memory.set(level.table, slot, Entry::to_block(block));
        self.tree_mut(level.table).in_use += u32::from(moved.is_none());
        Ok(table)
    }

    /// Unlinks the blocks on a path in which no route ends but at their root, from the lowest up, and then
    /// the segment if nothing is left in it.
    fn prune(&mut self, path: &[Level], prefix: Prefix) {
        for pair in path.windows(2).rev() {
            let (above, level) = (pair[0], pair[1]);
            let tree = self.tree(level.table);
            let block = match level.table {
                Table::Block(block) => block,
                Table::Segment(number) if tree.in_use == 0 => {
                    self.segments[number as usize] = None;
                    self.memory.remove_segment(number);
                    break;
                }
                Table::Segment(_) | Table::Root => break,
            };
            let moved = u32::from(tree.get(1).is_some());
            if tree.in_use > moved {
                break;
            }
            let content = self.memory.get(level.table, 0);
            self.memory.set(above.table, above.slot(prefix), content);
            self.blocks[block as usize] = None;
            self.memory.release(block);
            self.tree_mut(above.table).in_use -= 1 - moved;
        }
    }

    fn tree(&self, table: Table) -> &PrefixTree {
        match table {
            Table::Root => &self.root,
            Table::Segment(number) => linked(self.segments[number as usize].as_ref()),
            Table::Block(block) => linked(self.blocks[block as usize].as_ref()),
        }
    }

    fn tree_mut(&mut self, table: Table) -> &mut PrefixTree {
        match table {
            Table::Root => &mut self.root,
            Table::Segment(number) => linked(self.segments[number as usize].as_mut()),
            Table::Block(block) => linked(self.blocks[block as usize].as_mut()),
        }
    }
}

/// A table that is linked has a prefix tree; they come and go together.
fn linked<T>(tree: Option<T>) -> T {
    tree.expect("a linked table has a prefix tree")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use xcast_common::{
        maps::{
            NEXT_HOP_NO_ROUTE,
            lpm::{ROOT_BITS, ROOT_BITS6, lookup},
        },
        wire::Be32,
    };

    use super::*;
    use crate::datapath::routes::heap::Heap;

    /// What routes mean, in the simplest way: try every length, longest first.
    #[derive(Default)]
    struct Model(BTreeMap<Prefix, u32>);

    impl Model {
        fn lookup(&self, address: u32) -> u32 {
            (0..=32)
                .rev()
                .find_map(|len| self.0.get(&prefix(address, len)).copied())
                .unwrap_or(NEXT_HOP_NO_ROUTE)
        }
    }

    fn prefix(address: u32, len: u8) -> Prefix {
        let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
        Prefix {
            bits: u128::from(address & mask) << 96,
            len,
        }
    }

    fn at(trie: &Trie<Heap>, address: u32) -> u32 {
        lookup(trie.memory(), Be32::new(address))
    }

    /// Addresses that meet often: few values in each octet.
    fn crowded() -> impl Strategy<Value = u32> {
        let octet = || prop_oneof![Just(0u8), Just(1), Just(127), Just(128), Just(255)];
        (octet(), octet(), octet(), octet())
            .prop_map(|(a, b, c, d)| u32::from_be_bytes([a, b, c, d]))
    }

    proptest! {
        #[test]
        fn random_changes_agree_with_the_model(
            steps in proptest::collection::vec((crowded(), 0u8..=32, 0u32..4), 1..200),
            limit in prop_oneof![Just(3usize), Just(usize::MAX)],
        ) {
            let mut trie = Trie::new(Heap::new(limit, ROOT_BITS), ROOT_BITS);
            let mut model = Model::default();
            for (address, len, next_hop) in steps {
                let route = prefix(address, len);
                if next_hop == 0 {
                    prop_assert_eq!(trie.remove(route), model.0.remove(&route).is_some());
                } else if trie.insert(route, next_hop).is_ok() {
                    model.0.insert(route, next_hop);
                }
                prop_assert_eq!(trie.len(), model.0.len());
                for probe in [address, address ^ 1, address ^ 0x80, address ^ 0x8000, !address] {
                    prop_assert_eq!(at(&trie, probe), model.lookup(probe), "{:#x}", probe);
                }
            }
            for route in model.0.keys() {
                prop_assert!(trie.remove(*route));
            }
            prop_assert_eq!(trie.blocks(), 0, "blocks left behind");
            let heap = trie.memory();
            prop_assert!(heap.segments.is_empty(), "segments left behind");
            prop_assert!(heap.root.iter().all(|entry| *entry == Entry::NONE));
        }
    }

    /// A cheap generator: the long run makes more numbers than a strategy should keep.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u32 {
            self.0 = self
                .0
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (self.0 >> 33) as u32
        }
    }

    fn many_changes(operations: usize) {
        let mut random = Random(20);
        let mut trie = Trie::new(Heap::new(usize::MAX, ROOT_BITS), ROOT_BITS);
        let mut model = Model::default();
        for _ in 0..operations {
            // A few networks with everything in them, so that routes nest, repeat and go.
            let address = (random.next() & 0x0307_1f7f) | (random.next() & 0x8000_0080);
            let len = match random.next() % 64 {
                0 => (random.next() % 9) as u8,
                1..22 => 8 + (random.next() % 17) as u8,
                _ => 16 + (random.next() % 17) as u8,
            };
            let route = prefix(address, len);
            if random.next().is_multiple_of(2) {
                let id = random.next() & 0x7fff;
                trie.insert(route, id).unwrap();
                model.0.insert(route, id);
            } else {
                assert_eq!(trie.remove(route), model.0.remove(&route).is_some());
            }
            for probe in [
                address,
                address ^ (random.next() & 0xff),
                random.next() << 1,
            ] {
                assert_eq!(at(&trie, probe), model.lookup(probe), "{probe:#x}");
            }
        }
        assert_eq!(trie.len(), model.0.len());
    }

    #[test]
    fn a_long_run_of_changes_agrees_with_the_model() {
        many_changes(20_000);
    }

    /// The same, longer: `cargo test -p xcast-ctl --release route_map -- --ignored`.
    #[test]
    #[ignore = "the long form: minutes in a debug build"]
    fn a_million_changes_agree_with_the_model() {
        many_changes(1_500_000);
    }

    #[test]
    fn addresses_of_128_bits_nest_as_deep_as_they_are_long() {
        let mut trie = Trie::new(Heap::new(usize::MAX, ROOT_BITS6), ROOT_BITS6);
        let bits = 0x2001_0db8_0000_0000_0000_0000_0000_0001;
        let routes = [0u8, 16, 17, 32, 48, 64, 127, 128];
        for len in routes {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            trie.insert(
                Prefix {
                    bits: bits & mask,
                    len,
                },
                u32::from(len) + 1,
            )
            .unwrap();
        }
        // Down to the entry of the address itself.
        let mut entry = trie.memory().segments[&0x2001][0x0db8];
        for byte in bits.to_be_bytes().into_iter().skip(4) {
            let Some(block) = entry.block() else { break };
            entry = trie.memory().blocks[block as usize][usize::from(byte)];
        }
        assert_eq!((entry.next_hop(), entry.prefix_len()), (129, Some(128)));
        assert_eq!(trie.blocks(), 12);
        for len in routes {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            assert!(trie.remove(Prefix {
                bits: bits & mask,
                len
            }));
        }
        assert_eq!(trie.blocks(), 0);
    }
}
