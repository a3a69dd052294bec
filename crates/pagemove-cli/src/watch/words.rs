//! Words and numbers that several parts of the screen, and the lines, have in common.

use ratatui::{
    style::{Modifier, Style},
    text::{Line, Span},
};

use crate::numbers::{DASH, significant, thousands};

/// Writes a change with its sign; a dash if there is none to compare with.
pub(crate) fn signed(change: i64) -> String {
    match change {
        0 => "0".to_owned(),
        1.. => format!("+{}", thousands(change.unsigned_abs())),
        _ => format!("-{}", thousands(change.unsigned_abs())),
    }
}

/// A heading with a rule, over the whole width.
pub(crate) fn heading(text: &str, width: u16, ascii: bool) -> Line<'static> {
    let (rule, style) = (if ascii { "-" } else { "─" }, Style::new().add_modifier(Modifier::DIM));
    let left = usize::from(width).saturating_sub(text.chars().count() + 4);
    Line::from(vec![
        Span::styled(format!("{rule} "), style),
        Span::styled(text.to_owned(), Modifier::BOLD),
        Span::styled(format!(" {}{rule}", rule.repeat(left)), style),
    ])
}

/// Writes a rate a second.
pub(crate) fn rate(rate: Option<f64>) -> String {
    match rate {
        None => DASH.to_owned(),
        Some(0.0) => "0/s".to_owned(),
        Some(rate) => format!("{}/s", significant(rate)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_rates() {
        assert_eq!([0, 1_234, -5, i64::MIN].map(signed)[..3], ["0", "+1,234", "-5"]);
        assert_eq!([None, Some(0.0), Some(2.0), Some(1234.5)].map(rate), [DASH, "0/s", "2.00/s", "1,235/s"]);
        assert_eq!(heading("text", 12, true).to_string(), "- text -----");
        assert_eq!(heading("longer than that", 5, true).to_string(), "- longer than that -");
    }
}
