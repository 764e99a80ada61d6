//! Forwarding outlives whatever happens to the router's process, and what it cannot do it says
//! before it begins.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use tests::bpf::{self, Attached};
use tests::daemon::{self, Counters, Daemon, Launch, PATIENCE};
use tests::family::{self, Family};
use tests::layout::{self, Layout};
use tests::namespace::{self, Namespace};
use tests::packet::Packet;
use tests::rig::{self, Rig, STACK_INTERFACE, list};
use tests::trio::{self, A, B, BEHIND, C, Host, R1, SOON, Trio, until};

/// Time between packets of a stream.
const PACE: Duration = Duration::from_millis(2);
/// Hosts, and the router itself.
const ALL: [Ipv4Addr; 3] = [B, C, R1];

/// Sends Xcast packets to `destinations`, some 500 a second, as long as `work` takes, and some before and after. Returns their numbers.
fn stream(
    trio: &mut Trio,
    destinations: &[Ipv4Addr],
    work: impl FnOnce(&mut Trio) -> Result<()>,
) -> Result<Vec<u32>> {
    stream_of(
        trio,
        1_000_000,
        |trio, number| trio.packet(A, destinations, number, 0),
        work,
    )
}

/// The same with the packets that `make` makes, and this number of the first one.
fn stream_of(
    trio: &mut Trio,
    first: u32,
    make: impl Fn(&Trio, u32) -> Packet,
    work: impl FnOnce(&mut Trio) -> Result<()>,
) -> Result<Vec<u32>> {
    let packets: Vec<_> = (0..20_000_u32)
        .map(|index| {
            let number = first + index;
            (number, make(trio, number).frame())
        })
        .collect();
    let tap = tests::tap::Tap::open(&trio.a.namespace, "a0")?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<Vec<u32>> {
            let mut numbers = Vec::new();
            let mut last = 50;
            for (number, frame) in &packets {
                tap.send(frame)?;
                numbers.push(*number);
                thread::sleep(PACE);
                if stop.load(Ordering::Relaxed) {
                    last -= 1;
                }
                if last == 0 {
                    return Ok(numbers);
                }
            }
            bail!("it took too long")
        });
        thread::sleep(50 * PACE);
        let outcome = work(trio);
        stop.store(true, Ordering::Relaxed);
        let numbers = sender.join().map_err(|_| anyhow::anyhow!("the sender"))??;
        outcome.map(|()| numbers)
    })
}

/// Every message came, and came once.
fn complete(name: &str, host: &Host, numbers: &[u32]) -> Result<()> {
    let last = numbers.last().context("nothing was sent")?;
    host.gets(*last)?;
    let mut lost = 0;
    for &number in numbers {
        let times = host.count(number)?;
        ensure!(times < 2, "{name} got {number} {times} times");
        lost += usize::from(times == 0);
    }
    ensure!(lost == 0, "{name} lost {lost} of {}", numbers.len());
    Ok(())
}

/// With a log that takes nothing, lines are lost and packets are not.
fn survives_a_lost_log(log: impl Fn() -> Result<Stdio>) {
    trio::before_start(Family::Ipv4, |trio| {
        let launch = Launch {
            arguments: &["-vv"],
            log: Some(log()?),
            ..Launch::default()
        };
        trio.launch(launch)?;
        trio.serves(&ALL)?;
        // Something to tell: changes of the kernel's state, and a port that cannot do any more.
        trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        ensure!(trio.is_reached(&trio.b, &[BEHIND, C])?, "a new route");
        trio.c.namespace.set_gro("c0", false)?;
        trio.r.ip("link set p3 down")?;
        trio.r.ip("link set p3 up")?;
        trio.c.namespace.set_gro("c0", true)?;
        trio.serves(&ALL)?;
        let daemon = trio.daemon.as_mut().context("no router")?;
        ensure!(daemon.runs()?, "the router has ended");
        Ok(())
    });
}

/// Standard error on a file system that is full.
#[test]
fn log_on_a_full_disk() {
    survives_a_lost_log(|| Ok(File::create("/dev/full")?.into()));
}

/// `run 2>&1 | tee log`, and tee has ended.
#[test]
fn log_into_a_pipe_that_nobody_reads() {
    survives_a_lost_log(|| {
        let (reader, writer) = nix::unistd::pipe()?;
        drop(reader);
        Ok(writer.into())
    });
}

/// Standard error is closed.
#[test]
fn log_that_is_closed() {
    trio::before_start(Family::Ipv4, |trio| {
        let launch = Launch {
            under: &["sh", "-c", "exec \"$0\" \"$@\" 2>&-"],
            arguments: &["-vv"],
            ..Launch::default()
        };
        trio.launch(launch)?;
        trio.serves(&ALL)?;
        trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        ensure!(trio.is_reached(&trio.b, &[BEHIND, C])?, "a new route");
        let daemon = trio.daemon.as_mut().context("no router")?;
        ensure!(daemon.runs()?, "the router has ended");
        Ok(())
    });
}

