//! Rust texts as arguments: tests/types.rs knows the values.

pub struct Request {
    pub path: String,
    pub status: u16,
}

#[inline(never)]
#[unsafe(no_mangle)]
pub fn handle(verb: &str, request: &Request, size: u32) -> usize {
    // Of an argument that nobody looks at the compiler may pass anything.
    std::hint::black_box(verb.as_ptr());
    std::hint::black_box(verb.len() + request.path.len() + size as usize + request.status as usize)
}

fn main() {
    let first = Request { path: String::from("/index.html"), status: 200 };
    let second = Request { path: String::from("/grüße"), status: 404 };
    println!("{}", handle("GET", &first, 17) + handle("DELETE", &second, 0));
}
