//! The router cannot be stalled or filled from outside: not by packets, not by users of the machine.
//! And what is lost on the way to the stack is shown.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use tests::daemon::{self, Daemon};
use tests::family::Family;
use tests::layout::{self, Layout};
use tests::namespace::Namespace;
use tests::rig::{self, Rig, SOURCE, list};
use tests::tap::Tap;
use tests::trio::{self, A, B, C, SOON, until};
use xtask::testbed::ethtool;

/// Resident memory of the router, in KiB.
fn resident_kib(daemon: &Daemon) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmRSS")?.parse()?)
}

/// Whether the device map for exactly the ports of this list is there.
fn has_its_device_map(rig: &Rig, ports: &[usize]) -> Result<bool> {
    let mut arguments = vec!["explain".to_owned(), rig.ip(SOURCE).to_string()];
    arguments.extend(
        ports
            .iter()
            .map(|&port| rig.ip(layout::behind(port, 1)).to_string()),
    );
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    Ok(daemon::report(&rig.router, &arguments)?["path"] == "broadcast")
}

/// One sender with ever new sets of ports. A list of somebody else gets its device map within a
/// second or so, as without it, and the router does not grow.
#[test]
fn ever_new_sets_of_ports() {
    let layout = Layout {
        ports: 24,
        ..Layout::default()
    };
    rig::with_family(Family::Ipv4, &layout, |rig| {
        let packet = |ports: &[usize]| {
            let destinations = ports.iter().map(|&port| layout::behind(port, 1));
            rig::udp(list(destinations)).frame()
        };
        let before = resident_kib(rig.daemon()?)?;
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..40_000 {
            // Any sequence without a short period.
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let ports: Vec<_> = (1..24).filter(|port| seed >> port & 1 == 1).collect();
            rig.taps[0].send(&packet(&ports))?;
        }
        let started = Instant::now();
        let wanted = [2, 3, 5, 7, 11, 13, 17, 19];
        let served = || {
            rig.taps[0].send(&packet(&wanted))?;
            has_its_device_map(rig, &wanted)
        };
        ensure!(
            until(Duration::from_secs(5), served)?,
            "no device map after {:?}",
            started.elapsed()
        );
        let after = resident_kib(rig.daemon()?)?;
        ensure!(
            after < before + 32 * 1024,
            "{before} KiB became {after} KiB"
        );
        Ok(())
    });
}

/// The names of the abstract sockets that somebody listens at, in a namespace.
fn listening(namespace: &Namespace) -> Result<Vec<String>> {
    let table = namespace.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/unix")?))?;
    let rows = table.lines().filter(|line| line.contains(" 00010000 "));
    let names = rows.filter_map(|line| line.split_whitespace().nth(7)?.strip_prefix('@'));
    Ok(names.map(str::to_owned).collect())
}

/// Any local user may connect to the control socket and say nothing; root is answered all the same.
#[test]
fn silent_clients_of_the_control_socket() {
    trio::with_family(Family::Ipv4, |trio| {
        let r = &trio.r.namespace;
        let names = listening(r)?;
        // A socket in the file system is not open to everyone; then there is nothing to do.
        let clients = r.enter_as_nobody(|| {
            let mut clients = Vec::new();
            for name in &names {
                let address = SocketAddr::from_abstract_name(name)?;
                // Fewer than a process may have files by default.
                for _ in 0..800 {
                    let client = std::thread::spawn({
                        let address = address.clone();
                        move || UnixStream::connect_addr(&address)
                    });
                    // The backlog is full: a connection that waits holds its place as well.
                    let deadline = Instant::now() + Duration::from_millis(50);
                    while !client.is_finished() && Instant::now() < deadline {
                        std::thread::sleep(Duration::from_micros(100));
                    }
                    if !client.is_finished() {
                        break;
                    }
                    if let Ok(Ok(client)) = client.join() {
                        clients.push(client);
                    }
                }
            }
            Ok(clients)
        })?;
        let asked = Instant::now();
        daemon::report(r, &["status"])?;
        let waited = asked.elapsed();
        ensure!(
            waited < Duration::from_secs(5),
            "beside {} silent clients, status took {waited:?}",
            clients.len()
        );
        drop(clients);
        ensure!(trio.is_reached(&trio.b, &[B, C])?);
        Ok(())
    });
}

