//! `lookup name FILE NAME`, `lookup address FILE 0xADDRESS`, `lookup list FILE`: once, from cold, for bench/symbols.
//! Prints what it found and its peak memory.

use std::path::Path;

use uprof_symbols::dwarf::Dwarf;
use uprof_symbols::{Image, Pattern};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (what, file) = match words.as_slice() {
        [what, file, ..] => (*what, Path::new(file)),
        _ => return Err("usage: lookup name|address|list FILE [NAME|0xADDRESS]".into()),
    };
    let image = Image::open(file)?;
    match (what, words.get(2)) {
        ("name", Some(name)) => {
            for function in image.find(&Pattern::parse(name)?)? {
                println!("{:#x} {}", function.address, function.name());
            }
        }
        ("address", Some(address)) => {
            let address = u64::from_str_radix(address.trim_start_matches("0x"), 16)?;
            let dwarf = Dwarf::of(&image, None)?;
            let frames = dwarf.map_or(Ok(Vec::new()), |dwarf| dwarf.frames(address))?;
            for frame in &frames {
                println!("{}", frame.function.as_deref().unwrap_or("?"));
            }
            if frames.is_empty() {
                let function = image.around(address)?;
                println!(
                    "{}",
                    function.as_ref().map_or("?", |function| function.name())
                );
            }
        }
        ("list", None) => println!("{} functions", image.functions()?.len()),
        _ => return Err(format!("lookup: what is {what}?").into()),
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!(
        "{}",
        status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap_or_default()
    );
    Ok(())
}
