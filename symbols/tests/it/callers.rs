use std::collections::BTreeSet;

use uprof_symbols::Image;
use uprof_symbols::hazard::{HazardKind, Survey};
use uprof_symbols::image::Function;

use crate::fixtures::{Workshop, installed, one};

const SOURCE: &str = "
#define APART __attribute__((noipa))
APART void *who(void) { return __builtin_return_address(0); }
APART long sums(long n) { volatile long room[40]; for (int i = 0; i < 40; i++) room[i] = n + i; return room[n % 40]; }
APART void *who_with_room(long n) { sums(n); return (char *)__builtin_return_address(0) + sums(n); }
APART long on_stack(long a, long b, long c, long d, long e, long f, long g) { return a + b + c + d + e + f + g; }
APART long plain(long n) { return n + 1; }
int main(int n, char **v) { (void)v; return (long)who() + (long)who_with_room(n) + on_stack(1, 2, 3, 4, 5, 6, n) + plain(n); }
";

fn looks(survey: &Survey, image: &Image, function: &Function) -> bool {
    let hazard = survey.hazard(image, function, false);
    hazard.is_some_and(|h| h.kind == HazardKind::ReadsReturnAddress)
}

#[test]
fn functions_that_look_at_their_return_address() {
    let workshop = Workshop::new();
    for flags in [&["-O0"][..], &["-O2"], &["-Os", "-fcf-protection"]] {
        let path = workshop.gcc("who", "who.c", SOURCE, flags);
        let image = Image::open(&path).unwrap();
        let survey = Survey::of_file(&image, &path).unwrap();
        for (name, expected) in [
            ("who", true),
            ("who_with_room", true),
            ("sums", false),
            ("on_stack", false),
            ("plain", false),
            ("main", false),
        ] {
            let found = looks(&survey, &image, &one(&image, name));
            assert_eq!(found, expected, "{name} {flags:?}");
        }
    }
}

/// What ordinary programs have of them is little: a rule that finds more is wrong.
#[test]
fn few_do() {
    let looking = |path: &str, package: &str| -> (usize, BTreeSet<String>) {
        let path = installed(path, package);
        let image = Image::open(&path).unwrap();
        let survey = Survey::of_file(&image, &path).unwrap();
        // A tenth of the largest is enough.
        let functions = image.functions().unwrap();
        let step = if functions.len() > 10_000 { 10 } else { 1 };
        let some: Vec<_> = functions.iter().step_by(step).collect();
        let found = some.iter().filter(|f| looks(&survey, &image, f));
        (some.len(), found.map(|f| f.display_name()).collect())
    };
    for (path, package) in [
        ("/usr/sbin/nginx", "nginx"),
        ("/usr/bin/redis-server", "redis-server"),
        ("/usr/sbin/mariadbd", "mariadb-server"),
    ] {
        let (all, some) = looking(path, package);
        assert!(all > 500 && some.len() * 1000 < all, "{path}: {some:?}");
    }
    let (_, of_libc) = looking("/lib/x86_64-linux-gnu/libc.so.6", "libc6");
    for name in ["dlsym", "dlopen"] {
        assert!(of_libc.iter().any(|n| n.contains(name)), "{of_libc:?}");
    }
    assert!(of_libc.len() < 60, "{of_libc:?}");
}
