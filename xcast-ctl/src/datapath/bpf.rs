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

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type};

/// A place for programs at tcx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tcx {
    /// Where frames arrive.
    Ingress,
    /// Where they leave.
    Egress,
}

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

/// An array of maps such as `inner`.
#[cfg(test)]
pub fn map_of_maps(inner: &OwnedFd, entries: u32) -> io::Result<OwnedFd> {
    use aya_obj::generated::bpf_map_type;

    // SAFETY: all-zero is valid for this union of integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: writing a member of a union of plain integers.
    let map = unsafe { &mut attr.__bindgen_anon_1 };
    map.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS as u32;
    map.key_size = size_of::<u32>() as u32;
    map.value_size = size_of::<u32>() as u32;
    map.max_entries = entries;
    map.inner_map_fd = inner.as_raw_fd() as u32;
    open(bpf_cmd::BPF_MAP_CREATE, &mut attr)
}

/// Index of the interface that a pinned link is to; 0 if that is gone, or the link was detached.
pub fn linked_interface(pin: &Path) -> io::Result<u32> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    // SAFETY: all-zero is valid for this union of integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: writing a member of a union of plain integers.
    unsafe { &mut attr.__bindgen_anon_4 }.pathname = path.as_ptr() as u64;
    let link = open(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    let info = link_info(&link)?;
    // SAFETY: any bits are a number.
    Ok(unsafe { info.__bindgen_anon_1.xdp.ifindex })
}

/// The links by which an XDP program is attached to an interface with this index, in whichever network namespace.
pub fn xdp_links(ifindex: u32, program: u32) -> io::Result<Vec<OwnedFd>> {
    let mut found = Vec::new();
    let mut id = 0;
    loop {
        // SAFETY: all-zero is valid for this union of integers.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        // SAFETY: writing a member of a union of plain integers.
        unsafe { &mut attr.__bindgen_anon_6 }
            .__bindgen_anon_1
            .start_id = id;
        match bpf(bpf_cmd::BPF_LINK_GET_NEXT_ID, &mut attr) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(found),
            next => next?,
        }
        // SAFETY: the kernel has written this number.
        id = unsafe { attr.__bindgen_anon_6.next_id };
        // SAFETY: all-zero is valid for this union of integers.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        // SAFETY: writing a member of a union of plain integers.
        unsafe { &mut attr.__bindgen_anon_6 }
            .__bindgen_anon_1
            .link_id = id;
        // One that has gone meanwhile is none.
        let Ok(link) = open(bpf_cmd::BPF_LINK_GET_FD_BY_ID, &mut attr) else {
            continue;
        };
        let info = link_info(&link)?;
        let is_xdp = info.type_ == bpf_link_type::BPF_LINK_TYPE_XDP as u32;
        // SAFETY: any bits are a number.
        let interface = unsafe { info.__bindgen_anon_1.xdp.ifindex };
        if is_xdp && info.prog_id == program && interface == ifindex {
            found.push(link);
        }
    }
}

/// Has a link attach nothing any more, whoever holds it.
pub fn detach(link: &OwnedFd) -> io::Result<()> {
    // SAFETY: all-zero is valid for this union of integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr)
}

/// Number of programs that run where frames arrive on an interface, or where they leave, before all filters of traffic
/// control (tcx, Linux 6.6).
pub fn tcx(ifindex: u32, place: Tcx) -> io::Result<u32> {
    // SAFETY: all-zero is valid for this union of integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: writing a member of a union of plain integers.
    let query = unsafe { &mut attr.query };
    query.__bindgen_anon_1.target_ifindex = ifindex;
    query.attach_type = match place {
        Tcx::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
        Tcx::Egress => bpf_attach_type::BPF_TCX_EGRESS,
    } as u32;
    match bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) {
        // Where there are none, or the kernel has no such programs.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(0),
        // SAFETY: the kernel has written this number.
        answer => answer.map(|()| unsafe { attr.query.__bindgen_anon_2.count }),
    }
}

fn link_info(link: &OwnedFd) -> io::Result<bpf_link_info> {
    // SAFETY: all-zero is valid for this struct of integers.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    // SAFETY: all-zero is valid for this union of integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.info.bpf_fd = link.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_link_info>() as u32;
    attr.info.info = &raw mut info as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// A command that makes a file descriptor.
fn open(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let descriptor = call(command, attr)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
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
