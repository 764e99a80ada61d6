//! Which gateways speak Xcast is found out, and kept up to date (RFC 5058 section 11.2): B is a
//! gateway, and two destinations are behind it.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::daemon::{self, Counters, Daemon};
use tests::family::Family;
use tests::namespace::Namespace;
use tests::tap::Tap;
use tests::trio::{self, SOON, Trio, until};

/// Behind B.
const BEHIND: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 97, 0, 1), Ipv4Addr::new(10, 97, 0, 2)];

/// What the router under test knows of B.
fn gateway(trio: &Trio) -> Result<Option<Value>> {
    let rows = daemon::report(&trio.r.namespace, &["neighbors"])?;
    let rows = rows.as_array().context("no list")?;
    let address = trio.address(trio::B).to_string();
    Ok(rows.iter().find(|row| row["address"] == *address).cloned())
}

/// Waits until B counts as this.
fn counts_as(trio: &Trio, standing: &str) -> Result<()> {
    let is = || Ok(gateway(trio)?.is_some_and(|row| row["standing"] == standing));
    ensure!(until(SOON, is)?, "not {standing}, but {:?}", gateway(trio)?);
    Ok(())
}

/// How many copies of one packet to what is behind B the router sends; both arrive, each once.
fn copies(trio: &Trio) -> Result<u64> {
    let sent = || -> Result<u64> { Ok(Counters::read(&trio.r.namespace)?.value("sent")) };
    let before = sent()?;
    let number = trio.send(&BEHIND)?;
    let arrived = until(SOON, || Ok(trio.b.count(number)? >= BEHIND.len()))?;
    ensure!(arrived, "{} of 2 arrived", trio.b.count(number)?);
    thread::sleep(Duration::from_millis(50));
    ensure!(trio.b.count(number)? == BEHIND.len(), "twice");
    Ok(sent()? - before)
}

/// Whether packets with that list make so many copies. Fewer are an answer at once; more may be a probe that was counted
/// with them, so that it is tried again.
fn makes(trio: &Trio, expected: u64) -> Result<bool> {
    until(SOON, || {
        let made = copies(trio)?;
        ensure!(made >= expected, "{made} copies instead of {expected}");
        Ok(made == expected)
    })
}

/// With B as a gateway, and the router started with this said of gateways.
fn with_gateway(gateways: &str, test: impl Fn(&mut Trio) -> Result<()>) {
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            with_b(trio, gateways).and_then(|()| test(trio))
        });
    }
}

/// Makes B a gateway, and starts the router.
fn with_b(trio: &mut Trio, gateways: &str) -> Result<()> {
    trio.make_b_a_router()?;
    for address in BEHIND {
        trio.b.ip(&format!("address add {address}/32 dev lo"))?;
    }
    trio.configure("gateways = \"none\"", gateways)?;
    trio.r.ip("route add 10.97.0.0/16 via 10.66.2.2")?;
    trio.start()?;
    trio.resolve()?;
    Ok(())
}

fn second_router(trio: &Trio) -> Result<Daemon> {
    Daemon::start(&trio.b.namespace, &trio::configuration(&["b0"]))
}

/// The default: a gateway that speaks Xcast is found, one that begins to is, too, and one that ends is
/// noticed. Whatever it does, every destination gets every packet once.
#[test]
fn gateway_that_begins_and_ends_to_speak_xcast() {
    with_gateway("", |trio| {
        counts_as(trio, "silent")?;
        ensure!(makes(trio, 2)?, "a list was sent to a silent gateway");
        let family = trio.family;
        let [source, to] = [Ipv4Addr::new(10, 66, 1, 2), BEHIND[0]]
            .map(|address| family.address(address).to_string());
        let explained = daemon::report(&trio.r.namespace, &["explain", &source, &to])?;
        let why = explained["copies"][0]["why"].as_str().unwrap_or_default();
        ensure!(
            why.contains("it gets unicast: it never returned a probe"),
            "{explained}"
        );
        let second = second_router(trio)?;
        counts_as(trio, "proven")?;
        let row = gateway(trio)?.context("it is gone")?;
        ensure!(
            row["xcast"] == true && row["round_trip_us"].is_u64(),
            "{row}"
        );
        ensure!(makes(trio, 1)?, "unicast to a gateway that speaks Xcast");
        ensure!(second.stop()?.success());
        counts_as(trio, "lost")?;
        ensure!(makes(trio, 2)?, "a list was sent to a lost gateway");
        Ok(())
    });
}