/// Members of the group `router.readers` may ask and not stop the router, by their first group or another one, and
/// others may not; SIGHUP makes it another group.
#[test]
fn a_group_may_read() {
    const READERS: &str = "54321";
    trio::before_start(Family::Ipv4, |trio| {
        trio.configure("[router]\n", &format!("[router]\nreaders = {READERS}\n"))?;
        trio.start()?;
        // Where everybody can run it.
        let directory = tempfile::tempdir()?;
        let public = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), public)?;
        let program = directory.path().join("xcast-ctl");
        std::fs::copy(daemon::program(), &program)?;
        let ask = |trio: &trio::Trio, groups: [&str; 2], verb: &str| {
            let mut command = trio.r.namespace.command("setpriv");
            command.args([
                "--reuid", "65534", "--regid", groups[0], "--groups", groups[1],
            ]);
            let output = command.arg(&program).arg(verb).output()?;
            let errors = String::from_utf8(output.stderr)?;
            ensure!(!errors.contains("panicked"), "{errors}");
            Ok((output.status.code(), errors))
        };
        for verb in ["status", "stats", "routes", "ports", "next-hops"] {
            for groups in [
                [READERS, "65534"],
                ["65534", READERS],
                ["65534", "1,2,54321"],
            ] {
                let (code, errors) = ask(trio, groups, verb)?;
                ensure!(code == Some(0), "{verb} by {groups:?}: {errors}");
            }
            let (code, errors) = ask(trio, ["65534", "54320,54322"], verb)?;
            ensure!(
                code == Some(2) && errors.contains("user 65534 may not"),
                "{verb}: {errors}"
            );
        }
        let (code, errors) = ask(trio, [READERS, READERS], "unload")?;
        ensure!(
            code == Some(2) && errors.contains("only root"),
            "unload: {errors}"
        );
        let configuration = std::fs::read_to_string(trio.daemon()?.config())?;
        std::fs::write(
            trio.daemon()?.config(),
            configuration.replace(READERS, "65534"),
        )?;
        kill(trio.daemon()?.pid(), Signal::SIGHUP)?;
        let other = || Ok(ask(trio, ["65534", "65534"], "status")?.0 == Some(0));
        ensure!(until(SOON, other)?, "the new group may not read");
        let (code, errors) = ask(trio, ["54322", READERS], "status")?;
        ensure!(code == Some(2), "the old group may read: {errors}");
        // However many of them there are, root is answered.
        let _silent = trio.r.namespace.enter_as_nobody(|| {
            let address = SocketAddr::from_abstract_name("xcast/xcast0")?;
            let connect = || Ok(UnixStream::connect_addr(&address)?);
            (0..100).map(|_| connect()).collect::<Result<Vec<_>>>()
        })?;
        daemon::report(&trio.r.namespace, &["status"])?;
        ensure!(trio.is_reached(&trio.b, &[B, C])?);
        Ok(())
    });
}

/// Any local user may bind a name; none may keep the router from starting, or answer in its place.
#[test]
fn name_of_the_control_socket_is_taken() {
    trio::before_start(Family::Ipv4, |trio| {
        trio.start()?;
        let names = listening(&trio.r.namespace)?;
        trio.daemon.take().context("no router")?.stop()?;
        let _squatters = trio.r.namespace.enter_as_nobody(|| {
            let bind = |name: &String| {
                let address = SocketAddr::from_abstract_name(name)?;
                Ok(UnixListener::bind_addr(&address)?)
            };
            // A name may have any octets, and is in the list of all sockets.
            let odd = UnixListener::bind_addr(&SocketAddr::from_abstract_name(b"\xff\xfe")?)?;
            let taken = names.iter().map(bind).collect::<Result<Vec<_>>>()?;
            Ok((odd, taken))
        })?;
        trio.start()
            .context("a user keeps the router from starting")?;
        ensure!(trio.is_reached(&trio.b, &[B, C])?);
        daemon::report(&trio.r.namespace, &["status"])?;
        // Nor may a second one start beside it.
        let second = daemon::ctl(
            &trio.r.namespace,
            &[
                "run",
                "--config",
                &trio.daemon()?.config().to_string_lossy(),
            ],
        )?;
        let said = String::from_utf8(second.stderr)?;
        ensure!(
            !second.status.success()
                && said.contains("is running in this network namespace already"),
            "{said}"
        );
        Ok(())
    });
}

