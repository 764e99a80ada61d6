//! A namespace to test in.

use std::{
    env,
    net::{IpAddr, SocketAddr},
    process::Command,
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::Uid,
};
use tokio::task::LocalSet;

/// It ends tests that hang, and judges nothing.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Addresses in the namespace: 1 to this.
const ADDRESSES: u8 = 24;

/// Runs a test in a namespace of its own. Where the rights for one, or something else that the
/// caller says, are missing, the test fails; with `XCAST_ALLOW_SKIP=1` it is skipped, and says so.
pub fn in_namespace<T: Send + 'static>(
    missing: &[&str],
    test: impl AsyncFnOnce() -> T + Send + 'static,
) -> Option<T> {
    let mut missing = missing.to_vec();
    if !Uid::effective().is_root() {
        missing.push("root, for a network namespace");
    }
    if !missing.is_empty() {
        let allowed = env::var_os("XCAST_ALLOW_SKIP").is_some_and(|value| value == "1");
        assert!(
            allowed,
            "missing: {}; run `cargo xtask setup`, or set XCAST_ALLOW_SKIP=1 to go without",
            missing.join(", ")
        );
        eprintln!("SKIPPED: missing: {}", missing.join(", "));
        return None;
    }
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        set_up();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, test())
    };
    match thread::spawn(run).join() {
        Ok(result) => Some(result),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn set_up() {
    ip("link set lo up");
    // Any interface will do that is not the loopback interface, which some programs refuse.
    ip("link add veth0 type veth peer name veth1");
    for n in 1..=ADDRESSES {
        ip(&format!("addr add 198.18.{n}.1/32 dev veth0"));
        ip(&format!("addr add 2001:db8:{n:x}::1/128 dev veth0 nodad"));
    }
    ip("link set veth0 up");
    ip("link set veth1 up");
    ip("route add default dev veth0");
    ip("-6 route add default dev veth0");
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.expect("ip, of iproute2").success(), "ip {arguments}");
}

/// Address `n` of the namespace, of either family, and a port.
pub fn address(ipv6: bool, n: u8, port: u16) -> SocketAddr {
    let ip: IpAddr = match ipv6 {
        false => [198, 18, n, 1].into(),
        true => [0x2001, 0xdb8, n.into(), 0, 0, 0, 0, 1].into(),
    };
    SocketAddr::new(ip, port)
}
