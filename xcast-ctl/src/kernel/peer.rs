//! Who is at the other end of a Unix socket.

use std::os::fd::{AsFd, AsRawFd as _};

/// Most groups that a process can be in (NGROUPS_MAX).
const MOST_GROUPS: usize = 65_536;

/// Whether the process at the other end was in this supplementary group when it connected (SO_PEERGROUPS, Linux 4.13).
pub(crate) fn peer_is_in_group(socket: &impl AsFd, group: u32) -> bool {
    // The kernel fills in nothing, and says how much there is, if there is more.
    let mut groups = vec![0_u32; 64];
    for _ in 0..2 {
        let mut len = libc::socklen_t::try_from(size_of_val(groups.as_slice())).unwrap_or(0);
        // SAFETY: address and length of the buffer are those of the list.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let count = len as usize / size_of::<u32>();
        if result == 0 {
            return groups.iter().take(count).any(|&one| one == group);
        }
        if count <= groups.len() || count > MOST_GROUPS {
            return false;
        }
        groups.resize(count, 0);
    }
    false
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn ones_own_groups_are_those_of_the_peer() {
        let (a, _b) = UnixStream::pair().unwrap();
        let own = nix::unistd::getgroups().unwrap();
        for group in &own {
            assert!(peer_is_in_group(&a, group.as_raw()));
        }
        assert!(!peer_is_in_group(&a, 4_000_000_000));
    }
}
