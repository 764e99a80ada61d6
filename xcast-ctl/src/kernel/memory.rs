//! How much memory a process may use: limits of its control group and of those above it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What a router needs while the kernel verifies its programs, which is when it needs most: 125 MiB were measured on
/// Linux 6.18, for both families. Afterwards it is some 20 MiB, and more with many routes.
pub(crate) const ROUTER_NEEDS_BYTES: u64 = 144 << 20;

/// The lowest limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryLimit {
    /// Octets.
    pub(crate) limit: u64,
    /// The control group, as a directory.
    pub(crate) group: PathBuf,
}

/// A version of control groups: the file of a group with its limit, and what no limit looks like.
struct Version {
    limit: &'static str,
    /// Numbers from here on are no limits.
    unlimited: u64,
}

const V1: Version = Version {
    limit: "memory.limit_in_bytes",
    // The largest number of pages of a size that machines have, in octets, and a little less.
    unlimited: 1 << 60,
};

const V2: Version = Version {
    limit: "memory.max",
    unlimited: u64::MAX,
};

/// The lowest limit of the control groups that a process belongs to, as far as they can be seen from here; `None`
/// without any.
pub(crate) fn memory_limit(process: &str) -> Option<MemoryLimit> {
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    // `ip netns exec` gives each process a /sys of its own, without control groups.
    let mut viewers = vec!["self".to_owned()];
    viewers.extend(super::proc::ancestors().into_iter().rev());
    viewers.iter().find_map(|viewer| {
        let mounts = fs::read_to_string(format!("/proc/{viewer}/mountinfo")).ok()?;
        let root = PathBuf::from(format!("/proc/{viewer}/root"));
        let limits = groups_with_memory(&groups, &mounts)
            .into_iter()
            .flat_map(|(version, top, group)| limits(version, &root, &top, &group));
        limits.min_by_key(|found| found.limit)
    })
}

/// Octets as mebibytes, rounded down.
pub(crate) const fn mebibytes(octets: u64) -> u64 {
    octets >> 20
}

/// The groups of a process that may limit its memory: version, mount point, and path below that.
fn groups_with_memory(groups: &str, mounts: &str) -> Vec<(&'static Version, PathBuf, String)> {
    // "4:memory:/path" of version 1, "0::/path" of version 2.
    let lines = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    lines
        .filter_map(|(controllers, path)| {
            let (version, kind) = match controllers {
                "" => (&V2, "cgroup2"),
                _ if controllers.split(',').any(|one| one == "memory") => (&V1, "cgroup"),
                _ => return None,
            };
            let top = mount_point(mounts, kind)?;
            Some((version, top, path.to_owned()))
        })
        .collect()
}

/// Where control groups with memory are mounted, of version 1 (`cgroup`) or 2 (`cgroup2`): see proc_pid_mountinfo(5).
fn mount_point(mounts: &str, kind: &str) -> Option<PathBuf> {
    let mut mounts = mounts.lines().filter_map(|line| {
        let (place, rest) = line.split_once(" - ")?;
        let mut rest = rest.split(' ');
        let (found, options) = (rest.next()?, rest.nth(1)?);
        let has_memory = kind == "cgroup2" || options.split(',').any(|one| one == "memory");
        (found == kind && has_memory).then(|| place.split(' ').nth(4))?
    });
    mounts.next().map(PathBuf::from)
}

/// The limits of a group and of those above it, where files are found below `root`.
fn limits(version: &Version, root: &Path, top: &Path, group: &str) -> Vec<MemoryLimit> {
    let seen = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let own = top.join(group.trim_start_matches('/'));
    // In a container, the path may be one of the machine's, and the mount point the container's own group.
    let own = if seen(&own).exists() {
        own
    } else {
        top.to_owned()
    };
    let groups = own.ancestors().take_while(|path| path.starts_with(top));
    groups
        .filter_map(|path| {
            let text = fs::read_to_string(seen(path).join(version.limit)).ok()?;
            let limit = text.trim().parse::<u64>().ok()?;
            (limit < version.unlimited).then(|| MemoryLimit {
                limit,
                group: path.to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/cpu rw shared:10 - cgroup cgroup rw,cpu
33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
";

    #[test]
    fn groups_of_both_versions() {
        let groups = "7:cpu:/a\n4:memory:/b/c\n0::/d\n";
        let found: Vec<_> = groups_with_memory(groups, MOUNTS)
            .into_iter()
            .map(|(version, top, path)| (version.limit, top, path))
            .collect();
        let at = |path: &str| PathBuf::from(format!("/sys/fs/cgroup/{path}"));
        assert_eq!(
            found,
            [
                (V1.limit, at("memory"), "/b/c".to_owned()),
                (V2.limit, at("unified"), "/d".to_owned()),
            ]
        );
    }

    #[test]
    fn limits_of_a_group_and_of_those_above() {
        let top = tempfile::TempDir::new().unwrap();
        let (outer, inner) = (top.path().join("outer"), top.path().join("outer/inner"));
        fs::create_dir_all(&inner).unwrap();
        let write = |path: &Path, limit: &str| {
            fs::write(path.join("memory.max"), format!("{limit}\n")).unwrap();
        };
        let limits = |top: &Path, group| limits(&V2, Path::new("/"), top, group);
        write(&outer, "1000");
        write(&inner, "500");
        let found = limits(top.path(), "/outer/inner");
        let found: Vec<_> = found.iter().map(|one| one.limit).collect();
        assert_eq!(found, [500, 1000]);
        write(&inner, "max");
        assert_eq!(limits(top.path(), "/outer/inner").len(), 1);
        // A path that is another namespace's.
        assert_eq!(limits(&inner, "/of/the/machine"), []);
    }
}