/// A gateway whose router is killed under a stream, with its programs, goes on as a plain one: only what was under way until
/// that was noticed is lost, and nothing comes twice. Nothing at all is lost when it begins again.
#[test]
fn gateway_that_dies_under_a_stream() {
    with_gateway("", |trio| {
        let second = second_router(trio)?;
        counts_as(trio, "proven")?;
        let (trio, mut sent) = (&*trio, Vec::new());
        let mut stream_until = |standing: &str| -> Result<u32> {
            let deadline = Instant::now() + SOON;
            loop {
                for _ in 0..20 {
                    sent.push(trio.send(&BEHIND)?);
                    thread::sleep(Duration::from_millis(5));
                }
                let row = gateway(trio)?.context("it is gone")?;
                if row["standing"] == standing {
                    return sent.last().copied().context("nothing was sent");
                }
                ensure!(Instant::now() < deadline, "not {standing}, but {row}");
            }
        };
        let last = stream_until("proven")?;
        second.kill()?;
        ensure!(
            daemon::ctl(&trio.b.namespace, &["unload"])?
                .status
                .success()
        );
        let noticed = stream_until("lost")?;
        stream_until("lost")?;
        let _third = second_router(trio)?;
        stream_until("proven")?;
        stream_until("proven")?;
        let (mut lost, all) = (0, BEHIND.len());
        for number in sent {
            let arrived = || Ok(trio.b.count(number)? >= all);
            let may_be_lost = (last..=noticed).contains(&number);
            ensure!(
                may_be_lost || until(SOON, arrived)?,
                "{number} never came everywhere: {last} to {noticed} may be lost"
            );
            let times = trio.b.count(number)?;
            ensure!(times <= all, "{number} came {times} times");
            lost += usize::from(times < all);
        }
        ensure!(lost > 0, "nothing died");
        println!("{lost} messages lost");
        Ok(())
    });
}

/// A gateway whose controller died goes on to forward, and so it goes on to prove it.
#[test]
fn gateway_whose_controller_dies() {
    with_gateway("gateways = \"discover\"", |trio| {
        let second = second_router(trio)?;
        counts_as(trio, "proven")?;
        second.kill()?;
        let returned = |row: &Value| row["probes_returned"].as_u64().unwrap_or(0);
        let before = gateway(trio)?.as_ref().map_or(0, returned);
        let goes_on = || Ok(gateway(trio)?.as_ref().map_or(0, returned) > before + 2);
        ensure!(until(SOON, goes_on)?, "no more probes return");
        ensure!(makes(trio, 1)?);
        Ok(())
    });
}

/// What the configuration states of a gateway is not asked.
#[test]
fn what_is_stated_is_not_asked() {
    let address = |trio: &Trio| trio.address(trio::B);
    for (list, xcast) in [("speak", true), ("silent", false)] {
        with_gateway("", |trio| {
            let stated = format!(
                "[router]\ngateways = {{ {list} = [\"{}\"] }}",
                address(trio)
            );
            trio.configuration = trio.configuration.replace("[router]", &stated);
            trio.daemon = None;
            trio.start()?;
            let known = || Ok(gateway(trio)?.is_some_and(|row| row["xcast"] == xcast));
            ensure!(until(SOON, known)?, "{:?}", gateway(trio)?);
            let row = gateway(trio)?.context("it is gone")?;
            ensure!(row["standing"] == "stated", "{row}");
            ensure!(row["probes_sent"] == 0, "{row}");
            Ok(())
        });
    }
}

