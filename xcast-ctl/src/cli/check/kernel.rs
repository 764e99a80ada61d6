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
    let missing = &facts.missing_capabilities;
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
        judge as judge_all,
        testing::{facts, found, start},
    };

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
        let mut facts = facts();
        facts.missing_capabilities = vec!["CAP_PERFMON"];
        facts.no_bpf = Some("not tried".to_owned());
        let expected = [("capabilities", Severity::Fault, None)];
        assert_eq!(found(&facts), expected);
        let named = judge_all(&facts)
            .iter()
            .any(|finding| finding.what.contains("CAP_PERFMON"));
        assert!(named);
        start(&mut facts);
        assert_eq!(found(&facts), []);
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
