//! `/tmp/perf-PID.map`: the list of functions that a just-in-time compiler writes for perf (tools/perf/Documentation/
//! jit-interface.txt): a line for each, with start and size in hexadecimal, and the name.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::process::Process;

/// Longer lists are not read to their end: they would fill the memory.
const MAX_BYTES: u64 = 512 << 20;
/// Longer lines are no names.
const MAX_LINE: usize = 16 << 10;

/// The list of one process, as far as it has been read.
#[derive(Debug, Default)]
pub(super) struct PerfMap {
    /// Where it may be, in order.
    paths: Vec<PathBuf>,
    /// The user whose process it is: others' lists are not believed.
    owner: Option<u32>,
    /// Which file was read, and up to where.
    read: Option<(u64, u64)>,
    /// By start: end and name.
    functions: BTreeMap<u64, (u64, String)>,
}

impl PerfMap {
    pub(super) fn of(process: &Process) -> Self {
        let status = std::fs::read_to_string(process.proc_path("status")).unwrap_or_default();
        let field = |name: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| line.strip_prefix(name))
        };
        // In a container it has another number, the last one here; it writes that one into its own /tmp.
        let own = field("NSpid:").and_then(|pids| pids.split_whitespace().next_back());
        let own = own.and_then(|pid| pid.parse().ok()).unwrap_or(process.pid);
        let owner = field("Uid:").and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok());
        let tmp = process.proc_path("root/tmp");
        Self {
            paths: vec![
                tmp.join(format!("perf-{own}.map")),
                PathBuf::from(format!("/tmp/perf-{}.map", process.pid)),
            ],
            owner,
            ..Self::default()
        }
    }

    /// The function at an address, and bytes from its start. Reads what was added to the list since.
    pub(super) fn function(&mut self, address: u64) -> Option<(String, u64)> {
        self.refresh();
        let (start, (end, name)) = self.functions.range(..=address).next_back()?;
        (address < *end).then(|| (name.clone(), address - start))
    }

    fn refresh(&mut self) {
        let owner = self.owner;
        let Some((file, inode, len)) = self.paths.iter().find_map(|path| open(path, owner)) else {
            return;
        };
        let from = match self.read {
            Some((known, done)) if known == inode && done <= len => done,
            // Another list, or one written anew.
            _ => {
                self.functions.clear();
                0
            }
        };
        if from < len {
            let done = self.read_on(file, from, len.min(MAX_BYTES));
            self.read = Some((inode, from + done));
        } else {
            self.read = Some((inode, from));
        }
    }

    /// Reads whole lines; gives how many bytes they have.
    fn read_on(&mut self, mut file: File, from: u64, len: u64) -> u64 {
        if file.seek(SeekFrom::Start(from)).is_err() {
            return 0;
        }
        let mut reader = BufReader::new(std::io::Read::take(file, len.saturating_sub(from)));
        let mut done = 0;
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.read_until(b'\n', &mut line) {
                // The last line may be half written.
                Ok(read) if read > 0 && line.ends_with(b"\n") => done += read as u64,
                _ => return done,
            }
            if let Some((start, end, name)) = parse(&line) {
                self.add(start, end, name);
            }
        }
    }

    /// A later function takes the place of those before that it overlaps: their code has been thrown away.
    fn add(&mut self, start: u64, end: u64, name: String) {
        while let Some((&other, &(other_end, _))) = self.functions.range(..end).next_back()
            && other_end > start
        {
            self.functions.remove(&other);
        }
        self.functions.insert(start, (end, name));
    }
}

/// Opens a list that is a file of the process's user or of root, with its inode number and length.
fn open(path: &PathBuf, owner: Option<u32>) -> Option<(File, u64, u64)> {
    // A link in a directory that all may write to could lead anywhere, a pipe would hold us up.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(flags).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let trusted = metadata.uid() == 0 || Some(metadata.uid()) == owner;
    (metadata.is_file() && trusted).then(|| (file, metadata.ino(), metadata.len()))
}

fn parse(line: &[u8]) -> Option<(u64, u64, String)> {
    let line = line.get(..MAX_LINE).unwrap_or(line);
    let text = String::from_utf8_lossy(line);
    let (start, rest) = text.trim().split_once(' ')?;
    let (size, name) = rest.trim_start().split_once(' ')?;
    let number = |text: &str| {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        u64::from_str_radix(digits, 16).ok()
    };
    let start = number(start)?;
    let end = start.checked_add(number(size)?.max(1))?;
    Some((start, end, name.trim().to_owned())).filter(|(.., name)| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_compilers_write_them() {
        let parsed = |text: &str| parse(text.as_bytes());
        let wanted = Some((0x7f00, 0x7f10, "py::f:/a b.py".to_owned()));
        assert_eq!(parsed("7f00 10 py::f:/a b.py\n"), wanted);
        assert_eq!(parsed("0x7f00 0x10 py::f:/a b.py"), wanted);
        assert_eq!(parsed("1 0 x"), Some((1, 2, "x".into())));
        for bad in [
            "",
            "7f00",
            "7f00 10",
            "7f00 10 ",
            "x 10 f",
            "ffffffffffffffff 10 f",
            "\0\0\0",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[test]
    fn code_that_was_thrown_away_is_forgotten() {
        let mut map = PerfMap::default();
        for (start, end, name) in [(10, 20, "a"), (20, 30, "b"), (30, 40, "c"), (15, 31, "d")] {
            map.add(start, end, name.into());
        }
        let left: Vec<_> = map
            .functions
            .iter()
            .map(|(start, f)| (*start, f.0, f.1.as_str()))
            .collect();
        assert_eq!(left, [(15, 31, "d")]);
        map.add(31, 40, "e".into());
        assert_eq!(map.function(31), Some(("e".into(), 0)));
        assert_eq!(map.function(30), Some(("d".into(), 15)));
        assert_eq!(map.function(40), None);
        assert_eq!(map.function(14), None);
    }
}
