//! Quantities as people read them: three digits that matter and a unit; and addresses of the network.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// A span of time: `123 ns`, `12.3 us`, `1.45 ms`, `2.50 s`, `17.5 min`.
pub fn duration(ns: f64) -> String {
    let (number, unit) = duration_parts(ns);
    format!("{number} {unit}")
}

/// As [`duration`], with the unit in a column of its own so that a right-aligned column lines up.
pub fn duration_aligned(ns: f64) -> String {
    let (number, unit) = duration_parts(ns);
    format!("{number} {unit:>2}")
}

fn duration_parts(ns: f64) -> (String, &'static str) {
    const STEPS: [(f64, &str); 3] = [(1e3, "ns"), (1e6, "us"), (1e9, "ms")];
    for (limit, unit) in STEPS {
        // 999.6 us would be printed as 1000 us: it is 1.00 ms.
        if ns.abs() < limit * 0.9995 {
            let number = ns / (limit / 1e3);
            return (
                if unit == "ns" && ns.fract() == 0.0 {
                    format!("{number}")
                } else {
                    digits(number)
                },
                unit,
            );
        }
    }
    match ns / 1e9 {
        s if s.abs() < 1000.0 => (digits(s), "s"),
        s if s.abs() < 100.0 * 60.0 => (digits(s / 60.0), "min"),
        s => (digits(s / 3600.0), "h"),
    }
}

/// A size in bytes: `512 B`, `1.50 KiB`, `3.00 GiB`.
pub fn size(bytes: f64) -> String {
    let (number, unit) = size_parts(bytes);
    format!("{number} {unit}")
}

/// As [`size`], with the unit in a column of its own so that a right-aligned column lines up.
pub fn size_aligned(bytes: f64) -> String {
    let (number, unit) = size_parts(bytes);
    format!("{number} {unit:>3}")
}

fn size_parts(bytes: f64) -> (String, &'static str) {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value.abs() >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let whole = value.fract() == 0.0;
    (
        if whole {
            format!("{value}")
        } else {
            digits(value)
        },
        UNITS[unit],
    )
}

/// A plain number: whole ones in full, others with three digits that matter.
pub fn plain(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        format!("{value}")
    } else {
        digits(value)
    }
}

/// How often a second: `12.5/s`, `48.3 k/s`, `1.20 M/s`.
pub fn rate(per_second: f64) -> String {
    match per_second {
        r if r < 9_999.5 => format!("{}/s", digits(r)),
        r if r < 999_950.0 => format!("{} k/s", digits(r / 1e3)),
        r => format!("{} M/s", digits(r / 1e6)),
    }
}

/// A part of a whole: `12.3 %`.
pub fn share(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// Appends an address of the network: `127.0.0.1:80`, `[::1]:80`, `::1`.
pub fn address(out: &mut String, address: IpAddr, port: Option<u16>) {
    // Writing to a string cannot fail.
    let _ = match port {
        Some(port) => write!(out, "{}", SocketAddr::new(address, port)),
        None => write!(out, "{address}"),
    };
}

/// A quantity in a histogram's unit: `ns` and `bytes` are scaled, any other word is appended.
pub fn quantity(value: f64, unit: &str) -> String {
    match unit {
        "ns" => duration(value),
        "bytes" => size(value),
        "" => plain(value),
        word => format!("{} {word}", plain(value)),
    }
}

/// As [`quantity`], for right-aligned columns.
pub fn quantity_aligned(value: f64, unit: &str) -> String {
    match unit {
        "ns" => duration_aligned(value),
        "bytes" => size_aligned(value),
        _ => quantity(value, unit),
    }
}

fn digits(value: f64) -> String {
    match value.abs() {
        v if v < 9.995 => format!("{value:.2}"),
        v if v < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_three_digits() {
        for (ns, text) in [
            (0.0, "0 ns"),
            (7.0, "7 ns"),
            (7.25, "7.25 ns"),
            (999.0, "999 ns"),
            (1_000.0, "1.00 us"),
            (12_345.0, "12.3 us"),
            (999_499.0, "999 us"),
            (999_600.0, "1.00 ms"),
            (1_450_000.0, "1.45 ms"),
            (999_999_999.0, "1.00 s"),
            (17.5 * 60e9, "17.5 min"),
            (3.0 * 3600e9, "3.00 h"),
        ] {
            assert_eq!(duration(ns), text);
        }
        assert_eq!(duration_aligned(2.5e9), "2.50  s");
    }

    #[test]
    fn sizes_are_binary() {
        for (bytes, text) in [
            (0.0, "0 B"),
            (1023.0, "1023 B"),
            (1024.0, "1 KiB"),
            (1536.0, "1.50 KiB"),
            (3e9, "2.79 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(2f64.powi(64)), "16 EiB");
        assert_eq!(size_aligned(16.0), "16   B");
    }

    #[test]
    fn rates_and_shares() {
        assert_eq!(rate(0.5), "0.50/s");
        assert_eq!(rate(9_999.9), "10.0 k/s");
        assert_eq!(rate(1_234_567.0), "1.23 M/s");
        assert_eq!(share(0.1234), "12.3 %");
        assert_eq!(quantity(12.0, "pages"), "12 pages");
        assert_eq!(quantity(0.123, ""), "0.12");
    }

    #[test]
    fn addresses_of_six_are_in_brackets_before_a_port() {
        for (text, port, shown) in [
            ("127.0.0.1", Some(80), "127.0.0.1:80"),
            ("::1", Some(80), "[::1]:80"),
            ("::1", None, "::1"),
            ("::ffff:10.0.0.1", Some(0), "[::ffff:10.0.0.1]:0"),
        ] {
            let mut out = String::new();
            address(&mut out, text.parse().unwrap(), port);
            assert_eq!(out, shown);
        }
    }
}
