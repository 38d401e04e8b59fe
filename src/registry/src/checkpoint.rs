//! Checkpoints: the site's signature under where its journal stood.
//!
//! The chain shows that nothing inside a journal was changed; whoever may write
//! the file could still write all of it anew, or cut its end. A checkpoint is
//! signed by the key that HQ's charter names, so neither goes unseen by somebody
//! who holds one.

use groundcrew_core::dsse::{DsseError, Envelope, Payload};
use groundcrew_core::keys::{PublicKey, SigningKey};
use groundcrew_core::{Digest, SiteId, UnixTime};
use serde::{Deserialize, Serialize};

use crate::journal::{Chain, Damage, JournalError, Walk};

/// A checkpoint is due after so many entries.
pub const EVERY: u64 = 1000;

/// Seconds of a day: one is due when a new day (UTC) begins, too.
const DAY: u64 = 86_400;

/// Where a journal stood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Whose journal.
    pub site: SiteId,
    /// How many lines it had.
    pub seq: u64,
    /// The hash of the last one.
    pub head: Digest,
    /// When.
    pub at: UnixTime,
}

impl Payload for Checkpoint {
    const TYPE: &'static str = "application/vnd.groundcrew.journal-checkpoint+json";
}

impl Checkpoint {
    /// Where `chain` stands.
    pub fn of(site: &SiteId, chain: Chain, at: UnixTime) -> Self {
        Self {
            site: site.clone(),
            seq: chain.seq(),
            head: chain.head(),
            at,
        }
    }

    /// Signs it with the site's journal key.
    pub fn sign(&self, key: &SigningKey) -> Result<Envelope, serde_json::Error> {
        Envelope::sign(self, key)
    }
}

/// Whether a journal of `seq` lines is due for a checkpoint after the one at
/// `last` (its line and time): every so many lines, with the first line of a
/// day, and with the very first.
pub fn due(seq: u64, last: Option<(u64, UnixTime)>, now: UnixTime) -> bool {
    let (done, at) = last.map_or((0, None), |(done, at)| (done, Some(at)));
    let another_day = at.is_none_or(|at| at.seconds() / DAY != now.seconds() / DAY);
    seq > done && (seq - done >= EVERY || another_day)
}

/// Why checkpoints and journal do not go together.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The journal itself is damaged.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Not signed by the journal's key.
    #[error(
        "checkpoint {number} is not signed by the journal key that the site's charter names: {error}"
    )]
    Signature {
        /// Which checkpoint, from 1.
        number: usize,
        /// Why.
        error: DsseError,
    },
    /// Of another site.
    #[error("checkpoint {number} is of site {site}, not of this one")]
    Site {
        /// Which checkpoint, from 1.
        number: usize,
        /// The site it names.
        site: SiteId,
    },
    /// The journal says something else than when it was signed.
    #[error(
        "journal line {line}: it is not the line that the site signed at {at}: the journal up to it was written anew"
    )]
    Rewritten {
        /// The checkpoint's line.
        line: u64,
        /// When it was signed.
        at: UnixTime,
    },
    /// The journal is shorter than when it was signed.
    #[error(
        "the journal ends at line {found}, and the site signed line {line} at {at}: its end was cut off"
    )]
    Cut {
        /// The checkpoint's line.
        line: u64,
        /// When it was signed.
        at: UnixTime,
        /// The journal's last line.
        found: u64,
    },
}

/// What a journal that holds proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// Lines.
    pub entries: u64,
    /// The last one's hash.
    pub head: Digest,
    /// Checkpoints that fit.
    pub checkpoints: usize,
    /// The line and time of the last one.
    pub signed: Option<(u64, UnixTime)>,
}

/// Checks a journal line by line against its checkpoints, without holding it.
pub struct Verifier {
    walk: Walk,
    checkpoints: Vec<Checkpoint>,
    next: usize,
}

impl Verifier {
    /// Checks the checkpoints' signatures against `key`, the charter's.
    pub fn new(
        site: &SiteId,
        checkpoints: &[Envelope],
        key: &PublicKey,
    ) -> Result<Self, VerifyError> {
        let mut read = Vec::with_capacity(checkpoints.len());
        for (number, envelope) in (1..).zip(checkpoints) {
            let checkpoint = envelope
                .verify::<Checkpoint>(key)
                .map_err(|error| VerifyError::Signature { number, error })?
                .into_inner();
            if checkpoint.site != *site {
                let site = checkpoint.site;
                return Err(VerifyError::Site { number, site });
            }
            read.push(checkpoint);
        }
        read.sort_by_key(|checkpoint| checkpoint.seq);
        Ok(Self {
            walk: Walk::new(site),
            checkpoints: read,
            next: 0,
        })
    }

    /// The journal's next line.
    pub fn line(&mut self, text: &str) -> Result<(), VerifyError> {
        let chain = self.walk.line(text)?;
        while let Some(checkpoint) = self
            .checkpoints
            .get(self.next)
            .filter(|c| c.seq <= chain.seq())
        {
            if checkpoint.seq != chain.seq() || checkpoint.head != chain.head() {
                return Err(VerifyError::Rewritten {
                    line: checkpoint.seq,
                    at: checkpoint.at,
                });
            }
            self.next += 1;
        }
        Ok(())
    }

