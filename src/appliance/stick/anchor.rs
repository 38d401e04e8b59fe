//! Two sectors outside of any file system. They remember what files that are
//! copied back must not undo: how often a wrong PIN was typed, and how far the
//! journal had come.
//!
//! Two copies are written in turn, each with a number and a checksum: a cut in
//! the middle of one leaves the other. The journal's part carries a MAC under
//! a key from the vault, so that it can be set only by whoever has the PIN.
//!
//! **What it cannot do**: a copy of the whole medium, put back sector by
//! sector, brings the old anchor along; nothing on a medium can prevent that.
//! HQ sees it: the receipts and the journal of such a stick contradict the ones
//! it has had before.

use ring::hmac;

use super::gpt::crc32;

/// Bytes of the anchor's partition that are used.
pub const LENGTH: usize = 8192;
/// Where the second copy begins: another block of any flash memory's page.
pub const SECOND: usize = 4096;

const MAGIC: &[u8; 8] = b"gcanchor";
const RECORD: usize = 112;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anchor {
    /// Rises with every writing.
    pub number: u64,
    /// Wrong PINs since the last right one.
    pub tries: u32,
    /// Journal entries that were there when it was written.
    pub entries: u64,
    /// The journal's head after that many entries; zeros for none.
    pub head: [u8; 32],
    mac: [u8; 32],
}

/// Why a stick's state is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// The journal's part was not written by this stick's vault.
    #[error(
        "the stick's anchor was changed by somebody without its PIN; its state cannot be trusted: \
         build the stick anew"
    )]
    Forged,
    /// The journal is shorter, or another one.
    #[error(
        "the stick's files were put back to an earlier state: its journal had {anchored} entries \
         and {found}; a stick goes on from its own state only (build it anew to begin again)"
    )]
    PutBack {
        /// What the anchor says.
        anchored: u64,
        /// What the journal is now.
        found: String,
    },
}

/// The key of the journal's part, made of what is in the vault.
pub struct AnchorKey(hmac::Key);

impl AnchorKey {
    /// Of the vault's secrets.
    pub fn of(secrets: &[u8]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secrets);
        let derived = hmac::sign(&root, b"groundcrew stick anchor");
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }
}

impl Anchor {
    /// The newer of the two copies; where there is none, an empty one that
    /// passes no [`Anchor::check`].
    pub fn read(sectors: &[u8]) -> Self {
        let copies = [sectors.get(..RECORD), sectors.get(SECOND..SECOND + RECORD)];
        let found = copies.into_iter().flatten().filter_map(Self::decode);
        found.max_by_key(|anchor| anchor.number).unwrap_or_default()
    }

    /// Where the next copy belongs and its bytes.
    pub fn advance(&mut self) -> (usize, Vec<u8>) {
        self.number += 1;
        let at = if self.number.is_multiple_of(2) {
            SECOND
        } else {
            0
        };
        (at, self.encode())
    }

    /// Takes over how far the journal has come.
    pub fn take(&mut self, entries: u64, head: [u8; 32], key: &AnchorKey) {
        (self.entries, self.head) = (entries, head);
        let tag = hmac::sign(&key.0, &self.signed());
        self.mac.copy_from_slice(tag.as_ref());
    }

    /// Whether the journal goes on from here. `head_at` is the journal's head
    /// after so many entries, where it has so many.
    pub fn check(
        &self,
        key: &AnchorKey,
        head_at: impl FnOnce(u64) -> Option<[u8; 32]>,
    ) -> Result<(), AnchorError> {
        hmac::verify(&key.0, &self.signed(), &self.mac).map_err(|_| AnchorError::Forged)?;
        self.goes_on(head_at)
    }

    /// The same by what the anchor says, for whoever has no key: a stick that
    /// would refuse the journal at its next start is not given it.
    pub fn goes_on(
        &self,
        head_at: impl FnOnce(u64) -> Option<[u8; 32]>,
    ) -> Result<(), AnchorError> {
        if self.number == 0 {
            return Err(AnchorError::Forged);
        }
        if self.entries == 0 {
            return Ok(());
        }
        let put_back = |found: &str| AnchorError::PutBack {
            anchored: self.entries,
            found: found.to_owned(),
        };
        match head_at(self.entries) {
            Some(head) if head == self.head => Ok(()),
            Some(_) => Err(put_back("now it is another one")),
            None => Err(put_back("has fewer now")),
        }
    }

