//! Whether forwarding outlives the router's process.

use super::{
    facts::Facts,
    finding::{Finding, Severity, finding, ok},
};
use crate::datapath::bpffs::Place;

const REMEDY: &str = "mount -t bpf bpf /sys/fs/bpf where the router is started (in a container: mount it \
                      from the host), then restart the router";

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    if !facts.abandoned.is_empty() {
        findings.push(finding(
            "abandoned",
            Severity::Warning,
            None,
            format!(
                "programs and maps of routers that are gone take memory: in /sys/fs/bpf/xcast, {}",
                facts.abandoned.join(", ")
            ),
            "xcast-ctl unload --abandoned; it leaves alone what runs anywhere",
        ));
    }
    let mut warn = |what: String| {
        findings.push(finding("lasting", Severity::Warning, None, what, REMEDY));
    };
    // A running router knows. Others would find what can be found from here.
    match (&facts.running, &facts.place) {
        (Some(running), _) if !running.status.lasting => warn(
            "forwarding ends with the router's process, also if it crashes: when it was started, there was no \
             BPF file system that outlives it"
                .to_owned(),
        ),
        (Some(_), _) | (None, Place::There | Place::Unknown) => {
            findings.push(ok("lasting", None, "forwarding outlives the router's process"));
        }
        (None, Place::ToBeMounted) => findings.push(ok(
            "lasting",
            None,
            "the router will mount the BPF file system, so that forwarding outlives it",
        )),
        (None, Place::Nowhere(reason)) => warn(format!(
            "no BPF file system outlives the router's process, so forwarding will end with it, also if it \
             crashes: {reason}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{facts, found, start};
    use super::*;

    #[test]
    fn what_nobody_uses() {
        let mut facts = facts();
        facts.abandoned = vec!["4026532177/xcast0".to_owned()];
        assert_eq!(found(&facts), [("abandoned", Severity::Warning, None)]);
    }

    #[test]
    fn forwarding_that_ends_with_the_process() {
        let mut facts = facts();
        facts.place = Place::ToBeMounted;
        assert_eq!(found(&facts), []);
        facts.place = Place::Nowhere("not permitted".to_owned());
        let expected = [("lasting", Severity::Warning, None)];
        assert_eq!(found(&facts), expected);
        // A running router was started with other privileges.
        start(&mut facts);
        assert_eq!(found(&facts), []);
        if let Some(running) = &mut facts.running {
            running.status.lasting = false;
        }
        assert_eq!(found(&facts), expected);
    }
}
