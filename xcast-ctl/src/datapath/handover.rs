//! The program through which copies reach the kernel stack by the port that their packet arrived by (ADR 13).

use aya::{
    Ebpf,
    programs::{
        SchedClassifier, TcAttachType,
        tc::{NlOptions, TcAttachOptions, TcError, qdisc_add_clsact},
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
        Err(TcError::AlreadyAttached) | Ok(()) => {}
        Err(error) => return Err(program_error(NAME)(error.into())),
    }
    let options = TcAttachOptions::Netlink(NlOptions::default());
    program(ebpf)?
        .attach_with_options(interface, TcAttachType::Ingress, options)
        .map(drop)
        .map_err(program_error(NAME))
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, DatapathError> {
    ebpf.program_mut(NAME)
        .ok_or(DatapathError::Missing(NAME))?
        .try_into()
        .map_err(program_error(NAME))
}
