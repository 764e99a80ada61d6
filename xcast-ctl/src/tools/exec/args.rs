//! The arguments of `xcast-ctl exec`.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use nix::sys::signal::Signal;

use crate::tools::first_hop::{CodePointArgs, router_in_udp};

/// Run a program, and send what it sends to many destinations as Xcast packets
///
/// The program needs no change, and neither do receivers. Where it sends the same octets to several
/// destinations by one UDP socket, with a call for each or with one call for all, they leave as one
/// packet that lists them, from the program's own address and port. Nothing is delayed for that: what
/// the program has sent leaves before its next call that may wait. Everything else leaves as the
/// program sends it, and everything does while no router answers.
///
/// Where a router runs, packets go into its own interface, which needs CAP_NET_RAW in the program.
/// With --udp they go inside UDP to a router on the network, which needs no privilege.
///
/// It works by the dynamic linker (LD_PRELOAD), also for programs that the program starts. Programs
/// without one (static ones), of Go, and setuid ones are told of in one line, and run as they are.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl exec --udp 10.77.0.1:4242 --protocol 253 --group 224.0.0.254 --statistics \\
      -- gst-launch-1.0 videotestsrc ! x264enc ! rtph264pay ! \\
      multiudpsink clients=10.77.3.2:5000,10.77.7.2:5000,10.77.8.2:5000

EXIT STATUS
  0  that of the program, whatever it is
  2  error, such as a program that cannot be started")]
pub(crate) struct Args {
    /// Send inside UDP to this router; give it twice for its IPv4 and its IPv6 address
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = router_in_udp)]
    pub(super) udp: Vec<SocketAddr>,

    #[command(flatten)]
    pub(super) code_points: CodePointArgs,

    /// Fewest destinations that share a packet
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..))]
    pub(super) min: u32,

    /// Milliseconds after which datagrams leave even if the program calls nothing; 0 for never
    ///
    /// This matters to programs that wait in ways that are not seen, or that compute after they have
    /// sent. It is not a delay of its own.
    #[arg(long, value_name = "MS", default_value = "5", value_parser = milliseconds)]
    pub(super) max_delay: u32,

    /// Only destinations in these networks may be in a list, with commas or given several times
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    pub(super) allow: Vec<IpNet>,

    /// At the end, append what was done to this file, or show it on standard error
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    pub(super) statistics: Option<PathBuf>,

    /// Show statistics on this signal, too, such as USR2, whose action must be the default one in the program
    #[arg(long, value_name = "NAME", value_parser = signal, requires = "statistics")]
    pub(super) signal: Option<Signal>,

    /// Statistics as one JSON document on a line
    #[arg(long, requires = "statistics")]
    pub(super) json: bool,

    /// The program and its arguments
    #[arg(
        value_name = "PROGRAM",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(super) program: Vec<OsString>,
}

/// Milliseconds, in microseconds.
fn milliseconds(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is not a number of milliseconds below an hour");
    let value: f64 = text.parse().map_err(|_| wrong())?;
    match value {
        0.0..3_600_000.0 => Ok((value * 1000.0).ceil() as u32),
        _ => Err(wrong()),
    }
}

fn signal(text: &str) -> Result<Signal, String> {
    let name = format!("SIG{}", text.trim_start_matches("SIG"));
    name.parse()
        .map_err(|_| format!("{text:?} is not the name of a signal, such as USR2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_and_signals() {
        assert_eq!(milliseconds("0.25"), Ok(250));
        assert_eq!(milliseconds("0"), Ok(0));
        for wrong in ["-1", "x", "NaN", "3600000"] {
            assert!(milliseconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!(signal("USR2"), Ok(Signal::SIGUSR2));
        assert_eq!(signal("SIGHUP"), Ok(Signal::SIGHUP));
        assert!(signal("2").is_err());
    }
}
