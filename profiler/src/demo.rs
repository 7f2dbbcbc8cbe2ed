//! `uprof demo`: King, a small program to profile that needs nothing installed.
//!
//! King is uprof itself, started again with the hidden subcommand [`SUBCOMMAND`]. For some seconds it
//! allocates and frees, computes, and opens and closes TCP connections to itself over loopback, using
//! about a quarter of one core. Its functions are exported under plain names, so that the ordinary commands
//! find them: nothing in the profile is staged.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::time::{Duration, Instant};

/// The hidden subcommand: `uprof __king SECONDS`.
pub const SUBCOMMAND: &str = "__king";
/// `king_compute(n) -> checksum`: microseconds to a few milliseconds, growing with `n`.
pub const COMPUTE: &str = "king_compute";
/// `king_request(port, size) -> bytes received`, the client's side of one connection.
pub const REQUEST: &str = "king_request";
/// `king_serve(fd) -> bytes sent`, the server's side of one connection.
pub const SERVE: &str = "king_serve";

/// What the demo shows, told before it starts.
pub const NARRATIVE: &str = "\
King is a small program inside uprof, started for this demo and named like the one in the tutorials.
For a few seconds it does three things over and over:
  it allocates and frees memory of many sizes       -> malloc: calls and sizes, from inside the kernel
  it computes, sometimes briefly, sometimes longer  -> king_compute: how long each call took
  it opens and closes TCP connections to itself     -> king_request, king_serve: both sides of each
King was not built for profiling and is not restarted for it: the same works on your programs.
";

/// A round: some work, then rest for what is left of it.
const ROUND: Duration = Duration::from_millis(1);

/// Is King for so many seconds.
///
/// # Errors
/// The listener on loopback or a thread could not be made.
pub fn king(seconds: f64) -> io::Result<()> {
    let time = Duration::try_from_secs_f64(seconds).map_err(|e| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{seconds} seconds: {e}"),
        )
    })?;
    // SAFETY: PR_SET_NAME reads a NUL-terminated string of at most 16 bytes. Threads inherit the name.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"King".as_ptr()) };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let server = std::thread::Builder::new().spawn(move || serve_until_told(&listener))?;
    // Through pointers that the compiler cannot see through: a known callee might be changed to fit its only
    // caller, and then its arguments would not be where a probe looks.
    let compute: extern "C" fn(u64) -> u64 = black_box(king_compute);
    let request: extern "C" fn(u16, u32) -> i64 = black_box(king_request);

    let end = Instant::now() + time;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut memory = Memory::default();
    for round in 0u64.. {
        let start = Instant::now();
        if start >= end {
            break;
        }
        memory.work(&mut random, 20);
        // Mostly brief, each 16th a thousand times longer: a distribution worth looking at.
        black_box(compute(if round % 16 == 15 {
            1000 + random.below(2000)
        } else {
            1 + random.below(300)
        }));
        if round % 2 == 0 {
            black_box(request(port, 64 << random.below(9)));
        }
        // Never longer than what is left of the time.
        let rest = ROUND.saturating_sub(start.elapsed());
        std::thread::sleep(rest.min(end.saturating_duration_since(Instant::now())));
    }
    drop(memory);
    request(port, 0);
    server
        .join()
        .map_err(|_| io::Error::other("the server's thread panicked"))
}

/// Computes for a time that grows with `n`: about a microsecond each.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn king_compute(n: u64) -> u64 {
    let mut x = n | 1;
    for _ in 0..n.saturating_mul(500) {
        // xorshift: each step needs the one before, so the loop stays a loop.
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    x
}

/// One connection from the client's side: connects, asks for `size` bytes, reads them, closes. Returns the
/// bytes received, or -1.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn king_request(port: u16, size: u32) -> i64 {
    let exchange = || -> io::Result<u64> {
        let mut stream =
            TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&size.to_ne_bytes())?;
        io::copy(&mut stream, &mut io::sink())
    };
    exchange().map_or(-1, |received| received as i64)
}