/// The log's file may not grow any more (`ulimit -f`): a write raises SIGXFSZ.
#[test]
fn log_at_the_limit_of_file_size() {
    trio::before_start(Family::Ipv4, |trio| {
        let launch = Launch {
            under: &["prlimit", "--fsize=4096"],
            arguments: &["-vv"],
            ..Launch::default()
        };
        trio.launch(launch)?;
        let forged = || {
            for _ in 0..100 {
                trio.send_from(R1, &[B, C])?;
            }
            Ok(trio.daemon()?.log().len() >= 4096)
        };
        ensure!(until(SOON, forged)?, "the log is not full");
        trio.serves(&ALL)?;
        let daemon = trio.daemon.as_mut().context("no router")?;
        ensure!(daemon.runs()?, "the router has ended");
        Ok(())
    });
}

/// Packets make a router log no more than so much, whatever it is told to log.
#[test]
fn packets_do_not_fill_the_log() {
    if !namespace::available() {
        return;
    }
    let test = || -> Result<()> {
        let layout = Layout {
            ports: 12,
            ..Layout::default()
        };
        let rig = Rig::prepare(&layout)?;
        let launch = Launch {
            arguments: &["-vv"],
            ..Launch::default()
        };
        let daemon = Daemon::launch(&rig.router, &layout.configuration(), launch)?;
        let before = daemon.log().len();
        // Packets that are dropped, for a source that is the router's own.
        let mut forged = rig::udp(list([layout::behind(1, 1), layout::behind(2, 1)]));
        forged.ip.source = layout::router(1).into();
        for _ in 0..30_000 {
            rig.taps[0].send(&forged.frame())?;
        }
        // A new set of ports with each packet, several times.
        let mut frames = Vec::new();
        for set in 1..1 << 11 {
            let ports = (1..12).filter(|port| set >> (port - 1) & 1 == 1);
            let packet = rig::udp(list(ports.map(|port| layout::behind(port, 1))));
            frames.push(packet.frame());
        }
        for _ in 0..3 {
            for frame in &frames {
                rig.taps[0].send(frame)?;
            }
        }
        // It has seen them all when it answers, and this is logged as well.
        let answered = || {
            let counters = Counters::read(&rig.router)?;
            Ok(counters.value("received") >= 6000 && counters.value("drop_spoofed") >= 29_000)
        };
        ensure!(until(SOON, answered)?, "received");
        let written = daemon.log().len() - before;
        ensure!(written < 500_000, "{written} octets of log");
        Ok(())
    };
    test().unwrap();
}

/// Killed without any warning: programs, maps and the way to the stack stay, and not one packet is lost.
#[test]
fn killed_under_a_stream() {
    trio::with(|trio| {
        trio.resolve()?;
        trio.serves(&ALL)?;
        let numbers = stream(trio, &[B, C, R1], |trio| {
            let daemon = trio.daemon.take().context("no router")?;
            daemon.kill()?;
            thread::sleep(Duration::from_millis(300));
            Ok(())
        })?;
        complete("B", &trio.b, &numbers)?;
        complete("C", &trio.c, &numbers)?;
        complete("R", &trio.r, &numbers)
    });
}

/// The next router takes over what a killed one left, without a gap and without a copy too many.
#[test]
fn killed_and_started_again_under_a_stream() {
    trio::with(|trio| {
        trio.resolve()?;
        trio.serves(&ALL)?;
        let numbers = stream(trio, &[B, C, R1], |trio| {
            for _ in 0..2 {
                let daemon = trio.daemon.take().context("no router")?;
                daemon.kill()?;
                trio.start()?;
            }
            Ok(())
        })?;
        complete("B", &trio.b, &numbers)?;
        complete("C", &trio.c, &numbers)?;
        complete("R", &trio.r, &numbers)?;
        // What was planned was sent, also while one router took over from another.
        let counters = Counters::read(&trio.r.namespace)?;
        let (planned, sent) = (counters.value("planned"), counters.value("sent"));
        ensure!(planned == sent, "planned {planned}, sent {sent}");
        trio.serves(&ALL)
    });
}

/// Killed while it takes over, when some interfaces run its programs and others those before: the next router takes over
/// from both, and nothing is lost.
#[test]
fn killed_while_it_takes_over() {
    for family in Family::ALL {
        trio::with_family(family, |trio| {
            trio.resolve()?;
            trio.serves(&ALL)?;
            // It is a matter of luck.
            for _ in 0..40 {
                if killed_half_way(trio)? {
                    let numbers = stream(trio, &[B, C, R1], Trio::start)?;
                    complete("B", &trio.b, &numbers)?;
                    complete("C", &trio.c, &numbers)?;
                    complete("R", &trio.r, &numbers)?;
                    return trio.serves(&ALL);
                }
                trio.start()?;
            }
            bail!("{family:?}: it was never killed half-way")
        });
    }
}

