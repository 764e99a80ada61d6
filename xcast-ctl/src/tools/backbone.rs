//! `xcast-ctl backbone`.

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use xcast_host::{
    RelayStatus, Relays, Sender, Settings, Uplink,
    relay::{Preference, SourceAddress, Standing, Timing},
};

use super::first_hop::{CodePointArgs, router_addresses, router_in_udp};
use crate::{
    control::{self, Request, Response},
    output::{
        Outcome, print_answer,
        table::{Align, Table, ago, or_dash, round_trip, yes_no},
    },
    report,
};

/// Show the logical backbone: what a relay does, or which relays can be used from here
///
/// On a router, shows what it does for sources that nothing is known of: whether it is a relay, how much it
/// has to do, who has a port of it, and which of its gateways speak Xcast.
///
/// With --relay, asks relays from this host as a sender would: directly, then by an Xcast packet through
/// their datapath and, with --witness, by one through the relay to another relay. The last shows whether
/// copies with this host's address get past reverse-path filters (rp_filter) and ingress filters (BCP 38).
/// Says of each relay why it can be used or not. Needs no privilege.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl backbone
  xcast-ctl backbone --protocol 253 --group 224.0.0.254 \\
      --relay 192.0.2.1:4242 --relay 198.51.100.1:4242 --witness 203.0.113.1:4242
  xcast-ctl backbone --config xcast.toml --relay 192.0.2.1:4242 --json | jq '.relays[].standing'

EXIT STATUS
  0  done; with --relay, at least one relay can be used
  1  none of the relays can be used
  2  error, also if no router runs here and no relay is given")]
pub(crate) struct Args {
    /// A relay to ask, with its port of Xcast inside UDP; give as many as there are
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = router_in_udp)]
    relay: Vec<SocketAddr>,

    /// A further relay, near the receivers, to test whether this host's address passes filters
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = router_in_udp, requires = "relay")]
    witness: Vec<SocketAddr>,

    /// Whose address copies are to have
    #[arg(long, value_name = "WHOSE", default_value = "own", requires = "relay")]
    source: Whose,

    /// Seconds to ask for, at most
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,

    #[command(flatten)]
    code_points: CodePointArgs,

    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

/// Whose address copies are to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Whose {
    /// This host's.
    Own,
    /// The relay's, and a port for this host.
    Relayed,
    /// The relay's, in envelopes.
    Enveloped,
}

/// The document of `xcast-ctl backbone --relay`.
#[derive(Debug, Serialize)]
struct Asked {
    /// At least one can be used.
    usable: bool,
    /// In the order given, those of IPv4 first.
    relays: Vec<Row>,
}

/// A relay as it is from here.
#[derive(Debug, Serialize)]
struct Row {
    /// Its address and port.
    address: SocketAddr,
    /// It can be used.
    usable: bool,
    /// Why, in a word: `used`, `ready`, `new`, `silent`, `lost`, `losing`, `busy`, `filtered` or `not_relayed`.
    standing: &'static str,
    /// The same in words.
    why: String,
    /// Smoothed round-trip time, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_us: Option<u64>,
    /// Time since the last answer through its datapath, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    proven_ms_ago: Option<u64>,
    /// How much it has to do, in percent of what it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    load_percent: Option<u8>,
    /// Address and port at which it sees this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<SocketAddr>,
    /// Questions sent.
    asked: u64,
    /// Questions answered.
    answered: u64,
    /// Differs between relays with the same address.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
}

pub(crate) fn run(args: &Args, router: &str) -> Result<Outcome> {
    if args.relay.is_empty() {
        return show_router(args, router);
    }
    let relays = ask(args, router)?;
    let asked = Asked {
        usable: relays.iter().any(|row| row.usable),
        relays,
    };
    print_answer(args.json, &asked, |asked| render_relays(&asked.relays))?;
    Ok(if asked.usable {
        Outcome::Done
    } else {
        Outcome::No
    })
}

fn show_router(args: &Args, router: &str) -> Result<Outcome> {
    let Response::Backbone(backbone) = control::ask(router, &Request::Backbone)? else {
        bail!("the router is of another version than this command: restart it");
    };
    print_answer(args.json, &*backbone, render_router)?;
    Ok(Outcome::Done)
}

/// Asks all relays until each of them can be used, or the time is over.
fn ask(args: &Args, router: &str) -> Result<Vec<Row>> {
    let ipv6 = args.relay.iter().any(SocketAddr::is_ipv6);
    let any: IpAddr = match ipv6 {
        false => Ipv4Addr::UNSPECIFIED.into(),
        true => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).context("cannot open a UDP socket")?;
    let witness = match args.witness.is_empty() {
        true => None,
        false => Some(router_addresses(&args.witness)?),
    };
    let relays = Relays {
        preference: Preference::Nearest,
        source: match (args.source, witness) {
            (Whose::Relayed, _) => SourceAddress::Relayed,
            (Whose::Enveloped, _) => SourceAddress::Enveloped,
            (Whose::Own, None) => SourceAddress::Own,
            (Whose::Own, Some(_)) => SourceAddress::Tested,
        },
        witness,
        timing: Timing {
            // Asked again while somebody waits for the answer.
            interval: Duration::from_secs(1),
            ..Timing::default()
        },
        ..Relays::new(args.relay.iter().copied())
    };
    let code_points = args.code_points.find(router)?;
    let settings = Settings::new(Uplink::Relays {
        code_points,
        relays,
    });
    let mut sender = Sender::new(socket, settings)?;
    let end = Instant::now() + Duration::from_secs(args.timeout);
    let settled = |sender: &Sender| {
        let relays = sender.relays();
        let is_usable = |status: &RelayStatus| usable(status.known.standing);
        relays.len() == args.relay.len() && relays.iter().all(is_usable)
    };
    while !settled(&sender) && Instant::now() < end {
        // Waits for nobody longer than it takes the next answer to come.
        sender.tend();
        std::thread::sleep(Duration::from_millis(10));
    }
    if sender.relays().is_empty() {
        let _ = writeln!(io::stderr(), "xcast-ctl: no relay could be asked");
    }
    Ok(sender.relays().iter().map(row).collect())
}

