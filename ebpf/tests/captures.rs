//! Strings and buffers: whole, cut at their limit, or up to the memory that cannot be read.

mod common;

use std::ffi::c_char;
use std::hint::black_box;

use common::*;
use uprof_ebpf::expr::{BinOp, Expr};
use uprof_ebpf::{Action, Capture, EngineOptions};

#[inline(never)]
extern "C" fn add(a: u64, b: u64) -> u64 {
    black_box(a).wrapping_add(black_box(b))
}

#[inline(never)]
extern "C" fn takes_text(text: *const c_char, len: u64) -> u64 {
    black_box(text) as u64 ^ black_box(len)
}

fn in_threads(threads: u64, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(&work);
        }
    });
}

/// Two pages, the second of which cannot be read.
struct Edge {
    start: *mut u8,
    pages: usize,
}

impl Edge {
    const PAGE: usize = 4096;

    fn new(pages: usize) -> Edge {
        let bytes = (pages + 1) * Self::PAGE;
        // SAFETY: a fresh mapping.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        // SAFETY: the last page of the mapping just made.
        unsafe {
            std::ptr::write_bytes(start.cast::<u8>(), b'x', bytes);
            libc::mprotect(start.add(pages * Self::PAGE), Self::PAGE, libc::PROT_NONE);
        }
        Edge {
            start: start.cast(),
            pages,
        }
    }

    /// The address `bytes` before the unreadable page.
    fn before_end(&self, bytes: usize) -> *const c_char {
        // SAFETY: inside the mapping.
        unsafe { self.start.add(self.pages * Self::PAGE - bytes).cast() }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { libc::munmap(self.start.cast(), (self.pages + 1) * Self::PAGE) };
    }
}

/// What `takes_text` was seen with: bytes, cut, fault.
type Text = (Vec<u8>, bool, bool);

fn capture_texts(
    way: &str,
    options: &EngineOptions,
    at_entry: bool,
    capture: Capture,
    run: impl FnOnce(),
) -> Vec<Text> {
    let spec = if at_entry {
        entry(Action::Event {
            captures: vec![capture, Capture::Int(arg(1))],
        })
    } else {
        call(
            vec![capture, Capture::Int(arg(1))],
            Action::Event {
                captures: vec![Capture::Saved(0), Capture::Saved(1)],
            },
        )
    };
    let options = EngineOptions {
        ring_bytes: 4 << 20,
        ..options.clone()
    };
    let mut engine = load(spec, &options);
    attach(&mut engine, takes_text as *const () as usize);
    run();
    engine.detach();
    let mut texts = Vec::new();
    engine
        .drain(|r| {
            let b = r.bytes(0);
            assert!(r.int(1).is_some(), "{way}");
            texts.push((b.data.to_vec(), b.cut, b.fault));
        })
        .unwrap();
    let c = engine.counters(0);
    assert_eq!(
        (c.hits, c.emitted as usize),
        (texts.len() as u64, texts.len()),
        "{way}"
    );
    texts
}

#[test]
fn strings_of_all_lengths_come_whole_or_marked_as_cut() {
    let _alone = alone();
    for (way, options) in ways() {
        for at_entry in [true, false] {
            for limit in [1usize, 7, 64, 1024, 4096, 10000, 65536] {
                let capture = Capture::Str {
                    addr: arg(0),
                    len: None,
                    limit: limit as u32,
                };
                let lengths: Vec<usize> =
                    [0, 1, limit - 1, limit, limit + 1, limit + 2, limit + 5000].into();
                let texts: Vec<Vec<u8>> = lengths
                    .iter()
                    .map(|n| {
                        let mut t: Vec<u8> = (0..*n).map(|i| b'a' + (i % 26) as u8).collect();
                        t.push(0);
                        t
                    })
                    .collect();
                let got = capture_texts(way, &options, at_entry, capture, || {
                    for t in &texts {
                        takes_text(t.as_ptr().cast(), 0);
                    }
                });
                let expected: Vec<Text> = texts
                    .iter()
                    .map(|t| {
                        let text = &t[..t.len() - 1];
                        (
                            text[..text.len().min(limit)].to_vec(),
                            text.len() > limit,
                            false,
                        )
                    })
                    .collect();
                let brief = |texts: &[Text]| -> Vec<(usize, bool, bool)> {
                    let brief = |(text, cut, fault): &Text| (text.len(), *cut, *fault);
                    texts.iter().map(brief).collect()
                };
                assert!(
                    got == expected,
                    "{way}, limit {limit}, at entry {at_entry}: (length, cut, fault) {:?}, expected {:?}",
                    brief(&got),
                    brief(&expected)
                );
            }
        }
    }
}