/// A neighbour that returns everything as it came is no router.
#[test]
fn an_echo_is_no_proof() {
    with_gateway("", |trio| {
        counts_as(trio, "silent")?;
        let tap = Tap::open(&trio.b.namespace, "b0")?;
        let sent = || {
            let row = gateway(trio)?.context("it is gone")?;
            row["probes_sent"].as_u64().context("no count")
        };
        let (before, echoed) = (sent()?, Cell::new(0));
        let asked = until(SOON, || {
            while let Some(mut frame) = tap.take()? {
                // As it came, with the addresses exchanged.
                let (destination, source) = frame.split_at_mut(6);
                destination.swap_with_slice(&mut source[..6]);
                tap.send(&frame)?;
                echoed.set(echoed.get() + 1);
            }
            Ok(sent()? > before + 1)
        })?;
        ensure!(asked && echoed.get() > 0, "it was not asked");
        let row = gateway(trio)?.context("it is gone")?;
        ensure!(
            row["xcast"] == false && row["probes_returned"] == 0,
            "{row}"
        );
        Ok(())
    });
}

/// Behind B, on a link of its own.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 97, 5, 2);
/// Nobody is there.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 97, 5, 77);

/// A host behind B, and a router on B that takes lists for it to a gateway which does not exist, as long as its Xcast routing
/// table says so.
fn far_host(trio: &Trio) -> Result<(Namespace, Daemon)> {
    let far = Namespace::new("far")?;
    for interfaces in ["all", "default"] {
        far.sysctl(&format!("ipv6/conf/{interfaces}/disable_ipv6"), "0")?;
        far.sysctl(&format!("ipv6/conf/{interfaces}/accept_dad"), "0")?;
    }
    let pair = format!("link add d0 type veth peer name e0 netns {}", far.name());
    trio.b.namespace.ip(&pair)?;
    far.set_gro("e0", true)?;
    trio.b.namespace.set_gro("d0", true)?;
    let command = |command: &str| trio.family.command(command);
    far.ip(&command("address add 10.97.5.2/24 dev e0"))?;
    far.ip("link set e0 up")?;
    far.ip(&command("route add 10.66.0.0/16 via 10.97.5.1"))?;
    trio.b.ip("address add 10.97.5.1/24 dev d0")?;
    trio.b.ip("link set d0 up")?;
    trio.b
        .ip("neighbour add 10.97.5.77 lladdr 02:00:00:00:00:77 dev d0 nud permanent")?;
    swallow(trio, true)?;
    let speaks = format!(
        "xcast_table = 100\ngateways = {{ speak = [\"{}\"] }}",
        trio.family.address(NOBODY)
    );
    let configuration = trio::configuration(&["b0", "d0"]);
    let configuration = configuration.replace("gateways = \"none\"", &speaks);
    let second = Daemon::start(&trio.b.namespace, &configuration)?;
    Ok((far, second))
}

fn swallow(trio: &Trio, yes: bool) -> Result<()> {
    let verb = if yes { "add" } else { "delete" };
    let route = format!("route {verb} 10.97.5.2/32 via 10.97.5.77 dev d0 table 100");
    trio.b.ip(&route)?;
    Ok(())
}

/// A gateway that returns probes but loses what it forwards gets no lists, and gets them when it forwards.
#[test]
fn gateway_that_swallows_what_it_forwards() {
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            let (_far, _second) = far_host(trio)?;
            // Nobody is at the first address: that says nothing, and the second one is tried.
            let tries = format!(
                "gateways = \"discover\"\nprobe_through = [\"{}\", \"{}\"]",
                family.address(NOBODY),
                family.address(FAR)
            );
            with_b(trio, &tries)?;
            counts_as(trio, "swallows")?;
            let row = gateway(trio)?.context("it is gone")?;
            let why = row["why"].as_str().unwrap_or_default();
            ensure!(
                row["xcast"] == false && why.contains("forwards none to"),
                "{row}"
            );
            ensure!(makes(trio, 2)?, "a list was sent to one that swallows it");
            swallow(trio, false)?;
            counts_as(trio, "proven")?;
            ensure!(makes(trio, 1)?, "unicast to a gateway that forwards");
            swallow(trio, true)?;
            counts_as(trio, "swallows")?;
            ensure!(makes(trio, 2)?, "a list was sent to one that swallows it");
            Ok(())
        });
    }
}
