//! Whether the kernel can copy packets in XDP, and takes programs from this process.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding, ok},
};

/// The oldest kernel that the router is meant for. Copies to several devices (BPF_F_BROADCAST) came with
/// 5.14, neighbours that the kernel keeps resolved (NTF_EXT_MANAGED) with 5.16, and XDP on veth pairs
/// as it is used here with 5.18.
const FIRST_KERNEL: (u32, u32) = (5, 18);

/// The first release of each maintained series that does not corrupt the multi-buffer frames it
/// copies. Later series are right from the start.
const COPIES_FIXED: [(u32, u32, u32); 4] = [(6, 1, 178), (6, 6, 145), (6, 12, 96), (6, 18, 39)];

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    findings.push(copies(&facts.kernel));
    let missing = missing_capabilities(facts.capabilities);
    if missing.is_empty() || facts.running.is_some() {
        findings.push(bpf(facts));
    } else {
        findings.push(finding(
            "capabilities",
            Severity::Fault,
            None,
            format!(
                "this process lacks {}: xcast-ctl run with the same privileges cannot load its programs",
                missing.join(" and ")
            ),
            "run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (in a systemd unit: \
             AmbientCapabilities=)",
        ));
    }
}

fn copies(release: &str) -> Finding {
    match parse_release(release) {
        None => finding(
            "kernel",
            Severity::Warning,
            None,
            format!("kernel {release}: cannot read its version"),
            format!(
                "make sure that it is {}.{} or newer",
                FIRST_KERNEL.0, FIRST_KERNEL.1
            ),
        ),
        Some((major, minor, _)) if (major, minor) < FIRST_KERNEL => finding(
            "kernel",
            Severity::Fault,
            None,
            format!("kernel {release} is too old: the router's programs do not run on it"),
            format!("use Linux {}.{} or newer", FIRST_KERNEL.0, FIRST_KERNEL.1),
        ),
        Some(version) if !copies_fixed(version) => finding(
            "kernel",
            Severity::Warning,
            None,
            format!(
                "kernel {release} corrupts multi-buffer frames (jumbo, receive coalescing) when \
                 another XDP program has them copied; this router accepts linear frames only"
            ),
            "use 6.1.178, 6.6.145, 6.12.96, 6.18.39 or newer within these series",
        ),
        Some(_) => ok(
            "kernel",
            None,
            format!("kernel {release} copies packets in XDP"),
        ),
    }
}

/// `6.1.0-44-amd64` is 6.1.0: a distribution's own fixes do not show in it.
fn parse_release(release: &str) -> Option<(u32, u32, u32)> {
    let numbers = release
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?;
    let mut numbers = numbers.split('.').map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok);
    Some((next()?, next()?, next().unwrap_or(0)))
}

fn copies_fixed((major, minor, patch): (u32, u32, u32)) -> bool {
    let series = COPIES_FIXED
        .iter()
        .find(|fixed| (fixed.0, fixed.1) == (major, minor));
    match series {
        Some(fixed) => patch >= fixed.2,
        None => COPIES_FIXED
            .iter()
            .all(|fixed| (fixed.0, fixed.1) < (major, minor)),
    }
}

/// Which capabilities are missing that `run` needs: to load programs, to let the verifier follow
/// pointers in them as for root, and to attach them. CAP_SYS_ADMIN stands for the first two, as
/// before Linux 5.8 (capabilities(7)).
fn missing_capabilities(held: Option<u64>) -> Vec<&'static str> {
    const SYS_ADMIN: u8 = 21;
    let Some(held) = held else {
        return Vec::new();
    };
    let has = |bit: u8| held & 1 << bit != 0;
    [
        ("CAP_BPF", has(39) || has(SYS_ADMIN)),
        ("CAP_PERFMON", has(38) || has(SYS_ADMIN)),
        ("CAP_NET_ADMIN", has(12)),
    ]
    .into_iter()
    .filter(|(_, has)| !has)
    .map(|(name, _)| name)
    .collect()
}

fn bpf(facts: &Facts) -> Finding {
    match &facts.no_bpf {
        None => ok("bpf", None, "XDP programs can be loaded"),
        // Started with privileges that this process lacks.
        Some(_) if facts.running.is_some() => ok("bpf", None, "a router runs here"),
        Some(reason) => finding(
            "bpf",
            Severity::Fault,
            None,
            format!("XDP programs cannot be loaded: {reason}"),
            "run as root (CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN), on a kernel with CONFIG_BPF_SYSCALL",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        finding::Severity,
        testing::{facts, found, start},
    };
    use super::missing_capabilities;

    #[test]
    fn kernels() {
        for (release, expected) in [
            ("5.13.19", Some(Severity::Fault)),
            ("4.19.0-27-amd64", Some(Severity::Fault)),
            ("5.14.0-503.el9", Some(Severity::Fault)),
            ("5.15.212", Some(Severity::Fault)),
            ("5.17.15", Some(Severity::Fault)),
            ("5.18.0", Some(Severity::Warning)),
            ("6.1.178", None),
            ("6.1.177-1-amd64", Some(Severity::Warning)),
            ("6.5.300", Some(Severity::Warning)),
            ("6.12.96+deb13", None),
            ("6.18.39", None),
            ("7.0", None),
            ("strange", Some(Severity::Warning)),
        ] {
            let mut facts = facts();
            facts.kernel = release.to_owned();
            let severities: Vec<_> = found(&facts).into_iter().map(|found| found.1).collect();
            assert_eq!(severities, Vec::from_iter(expected), "{release}");
        }
    }

    #[test]
    fn capabilities_that_run_needs() {
        const NET_ADMIN: u64 = 1 << 12;
        const SYS_ADMIN: u64 = 1 << 21;
        const PERFMON: u64 = 1 << 38;
        const BPF: u64 = 1 << 39;
        for (held, missing) in [
            (u64::MAX, ""),
            (BPF | PERFMON | NET_ADMIN, ""),
            (SYS_ADMIN | NET_ADMIN, ""),
            (BPF | NET_ADMIN, "CAP_PERFMON"),
            (NET_ADMIN, "CAP_BPF and CAP_PERFMON"),
            (SYS_ADMIN, "CAP_NET_ADMIN"),
        ] {
            let mut facts = facts();
            facts.capabilities = Some(held);
            assert_eq!(
                missing_capabilities(facts.capabilities).join(" and "),
                missing
            );
            let expected = Some(("capabilities", Severity::Fault, None));
            let expected = expected.filter(|_| !missing.is_empty());
            assert_eq!(found(&facts), Vec::from_iter(expected), "{missing}");
        }
    }

    #[test]
    fn privileges_matter_only_where_no_router_runs() {
        let mut facts = facts();
        facts.no_bpf = Some("operation not permitted".to_owned());
        assert_eq!(found(&facts), [("bpf", Severity::Fault, None)]);
        start(&mut facts);
        assert_eq!(found(&facts), []);
    }
}
