//! The enrollment code in letters that can be read from across a room.

/// Rows of a letter.
pub const HEIGHT: usize = 5;

/// Five rows of five cells, the leftmost cell in bit 4. Crockford's alphabet
/// and the hyphen; anything else is empty.
const fn glyph(letter: u8) -> [u8; HEIGHT] {
    match letter {
        b'0' => [0b01110, 0b10011, 0b10101, 0b11001, 0b01110],
        b'1' => [0b00100, 0b01100, 0b00100, 0b00100, 0b01110],
        b'2' => [0b11110, 0b00001, 0b01110, 0b10000, 0b11111],
        b'3' => [0b11110, 0b00001, 0b01110, 0b00001, 0b11110],
        b'4' => [0b10010, 0b10010, 0b11111, 0b00010, 0b00010],
        b'5' => [0b11111, 0b10000, 0b11110, 0b00001, 0b11110],
        b'6' => [0b01110, 0b10000, 0b11110, 0b10001, 0b01110],
        b'7' => [0b11111, 0b00010, 0b00100, 0b01000, 0b01000],
        b'8' => [0b01110, 0b10001, 0b01110, 0b10001, 0b01110],
        b'9' => [0b01110, 0b10001, 0b01111, 0b00001, 0b01110],
        b'A' => [0b01110, 0b10001, 0b11111, 0b10001, 0b10001],
        b'B' => [0b11110, 0b10001, 0b11110, 0b10001, 0b11110],
        b'C' => [0b01111, 0b10000, 0b10000, 0b10000, 0b01111],
        b'D' => [0b11110, 0b10001, 0b10001, 0b10001, 0b11110],
        b'E' => [0b11111, 0b10000, 0b11110, 0b10000, 0b11111],
        b'F' => [0b11111, 0b10000, 0b11110, 0b10000, 0b10000],
        b'G' => [0b01111, 0b10000, 0b10011, 0b10001, 0b01111],
        b'H' => [0b10001, 0b10001, 0b11111, 0b10001, 0b10001],
        b'J' => [0b00001, 0b00001, 0b00001, 0b10001, 0b01110],
        b'K' => [0b10001, 0b10010, 0b11100, 0b10010, 0b10001],
        b'M' => [0b10001, 0b11011, 0b10101, 0b10001, 0b10001],
        b'N' => [0b10001, 0b11001, 0b10101, 0b10011, 0b10001],
        b'P' => [0b11110, 0b10001, 0b11110, 0b10000, 0b10000],
        b'Q' => [0b01110, 0b10001, 0b10101, 0b10010, 0b01101],
        b'R' => [0b11110, 0b10001, 0b11110, 0b10010, 0b10001],
        b'S' => [0b01111, 0b10000, 0b01110, 0b00001, 0b11110],
        b'T' => [0b11111, 0b00100, 0b00100, 0b00100, 0b00100],
        b'V' => [0b10001, 0b10001, 0b10001, 0b01010, 0b00100],
        b'W' => [0b10001, 0b10001, 0b10101, 0b11011, 0b10001],
        b'X' => [0b10001, 0b01010, 0b00100, 0b01010, 0b10001],
        b'Y' => [0b10001, 0b01010, 0b00100, 0b00100, 0b00100],
        b'Z' => [0b11111, 0b00010, 0b00100, 0b01000, 0b11111],
        b'-' => [0, 0, 0b11111, 0, 0],
        _ => [0; HEIGHT],
    }
}

/// The rows of `text`, each cell one character, a letter seven wide.
pub fn rows(text: &str) -> [String; HEIGHT] {
    let mut rows: [String; HEIGHT] = Default::default();
    for letter in text.bytes() {
        for (row, bits) in rows.iter_mut().zip(glyph(letter)) {
            row.extend(
                (0..5)
                    .rev()
                    .map(|bit| if bits >> bit & 1 == 1 { '#' } else { ' ' }),
            );
            row.push_str("  ");
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_a_code_can_have_looks_different() {
        let alphabet = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ-";
        for (i, a) in alphabet.iter().enumerate() {
            assert_ne!(glyph(*a), [0; HEIGHT], "{}", char::from(*a));
            for b in alphabet.iter().skip(i + 1) {
                assert_ne!(
                    glyph(*a),
                    glyph(*b),
                    "{} {}",
                    char::from(*a),
                    char::from(*b)
                );
            }
        }
    }

    #[test]
    fn a_code_fits_the_screen() {
        assert!(rows("K7QF-2M9X").iter().all(|row| row.len() <= 76));
    }
}
