//! Numbers of the kernel's BPF helpers (enum bpf_func_id in include/uapi/linux/bpf.h).

pub(crate) const MAP_LOOKUP: u32 = 1;
pub(crate) const MAP_UPDATE: u32 = 2;
pub(crate) const MAP_DELETE: u32 = 3;
pub(crate) const KTIME_GET_NS: u32 = 5;
pub(crate) const GET_PRANDOM_U32: u32 = 7;
pub(crate) const GET_SMP_PROCESSOR_ID: u32 = 8;
pub(crate) const TAIL_CALL: u32 = 12;
pub(crate) const GET_CURRENT_PID_TGID: u32 = 14;
pub(crate) const GET_CURRENT_UID_GID: u32 = 15;
pub(crate) const GET_CURRENT_COMM: u32 = 16;
pub(crate) const GET_CURRENT_TASK: u32 = 35;
pub(crate) const GET_STACK: u32 = 67;
pub(crate) const GET_CURRENT_CGROUP_ID: u32 = 80;
pub(crate) const PROBE_READ_USER: u32 = 112;
pub(crate) const PROBE_READ_KERNEL: u32 = 113;
pub(crate) const PROBE_READ_USER_STR: u32 = 114;
pub(crate) const PROBE_READ_KERNEL_STR: u32 = 115;
pub(crate) const RINGBUF_OUTPUT: u32 = 130;
pub(crate) const RINGBUF_RESERVE: u32 = 131;
pub(crate) const RINGBUF_SUBMIT: u32 = 132;
pub(crate) const RINGBUF_QUERY: u32 = 134;
pub(crate) const TASK_STORAGE_GET: u32 = 156;
pub(crate) const GET_CURRENT_TASK_BTF: u32 = 158;
pub(crate) const GET_ATTACH_COOKIE: u32 = 174;
pub(crate) const TASK_PT_REGS: u32 = 175;
