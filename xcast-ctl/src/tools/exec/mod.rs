//! `xcast-ctl exec`.

mod args;
mod inherited;
mod library;
mod program;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use xcast_host::CodePoints;

pub(crate) use self::args::Args;
use super::first_hop::router_addresses;
use crate::{kernel, output::Outcome};

/// Becomes the program: this returns only if that fails.
pub(crate) fn run(args: &Args, router: &str) -> Result<Outcome> {
    let (name, arguments) = args.program.split_first().context("no program is named")?;
    let shown = name.display();
    let path = program::find(name).with_context(|| {
        format!("there is no program {shown}: give its path, or a name that is found in PATH")
    })?;
    let mut command = Command::new(&path);
    command.arg0(name).args(arguments);
    inherited::pass_on(&mut command);
    let settings = environment(args, router)?;
    match program::obstacle(&path) {
        Some(obstacle) => {
            // Nobody may be reading.
            let _ = writeln!(
                io::stderr(),
                "xcast-ctl: {shown} runs without Xcast: {obstacle}"
            );
        }
        None => {
            command.envs(settings);
            command.env("LD_PRELOAD", preload(library::install()?.into()));
        }
    }
    Err(command.exec()).with_context(|| format!("cannot start {}", path.display()))
}

/// The library before those that are loaded anyway.
fn preload(library: OsString) -> OsString {
    match std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        None => library,
        Some(others) => [library, others].join(&OsString::from(":")),
    }
}

/// The variables that the library reads.
fn environment(args: &Args, router: &str) -> Result<Vec<(&'static str, OsString)>> {
    let code_points = args.code_points.find(router)?;
    let uplink = if args.udp.is_empty() {
        let links = kernel::links()?;
        ensure!(
            links.iter().any(|link| link.is_named(router)),
            "no router runs here: name one on the network with --udp"
        );
        format!("native:{router}")
    } else {
        // At most one address of each family.
        router_addresses(&args.udp)?;
        let addresses: Vec<_> = args.udp.iter().map(ToString::to_string).collect();
        format!("udp:{}", addresses.join(","))
    };
    let mut variables: Vec<(&str, OsString)> = vec![
        ("XCAST_UPLINK", uplink.into()),
        ("XCAST_CODE_POINTS", numbers(code_points).into()),
        ("XCAST_MIN", args.min.to_string().into()),
        ("XCAST_MAX_DELAY", args.max_delay.to_string().into()),
    ];
    if !args.allow.is_empty() {
        let prefixes: Vec<_> = args.allow.iter().map(ToString::to_string).collect();
        variables.push(("XCAST_ALLOW", prefixes.join(",").into()));
    }
    if let Some(path) = &args.statistics {
        // The program may work in another directory.
        let path = match path.as_os_str() == "-" {
            true => path.clone(),
            false => std::path::absolute(path)?,
        };
        variables.push(("XCAST_STATISTICS", path.into()));
    }
    if args.json {
        variables.push(("XCAST_STATISTICS_JSON", "1".into()));
    }
    if let Some(signal) = args.signal {
        let number = signal as i32;
        variables.push(("XCAST_STATISTICS_SIGNAL", number.to_string().into()));
    }
    Ok(variables)
}

fn numbers(code_points: CodePoints) -> String {
    let CodePoints {
        protocol,
        group,
        ipv6,
    } = code_points;
    let ipv6 = ipv6.map_or_else(String::new, |ipv6| {
        format!(
            ",{},{},{}",
            ipv6.group, ipv6.routing_type, ipv6.ports_option
        )
    });
    format!("{protocol},{group}{ipv6}")
}
