//! `xcast-ctl dht publish`.

use std::{fs, io, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use tracing::warn;
use xcast_overlay::services::dns_sd::Instance;

use super::super::{
    compare::{AskArgs, obtain, show},
    message::{Operation, Service},
    parse::{attribute, place},
    render,
};
use crate::output::{Outcome, print_json};

/// Publish a service: what it is, how to reach it, where it is
///
/// The description is signed with the node's key and stored at nodes of this kind, under its type, its
/// place, and the words of its URI and attributes. The node stores it again before it expires, as long
/// as it runs. The same type and URI again replace what was published before; `dht store KEY --withdraw`
/// with the key that is shown ends it.
///
/// With --avahi, all services that avahi-browse has found on the links of a host are published (DNS-SD,
/// RFC 6763), each as described by its address and TXT record, so that they are found from elsewhere. With
/// --json the document is then a list, with an element for each.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
EXAMPLE
  xcast-ctl dht publish --type ldap --uri ldap://ldap.example.org:389/dc=example,dc=org \\
      --attribute 'name=Staff directory' --place 52.52,13.41
  avahi-browse --all --terminate --parsable --resolve --no-db-lookup | \\
      xcast-ctl dht publish --avahi - --place 52.52,13.41

EXIT STATUS
  0  stored
  1  no other node stored it, or there was nothing to publish
  2  error, such as a description that is too long, or no node here")]
pub(in super::super) struct Args {
    /// What finds or is found there: ldap, slp, uddi, dns-sd, or another word
    #[arg(long = "type", value_name = "TYPE", required_unless_present = "avahi")]
    kind: Option<String>,

    /// How to reach it
    #[arg(long, value_name = "URI", required_unless_present = "avahi")]
    uri: Option<String>,

    /// What `avahi-browse --parsable --resolve --no-db-lookup` has printed; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kind", "uri"])]
    avahi: Option<PathBuf>,

    /// What else there is to know; its words are found by
    #[arg(long, value_name = "NAME=VALUE", value_parser = attribute)]
    attribute: Vec<(String, String)>,

    /// Where it is, in degrees
    #[arg(long, value_name = "LATITUDE,LONGITUDE", value_parser = place, allow_hyphen_values = true)]
    place: Option<(f64, f64)>,

    /// How long nodes keep it, in seconds, unless it is stored again: at most two hours
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(i64).range(1..=7200))]
    life: i64,

    #[command(flatten)]
    ask: AskArgs,
}

pub(in super::super) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let services = match &args.avahi {
        Some(path) => found_by_avahi(args, path)?,
        None => vec![Service {
            kind: args.kind.clone().unwrap_or_default().to_lowercase(),
            uri: args.uri.clone().unwrap_or_default(),
            attributes: args.attribute.iter().cloned().collect(),
            place: args.place,
            distance_m: None,
            life_s: args.life,
        }],
    };
    let mut outcome = match services.is_empty() {
        true => Outcome::No,
        false => Outcome::Done,
    };
    // With --json, all that avahi-browse has found is one document.
    let (together, mut answers) = (args.avahi.is_some() && args.ask.json(), Vec::new());
    for service in services {
        let operation = Operation::Publish(service);
        let (answer, stored) = obtain(&args.ask, router, operation, |report| report.stored > 0)?;
        if stored != Outcome::Done {
            outcome = stored;
        }
        match together {
            true => answers.push(answer),
            false => show(&args.ask, &answer, render::stored)?,
        }
    }
    if together {
        print_json(&answers)?;
    }
    Ok(outcome)
}

/// What avahi-browse has resolved, with this command's place and attributes.
fn found_by_avahi(args: &Args, path: &PathBuf) -> Result<Vec<Service>> {
    let text = match path.as_os_str() == "-" {
        true => io::read_to_string(io::stdin()),
        false => fs::read_to_string(path),
    };
    let text = text.with_context(|| format!("--avahi: cannot read {}", path.display()))?;
    let mut services: Vec<Service> = Vec::new();
    for line in text.lines() {
        let instance = match Instance::from_avahi(line) {
            Ok(Some(instance)) => instance,
            Ok(None) => continue,
            Err(error) => {
                warn!("--avahi: {error}");
                continue;
            }
        };
        let described = instance.service(None);
        let service = Service {
            kind: described.mechanism,
            uri: described.uri,
            attributes: described
                .attributes
                .into_iter()
                .chain(args.attribute.iter().cloned())
                .collect(),
            place: args.place,
            distance_m: None,
            life_s: args.life,
        };
        // A host with several links is told of on each.
        if !services.contains(&service) {
            services.push(service);
        }
    }
    ensure!(
        !services.is_empty() || text.trim().is_empty(),
        "--avahi: {} tells of no service that can be reached from elsewhere: use avahi-browse with \
         --parsable, --resolve and --no-db-lookup",
        path.display()
    );
    Ok(services)
}
