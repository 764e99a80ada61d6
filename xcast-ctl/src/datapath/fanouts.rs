//! The device maps that copies are made with.
//!
//! A broadcast costs time for every slot of its device map, wanted or not; so there are maps of exact
//! sets. The *usual* ones, one copy by each of some ports of a group of eight, or up to eight by one port,
//! are all there from the start and found by their number. For other subsets (more groups, several copies
//! by one port among others) there is a map once traffic has asked for it, found through a hash. Writing a map into the map of maps
//! makes the kernel wait for its readers, some 10 ms: a thread of its own does that, while traffic is
//! served by a usual set and by passing the rest through once more.
//!
//! An index is never given to another subset before a grace period has passed since the hash
//! forgot the old one: a packet that had just looked the old one up still finds the old map.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    num::NonZeroU32,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use aya::{
    maps::{HashMap as BpfHashMap, Map, MapData, xdp::DevMap},
    programs::ProgramFd,
};
use aya_obj::generated::bpf_map_type;
use tokio::sync::Notify;
use tracing::{debug, warn};
use xcast_common::maps::{
    FanoutEntry, FanoutKey, MAX_FANOUTS, MAX_PORTS, MAX_REPEATS, PORT_RECIRCULATE, PORT_STACK,
    PresetFanout, SLOT_GROUPS,
};

use super::{bpf, error::DatapathError, pending::Pending};

/// Subsets installed in one go; bounds the file descriptors in use.
const BATCH: usize = 256;
/// Batches that everything that may wait makes.
const PENDING_BATCHES: usize = 8;

/// Pause before preset device maps that could not be made are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the thread is asked to do.
enum Task {
    Device {
        slot: u8,
        ifindex: Option<u32>,
    },
    /// There is something in the list of what waits.
    Install,
}

/// Handle to the thread that keeps the device maps.
pub struct Fanouts {
    tasks: mpsc::Sender<Task>,
    installed: Arc<Mutex<HashSet<FanoutKey>>>,
    /// Number of tasks so far.
    asked: AtomicU64,
    /// How many of them are done.
    done: Arc<AtomicU64>,
    /// Told when some are.
    settling: Arc<Notify>,
    pending: Arc<Mutex<Pending>>,
    lacking: Arc<Mutex<Lacking>>,
}

/// Slots that lack preset device maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lacking {
    slots: BTreeSet<u8>,
    /// Why.
    error: String,
    /// How often they were tried.
    attempts: u32,
}

/// Preset device maps that could not be made, and are tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmade {
    /// Slots that lack some.
    pub slots: Vec<u8>,
    /// Why.
    pub error: String,
    /// How often they were tried.
    pub attempts: u32,
}

impl Fanouts {
    /// Starts the thread. It ends when the handle is dropped.
    pub fn start(
        subsets: BpfHashMap<MapData, FanoutKey, FanoutEntry>,
        fanouts: OwnedFd,
        usual: OwnedFd,
        program: ProgramFd,
        capacity: u32,
    ) -> Result<Self, DatapathError> {
        let (tasks, queue) = mpsc::channel();
        let installed = Arc::new(Mutex::new(HashSet::new()));
        let pending = Arc::new(Mutex::new(Pending::default()));
        let lacking = Arc::new(Mutex::new(Lacking::default()));
        let capacity = capacity.clamp(1, MAX_FANOUTS);
        let mut keeper = Keeper {
            subsets,
            fanouts,
            usual,
            program,
            devices: HashMap::new(),
            made: HashSet::new(),
            index_of: HashMap::new(),
            // Popped from the back: low indices first.
            free: (0..capacity).rev().collect(),
            published: Arc::clone(&installed),
            pending: Arc::clone(&pending),
            lacking: Arc::clone(&lacking),
        };
        let (done, settling) = (Arc::<AtomicU64>::default(), Arc::<Notify>::default());
        let tell = (Arc::clone(&done), Arc::clone(&settling));
        thread::Builder::new()
            .name("fanouts".to_owned())
            .spawn(move || keeper.run(&queue, &tell.0, &tell.1))
            .map_err(|source| DatapathError::System {
                what: "cannot start a thread",
                source,
            })?;
        Ok(Self {
            tasks,
            installed,
            asked: AtomicU64::new(0),
            done,
            settling,
            pending,
            lacking,
        })
    }

