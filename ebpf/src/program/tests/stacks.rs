//! Stacks in records and in keys.

use super::*;
use crate::key::{KeyBytes, KeyValue};
use std::sync::Arc;

fn stack(user: bool, frames: u8) -> Capture {
    Capture::Stack { user, frames }
}

#[test]
fn stacks_are_captured_among_bytes_and_marked_when_cut() {
    for atomics in [true, false] {
        let captures = vec![
            string(Expr::Arg(0), 5),
            stack(true, 3),
            stack(false, 127),
            string(Expr::Arg(0), 20),
        ];
        let mut b = Bench::new(spec(ProbeKind::Entry, Action::Event { captures }), atomics);
        let seen = |b: &Bench, at: usize| {
            b.records(|r| (r.bytes(at).frames().collect::<Vec<_>>(), r.bytes(at).cut))
        };
        for n in [0u64, 2, 3, 4, 127] {
            b.machine
                .kernel(|k| k.frames_of[1] = Some((1..=n).collect()));
            b.hit(&[TEXT]);
        }
        b.machine.kernel(|k| k.frames_of[1] = None);
        b.hit(&[TEXT]);
        assert_eq!(
            seen(&b, 1),
            [
                (vec![], false),
                (vec![1, 2], false),
                (vec![1, 2, 3], false),
                (vec![1, 2, 3], true),
                (vec![1, 2, 3], true),
                (vec![], false)
            ]
        );
        assert!(seen(&b, 2).iter().all(|s| *s == (vec![], false)));
        let text = b"hello, world".to_vec();
        assert!(
            b.records(|r| r.bytes(3).data.to_vec())
                .iter()
                .all(|t| *t == text)
        );
        // At the kernel's own limit it cannot be told.
        for (n, cut) in [(126, false), (127, true)] {
            b.machine
                .kernel(|k| k.frames_of[0] = Some((1..=n).collect()));
            b.hit(&[TEXT]);
            let last = seen(&b, 2).pop().unwrap();
            assert_eq!(last, ((1..=n).collect(), cut));
        }
        assert!(b.machine.scratch_free(b.target.scratch.size));
        assert_eq!(b.counters(), [8, 8, 0, 0, 0]);
    }
}

#[test]
fn a_stack_at_entry_waits_in_the_frame() {
    let captures = vec![Capture::Saved(0), stack(true, 4), Capture::Saved(1)];
    let saved = vec![stack(true, 4), Capture::Int(Expr::Arg(0))];
    let mut b = Bench::new(spec(call(saved), Action::Event { captures }), true);
    b.machine.kernel(|k| k.frames_of[1] = Some(vec![1, 2]));
    b.hit(&[6]);
    b.machine.kernel(|k| k.frames_of[1] = Some(vec![3, 4, 5]));
    b.returns(0);
    let frames = |at| b.records(move |r| r.bytes(at).frames().collect::<Vec<_>>());
    assert_eq!(
        (frames(0), frames(1)),
        (vec![vec![1, 2]], vec![vec![3, 4, 5]])
    );
    assert_eq!(b.records(|r| r.int(2)), [Some(6)]);
}

/// The stacks in the keys, and how often.
fn keys(b: &Bench, layout: &Arc<KeyLayout>) -> Vec<(Vec<u64>, u64)> {
    let mut all = b.machine.kernel(|k| {
        let one = |(key, at): (&Vec<u8>, &u64)| {
            let values = KeyBytes::new(key.clone(), layout.clone()).values();
            let KeyValue::Stack(id) = values[0] else {
                panic!("{values:?}");
            };
            // SAFETY: both values lie in the machine's arena.
            unsafe {
                let frames = match id {
                    0 => vec![],
                    _ => {
                        let kept = k.stacks.entries[&id.to_le_bytes().to_vec()] as *const u64;
                        let count = *kept as usize / 8;
                        std::slice::from_raw_parts(kept.add(1), count).to_vec()
                    }
                };
                (frames, *(*at as *const u64))
            }
        };
        k.table.entries.iter().map(one).collect::<Vec<_>>()
    });
    all.sort();
    all
}

#[test]
fn a_stack_is_a_key_and_one_that_cannot_be_kept_is_dropped() {
    for atomics in [true, false] {
        let key = vec![KeyPart::Stack { user: true }, KeyPart::Int(Expr::Const(1))];
        let layout = Arc::new(KeyLayout::new(&key));
        let mut b = Bench::new(spec(ProbeKind::Entry, Action::Count { key }), atomics);
        let stacks = [
            Some(vec![1, 2, 3]),
            Some(vec![1, 2]),
            Some(vec![1, 2, 3]),
            None,
            Some(vec![]),
            Some(vec![9]),
        ];
        for frames in stacks {
            b.machine.kernel(|k| k.frames_of[1] = frames);
            b.hit(&[]);
        }
        assert_eq!(
            keys(&b, &layout),
            [(vec![], 2), (vec![1, 2], 1), (vec![1, 2, 3], 2)]
        );
        assert_eq!(b.counters(), [6, 0, 5, 0, 1]);
        assert!(b.machine.scratch_free(b.target.scratch.size));
    }
}

#[test]
fn a_stack_in_the_key_leaves_a_calls_frame_and_value_alone() {
    let key = vec![KeyPart::Stack { user: false }, KeyPart::Int(Expr::Saved(0))];
    let layout = Arc::new(KeyLayout::new(&key));
    let action = Action::Stats {
        values: vec![Expr::Saved(0)],
        key,
    };
    let saved = vec![Capture::Int(Expr::Arg(0))];
    let mut b = Bench::new(spec(call(saved), action), true);
    b.machine
        .kernel(|k| k.frames_of[0] = Some((0..127).collect()));
    b.hit(&[42]);
    b.returns(0);
    assert_eq!(keys(&b, &layout), [((0..127).collect(), 1)]);
    let key = b.machine.kernel(|k| k.table.entries.keys().next().cloned());
    let values = KeyBytes::new(key.unwrap(), layout).values();
    assert_eq!(values[1], KeyValue::Int(42));
}

#[test]
fn a_stack_without_frames_is_refused() {
    for frames in [0, 128] {
        let captures = vec![stack(true, frames)];
        let s = spec(ProbeKind::Entry, Action::Event { captures });
        let target = target(&s, true);
        let site = SiteSource::Constant(0);
        let refused = compile(0, &s, Part::Entry, site, &target).unwrap_err();
        assert!(refused.to_string().contains("not 1 to 127"), "{refused}");
    }
}
