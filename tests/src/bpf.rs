//! What other programs on the machine do with bpf(2): attach a program of their own to an interface, take away one that is not theirs.
//!
//! Their programs are a few instructions, written out here, so that no compiler is needed for them.

use std::ffi::CString;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use crate::namespace::Namespace;

// Commands of bpf(2), linux/bpf.h.
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const LINK_GET_FD_BY_ID: libc::c_long = 30;
const LINK_GET_NEXT_ID: libc::c_long = 31;
const LINK_DETACH: libc::c_long = 34;

const PROG_TYPE_SCHED_CLS: u32 = 3;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const ATTACH_TCX_INGRESS: u32 = 46;
const ATTACH_TCX_EGRESS: u32 = 47;
const LINK_TYPE_XDP: u32 = 6;
/// XDP_FLAGS_SKB_MODE of linux/if_link.h: in the stack.
const GENERIC: u32 = 2;
/// XDP_FLAGS_DRV_MODE: in the driver.
const NATIVE: u32 = 4;

const MOV: u8 = 0xb7;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const TCX_PASS: i32 = 0;
const SKB_VLAN_PUSH: i32 = 18;

/// `union bpf_attr`, or a `struct bpf_link_info`, as words of 32 bits in the machine's byte order.
type Words = [u64; 32];

/// A program attached to an interface, for as long as this lives.
#[derive(Debug)]
pub struct Attached(#[expect(dead_code, reason = "closing it is what detaches")] OwnedFd);

impl Attached {
    /// Attaches an XDP program that passes everything.
    ///
    /// # Errors
    ///
    /// Another program is there, or the driver has no XDP.
    pub fn xdp(namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::xdp_that(namespace, interface, XDP_PASS)
    }

    /// The same that drops everything.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn xdp_drop(namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::xdp_that(namespace, interface, XDP_DROP)
    }

    /// Has the kernel drop everything that arrives on an interface, before its stack and not in the driver (generic XDP). By
    /// a message and not by a link, so that it stays until somebody takes it off.
    ///
    /// # Errors
    ///
    /// Another program is there.
    pub fn generic_drop(namespace: &Namespace, interface: &str) -> Result<()> {
        let code = [instruction(MOV, 0, XDP_DROP), instruction(EXIT, 0, 0)];
        let program = load(PROG_TYPE_XDP, &code)?;
        namespace.enter(|| set_generic(if_nametoindex(interface)?, &program))
    }

    fn xdp_that(namespace: &Namespace, interface: &str, action: i32) -> Result<Self> {
        let code = [instruction(MOV, 0, action), instruction(EXIT, 0, 0)];
        let program = load(PROG_TYPE_XDP, &code)?;
        attach(namespace, interface, &program, ATTACH_XDP, NATIVE)
    }

    /// Has the stack take all that arrives on `interface` before any filter of traffic control sees it.
    ///
    /// # Errors
    ///
    /// The kernel is older than 6.6.
    pub fn tcx_pass(namespace: &Namespace, interface: &str) -> Result<Self> {
        let code = [instruction(MOV, 0, TCX_PASS), instruction(EXIT, 0, 0)];
        let program = load(PROG_TYPE_SCHED_CLS, &code)?;
        attach(namespace, interface, &program, ATTACH_TCX_INGRESS, 0)
    }

    /// Has all that leaves by `interface` pass a program of traffic control, which lets it through.
    ///
    /// # Errors
    ///
    /// The kernel is older than 6.6.
    pub fn tcx_egress(namespace: &Namespace, interface: &str) -> Result<Self> {
        let code = [instruction(MOV, 0, TCX_PASS), instruction(EXIT, 0, 0)];
        let program = load(PROG_TYPE_SCHED_CLS, &code)?;
        attach(namespace, interface, &program, ATTACH_TCX_EGRESS, 0)
    }

    /// Tags all that `interface` sends with a VLAN, in the packet's metadata: what a VLAN interface
    /// does on a device that inserts tags by itself.
    ///
    /// # Errors
    ///
    /// The kernel is older than 6.6.
    pub fn vlan(namespace: &Namespace, interface: &str, vlan: u16) -> Result<Self> {
        let protocol = i32::from((libc::ETH_P_8021Q as u16).to_be());
        let code = [
            instruction(MOV, 2, protocol),
            instruction(MOV, 3, i32::from(vlan)),
            instruction(CALL, 0, SKB_VLAN_PUSH),
            instruction(MOV, 0, 0),
            instruction(EXIT, 0, 0),
        ];
        let program = load(PROG_TYPE_SCHED_CLS, &code)?;
        attach(namespace, interface, &program, ATTACH_TCX_EGRESS, 0)
    }
}

