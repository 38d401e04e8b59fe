//! The journal: one line of JSON per event, each bound to the one before.
//!
//! ```text
//! {"seq":7,"at":"…","actor":…,"device":"…","event":{…},"prev":"sha256:…","hash":"sha256:…"}
//! ```
//! `hash` is SHA-256 over the line without its `hash` member (that is, up to and
//! without `,"hash"`, then `}`); `prev` is the hash of the line before, and for
//! line 1 a digest of the site's name. So a line can be checked with a text tool,
//! by a program that does not know its event. The chain proves that nothing was
//! changed, dropped or reordered *before* a known head; who keeps the head
//! elsewhere also sees a cut end.

use groundcrew_core::{DeviceId, Digest, SiteId, UnixTime};
use serde::{Deserialize, Serialize};

use crate::event::{Actor, Change, Event};

/// The longest line that is read.
pub const MAX_LINE: usize = 64 * 1024;

/// The bytes of `,"hash":"sha256:<64 hex>"}`.
const SEAL: usize = 82;

/// One line of the journal. Its hash is right: it was computed or checked when
/// the entry was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    body: Body,
    hash: Digest,
    line: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    seq: u64,
    at: UnixTime,
    actor: Actor,
    device: DeviceId,
    event: Event,
    prev: Digest,
}

/// What is wrong with a line, and with which.
#[derive(Debug, thiserror::Error)]
#[error("journal line {line}: {kind}")]
pub struct JournalError {
    /// The line's number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub kind: Damage,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It does not end in a hash.
    #[error("it is cut off or not a journal line")]
    NotALine,
    /// Longer than any entry.
    #[error("it has {0} bytes; at most {MAX_LINE} are read")]
    TooLong(usize),
    /// Its hash is not that of its content.
    #[error("it was changed: its hash does not match its content")]
    Changed,
    /// Another number than the one before plus 1.
    #[error(
        "it carries number {found}, expected {expected}: a line is missing, doubled or out of order"
    )]
    Sequence {
        /// The number that should come.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// It does not follow the line before it.
    #[error(
        "it does not follow the line before it: a line was replaced, or this is another site's journal"
    )]
    Broken,
    /// Right hash, but not an event this release knows.
    #[error("its content is not understood: {0}")]
    Content(serde_json::Error),
}

impl Entry {
    /// The line's number, from 1.
    pub const fn seq(&self) -> u64 {
        self.body.seq
    }

    /// When it was recorded.
    pub const fn at(&self) -> UnixTime {
        self.body.at
    }

    /// Who made it happen.
    pub const fn actor(&self) -> &Actor {
        &self.body.actor
    }

    /// Whom it is about.
    pub const fn device(&self) -> &DeviceId {
        &self.body.device
    }

    /// What happened.
    pub const fn event(&self) -> &Event {
        &self.body.event
    }

    /// The hash of the line before.
    pub const fn prev(&self) -> Digest {
        self.body.prev
    }

    /// This line's hash.
    pub const fn hash(&self) -> Digest {
        self.hash
    }

    /// The line, without its newline.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// The line, without its newline.
    pub fn into_line(self) -> String {
        self.line
    }

    /// Reads a line and checks its hash. Whether it follows the one before is
    /// [`Chain::follow`]'s to say.
    pub fn read(line: &str) -> Result<Self, Damage> {
        let sealed = Sealed::read(line)?;
        let body = serde_json::from_str(&sealed.body).map_err(Damage::Content)?;
        Ok(Self {
            body,
            hash: sealed.hash,
            line: line.to_owned(),
        })
    }
}

/// A line whose hash was checked, whatever its event is.
struct Sealed {
    body: String,
    hash: Digest,
}

impl Sealed {
    fn read(line: &str) -> Result<Self, Damage> {
        if line.len() > MAX_LINE {
            return Err(Damage::TooLong(line.len()));
        }
        let at = line.len().checked_sub(SEAL).ok_or(Damage::NotALine)?;
        let (head, seal) = line.split_at_checked(at).ok_or(Damage::NotALine)?;
        let hash = seal
            .strip_prefix(",\"hash\":\"")
            .and_then(|rest| rest.strip_suffix("\"}"))
            .and_then(|text| text.parse().ok())
            .ok_or(Damage::NotALine)?;
        let body = format!("{head}}}");
        if Digest::of(body.as_bytes()) == hash {
            Ok(Self { body, hash })
        } else {
            Err(Damage::Changed)
        }
    }
}

/// The end of a journal: how many lines, and the last one's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    seq: u64,
    head: Digest,
}

impl Chain {
    /// The start of a site's journal.
    pub fn new(site: &SiteId) -> Self {
        let label: &[u8] = b"groundcrew journal 1";
        Self {
            seq: 0,
            head: Digest::of_parts(&[label, site.as_str().as_bytes()]),
        }
    }

    /// The end of a journal of `seq` lines, the last one with hash `head`.
    pub(crate) const fn at(seq: u64, head: Digest) -> Self {
        Self { seq, head }
    }

    /// How many lines there are.
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// The hash of the last line.
    pub const fn head(&self) -> Digest {
        self.head
    }

    /// Makes the next entry; the chain moves on.
    pub fn seal(&mut self, at: UnixTime, change: Change) -> Result<Entry, serde_json::Error> {
        let body = Body {
            seq: self.seq + 1,
            at,
            actor: change.actor,
            device: change.device,
            event: change.event,
            prev: self.head,
        };
        let mut line = serde_json::to_string(&body)?;
        let hash = Digest::of(line.as_bytes());
        line.pop();
        line.push_str(&format!(",\"hash\":\"{hash}\"}}"));
        (self.seq, self.head) = (body.seq, hash);
        Ok(Entry { body, hash, line })
    }

