//! The steps of a bundle, as checked types: what a step says is possible, or
//! it does not parse.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::path::{Mode, RelPath, TargetPath};
use super::template::Template;
use crate::ids::shown;
use crate::text_form::text_form;

/// One step: a name for people and receipts, and what is to hold after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Unique in its bundle.
    pub name: StepName,
    /// What is to hold.
    pub action: Action,
}

/// What is to hold after a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A file with this content.
    File(FileStep),
    /// A folder of the bundle's content, copied under a path.
    Tree(TreeStep),
    /// A folder.
    Directory(DirectoryStep),
    /// An account for a person.
    User(UserStep),
    /// The system's name.
    Hostname(HostnameStep),
    /// A program run in the installed system.
    Command(CommandStep),
}

/// A file with this content, mode and owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileStep {
    /// Where.
    pub path: TargetPath,
    /// What is in it.
    pub content: Content,
    /// Whether `{{name}}` in the content is replaced.
    pub template: bool,
    /// Permission bits.
    pub mode: Mode,
    /// The owner's name on the device.
    pub owner: AccountName,
    /// The group's name on the device.
    pub group: AccountName,
}

/// Where a file's content is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// In the step itself.
    Inline(String),
    /// In this file of the bundle.
    Stored(RelPath),
}

/// A folder of the bundle's content, copied under a path; what else is there
/// stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeStep {
    /// The folder on the device; `/` is allowed.
    pub path: TargetPath,
    /// The folder in the bundle.
    pub source: RelPath,
    /// Who owns what is copied.
    #[serde(default)]
    pub owner: AccountName,
    /// The group of what is copied.
    #[serde(default)]
    pub group: AccountName,
}

/// A folder with this mode and owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryStep {
    /// Where.
    pub path: TargetPath,
    /// Permission bits.
    #[serde(default = "directory_mode")]
    pub mode: Mode,
    /// The owner's name on the device.
    #[serde(default)]
    pub owner: AccountName,
    /// The group's name on the device.
    #[serde(default)]
    pub group: AccountName,
}

fn directory_mode() -> Mode {
    Mode::PROGRAM
}

/// An account. It has no password: bundles are public.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserStep {
    /// The login name.
    pub name: AccountName,
    /// The numeric id; without it, the first free one from 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<UserId>,
    /// The full name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gecos: Option<Gecos>,
    /// Groups to be a member of, besides one's own; they must exist.
    #[serde(default)]
    pub groups: Vec<AccountName>,
    /// The login shell; `/bin/bash` for a new account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<TargetPath>,
    /// The home folder; `/home/NAME` for a new account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<TargetPath>,
    /// The keys in `~/.ssh/authorized_keys`, which the bundle then owns. An
    /// empty list leaves that file alone.
    #[serde(default)]
    pub ssh_authorized_keys: Vec<SshKey>,
    /// Member of `sudo`, and `sudo` asks for no password (there is none).
    #[serde(default)]
    pub sudo: bool,
}

/// The system's name: `/etc/hostname` and the line of 127.0.1.1 in
/// `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostnameStep {
    /// The name.
    #[serde(default = "granted_hostname")]
    pub name: Template,
}

fn granted_hostname() -> Template {
    #[allow(clippy::expect_used, reason = "a constant; a test reads it")]
    "{{hostname}}".parse().expect("a constant template")
}

/// A program run in the installed system, as root, without a shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandStep {
    /// The program and its arguments.
    pub argv: Argv,
    /// Not run when this program succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless: Option<Argv>,
    /// Not run when this path exists; the step fails if it does not exist
    /// afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creates: Option<TargetPath>,
    /// Seconds after which it is killed, 1 to 3600.
    #[serde(default)]
    pub timeout: Seconds,
    /// Its environment, besides PATH, HOME and LANG.
    #[serde(default)]
    pub env: BTreeMap<EnvName, EnvValue>,
}

/// Files that other step kinds edit line by line, and that must not be
/// replaced as a whole.
const ACCOUNT_FILES: [&str; 4] = ["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow"];
/// Folders that are not on the disk.
const VIRTUAL: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// Why a step must not write to a path.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ForbiddenPath {
    /// `/` itself.
    #[error("`/` itself cannot be written; name a path in it")]
    Root,
    /// Accounts.
    #[error("`{0}` holds accounts and password hashes: use a `user` step (bundles are public)")]
    Accounts(TargetPath),
    /// Not on the disk.
    #[error("`{0}` is not on the disk: what is written there is gone after a restart")]
    Virtual(TargetPath),
}

