//! Last words: what goes wrong is told to the appliance over plain HTTP, as far
//! as that can be reached. Nobody waits long for it, and nothing depends on it.

use std::cell::Cell;

use groundcrew_core::hardware::{HardwareReport, MacAddr};
use groundcrew_core::words::{self, LastWords, Trouble};

use crate::http::{HttpError, Public};

/// Tells the appliance.
pub struct Voice {
    public: Public,
    of: LastWords,
    stuck: Cell<u32>,
}

impl Voice {
    /// Speaks for this machine, booted from the card `mac`.
    pub fn new(public: Public, mac: MacAddr, report: &HardwareReport) -> Self {
        Self {
            public,
            of: LastWords {
                mac: Some(mac),
                uuid: report.smbios.uuid,
                serial: report.smbios.serial.clone(),
                ..LastWords::default()
            },
            stuck: Cell::new(0),
        }
    }

    /// Says it once. Whether it was heard changes nothing.
    pub fn say(&self, trouble: Trouble, phase: &str, text: &str) {
        let words = LastWords {
            trouble,
            phase: phase.to_owned(),
            text: text.chars().take(words::MAX_TEXT).collect(),
            ..self.of.clone()
        };
        let path = format!("{}?{}", words::PATH, words.query());
        let _ = self.public.file(&path, 256);
    }

    /// Something is tried again and again: said at the third time, and seldom after.
    pub fn stuck(&self, phase: &str, error: &HttpError) {
        let times = self.stuck.get().saturating_add(1);
        self.stuck.set(times);
        if times == 3 || times.is_multiple_of(100) {
            self.say(trouble(error), phase, &error.to_string());
        }
    }
}

/// What an answer of the enrollment endpoint, or none, is about.
pub fn trouble(error: &HttpError) -> Trouble {
    match error {
        HttpError::WrongServer(_) => Trouble::WrongServer,
        HttpError::Transport(_) | HttpError::CutShort => Trouble::HttpsUnreachable,
        HttpError::Refused { code, .. } => match code.as_str() {
            "clock-unknown" | "clock-beyond" => Trouble::Clock,
            "no-session" | "stale-challenge" => Trouble::Session,
            "wrong-site" => Trouble::TrustMismatch,
            _ => Trouble::Turned,
        },
        HttpError::TooLong(_) | HttpError::Malformed(_) => Trouble::Other,
    }
}
