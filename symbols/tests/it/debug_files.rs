//! Names that are kept apart from the code: every way of finding them, and what must not be believed.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use uprof_symbols::debug::FoundBy;
use uprof_symbols::image::{Debuginfod, SourceReport};
use uprof_symbols::{Image, NameSource, OpenOptions};

use crate::fixtures::{Workshop, find, one, run};

const SOURCE: &str = "static __attribute__((noipa)) int hidden(int x) { return x + 42; }\n\
    int main(int c, char **v) { (void)v; return hidden(c); }\n";

/// A program in parts: whole, stripped, and its debug file, each under the name given here.
struct Parts {
    whole: PathBuf,
    stripped: PathBuf,
    debug: PathBuf,
}

fn tool(name: &str, args: &[&Path]) {
    run(name, Command::new(name).args(args));
}

fn parts(workshop: &Workshop, flags: &[&str]) -> Parts {
    let flags = [&["-g", "-O1"], flags].concat();
    let whole = workshop.gcc("whole", "hidden.c", SOURCE, &flags);
    let (stripped, debug) = (workshop.path("stripped"), workshop.path("stripped.debug"));
    tool("objcopy", &["--only-keep-debug".as_ref(), &whole, &debug]);
    tool("strip", &["-o".as_ref(), &stripped, &whole]);
    Parts {
        whole,
        stripped,
        debug,
    }
}

/// `.build-id/ab/cdef.debug` of the program, made below DIR.
fn place_by_build_id(dir: &Path, program: &Path, debug: &Path) -> PathBuf {
    let id = Image::open(program).unwrap().build_id().unwrap();
    let at = dir.join(format!(".build-id/{}/{}.debug", &id[..2], &id[2..]));
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::copy(debug, &at).unwrap();
    at
}

fn options(debug_dir: impl Into<PathBuf>) -> OpenOptions {
    OpenOptions {
        debug_dirs: vec![debug_dir.into()],
        ..OpenOptions::default()
    }
}

fn open(path: &Path, options: OpenOptions) -> Image {
    Image::open_with(path, options).unwrap()
}

fn report(image: &Image, source: NameSource) -> SourceReport {
    let mut reports = image.sources().unwrap().into_iter();
    reports.find(|report| report.source == source).unwrap()
}

/// The hidden function is where the whole program says, and comes from SOURCE.
fn knows_hidden(image: &Image, parts: &Parts, source: NameSource) {
    let (found, true_one) = (
        one(image, "hidden"),
        one(&Image::open(&parts.whole).unwrap(), "hidden"),
    );
    assert_eq!(
        (found.address, found.offset, found.size),
        (true_one.address, true_one.offset, true_one.size)
    );
    assert_eq!(
        (found.source, true_one.source),
        (source, NameSource::Symtab)
    );
    assert!(image.functions().unwrap().contains(&found));
}

fn does_not_know_hidden(image: &Image) {
    let named = image.functions().unwrap();
    assert!(named.iter().all(|f| f.name() != "hidden"), "{named:?}");
}

#[test]
fn by_build_id() {
    let workshop = Workshop::new();
    let parts = parts(&workshop, &["-Wl,--build-id"]);
    let dir = workshop.path("debug");
    does_not_know_hidden(&open(&parts.stripped, options(&dir)));
    let at = place_by_build_id(&dir, &parts.whole, &parts.debug);
    let image = open(&parts.stripped, options(&dir));
    knows_hidden(&image, &parts, NameSource::DebugFile);
    let file = image.debug_file().unwrap();
    assert_eq!(
        (file.path(), file.found_by()),
        (at.as_path(), FoundBy::BuildId)
    );
    assert_eq!(report(&image, NameSource::DebugFile).path, Some(at.clone()));

    // another build's file under this build's name
    let other = workshop.gcc("other", "other.c", "int main(void) { return 3; }", &["-g"]);
    fs::copy(&other, &at).unwrap();
    let image = open(&parts.stripped, options(&dir));
    does_not_know_hidden(&image);
    assert!(image.debug_file().is_none());
    let notes = report(&image, NameSource::DebugFile).notes.join("\n");
    let id = Image::open(&other).unwrap().build_id().unwrap();
    assert!(
        notes.contains("another build's")
            && notes.contains(&id)
            && notes.contains(at.to_str().unwrap()),
        "{notes}"
    );

    // no ELF file at all, and one that is cut short
    for (bytes, word) in [
        (b"nothing of use".to_vec(), "not an ELF"),
        (
            fs::read(&parts.debug).unwrap()[..1000].to_vec(),
            "cut short",
        ),
    ] {
        fs::write(&at, bytes).unwrap();
        let image = open(&parts.stripped, options(&dir));
        does_not_know_hidden(&image);
        let notes = report(&image, NameSource::DebugFile).notes.join("\n");
        assert!(notes.contains(word), "{notes}");
    }
}

