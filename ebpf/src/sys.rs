//! The thin layer over bpf(2) and perf_event_open(2), for what aya 0.14 cannot do: programs with an
//! `expected_attach_type` of its own, `uprobe_multi` and session links, maps of sizes known at
//! run time. Shaped like aya's own, so that a later aya can take its place.

use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_type, bpf_prog_info, bpf_prog_type};

use crate::asm::Insn;

/// `expected_attach_type` of programs and links; the last two are not in aya's bindings.
pub(crate) mod attach_type {
    /// Whatever the perf event brings.
    pub const NONE: u32 = 0;
    /// BPF_TRACE_FENTRY and BPF_TRACE_FEXIT, Linux 5.5.
    pub const FENTRY: u32 = 24;
    pub const FEXIT: u32 = 25;
    /// A link on a perf event (BPF_PERF_EVENT).
    pub const PERF_EVENT: u32 = 41;
    /// BPF_TRACE_UPROBE_MULTI, Linux 6.6.
    pub const UPROBE_MULTI: u32 = 48;
    /// BPF_TRACE_UPROBE_SESSION, Linux 6.13.
    pub const UPROBE_SESSION: u32 = 57;
}

/// BPF_F_UPROBE_MULTI_RETURN
const MULTI_RETURN: u32 = 1;

/// An attribute block of zeros.
pub(crate) fn attr() -> bpf_attr {
    // SAFETY: the union consists of plain integers, for which zeros are a value; the kernel asks
    // that whatever a command does not use be zero.
    unsafe { mem::zeroed() }
}

/// bpf(2).
pub(crate) fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<c_long> {
    // SAFETY: `attr` is valid for its size; the pointers in it are the caller's, each alive over
    // the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            cmd as c_int,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ret)
}

fn bpf_fd(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(cmd, attr)? as RawFd;
    // SAFETY: the kernel just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What to load.
pub(crate) struct ProgLoad<'a> {
    pub kind: bpf_prog_type,
    pub name: &'a str,
    pub insns: &'a [Insn],
    pub attach_type: u32,
    /// Of fentry and fexit: the function's number in the kernel's BTF; else 0.
    pub btf_id: u32,
}

/// Loads a program. With a `log` the verifier writes what it thinks.
pub(crate) fn prog_load(load: &ProgLoad<'_>, log: Option<&mut Vec<u8>>) -> io::Result<OwnedFd> {
    let mut attr = attr();
    // SAFETY: of the union's fields this is the one that BPF_PROG_LOAD reads.
    let u = unsafe { &mut attr.__bindgen_anon_3 };
    u.prog_type = load.kind as u32;
    u.insn_cnt = load.insns.len() as u32;
    u.insns = load.insns.as_ptr() as u64;
    u.license = c"GPL".as_ptr() as u64;
    u.expected_attach_type = load.attach_type;
    u.attach_btf_id = load.btf_id;
    put_name(&mut u.prog_name, load.name);
    if let Some(log) = &log {
        u.log_level = 1;
        u.log_buf = log.as_ptr() as u64;
        u.log_size = log.len() as u32;
    }
    let done = bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr);
    if let Some(log) = log {
        let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
        log.truncate(end);
    }
    done
}

/// A name as the kernel takes it: 15 bytes of letters, digits, `_` and `.`.
fn put_name(to: &mut [c_char; 16], name: &str) {
    for (to, from) in to.iter_mut().zip(name.bytes().take(15)) {
        let plain = from.is_ascii_alphanumeric() || from == b'.';
        *to = if plain {
            from as c_char
        } else {
            b'_' as c_char
        };
    }
}

/// Loads descriptions of types.
pub(crate) fn btf_load(btf: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = attr();
    // SAFETY: of the union's fields this is the one that BPF_BTF_LOAD reads.
    let u = unsafe { &mut attr.__bindgen_anon_7 };
    u.btf = btf.as_ptr() as u64;
    u.btf_size = btf.len() as u32;
    bpf_fd(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// Creates a map of memory for threads (Linux 5.11): `bytes` each, the types of keys and values as numbers in `btf`.
pub(crate) fn task_storage(
    name: &str,
    bytes: u32,
    btf: BorrowedFd<'_>,
    (key, value): (u32, u32),
) -> io::Result<OwnedFd> {
    const BPF_F_NO_PREALLOC: u32 = 1;
    let mut attr = attr();
    // SAFETY: of the union's fields this is the one that BPF_MAP_CREATE reads.
    let u = unsafe { &mut attr.__bindgen_anon_1 };
    u.map_type = bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE as u32;
    u.key_size = 4;
    u.value_size = bytes;
    u.map_flags = BPF_F_NO_PREALLOC;
    put_name(&mut u.map_name, name);
    u.btf_fd = btf.as_raw_fd() as u32;
    u.btf_key_type_id = key;
    u.btf_value_type_id = value;
    bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr)
}

/// Where a `uprobe_multi` link attaches.
pub(crate) struct MultiLink<'a> {
    pub path: &'a Path,
    pub offsets: &'a [u64],
    /// One per offset, or empty.
    pub cookies: &'a [u64],
    /// Offsets of semaphores, one per offset with 0 for none, or empty.
    pub semaphores: &'a [u64],
    pub pid: Option<u32>,
    /// At the functions' returns.
    pub at_return: bool,
    pub attach_type: u32,
}