    /// The preset device maps that could not be made.
    pub fn unmade(&self) -> Option<Unmade> {
        let lacking = lock(&self.lacking);
        (!lacking.slots.is_empty()).then(|| Unmade {
            slots: lacking.slots.iter().copied().collect(),
            error: lacking.error.clone(),
            attempts: lacking.attempts,
        })
    }

    /// Whether a slot lacks any.
    pub fn lacks(&self, slot: u8) -> bool {
        lock(&self.lacking).slots.contains(&slot)
    }

    /// Tells which interface a slot is, or that it is none any more.
    pub fn set_device(&self, slot: u8, ifindex: Option<u32>) {
        self.send(Task::Device { slot, ifindex });
    }

    /// Asks for device maps of these subsets. Not all of them are made if there are very many.
    pub fn install(&self, keys: Vec<FanoutKey>) {
        let mut pending = lock(&self.pending);
        let was_empty = pending.is_empty();
        pending.ask(keys);
        if was_empty {
            self.send(Task::Install);
        }
    }

    /// Number of tasks so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    /// How many of them are done; they are done in order.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// What tells when more of them are.
    pub fn settling(&self) -> Arc<Notify> {
        Arc::clone(&self.settling)
    }

    /// Number of subsets installed beside the usual ones.
    pub fn installed(&self) -> usize {
        self.keys().len()
    }

    /// Whether a subset's copies are made by one broadcast.
    pub fn has(&self, key: &FanoutKey) -> bool {
        key.preset().is_all || self.keys().contains(key)
    }

    fn keys(&self) -> MutexGuard<'_, HashSet<FanoutKey>> {
        lock(&self.installed)
    }

    fn send(&self, task: Task) {
        self.asked.fetch_add(1, Ordering::AcqRel);
        // The thread only ends with this handle, or by a panic that was reported.
        let _ = self.tasks.send(task);
    }
}

/// State of the thread.
struct Keeper {
    subsets: BpfHashMap<MapData, FanoutKey, FanoutEntry>,
    fanouts: OwnedFd,
    usual: OwnedFd,
    program: ProgramFd,
    devices: HashMap<u8, u32>,
    /// Slots with these devices that all preset maps are made for.
    made: HashSet<u8>,
    index_of: HashMap<FanoutKey, u32>,
    free: Vec<u32>,
    /// Copy of the keys of `index_of`, for whoever asks.
    published: Arc<Mutex<HashSet<FanoutKey>>>,
    pending: Arc<Mutex<Pending>>,
    lacking: Arc<Mutex<Lacking>>,
}

