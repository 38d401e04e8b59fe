//! What somebody may order for a device's next boot: a word of the command
//! line, of the control socket and of the store.

use serde::{Deserialize, Serialize};

/// What a device boots once, instead of what it would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Once {
    /// A menu that waits a minute
    Menu,
    /// The agent, whatever the registry says
    Agent,
    /// Its own disk
    Disk,
    /// The memory test of the boot folder
    Memtest,
    /// The shell of iPXE
    Shell,
}

impl Once {
    const ALL: [Self; 5] = [
        Self::Menu,
        Self::Agent,
        Self::Disk,
        Self::Memtest,
        Self::Shell,
    ];

    /// Its word on the command line and on disk.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Menu => "menu",
            Self::Agent => "agent",
            Self::Disk => "disk",
            Self::Memtest => "memtest",
            Self::Shell => "shell",
        }
    }

    /// Reads [`Once::word`].
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|once| once.word() == word)
    }
}