    /// Moves on by an entry that was read, if it follows.
    pub fn follow(&mut self, entry: &Entry) -> Result<(), Damage> {
        self.step(entry.seq(), entry.prev(), entry.hash)
    }

    fn step(&mut self, seq: u64, prev: Digest, hash: Digest) -> Result<(), Damage> {
        if seq != self.seq + 1 {
            return Err(Damage::Sequence {
                expected: self.seq + 1,
                found: seq,
            });
        }
        if prev != self.head {
            return Err(Damage::Broken);
        }
        (self.seq, self.head) = (seq, hash);
        Ok(())
    }
}

/// Walks along a journal line by line, without need to understand its events.
pub struct Walk(Chain);

impl Walk {
    /// At the start of a site's journal.
    pub fn new(site: &SiteId) -> Self {
        Self(Chain::new(site))
    }

    /// The next line: where the journal stands after it, or what is wrong with it.
    pub fn line(&mut self, text: &str) -> Result<Chain, JournalError> {
        #[derive(Deserialize)]
        struct Link {
            seq: u64,
            prev: Digest,
        }
        let line = self.0.seq() + 1;
        let named = |kind| JournalError { line, kind };
        let sealed = Sealed::read(text).map_err(named)?;
        let link: Link =
            serde_json::from_str(&sealed.body).map_err(|e| named(Damage::Content(e)))?;
        self.0
            .step(link.seq, link.prev, sealed.hash)
            .map_err(named)?;
        Ok(self.0)
    }

    /// Where the journal stands.
    pub const fn chain(&self) -> Chain {
        self.0
    }
}

/// Checks a whole journal, without need to understand its events, and says
/// where it ends. Names the first line that is changed, missing or out of order.
pub fn verify<'a>(
    site: &SiteId,
    lines: impl IntoIterator<Item = &'a str>,
) -> Result<Chain, JournalError> {
    let mut walk = Walk::new(site);
    for line in lines {
        walk.line(line)?;
    }
    Ok(walk.chain())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn site() -> SiteId {
        "hq".parse().unwrap()
    }

    fn lines(count: u8) -> Vec<String> {
        let mut chain = Chain::new(&site());
        let entry = |n: u8| {
            let change = Change {
                device: DeviceId::new(&site(), [0, 0, 0, 0, n]),
                actor: Actor::Technician("tech \"7\"\n".into()),
                event: Event::Retired {
                    reason: format!("line {n}\u{2028}\"\\"),
                },
            };
            let entry = chain.seal(UnixTime::new(1_800_000_000), change).unwrap();
            assert_eq!(Entry::read(entry.line()).unwrap(), entry);
            entry.line().to_owned()
        };
        (0..count).map(entry).collect()
    }

    fn check(lines: &[String]) -> Result<Chain, JournalError> {
        verify(&site(), lines.iter().map(String::as_str))
    }

    #[test]
    fn an_honest_journal_verifies() {
        let lines = lines(9);
        assert_eq!(check(&lines).unwrap().seq(), 9);
        assert!(lines.iter().all(|line| !line.contains('\n')));
        let other = verify(&"lab".parse().unwrap(), lines.iter().map(String::as_str));
        assert!(matches!(
            other,
            Err(JournalError {
                line: 1,
                kind: Damage::Broken
            })
        ));
    }

    #[test]
    fn an_event_of_a_later_release_still_verifies() {
        let line = &lines(1)[0];
        let body = format!("{}}}", &line[..line.len() - SEAL]);
        let body = body.replace("retired", "teleported");
        let hash = Digest::of(body.as_bytes());
        let line = format!("{},\"hash\":\"{hash}\"}}", &body[..body.len() - 1]);
        assert_eq!(check(std::slice::from_ref(&line)).unwrap().seq(), 1);
        assert!(matches!(Entry::read(&line), Err(Damage::Content(_))));
    }

    #[test]
    fn a_recomputed_hash_breaks_the_next_line() {
        let mut lines = lines(3);
        let line = &lines[1];
        let body = format!("{}}}", &line[..line.len() - SEAL]).replace("line 1", "line X");
        let hash = Digest::of(body.as_bytes());
        lines[1] = format!("{},\"hash\":\"{hash}\"}}", &body[..body.len() - 1]);
        let error = check(&lines).unwrap_err();
        assert!(matches!(
            error,
            JournalError {
                line: 3,
                kind: Damage::Broken
            }
        ));
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_named(line in 0usize..6, at in any::<prop::sample::Index>(), to in 0x20u8..0x7f) {
            let mut lines = lines(6);
            let mut bytes = lines[line].clone().into_bytes();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            let Ok(changed) = String::from_utf8(bytes) else { return Ok(()) };
            lines[line] = changed;
            prop_assert_eq!(check(&lines).unwrap_err().line, line as u64 + 1);
        }

        #[test]
        fn any_missing_line_is_named(line in 0usize..5) {
            let mut lines = lines(6);
            lines.remove(line);
            prop_assert_eq!(check(&lines).unwrap_err().line, line as u64 + 1);
        }

        #[test]
        fn any_two_lines_swapped_are_named(a in 0usize..6, b in 0usize..6) {
            prop_assume!(a != b);
            let mut lines = lines(6);
            lines.swap(a, b);
            prop_assert_eq!(check(&lines).unwrap_err().line, a.min(b) as u64 + 1);
        }

        #[test]
        fn any_text_never_panics(text in "\\PC{0,200}") {
            let _ = Entry::read(&text);
        }
    }
}