/// Ends the router, has another one take over, and kills that one between its first interface and its last: whether it
/// was in time.
fn killed_half_way(trio: &mut Trio) -> Result<bool> {
    let program = bpf::program_on(&trio.r.namespace, "p1")?.context("p1 runs no program")?;
    let links = bpf::links_running(program)?;
    let configuration = trio.daemon()?.config();
    let configuration = std::fs::read_to_string(configuration)?;
    trio.daemon.take().context("no router")?.kill()?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("router.toml");
    std::fs::write(&path, configuration)?;
    let mut command = trio.r.namespace.command(daemon::program());
    command.args(["run", "--config"]).arg(&path);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + PATIENCE;
    let new = || -> Result<usize> {
        let programs = links.iter().map(bpf::program_of);
        let programs: Vec<_> = programs.collect::<Result<_>>()?;
        Ok(programs.iter().filter(|&&one| one != program).count())
    };
    while new()? == 0 && Instant::now() < deadline {
        std::hint::spin_loop();
    }
    child.kill()?;
    child.wait()?;
    let new = new()?;
    ensure!(new > 0, "it does not take over");
    Ok(new < links.len())
}

/// What a router with other maps leaves behind: a number of its lineage is another one.
fn of_another_version(trio: &mut Trio, index: u32) -> Result<String> {
    trio.daemon.take().context("no router")?.kill()?;
    let inode = trio
        .r
        .namespace
        .enter(|| Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino()))?;
    let lineage = format!("/sys/fs/bpf/xcast/{inode}/{STACK_INTERFACE}/lineage");
    bpf::write_pinned(Path::new(&lineage), index, 0xdead)?;
    trio.start()?;
    Ok(trio.daemon()?.log())
}

/// The next version counts other things: it says that its counters begin at 0, and takes over without a packet lost.
#[test]
fn changed_counters_are_said_to_begin_anew() {
    /// Where the lineage has what stands for the counters.
    const LAYOUT: u32 = 1;
    trio::with(|trio| {
        trio.resolve()?;
        trio.serves(&ALL)?;
        let before = Counters::read(&trio.r.namespace)?.value("received");
        let numbers = stream(trio, &[B, C, R1], |trio| {
            let log = of_another_version(trio, LAYOUT)?;
            ensure!(log.contains("counters cannot be continued"), "{log}");
            Ok(())
        })?;
        complete("B", &trio.b, &numbers)?;
        complete("C", &trio.c, &numbers)?;
        complete("R", &trio.r, &numbers)?;
        let counted = Counters::read(&trio.r.namespace)?.value("received");
        ensure!(
            counted > 0 && counted < before + numbers.len() as u64,
            "{counted} after {before} and {} more",
            numbers.len()
        );
        // The same version goes on from there, and says nothing.
        trio.daemon.take().context("no router")?.kill()?;
        trio.start()?;
        let log = trio.daemon()?.log();
        ensure!(!log.contains("version"), "{log}");
        ensure!(Counters::read(&trio.r.namespace)?.value("received") >= counted);
        trio.serves(&ALL)
    });
}

/// A version that hands packets over in another way: it says that those under way may be lost, and forwards.
#[test]
fn changed_handover_is_said_to_interrupt() {
    /// Where the lineage has what stands for the way of handing over.
    const HANDOVER: u32 = 0;
    trio::with_family(Family::Ipv4, |trio| {
        trio.resolve()?;
        trio.serves(&ALL)?;
        let log = of_another_version(trio, HANDOVER)?;
        ensure!(
            log.contains("packets that are under way may be lost"),
            "{log}"
        );
        trio.serves(&ALL)
    });
}

/// Where there is no BPF file system, one is mounted, and forwarding outlives the process as elsewhere.
#[test]
fn missing_bpf_file_system_is_mounted() {
    // With processes and mounts of its own, so that nobody else's file system can be reached.
    const ALONE: &[&str] = &[
        "unshare",
        "--fork",
        "--pid",
        "--kill-child",
        "--mount",
        "--mount-proc",
        "sh",
        "-c",
        "umount -R /sys/fs/bpf; \"$0\" \"$@\" & wait $!",
    ];
    trio::before_start(Family::Ipv4, |trio| {
        let check = check_under(&trio.r.namespace, &trio.configuration, ALONE)?;
        ensure!(check.contains("will mount the BPF file system"), "{check}");
        trio.launch(Launch {
            under: ALONE,
            ..Launch::default()
        })?;
        let status = daemon::report(&trio.r.namespace, &["status"])?;
        ensure!(status["lasting"] == true, "{status}");
        trio.serves(&ALL)
    });
}

/// Routes that change while no router lives are followed by the next one; those that do not change
/// are never absent, not for one packet.
#[test]
fn routes_changed_while_it_was_dead() {
    trio::with(|trio| {
        trio.resolve()?;
        trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        for number in 1..200 {
            trio.r
                .ip(&format!("route add 10.98.{number}.0/24 via 10.66.3.2"))?;
        }
        ensure!(trio.is_reached(&trio.b, &[BEHIND, C])?, "at the start");
        trio.serves(&ALL)?;
        let numbers = stream(trio, &[B, C], |trio| {
            trio.daemon.take().context("no router")?.kill()?;
            trio.r.ip("route replace 10.99.0.0/16 via 10.66.3.2")?;
            trio.r.ip("route del 10.98.7.0/24")?;
            trio.start()
        })?;
        complete("B", &trio.b, &numbers)?;
        complete("C", &trio.c, &numbers)?;
        ensure!(trio.is_reached(&trio.c, &[BEHIND, B])?, "the changed route");
        let late = trio.send(&[BEHIND, C])?;
        ensure!(trio.b.misses(late)?, "the route from before is still there");
        Ok(())
    });
}

