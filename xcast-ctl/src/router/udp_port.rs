//! The port of Xcast inside UDP, kept from programs that ask for any port: XDP would take the answers that they wait
//! for.
//!
//! The kernel's list of reserved ports does not say whose entries are. What a router put there is noted with what is
//! pinned, so that the next one, or `unload`, can take it out again after a crash.

use anyhow::{Context as _, Result};
use tracing::{debug, info, warn};

use crate::{config::Config, datapath::generation::Generation, kernel::local_port};

/// Keeps the port of a configuration, if it is not kept already, and notes that: whether it had to be.
///
/// # Errors
///
/// The kernel does not take it.
pub(super) fn keep(config: &Config, generation: &mut Generation) -> Result<bool> {
    let Some(port) = port(config) else {
        return Ok(false);
    };
    if local_port::is_reserved(port) {
        // By an administrator, or a router before this one, which noted it.
        return Ok(false);
    }
    if !generation.has_reserved(port) {
        generation.note_reserved(port);
    }
    local_port::reserve(port)
        .with_context(|| format!("cannot put UDP port {port} into ip_local_reserved_ports"))?;
    Ok(true)
}

/// The same, again and again: who writes the kernel's list takes out what others put there.
pub(super) fn keep_on(config: &Config, generation: &mut Generation) {
    match keep(config, generation) {
        Ok(true) => {
            info!("the UDP port was taken out of ip_local_reserved_ports, and is there again");
        }
        Ok(false) => {}
        // It was said at the start.
        Err(error) => debug!("{error:#}"),
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
