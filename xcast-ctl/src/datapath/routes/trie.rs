//! How the route map is kept: an allotment routing table (Hariguchi and Knuth) per block.
//!
//! Every block, and the root, is the lowest row of a complete binary tree whose inner nodes stand
//! for the shorter prefixes. Each node holds the longest route known for it, its own or inherited.
//! A change of a route is handed down the tree as long as nodes inherit it, and no further; where a
//! route is removed, its parent node has what to inherit instead. Only the lowest rows are visible
//! to readers, each entry is written once and whole, and a new block is filled before it is linked.
//!
//! Works on addresses as the leading bits of 128, so IPv6 needs nothing else.

use thiserror::Error;
use xcast_common::trie::{BLOCK_BITS, BLOCK_ENTRIES, Entry};

/// A prefix: leading bits of an address, the rest zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The address, from the most significant bit on.
    pub bits: u128,
    /// How many bits count.
    pub len: u8,
}

impl From<ipnet::Ipv4Net> for Prefix {
    fn from(net: ipnet::Ipv4Net) -> Self {
        Self {
            bits: u128::from(net.network().to_bits()) << 96,
            len: net.prefix_len(),
        }
    }
}

/// The memory that readers see.
pub trait Memory {
    /// Writes an entry of the root. Readers see it at once, and everything written before it.
    fn set_root(&mut self, index: usize, entry: Entry);

    /// Reads an entry of the root.
    fn root(&self, index: usize) -> Entry;

    /// Writes an entry of a block, like [`set_root`](Self::set_root).
    fn set_entry(&mut self, block: u32, index: usize, entry: Entry);

    /// Reads an entry of a block.
    fn entry(&self, block: u32, index: usize) -> Entry;

    /// A block that no reader can have in its hands, with any content.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory for it.
    fn allocate(&mut self) -> Result<u32, Full>;

    /// Takes a block back that is not linked any more; readers may still hold it for a moment.
    fn release(&mut self, block: u32);
}

/// There is no memory for another block.
#[derive(Debug, Error)]
#[error("no memory for more of the route map")]
pub struct Full(#[source] pub Option<std::io::Error>);

/// The inner nodes of a block's tree; node 1 is its top, nodes 2n and 2n + 1 are below node n.
struct Inner {
    nodes: Box<[Entry]>,
    /// Routes that are at home in the block, and blocks below it. None: the block can go.
    in_use: u32,
}

impl Inner {
    fn new(entries: usize, inherited: Entry) -> Self {
        Self {
            nodes: vec![inherited; entries].into_boxed_slice(),
            in_use: 0,
        }
    }
}

/// A table of the trie: the root or a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Root,
    Block(u32),
}

/// A node of a table's tree: inner below the number of entries, an entry from there on.
#[derive(Clone, Copy, Debug)]
struct Node {
    table: Table,
    index: usize,
}

/// Where the way to a prefix has come: a table, and which bits of addresses index it.
#[derive(Clone, Copy, Debug)]
struct Level {
    table: Table,
    /// Bits before those that index this table.
    base: u32,
    /// Bits that index this table.
    stride: u32,
}

impl Level {
    /// Whether the prefix is at home below this table.
    fn is_above(self, prefix: Prefix) -> bool {
        u32::from(prefix.len) > self.base + self.stride
    }

    /// Index of the entry on the way to the prefix.
    fn slot(self, prefix: Prefix) -> usize {
        self.leading(prefix, self.stride)
    }

    /// The prefix's own node in this table.
    fn node(self, prefix: Prefix) -> Node {
        let bits = u32::from(prefix.len) - self.base;
        Node {
            table: self.table,
            index: 1 << bits | self.leading(prefix, bits),
        }
    }

    /// The first `bits` of those that index this table.
    fn leading(self, prefix: Prefix, bits: u32) -> usize {
        let from_base = prefix.bits << self.base;
        // In two steps, since shifting all 128 bits out is an overflow.
        (from_base >> 1 >> (127 - bits)) as usize
    }

    fn below(self, block: u32) -> Self {
        Self {
            table: Table::Block(block),
            base: self.base + self.stride,
            stride: BLOCK_BITS,
        }
    }
}

