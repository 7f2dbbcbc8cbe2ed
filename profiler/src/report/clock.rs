//! The time of day.

use std::fmt::Write as _;

use jiff::{Timestamp, tz::TimeZone};

/// Local time of day to the millisecond, worked out once a second.
pub(super) struct Clock {
    zone: TimeZone,
    second: u64,
    text: String,
}

impl Clock {
    pub(super) fn new(zone: TimeZone) -> Clock {
        Clock {
            zone,
            second: u64::MAX,
            text: String::new(),
        }
    }

    /// Appends the time of day at so many nanoseconds since the UNIX epoch.
    pub(super) fn write(&mut self, out: &mut String, time_ns: u64) {
        let second = time_ns / 1_000_000_000;
        if second != self.second {
            self.second = second;
            self.text.clear();
            // u64 nanoseconds end in the year 2554: always a valid time stamp.
            if let Ok(stamp) = Timestamp::from_second(second as i64) {
                let _ = write!(
                    self.text,
                    "{}",
                    stamp.to_zoned(self.zone.clone()).strftime("%H:%M:%S")
                );
            }
        }
        out.push_str(&self.text);
        let ms = (time_ns / 1_000_000 % 1000) as u32;
        out.push('.');
        for digit in [ms / 100, ms / 10 % 10, ms % 10] {
            out.push(char::from_digit(digit, 10).unwrap_or('0'));
        }
    }
}