/// Creates a `uprobe_multi` or session link.
pub(crate) fn link_multi(prog: BorrowedFd<'_>, link: &MultiLink<'_>) -> io::Result<OwnedFd> {
    let path = CString::new(link.path.as_os_str().as_bytes())?;
    let mut attr = attr();
    // SAFETY: of the union's fields this is the one that BPF_LINK_CREATE reads.
    let u = unsafe { &mut attr.link_create };
    u.__bindgen_anon_1.prog_fd = prog.as_raw_fd() as u32;
    u.attach_type = link.attach_type;
    // SAFETY: and of this one the part for `uprobe_multi` links.
    let multi = unsafe { &mut u.__bindgen_anon_3.uprobe_multi };
    multi.path = path.as_ptr() as u64;
    multi.offsets = link.offsets.as_ptr() as u64;
    if !link.cookies.is_empty() {
        multi.cookies = link.cookies.as_ptr() as u64;
    }
    if !link.semaphores.is_empty() {
        multi.ref_ctr_offsets = link.semaphores.as_ptr() as u64;
    }
    multi.cnt = link.offsets.len() as u32;
    multi.flags = if link.at_return { MULTI_RETURN } else { 0 };
    multi.pid = link.pid.unwrap_or(0);
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Puts a program on a perf event; with a cookie from Linux 5.15.
pub(crate) fn link_perf(
    prog: BorrowedFd<'_>,
    event: BorrowedFd<'_>,
    cookie: u64,
) -> io::Result<OwnedFd> {
    let mut attr = attr();
    // SAFETY: of the union's fields this is the one that BPF_LINK_CREATE reads.
    let u = unsafe { &mut attr.link_create };
    u.__bindgen_anon_1.prog_fd = prog.as_raw_fd() as u32;
    u.__bindgen_anon_2.target_fd = event.as_raw_fd() as u32;
    u.attach_type = attach_type::PERF_EVENT;
    u.__bindgen_anon_3.perf_event.bpf_cookie = cookie;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Puts a program on a perf event as before Linux 5.15.
pub(crate) fn set_bpf(event: BorrowedFd<'_>, prog: BorrowedFd<'_>) -> io::Result<()> {
    const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
    perf_ioctl(event, PERF_EVENT_IOC_SET_BPF, prog.as_raw_fd())
}

/// Lets a perf event run.
pub(crate) fn perf_enable(event: BorrowedFd<'_>) -> io::Result<()> {
    const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
    perf_ioctl(event, PERF_EVENT_IOC_ENABLE, 0)
}

fn perf_ioctl(event: BorrowedFd<'_>, request: libc::c_ulong, arg: c_int) -> io::Result<()> {
    // SAFETY: both requests take an integer, no memory.
    let ret = unsafe { libc::ioctl(event.as_raw_fd(), request, arg) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The start of `struct perf_event_attr` (PERF_ATTR_SIZE_VER1, 72 bytes): all that a uprobe needs.
#[repr(C)]
#[derive(Default)]
struct PerfAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
}

/// Opens a probe as a perf event: `kind` is the event source's type, `file` the file of a uprobe or
/// the name of the kernel's function. With a pid a uprobe fires in that process only, all its
/// threads included, since it is the memory that is probed.
pub(crate) fn perf_probe(
    kind: u32,
    file: &CStr,
    offset: u64,
    pid: Option<u32>,
    config: u64,
) -> io::Result<OwnedFd> {
    let attr = PerfAttr {
        kind,
        config,
        config1: file.as_ptr() as u64,
        config2: offset,
        ..PerfAttr::default()
    };
    perf_event(attr, pid)
}

/// Opens a tracepoint as a perf event. One CPU's is enough: the programs on it run on all.
pub(crate) fn perf_tracepoint(id: u64) -> io::Result<OwnedFd> {
    const PERF_TYPE_TRACEPOINT: u32 = 2;
    let attr = PerfAttr {
        kind: PERF_TYPE_TRACEPOINT,
        config: id,
        ..PerfAttr::default()
    };
    perf_event(attr, None)
}

fn perf_event(attr: PerfAttr, pid: Option<u32>) -> io::Result<OwnedFd> {
    let attr = PerfAttr {
        size: size_of::<PerfAttr>() as u32,
        ..attr
    };
    let (pid, cpu) = match pid {
        Some(pid) => (pid as libc::pid_t, -1),
        None => (-1, 0),
    };
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    // SAFETY: `attr` says its own size; what it points to is the callers', and alive over the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &attr,
            pid,
            cpu,
            -1 as c_int,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// What the kernel knows of a program.
pub(crate) fn prog_info(prog: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: plain integers, for which zeros are a value.
    let mut info: bpf_prog_info = unsafe { mem::zeroed() };
    let mut attr = attr();
    attr.info.bpf_fd = prog.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Reads a map's value; false if there is no such key.
pub(crate) fn map_lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = attr();
    // SAFETY: of the union's fields this is the one that the command reads.
    let u = unsafe { &mut attr.__bindgen_anon_2 };
    u.map_fd = map.as_raw_fd() as u32;
    u.key = key.as_ptr() as u64;
    u.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    found(bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr))
}

/// The key after `key`, or the first; false at the end.
pub(crate) fn map_next_key(
    map: BorrowedFd<'_>,
    key: Option<&[u8]>,
    next: &mut [u8],
) -> io::Result<bool> {
    let mut attr = attr();
    // SAFETY: of the union's fields this is the one that the command reads.
    let u = unsafe { &mut attr.__bindgen_anon_2 };
    u.map_fd = map.as_raw_fd() as u32;
    u.key = key.map_or(0, |k| k.as_ptr() as u64);
    u.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
    found(bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr))
}

/// Sets a map's value.
pub(crate) fn map_update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = attr();
    // SAFETY: of the union's fields this is the one that the command reads.
    let u = unsafe { &mut attr.__bindgen_anon_2 };
    u.map_fd = map.as_raw_fd() as u32;
    u.key = key.as_ptr() as u64;
    u.__bindgen_anon_1.value = value.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Removes a key from a map.
pub(crate) fn map_delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    let mut attr = attr();
    // SAFETY: of the union's fields this is the one that the command reads.
    let u = unsafe { &mut attr.__bindgen_anon_2 };
    u.map_fd = map.as_raw_fd() as u32;
    u.key = key.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr).map(drop)
}

