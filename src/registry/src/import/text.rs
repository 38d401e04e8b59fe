//! Any encoding that occurs, as UTF-8. `Out-File` in Windows PowerShell writes
//! UTF-16LE with a byte order mark, editors write UTF-8 with or without one, and
//! Intune's own documentation asks for "ANSI".

use std::io::{self, BufRead, BufReader, Read};

/// A stream whose lines all end in one LF, the last one too: line numbers can
/// then be counted. (Windows ends them with CR LF, old editors with CR.)
pub struct Lines<R> {
    source: R,
    /// The byte before was a CR, which became an LF.
    after_cr: bool,
    last: u8,
    ended: bool,
}

impl<R: Read> Lines<R> {
    /// Wraps a stream of UTF-8 or ANSI.
    pub const fn new(source: R) -> Self {
        Self {
            source,
            after_cr: false,
            last: b'\n',
            ended: false,
        }
    }

    /// Whether the source has been read to its end.
    pub const fn ended(&self) -> bool {
        self.ended
    }

    /// Keeps in `buffer` what is left of its bytes and says how many.
    fn unify(&mut self, buffer: &mut [u8]) -> usize {
        let mut kept = 0;
        for at in 0..buffer.len() {
            let Some(&byte) = buffer.get(at) else { break };
            let doubled = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            if doubled {
                continue;
            }
            self.last = if self.after_cr { b'\n' } else { byte };
            if let Some(place) = buffer.get_mut(kept) {
                *place = self.last;
            }
            kept += 1;
        }
        kept
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !buffer.is_empty() {
            let read = self.source.read(buffer)?;
            if read == 0 {
                self.ended = true;
                if self.last != b'\n' {
                    buffer.fill(b'\n');
                    return Ok(1);
                }
                break;
            }
            let kept = self.unify(buffer.get_mut(..read).unwrap_or_default());
            if kept > 0 {
                return Ok(kept);
            }
        }
        Ok(0)
    }
}

/// A stream as UTF-8 where it is UTF-16, without its byte order mark; other
/// bytes as they are (see [`field`]).
pub enum Utf8<R> {
    /// UTF-8 or ANSI.
    Plain(BufReader<R>),
    /// UTF-16.
    Wide(Box<Wide<R>>),
}

/// A UTF-16 stream being turned into UTF-8.
pub struct Wide<R> {
    source: BufReader<R>,
    big_endian: bool,
    /// The first half of a surrogate pair.
    high: Option<u16>,
    ready: Vec<u8>,
    given: usize,
}

impl<R: Read> Utf8<R> {
    /// Looks at the first bytes of `source`. Without a byte order mark, a zero
    /// beside the first letter still tells UTF-16.
    pub fn new(source: R) -> io::Result<Self> {
        let mut source = BufReader::new(source);
        let (skip, big_endian) = match source.fill_buf()? {
            [0xef, 0xbb, 0xbf, ..] => (3, None),
            [0xff, 0xfe, ..] => (2, Some(false)),
            [0xfe, 0xff, ..] => (2, Some(true)),
            [0, second, ..] if *second != 0 => (0, Some(true)),
            [first, 0, ..] if *first != 0 => (0, Some(false)),
            _ => (0, None),
        };
        source.consume(skip);
        Ok(match big_endian {
            None => Self::Plain(source),
            Some(big_endian) => Self::Wide(Box::new(Wide {
                source,
                big_endian,
                high: None,
                ready: Vec::new(),
                given: 0,
            })),
        })
    }
}

impl<R: Read> Read for Utf8<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Wide(wide) => wide.read(buffer),
        }
    }
}

impl<R: Read> Read for Wide<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.ready.len() {
            if !self.refill()? {
                return Ok(0);
            }
        }
        let ready = self.ready.get(self.given..).unwrap_or_default();
        let length = ready.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), ready.get(..length)) {
            to.copy_from_slice(from);
        }
        self.given += length;
        Ok(length)
    }
}

impl<R: Read> Wide<R> {
    /// Turns the next few kilobytes; false at the end.
    fn refill(&mut self) -> io::Result<bool> {
        self.ready.clear();
        self.given = 0;
        let mut bytes = Vec::with_capacity(8192);
        let taken = self.source.by_ref().take(8192).read_to_end(&mut bytes)?;
        if taken == 0 {
            let lone = self.high.take();
            self.ready
                .extend(lone.map(|_| "\u{fffd}").unwrap_or("").bytes());
            return Ok(lone.is_some());
        }
        let units = bytes.chunks(2).map(|pair| match (pair, self.big_endian) {
            ([a, b], true) => u16::from_be_bytes([*a, *b]),
            ([a, b], false) => u16::from_le_bytes([*a, *b]),
            _ => 0xfffd, // half a unit at the end of the file
        });
        let mut units: Vec<u16> = self.high.take().into_iter().chain(units).collect();
        if units
            .last()
            .is_some_and(|unit| (0xd800..0xdc00).contains(unit))
        {
            self.high = units.pop();
        }
        let mut four = [0; 4];
        for c in char::decode_utf16(units) {
            let c = c.unwrap_or(char::REPLACEMENT_CHARACTER);
            self.ready.extend(c.encode_utf8(&mut four).as_bytes());
        }
        Ok(true)
    }
}

/// Windows-1252's 0x80 to 0x9f, where it differs from Unicode; what it leaves
/// undefined stays a control character.
const C1: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// One field as text: UTF-8 if it is that, else Windows-1252.
pub fn field(bytes: &[u8]) -> String {
    let ansi = |byte: &u8| match byte {
        0x80..=0x9f => C1.get(usize::from(byte - 0x80)).copied().unwrap_or('?'),
        other => char::from(*other),
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(ansi).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Utf8::new(bytes).unwrap().read_to_end(&mut out).unwrap();
        out
    }

    proptest! {
        #[test]
        fn every_encoding_gives_the_same_text(
            start in "[a-z]\\PC{0,20}", times in 0usize..3000, shift in "[a-z]{0,3}",
        ) {
            // Long enough that surrogate pairs fall across the buffers' ends.
            let text = format!("{start}{shift}{}", "ä😀".repeat(times));
            let le: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let be: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
            let expected = text.as_bytes();
            prop_assert_eq!(&read(&[b"\xff\xfe", &le[..]].concat()), expected);
            prop_assert_eq!(&read(&[b"\xfe\xff", &be[..]].concat()), expected);
            prop_assert_eq!(&read(&[b"\xef\xbb\xbf", expected].concat()), expected);
            prop_assert_eq!(&read(expected), expected);
            prop_assert_eq!(&read(&le), expected);
        }

        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
            let _ = field(&bytes);
        }
    }

    #[test]
    fn lines_end_in_one_lf() {
        for (from, to) in [
            (&b""[..], &b""[..]),
            (b"a", b"a\n"),
            (b"a\r\nb\r\n", b"a\nb\n"),
            (b"a\rb\r\r\nc\n\r", b"a\nb\n\nc\n\n"),
        ] {
            for size in [1, 2, 3, 64] {
                let mut lines = Lines::new(from);
                let mut out: Vec<u8> = Vec::new();
                let mut buffer = vec![0; size];
                while let length @ 1.. = lines.read(&mut buffer).unwrap() {
                    out.extend(&buffer[..length]);
                }
                assert_eq!(out, to, "{size} bytes at a time");
            }
        }
    }

    #[test]
    fn ansi_is_windows_1252() {
        assert_eq!(field(b"B\xfcro \x80"), "Büro €");
        assert_eq!(field("Büro €".as_bytes()), "Büro €");
    }
}
