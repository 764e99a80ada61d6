//! The program through which copies reach the kernel stack by the port that their packet arrived by (ADR 13).

use aya::{
    Ebpf,
    programs::{
        ProgramError, SchedClassifier, TcAttachType,
        tc::{
            NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError,
            qdisc_add_clsact,
        },
    },
};
use nix::net::if_::if_nametoindex;

use super::error::{DatapathError, program_error};
use crate::kernel::{self, FilterPlace};

/// Name of the program, and of the filter that runs it.
pub(crate) const NAME: &str = "xcast_stack";

/// Loads the program, once.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    program(ebpf)?.load().map_err(program_error(NAME))
}

/// Attaches the loaded program where frames arrive on `interface`, the host's end of the router's own pair: as a
/// filter of the clsact queueing discipline (Linux 4.5), which needs no process that holds it.
pub(super) fn attach(ebpf: &mut Ebpf, interface: &str) -> Result<(), DatapathError> {
    match qdisc_add_clsact(interface) {
        Ok(()) => {}
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(program_error(NAME)(error.into())),
    }
    let ifindex = if_nametoindex(interface).map_err(|errno| DatapathError::System {
        what: "cannot find the router's own interface",
        source: errno.into(),
    })?;
    // A predecessor's filter takes the new program, between two packets.
    let there = kernel::ingress_filters(ifindex, NAME).unwrap_or_default();
    let program = program(ebpf)?;
    let attached = match there.first() {
        Some(place) => replace(program, interface, *place),
        None => {
            let options = TcAttachOptions::Netlink(NlOptions::default());
            program.attach_with_options(interface, TcAttachType::Ingress, options)
        }
    };
    let link = attached
        .and_then(|id| program.take_link(id))
        .map_err(program_error(NAME))?;
    // The filter outlives this process, as all that forwards does; it ends with the pair.
    std::mem::forget(link);
    Ok(())
}

fn replace(
    program: &mut SchedClassifier,
    interface: &str,
    place: FilterPlace,
) -> Result<SchedClassifierLinkId, ProgramError> {
    let (kind, handle) = (TcAttachType::Ingress, place.handle.into());
    let filter = SchedClassifierLink::attached(interface, kind, place.priority, handle, None);
    program.attach_to_link(filter.map_err(TcError::IoError)?)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, DatapathError> {
    ebpf.program_mut(NAME)
        .ok_or(DatapathError::Missing(NAME))?
        .try_into()
        .map_err(program_error(NAME))
}