/// Whether a step may write to `path`.
pub fn writable(path: &TargetPath) -> Result<(), ForbiddenPath> {
    if path.is_root() {
        return Err(ForbiddenPath::Root);
    }
    if ACCOUNT_FILES.iter().any(|file| path.is_within(file)) {
        return Err(ForbiddenPath::Accounts(path.clone()));
    }
    if VIRTUAL.iter().any(|folder| path.is_within(folder)) {
        return Err(ForbiddenPath::Virtual(path.clone()));
    }
    Ok(())
}

impl Action {
    /// The kind's name, as in `bundle.toml`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Tree(_) => "tree",
            Self::Directory(_) => "directory",
            Self::User(_) => "user",
            Self::Hostname(_) => "hostname",
            Self::Command(_) => "command",
        }
    }

    /// Whether the paths it names itself may be written.
    pub fn check(&self) -> Result<(), ForbiddenPath> {
        match self {
            Self::File(step) => writable(&step.path),
            Self::Directory(step) => writable(&step.path),
            Self::User(step) => step.home.as_ref().map_or(Ok(()), writable),
            Self::Tree(step) if step.path.is_root() => Ok(()),
            Self::Tree(step) => writable(&step.path),
            Self::Hostname(_) | Self::Command(_) => Ok(()),
        }
    }
}

/// Text that is not what its key needs.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{found}` {wanted}")]
pub struct FieldError {
    found: String,
    wanted: &'static str,
}

/// A type over text with its own rule: `$check(&str) -> bool`.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:expr, $wanted:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = FieldError;

            fn from_str(text: &str) -> Result<Self, FieldError> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(FieldError { found: shown(text), wanted: $wanted })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        text_form!($name);
    };
}

checked_text!(
    /// A step's name: one line of 1 to 80 characters.
    StepName,
    |t| (1..=80).contains(&t.chars().count()) && !t.chars().any(char::is_control) && t.trim() == t,
    "is not a step's name: use one line of 1 to 80 characters"
);
checked_text!(
    /// A user's or group's name (the rule of Debian's `adduser`).
    AccountName,
    |t| t.len() <= 32
        && t.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b)),
    "is not an account's name: use at most 32 of a-z, 0-9, `_` and `-`, a letter first"
);
checked_text!(
    /// A full name, as the fifth field of `/etc/passwd` holds it.
    Gecos,
    |t| t.len() <= 256 && !t.contains(':') && !t.chars().any(char::is_control),
    "is not a full name: one line without `:`"
);
checked_text!(
    /// One line of `authorized_keys`: type, base64, comment; no options.
    SshKey,
    is_ssh_key,
    "is not an SSH public key: paste the one line of id_ed25519.pub (type, base64, comment; no options)"
);
checked_text!(
    /// An environment variable's name.
    EnvName,
    |t| t.len() <= 64
        && t.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !t.starts_with("LD_"),
    "is not an environment variable's name (LD_… is not allowed)"
);
checked_text!(
    /// An environment variable's value.
    EnvValue,
    |t| t.len() <= 4096 && !t.contains('\0'),
    "is not an environment variable's value: at most 4096 bytes without NUL"
);

impl Default for AccountName {
    /// `root`.
    fn default() -> Self {
        Self("root".to_owned())
    }
}

const SSH_TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// RFC 4253 §6.6: the blob begins with its type as a string (u32 length).
fn is_ssh_key(text: &str) -> bool {
    let mut words = text.split(' ');
    let (Some(kind), Some(blob)) = (words.next(), words.next()) else {
        return false;
    };
    let decoded = BASE64.decode(blob.as_bytes()).unwrap_or_default();
    let inner = decoded
        .split_first_chunk::<4>()
        .and_then(|(len, rest)| rest.split_at_checked(u32::from_be_bytes(*len) as usize));
    text.len() <= 8192
        && !text.chars().any(char::is_control)
        && SSH_TYPES.contains(&kind)
        && inner.is_some_and(|(name, key)| name == kind.as_bytes() && key.len() >= 32)
}

/// A numeric id, 100 to 59999: neither root nor one that the system deals out
/// for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct UserId(u32);

impl UserId {
    /// The number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for UserId {
    type Error = FieldError;