/// A router that starts takes no packet that it cannot copy yet: what it does not take, the kernel drops as before.
#[test]
fn takes_nothing_before_it_can_copy() {
    trio::before(|trio| {
        trio.resolve()?;
        stream(trio, &[B, C], Trio::start)?;
        let lost = Counters::read(&trio.r.namespace)?;
        let dropped = lost.value("drop_redirect");
        ensure!(dropped == 0, "drop_redirect {dropped}");
        let stats = daemon::report(&trio.r.namespace, &["stats"])?;
        ensure!(stats["loss"] == 0, "loss {}", stats["loss"]);
        trio.serves(&ALL)
    });
}

/// A port that goes away and comes back, with a host behind it that is known already: copies for other ports do not suffer.
#[test]
fn port_that_comes_back_disturbs_no_other() {
    trio::with(|trio| {
        trio.resolve()?;
        trio.serves(&ALL)?;
        let numbers = stream(trio, &[B, C], |trio| {
            for _ in 0..3 {
                trio.r.ip("link set p3 down")?;
                trio.r.ip("link set p3 name wan3")?;
                trio.r.ip("link set wan3 up")?;
                thread::sleep(Duration::from_millis(100));
                trio.r.ip("link set wan3 down")?;
                trio.r.ip("link set wan3 name p3")?;
                trio.r.ip("link set p3 up")?;
                thread::sleep(Duration::from_millis(300));
            }
            Ok(())
        })?;
        complete("B", &trio.b, &numbers)?;
        ensure!(trio.is_reached(&trio.c, &[B, C])?, "C is not served again");
        Ok(())
    });
}

/// An interface that lives already, with a host behind it that is known, becomes a port: the way to that host changes from the stack to the
/// port between two packets, and neither of them is lost, nor is a copy for another port.
#[test]
fn live_interface_becomes_a_port() {
    trio::before(|trio| {
        for number in 4..=9 {
            let name = format!("p{number}");
            trio.r
                .ip(&format!("link add {name} type veth peer name q{number}"))?;
            trio.r.ip(&format!("link set {name} up"))?;
        }
        let ports = ["p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8"];
        trio.configuration = trio::configuration(&ports);
        trio.r.ip("link set p3 down")?;
        trio.r.ip("link set p3 name wan3")?;
        trio.r.ip("link set wan3 up")?;
        trio.start()?;
        ensure!(trio.is_reached(&trio.b, &[B, C])?, "B at the start");
        ensure!(trio.is_reached(&trio.c, &[B, C])?, "C at the start");
        let numbers = stream(trio, &[B, C], |trio| {
            trio.r.ip("link set wan3 name p3")?;
            let port = || Ok(trio.port("p3")?["mode"] == "native");
            ensure!(until(SOON, port)?, "p3 is no port");
            thread::sleep(Duration::from_millis(300));
            Ok(())
        })?;
        complete("B", &trio.b, &numbers)?;
        complete("C", &trio.c, &numbers)
    });
}

/// `unload` after `kill -9` removes what the router made, entries that it had the kernel manage
/// included, and nothing else.
#[test]
fn unload_removes_what_the_router_made_and_nothing_else() {
    trio::with(|trio| {
        let foreign = &trio.r.namespace;
        foreign.ip("link add veth7 type veth peer name veth8")?;
        foreign.ip("link set veth7 up")?;
        let _program = Attached::xdp(foreign, "veth8")?;
        trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        let managed = || Ok(trio.neighbour(B)?.contains("managed"));
        ensure!(until(SOON, managed)?, "managed: {}", trio.neighbour(B)?);
        let routes = trio.r.ip("route show")?;
        trio.daemon.take().context("no router")?.kill()?;
        let output = daemon::ctl(foreign, &["unload"])?;
        ensure!(output.status.success(), "{output:?}");
        for port in ["p1", "p2", "p3"] {
            ensure!(
                bpf::program_on(foreign, port)?.is_none(),
                "a program on {port}"
            );
        }
        let links = foreign.ip("link show")?;
        ensure!(!links.contains(STACK_INTERFACE), "{links}");
        ensure!(
            links.contains("veth7") && links.contains("veth8"),
            "{links}"
        );
        ensure!(
            bpf::program_on(foreign, "veth8")?.is_some(),
            "a foreign program is gone"
        );
        ensure!(trio.r.ip("route show")? == routes, "routes");
        ensure!(
            !trio.neighbour(B)?.contains("managed"),
            "{}",
            trio.neighbour(B)?
        );
        let unicast = trio.unicast(A, B)?;
        ensure!(trio.b.gets(unicast)?, "unicast");
        Ok(())
    });
}

