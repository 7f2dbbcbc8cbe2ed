//! Debug files from debuginfod servers, kept in a cache that elfutils' tools understand as well
//! (debuginfod(8), debuginfod-client-config(7)).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use crate::image::Debuginfod;

/// That no server has a file is kept as an empty one, and asked again after this time (elfutils' `cache_miss_s`).
const MISS_LASTS: Duration = Duration::from_secs(600);
/// The name of debug files in the cache, and the last part of their addresses.
const KIND: &str = "debuginfo";

/// What asking came to.
pub(super) enum Answer {
    /// The file, in the cache.
    Found(PathBuf),
    /// No server has it.
    None,
    /// It cannot be told; why.
    Failed(Vec<String>),
}

impl Debuginfod {
    /// The debug file of a build, from the cache or the first server that has it. ID in hexadecimal.
    pub(super) fn ask(&self, id: &str) -> Answer {
        let dir = self.cache.join(id);
        let path = dir.join(KIND);
        if let Ok(metadata) = fs::metadata(&path) {
            let age = metadata.modified().ok();
            let age = age.and_then(|at| SystemTime::now().duration_since(at).ok());
            match metadata.len() {
                0 if age.is_some_and(|age| age < MISS_LASTS) => return Answer::None,
                0 => {}
                _ => return Answer::Found(path),
            }
        }
        let mut failures = Vec::new();
        for url in &self.urls {
            let url = format!("{}/buildid/{id}/{KIND}", url.trim_end_matches('/'));
            match self.download(&url, &path) {
                Ok(true) => return Answer::Found(path),
                Ok(false) => {}
                Err(why) => failures.push(format!("cannot get {url}: {why}")),
            }
        }
        if !failures.is_empty() {
            return Answer::Failed(failures);
        }
        let kept = fs::create_dir_all(&dir).and_then(|()| File::create(&path));
        match kept {
            Ok(_) => Answer::None,
            Err(error) => Answer::Failed(vec![format!("cannot write {}: {error}", path.display())]),
        }
    }

    /// Forgets a file that turned out to be wrong.
    pub(super) fn forget(&self, path: &Path) {
        if path.starts_with(&self.cache) {
            let _ = fs::remove_file(path);
        }
    }

    /// Whether the server has it; then it is at PATH, whole.
    fn download(&self, url: &str, path: &Path) -> Result<bool, String> {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(self.timeout))
            .http_status_as_error(false)
            .user_agent(concat!("uprof/", env!("CARGO_PKG_VERSION")))
            .build();
        let mut response = ureq::Agent::new_with_config(config)
            .get(url)
            .call()
            .map_err(|error| error.to_string())?;
        match response.status().as_u16() {
            200 => {}
            404 => return Ok(false),
            other => return Err(format!("the server answers {other}")),
        }
        let body = response.body_mut().with_config().limit(u64::MAX).reader();
        let mut body = body.take(self.max_size.saturating_add(1));
        let partial = Partial::beside(path).map_err(|error| error.to_string())?;
        let size = io::copy(&mut body, &mut &partial.file).map_err(|error| error.to_string())?;
        if size > self.max_size {
            return Err(format!("it is larger than {} bytes", self.max_size));
        }
        if size == 0 {
            return Ok(false);
        }
        partial.finish(path).map_err(|error| error.to_string())?;
        Ok(true)
    }
}

/// A file that is being written, under a name of its own: nobody finds half of it. It goes away unless finished.
struct Partial {
    path: PathBuf,
    file: File,
    done: bool,
}

impl Partial {
    fn beside(path: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = path.with_extension(format!("{}.{number}", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok(Self {
            path,
            file,
            done: false,
        })
    }

    fn finish(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.path);
        }
    }
}
