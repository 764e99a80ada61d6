//! Types of the maps that the benchmark and its BPF programs share. Both include this file.

/// Octets of the longest frame the generator sends: a full list of IPv6 and some payload.
pub const FRAME_LEN: usize = 2560;
/// Octets that a sink keeps of a frame at most; a power of two.
pub const SAMPLE_LEN: usize = 4096;
/// Different frames the generator can take turns with.
pub const FRAMES: usize = 1024;
/// Interfaces a generator can send by, and a clone program copy to.
pub const DEVICES: usize = 128;
/// Interface indices a sink can tell apart, all of one network namespace.
pub const INTERFACES: usize = 256;
/// One of so many frames is kept for inspection; a power of two.
pub const SAMPLE_EVERY: u64 = 1024;

/// What the generator does.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Orders {
    /// Take turns with so many frames, from the first.
    pub frames: u32,
    /// Length of each of them, in octets; the test run's own frame is as long.
    pub frame_len: u32,
    /// Send by this device.
    pub device: u32,
    /// Explicit padding.
    pub reserved: u32,
}

/// Frames to send, one right behind the other: as little memory as can be, so that reading them disturbs the
/// caches of what is measured as little as can be.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Frames {
    /// Their octets.
    pub octets: [u8; FRAMES * FRAME_LEN],
}

/// What a copy gets that is readdressed, as it lies in memory.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Addressee {
    /// Both link layer addresses, as they begin a frame.
    pub ethernet: [u32; 3],
    /// The destination.
    pub ipv4: u32,
}

/// What arrived by an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Arrived {
    /// Frames.
    pub frames: u64,
    /// Their octets, Ethernet headers included.
    pub octets: u64,
}

/// A frame that arrived.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Sample {
    /// Length of the frame, in octets; 0 is none.
    pub frame_len: u32,
    /// Explicit padding.
    pub reserved: u32,
    /// Its octets.
    pub octets: [u8; SAMPLE_LEN],
}

/// Addresses looked up by one run of a look-up program.
pub const RUN_ADDRESSES: usize = 256;
/// Most runs before the addresses repeat: a million different ones.
pub const MAX_RUNS: usize = 4096;
/// Networks of 16 bits, each with a row of the 24-bit table.
pub const ROWS: usize = 1 << 16;

/// How the look-up programs go on, and what they found.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Tally {
    /// Runs before the addresses repeat; a power of two.
    pub runs: u32,
    /// Number of the next run.
    pub next: u32,
    /// Sum of all next-hop ids found.
    pub sum: u64,
}
