//! Where names may be looked for besides the file itself.

use std::path::PathBuf;
use std::time::Duration;

/// How a file is opened: where its separate debug files may lie.
///
/// ```
/// use uprof_symbols::{Image, OpenOptions, find_library_file};
///
/// let options = OpenOptions { debug_dirs: vec!["/srv/debug".into()], ..OpenOptions::default() };
/// let libc = Image::open_with(&find_library_file("libc")?, options)?;
/// assert!(libc.functions()?.len() > 1000);
/// # Ok::<(), uprof_symbols::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Directories of separate debug files, as seen from the root; `/usr/lib/debug` unless told otherwise.
    pub debug_dirs: Vec<PathBuf>,
    /// The root directory of the process that runs the file (`/proc/PID/root`): a container has its own debug
    /// files. Those of this root are looked at after it.
    pub root: Option<PathBuf>,
    /// Servers to ask for debug files that are not on this machine; never asked unless given.
    pub debuginfod: Option<Debuginfod>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            debug_dirs: vec![PathBuf::from("/usr/lib/debug")],
            root: None,
            debuginfod: None,
        }
    }
}

/// debuginfod servers, which give debug files by build ID, and the cache of what they gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debuginfod {
    /// The servers' addresses, asked in order.
    pub urls: Vec<String>,
    /// The cache, in elfutils' layout: `DIR/BUILDID/debuginfo`.
    pub cache: PathBuf,
    /// How long one download may take.
    pub timeout: Duration,
    /// The largest file that is taken, in bytes.
    pub max_size: u64,
}

impl Debuginfod {
    /// Given servers, with the cache where the environment says ($DEBUGINFOD_CACHE_PATH, else `uprof/debuginfod` in
    /// the user's cache directory), 90 seconds and 2 GiB a file.
    pub fn new(urls: Vec<String>) -> Self {
        let dir = |name: &str| std::env::var_os(name).filter(|dir| !dir.is_empty());
        let cache = dir("DEBUGINFOD_CACHE_PATH").map_or_else(
            || {
                let base = dir("XDG_CACHE_HOME").map(PathBuf::from);
                let home = || PathBuf::from(dir("HOME").unwrap_or_else(|| "/tmp".into()));
                base.unwrap_or_else(|| home().join(".cache"))
                    .join("uprof/debuginfod")
            },
            PathBuf::from,
        );
        Self {
            urls,
            cache,
            timeout: Duration::from_secs(90),
            max_size: 2 << 30,
        }
    }

    /// The servers that $DEBUGINFOD_URLS names (split at white space); `None` where it names none.
    pub fn from_environment() -> Option<Self> {
        let urls = std::env::var("DEBUGINFOD_URLS").ok()?;
        let urls: Vec<String> = urls.split_whitespace().map(str::to_owned).collect();
        (!urls.is_empty()).then(|| Self::new(urls))
    }
}