/// SIGHUP reads the configuration again: a new port is served, and nothing else is disturbed.
#[test]
fn reload_of_the_configuration_under_a_stream() {
    trio::before(|trio| {
        trio.configuration = trio::configuration(&["p1", "p2"]);
        trio.start()?;
        trio.resolve()?;
        ensure!(trio.is_reached(&trio.b, &[B])?, "at the start");
        let numbers = stream(trio, &[B], |trio| {
            let daemon = trio.daemon.as_mut().context("no router")?;
            let all = trio::configuration(&["p1", "p2", "p3"]);
            std::fs::write(daemon.config(), all)?;
            kill(daemon.pid(), Signal::SIGHUP)?;
            thread::sleep(Duration::from_millis(300));
            ensure!(daemon.runs()?, "SIGHUP ended it");
            Ok(())
        })?;
        complete("B", &trio.b, &numbers)?;
        let served = || Ok(trio.port("p3").is_ok_and(|port| port["mode"] == "native"));
        ensure!(until(SOON, served)?, "p3 is no port");
        // A configuration that is wrong changes nothing.
        let daemon = trio.daemon.as_mut().context("no router")?;
        std::fs::write(daemon.config(), "[[port]\n")?;
        kill(daemon.pid(), Signal::SIGHUP)?;
        thread::sleep(Duration::from_millis(300));
        ensure!(daemon.runs()?, "a wrong file ended it");
        trio.serves(&ALL)
    });
}

/// Signals that mean nothing to a router do not end forwarding.
#[test]
fn other_signals_end_nothing() {
    const SIGNALS: [&str; 14] = [
        "USR1", "USR2", "QUIT", "ALRM", "VTALRM", "PROF", "IO", "PWR", "STKFLT", "XCPU", "XFSZ",
        "TTIN", "TTOU", "RTMIN",
    ];
    trio::with(|trio| {
        trio.resolve()?;
        trio.serves(&ALL)?;
        let numbers = stream(trio, &[B, C], |trio| {
            let pid = trio.daemon()?.pid();
            for signal in SIGNALS {
                trio.r.namespace.run(&format!("kill -s {signal} {pid}"))?;
                thread::sleep(Duration::from_millis(20));
                let daemon = trio.daemon.as_mut().context("no router")?;
                ensure!(daemon.runs()?, "SIG{signal} ended it");
                // One that is stopped does not answer.
                daemon::report(&trio.r.namespace, &["status"]).context(signal)?;
            }
            Ok(())
        })?;
        complete("B", &trio.b, &numbers)?;
        complete("C", &trio.c, &numbers)
    });
}

/// Preset device maps that cannot be made when a port appears: it is used for output when they are there and not before, and
/// `ports` and `status` say why. They are made when that can be done.
#[test]
fn device_maps_that_cannot_be_made_at_first() {
    trio::with_family(Family::Ipv4, |trio| {
        trio.resolve()?;
        trio.serves(&ALL)?;
        trio.r.ip("link del p3")?;
        let gone = || Ok(trio.port("p3")?["mode"].is_null());
        ensure!(until(SOON, gone)?, "still a port");
        // Enough to ask the kernel things, and too few for a group of maps.
        let pid = trio.daemon()?.pid();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        let limit_to = |most: usize| {
            let limit = format!("--nofile={most}:4096");
            let pid = pid.to_string();
            let mut command = std::process::Command::new("prlimit");
            namespace::run(command.args(["--pid", &pid, &limit]), "")
        };
        limit_to(open + 8)?;
        trio.restore_p3()?;
        let is_said = || {
            let cause = trio.port("p3")?["error"].to_string();
            Ok(cause.contains("device maps") && cause.contains("os error 24"))
        };
        ensure!(until(SOON, is_said)?, "{}", trio.port("p3")?);
        let pending = || -> Result<u64> {
            let status = daemon::report(&trio.r.namespace, &["status"])?;
            let count = status["pending_edits"]["count"].as_u64();
            count.context("no count")
        };
        ensure!(pending()? == 1, "{} edits are pending", pending()?);
        trio.serves(&ALL).context("by the stack")?;
        limit_to(4096)?;
        let is_port = || {
            let port = trio.port("p3")?;
            Ok(port["mode"] == "native" && port["error"].is_null())
        };
        ensure!(until(SOON, is_port)?, "{}", trio.port("p3")?);
        ensure!(pending()? == 0, "{} edits are pending", pending()?);
        let numbers = stream(trio, &[B, C], |_| Ok(()))?;
        complete("C", &trio.c, &numbers)?;
        let lost = Counters::read(&trio.r.namespace)?.value("drop_redirect");
        ensure!(lost == 0, "drop_redirect {lost}");
        Ok(())
    });
}

/// Too few file descriptors: either the router copies, or it says so and is not ready.
fn with_few_descriptors(soft: u32, hard: u32) -> Result<()> {
    let layout = Layout {
        ports: 32,
        ..Layout::default()
    };
    let limit = format!("--nofile={soft}:{hard}");
    let rig = Rig::prepare(&layout)?;
    let launch = Launch {
        under: &["prlimit", &limit],
        ..Launch::default()
    };
    let _daemon = match Daemon::launch(&rig.router, &layout.configuration(), launch) {
        Ok(daemon) => daemon,
        Err(error) => {
            let text = format!("{error:#}");
            let about = ["descriptor", "nofile", "open files"];
            ensure!(about.iter().any(|word| text.contains(word)), "{text}");
            ensure!(soft == hard, "the limit can be raised, and was not");
            return Ok(());
        }
    };
    // Each set of ports wants a device map of its own.
    let frame = |set: usize| {
        let ports = (1..32).filter(|port| set >> (port % 10) & 1 == 1);
        rig::udp(list(ports.map(|port| layout::behind(port, 1)))).frame()
    };
    for set in 1..400 {
        rig.taps[0].send(&frame(set))?;
    }
    for set in [3, 0x155, 0x3ff] {
        family::with(Family::Ipv4, || rig.eventually(0, &frame(set)))
            .with_context(|| format!("ready with {soft} descriptors, but it does not copy"))?;
    }
    Ok(())
}

