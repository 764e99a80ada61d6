//! What works between our nodes and nodes of others, both ways, as one JSON document: see
//! `cargo xtask partners`, which makes a table of it. As root, for network namespaces.
//! `cargo run -p xcast-overlay --features net --example partners [--soak MINUTES]`

#[path = "../../tests/partners/libtorrent.rs"]
mod libtorrent;
#[path = "../../tests/partners/mainline.rs"]
mod mainline;
#[path = "../../tests/partners/namespace.rs"]
mod namespace;
#[path = "../../tests/partners/ours.rs"]
mod ours;
#[path = "../../tests/partners/outcome.rs"]
mod outcome;
#[path = "../../tests/partners/program.rs"]
mod program;
#[path = "../../tests/partners/services.rs"]
mod services;
#[path = "../../tests/partners/transmission.rs"]
mod transmission;

use std::{env, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use self::{
    namespace::in_namespace,
    outcome::{Asker, Talk},
};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let soak = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => None,
        ["--soak", minutes] => {
            let minutes: f64 = minutes.parse().context("--soak: not a number of minutes")?;
            Some(Duration::try_from_secs_f64(minutes * 60.0).context("--soak")?)
        }
        _ => bail!("only --soak MINUTES is known"),
    };
    let missing = [libtorrent::missing(), transmission::missing()].concat();
    ensure!(
        missing.is_empty(),
        "missing: {}; run cargo xtask setup",
        missing.join(", ")
    );
    let talks = match soak {
        None => talks(),
        Some(time) => soaks(time),
    };
    let rows: Vec<Value> = talks.iter().flat_map(rows).collect();
    println!("{}", serde_json::to_string_pretty(&rows)?);
    Ok(())
}

/// One after the other, each in a namespace of its own.
fn talks() -> Vec<Talk> {
    let mut talks = Vec::new();
    for ipv6 in [false, true] {
        talks.extend(in_namespace(&[], async move || {
            libtorrent::we_ask(ipv6).await
        }));
        talks.extend(in_namespace(&[], async move || {
            libtorrent::they_ask(ipv6).await
        }));
        let both = in_namespace(&[], async move || transmission::both_ways(ipv6).await);
        talks.extend(both.into_iter().flatten());
        talks.extend(in_namespace(&[], async move || {
            transmission::with_a_torrent(ipv6).await
        }));
        talks.extend(in_namespace(&[], async move || {
            libtorrent::services(ipv6).await
        }));
        talks.extend(in_namespace(&[], async move || {
            transmission::services(ipv6).await
        }));
    }
    talks.extend(in_namespace(&[], async || mainline::we_ask().await));
    talks.extend(in_namespace(&[], async || mainline::they_ask().await));
    talks
}

/// At once, each in a namespace of its own.
fn soaks(time: Duration) -> Vec<Talk> {
    let soaks: [Box<dyn FnOnce() -> Option<Talk> + Send>; 5] = [
        Box::new(move || in_namespace(&[], async move || libtorrent::soak(false, time).await)),
        Box::new(move || in_namespace(&[], async move || libtorrent::soak(true, time).await)),
        Box::new(move || in_namespace(&[], async move || transmission::soak(false, time).await)),
        Box::new(move || in_namespace(&[], async move || transmission::soak(true, time).await)),
        Box::new(move || in_namespace(&[], async move || mainline::soak(time).await)),
    ];
    thread::scope(|scope| {
        let threads: Vec<_> = soaks.into_iter().map(|soak| scope.spawn(soak)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Option<Talk>>| match thread.join() {
            Ok(talk) => talk,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().filter_map(join).collect()
    })
}

/// A row for each operation.
fn rows(talk: &Talk) -> Vec<Value> {
    let row = |outcome: &outcome::Outcome| {
        let (works, note) = match &outcome.result {
            Ok(note) => (true, note),
            Err(why) => (false, why),
        };
        json!({
            "partner": talk.partner,
            "family": if talk.ipv6 { "IPv6" } else { "IPv4" },
            "asks": match talk.asker { Asker::We => "we", Asker::They => "they" },
            "operation": outcome.operation,
            "works": works,
            "note": note,
        })
    };
    talk.outcomes.iter().map(row).collect()
}
