//! `groundcrew image new-key` and `… enroll-keys`: Secure Boot with a key of
//! the site's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::durable::{self, Access};
use crate::image::secure::{self, Signer};

/// The key that signs boot images.
#[derive(Debug, Args)]
pub struct SignerArgs {
    /// Private key that signs the image (RSA, PEM)
    #[arg(long, value_name = "FILE", requires = "sign_cert")]
    pub sign_key: Option<PathBuf>,
    /// Its certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "sign_key")]
    pub sign_cert: Option<PathBuf>,
}

impl SignerArgs {
    /// Reads both, if they are named.
    pub fn read(&self) -> anyhow::Result<Option<Signer>> {
        match (&self.sign_key, &self.sign_cert) {
            (Some(key), Some(certificate)) => read(key, certificate).map(Some),
            _ => Ok(None),
        }
    }
}

/// `groundcrew image new-key`.
#[derive(Debug, Args)]
pub struct NewKeyArgs {
    /// Folder for boot-key.pem and boot-cert.pem; made if absent
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The certificate's name, as firmware setups list it
    #[arg(long, value_name = "NAME", default_value = "groundcrew boot images")]
    pub name: String,
}

/// `groundcrew image enroll-keys`.
#[derive(Debug, Args)]
pub struct EnrollKeysArgs {
    /// Private key that signs the image (RSA, PEM)
    #[arg(long, value_name = "FILE")]
    pub sign_key: PathBuf,
    /// Its certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub sign_cert: PathBuf,
    /// Folder for the files; made if absent
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Makes a key and its certificate by OpenSSL, which can make RSA keys; `ring`
/// cannot, and what can is not safe against timing.
pub fn new_key(args: &NewKeyArgs) -> anyhow::Result<ExitCode> {
    let name = &args.name;
    let allowed = |c: char| c.is_ascii_alphanumeric() || " .,-_()".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        bail!(
            "`{name}` cannot be the certificate's name: 1 to 64 letters, digits, spaces and .,-_()"
        );
    }
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let (key, certificate) = (
        args.out.join("boot-key.pem"),
        args.out.join("boot-cert.pem"),
    );
    for path in [&key, &certificate] {
        if path.exists() {
            bail!(
                "{} is there already; machines trust it, so it is not replaced: choose another folder",
                path.display()
            );
        }
    }
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let (new_key, new_certificate) = (folder.path().join("key"), folder.path().join("cert"));
    openssl(name, &new_key, &new_certificate)?;
    let signer =
        read(&new_key, &new_certificate).context("OpenSSL made a pair that does not fit")?;
    let keep = |from: &Path, to: &Path, access| {
        let bytes = fs::read(from)?;
        durable::create(to, &bytes, access).with_context(|| to.display().to_string())
    };
    keep(&new_key, &key, Access::Secret)?;
    keep(&new_certificate, &certificate, Access::Public)?;
    println!("{} (keep it as you keep HQ's keys)", key.display());
    println!("{}", certificate.display());
    println!("SHA-256 of the certificate: {}", signer.fingerprint());
    println!("Next: groundcrew image enroll-keys, then image build with both");
    Ok(ExitCode::SUCCESS)
}

/// RSA with 2048 bits: what every firmware takes. Firmware looks at no dates.
fn openssl(name: &str, key: &Path, certificate: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("openssl");
    command
        .args([
            "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256",
        ])
        .args(["-days", "7300", "-utf8", "-subj", &format!("/CN={name}")])
        .args(["-addext", "keyUsage=critical,digitalSignature"])
        .args(["-addext", "extendedKeyUsage=codeSigning"])
        .arg("-keyout")
        .arg(key)
        .arg("-out")
        .arg(certificate);
    let done = command
        .output()
        .context("openssl cannot be started: run `apt-get install openssl`")?;
    if !done.status.success() {
        bail!(
            "openssl made no key: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(())
}

/// Writes what a technician needs.
pub fn enroll_keys(args: &EnrollKeysArgs) -> anyhow::Result<ExitCode> {
    let signer = read(&args.sign_key, &args.sign_cert)?;
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    for file in secure::enrollment(&signer, crate::clock::read())? {
        let path = args.out.join(file.name);
        durable::write(&path, &file.content, Access::Public)
            .with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    println!("SHA-256 of the certificate: {}", signer.fingerprint());
    println!("README.txt says what to do with them on a machine");
    Ok(ExitCode::SUCCESS)
}

fn read(key: &Path, certificate: &Path) -> anyhow::Result<Signer> {
    let file = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    Signer::from_pem(&file(key)?, &file(certificate)?)
        .with_context(|| format!("{} with {}", key.display(), certificate.display()))
}