/// A limit below what is needed, and no way to raise it.
#[test]
fn too_few_file_descriptors_are_said() {
    if !namespace::available() {
        return;
    }
    for limit in [48, 64, 72, 80, 96] {
        with_few_descriptors(limit, limit).unwrap();
    }
}

/// A soft limit below what is needed is raised.
#[test]
fn soft_limit_of_file_descriptors_is_raised() {
    if !namespace::available() {
        return;
    }
    with_few_descriptors(64, 4096).unwrap();
}

/// `check` tries what `run` will do: with these capabilities, either both are content, or both are
/// not and name the one that is missing.
#[test]
fn missing_capability_is_named() {
    trio::before_start(Family::Ipv4, |trio| {
        const SOME: &[&str] = &[
            "setpriv",
            "--bounding-set",
            "-all,+bpf,+net_admin,+net_raw",
            "--inh-caps",
            "-all",
        ];
        let run = Daemon::launch(
            &trio.r.namespace,
            &trio.configuration,
            Launch {
                under: SOME,
                ..Launch::default()
            },
        );
        let error = match run {
            Ok(daemon) => {
                trio.daemon = Some(daemon);
                return trio.serves(&ALL);
            }
            Err(error) => format!("{error:#}"),
        };
        ensure!(error.to_uppercase().contains("CAP_PERFMON"), "run: {error}");
        ensure!(error.len() < 600, "run says {} characters", error.len());
        let text = check_under(&trio.r.namespace, &trio.configuration, SOME)?;
        ensure!(text.to_uppercase().contains("CAP_PERFMON"), "check: {text}");
        Ok(())
    });
}