/// More for the stack than the router's own veth pair takes, where nothing limits it before: what is lost there is loss, and
/// shown.
#[test]
fn loss_at_the_own_interface_is_shown() {
    for family in Family::ALL {
        trio::before_start(family, |trio| {
            let limits =
                "[limits]\nstack_copies_per_second = 0\ncopies_per_second = 0\n\n[router]\n";
            trio.configure("[router]\n", limits)?;
            trio.start()?;
            loss_at_the_own_interface(trio)
        });
    }
}

fn loss_at_the_own_interface(trio: &mut trio::Trio) -> Result<()> {
    // Local destinations, many of them; nobody has to be asked for.
    let own: Vec<_> = (1..=60).map(|last| [10, 98, 0, last].into()).collect();
    trio.r.ip("route add local 10.98.0.0/24 dev lo")?;
    ensure!(trio.is_reached(&trio.r, &own)?, "at the start");
    let pair = |trio: &trio::Trio| {
        trio.r.namespace.enter(|| {
            let mut lost = 0;
            for end in ["xcast0", "xcast0-dp"] {
                for (name, value) in ethtool::statistics(end)? {
                    let dropped = name.contains("drop") || name.contains("err");
                    lost += if dropped { value } else { 0 };
                }
            }
            Ok(lost)
        })
    };
    let before = pair(trio)?;
    let frame = trio.packet(A, &own, 0, 0).frame();
    // By two ports, from two CPUs.
    let other = Tap::open(&trio.c.namespace, "c0")?;
    let mut by_other = trio.packet(C, &own, 0, 0);
    by_other.destination_mac = trio::port_mac(3);
    by_other.source_mac = trio::host_mac(3);
    let by_other = by_other.frame();
    let flood = |tap: &Tap, frame: &[u8]| (0..5000).try_for_each(|_| tap.send(frame));
    let lost = until(SOON / 2, || {
        std::thread::scope(|scope| {
            let second = scope.spawn(|| flood(&other, &by_other));
            flood(&trio.tap, &frame)?;
            second
                .join()
                .map_err(|_| anyhow::anyhow!("the second sender"))?
        })?;
        Ok(pair(trio)? > before + 1000)
    })?;
    ensure!(lost, "the pair loses nothing, so there is nothing to show");
    let shown = || {
        let stats = daemon::report(&trio.r.namespace, &["stats"])?;
        let ports = stats["ports"].as_array().context("no ports")?;
        let drops = ports
            .iter()
            .filter_map(|port| port["driver_drops"].as_u64());
        Ok(stats["loss"].as_u64().unwrap_or(0) + drops.sum::<u64>() > 1000)
    };
    ensure!(
        until(SOON / 4, shown)?,
        "{} lost at the pair, and stats show {}",
        pair(trio)? - before,
        daemon::report(&trio.r.namespace, &["stats"])?["loss"]
    );
    Ok(())
}