fn usable(standing: Standing) -> bool {
    matches!(standing, Standing::Used | Standing::Ready | Standing::Busy)
}

fn row(status: &RelayStatus) -> Row {
    let known = &status.known;
    let micros = |time: Duration| time.as_micros().try_into().unwrap_or(u64::MAX);
    let millis = |time: Duration| time.as_millis().try_into().unwrap_or(u64::MAX);
    Row {
        address: status.address,
        usable: usable(known.standing),
        standing: match known.standing {
            Standing::Used => "used",
            Standing::Ready => "ready",
            Standing::New => "new",
            Standing::Silent => "silent",
            Standing::Lost => "lost",
            Standing::Losing => "losing",
            Standing::Busy => "busy",
            Standing::Filtered => "filtered",
            Standing::NotRelayed => "not_relayed",
        },
        why: known.standing.to_string(),
        round_trip_us: known.round_trip.map(micros),
        proven_ms_ago: known.proven_ago.map(millis),
        load_percent: known.load_percent,
        seen: status.seen,
        asked: known.asked,
        answered: known.answered,
        instance: known.instance.map(|instance| format!("{instance:016x}")),
    }
}

fn render_relays(rows: &[Row]) -> String {
    let mut table = Table::new([
        ("RELAY", Align::Left),
        ("USABLE", Align::Left),
        ("ROUND TRIP", Align::Right),
        ("LAST PROOF", Align::Right),
        ("LOAD", Align::Right),
        ("ANSWERED", Align::Right),
        ("SEEN AS", Align::Left),
        ("WHY", Align::Left),
    ]);
    for row in rows {
        table.row([
            row.address.to_string(),
            yes_no(row.usable),
            round_trip(row.round_trip_us),
            ago(row.proven_ms_ago),
            or_dash(row.load_percent.map(|percent| format!("{percent} %"))),
            format!("{}/{}", row.answered, row.asked),
            or_dash(row.seen.map(|seen| seen.to_string())),
            row.why.clone(),
        ]);
    }
    table.to_string()
}

fn render_router(backbone: &report::Backbone) -> String {
    let mut text = match &backbone.relay {
        None => "no relay: the configuration has no table [relay]\n".to_owned(),
        Some(relay) => render_relay(relay),
    };
    let capable = backbone.neighbors.iter().filter(|gateway| gateway.xcast);
    text += &format!(
        "{} of {} gateways speak Xcast (xcast-ctl neighbors)\n",
        capable.count(),
        backbone.neighbors.len()
    );
    text
}

fn render_relay(relay: &report::Relay) -> String {
    let mut table = Table::plain([Align::Left, Align::Left]);
    let state = match (&relay.fault, relay.busy) {
        (Some(fault), _) => fault.clone(),
        (None, true) => "sends sources to other relays: it has too much to do".to_owned(),
        (None, false) => "serves sources".to_owned(),
    };
    for (name, value) in [
        ("relay", state),
        ("UDP port", relay.port.to_string()),
        ("load", format!("{} %", relay.load_percent)),
        (
            "questions",
            format!(
                "{} answered, {} ignored",
                relay.questions_answered, relay.questions_ignored
            ),
        ),
        ("last answer", ago(relay.last_answer_ms_ago)),
        (
            "relayed ports",
            format!(
                "{} of {} in use, {} wishes refused",
                relay.relayed.len(),
                relay.relayed_ports,
                relay.without_port
            ),
        ),
    ] {
        table.row([name.to_owned(), value]);
    }
    for port in &relay.relayed {
        table.row([format!("  {}", port.port), port.source.to_string()]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_relay_does_is_said() {
        let relay = report::Relay {
            port: 4242,
            fault: None,
            busy: false,
            load_percent: 7,
            questions_answered: 3,
            questions_ignored: 1,
            last_answer_ms_ago: Some(1500),
            relayed_ports: 2,
            relayed: vec![report::RelayedPort {
                port: 5000,
                source: ([192, 0, 2, 1], 4000).into(),
            }],
            without_port: 0,
        };
        let mut backbone = report::Backbone {
            relay: Some(relay),
            neighbors: Vec::new(),
        };
        let text = render_router(&backbone);
        for part in [
            "serves sources",
            "7 %",
            "1.5 s ago",
            "1 of 2",
            "192.0.2.1:4000",
        ] {
            assert!(text.contains(part), "{text}");
        }
        backbone.relay = None;
        assert!(render_router(&backbone).contains("[relay]"));
    }
}