/// The writer's side of a trie whose root is indexed by `ROOT_BITS` bits.
pub struct Trie<M, const ROOT_BITS: u32> {
    memory: M,
    root: Inner,
    blocks: Vec<Option<Inner>>,
    routes: usize,
}

impl<M: Memory, const ROOT_BITS: u32> Trie<M, ROOT_BITS> {
    const TOP: Level = Level {
        table: Table::Root,
        base: 0,
        stride: ROOT_BITS,
    };

    /// A trie without any route. `memory`'s root must be all [`Entry::NONE`].
    pub fn new(memory: M) -> Self {
        Self {
            memory,
            root: Inner::new(1 << ROOT_BITS, Entry::NONE),
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

    /// Adds a route or changes its next hop.
    ///
    /// # Errors
    ///
    /// [`Full`] if a block is needed and there is no memory; every address keeps its next hop then.
    pub fn insert(&mut self, prefix: Prefix, next_hop: u32) -> Result<(), Full> {
        let mut level = Self::TOP;
        let mut path = Vec::new();
        while level.is_above(prefix) {
            let slot = level.slot(prefix);
            let block = match self.entry(level.table, slot).block() {
                Some(block) => block,
                None => match self.grow(level.table, slot) {
                    Ok(block) => block,
                    Err(full) => {
                        self.prune(path);
                        return Err(full);
                    }
                },
            };
            path.push((level.table, slot, block));
            level = level.below(block);
        }
        let node = level.node(prefix);
        let old = self.value(node);
        if old.prefix_len() != Some(prefix.len) {
            self.inner_mut(level.table).in_use += 1;
            self.routes += 1;
        }
        self.allot(node, old, Entry::route(next_hop, prefix.len));
        Ok(())
    }

    /// Removes a route; whether there was one.
    pub fn remove(&mut self, prefix: Prefix) -> bool {
        let mut level = Self::TOP;
        let mut path = Vec::new();
        while level.is_above(prefix) {
            let slot = level.slot(prefix);
            let Some(block) = self.entry(level.table, slot).block() else {
                return false;
            };
            path.push((level.table, slot, block));
            level = level.below(block);
        }
        let node = level.node(prefix);
        let old = self.value(node);
        if old.prefix_len() != Some(prefix.len) {
            return false;
        }
        let inherited = match node.index {
            // Only the root's top is a route's own node: a block's stands for the entry above it.
            1 => Entry::NONE,
            index => self.value(Node {
                table: level.table,
                index: index / 2,
            }),
        };
        self.allot(node, old, inherited);
        self.inner_mut(level.table).in_use -= 1;
        self.routes -= 1;
        self.prune(path);
        true
    }

    /// Unlinks the blocks on a path that nothing is at home in, from the lowest up.
    fn prune(&mut self, path: Vec<(Table, usize, u32)>) {
        for (above, slot, block) in path.into_iter().rev() {
            let inner = self.inner(Table::Block(block));
            if inner.in_use != 0 {
                break;
            }
            let top = inner.nodes[1];
            self.set_entry(above, slot, top);
            self.blocks[block as usize] = None;
            self.memory.release(block);
            self.inner_mut(above).in_use -= 1;
        }
    }

    /// Puts a new block below an entry, every entry of it what that one was.
    fn grow(&mut self, table: Table, slot: usize) -> Result<u32, Full> {
        let inherited = self.entry(table, slot);
        let block = self.memory.allocate()?;
        for index in 0..BLOCK_ENTRIES {
            self.memory.set_entry(block, index, inherited);
        }
        let at = block as usize;
        if self.blocks.len() <= at {
            self.blocks.resize_with(at + 1, || None);
        }
        self.blocks[at] = Some(Inner::new(BLOCK_ENTRIES, inherited));
        self.set_entry(table, slot, Entry::to_block(block));
        self.inner_mut(table).in_use += 1;
        Ok(block)
    }

    /// Replaces `old` by `new` in a node and in everything that inherited it from there.
    fn allot(&mut self, node: Node, old: Entry, new: Entry) {
        let Node { table, index } = node;
        let entries = self.inner(table).nodes.len();
        if let Some(slot) = index.checked_sub(entries) {
            let entry = self.entry(table, slot);
            if let Some(block) = entry.block() {
                self.allot(
                    Node {
                        table: Table::Block(block),
                        index: 1,
                    },
                    old,
                    new,
                );
            } else if entry == old {
                self.set_entry(table, slot, new);
            }
            return;
        }
        let value = &mut self.inner_mut(table).nodes[index];
        if *value != old {
            return;
        }
        *value = new;
        for index in [2 * index, 2 * index + 1] {
            self.allot(Node { table, index }, old, new);
        }
    }

    /// The longest route known for a node.
    fn value(&self, node: Node) -> Entry {
        let inner = self.inner(node.table);
        let Some(slot) = node.index.checked_sub(inner.nodes.len()) else {
            return inner.nodes[node.index];
        };
        let entry = self.entry(node.table, slot);
        match entry.block() {
            Some(block) => self.inner(Table::Block(block)).nodes[1],
            None => entry,
        }
    }

    fn inner(&self, table: Table) -> &Inner {
        match table {
            Table::Root => &self.root,
            Table::Block(block) => linked(self.blocks[block as usize].as_ref()),
        }
    }

    fn inner_mut(&mut self, table: Table) -> &mut Inner {
        match table {
            Table::Root => &mut self.root,
            Table::Block(block) => linked(self.blocks[block as usize].as_mut()),
        }
    }

    fn entry(&self, table: Table, slot: usize) -> Entry {
        match table {
            Table::Root => self.memory.root(slot),
            Table::Block(block) => self.memory.entry(block, slot),
        }
    }

    fn set_entry(&mut self, table: Table, slot: usize, entry: Entry) {
        match table {
            Table::Root => self.memory.set_root(slot, entry),
            Table::Block(block) => self.memory.set_entry(block, slot, entry),
        }
    }
}

/// A block that an entry names has inner nodes; they come and go together.
fn linked<T>(inner: Option<T>) -> T {
    inner.expect("a linked block has inner nodes")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use xcast_common::{
        maps::NEXT_HOP_NO_ROUTE,
        trie::{Reader, lookup},
        wire::Be32,
    };

    use super::*;

    /// Plain memory, which hands out released blocks first and limits their number.
    struct Heap {
        root: Vec<Entry>,
        blocks: Vec<Vec<Entry>>,
        free: Vec<u32>,
        limit: usize,
    }

    impl Heap {
        fn new(limit: usize) -> Self {
            Self {
                root: vec![Entry::NONE; 1 << 16],
                blocks: Vec::new(),
                free: Vec::new(),
                limit,
            }
        }
    }

    impl Memory for Heap {
        fn set_root(&mut self, index: usize, entry: Entry) {
            self.root[index] = entry;
        }
        fn root(&self, index: usize) -> Entry {
            self.root[index]
        }
        fn set_entry(&mut self, block: u32, index: usize, entry: Entry) {
            self.blocks[block as usize][index] = entry;
        }
        fn entry(&self, block: u32, index: usize) -> Entry {
            self.blocks[block as usize][index]
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
        fn entry(&self, block: u32, index: u32) -> Option<Entry> {
            self.blocks
                .get(block as usize)?
                .get(index as usize)
                .copied()
        }
    }

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

    fn at(trie: &Trie<Heap, 16>, address: u32) -> u32 {
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
            let mut trie = Trie::<Heap, 16>::new(Heap::new(limit));
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
            prop_assert!(trie.memory().root.iter().all(|entry| *entry == Entry::NONE));
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
        let mut trie = Trie::<Heap, 16>::new(Heap::new(usize::MAX));
        let mut model = Model::default();
        for _ in 0..operations {
            // A few networks with everything in them, so that routes nest, repeat and go.
            let address = (random.next() & 0x0307_1f7f) | (random.next() & 0x8000_0080);
            let len = match random.next() % 16 {
                0 => (random.next() % 9) as u8,
                1..6 => 8 + (random.next() % 17) as u8,
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
        let mut trie = Trie::<Heap, 16>::new(Heap::new(usize::MAX));
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
        let mut entry = trie.memory().root[0x2001];
        for byte in bits.to_be_bytes().into_iter().skip(2) {
            let Some(block) = entry.block() else { break };
            entry = trie.memory().blocks[block as usize][usize::from(byte)];
        }
        assert_eq!((entry.next_hop(), entry.prefix_len()), (129, Some(128)));
        assert_eq!(trie.blocks(), 14);
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
