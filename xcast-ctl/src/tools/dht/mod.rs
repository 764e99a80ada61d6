//! `xcast-ctl dht`: a node of the BitTorrent DHT whose messages to several leave as one packet.
//!
//! `join` runs a [`node`]; the other [`verbs`] ask it over its control socket.

mod compare;
mod join;
mod links;
mod message;
mod node;
mod parse;
mod progress;
mod render;
mod socket;
mod state;
mod verbs;

use anyhow::Result;

use self::verbs::{find, get, leave, lookup, ping, publish, put, status, store, table};
use crate::output::Outcome;

/// Run a node of the BitTorrent DHT, and ask it
///
/// `dht join` runs a node in the foreground (BEP 5, 32, 42, 43, 44, and services by type, text and
/// place). The other verbs ask the node of this network namespace. The requests of a round leave as
/// one Xcast packet where a router takes it, and as unicast elsewhere; other nodes need not know.
///
/// `dht status` and `dht table` say at any time how many nodes are known, and if none, why.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl dht join --bootstrap router.bittorrent.com:6881 --state /var/lib/xcast/dht &
  xcast-ctl dht status
  xcast-ctl dht put 'hello' ; xcast-ctl dht get KEY
  xcast-ctl dht publish --type ldap --uri ldap://ldap.example.org --place 52.52,13.41
  xcast-ctl dht find --type ldap --near 52.4,13.1 --radius 50
  xcast-ctl dht lookup text:anything --compare 20

EXIT STATUS
  0  done
  1  the answer is no: nothing found, nobody answered, nothing stored
  2  error; one line on stderr says what and why")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Join(join::Args),
    Status(status::Args),
    Table(table::Args),
    Ping(ping::Args),
    Lookup(lookup::Args),
    Store(store::Args),
    Put(put::Args),
    Get(get::Args),
    Publish(publish::Args),
    Find(find::Args),
    Leave(leave::Args),
}

impl Args {
    /// How much to log.
    pub(crate) fn verbose(&self) -> u8 {
        match &self.verb {
            Verb::Join(args) => args.verbose,
            _ => 0,
        }
    }
}

pub(crate) fn run(args: &Args, router: &str) -> Result<Outcome> {
    match &args.verb {
        Verb::Join(args) => join::run(args, router),
        Verb::Status(args) => status::run(args),
        Verb::Table(args) => table::run(args),
        Verb::Ping(args) => ping::run(args, router),
        Verb::Lookup(args) => lookup::run(args, router),
        Verb::Store(args) => store::run(args, router),
        Verb::Put(args) => put::run(args, router),
        Verb::Get(args) => get::run(args, router),
        Verb::Publish(args) => publish::run(args, router),
        Verb::Find(args) => find::run(args, router),
        Verb::Leave(args) => leave::run(args),
    }
}