/// More addresses of the router's own than its table holds: what could not be written is shown, the rest works, and it is
/// tried again when there is room.
#[test]
fn edits_that_failed_are_shown_and_tried_again() {
    /// `MAX_OWN_ADDRESSES`
    const ROOM: u32 = 8192;
    const ADDRESSES: u32 = ROOM + 300;
    trio::with(|trio| {
        trio.resolve()?;
        let addresses = |verb: &str, numbers: std::ops::Range<u32>| {
            let of = |number| trio.address(Ipv4Addr::from_bits(0x0a61_0000 | number));
            let line = |number| format!("route {verb} local {} dev lo\n", of(number));
            trio.r
                .namespace
                .ip_batch(&numbers.map(line).collect::<String>())
        };
        let pending = || -> Result<Value> {
            let status = daemon::report(&trio.r.namespace, &["status"])?;
            Ok(status["pending_edits"].clone())
        };
        let count = || pending()?["count"].as_u64().context("no count");
        ensure!(count()? == 0, "at the start");
        addresses("add", 0..ADDRESSES)?;
        let some_wait = || Ok(count()? >= 300);
        ensure!(until(SOON, some_wait)?, "{}", pending()?);
        let shown = pending()?;
        let what = shown["examples"][0]["what"].as_str().unwrap_or_default();
        ensure!(what.starts_with("own address "), "{shown}");
        let error = shown["examples"][0]["error"].as_str();
        ensure!(error.is_some_and(|error| !error.is_empty()), "{shown}");
        trio.serves(&[B, C])?;
        let tried_again = || Ok(pending()?["examples"][0]["attempts"].as_u64() > Some(1));
        ensure!(until(SOON, tried_again)?, "{}", pending()?);
        // Room for all of them.
        addresses("del", 0..400)?;
        let none = || Ok(count()? == 0);
        ensure!(until(SOON, none)?, "{}", pending()?);
        Ok(())
    });
}

/// Gives the router so many routes, by one of its neighbours.
fn add_routes(trio: &trio::Trio, count: u32) -> Result<()> {
    let gateway = trio.address(B);
    let commands: String = (0..count)
        .map(|number| {
            let prefix = trio
                .family
                .prefix(Ipv4Addr::from_bits(0x1400_0000 | number << 8), 24);
            format!("route add {prefix} via {gateway}\n")
        })
        .collect();
    trio.r.namespace.ip_batch(&commands)
}

/// How many rows `routes` has.
fn routes(namespace: &Namespace) -> Result<usize> {
    let routes = daemon::report(namespace, &["routes"])?;
    Ok(routes.as_array().context("no rows")?.len())
}