/// Takes the XDP program off an interface, whoever attached it by a link.
///
/// # Errors
///
/// No such program is attached.
pub fn detach_xdp(namespace: &Namespace, interface: &str) -> Result<()> {
    let (index, program) = namespace
        .enter(|| Ok(if_nametoindex(interface)?))
        .and_then(|index| {
            let program = program_on(namespace, interface)?;
            Ok((index, program.context("no XDP program is attached")?))
        })?;
    // Interfaces of other namespaces may have the same index, but not the same program.
    for link in links_running(program)? {
        if word(&information(&link)?, 4) == index {
            call(LINK_DETACH, &mut words(&[link.as_raw_fd() as u32]))?;
            return Ok(());
        }
    }
    bail!("no link holds the XDP program of {interface}")
}

/// All links by which interfaces run an XDP program, by its id.
///
/// # Errors
///
/// The kernel does not tell.
pub fn links_running(program: u32) -> Result<Vec<OwnedFd>> {
    let (mut id, mut links) = (0, Vec::new());
    loop {
        let mut request = words(&[id, 0, 0]);
        if call(LINK_GET_NEXT_ID, &mut request).is_err() {
            return Ok(links);
        }
        id = word(&request, 1);
        let Ok(link) = call(LINK_GET_FD_BY_ID, &mut words(&[id])) else {
            continue;
        };
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        let link = unsafe { OwnedFd::from_raw_fd(link) };
        let known = information(&link)?;
        if (word(&known, 0), word(&known, 2)) == (LINK_TYPE_XDP, program) {
            links.push(link);
        }
    }
}

/// The id of the program that a link holds at the moment.
///
/// # Errors
///
/// It is no link.
pub fn program_of(link: &OwnedFd) -> Result<u32> {
    Ok(word(&information(link)?, 2))
}

/// A `struct bpf_link_info`: type, id, program, padding, then of XDP the interface.
fn information(link: &OwnedFd) -> Result<Words> {
    let mut info: Words = [0; 32];
    let mut request = words(&[link.as_raw_fd() as u32, size_of_val(&info) as u32]);
    request[1] = (&raw mut info) as u64;
    call(OBJ_GET_INFO_BY_FD, &mut request)?;
    Ok(info)
}

/// Writes a number into an array of 64 bit numbers that is pinned at a path, as a program of another version does.
///
/// # Errors
///
/// There is no such map.
pub fn write_pinned(path: &Path, index: u32, value: u64) -> Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut request = words(&[]);
    request[0] = name.as_ptr() as u64;
    let map = call(OBJ_GET, &mut request).with_context(|| format!("open {}", path.display()))?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    let map = unsafe { OwnedFd::from_raw_fd(map) };
    let mut request = words(&[map.as_raw_fd() as u32]);
    request[1] = (&raw const index) as u64;
    request[2] = (&raw const value) as u64;
    call(MAP_UPDATE_ELEM, &mut request).with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

/// The id of the XDP program on an interface.
///
/// # Errors
///
/// There is no such interface.
pub fn program_on(namespace: &Namespace, interface: &str) -> Result<Option<u32>> {
    let links = namespace.ip(&format!("-j -d link show dev {interface}"))?;
    let links: serde_json::Value = serde_json::from_str(&links)?;
    let id = links[0]["xdp"]["prog"]["id"].as_u64();
    Ok(id.and_then(|id| u32::try_from(id).ok()))
}

