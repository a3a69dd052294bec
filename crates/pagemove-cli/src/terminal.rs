//! What a terminal can show: the locale's letters, and names from outside that can't steer it.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Tells whether the locale is of UTF-8.
pub(crate) fn is_utf8() -> bool {
    says_utf8(|name| std::env::var(name).ok())
}

fn says_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable).find(|value| !value.is_empty());
    locale.is_some_and(|value| value.to_ascii_lowercase().replace('-', "").contains("utf8"))
}

/// Replaces each character that isn't ASCII by one that is, for another locale: tables keep their columns.
pub(crate) fn to_ascii(text: &str) -> String {
    let letter = |character| match character {
        '\0'..='\x7f' => character,
        '→' => '>',
        '–' | '−' | '—' | '─' => '-',
        '═' => '=',
        'µ' => 'u',
        '×' => 'x',
        _ => '?',
    };
    text.chars().map(letter).collect()
}

/// Gives a text as the locale can show it: in ASCII if that is asked for.
pub(crate) fn shown(text: String, ascii: bool) -> String {
    if ascii { to_ascii(&text) } else { text }
}

/// Gives a name from outside without what could steer a terminal, or make it look like another one: control characters, those
/// that change the direction of writing, and those without width.
pub(crate) fn plain(name: &str) -> String {
    name.replace(steers, "\u{fffd}")
}

/// Tells whether a character does that (Unicode 16: Cc, and of Cf what has no glyph).
pub(crate) fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e01ef}'
        )
}

/// Cuts a long name in its middle: its end tells as much as its beginning.
pub(crate) fn cut(name: &str, width: usize) -> String {
    if name.width() <= width || width < 8 {
        return name.to_owned();
    }
    let end = (width - 3) / 2;
    let start = take(name.chars(), width - 3 - end);
    let mut end = take(name.chars().rev(), end);
    end.reverse();
    start.into_iter().chain(['.'; 3]).chain(end).collect()
}

/// Takes letters as long as they fit; some are two columns wide.
fn take(letters: impl Iterator<Item = char>, width: usize) -> Vec<char> {
    let mut left = width;
    let fits = |letter: &char| {
        let wide = letter.width().unwrap_or(0);
        let fits = wide <= left;
        left = left.saturating_sub(wide);
        fits
    };
    letters.take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_locale_variable_that_is_set_decides() {
        let locale = |all: &'static str, lang: &'static str| {
            says_utf8(|name| match name {
                "LC_ALL" => Some(all.to_owned()),
                "LANG" => Some(lang.to_owned()),
                _ => None,
            })
        };
        assert!(locale("", "en_GB.UTF-8") && locale("C.utf8", "C"));
        assert!(!locale("C", "en_GB.UTF-8") && !locale("", ""));
    }

    #[test]
    fn what_steers_a_terminal_is_seen() {
        assert_eq!(plain("a\x1b[31m\u{202e}b\u{200b}c\n"), "a\u{fffd}[31m\u{fffd}b\u{fffd}c\u{fffd}");
        assert_eq!(plain("Zürich, 北京, 👩"), "Zürich, 北京, 👩");
        assert_eq!(to_ascii("5 → 7 µs ──\n"), "5 > 7 us --\n");
    }

    #[test]
    fn long_names_are_cut_in_their_middle_by_columns() {
        assert_eq!(cut("anon_inode:[io_uring]", 21), "anon_inode:[io_uring]");
        assert_eq!(cut("anon_inode:[io_uring]", 15), "anon_i...uring]");
        assert_eq!(cut("北京北京北京北京", 10), "北京...京");
    }
}
