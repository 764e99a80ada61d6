//! `xcast-ctl tree`.

mod args;
mod key;
mod report;
mod session;
mod streams;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use xcast_overlay::{
    krpc::signing_key,
    net::{Driver, Settings},
    tree::{Config, Member, Packets, Parents},
};

pub(crate) use self::args::Args;
use self::{report::say, session::Session};
use crate::output::Outcome;

pub(crate) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let config = config(args)?;
    let shortest = Duration::from_secs_f64(1.0 / config.max_messages_per_second(0));
    let (uplink, way_out) = args.way_out.uplink(router)?;
    let settings = Settings::new(uplink);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(async {
        let public_key = key::to_hex(&config.source_key);
        let driver = Driver::bind(args.listen, settings, |now, random| {
            Member::new(now, config, random)
        });
        let driver = driver.context("cannot take part (--listen)")?;
        say(&format!(
            "{} of tree {} at {}, public key {public_key}; {way_out}",
            if args.key.is_some() {
                "source"
            } else {
                "member"
            },
            args.name.escape_debug(),
            driver.local_address()
        ));
        let session = Session::new(args, public_key, shortest, driver);
        session.await?.run().await
    })
}

fn config(args: &Args) -> Result<Config> {
    let mut config = match (&args.key, args.source) {
        (Some(path), _) => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            let first = since.context("the clock is before 1970")?.as_micros() as u64;
            let key = signing_key(key::read_or_make(path)?);
            Config::source(args.name.clone(), key, first)
        }
        (None, Some(source)) => Config::receiver(args.name.clone(), source.0, args.join.clone()),
        (None, None) => anyhow::bail!("give --key to be the source, or --source and --join"),
    };
    config.packets = Packets {
        mtu_octets: args.mtu,
        in_udp: args.way_out.is_in_udp(),
        max_destinations: args.destinations.into(),
    };
    config.packets_per_message = args.packets;
    config.max_payload_octets = args.payload.into();
    let largest = args.mtu.saturating_sub(40 + 8 + Member::OVERHEAD_OCTETS);
    ensure!(
        config.max_payload_octets <= largest,
        "--payload {} does not fit into packets of {} octets: at most {largest} do",
        args.payload,
        args.mtu
    );
    let keep = usize::from(args.keep);
    config.kept_octets = keep << 20;
    // One for each half KiB.
    config.kept_messages = keep << 11;
    // Twice the fastest stream that there is room for.
    config.repair_octets_per_second = u32::from(args.keep) << 18;
    let most = config.max_messages_per_second(config.max_payload_octets);
    let most_kbit = most * f64::from(args.payload) * 8.0 / 1e3;
    ensure!(
        args.key.is_none() || f64::from(args.rate) <= most_kbit,
        "--rate {} is too fast to repair what is lost when a member dies: at most {} with --keep {} and \
         --payload {}",
        args.rate,
        most_kbit as u64,
        args.keep,
        args.payload
    );
    if args.prefix {
        config.parents = Parents::Prefix { level_bits: 4 };
    }
    Ok(config)
}