#[test]
fn by_debuglink_beside_below_and_aside() {
    let workshop = Workshop::new();
    let parts = parts(&workshop, &["-Wl,--build-id=none"]);
    let link = format!("--add-gnu-debuglink={}", parts.debug.display());
    tool("objcopy", &[link.as_ref(), &parts.stripped]);
    let dir = workshop.path("debug");
    let real = fs::canonicalize(&parts.stripped).unwrap();
    let inside = real.parent().unwrap().strip_prefix("/").unwrap();
    let kept = workshop.path("kept");
    fs::rename(&parts.debug, &kept).unwrap();
    does_not_know_hidden(&open(&parts.stripped, options(&dir)));
    for at in [
        parts.debug.clone(),
        workshop.path(".debug/stripped.debug"),
        dir.join(inside).join("stripped.debug"),
    ] {
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::copy(&kept, &at).unwrap();
        let image = open(&parts.stripped, options(&dir));
        knows_hidden(&image, &parts, NameSource::DebugFile);
        assert_eq!(image.debug_file().unwrap().found_by(), FoundBy::Debuglink);
        // through a link to the program from elsewhere
        let linked = workshop.path("linked");
        symlink(&parts.stripped, &linked).unwrap();
        knows_hidden(&open(&linked, options(&dir)), &parts, NameSource::DebugFile);
        fs::remove_file(linked).unwrap();

        // one byte more, and it is another file
        let mut bytes = fs::read(&kept).unwrap();
        bytes.push(0);
        fs::write(&at, bytes).unwrap();
        let image = open(&parts.stripped, options(&dir));
        does_not_know_hidden(&image);
        let notes = report(&image, NameSource::DebugFile).notes.join("\n");
        assert!(
            notes.contains("CRC") && notes.contains("stripped.debug"),
            "{notes}"
        );
        fs::remove_file(at).unwrap();
    }
}

#[test]
fn a_pipe_under_a_debug_files_name_holds_nobody_up() {
    let workshop = Workshop::new();
    let parts = parts(&workshop, &["-Wl,--build-id"]);
    let at = place_by_build_id(&workshop.path("debug"), &parts.whole, &parts.debug);
    fs::remove_file(&at).unwrap();
    tool("mkfifo", &[&at]);
    does_not_know_hidden(&open(&parts.stripped, options(workshop.path("debug"))));
}

#[test]
fn inside_the_root_of_a_container() {
    let workshop = Workshop::new();
    let parts = parts(&workshop, &["-Wl,--build-id"]);
    let root = workshop.path("root");
    let program = root.join("srv/stripped");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::copy(&parts.stripped, &program).unwrap();
    let options = |root: Option<PathBuf>| OpenOptions {
        debug_dirs: vec!["/usr/lib/debug".into()],
        root,
        debuginfod: None,
    };
    place_by_build_id(&root.join("usr/lib/debug"), &parts.whole, &parts.debug);
    knows_hidden(
        &open(&program, options(Some(root.clone()))),
        &parts,
        NameSource::DebugFile,
    );
    does_not_know_hidden(&open(&program, options(None)));

    // links lead where the container's processes would come to, never out of it
    fs::rename(root.join("usr/lib/debug"), root.join("elsewhere")).unwrap();
    symlink("/elsewhere", root.join("usr/lib/debug")).unwrap();
    knows_hidden(
        &open(&program, options(Some(root.clone()))),
        &parts,
        NameSource::DebugFile,
    );
    fs::rename(root.join("elsewhere"), workshop.path("outside")).unwrap();
    fs::remove_file(root.join("usr/lib/debug")).unwrap();
    symlink(workshop.path("outside"), root.join("usr/lib/debug")).unwrap();
    does_not_know_hidden(&open(&program, options(Some(root))));
}

/// The small symbol table that Fedora's packages carry (find-debuginfo.sh).
fn add_mini_debug(
    workshop: &Workshop,
    parts: &Parts,
    packed: impl FnOnce(PathBuf) -> PathBuf,
) -> PathBuf {
    let mini = workshop.path("mini");
    let keep = workshop.write("keep", "hidden\n");
    let keep = format!("--keep-symbols={}", keep.display());
    tool(
        "objcopy",
        &[
            "-S".as_ref(),
            "--remove-section=.comment".as_ref(),
            keep.as_ref(),
            &parts.debug,
            &mini,
        ],
    );
    let packed = packed(mini);
    let add = format!("--add-section=.gnu_debugdata={}", packed.display());
    let out = workshop.path("with-mini");
    tool("objcopy", &[add.as_ref(), &parts.stripped, &out]);
    out
}

fn xz(path: PathBuf) -> PathBuf {
    tool("xz", &["-f".as_ref(), "-9".as_ref(), &path]);
    path.with_extension("xz")
}