    fn try_from(number: u32) -> Result<Self, FieldError> {
        if (100..60_000).contains(&number) {
            return Ok(Self(number));
        }
        Err(FieldError {
            found: number.to_string(),
            wanted: "is not a uid for a person: use 100 to 59999",
        })
    }
}

impl From<UserId> for u32 {
    fn from(id: UserId) -> u32 {
        id.0
    }
}

/// Seconds, 1 to 3600; 300 where nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Seconds(u32);

impl Seconds {
    /// As a duration.
    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.0 as u64)
    }
}

impl Default for Seconds {
    fn default() -> Self {
        Self(300)
    }
}

impl TryFrom<u32> for Seconds {
    type Error = FieldError;

    fn try_from(number: u32) -> Result<Self, FieldError> {
        if (1..=3600).contains(&number) {
            return Ok(Self(number));
        }
        Err(FieldError {
            found: number.to_string(),
            wanted: "is not a timeout: use 1 to 3600 seconds",
        })
    }
}

impl From<Seconds> for u32 {
    fn from(seconds: Seconds) -> u32 {
        seconds.0
    }
}

/// A program and its arguments: 1 to 128 texts without NUL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Argv(Vec<String>);

impl Argv {
    /// The program, then its arguments.
    pub fn words(&self) -> &[String] {
        &self.0
    }
}

impl TryFrom<Vec<String>> for Argv {
    type Error = FieldError;

    fn try_from(words: Vec<String>) -> Result<Self, FieldError> {
        let program = words.first().is_some_and(|word| !word.is_empty());
        let plain = words
            .iter()
            .all(|word| word.len() <= 4096 && !word.contains('\0'));
        if program && plain && words.len() <= 128 {
            return Ok(Self(words));
        }
        Err(FieldError {
            found: shown(&words.join(" ")),
            wanted: "is not a command: a program and at most 127 arguments of at most 4096 bytes",
        })
    }
}

impl From<Argv> for Vec<String> {
    fn from(argv: Argv) -> Self {
        argv.0
    }
}

impl fmt::Display for Argv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str, inner: &str) -> String {
        let mut blob = (inner.len() as u32).to_be_bytes().to_vec();
        blob.extend(inner.as_bytes());
        blob.extend([7; 36]);
        format!("{kind} {} laptop of the crew", BASE64.encode(&blob))
    }

    #[test]
    fn ssh_keys_are_one_plain_line() {
        assert!(key("ssh-ed25519", "ssh-ed25519").parse::<SshKey>().is_ok());
        for bad in [
            key("ssh-ed25519", "ssh-rsa"),
            key("ssh-dss", "ssh-dss"),
            format!("{}\nssh-rsa x", key("ssh-ed25519", "ssh-ed25519")),
            format!("command=\"x\" {}", key("ssh-ed25519", "ssh-ed25519")),
            "ssh-ed25519 AAAA".into(),
            "ssh-ed25519".into(),
            String::new(),
        ] {
            assert!(bad.parse::<SshKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn account_names_cannot_add_fields_or_lines() {
        for bad in [
            "",
            "a:b",
            "a\nb",
            "A",
            "1a",
            "-a",
            "ä",
            "a.b",
            &"a".repeat(33),
        ] {
            assert!(bad.parse::<AccountName>().is_err(), "{bad}");
        }
        assert!("www-data".parse::<AccountName>().is_ok());
        assert!("a:b".parse::<Gecos>().is_err());
    }

    #[test]
    fn forbidden_paths_say_what_to_do() {
        let told = |path: &str| writable(&path.parse().unwrap()).map_err(|e| e.to_string());
        assert!(told("/etc/shadow").unwrap_err().contains("`user` step"));
        assert!(told("/proc/sys/x").unwrap_err().contains("not on the disk"));
        assert!(told("/").is_err());
        assert!(told("/etc/shadow-policy").is_ok());
    }

    #[test]
    fn numbers_and_commands_have_bounds() {
        assert!(UserId::try_from(0).is_err() && UserId::try_from(1000).is_ok());
        assert!(Seconds::try_from(0).is_err() && Seconds::try_from(3601).is_err());
        assert!(Argv::try_from(vec![]).is_err());
        assert!(Argv::try_from(vec!["a\0".into()]).is_err());
        assert_eq!(granted_hostname().as_str(), "{{hostname}}");
    }
}
