//! What stands in one place of a row, cut and padded by its width on the terminal.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Between two columns.
pub(super) const GAP: usize = 2;

/// A text and how it stands in its column.
#[derive(Default)]
pub(super) struct Cell {
    pub(super) text: String,
    /// How many columns of the terminal it takes.
    pub(super) width: usize,
    pub(super) right: bool,
}

/// Shortens a cell to `room` columns of the terminal, the last of them `…`.
pub(super) fn cut(cell: &mut Cell, room: usize) {
    if cell.width <= room {
        return;
    }
    let mut used = 0;
    let mut end = 0;
    for (at, c) in cell.text.char_indices() {
        let width = c.width().unwrap_or(0);
        if used + width + 1 > room {
            break;
        }
        used += width;
        end = at + c.len_utf8();
    }
    cell.text.truncate(end);
    cell.text.push('…');
    cell.width = used + 1;
}

/// As [`cut`], for any text.
pub(super) fn cut_text(text: String, room: usize) -> String {
    let mut cell = Cell {
        width: text.width(),
        text,
        right: false,
    };
    cut(&mut cell, room);
    cell.text
}

/// Appends a text to a row, as wide as its column; nothing follows the last one.
pub(super) fn write_padded(
    out: &mut Vec<u8>,
    text: &str,
    width: usize,
    room: usize,
    right: bool,
    last: bool,
) {
    let pad = room.saturating_sub(width);
    let blanks = |out: &mut Vec<u8>, n: usize| out.resize(out.len() + n, b' ');
    if right {
        blanks(out, pad);
    }
    out.extend_from_slice(text.as_bytes());
    if !last {
        blanks(out, if right { GAP } else { pad + GAP });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_are_cut_by_their_width() {
        assert_eq!(cut_text("東京東京".into(), 8), "東京東京");
        assert_eq!(cut_text("東京東京".into(), 7), "東京東…");
        assert_eq!(cut_text("東京東京".into(), 6), "東京…");
    }
}
