//! The bpf(2) commands that aya has no call for.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info};

/// Removes the element of an array-like map.
pub fn map_delete(map: BorrowedFd<'_>, key: u32) -> io::Result<()> {
    // SAFETY: all-zero is valid for this union of integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: writing a member of a union of plain integers.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd() as u32;
    element.key = &raw const key as u64;
    bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr)
}

/// Puts inner maps into a map of maps, many in one call: the kernel waits for its readers once
/// (some 10 ms) instead of once an entry.
///
/// Minimum kernel version: 5.14 (batched updates of maps of maps).
pub fn set_inner_maps(outer: BorrowedFd<'_>, entries: &[(u32, &OwnedFd)]) -> io::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let keys: Vec<u32> = entries.iter().map(|(index, _)| *index).collect();
    let values: Vec<u32> = entries
        .iter()
        .map(|(_, fd)| fd.as_fd().as_raw_fd() as u32)
        .collect();
    // SAFETY: all-zero is valid for this union of integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: writing a member of a union of plain integers.
    let batch = unsafe { &mut attr.batch };
    batch.map_fd = outer.as_raw_fd() as u32;
    batch.keys = keys.as_ptr() as u64;
    batch.values = values.as_ptr() as u64;
    batch.count = entries.len() as u32;
    match bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr) {
        // Kernels without batches for this type of map take the entries one by one.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => entries
            .iter()
            .try_for_each(|(index, fd)| set_inner_map(outer, *index, fd)),
        other => other,
    }
}

/// Puts one inner map into a map of maps; waits for the kernel's readers.
pub fn set_inner_map(outer: BorrowedFd<'_>, index: u32, inner: &OwnedFd) -> io::Result<()> {
    let value = inner.as_fd().as_raw_fd() as u32;
    // SAFETY: all-zero is valid for this union of integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: writing a member of a union of plain integers.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = outer.as_raw_fd() as u32;
    element.key = &raw const index as u64;
    element.__bindgen_anon_1.value = &raw const value as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr)
}

/// Index of the interface that a pinned link is to; 0 if that is gone, or the link was detached.
pub fn linked_interface(pin: &Path) -> io::Result<u32> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    // SAFETY: all-zero is valid for this union of integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: writing a member of a union of plain integers.
    unsafe { &mut attr.__bindgen_anon_4 }.pathname = path.as_ptr() as u64;
    let descriptor = call(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    let link = unsafe { OwnedFd::from_raw_fd(descriptor) };

    // SAFETY: all-zero is valid for this struct of integers.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    // SAFETY: all-zero is valid for this union of integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.info.bpf_fd = link.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_link_info>() as u32;
    attr.info.info = &raw mut info as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: any bits are a number.
    Ok(unsafe { info.__bindgen_anon_1.xdp.ifindex })
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<()> {
    call(command, attr).map(drop)
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<RawFd> {
    // SAFETY: the attribute is as large as its type says, and what it points to lives in the
    // callers until the call is over.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        // A descriptor, or 0.
        Ok(result as RawFd)
    }
}