    /// The journal ended.
    pub fn finish(self) -> Result<Proof, VerifyError> {
        let chain = self.walk.chain();
        if let Some(beyond) = self.checkpoints.get(self.next) {
            return Err(VerifyError::Cut {
                line: beyond.seq,
                at: beyond.at,
                found: chain.seq(),
            });
        }
        Ok(Proof {
            entries: chain.seq(),
            head: chain.head(),
            checkpoints: self.checkpoints.len(),
            signed: self.checkpoints.last().map(|last| (last.seq, last.at)),
        })
    }
}

impl VerifyError {
    /// The journal line it names, where it names one.
    pub const fn line(&self) -> Option<u64> {
        match self {
            Self::Journal(JournalError { line, .. })
            | Self::Rewritten { line, .. }
            | Self::Cut { line, .. } => Some(*line),
            Self::Signature { .. } | Self::Site { .. } => None,
        }
    }

    /// What is wrong with the line itself, where the chain says so.
    pub const fn damage(&self) -> Option<&Damage> {
        match self {
            Self::Journal(JournalError { kind, .. }) => Some(kind),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Actor, Change, Event};
    use groundcrew_core::DeviceId;
    use proptest::prelude::*;

    fn site() -> SiteId {
        "hq".parse().unwrap()
    }

    fn key() -> SigningKey {
        SigningKey::from_seed([7; 32]).unwrap()
    }

    /// A journal with a checkpoint at each of these lines.
    fn journal(reason: &str, count: u8, at: &[u64]) -> (Vec<String>, Vec<Envelope>) {
        let mut chain = Chain::new(&site());
        let (mut lines, mut checkpoints) = (Vec::new(), Vec::new());
        for n in 0..count {
            let change = Change {
                device: DeviceId::new(&site(), [0, 0, 0, 0, n]),
                actor: Actor::Site,
                event: Event::Retired {
                    reason: format!("{reason} {n}"),
                },
            };
            let now = UnixTime::new(1_800_000_000 + u64::from(n));
            lines.push(chain.seal(now, change).unwrap().line().to_owned());
            if at.contains(&chain.seq()) {
                checkpoints.push(Checkpoint::of(&site(), chain, now).sign(&key()).unwrap());
            }
        }
        (lines, checkpoints)
    }

    fn verify(lines: &[String], checkpoints: &[Envelope]) -> Result<Proof, VerifyError> {
        let mut verifier = Verifier::new(&site(), checkpoints, &key().public())?;
        for line in lines {
            verifier.line(line)?;
        }
        verifier.finish()
    }

    #[test]
    fn an_honest_journal_is_proven_to_its_last_checkpoint() {
        let (lines, checkpoints) = journal("a", 9, &[3, 8]);
        let proof = verify(&lines, &checkpoints).unwrap();
        assert_eq!(
            (proof.entries, proof.checkpoints, proof.signed.unwrap().0),
            (9, 2, 8)
        );
        assert_eq!(verify(&[], &[]).unwrap().entries, 0);
    }

    #[test]
    fn a_journal_written_anew_or_cut_is_found_by_its_checkpoints() {
        let (lines, checkpoints) = journal("a", 9, &[3, 8]);
        let (other, own) = journal("b", 9, &[3]);
        assert!(verify(&other, &own).is_ok(), "the chain alone holds");
        let error = verify(&other, &checkpoints).unwrap_err();
        assert!(
            matches!(error, VerifyError::Rewritten { line: 3, .. }),
            "{error}"
        );
        let error = verify(&lines[..7], &checkpoints).unwrap_err();
        assert!(
            matches!(
                error,
                VerifyError::Cut {
                    line: 8,
                    found: 7,
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            verify(&lines[..8], &checkpoints).is_ok(),
            "nobody signed line 9"
        );
    }

    #[test]
    fn a_checkpoint_by_another_key_or_of_another_site_is_refused() {
        let (lines, mut checkpoints) = journal("a", 3, &[2]);
        let chain = Chain::new(&site());
        let foreign = SigningKey::from_seed([8; 32]).unwrap();
        let now = UnixTime::new(1_800_000_000);
        checkpoints.push(Checkpoint::of(&site(), chain, now).sign(&foreign).unwrap());
        assert!(matches!(
            verify(&lines, &checkpoints),
            Err(VerifyError::Signature { number: 2, .. })
        ));
        let elsewhere = Checkpoint::of(&"lab".parse().unwrap(), chain, now)
            .sign(&key())
            .unwrap();
        assert!(matches!(
            verify(&lines, &[elsewhere]),
            Err(VerifyError::Site { number: 1, .. })
        ));
    }

    #[test]
    fn due_by_number_and_by_day() {
        let noon = UnixTime::new(1_800_000_000);
        let tomorrow = noon.plus(DAY);
        assert!(!due(0, None, noon) && due(1, None, noon));
        let last = Some((1000, noon));
        assert!(!due(1000, last, tomorrow), "nothing new");
        assert!(!due(1001, last, noon) && due(1001, last, tomorrow) && due(2000, last, noon));
    }

    proptest! {
        #[test]
        fn one_changed_missing_or_moved_line_is_named(at in 0..9usize, to in 0..9usize, how in 0..3) {
            let (mut lines, checkpoints) = journal("a", 9, &[9]);
            let wrong = match how {
                0 => {
                    lines[at] = lines[at].replacen("a ", "z ", 1);
                    at
                }
                1 => {
                    lines.remove(at);
                    at
                }
                _ => {
                    prop_assume!(at != to);
                    lines.swap(at, to);
                    at.min(to)
                }
            };
            let error = verify(&lines, &checkpoints).unwrap_err();
            // A missing last line is found by the checkpoint that names it.
            prop_assert_eq!(error.line(), Some(wrong as u64 + 1), "{}", error);
        }
    }
}
