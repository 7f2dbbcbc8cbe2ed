//! Prints the site chosen for each function that a pattern names: `show FILE PATTERN`.

use uprof_symbols::site::{ArgSet, Purpose};
use uprof_symbols::{Image, Pattern};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(file), Some(pattern)) = (args.next(), args.next()) else {
        return Err("usage: show FILE PATTERN".into());
    };
    let image = Image::open(file.as_ref())?;
    for purpose in [Purpose::Entry, Purpose::EntryReturn] {
        let sites = image.sites(&Pattern::parse(&pattern)?, purpose, ArgSet::EMPTY.with(0))?;
        for (function, site) in sites.placed {
            println!(
                "{purpose:?} {} +{:#x} {:?} {}",
                function.names.join(" = "),
                site.moved,
                site.cost,
                site.instruction()
            );
        }
        for (function, error) in sites.refused {
            println!("{purpose:?} {}: {error}", function.name());
        }
    }
    Ok(())
}
