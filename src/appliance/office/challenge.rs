//! Challenges without memory: each is an HMAC of the device's commitment under
//! a secret of this process. One commitment has one challenge, so nobody can
//! ask again until a code fits; a flood of starts costs no memory.

use groundcrew_core::Digest;
use groundcrew_core::enroll::ChallengeBytes;
use ring::hmac;

/// The secret of this process.
pub struct Challenger {
    key: hmac::Key,
}

impl Challenger {
    /// A challenger with a fresh secret. What an earlier process gave out is
    /// stale from now on, and devices start over.
    pub fn new(secret: [u8; 32]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
        }
    }

    /// The one challenge for a commitment.
    pub fn challenge(&self, commitment: &Digest) -> ChallengeBytes {
        let tag = hmac::sign(&self.key, commitment.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        groundcrew_core::encoding::Bytes(bytes)
    }

    /// Whether `challenge` is the one this process gave for `commitment`.
    pub fn gave(&self, commitment: &Digest, challenge: &ChallengeBytes) -> bool {
        hmac::verify(&self.key, commitment.as_bytes(), &challenge.0).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_challenge_per_commitment_and_process() {
        let challenger = Challenger::new([1; 32]);
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let challenge = challenger.challenge(&a);
        assert_eq!(challenge, challenger.challenge(&a));
        assert!(challenger.gave(&a, &challenge));
        assert!(!challenger.gave(&b, &challenge));
        assert!(!Challenger::new([2; 32]).gave(&a, &challenge));
    }
}
