//! What needs a system call of its own: test runs of BPF programs, mapped arrays, and a CPU to
//! ourselves.

use std::{
    fs, io,
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    ptr::NonNull,
};

use anyhow::{Context as _, Result};
use aya_obj::generated::{BPF_F_TEST_XDP_LIVE_FRAMES, bpf_attr, bpf_cmd};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    unistd::Pid,
};

/// Runs an XDP program on `repeat` live frames as long as `frame`, in batches. What the program
/// does with them happens. Returns the time it took per frame, in nanoseconds, by the kernel's own
/// clock: making and removing the memory for the frames takes some 20 ms more.
///
/// Minimum kernel version: 5.18.
///
/// # Errors
///
/// Needs root.
pub fn run_live(program: BorrowedFd<'_>, frame: &[u8], repeat: u32, batch: u32) -> io::Result<u32> {
    // SAFETY: all-zero is valid for this union of integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: writing a member of a union of plain integers.
    let test = unsafe { &mut attr.test };
    test.prog_fd = program.as_raw_fd() as u32;
    test.data_in = frame.as_ptr() as u64;
    test.data_size_in = frame.len() as u32;
    test.repeat = repeat;
    test.flags = BPF_F_TEST_XDP_LIVE_FRAMES;
    test.batch_size = batch;
    test_run(&mut attr)
}

/// Runs an XDP program again and again on a frame that goes nowhere. Returns the time it took each
/// time, in nanoseconds.
///
/// # Errors
///
/// Needs root.
pub fn run_dry(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<u32> {
    // SAFETY: all-zero is valid for this union of integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: writing a member of a union of plain integers.
    let test = unsafe { &mut attr.test };
    test.prog_fd = program.as_raw_fd() as u32;
    test.data_in = frame.as_ptr() as u64;
    test.data_size_in = frame.len() as u32;
    test.repeat = repeat;
    test_run(&mut attr)
}

/// Runs a program; returns the time it took each time.
fn test_run(attr: &mut bpf_attr) -> io::Result<u32> {
    // SAFETY: the attribute is as large as its type says, and what it points to lives in the
    // callers until the call is over.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_PROG_TEST_RUN as libc::c_int,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    match result {
        // SAFETY: the kernel filled this member in.
        0.. => Ok(unsafe { attr.test.duration }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An array map in this process's memory.
#[derive(Debug)]
pub struct Mapped<T> {
    start: NonNull<T>,
    len: usize,
}

impl<T: aya::Pod> Mapped<T> {
    /// Maps an array as `len` elements. It was made with BPF_F_MMAPABLE, and the size of its own
    /// elements is a multiple of eight octets.
    ///
    /// # Errors
    ///
    /// The map was not made so.
    pub fn new(map: impl AsFd, len: usize) -> Result<Self> {
        let octets = NonZeroUsize::new(len * size_of::<T>()).context("nothing to map")?;
        // SAFETY: a new mapping of the kernel's choosing.
        let start = unsafe {
            mmap(
                None,
                octets,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map,
                0,
            )
        };
        let start = start.context("cannot map a BPF array")?.cast();
        Ok(Self { start, len })
    }

    /// An element, of a map that somebody else may write.
    pub fn read(&self, index: usize) -> Option<T> {
        if index >= self.len {
            return None;
        }
        // SAFETY: within the mapping, which is aligned to pages; volatile, since it may change.
        Some(unsafe { self.start.add(index).read_volatile() })
    }

    /// The elements.
    pub fn elements(&mut self) -> &mut [T] {
        // SAFETY: the mapping is as long as that and lives as long as `self`; programs that use the
        // elements run only while the benchmark waits for them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: this is our own mapping, as long as it was made.
        let _ = unsafe { munmap(self.start.cast(), self.len * size_of::<T>()) };
    }
}

/// Keeps all threads of a process off a CPU, if there is another.
///
/// # Errors
///
/// The process is gone.
pub fn keep_off(process: Pid, cpu: usize) -> Result<()> {
    let mut set = sched_getaffinity(Pid::from_raw(0))?;
    set.unset(cpu)?;
    if !(0..CpuSet::count()).any(|other| set.is_set(other).unwrap_or(false)) {
        return Ok(());
    }
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let name = thread?.file_name();
        if let Some(id) = name.to_str().and_then(|name| name.parse().ok()) {
            sched_setaffinity(Pid::from_raw(id), &set)?;
        }
    }
    Ok(())
}

/// Gives the calling thread to one CPU, where nothing but interrupts goes before it if the kernel
/// permits.
///
/// # Errors
///
/// There is no such CPU.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .with_context(|| format!("cannot run on CPU {cpu}"))?;
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the structure is valid; the call only changes this thread's scheduling.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    Ok(())
}
