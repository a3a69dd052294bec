//! Numbers as a person reads them: thousands separators, and units that fit the size.
//!
//! Takes plain numbers and gives short text. Never panics: what is not a number, or not finite, reads as a dash.

/// Stands where there is nothing to tell.
pub(crate) const DASH: &str = "–";

/// Bytes of one frame; the engine's frames are 4 KiB.
const FRAME_BYTES: u64 = 4096;

/// Gives `1234567` as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Gives a count with its noun, which takes an `s` unless the count is one: `1 block`, `2,048 blocks`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", thousands(number))
}

/// Gives the difference of two counts with its sign: `+12`, `−3`, `0`.
pub(crate) fn change(before: u64, after: u64) -> String {
    match after.cmp(&before) {
        std::cmp::Ordering::Greater => format!("+{}", thousands(after - before)),
        std::cmp::Ordering::Equal => "0".into(),
        std::cmp::Ordering::Less => format!("−{}", thousands(before - after)),
    }
}

/// Gives three significant digits, which is as much as one run can claim.
pub(crate) fn significant(number: f64) -> String {
    if !number.is_finite() {
        return DASH.into();
    }
    // The thresholds are those of rounding, so that 9.996 reads 10.0 and not 10.00.
    match number.abs() {
        size if size < 9.995 => format!("{number:.2}"),
        size if size < 99.95 => format!("{number:.1}"),
        size if size < 1e15 && number >= 0.0 => thousands(number.round() as u64),
        _ => format!("{number:.0}"),
    }
}

/// Gives a time that is measured in microseconds, in the unit that suits it.
pub(crate) fn micros(us: f64) -> String {
    if !us.is_finite() || us < 0.0 {
        DASH.into()
    } else if us == 0.0 {
        "0".into()
    } else if us < 0.9995 {
        format!("{:.0} ns", us * 1e3)
    } else if us < 999.5 {
        format!("{} µs", significant(us))
    } else if us < 999_500.0 {
        format!("{} ms", significant(us / 1e3))
    } else {
        format!("{} s", significant(us / 1e6))
    }
}

/// Gives a time that is measured in seconds, in the unit that suits it.
pub(crate) fn seconds(s: f64) -> String {
    micros(s * 1e6)
}

/// Gives what fraction `part` is of `whole`, in per cent, or a dash if there is no whole.
pub(crate) fn percent(part: f64, whole: f64) -> String {
    if !part.is_finite() || !whole.is_finite() || whole <= 0.0 {
        return DASH.into();
    }
    let share = 100.0 * part / whole;
    if share == 0.0 || share >= 9.95 { format!("{share:.0} %") } else { format!("{share:.1} %") }
}

/// Gives the size of a pageblock of this order: 9 is `2 MiB`.
pub(crate) fn block_size(order: u8) -> String {
    frames_size(1_u64.checked_shl(u32::from(order)).unwrap_or(u64::MAX))
}

/// Gives the size of so many frames of 4 KiB, as [`bytes_size`].
pub(crate) fn frames_size(frames: u64) -> String {
    bytes_size(frames.saturating_mul(FRAME_BYTES))
}

/// Gives a size in the largest binary unit that leaves a number of at least one.
pub(crate) fn bytes_size(bytes: u64) -> String {
    let mut unit = 1;
    let mut name = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if bytes / unit < 1024 {
            break;
        }
        unit *= 1024;
        name = next;
    }
    if bytes.is_multiple_of(unit) {
        format!("{} {name}", thousands(bytes / unit))
    } else {
        format!("{} {name}", significant(bytes as f64 / unit as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_by_three() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
        assert_eq!(thousands(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn one_is_singular() {
        assert_eq!(counted(1, "block"), "1 block");
        assert_eq!(counted(0, "block"), "0 blocks");
        assert_eq!(counted(2048, "block"), "2,048 blocks");
    }

    #[test]
    fn changes_carry_a_sign() {
        assert_eq!(change(3, 1203), "+1,200");
        assert_eq!(change(7, 7), "0");
        assert_eq!(change(9, 4), "−5");
    }

    #[test]
    fn times_take_the_unit_that_suits_them() {
        for (us, text) in [
            (0.0, "0"),
            (0.42, "420 ns"),
            (0.9996, "1.00 µs"),
            (1.0, "1.00 µs"),
            (12.34, "12.3 µs"),
            (999.4, "999 µs"),
            (999.6, "1.00 ms"),
            (1_500_000.0, "1.50 s"),
            (f64::NAN, DASH),
            (f64::INFINITY, DASH),
        ] {
            assert_eq!(micros(us), text);
        }
        assert_eq!(seconds(0.25), "250 ms");
    }

    #[test]
    fn sizes_take_the_largest_unit() {
        assert_eq!(block_size(9), "2 MiB");
        assert_eq!(block_size(0), "4 KiB");
        assert_eq!(frames_size(2048 * 512), "4 GiB");
        assert_eq!(frames_size(400_000), "1.53 GiB");
        assert_eq!(frames_size(0), "0 B");
    }

    #[test]
    fn no_whole_no_percentage() {
        assert_eq!(percent(1.0, 0.0), DASH);
        assert_eq!(percent(0.0, 8.0), "0 %");
        assert_eq!(percent(1.0, 32.0), "3.1 %");
        assert_eq!(percent(3.0, 4.0), "75 %");
    }
}