    fn signed(&self) -> Vec<u8> {
        let mut out = self.entries.to_le_bytes().to_vec();
        out.extend_from_slice(&self.head);
        out
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.tries.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend(self.signed());
        out.extend_from_slice(&self.mac);
        out.extend_from_slice(&[0; 12]);
        let sum = crc32(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out.resize(512, 0);
        out
    }

    fn decode(record: &[u8]) -> Option<Self> {
        let (plain, sum) = record.split_last_chunk::<4>()?;
        if !record.starts_with(MAGIC) || crc32(plain) != u32::from_le_bytes(*sum) {
            return None;
        }
        Some(Self {
            number: u64::from_le_bytes(*record.get(8..)?.first_chunk()?),
            tries: u32::from_le_bytes(*record.get(16..)?.first_chunk()?),
            entries: u64::from_le_bytes(*record.get(24..)?.first_chunk()?),
            head: *record.get(32..)?.first_chunk()?,
            mac: *record.get(64..)?.first_chunk()?,
        })
    }

    /// How long to wait before the next PIN, in seconds: nothing for the first
    /// two, then doubling up to a quarter of an hour.
    pub fn wait(&self) -> u64 {
        match self.tries {
            0..=2 => 0,
            tries => 900.min(1_u64.checked_shl(tries - 1).unwrap_or(900)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(anchor: &mut Anchor, sectors: &mut [u8]) {
        let (at, bytes) = anchor.advance();
        sectors[at..at + bytes.len()].copy_from_slice(&bytes);
    }

    #[test]
    fn the_newer_copy_counts_and_a_torn_one_does_not() {
        let mut sectors = vec![0; LENGTH];
        assert_eq!(Anchor::read(&sectors), Anchor::default());
        let mut anchor = Anchor::default();
        for tries in 1..=5 {
            anchor.tries = tries;
            written(&mut anchor, &mut sectors);
            assert_eq!(Anchor::read(&sectors), anchor);
        }
        let before = anchor.clone();
        anchor.tries = 6;
        let (at, bytes) = anchor.advance();
        // The cut comes anywhere within the record.
        for cut in 0..RECORD {
            let mut torn = sectors.clone();
            torn[at..at + cut].copy_from_slice(&bytes[..cut]);
            let read = Anchor::read(&torn);
            assert!(read.tries == before.tries || read == anchor, "{cut}");
            assert!(
                read.tries >= 4,
                "{cut}: never further back than one writing"
            );
        }
    }

    #[test]
    fn a_shorter_or_another_journal_is_seen() {
        let key = AnchorKey::of(b"secrets");
        let mut anchor = Anchor::default();
        assert_eq!(
            anchor.check(&key, |_| None),
            Err(AnchorError::Forged),
            "wiped"
        );
        assert!(anchor.goes_on(|_| None).is_err(), "wiped");
        anchor.take(0, [0; 32], &key);
        anchor.advance();
        assert_eq!(anchor.check(&key, |_| None), Ok(()), "a new stick");
        anchor.take(7, [9; 32], &key);
        let read = Anchor::read(&anchor.advance().1);
        assert_eq!(read.entries, 7);
        assert_eq!(anchor.check(&key, |n| (n == 7).then_some([9; 32])), Ok(()));
        let fewer = anchor.check(&key, |_| None).unwrap_err();
        assert!(
            fewer
                .to_string()
                .contains("had 7 entries and has fewer now"),
            "{fewer}"
        );
        assert!(anchor.check(&key, |_| Some([8; 32])).is_err());
    }

    #[test]
    fn without_the_pin_nobody_winds_it_back() {
        let key = AnchorKey::of(b"secrets");
        let mut anchor = Anchor::default();
        anchor.take(7, [9; 32], &key);
        anchor.entries = 3;
        assert_eq!(
            anchor.check(&key, |_| Some([9; 32])),
            Err(AnchorError::Forged)
        );
        anchor.take(3, [9; 32], &AnchorKey::of(b"guess"));
        assert_eq!(
            anchor.check(&key, |_| Some([9; 32])),
            Err(AnchorError::Forged)
        );
    }

    #[test]
    fn tries_slow_down() {
        let wait = |tries| {
            let anchor = Anchor {
                tries,
                ..Anchor::default()
            };
            anchor.wait()
        };
        assert_eq!([0, 1, 2, 3, 4, 8].map(wait), [0, 0, 0, 4, 8, 128]);
        assert_eq!([11, 12, 70, u32::MAX].map(wait), [900; 4]);
    }
}
