//! What the time of a call goes to.

/// One of the parts that a call's latency is made of. A thread is at one of them at any time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Spent {
    /// It runs.
    Cpu,
    /// It could run, and waits for a CPU.
    RunQueue,
    /// It waits for a disk, or in a system call about files.
    Disk,
    /// It waits for a socket, or for a descriptor to get ready.
    Network,
    /// It waits for another thread.
    Lock,
    /// It sleeps for a time that it chose.
    Sleep,
    /// It waits for anything else.
    Other,
}

impl Spent {
    /// All, in the order in which they are shown.
    pub const ALL: [Spent; 7] = [
        Spent::Cpu,
        Spent::RunQueue,
        Spent::Disk,
        Spent::Network,
        Spent::Lock,
        Spent::Sleep,
        Spent::Other,
    ];

    /// Its word in expressions, and the name of its field in events: nanoseconds.
    pub fn name(self) -> &'static str {
        match self {
            Spent::Cpu => "cpu_ns",
            Spent::RunQueue => "runq_ns",
            Spent::Disk => "disk_ns",
            Spent::Network => "network_ns",
            Spent::Lock => "lock_ns",
            Spent::Sleep => "sleep_ns",
            Spent::Other => "other_ns",
        }
    }

    /// The part of that name.
    pub fn of(name: &str) -> Option<Spent> {
        Spent::ALL.into_iter().find(|spent| spent.name() == name)
    }

    /// What it is called in tables.
    pub fn title(self) -> &'static str {
        match self {
            Spent::Cpu => "cpu",
            Spent::RunQueue => "run queue",
            Spent::Disk => "disk",
            Spent::Network => "network",
            Spent::Lock => "locks",
            Spent::Sleep => "sleep",
            Spent::Other => "other",
        }
    }
}
