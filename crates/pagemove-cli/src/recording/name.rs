//! Names of captures: their time in UTC, as `20261127T213000Z`; of several in one second the others end in `-2` and so on.
//!
//! Takes a time or text; promises that each name is written in one way only, and that names sort by time.

use std::{fmt, str::FromStr};

use jiff::{
    Timestamp,
    civil::DateTime,
    tz::{Offset, TimeZone},
};

const FORM: &str = "%Y%m%dT%H%M%SZ";

/// A capture's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    second: DateTime,
    number: u32,
}

impl Name {
    /// Gives the first name of a time that isn't taken.
    pub(super) fn free(at: Timestamp, is_taken: impl Fn(Self) -> bool) -> Self {
        let at = TimeZone::UTC.to_datetime(at);
        let second = at.date().to_datetime(at.time().with().subsec_nanosecond(0).build().unwrap_or(at.time()));
        let mut name = Self { second, number: 1 };
        while is_taken(name) {
            name.number += 1;
        }
        name
    }

    /// Gives its time.
    pub(super) fn at(self) -> Timestamp {
        Offset::UTC.to_timestamp(self.second).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.second.strftime(FORM))?;
        if self.number > 1 { write!(f, "-{}", self.number) } else { Ok(()) }
    }
}

impl FromStr for Name {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (second, number) = match text.split_once('-') {
            Some((second, number)) => (second, number.parse().map_err(drop)?),
            None => (text, 1),
        };
        let name = Self { second: DateTime::strptime(FORM, second).map_err(drop)?, number };
        // As this program writes it, and not in another way.
        if name.to_string() == text { Ok(name) } else { Err(()) }
    }
}

/// Reads a time of a user: RFC 3339, or parts of it, of UTC; or a capture's name.
pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(name) = text.parse::<Name>() {
        return Ok(name.at());
    }
    let of_utc = || text.parse::<DateTime>().and_then(|time| Offset::UTC.to_timestamp(time));
    text.parse::<Timestamp>().or_else(|_| of_utc()).map_err(|_| {
        "a time is one such as 2026-11-27, 2026-11-27T21:30 (UTC), 2026-11-27T21:30:00+01:00, or a capture's name"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_time_and_are_written_in_one_way() {
        let name = |text: &str| text.parse::<Name>();
        let texts = ["20261127T213000Z", "20261127T213000Z-2", "20261127T213000Z-10", "20261127T213001Z"];
        let names: Vec<Name> = texts.iter().map(|text| name(text).expect("a name")).collect();
        assert!(names.is_sorted() && names.iter().zip(texts).all(|(name, text)| name.to_string() == text));
        for text in [
            "",
            "20261127T213000",
            "20261127T213000Z-1",
            "20261127T213000Z-02",
            "20261127T213000Z-x",
            "20261327T213000Z",
            "x20261127T213000Z",
            "2026112 T213000Z",
            "20261127T213060Z",
        ] {
            assert!(name(text).is_err(), "{text}");
        }
        let at: Timestamp = "2026-11-27T21:30:00.987Z".parse().expect("a time");
        assert_eq!(Name::free(at, |_| false), names[0]);
        assert_eq!(Name::free(at, |name| name == names[0]), names[1]);
    }

    #[test]
    fn times_as_users_write_them() {
        let at = |text: &str| time(text).map(|at| at.to_string());
        for text in [
            "2026-11-27T21:30",
            "2026-11-27T21:30:00Z",
            "2026-11-27T22:30:00+01:00",
            "20261127T213000Z",
            "2026-11-27 21:30",
        ] {
            assert_eq!(at(text).as_deref(), Ok("2026-11-27T21:30:00Z"), "{text}");
        }
        assert_eq!(at("2026-11-27").as_deref(), Ok("2026-11-27T00:00:00Z"));
        assert!(at("yesterday").is_err_and(|said| said.contains("2026-11-27T21:30 (UTC)")));
    }
}