/// Whether the router has taken over a route to this prefix.
fn follows(trio: &trio::Trio, prefix: &str) -> Result<bool> {
    let output = daemon::ctl(&trio.r.namespace, &["routes"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().any(|line| line.starts_with(prefix)))
}

/// A client of the control socket that asks, and does with the answer whatever it wants.
fn client(namespace: &Namespace) -> Result<UnixStream> {
    let names = listening(namespace)?;
    let name = names.first().context("no control socket")?;
    let address = SocketAddr::from_abstract_name(name)?;
    namespace.enter(|| Ok(UnixStream::connect_addr(&address)?))
}

/// Many clients want the whole of a long table and do not read what they get. The router stays as small as
/// it is, and routes are followed meanwhile.
#[test]
fn long_answers_that_nobody_reads() {
    trio::with_family(Family::Ipv4, |trio| {
        const COUNT: u32 = 30_000;
        add_routes(trio, COUNT)?;
        let r = &trio.r.namespace;
        let known = || Ok(routes(r)? > COUNT as usize);
        ensure!(until(SOON * 2, known)?, "{} routes", routes(r)?);
        let before = resident_kib(trio.daemon()?)?;
        let mut clients = Vec::new();
        for _ in 0..40 {
            let mut client = client(r)?;
            // Again and again, as much as it is listened to.
            client.set_nonblocking(true)?;
            for _ in 0..100 {
                let _ = client.write_all(b"{\"request\":\"routes\"}\n");
            }
            clients.push(client);
        }
        trio.r.ip("route add 10.99.0.0/16 via 10.66.3.2")?;
        ensure!(
            until(SOON, || follows(trio, "10.99.0.0/16"))?,
            "the route is not followed"
        );
        let after = resident_kib(trio.daemon()?)?;
        ensure!(
            after < before + 32 * 1024,
            "{before} KiB became {after} KiB"
        );
        drop(clients);
        Ok(())
    });
}

/// A table is read in parts: what changes behind the part that is being read is in the parts to come.
#[test]
fn routes_that_change_while_they_are_read() {
    trio::with_family(Family::Ipv4, |trio| {
        add_routes(trio, 2000)?;
        let r = &trio.r.namespace;
        ensure!(
            until(SOON, || Ok(routes(r)? > 2000))?,
            "{} routes",
            routes(r)?
        );
        let mut stream = BufReader::new(client(r)?);
        let mut ask = |after: Option<String>| -> Result<Value> {
            let request = serde_json::json!({"request": "routes", "after": after, "ipv6": false});
            stream
                .get_mut()
                .write_all(format!("{request}\n").as_bytes())?;
            let mut line = String::new();
            stream.read_line(&mut line)?;
            Ok(serde_json::from_str::<Value>(&line)?["report"].take())
        };
        let mut page = ask(None)?;
        ensure!(page["more"] == true, "all at once");
        // It sorts behind all others, and before none.
        trio.r.ip("route add 100.99.0.0/16 via 10.66.3.2")?;
        ensure!(
            until(SOON, || follows(trio, "100.99.0.0/16"))?,
            "not followed"
        );
        let mut seen = Vec::new();
        loop {
            let rows = page["rows"].as_array().context("no rows")?;
            let prefixes = rows.iter().filter_map(|row| row["prefix"].as_str());
            seen.extend(prefixes.map(str::to_owned));
            if page["more"] != true {
                break;
            }
            page = ask(seen.last().cloned())?;
        }
        ensure!(seen.contains(&"100.99.0.0/16".to_owned()), "the new route");
        let mut sorted = seen.clone();
        sorted.sort();
        sorted.dedup();
        ensure!(sorted.len() == seen.len(), "a route came twice");
        Ok(())
    });
}

/// The neighbour table changes faster than anybody can follow, without end: routes are followed all the same, and
/// nothing grows but by what is in the table.
#[test]
fn storm_of_neighbours() {
    trio::with_family(Family::Ipv4, |trio| {
        let r = trio.r.namespace.name().to_owned();
        trio.r.ip("route add 10.55.0.0/16 dev p2")?;
        // Permanent ones are not limited by the size of the table, which is the machine's.
        let batch = |mac: u8| -> String {
            let neighbour = |number: u32| {
                let [.., high, low] = number.to_be_bytes();
                format!(
                    "neigh replace 10.55.{high}.{low} dev p2 lladdr 02:00:00:55:00:{mac:02x} nud permanent\n"
                )
            };
            (256..4352).map(neighbour).collect()
        };
        let batches = [batch(1), batch(2)];
        trio.r.namespace.ip_batch(&batches[0])?;
        let known = || follows(trio, "10.55.16.255/32");
        ensure!(until(SOON * 2, known)?, "the neighbours are not known");
        let before = resident_kib(trio.daemon()?)?;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let storm = scope.spawn(|| -> Result<()> {
                let namespace = Namespace::of(&r);
                while !stop.load(Ordering::Relaxed) {
                    for batch in &batches {
                        namespace.ip_batch(batch)?;
                    }
                }
                Ok(())
            });
            let work = || -> Result<()> {
                for number in 1..=5 {
                    let prefix = format!("100.99.{number}.0/24");
                    trio.r.ip(&format!("route add {prefix} via 10.66.3.2"))?;
                    let destination = format!("100.99.{number}.1");
                    let is_followed = || {
                        let explained = daemon::report(
                            &trio.r.namespace,
                            &["explain", "10.66.1.2", &destination],
                        )?;
                        Ok(explained["copies"][0]["next_hop"] == "10.66.3.2")
                    };
                    // What counts is that it comes before the end of the storm, which has none.
                    ensure!(until(SOON * 3, is_followed)?, "{prefix} is not followed");
                }
                ensure!(!storm.is_finished(), "the storm was over before");
                Ok(())
            };
            let outcome = work();
            stop.store(true, Ordering::Relaxed);
            let ended = storm.join().map_err(|_| anyhow::anyhow!("the storm"))?;
            outcome.and(ended)
        })?;
        let after = resident_kib(trio.daemon()?)?;
        ensure!(
            after < before + 48 * 1024,
            "{before} KiB became {after} KiB"
        );
        ensure!(trio.is_reached(&trio.b, &[B, C])?);
        Ok(())
    });
}