/// What `check` prints when it is started by `under`.
fn check_under(namespace: &Namespace, configuration: &str, under: &[&str]) -> Result<String> {
    let directory = tempfile::TempDir::new()?;
    let config = directory.path().join("xcast.toml");
    std::fs::write(&config, configuration)?;
    let mut command = namespace.command(under[0]);
    command.args(&under[1..]).arg(daemon::program());
    command.args(["check", "--config"]).arg(&config);
    let output = namespace::outcome(&mut command, "")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `run --replace` takes over from a router that runs, which ends, and nothing is lost.
#[test]
fn replaced_under_a_stream() {
    trio::with(|trio| {
        trio.resolve()?;
        trio.serves(&ALL)?;
        let numbers = stream(trio, &[B, C, R1], replace)?;
        complete("B", &trio.b, &numbers)?;
        complete("C", &trio.c, &numbers)?;
        complete("R", &trio.r, &numbers)
    });
}

/// What has to stay a list (flag X) goes on to pass a gateway that was found to speak Xcast, whether the configuration is read
/// again, or another router takes over from one that runs or was killed: nobody has to prove anything anew first.
#[test]
fn proven_gateway_gets_lists_without_a_gap() {
    trio::before(|trio| {
        trio.make_b_a_router()?;
        trio.configure("gateways = \"none\"\n", "")?;
        trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        let _second = Daemon::start(&trio.b.namespace, &trio::configuration(&["b0"]))?;
        trio.launch(Launch {
            arguments: &["-v"],
            ..Launch::default()
        })?;
        trio.resolve()?;
        let is_proven = |trio: &Trio| {
            let rows = daemon::report(&trio.r.namespace, &["neighbors"])?;
            let mut rows = rows.as_array().context("no list")?.iter();
            Ok(rows.any(|row| row["standing"] == "proven"))
        };
        ensure!(until(SOON, || is_proven(trio))?, "not proven");
        let only_as_a_list = |trio: &Trio, number| {
            let mut packet = trio.packet(A, &[BEHIND], number, 0);
            packet.xcast.x = true;
            packet
        };
        let successions = [reload, replace, kill_and_start];
        for (first, succession) in (1..).zip(successions) {
            let numbers = stream_of(trio, first * 1_000_000, only_as_a_list, succession)?;
            complete("B", &trio.b, &numbers).with_context(|| format!("succession {first}"))?;
            ensure!(until(SOON, || is_proven(trio))?, "proven no more");
        }
        Ok(())
    });
}

/// Has the router read its configuration again.
fn reload(trio: &mut Trio) -> Result<()> {
    let daemon = trio.daemon()?;
    kill(daemon.pid(), Signal::SIGHUP)?;
    let is_read = || Ok(daemon.log().contains("configuration was read again"));
    ensure!(until(PATIENCE, is_read)?, "the configuration is not read");
    Ok(())
}

/// Starts another router instead of the one that runs.
fn replace(trio: &mut Trio) -> Result<()> {
    let mut old = trio.daemon.take().context("no router")?;
    trio.launch(Launch {
        arguments: &["--replace"],
        ..Launch::default()
    })?;
    ensure!(old.ends()?, "the old one runs still");
    Ok(())
}

/// Kills the router and starts another one.
fn kill_and_start(trio: &mut Trio) -> Result<()> {
    trio.daemon.take().context("no router")?.kill()?;
    trio.start()
}

/// With `--keep`, SIGTERM ends the router and not forwarding.
#[test]
fn terminated_and_kept() {
    trio::before(|trio| {
        let launch = Launch {
            arguments: &["--keep"],
            ..Launch::default()
        };
        trio.launch(launch)?;
        trio.resolve()?;
        trio.serves(&ALL)?;
        let numbers = stream(trio, &[B, C, R1], |trio| {
            let status = trio.daemon.take().context("no router")?.stop()?;
            ensure!(status.success(), "{status}");
            thread::sleep(Duration::from_millis(300));
            trio.start()
        })?;
        complete("B", &trio.b, &numbers)?;
        complete("C", &trio.c, &numbers)?;
        complete("R", &trio.r, &numbers)
    });
}

/// A router without a controller hands everything to the kernel's stack after a while, which follows the routes of
/// that time.
#[test]
fn orphan_leaves_it_to_the_stack() {
    trio::before(|trio| {
        trio.configure(
            "[router]\n",
            "[limits]\nstack_copies_per_second = 200\n\n[router]\norphan_seconds = 2\n",
        )?;
        trio.start()?;
        trio.resolve()?;
        trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        let is_followed = || {
            let output = daemon::ctl(&trio.r.namespace, &["routes"])?;
            let prefix = trio.family.prefix(Ipv4Addr::new(10, 99, 0, 0), 16);
            let routes = String::from_utf8_lossy(&output.stdout);
            Ok(routes.contains(&prefix.to_string()))
        };
        ensure!(until(SOON, is_followed)?, "the route is not followed");
        ensure!(trio.is_reached(&trio.b, &[BEHIND, C])?, "at the start");
        trio.daemon.take().context("no router")?.kill()?;
        trio.r.ip("route replace 10.99.0.0/16 via 10.66.3.2")?;
        ensure!(trio.is_reached(&trio.c, &[BEHIND, B])?, "the stack");
        // All goes there, and not so much of it as is allowed for exceptions.
        let numbers = (0..100).map(|_| trio.send(&[BEHIND, B]));
        for number in numbers.collect::<Result<Vec<_>>>()? {
            ensure!(trio.c.gets(number)?, "{number} is lost");
        }
        // The next one knows the way itself, and what the last one counted.
        trio.start()?;
        let counters = Counters::read(&trio.r.namespace)?;
        ensure!(counters.value("stack_orphan") > 0, "{counters:?}");
        trio.serves(&ALL)?;
        let orphaned = counters.value("stack_orphan");
        let after = Counters::read(&trio.r.namespace)?.value("stack_orphan");
        ensure!(after == orphaned, "stack_orphan {after}");
        Ok(())
    });
}

/// The configuration with another line in its section `router`.
fn with_line(configuration: &str, line: &str) -> String {
    configuration.replace("[router]\n", &format!("[router]\n{line}\n"))
}

/// A gateway that a killed router had the kernel keep resolved, and that the next one has no use for, is released.
#[test]
fn gateway_of_a_killed_router_is_released_by_the_next() {
    trio::with(|trio| {
        trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        trio.r.ip("route add 10.98.0.0/16 via 10.66.3.2")?;
        let is_kept = |host| Ok(trio.neighbour(host)?.contains("managed"));
        ensure!(until(PATIENCE, || is_kept(B))?, "{}", trio.neighbour(B)?);
        ensure!(until(PATIENCE, || is_kept(C))?, "{}", trio.neighbour(C)?);
        trio.daemon.take().context("no router")?.kill()?;
        trio.r.ip("route del 10.99.0.0/16")?;
        trio.start()?;
        let is_kept = |host| -> Result<bool> { Ok(trio.neighbour(host)?.contains("managed")) };
        ensure!(
            until(PATIENCE, || Ok(!is_kept(B)?))?,
            "{}",
            trio.neighbour(B)?
        );
        ensure!(is_kept(C)?, "{}", trio.neighbour(C)?);
        Ok(())
    });
}

/// Two routers in one network namespace, with ports of their own: neither takes away the gateways that the other one has the
/// kernel keep resolved, whether it starts, ends, or is unloaded after it was killed.
#[test]
fn two_routers_leave_each_others_gateways_alone() {
    trio::before(|trio| {
        const OTHER: &str = "xcast7";
        let whole = trio::configuration(&["p1", "p2"]);
        let own = format!("[router]\ninterface = \"{OTHER}\"\naddress = \"169.254.77.1\"");
        let other = trio::configuration(&["p3"]).replace("[router]", &own);
        let other = other.replace(&format!("[udp]\nport = {}\n", trio::UDP_PORT), "");
        trio.configuration = whole;
        trio.r.ip("route add 10.99.0.0/16 via 10.66.2.2")?;
        trio.r.ip("route add 10.98.0.0/16 via 10.66.3.2")?;
        trio.start()?;
        let is_kept = |trio: &Trio, host| Ok(trio.neighbour(host)?.contains("managed"));
        ensure!(until(PATIENCE, || is_kept(trio, B))?, "B at the start");
        let unload = |trio: &Trio| -> Result<()> {
            let output = daemon::ctl(&trio.r.namespace, &["--router", OTHER, "unload"])?;
            ensure!(output.status.success(), "unload: {output:?}");
            Ok(())
        };
        for is_killed in [false, true] {
            let second = Daemon::start(&trio.r.namespace, &other)?;
            ensure!(until(PATIENCE, || is_kept(trio, C))?, "C by the second");
            ensure!(is_kept(trio, B)?, "B when the second started");
            if is_killed {
                second.kill()?;
                // One that starts next to what a killed one left.
                trio.daemon.take().context("no router")?.kill()?;
                trio.start()?;
                thread::sleep(Duration::from_millis(300));
                ensure!(is_kept(trio, C)?, "C when the first started");
                unload(trio)?;
            } else {
                unload(trio)?;
            }
            ensure!(until(PATIENCE, || Ok(!is_kept(trio, C)?))?, "C afterwards");
            ensure!(is_kept(trio, B)?, "B when the second was unloaded");
        }
        Ok(())
    });
}

/// The IPv4 addresses of the router's own interface.
fn own_addresses(trio: &Trio) -> Result<Vec<String>> {
    let text = trio
        .r
        .namespace
        .ip(&format!("-4 -o address show dev {STACK_INTERFACE}"))?;
    let address = |line: &str| Some(line.split_whitespace().nth(3)?.to_owned());
    Ok(text.lines().filter_map(address).collect())
}

/// Another address in the configuration takes the place of the one before, on SIGHUP and after `kill -9` alike; an
/// address that somebody else gave the interface stays.
#[test]
fn address_from_before_goes() {
    trio::with_family(Family::Ipv4, |trio| {
        let plain = trio.configuration.clone();
        let foreign = format!("address add 10.55.0.1/32 dev {STACK_INTERFACE}");
        trio.r.namespace.ip(&foreign)?;
        let has_only = |trio: &Trio, address: &str| {
            let wanted = ["10.55.0.1/32", address];
            let right = || {
                let addresses = own_addresses(trio)?;
                Ok(addresses.len() == 2 && wanted.iter().all(|a| addresses.iter().any(|b| a == b)))
            };
            ensure!(until(PATIENCE, right)?, "{:?}", own_addresses(trio)?);
            Ok(())
        };
        has_only(trio, "169.254.88.1/32")?;
        let daemon = trio.daemon.as_mut().context("no router")?;
        let other = with_line(&plain, "address = \"10.254.0.1\"");
        std::fs::write(daemon.config(), other)?;
        kill(daemon.pid(), Signal::SIGHUP)?;
        has_only(trio, "10.254.0.1/32")?;
        trio.serves(&ALL)?;
        trio.daemon.take().context("no router")?.kill()?;
        trio.configuration = with_line(&plain, "address = \"10.254.0.2\"");
        trio.start()?;
        has_only(trio, "10.254.0.2/32")?;
        trio.serves(&ALL)
    });
}

/// Ports that the kernel gives to nobody who asks for any.
fn reserved_ports(trio: &Trio) -> Result<String> {
    let path = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let text = trio
        .r
        .namespace
        .enter(|| Ok(std::fs::read_to_string(path)?))?;
    Ok(text.trim().to_owned())
}

/// The port of Xcast inside UDP is reserved while a router forwards, killed or not, and no longer: not after
/// a configuration without it, nor after `unload`. What an administrator reserved stays.
#[test]
fn reserved_port_is_given_back() {
    trio::with_family(Family::Ipv4, |trio| {
        let are = |trio: &Trio, ports: &str| {
            let right = || Ok(reserved_ports(trio)? == ports);
            ensure!(until(PATIENCE, right)?, "{:?}", reserved_ports(trio)?);
            Ok(())
        };
        are(trio, "40000")?;
        // Somebody else writes the list.
        let write = |list| {
            trio.r
                .namespace
                .sysctl("ipv4/ip_local_reserved_ports", list)
        };
        write("7000")?;
        are(trio, "7000,40000")?;
        let plain = trio.configuration.clone();
        // Killed, and taken over with another port.
        trio.daemon.take().context("no router")?.kill()?;
        are(trio, "7000,40000")?;
        trio.configuration = plain.replace("port = 40000", "port = 40001");
        trio.start()?;
        are(trio, "7000,40001")?;
        // The same by SIGHUP, without any, and with one that is reserved already.
        for (port, expected) in [("", "7000"), ("[udp]\nport = 7000\n", "7000")] {
            let daemon = trio.daemon.as_mut().context("no router")?;
            let config = plain.replace("[udp]\nport = 40000\n", port);
            std::fs::write(daemon.config(), config)?;
            kill(daemon.pid(), Signal::SIGHUP)?;
            are(trio, expected)?;
        }
        trio.daemon.take().context("no router")?.stop()?;
        are(trio, "7000")?;
        // Killed, and unloaded.
        trio.configuration = plain;
        trio.start()?;
        are(trio, "7000,40000")?;
        trio.daemon.take().context("no router")?.kill()?;
        let output = daemon::ctl(&trio.r.namespace, &["unload"])?;
        ensure!(output.status.success(), "{output:?}");
        are(trio, "7000")
    });
}