/// One connection from the server's side: reads a size from the socket `fd`, sends so many bytes, closes.
/// Returns the bytes sent: 0 when the client says that it is done, -1 on an error.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn king_serve(fd: i32) -> i64 {
    // SAFETY: the one caller gives away a connection's descriptor that it owned; closed here.
    let mut stream = unsafe { TcpStream::from_raw_fd(fd) };
    let mut exchange = || -> io::Result<u32> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut size = [0; 4];
        stream.read_exact(&mut size)?;
        let size = u32::from_ne_bytes(size);
        stream.write_all(&vec![b'K'; size as usize])?;
        Ok(size)
    };
    exchange().map_or(-1, i64::from)
}

/// Loopback answers in microseconds; a firewall that drops it must not hang the demo.
const PATIENCE: Duration = Duration::from_secs(1);

/// Serves one connection after another until a client asks for nothing.
fn serve_until_told(listener: &TcpListener) {
    let serve: extern "C" fn(i32) -> i64 = black_box(king_serve);
    while let Ok((stream, _)) = listener.accept() {
        if serve(stream.into_raw_fd()) == 0 {
            break;
        }
    }
}

/// Blocks from malloc, freed in another order than they came.
#[derive(Default)]
struct Memory(Vec<*mut libc::c_void>);

impl Memory {
    /// At most this many blocks live at once.
    const MOST: usize = 256;

    fn work(&mut self, random: &mut Random, blocks: u64) {
        for _ in 0..blocks {
            // 16 bytes to 32 KiB, small ones more often.
            let most = 16 << random.below(12);
            let size = 16 + random.below(most);
            // SAFETY: malloc takes any size; black_box keeps the pair from being optimised away.
            let block = black_box(unsafe { libc::malloc(size as usize) });
            if !block.is_null() {
                self.0.push(block);
            }
            if self.0.len() > Memory::MOST || (random.below(2) == 0 && !self.0.is_empty()) {
                let block = self
                    .0
                    .swap_remove(random.below(self.0.len() as u64) as usize);
                // SAFETY: from malloc above, and out of the list: freed once.
                unsafe { libc::free(block) };
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for block in self.0.drain(..) {
            // SAFETY: from malloc in `work`, each in the list once.
            unsafe { libc::free(block) };
        }
    }
}

/// xorshift64: the same run every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_carries_what_was_asked_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || serve_until_told(&listener));
        assert_eq!(king_request(port, 1), 1);
        assert_eq!(king_request(port, 100_000), 100_000);
        assert_eq!(king_request(port, 0), 0);
        server.join().unwrap();
        // Nobody listens any more.
        assert_eq!(king_request(port, 1), -1);
    }

    #[test]
    fn computing_grows_with_n_and_is_the_same_each_time() {
        assert_eq!(king_compute(10), king_compute(10));
        assert_ne!(king_compute(10), king_compute(11));
        let time = |n| {
            let start = Instant::now();
            black_box(king_compute(black_box(n)));
            start.elapsed()
        };
        let short = (0..5).map(|_| time(10)).min();
        assert!((0..5).map(|_| time(1000)).min() > short.map(|t| t * 20));
    }

    #[test]
    fn king_ends_in_time_and_gives_back_its_memory() {
        // On a thread of its own: it renames the thread that it runs on.
        let start = Instant::now();
        std::thread::spawn(|| {
            king(0.3).unwrap();
            let comm = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
            assert_eq!(comm.trim(), "King");
        })
        .join()
        .unwrap();
        let took = start.elapsed();
        assert!(
            took >= Duration::from_millis(300) && took < Duration::from_secs(5),
            "{took:?}"
        );
        assert!(king(-1.0).is_err() && king(f64::NAN).is_err());
    }

    #[test]
    fn blocks_stay_bounded() {
        let (mut memory, mut random) = (Memory::default(), Random(7));
        for _ in 0..100 {
            memory.work(&mut random, 100);
        }
        assert!(memory.0.len() <= Memory::MOST);
        assert!(
            NARRATIVE.contains(COMPUTE) && NARRATIVE.contains(REQUEST) && NARRATIVE.contains(SERVE)
        );
    }
}
