//! What a thread waits for that sleeps in a system call, by the call's number.

use crate::expr::Spent;

/// How many numbers are known; a multiple of 8. Others are something else.
pub(crate) const SYSCALLS: u32 = 512;

/// What a number stands for in the table, beside those of [`Spent`].
pub(crate) mod class {
    /// For the file whose descriptor is the first argument: a socket is the network, a file or block device the disk.
    pub const FILE: u8 = 8;
    /// For descriptors to get ready, as many as the second argument says; none: it sleeps.
    pub const POLL: u8 = 9;
    /// The same, by the first argument.
    pub const SELECT: u8 = 10;
    /// For completions of whatever it submitted (io_uring): something else, though the kernel calls it I/O.
    pub const COMPLETIONS: u8 = 11;
}

/// The table: the class of each number.
pub(crate) fn table() -> [u8; SYSCALLS as usize] {
    let mut table = [Spent::Other as u8; SYSCALLS as usize];
    let classes: [(&[libc::c_long], u8); 8] = [
        (NETWORK, Spent::Network as u8),
        (DISK, Spent::Disk as u8),
        (LOCK, Spent::Lock as u8),
        (SLEEP, Spent::Sleep as u8),
        (FILE, class::FILE),
        (POLL, class::POLL),
        (SELECT, class::SELECT),
        (&[libc::SYS_io_uring_enter], class::COMPLETIONS),
    ];
    for (calls, class) in classes {
        for call in calls {
            if let Some(entry) = table.get_mut(*call as usize) {
                *entry = class;
            }
        }
    }
    table
}

const NETWORK: &[libc::c_long] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_epoll_pwait,
    EPOLL_PWAIT2,
    libc::SYS_epoll_wait,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
];

const DISK: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_chdir,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_copy_file_range,
    libc::SYS_creat,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fdatasync,
    libc::SYS_fgetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents,
    libc::SYS_getdents64,
    libc::SYS_getxattr,
    libc::SYS_io_getevents,
    libc::SYS_io_submit,
    libc::SYS_lgetxattr,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_mount,
    libc::SYS_msync,
    libc::SYS_newfstatat,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readahead,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_rmdir,
    libc::SYS_setxattr,
    libc::SYS_stat,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
    libc::SYS_sync,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_truncate,
    libc::SYS_umount2,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
];

const LOCK: &[libc::c_long] = &[
    // Of what fcntl does, waiting for a lock (F_SETLKW) alone sleeps.
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_futex,
    FUTEX_WAIT,
    FUTEX_WAITV,
    libc::SYS_semop,
    libc::SYS_semtimedop,
];

const SLEEP: &[libc::c_long] = &[libc::SYS_clock_nanosleep, libc::SYS_nanosleep];

const FILE: &[libc::c_long] = &[
    libc::SYS_close,
    libc::SYS_ioctl,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_write,
    libc::SYS_writev,
];

const POLL: &[libc::c_long] = &[libc::SYS_poll, libc::SYS_ppoll];

const SELECT: &[libc::c_long] = &[libc::SYS_select, libc::SYS_pselect6];

/// Not in every C library's headers; the same number on all architectures (include/uapi/asm-generic/unistd.h).
const EPOLL_PWAIT2: libc::c_long = 441;
const FUTEX_WAITV: libc::c_long = 449;
const FUTEX_WAIT: libc::c_long = 455;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_in_two_lists() {
        let lists = [NETWORK, DISK, LOCK, SLEEP, FILE, POLL, SELECT];
        let mut all: Vec<libc::c_long> = lists.concat();
        assert!(all.iter().all(|call| (0..SYSCALLS.into()).contains(call)));
        let calls = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), calls);
        let table = table();
        assert_eq!(table[libc::SYS_futex as usize], Spent::Lock as u8);
        assert_eq!(table[libc::SYS_pread64 as usize], class::FILE);
        assert_eq!(table[libc::SYS_wait4 as usize], Spent::Other as u8);
    }
}
