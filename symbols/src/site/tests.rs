use super::*;
use crate::image::{Bounds, NameSource, Part};

const NEW: &str = "6.18.1";
const OLD: &str = "6.1.0";
const ALL: ArgSet = ArgSet::REGISTERS;

fn function(code: &[u8], size: u64) -> Function {
    let end = 0x401000 + code.len() as u64;
    Function {
        names: vec!["f".into()],
        address: 0x401000,
        offset: 0x1000,
        size,
        end,
        undivided: end,
        source: NameSource::Symtab,
        part: Part::Whole,
        bounds: Bounds::Symbol,
    }
}

fn placed(code: &[u8], purpose: Purpose, live: ArgSet, kernel: &str) -> (u64, Cost) {
    let function = function(code, code.len() as u64);
    let site = place_on(
        &function,
        code,
        purpose,
        live,
        &Nowhere,
        Kernel::from_release(kernel),
    )
    .unwrap();
    assert_eq!(site.offset, function.offset + site.moved);
    assert_eq!(site.address, function.address + site.moved);
    (site.moved, site.cost)
}

const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];

fn code(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn the_first_cheap_instruction_is_chosen() {
    use Cost::{Emulated, Nop5, SingleStepped};
    use Purpose::{Entry, EntryReturn};
    let push: &[u8] = &[0x55];
    let ret: &[u8] = &[0xc3];
    let nop5: &[u8] = &[0x0f, 0x1f, 0x44, 0, 0];
    let mov_eax: &[u8] = &[0xb8, 1, 0, 0, 0];
    let sub_rsp: &[u8] = &[0x48, 0x83, 0xec, 0x08];
    let call: &[u8] = &[0xe8, 0, 0, 0, 0];
    let add_rsp: &[u8] = &[0x48, 0x83, 0xc4, 0x08];
    type Case = (
        &'static str,
        Vec<u8>,
        Purpose,
        ArgSet,
        &'static str,
        (u64, Cost),
    );
    let cases: &[Case] = &[
        (
            "push first",
            code(&[push, &[0x5d], ret]),
            EntryReturn,
            ALL,
            NEW,
            (0, Emulated),
        ),
        (
            "endbr64, push",
            code(&[ENDBR64, push, &[0x5d], ret]),
            EntryReturn,
            ALL,
            NEW,
            (4, Emulated),
        ),
        (
            "push r15",
            code(&[ENDBR64, &[0x41, 0x57], &[0x41, 0x5f], ret]),
            EntryReturn,
            ALL,
            NEW,
            (4, Emulated),
        ),
        (
            "a nop that 6.18 turns into a call",
            code(&[nop5, ret]),
            EntryReturn,
            ALL,
            NEW,
            (0, Nop5),
        ),
        (
            "the same, single-stepped before 6.16",
            code(&[nop5, ret]),
            EntryReturn,
            ALL,
            OLD,
            (0, SingleStepped),
        ),
        (
            "old kernels go on to the push",
            code(&[nop5, push, &[0x5d], ret]),
            EntryReturn,
            ALL,
            OLD,
            (5, Emulated),
        ),
        (
            "test, je as in free",
            vec![0x48, 0x85, 0xff, 0x74, 0x01, 0xc3, 0xc3],
            EntryReturn,
            ALL,
            NEW,
            (3, Emulated),
        ),
        (
            "nothing cheap",
            code(&[mov_eax, ret]),
            EntryReturn,
            ALL,
            NEW,
            (0, SingleStepped),
        ),
        (
            "the stack has moved before the call",
            code(&[sub_rsp, call, add_rsp, ret]),
            EntryReturn,
            ALL,
            NEW,
            (0, SingleStepped),
        ),
        (
            "an entry alone does not mind",
            code(&[sub_rsp, call, add_rsp, ret]),
            Entry,
            ALL,
            NEW,
            (4, Emulated),
        ),
        (
            "arguments on the stack do",
            code(&[sub_rsp, call, add_rsp, ret]),
            Entry,
            ArgSet::EMPTY.with(6),
            NEW,
            (0, SingleStepped),
        ),
        (
            "edi written, arg0 wanted",
            code(&[&[0x31, 0xff], push, &[0x5d], ret]),
            Entry,
            ArgSet::EMPTY.with(0),
            NEW,
            (0, SingleStepped),
        ),
        (
            "edi written, arg1 wanted",
            code(&[&[0x31, 0xff], push, &[0x5d], ret]),
            Entry,
            ArgSet::EMPTY.with(1),
            NEW,
            (2, Emulated),
        ),
        (
            "cl is a part of arg3",
            code(&[&[0xb1, 1], push, &[0x5d], ret]),
            Entry,
            ArgSet::EMPTY.with(3),
            NEW,
            (0, SingleStepped),
        ),
        (
            "a store is not passed",
            code(&[&[0xc7, 0x07, 0, 0, 0, 0], push, &[0x5d], ret]),
            Entry,
            ArgSet::EMPTY,
            NEW,
            (0, SingleStepped),
        ),
        (
            "a call through a register is not passed",
            code(&[&[0xff, 0xd0], push, &[0x5d], ret]),
            Entry,
            ArgSet::EMPTY,
            NEW,
            (0, SingleStepped),
        ),
        (
            "only a jump, as in musl's malloc",
            vec![0xe9, 0, 0, 0x10, 0],
            EntryReturn,
            ALL,
            NEW,
            (0, Emulated),
        ),
        (
            "a vector move is refused, the push is not",
            code(&[&[0xc5, 0xf9, 0x6f, 0xc1], push, &[0x5d], ret]),
            Entry,
            ALL,
            NEW,
            (4, Emulated),
        ),
    ];
    for (what, bytes, purpose, live, kernel, expected) in cases {
        assert_eq!(placed(bytes, *purpose, *live, kernel), *expected, "{what}");
    }
}

#[test]
fn nothing_that_a_loop_comes_back_to_is_passed() {
    // mov eax, [rdi]; L: test eax, eax; je +3; dec eax; jmp L; ret
    let looped = [
        0x8b, 0x07, 0x85, 0xc0, 0x74, 0x04, 0xff, 0xc8, 0xeb, 0xf8, 0xc3,
    ];
    assert_eq!(
        placed(&looped, Purpose::Entry, ALL, NEW),
        (0, Cost::SingleStepped)
    );
    // without the jump back the je is fine
    let straight = [
        0x8b, 0x07, 0x85, 0xc0, 0x74, 0x04, 0xff, 0xc8, 0x90, 0x90, 0xc3,
    ];
    assert_eq!(
        placed(&straight, Purpose::Entry, ALL, NEW),
        (4, Cost::Emulated)
    );
    // je to outside: a cold part that may jump back anywhere
    let cold = [0x8b, 0x07, 0x85, 0xc0, 0x0f, 0x84, 0, 0, 0x10, 0, 0xc3];
    assert_eq!(
        placed(&cold, Purpose::Entry, ALL, NEW),
        (0, Cost::SingleStepped)
    );
    // a jump back to behind endbr64
    let tail = code(&[ENDBR64, &[0x55, 0x5d, 0xeb, 0xfc]]);
    assert_eq!(
        placed(&tail, Purpose::EntryReturn, ALL, NEW),
        (0, Cost::SingleStepped)
    );
}

#[test]
fn a_branch_that_only_leads_back_to_the_start_is_passed() {
    // cmp rsp, [r14+0x10]; jbe L; sub rsp, 8; add rsp, 8; ret; L: mov [rsp+8], rax; call; mov rax, [rsp+8]; jmp start
    let mut grows = code(&[
        &[0x49, 0x3b, 0x66, 0x10, 0x76, 0x09],
        &[0x48, 0x83, 0xec, 0x08, 0x48, 0x83, 0xc4, 0x08, 0xc3],
        &[0x48, 0x89, 0x44, 0x24, 0x08, 0xe8, 0, 0, 0, 0],
        &[0x48, 0x8b, 0x44, 0x24, 0x08, 0xeb, 0xe0],
    ]);
    for purpose in [Purpose::Entry, Purpose::EntryReturn] {
        let expected = (6, Cost::SingleStepped);
        assert_eq!(placed(&grows, purpose, ALL, NEW), expected);
    }
    // the same with a push behind it, as Go has it since 1.21
    let mut pushes = grows.clone();
    pushes[6..10].copy_from_slice(&[0x55, 0x0f, 0x1f, 0x00]);
    let expected = (6, Cost::Emulated);
    assert_eq!(placed(&pushes, Purpose::EntryReturn, ALL, NEW), expected);
    // one that changes an argument (sub rdi, 1; nop) is a call of itself: the place is before the branch
    let mut calls_itself = pushes.clone();
    calls_itself[15..20].copy_from_slice(&[0x48, 0x83, 0xef, 0x01, 0x90]);
    assert_eq!(placed(&calls_itself, Purpose::Entry, ALL, NEW).0, 4);
    // a way that ends otherwise is another way through the function: the branch itself is the best place
    let last = grows.len() - 1;
    grows[last] = 0xee;
    let expected = (4, Cost::Emulated);
    assert_eq!(placed(&grows, Purpose::Entry, ALL, NEW), expected);
    // an argument that is wanted is overwritten before the branch: today's place remains
    let mut clobbers = pushes.clone();
    clobbers.splice(0..0, [0x31, 0xff]);
    let last = clobbers.len() - 1;
    clobbers[last] = 0xde;
    assert_eq!(placed(&clobbers, Purpose::Entry, ALL, NEW).0, 0);
    let other = ArgSet::EMPTY.with(1);
    assert_eq!(placed(&clobbers, Purpose::Entry, other, NEW).0, 8);
}

/// Each time round is a call that ends by calling itself: the place before the branch counts it, the jump back ends it.
#[test]
fn a_branch_that_no_stack_asks_for_is_not_passed() {
    // test rdi, rdi; jne L; push rbp; pop rbp; ret; L: dec rdi; jmp start
    let calls_itself = code(&[
        &[0x48, 0x85, 0xff, 0x75, 0x03, 0x55, 0x5d, 0xc3],
        &[0x48, 0xff, 0xcf, 0xeb, 0xf3],
    ]);
    for purpose in [Purpose::Entry, Purpose::EntryReturn] {
        let expected = (3, Cost::Emulated);
        assert_eq!(placed(&calls_itself, purpose, ALL, NEW), expected);
    }
}

#[test]
fn without_bounds_only_the_landing_pad_is_passed() {
    let bytes = code(&[ENDBR64, &[0x55, 0x5d, 0xc3]]);
    let site = place(&function(&bytes, 0), &bytes, Purpose::EntryReturn, ALL).unwrap();
    assert_eq!(site.moved, 4);
    let bytes = [0xb8, 1, 0, 0, 0, 0x55, 0x5d, 0xc3];
    let site = place(&function(&bytes, 0), &bytes, Purpose::EntryReturn, ALL).unwrap();
    assert_eq!((site.moved, site.cost), (0, Cost::SingleStepped));
}

#[test]
fn another_symbol_inside_is_not_crossed() {
    let bytes = code(&[ENDBR64, &[0x55, 0x5d, 0xc3]]);
    let mut function = function(&bytes, bytes.len() as u64);
    function.undivided = function.address + 4;
    let site = place(&function, &bytes, Purpose::EntryReturn, ALL).unwrap();
    assert_eq!(site.moved, 0);
}

#[test]
fn what_the_kernel_refuses_is_refused_with_a_reason() {
    for (bytes, word) in [
        (&[0xf0, 0x0f, 0xb1, 0x07, 0xc3][..], "prefix"),
        (
            &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, 0xc3],
            "prefix",
        ),
        (&[0xcc, 0xc3], "does not probe"),
        (&[0x49, 0x90, 0xc3], "nop"),
    ] {
        let function = function(bytes, bytes.len() as u64);
        let error = at_offset(&function, bytes, 0).unwrap_err();
        assert!(matches!(error, Error::Unprobeable { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn an_offset_inside_an_instruction_names_its_neighbours() {
    let bytes = [0x55, 0xb8, 1, 0, 0, 0, 0x5d, 0xc3];
    let function = function(&bytes, bytes.len() as u64);
    let at = |add| at_offset(&function, &bytes, add);
    assert_eq!(at(1).unwrap().offset, 0x1001);
    let message = at(3).unwrap_err().to_string();
    assert!(
        message.contains("f+0x3") && message.contains("+0x1") && message.contains("+0x6"),
        "{message}"
    );
    assert!(message.contains("mov eax"), "{message}");
    assert!(matches!(at(8), Err(Error::PastEnd { size: 8, .. })));
    assert!(matches!(at(u64::MAX), Err(Error::PastEnd { .. })));
    // code that was given only in part
    assert!(matches!(
        at_offset(&function, &bytes[..3], 6),
        Err(Error::Undecodable { .. })
    ));
}

/// Surroundings that make no sense, but are the same whenever they are asked.
struct Scrap<'a> {
    seed: u8,
    code: &'a [u8],
}

impl Scrap<'_> {
    fn pick(&self, address: u64) -> u64 {
        (address ^ u64::from(self.seed)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60
    }
}

impl Neighbours for Scrap<'_> {
    fn target(&self, _: &Function, address: u64) -> Target {
        let start = address.saturating_sub(self.pick(address));
        let range = start..start.saturating_add(self.code.len() as u64);
        match self.pick(address) % 5 {
            0 => Target::Function(range),
            1 => Target::Piece(range),
            2 => Target::Nameless(range),
            3 => Target::Piece(0..u64::MAX),
            _ => Target::Unknown,
        }
    }

    fn frame_at(&self, address: u64) -> Option<(u16, i64)> {
        let frames = [None, Some((7, 8)), Some((6, 16)), Some((7, i64::MIN))];
        frames[self.pick(address) as usize % 4]
    }

    fn code(&self, _: &std::ops::Range<u64>) -> Vec<u8> {
        self.code.to_vec()
    }

    fn word(&self, address: u64) -> Option<u64> {
        (self.pick(address) > 7).then_some(0x401000 + self.pick(address))
    }

    fn offset(&self, address: u64) -> Option<u64> {
        address.checked_sub(0x400000)
    }
}

/// A fixed linear congruence: the same bytes in every run.
fn bytes_of_chance() -> impl FnMut() -> u8 {
    let mut seed = 1u64;
    move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u8
    }
}

#[test]
fn any_bytes_are_survived() {
    let mut next = bytes_of_chance();
    for len in 0..4000usize {
        let bytes: Vec<u8> = (0..len % 80).map(|_| next()).collect();
        let function = function(&bytes, bytes.len() as u64);
        if let Ok(site) = place(&function, &bytes, Purpose::Entry, ALL) {
            assert!(site.moved < bytes.len() as u64);
        }
        let _ = at_offset(&function, &bytes, u64::from(next()) % 80);
        let around = Scrap {
            seed: next(),
            code: &bytes,
        };
        if let Ok(found) = exits(&function, &bytes, &around, Kernel::from_release(NEW)) {
            assert!(found.is_sorted_by_key(|exit| exit.address));
        }
    }
    let empty = function(&[], 0);
    assert!(place(&empty, &[], Purpose::Entry, ALL).is_err());
}

/// Code that jumps anywhere, between the bounds and past them.
#[test]
fn any_jumps_are_survived() {
    const PARTS: [&[u8]; 16] = [
        &[0xc3],
        &[0xc2, 8, 0],
        &[0x55],
        &[0x5d],
        &[0xc9],
        &[0x48, 0x89, 0xe5],
        &[0x48, 0x83, 0xec, 8],
        &[0x48, 0x83, 0xc4, 8],
        &[0x48, 0x8d, 0x65, 0xf8],
        &[0xff, 0xe0],
        &[0x48, 0x63, 0x04, 0x82],
        &[0x48, 0x01, 0xd0],
        &[0xff, 0x24, 0xc5, 0, 0x10, 0x40, 0],
        &[0x31, 0xc0],
        &[0xeb],
        &[0x74],
    ];
    let mut next = bytes_of_chance();
    let (mut left, mut refused) = (0, 0);
    for len in 1..4000usize {
        let mut bytes = Vec::new();
        for _ in 0..len % 40 {
            let part = PARTS[usize::from(next()) % PARTS.len()];
            bytes.extend_from_slice(part);
            if matches!(part, [0xeb | 0x74]) {
                bytes.push(next() >> 3);
            }
        }
        let function = function(&bytes, bytes.len() as u64);
        let around = Scrap {
            seed: next(),
            code: &bytes,
        };
        match exits(&function, &bytes, &around, Kernel::from_release(NEW)) {
            Ok(found) => {
                assert!(found.is_sorted_by_key(|exit| exit.address));
                left += found.len();
            }
            Err(_) => refused += 1,
        }
        let _ = place(&function, &bytes, Purpose::EntryReturn, ALL);
    }
    assert!(left > 1000 && refused > 100, "{left} {refused}");
}
