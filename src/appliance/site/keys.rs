//! The site's private keys: read, made, never printed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use groundcrew_core::Digest;
use groundcrew_core::keys::SigningKey;
use ring::rand::SecureRandom as _;

use crate::durable::{self, Access};

/// File names in a keys folder.
pub mod file {
    /// HQ: signs root metadata.
    pub const ROOT: &str = "root.pem";
    /// HQ: signs targets metadata: charters and bundles.
    pub const TARGETS: &str = "targets.pem";
    /// Site: signs snapshot metadata.
    pub const SNAPSHOT: &str = "snapshot.pem";
    /// Site: signs timestamp metadata.
    pub const TIMESTAMP: &str = "timestamp.pem";
    /// Site: signs grants.
    pub const GRANT: &str = "grant.pem";
    /// Site: signs journal checkpoints.
    pub const JOURNAL: &str = "journal.pem";
    /// Site: the TLS key, P-256.
    pub const TLS: &str = "tls.pem";
}

/// Everything a site signs with.
pub struct SiteKeys {
    /// Signs snapshot metadata.
    pub snapshot: SigningKey,
    /// Signs timestamp metadata.
    pub timestamp: SigningKey,
    /// Signs grants.
    pub grant: SigningKey,
    /// Signs journal checkpoints.
    pub journal: SigningKey,
    /// Speaks TLS.
    pub tls: rcgen::KeyPair,
}

impl SiteKeys {
    /// Reads the keys of a site.
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let tls_path = dir.join(file::TLS);
        let tls = rcgen::KeyPair::from_pem(&secret_text(&tls_path)?)
            .with_context(|| format!("{}: not a P-256 key in PKCS#8 PEM", tls_path.display()))?;
        Ok(Self {
            snapshot: read(&dir.join(file::SNAPSHOT))?,
            timestamp: read(&dir.join(file::TIMESTAMP))?,
            grant: read(&dir.join(file::GRANT))?,
            journal: read(&dir.join(file::JOURNAL))?,
            tls,
        })
    }

    /// Makes new keys in `dir`, which must hold none.
    pub fn create(dir: &Path) -> anyhow::Result<Self> {
        for name in [file::SNAPSHOT, file::TIMESTAMP, file::GRANT, file::JOURNAL] {
            create(&dir.join(name))?;
        }
        // P-256: OpenSSL 3.0 reads rcgen's P-256 keys, not its Ed25519 keys.
        let tls = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        durable::create(
            &dir.join(file::TLS),
            tls.serialize_pem().as_bytes(),
            Access::Secret,
        )?;
        Self::read(dir)
    }

    /// The digest of the TLS key's SubjectPublicKeyInfo, as the charter names it.
    pub fn tls_key_digest(&self) -> Digest {
        use rcgen::PublicKeyData as _;
        Digest::of(&self.tls.subject_public_key_info())
    }
}

/// Reads an Ed25519 key.
pub fn read(path: &Path) -> anyhow::Result<SigningKey> {
    SigningKey::from_pem(secret_text(path)?.as_bytes()).with_context(|| path.display().to_string())
}

/// Makes an Ed25519 key at `path`, where none may be.
pub fn create(path: &Path) -> anyhow::Result<SigningKey> {
    let key = SigningKey::from_seed(random()?)?;
    durable::create(path, key.to_pem().as_bytes(), Access::Secret)
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(key)
}

/// Random bytes from the kernel.
pub fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the kernel gives no random bytes"))?;
    Ok(bytes)
}

fn secret_text(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!(
            "{} may be read by others: run `chmod 600 {0}`",
            path.display()
        );
    }
    Ok(text)
}
