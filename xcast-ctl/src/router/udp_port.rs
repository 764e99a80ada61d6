//! The port of Xcast inside UDP, kept from programs that ask for any port: XDP would take the answers that they wait
//! for.
//!
//! The kernel's list of reserved ports does not say whose entries are. What a router put there is noted with what is
//! pinned, so that the next one, or `unload`, can take it out again after a crash.

use tracing::warn;

use crate::{config::Config, datapath::generation::Generation, kernel::local_port};

/// Keeps the port of a configuration, if it is not kept already, and notes that.
pub(super) fn keep(config: &Config, generation: &mut Generation) {
    let Some(port) = port(config) else { return };
    if local_port::is_reserved(port) {
        // By an administrator, or a router before this one, which noted it.
        return;
    }
    if !generation.has_reserved(port) {
        generation.note_reserved(port);
    }
    if let Err(error) = local_port::reserve(port) {
        warn!("cannot put UDP port {port} into ip_local_reserved_ports: {error}");
    }
}

/// Lets other programs have the ports again that routers kept, apart from that of a configuration.
pub(super) fn give_back(generation: &mut Generation, but: Option<&Config>) {
    for port in generation.forget_reserved(but.and_then(port)) {
        release(port);
    }
}

/// Lets other programs have a port again.
pub(super) fn release(port: u16) {
    if let Err(error) = local_port::release(port) {
        warn!("cannot take UDP port {port} out of ip_local_reserved_ports: {error}");
    }
}

fn port(config: &Config) -> Option<u16> {
    config.udp.as_ref().map(|udp| udp.port.get())
}
