//! The program through which copies reach the kernel stack by the port that their packet arrived by (ADR 13).

use aya::{
    Ebpf,
    programs::{
        SchedClassifier, TcAttachType,
        tc::{NlOptions, TcAttachOptions, TcError, qdisc_add_clsact, qdisc_detach_program},
    },
};

use super::error::{DatapathError, program_error};

/// Name of the program.
const NAME: &str = "xcast_stack";

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
    // A predecessor's. What arrives in between stays on `interface`.
    let _ = qdisc_detach_program(interface, TcAttachType::Ingress, NAME);
    let options = TcAttachOptions::Netlink(NlOptions::default());
    let program = program(ebpf)?;
    let link = program
        .attach_with_options(interface, TcAttachType::Ingress, options)
        .and_then(|id| program.take_link(id))
        .map_err(program_error(NAME))?;
    // The filter outlives this process, as all that forwards does; it ends with the pair.
    std::mem::forget(link);
    Ok(())
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, DatapathError> {
    ebpf.program_mut(NAME)
        .ok_or(DatapathError::Missing(NAME))?
        .try_into()
        .map_err(program_error(NAME))
}
