//! The arguments of `xcast-ctl tree`.

use std::{net::SocketAddr, path::PathBuf};

use crate::tools::first_hop::WayOutArgs;

/// Stream standard input to a tree of receivers, or a tree's stream to standard output
///
/// With --key this is the source: what comes in at standard input goes to all members. Without it
/// this is a member: it writes the stream to standard output, and passes it on to others. Members
/// form a tree by themselves. What is lost on the way is repaired; messages are signed by the source.
/// A member that joins late gets what is sent from then on.
///
/// Members that have others below them send each message to up to 50 of these by one packet: by the
/// router that runs on this machine, or, with --udp, inside UDP to a router on the network, which needs
/// no privilege. The code points come from --config, from --protocol and --group, or from the running
/// router. Without any of these, or with --unicast, each gets a datagram.
///
/// Prints on standard error where it listens and, at the source, the public key that members need.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl tree news --key news.key --wait 2 --udp 10.77.0.1:4242 \\
      --protocol 253 --group 224.0.0.254 < film.ts
  xcast-ctl tree news --source 1f6e...c3 --join 10.77.3.2:4000 > film.ts
  xcast-ctl tree news --source 1f6e...c3 --join 10.77.3.2:4000 --json --quiet | player

  The source says on standard error which key and address to give to --source and --join.

EXIT STATUS
  0  the stream came, or was sent, to its end and whole
  1  interrupted, or out of time, before the end; or messages were lost
  2  error")]
pub(crate) struct Args {
    /// Name of the tree; a source can have several
    #[arg(value_name = "NAME")]
    pub(super) name: String,

    /// Be the source, with the secret key in this file, which is made if it is not there
    #[arg(long, value_name = "FILE", required_unless_present = "source")]
    pub(super) key: Option<PathBuf>,

    /// The source's public key: 64 hexadecimal digits
    #[arg(long, value_name = "KEY", value_parser = public_key, conflicts_with = "key", requires = "join")]
    pub(super) source: Option<PublicKey>,

    /// A member by way of which to join, the source or any other; may be given several times
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "key")]
    pub(super) join: Vec<SocketAddr>,

    /// Where to listen; port 0 for a free one, which the line on standard error names
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:4000")]
    pub(super) listen: SocketAddr,

    #[command(flatten)]
    pub(super) way_out: WayOutArgs,

    /// Largest packet, in octets, from its IP header on
    #[arg(long, value_name = "OCTETS", default_value_t = 1500)]
    pub(super) mtu: usize,

    /// Packets for each message; times --destinations, so many children at most. 0 to have no children
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(super) packets: usize,

    /// Receivers of a packet, at most; fewer if no more fit beside --payload into --mtu
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=127))]
    pub(super) destinations: u8,

    /// Choose parents whose address is like the own one, instead of those that answer fast
    #[arg(long)]
    pub(super) prefix: bool,

    /// Octets of the stream in one message, at most
    #[arg(long, value_name = "OCTETS", default_value_t = 914, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) payload: u16,

    /// How fast to send, at the source; as fast as --keep allows at most
    #[arg(long, value_name = "KBIT/S", default_value_t = 8000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rate: u32,

    /// Mebibytes of the stream to keep for others that have lost a parent: at least 8 seconds of it,
    /// at the source and at all members
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) keep: u16,

    /// Send nothing before there are so many children, at the source
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) wait: usize,

    /// After the end, stay so long at most for those below that are not yet up to date
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(super) linger: u64,

    /// End after this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub(super) timeout: Option<u64>,

    /// Do not show on standard error when the parent changes
    #[arg(short, long)]
    pub(super) quiet: bool,

    /// Status as a JSON document on a line of standard error at the end, and each --interval
    #[arg(long)]
    pub(super) json: bool,

    /// Seconds between reports of the status
    #[arg(long, value_name = "SECONDS", requires = "json", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) interval: Option<u64>,
}

/// An Ed25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PublicKey(pub [u8; 32]);

fn public_key(text: &str) -> Result<PublicKey, String> {
    super::key::from_hex(text)
        .map(PublicKey)
        .ok_or_else(|| "a public key has 64 hexadecimal digits".to_owned())
}