/// Plain keys are whole even if a thread panicked while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keeper {
    fn run(&mut self, queue: &mpsc::Receiver<Task>, done: &AtomicU64, settling: &Notify) {
        let mut retry = None;
        loop {
            let first = if !lock(&self.pending).is_empty() {
                match queue.try_recv() {
                    Err(mpsc::TryRecvError::Disconnected) => None,
                    task => Some(task.ok()),
                }
            } else if let Some(retry) = retry {
                let pause = Instant::saturating_duration_since(&retry, Instant::now());
                match queue.recv_timeout(pause) {
                    Err(mpsc::RecvTimeoutError::Disconnected) => None,
                    task => Some(task.ok()),
                }
            } else {
                queue.recv().map(Some).ok()
            };
            let Some(first) = first else { return };
            let mut changed = Vec::new();
            let mut tasks = 0;
            // Whatever has piled up meanwhile is done in one go.
            for task in first.into_iter().chain(queue.try_iter().take(BATCH)) {
                tasks += 1;
                match task {
                    Task::Device { slot, ifindex } => {
                        self.set_device(slot, ifindex);
                        changed.push(slot);
                    }
                    Task::Install => {}
                }
            }
            let is_due = retry.is_some_and(|retry| retry <= Instant::now());
            if is_due || !changed.is_empty() {
                self.install_lacking(&changed);
                let is_lacking = !lock(&self.lacking).slots.is_empty();
                retry = is_lacking.then(|| Instant::now() + RETRY);
                if is_due && !is_lacking {
                    settling.notify_one();
                }
            }
            self.install_pending();
            // Whoever waits for these tasks wants all that was asked for until now; more may come all the time.
            for _ in 1..if tasks > 0 { PENDING_BATCHES } else { 1 } {
                self.install_pending();
            }
            *lock(&self.published) = self.index_of.keys().copied().collect();
            if tasks > 0 {
                done.fetch_add(tasks, Ordering::AcqRel);
                settling.notify_one();
            }
        }
    }

    /// Installs some of the subsets that wait.
    fn install_pending(&mut self) {
        let keys = lock(&self.pending).take(BATCH);
        if !keys.is_empty()
            && let Err(error) = self.install(&keys)
        {
            warn!("cannot install device maps: {error}");
        }
    }

    /// Takes note of a slot's interface; subsets with the old one are forgotten.
    fn set_device(&mut self, slot: u8, ifindex: Option<u32>) {
        match ifindex {
            Some(ifindex) => self.devices.insert(slot, ifindex),
            None => self.devices.remove(&slot),
        };
        self.made.remove(&slot);
        let stale: Vec<FanoutKey> = self
            .index_of
            .keys()
            .filter(|key| key.copies[slot as usize] != 0)
            .copied()
            .collect();
        self.forget(&stale);
    }

    /// Takes subsets out of the hash. Their indices are free once readers are done.
    fn forget(&mut self, keys: &[FanoutKey]) {
        for key in keys {
            let _ = self.subsets.remove(key);
            if let Some(index) = self.index_of.remove(key) {
                self.free.push(index);
            }
        }
        if !keys.is_empty() {
            self.wait_for_readers();
        }
    }

    /// Any write to a map of maps waits until no program can still hold what it read before.
    fn wait_for_readers(&self) {
        let stack = PresetFanout {
            group: 0,
            slots: 1 << PORT_STACK,
            repeats: 1,
            is_all: true,
        };
        if let Ok(map) = self.device_map(&[PORT_STACK, PORT_RECIRCULATE]) {
            let _ = bpf::set_inner_map(self.usual.as_fd(), stack.index_with_rest(), &map);
        }
    }

    /// Makes the preset maps with these slots, and those that could not be made before. Whoever waits for the tasks under way
    /// finds those slots noted that still lack some.
    fn install_lacking(&mut self, changed: &[u8]) {
        let before = lock(&self.lacking).clone();
        let wanted: BTreeSet<u8> = before.slots.iter().chain(changed).copied().collect();
        let error = self.install_usual(&wanted).err();
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        let slots = self.devices.keys().copied();
        let slots: BTreeSet<u8> = slots.filter(|slot| !self.made.contains(slot)).collect();
        if !slots.is_empty() && (&before.slots, &before.error) != (&slots, &error) {
            warn!("cannot install device maps: {error}; it is tried again");
        }
        let attempts = match slots.is_empty() {
            true => 0,
            false => before.attempts + 1,
        };
        *lock(&self.lacking) = Lacking {
            slots,
            error,
            attempts,
        };
    }

    /// Makes the maps of all usual sets in the groups of these slots.
    ///
    /// # Errors
    ///
    /// The first one of a map that could not be made. The others are.
    fn install_usual(&mut self, changed: &BTreeSet<u8>) -> anyhow::Result<()> {
        let everywhere = changed.contains(&PORT_RECIRCULATE);
        let mut outcome = Ok(());
        for group in 0..SLOT_GROUPS as u8 {
            if !everywhere && changed.iter().all(|slot| slot / 8 != group) {
                continue;
            }
            let is_there = |slot: &u8| *slot != PORT_RECIRCULATE && self.devices.contains_key(slot);
            let mut there: Vec<u8> = (8 * group..8 * group + 8).filter(is_there).collect();
            // One whose interface is gone keeps no other from its maps.
            there.retain(|slot| {
                let alone = self.device_map(&[*slot]);
                alone.map_err(|error| outcome = Err(error)).is_ok()
            });
            let has_rest = self.devices.contains_key(&PORT_RECIRCULATE);
            let made = self
                .install_group(group, &there, false)
                .and_then(|()| match has_rest {
                    true => self.install_group(group, &there, true),
                    false => Ok(()),
                });
            match made {
                Ok(()) => self.made.extend(there),
                Err(error) => outcome = Err(error),
            }
        }
        if everywhere && outcome.is_ok() {
            self.made.insert(PORT_RECIRCULATE);
        }
        outcome
    }

    /// Every set of the slots in a group that have devices, and several copies by each.
    fn install_group(&self, group: u8, there: &[u8], with_rest: bool) -> anyhow::Result<()> {
        let mut maps = Vec::new();
        for set in 1_u32..1 << there.len() {
            let chosen = there.iter().enumerate();
            let chosen = chosen.filter(|(bit, _)| set >> bit & 1 == 1);
            let mut slots: Vec<u8> = chosen.map(|(_, slot)| *slot).collect();
            let usual = PresetFanout {
                group: group.into(),
                slots: slots.iter().map(|slot| 1 << (slot % 8)).sum(),
                repeats: 1,
                is_all: true,
            };
            if with_rest {
                slots.push(PORT_RECIRCULATE);
                maps.push((usual.index_with_rest(), self.device_map(&slots)?));
                continue;
            }
            maps.push((usual.index(), self.device_map(&slots)?));
            if let &[slot] = &slots[..] {
                for repeats in 2..=MAX_REPEATS {
                    let usual = PresetFanout { repeats, ..usual };
                    let map = self.device_map(&vec![slot; repeats as usize])?;
                    maps.push((usual.index(), map));
                }
            }
        }
        let entries: Vec<_> = maps.iter().map(|(index, map)| (*index, map)).collect();
        Ok(bpf::set_inner_maps(self.usual.as_fd(), &entries)?)
    }

    fn install(&mut self, keys: &[FanoutKey]) -> anyhow::Result<()> {
        let mut maps: Vec<(FanoutKey, OwnedFd)> = Vec::new();
        for key in keys {
            if self.index_of.contains_key(key) || maps.iter().any(|(other, _)| other == key) {
                continue;
            }
            let slots: Vec<u8> = (0..MAX_PORTS as u8)
                .flat_map(|slot| std::iter::repeat_n(slot, key.copies[slot as usize].into()))
                .collect();
            match self.device_map(&slots) {
                Ok(map) => maps.push((*key, map)),
                // The port went away since the programs asked.
                Err(error) => debug!("subset not installed: {error}"),
            }
        }
        if maps.len() > self.free.len() {
            self.evict(maps.len() - self.free.len());
            maps.truncate(self.free.len());
        }
        let entries: Vec<(u32, &OwnedFd)> = self
            .free
            .iter()
            .rev()
            .copied()
            .zip(maps.iter().map(|(_, fd)| fd))
            .collect();
        bpf::set_inner_maps(self.fanouts.as_fd(), &entries)?;
        for (key, _) in &maps {
            let Some(index) = self.free.pop() else { break };
            let subset = FanoutEntry {
                index,
                last_used: 0,
            };
            self.subsets.insert(key, subset, 0)?;
            self.index_of.insert(*key, index);
        }
        Ok(())
    }

    /// Frees the least recently used subsets.
    fn evict(&mut self, count: usize) {
        let mut by_age: Vec<(u32, FanoutKey)> = self
            .index_of
            .keys()
            .map(|key| {
                let used = self
                    .subsets
                    .get(key, 0)
                    .map_or(0, |subset| subset.last_used);
                (used, *key)
            })
            .collect();
        by_age.sort_unstable_by_key(|(used, _)| *used);
        // Some more than needed, so that a busy hour does not pay for each one.
        let count = count.max(by_age.len() / 8);
        let victims: Vec<FanoutKey> = by_age.into_iter().take(count).map(|(_, key)| key).collect();
        self.forget(&victims);
    }

    /// A device map with exactly these ports.
    fn device_map(&self, slots: &[u8]) -> anyhow::Result<OwnedFd> {
        let definition = aya_obj::Map::new_from_params(
            bpf_map_type::BPF_MAP_TYPE_DEVMAP as u32,
            size_of::<u32>() as u32,
            // struct bpf_devmap_val: interface index and program.
            2 * size_of::<u32>() as u32,
            NonZeroU32::new(slots.len() as u32).map_or(1, NonZeroU32::get),
            0,
        );
        let map = MapData::create(definition, "xcast_fanout", None)?;
        let fd = map.fd().as_fd().try_clone_to_owned()?;
        let mut devices = DevMap::try_from(Map::DevMap(map))?;
        for (position, slot) in slots.iter().enumerate() {
            let ifindex = self
                .devices
                .get(slot)
                .ok_or_else(|| anyhow::anyhow!("slot {slot} has no interface"))?;
            devices.set(position as u32, *ifindex, Some(&self.program), 0)?;
        }
        Ok(fd)
    }
}
