//! How a provisioning ends when it does not succeed: what, and what to do.

use std::fmt;

use groundcrew_core::words::Trouble;

/// A reason to stop, in words for the person in front of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whether the device decided against it, or something broke.
    pub kind: Kind,
    /// What happened and why.
    pub what: String,
    /// What somebody can do about it.
    pub advice: String,
    /// What it is about, for the appliance.
    pub trouble: Trouble,
}

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something was offered or found that must not be used.
    Refused,
    /// Something did not work.
    Failed,
}

impl Failure {
    /// Something must not be used.
    pub fn refused(what: impl fmt::Display, advice: impl Into<String>) -> Self {
        Self {
            kind: Kind::Refused,
            what: what.to_string(),
            advice: advice.into(),
            trouble: Trouble::Other,
        }
    }

    /// Something did not work.
    pub fn failed(what: impl fmt::Display, advice: impl Into<String>) -> Self {
        Self {
            kind: Kind::Failed,
            what: what.to_string(),
            advice: advice.into(),
            trouble: Trouble::Other,
        }
    }

    /// The same, and what it is about. A full disk is one whatever was done on it.
    #[must_use]
    pub fn about(mut self, trouble: Trouble) -> Self {
        let full = self.what.contains("No space left");
        self.trouble = if full { Trouble::DiskFull } else { trouble };
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Refused => "refused",
            Kind::Failed => "failed",
        };
        write!(f, "{kind}: {}", self.what)
    }
}