#[test]
fn the_small_table_within() {
    let workshop = Workshop::new();
    let parts = parts(&workshop, &[]);
    let none = workshop.path("none");
    let whole = add_mini_debug(&workshop, &parts, xz);
    let image = open(&whole, options(&none));
    knows_hidden(&image, &parts, NameSource::MiniDebug);
    assert_eq!(report(&image, NameSource::MiniDebug).names, Some(1));
    assert_eq!(find(&image, "hid*").len(), 1);

    // damage takes the table away and nothing else
    let damage = |mini: PathBuf| {
        let packed = xz(mini);
        let mut bytes = fs::read(&packed).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 16].fill(0xaa);
        fs::write(&packed, bytes).unwrap();
        packed
    };
    let cut = |mini: PathBuf| {
        let packed = xz(mini);
        let bytes = fs::read(&packed).unwrap();
        fs::write(&packed, &bytes[..bytes.len() / 2]).unwrap();
        packed
    };
    let bomb = |mini: PathBuf| {
        fs::write(&mini, vec![0; 100 << 20]).unwrap();
        xz(mini)
    };
    let text = |mini: PathBuf| {
        fs::write(&mini, "nothing of use").unwrap();
        xz(mini)
    };
    let cases: [(&dyn Fn(PathBuf) -> PathBuf, &str); 4] = [
        (&damage, "cannot be unpacked"),
        (&cut, "cannot be unpacked"),
        (&bomb, "more than"),
        (&text, "not an ELF"),
    ];
    for (pack, word) in cases {
        let image = open(&add_mini_debug(&workshop, &parts, pack), options(&none));
        does_not_know_hidden(&image);
        let notes = report(&image, NameSource::MiniDebug).notes.join("\n");
        assert!(notes.contains(word), "{word}: {notes}");
    }
}

/// A server that knows some files by their path; it counts what it is asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

fn serve(files: Vec<(String, Vec<u8>)>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            let request = String::from_utf8(request).unwrap();
            let path = request.split(' ').nth(1).unwrap().to_owned();
            let answer = match files.iter().find(|(known, _)| *known == path) {
                Some((_, bytes)) => [
                    format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                        bytes.len()
                    )
                    .into_bytes(),
                    bytes.clone(),
                ]
                .concat(),
                None => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    .to_vec(),
            };
            log.lock().unwrap().push(path);
            let _ = stream.write_all(&answer);
        }
    });
    Server { url, asked }
}

#[test]
fn from_debuginfod_when_asked_for() {
    let workshop = Workshop::new();
    let parts = parts(&workshop, &["-Wl,--build-id"]);
    let id = Image::open(&parts.whole).unwrap().build_id().unwrap();
    let path = format!("/buildid/{id}/debuginfo");
    let debug = fs::read(&parts.debug).unwrap();
    let with = |server: &Server, cache: &str, max_size| OpenOptions {
        debug_dirs: Vec::new(),
        root: None,
        debuginfod: Some(Debuginfod {
            urls: vec![server.url.clone()],
            cache: workshop.path(cache),
            timeout: Duration::from_secs(20),
            max_size,
        }),
    };
    let asked = |server: &Server| server.asked.lock().unwrap().len();

    let server = serve(vec![(path.clone(), debug.clone())]);
    // what the file's own table has is not asked for, nor anything without being told to
    one(
        &open(&parts.whole, with(&server, "cache", 1 << 30)),
        "hidden",
    );
    does_not_know_hidden(&open(&parts.stripped, options(workshop.path("none"))));
    assert_eq!(asked(&server), 0);
    for _ in 0..2 {
        let image = open(&parts.stripped, with(&server, "cache", 1 << 30));
        knows_hidden(&image, &parts, NameSource::DebugFile);
        let file = image.debug_file().unwrap();
        assert_eq!(file.found_by(), FoundBy::Debuginfod);
        assert_eq!(
            file.path(),
            workshop.path("cache").join(&id).join("debuginfo")
        );
    }
    // the second time it came from the cache
    assert_eq!(*server.asked.lock().unwrap(), std::slice::from_ref(&path));

    let missing = serve(Vec::new());
    for _ in 0..2 {
        does_not_know_hidden(&open(&parts.stripped, with(&missing, "missing", 1 << 30)));
    }
    assert_eq!(asked(&missing), 1);

    let other = workshop.gcc("other", "other.c", "int main(void) { return 3; }", &["-g"]);
    let wrong = serve(vec![(path.clone(), fs::read(other).unwrap())]);
    let image = open(&parts.stripped, with(&wrong, "wrong", 1 << 30));
    does_not_know_hidden(&image);
    let notes = report(&image, NameSource::DebugFile).notes.join("\n");
    assert!(notes.contains("another build's"), "{notes}");
    assert!(!workshop.path("wrong").join(&id).join("debuginfo").exists());

    let image = open(&parts.stripped, with(&server, "small", 1000));
    does_not_know_hidden(&image);
    let notes = report(&image, NameSource::DebugFile).notes.join("\n");
    assert!(notes.contains("larger than 1000 bytes"), "{notes}");
    let left = fs::read_dir(workshop.path("small").join(&id)).unwrap();
    assert_eq!(left.count(), 0);
}
