//! HQ's private keys on disk: PKCS#8 PEM that OpenSSL reads, with a passphrase
//! (PBES2: PBKDF2-HMAC-SHA-256, AES-256-CBC) or without.

use std::fmt;
use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use groundcrew_core::keys::SigningKey;
use pkcs8::der::pem::PemLabel as _;
use pkcs8::pkcs5::pbes2;
use pkcs8::{EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef, SecretDocument};

use crate::durable::{self, Access};
use crate::site::keys::random;

/// What a guess at the passphrase costs: OWASP's figure for this function.
const ITERATIONS: u32 = 600_000;

/// Where passphrases come from.
#[derive(Clone, Debug, Default)]
pub struct Passphrase {
    /// A file whose first line it is; without one, the terminal is asked.
    pub file: Option<PathBuf>,
}

impl Passphrase {
    /// A new passphrase for `what`; a terminal is asked twice.
    pub fn choose(&self, what: &str) -> anyhow::Result<String> {
        let chosen = self.ask(what)?;
        if self.file.is_none() && typed(&format!("{what}, once more"))? != chosen {
            bail!("the two passphrases differ; nothing was made");
        }
        Ok(chosen)
    }

    /// The passphrase for `what`.
    pub fn ask(&self, what: &str) -> anyhow::Result<String> {
        let text = match &self.file {
            Some(path) => {
                let text = fs::read_to_string(path);
                let text = text.with_context(|| format!("reading {}", path.display()))?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            None if may_ask() => typed(what)?,
            None => bail!(
                "{what} needs a passphrase, and there is no terminal to ask (or this runs in its background): name a file with --passphrase-file"
            ),
        };
        if text.is_empty() {
            bail!("the passphrase for {what} is empty");
        }
        Ok(text)
    }
}

/// A key that is not on disk yet: what it is for is looked at first.
#[derive(Debug)]
pub struct NewKey {
    key: SigningKey,
    path: PathBuf,
    passphrase: Option<String>,
}

impl NewKey {
    /// A key for `path`, where none may be.
    pub fn at(path: PathBuf) -> anyhow::Result<Self> {
        if path.exists() {
            bail!("{} exists already: choose another name", path.display());
        }
        Ok(Self {
            key: SigningKey::from_seed(random()?)?,
            path,
            passphrase: None,
        })
    }

    /// The same, to be written under a passphrase.
    #[must_use]
    pub fn protected_by(self, passphrase: Option<String>) -> Self {
        Self { passphrase, ..self }
    }

    /// The key.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Writes it, for its owner's eyes only.
    pub fn save(&self) -> anyhow::Result<()> {
        let pem = match &self.passphrase {
            None => self.key.to_pem(),
            Some(passphrase) => encrypted_pem(&self.key, passphrase)?,
        };
        durable::create(&self.path, pem.as_bytes(), Access::Secret)
            .with_context(|| format!("writing {}", self.path.display()))
    }
}

impl fmt::Display for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.passphrase {
            Some(_) => "with a passphrase",
            None => "without a passphrase (--encrypt asks for one)",
        };
        write!(f, "{}, {how}", self.path.display())
    }
}

/// Makes a key at `path`, where none may be, and writes it.
pub fn create(path: &Path, passphrase: Option<&str>) -> anyhow::Result<SigningKey> {
    let new = NewKey::at(path.to_owned())?.protected_by(passphrase.map(str::to_owned));
    new.save()?;
    Ok(new.key)
}

/// Whether the key in this file has a passphrase.
pub fn has_passphrase(path: &Path) -> anyhow::Result<bool> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(is_encrypted(&text))
}

/// Reads a key; the passphrase is asked for only where there is one.
pub fn read(path: &Path, passphrase: &Passphrase) -> anyhow::Result<SigningKey> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        bail!(
            "{} may be read by others: run `chmod 600 {0}`",
            path.display()
        );
    }
    let key = if is_encrypted(&text) {
        decrypted(&text, &passphrase.ask(&path.display().to_string())?)
    } else {
        SigningKey::from_pem(text.as_bytes()).map_err(anyhow::Error::from)
    };
    key.with_context(|| path.display().to_string())
}

fn is_encrypted(pem: &str) -> bool {
    pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----")
}

fn encrypted_pem(key: &SigningKey, passphrase: &str) -> anyhow::Result<String> {
    let (salt, iv) = (random::<16>()?, random::<16>()?);
    let der = key.to_pkcs8();
    let wrong = |error: &dyn std::fmt::Display| anyhow::anyhow!("encrypting a key: {error}");
    let parameters = pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(ITERATIONS, &salt, iv)
        .map_err(|error| wrong(&error))?;
    let plain = PrivateKeyInfoRef::try_from(der.as_slice()).map_err(|error| wrong(&error))?;
    let document = plain.encrypt_with_params(parameters, passphrase);
    let document = document.map_err(|error| wrong(&error))?;
    let pem = document.to_pem(EncryptedPrivateKeyInfoRef::PEM_LABEL, LineEnding::LF);
    Ok(pem.map_err(|error| wrong(&error))?.to_string())
}

fn decrypted(pem: &str, passphrase: &str) -> anyhow::Result<SigningKey> {
    let (_, document) = SecretDocument::from_pem(pem)
        .map_err(|error| anyhow::anyhow!("not a key in PKCS#8 PEM: {error}"))?;
    let sealed = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
        .map_err(|error| anyhow::anyhow!("not a PBES2 key: {error}"))?;
    let plain = sealed.decrypt(passphrase);
    // A wrong passphrase shows as garbage of one sort or another.
    let plain = plain.map_err(|_| anyhow::anyhow!("the passphrase is wrong"))?;
    Ok(SigningKey::from_pkcs8(plain.as_bytes())?)
}

/// Whether somebody sits there. From the background of a terminal the question
/// would stop this process without a word (SIGTTOU).
fn may_ask() -> bool {
    let stdin = std::io::stdin();
    let in_front = rustix::termios::tcgetpgrp(&stdin);
    stdin.is_terminal() && in_front.is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Asks on the terminal, which shows nothing of what is typed.
pub fn typed(what: &str) -> anyhow::Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    eprint!("passphrase for {what}: ");
    std::io::stderr().flush()?;
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Flush, &before)?;
    eprintln!();
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn openssl(arguments: &[&str]) -> Vec<u8> {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        output.stdout
    }

    #[test]
    fn openssl_reads_ours_and_we_read_openssl_s() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        fs::write(at("pass"), "correct horse\n").unwrap();
        let passphrase = Passphrase {
            file: Some(at("pass").into()),
        };
        let key = create(Path::new(&at("ours")), Some("correct horse")).unwrap();
        let pass = "file:".to_owned() + &at("pass");
        let public = openssl(&["pkey", "-in", &at("ours"), "-passin", &pass, "-pubout"]);
        assert_eq!(String::from_utf8(public).unwrap(), key.public().to_pem());
        let again = read(Path::new(&at("ours")), &passphrase).unwrap();
        assert_eq!(again.public(), key.public());

        openssl(&[
            "genpkey",
            "-algorithm",
            "ed25519",
            "-aes-256-cbc",
            "-pass",
            &pass,
            "-out",
            &at("theirs"),
        ]);
        fs::set_permissions(at("theirs"), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read(Path::new(&at("theirs")), &passphrase).is_ok());
        fs::write(at("pass"), "wrong\n").unwrap();
        let error = read(Path::new(&at("theirs")), &passphrase).unwrap_err();
        assert!(
            format!("{error:#}").contains("passphrase is wrong"),
            "{error:#}"
        );
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        create(&path, None).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = read(&path, &Passphrase::default()).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}
