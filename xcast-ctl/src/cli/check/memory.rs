//! Whether the router has the memory that it needs.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding},
};
use crate::kernel::{ROUTER_NEEDS_BYTES, mebibytes};

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(limit) = &facts.memory_limit else {
        return;
    };
    if limit.limit >= ROUTER_NEEDS_BYTES {
        return;
    }
    let (severity, who) = match facts.running {
        // It has started; the next one may not.
        Some(_) => (Severity::Warning, "the next start"),
        None => (Severity::Fault, "a router"),
    };
    findings.push(finding(
        "memory",
        severity,
        None,
        format!(
            "the control group {} may use {} MiB of memory, and {who} needs {} MiB while the kernel verifies its \
             programs, and more with many routes: it is killed, or its maps are refused",
            limit.group.display(),
            mebibytes(limit.limit),
            mebibytes(ROUTER_NEEDS_BYTES)
        ),
        format!(
            "MemoryMax={}M in the service's unit, or a larger limit of the container",
            mebibytes(ROUTER_NEEDS_BYTES)
        ),
    ));
}

#[cfg(test)]
mod tests {
    use super::super::testing::{facts, found, start};
    use super::*;
    use crate::kernel::MemoryLimit;

    #[test]
    fn too_little_memory() {
        let mut facts = facts();
        let limit = |limit| {
            Some(MemoryLimit {
                limit,
                group: "/sys/fs/cgroup/system.slice/xcast.service".into(),
            })
        };
        facts.memory_limit = limit(64 << 20);
        assert_eq!(found(&facts), [("memory", Severity::Fault, None)]);
        start(&mut facts);
        assert_eq!(found(&facts), [("memory", Severity::Warning, None)]);
        facts.memory_limit = limit(1 << 30);
        assert_eq!(found(&facts), []);
    }
}