#[test]
fn buffers_keep_their_nuls_and_are_cut_at_the_limit() {
    let _alone = alone();
    let data: Vec<u8> = (0..70000u32).map(|i| (i % 7) as u8).collect();
    for (way, options) in ways() {
        for at_entry in [true, false] {
            for limit in [16usize, 5000, 65536] {
                let capture = Capture::Buf {
                    addr: arg(0),
                    len: arg(1),
                    limit: limit as u32,
                };
                let lengths = [0, 1, limit - 1, limit, limit + 1, 70000];
                let got = capture_texts(way, &options, at_entry, capture, || {
                    for n in lengths {
                        takes_text(data.as_ptr().cast(), n as u64);
                    }
                });
                let expected: Vec<Text> = lengths
                    .iter()
                    .map(|n| (data[..*n.min(&limit)].to_vec(), *n > limit, false))
                    .collect();
                assert!(got == expected, "{way}, limit {limit}, at entry {at_entry}");
            }
        }
    }
}

#[test]
fn memory_is_read_up_to_the_page_that_faults() {
    let _alone = alone();
    let edge = Edge::new(5);
    for (way, options) in ways() {
        for at_entry in [true, false] {
            let null = |len| {
                let addr = Expr::Const(0x10);
                vec![
                    Capture::Str {
                        addr: addr.clone(),
                        len: None,
                        limit: len,
                    },
                    Capture::Buf {
                        addr,
                        len: int(5),
                        limit: len,
                    },
                ]
            };
            for capture in null(100) {
                let got = capture_texts(way, &options, at_entry, capture, || {
                    takes_text(std::ptr::null(), 0);
                });
                assert_eq!(got, [(vec![], false, true)], "{way}");
            }
            for (limit, befores) in [
                (100, &[40, 1][..]),
                (4096, &[4000]),
                (20000, &[5, 3000, 9000]),
            ] {
                let more = op(BinOp::Add, arg(1), int(1));
                let captures = [
                    Capture::Str {
                        addr: arg(0),
                        len: None,
                        limit,
                    },
                    Capture::Buf {
                        addr: arg(0),
                        len: int(u64::from(limit)),
                        limit,
                    },
                    Capture::Buf {
                        addr: arg(0),
                        len: more,
                        limit,
                    },
                ];
                for capture in captures {
                    let got = capture_texts(way, &options, at_entry, capture, || {
                        for before in befores {
                            takes_text(edge.before_end(*before), *before as u64);
                        }
                    });
                    let expected: Vec<Text> = befores
                        .iter()
                        .map(|n| (vec![b'x'; *n], false, true))
                        .collect();
                    assert!(got == expected, "{way}, limit {limit}, at entry {at_entry}");
                }
            }
        }
    }
}

#[test]
fn several_strings_follow_each_other_and_the_returns_come_last() {
    let _alone = alone();
    for (way, options) in ways() {
        let text = |limit| Capture::Str {
            addr: arg(0),
            len: None,
            limit,
        };
        let spec = call(
            vec![text(4), Capture::Int(arg(1)), text(100)],
            Action::Event {
                captures: vec![
                    Capture::Str {
                        addr: Expr::Saved(1),
                        len: None,
                        limit: 50,
                    },
                    Capture::Saved(2),
                    Capture::Saved(0),
                    Capture::Saved(1),
                ],
            },
        );
        let mut engine = load(spec, &options);
        attach(&mut engine, takes_text as *const () as usize);
        // On the stack, hence in memory: a page of the file that nobody has read yet cannot be read by a probe.
        let (first, second) = (*b"the first\0", *b"second\0");
        takes_text(
            black_box(&first).as_ptr().cast(),
            black_box(&second).as_ptr() as u64,
        );
        engine.detach();
        let mut seen = 0;
        engine
            .drain(|r| {
                assert_eq!(
                    (r.bytes(0).data, r.bytes(0).cut),
                    (&b"second"[..], false),
                    "{way}"
                );
                assert_eq!(
                    (r.bytes(1).data, r.bytes(1).cut),
                    (&b"the first"[..], false),
                    "{way}"
                );
                assert_eq!(
                    (r.bytes(2).data, r.bytes(2).cut),
                    (&b"the "[..], true),
                    "{way}"
                );
                assert_eq!(r.int(3), Some(second.as_ptr() as u64), "{way}");
                seen += 1;
            })
            .unwrap();
        assert_eq!(seen, 1, "{way}");
    }
}

#[test]
fn a_return_can_capture_a_string_without_anything_saved() {
    let _alone = alone();
    for (way, options) in ways() {
        let captures = vec![Capture::Str {
            addr: Expr::Retval,
            len: None,
            limit: 100,
        }];
        let mut engine = load(call(vec![], Action::Event { captures }), &options);
        attach(&mut engine, add as *const () as usize);
        let text = resident(c"returned") as u64;
        in_threads(8, || {
            for _ in 0..100 {
                black_box(add(text - 7, 7));
            }
        });
        engine.detach();
        let mut seen = 0;
        engine
            .drain(|r| {
                assert_eq!(r.bytes(0).data, b"returned", "{way}");
                seen += 1;
            })
            .unwrap();
        assert_eq!(seen, 800, "{way}: {:?}", engine.counters(0));
    }
}
