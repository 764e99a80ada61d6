//! The benchmark's own BPF programs, as loaded objects.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, MapError},
    programs::{ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode},
};

use crate::shared::{Addressee, Arrived, Frames, Orders, Sample, Tally};

/// The object file, compiled by the build script.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-copies"));

macro_rules! pod {
    ($($ty:ty),+) => {
        $(
            // SAFETY: `repr(C)` integers and arrays of them, padded explicitly.
            unsafe impl aya::Pod for $ty {}
        )+
    };
}

pod!(Addressee, Arrived, Frames, Orders, Sample, Tally);

/// Loads an object of its own, with maps of its own. `sizes` are maps to be of another size than
/// compiled in; what is not mentioned and large is made small.
///
/// # Errors
///
/// Needs root.
pub fn load(sizes: &[(&str, u32)]) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    let mut named = vec![("SAMPLES", 1), ("ARRIVED", 1)];
    named.retain(|(name, _)| sizes.iter().all(|(other, _)| other != name));
    for &(name, size) in named.iter().chain(sizes) {
        loader.map_max_entries(name, size);
    }
    loader
        .load(PROGRAMS)
        .context("cannot load the benchmark's BPF programs (needs root)")
}

/// Takes a map out of an object.
///
/// # Errors
///
/// There is none of this name and type.
pub fn map<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T> {
    let map = ebpf
        .take_map(name)
        .with_context(|| format!("the BPF object has no map {name}"))?;
    T::try_from(map).with_context(|| format!("cannot use the BPF map {name}"))
}

/// Takes an array map out of an object, untyped.
///
/// # Errors
///
/// There is none of this name and type.
pub fn array(ebpf: &mut Ebpf, name: &str) -> Result<MapData> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => anyhow::bail!("the BPF object has no array map {name}"),
    }
}

/// Loads an XDP program of an object.
///
/// # Errors
///
/// There is none, or the kernel refuses it.
pub fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program: &mut Xdp = ebpf
        .program_mut(name)
        .with_context(|| format!("the BPF object has no program {name}"))?
        .try_into()?;
    loaded(program.load()).with_context(|| format!("cannot load {name}"))?;
    Ok(program)
}

/// Attaches an XDP program of an object to interfaces of the calling thread's namespace, natively.
///
/// # Errors
///
/// See [`xdp`]; or an interface has a program already.
pub fn attach_xdp(ebpf: &mut Ebpf, name: &str, interfaces: &[String]) -> Result<()> {
    let program = xdp(ebpf, name)?;
    for interface in interfaces {
        program
            .attach(interface, XdpMode::Driver)
            .with_context(|| format!("cannot attach {name} to {interface}"))?;
    }
    Ok(())
}

/// Attaches a classifier of an object to the ingress of interfaces of the calling thread's
/// namespace.
///
/// # Errors
///
/// There is none, or the kernel refuses it.
pub fn attach_tc(ebpf: &mut Ebpf, name: &str, interfaces: &[String]) -> Result<()> {
    let program: &mut SchedClassifier = ebpf
        .program_mut(name)
        .with_context(|| format!("the BPF object has no program {name}"))?
        .try_into()?;
    loaded(program.load()).with_context(|| format!("cannot load {name}"))?;
    for interface in interfaces {
        program
            .attach(interface, TcAttachType::Ingress)
            .with_context(|| format!("cannot attach {name} to {interface}"))?;
    }
    Ok(())
}

/// Loading a loaded program again is no error.
fn loaded(result: Result<(), ProgramError>) -> Result<(), ProgramError> {
    match result {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        other => other,
    }
}