/// One instruction: operation, destination register, immediate value.
fn instruction(operation: u8, register: u8, immediate: i32) -> u64 {
    let [a, b, c, d] = immediate.to_ne_bytes();
    u64::from_ne_bytes([operation, register, 0, 0, a, b, c, d])
}

fn load(kind: u32, code: &[u64]) -> Result<OwnedFd> {
    let licence = c"GPL";
    let mut request = words(&[kind, code.len() as u32]);
    request[1] = code.as_ptr() as u64;
    request[2] = licence.as_ptr() as u64;
    let program = call(PROG_LOAD, &mut request).context("load a program")?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

fn attach(
    namespace: &Namespace,
    interface: &str,
    program: &OwnedFd,
    kind: u32,
    flags: u32,
) -> Result<Attached> {
    let link = namespace.enter(|| {
        let index = if_nametoindex(interface)?;
        let mut request = words(&[program.as_raw_fd() as u32, index, kind, flags]);
        call(LINK_CREATE, &mut request).with_context(|| format!("attach to {interface}"))
    })?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(Attached(unsafe { OwnedFd::from_raw_fd(link) }))
}

/// Asks the kernel by netlink to run an XDP program on an interface of this namespace, in its stack.
fn set_generic(index: u32, program: &OwnedFd) -> Result<()> {
    const NLMSG_ERROR: u32 = 2;
    const IFLA_XDP: u16 = 43;
    const IFLA_XDP_FD: u16 = 1;
    const IFLA_XDP_FLAGS: u16 = 3;
    let halves = |halves: [u16; 2]| halves.map(u16::to_ne_bytes).concat();
    let number = |kind, value: u32| [halves([8, kind]), value.to_ne_bytes().to_vec()].concat();
    let request = [
        // struct nlmsghdr
        52_u32.to_ne_bytes().to_vec(),
        halves([
            libc::RTM_SETLINK,
            (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16,
        ]),
        vec![0; 8],
        // struct ifinfomsg
        vec![0; 4],
        index.to_ne_bytes().to_vec(),
        vec![0; 8],
        halves([20, IFLA_XDP | libc::NLA_F_NESTED as u16]),
        number(IFLA_XDP_FD, program.as_raw_fd() as u32),
        number(IFLA_XDP_FLAGS, GENERIC),
    ]
    .concat();
    let flags = SockFlag::SOCK_CLOEXEC;
    let protocol = SockProtocol::NetlinkRoute;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = [0; 128];
    let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    ensure!(len >= 20, "{len} octets of an answer");
    let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| answer[at + i]));
    let kind = word(4) & 0xffff;
    let error = word(16) as i32;
    ensure!(
        (kind, error) == (NLMSG_ERROR, 0),
        "attach: {}",
        Errno::from_raw(-error)
    );
    Ok(())
}

fn words(values: &[u32]) -> Words {
    let mut words: Words = [0; 32];
    for (to, pair) in words.iter_mut().zip(values.chunks(2)) {
        let bytes = [
            pair[0].to_ne_bytes(),
            pair.get(1).copied().unwrap_or(0).to_ne_bytes(),
        ];
        *to = u64::from_ne_bytes(bytes.concat().try_into().unwrap_or_default());
    }
    words
}

fn word(words: &Words, at: usize) -> u32 {
    let bytes = words[at / 2].to_ne_bytes();
    let half = if at.is_multiple_of(2) {
        &bytes[..4]
    } else {
        &bytes[4..]
    };
    u32::from_ne_bytes(half.try_into().unwrap_or_default())
}

fn call(command: libc::c_long, request: &mut Words) -> Result<i32, Errno> {
    /// Length of the requests above; what is behind it has to be zero.
    const LEN: usize = 128;
    // SAFETY: the kernel reads and writes no more than these octets of the request, and the buffers
    // it points to are alive and as long as it says.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, request.as_mut_ptr(), LEN) };
    Errno::result(answer).map(|answer| answer as i32)
}