fn found(result: io::Result<c_long>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Memory shared with the kernel, unmapped on drop.
pub(crate) struct Mapping {
    start: *mut u64,
    bytes: usize,
}

// SAFETY: it is plain shared memory, accessed through atomics only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the value of a BPF_F_MMAPABLE array.
    pub fn new(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Mapping> {
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping {
            start: start.cast(),
            bytes,
        })
    }

    /// The word at byte `offset`; a zero outside of the mapping.
    pub fn word(&self, offset: usize) -> u64 {
        use std::sync::atomic::{AtomicU64, Ordering};
        if offset + 8 > self.bytes {
            return 0;
        }
        // SAFETY: inside the mapping and aligned, since every offset is a multiple of 8; the
        // kernel writes it with atomic additions.
        unsafe { (*self.start.add(offset / 8).cast::<AtomicU64>()).load(Ordering::Relaxed) }
    }

    /// Writes the word at byte `offset`, if it is inside.
    pub fn set_word(&self, offset: usize, value: u64) {
        use std::sync::atomic::{AtomicU64, Ordering};
        if offset + 8 > self.bytes {
            return;
        }
        // SAFETY: as in `word`.
        unsafe {
            (*self.start.add(offset / 8).cast::<AtomicU64>()).store(value, Ordering::Relaxed);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nothing borrows from it.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}

/// A clock in nanoseconds.
pub(crate) fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is valid for writing; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Attaches to a raw tracepoint; without a name to the function that the program was loaded for.
pub(crate) fn raw_tracepoint(prog: BorrowedFd<'_>, name: Option<&CStr>) -> io::Result<OwnedFd> {
    let mut attr = attr();
    attr.raw_tracepoint.name = name.map_or(0, |n| n.as_ptr() as u64);
    attr.raw_tracepoint.prog_fd = prog.as_raw_fd() as u32;
    bpf_fd(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)
}
