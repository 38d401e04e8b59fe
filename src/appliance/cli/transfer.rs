//! `groundcrew device transfer` and `device receive`: a device goes to another
//! site by a signed release.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use groundcrew_core::dsse::Envelope;
use groundcrew_core::keys::PublicKey;
use groundcrew_core::{DeviceId, SiteId};
use groundcrew_registry::transfer::Release;
use serde::{Deserialize, Serialize};

use super::client;
use super::site_arg::SiteArg;
use crate::office::{Blob, Command, FileTerms, ImportRow, Outcome};
use crate::site::{Site, charter, publish};

/// `groundcrew device transfer`.
#[derive(Debug, Args)]
pub struct DeviceTransferArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The device's id
    pub id: DeviceId,
    /// The site that gets it
    #[arg(long, value_name = "SITE")]
    pub to: SiteId,
    /// The release to write, which must not exist
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// `groundcrew device receive`.
#[derive(Debug, Args)]
pub struct DeviceReceiveArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The release that the other site's `device transfer` wrote
    pub file: PathBuf,
    /// The other site's journal key, where this site's HQ has signed no charter
    /// of it: as `device transfer` printed it there
    #[arg(long, value_name = "KEY", value_parser = read_key)]
    pub key: Option<PublicKey>,
}

/// The file: the signed release, and the hardware hash that it names by digest.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Whose key to look for; the release itself must say the same.
    from: SiteId,
    release: Envelope,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<Blob>,
    /// The sender's charter, which names its journal key: a site of the same HQ
    /// has its digest signed, and not its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    charter: Option<Blob>,
}

/// The most bytes of a release; a real one has about 8 KiB.
const MAX_FILE: u64 = 256 * 1024;

/// `ed25519:` and 64 hex characters.
fn read_key(text: &str) -> Result<PublicKey, String> {
    text.strip_prefix("ed25519:")
        .and_then(|hex| {
            data_encoding::HEXLOWER_PERMISSIVE
                .decode(hex.as_bytes())
                .ok()
        })
        .and_then(|bytes| bytes.try_into().ok())
        .map(PublicKey::from_bytes)
        .ok_or_else(|| "not a key: write ed25519: and 64 hex characters".to_owned())
}

pub fn transfer(args: &DeviceTransferArgs) -> anyhow::Result<ExitCode> {
    let parent = args
        .out
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let context = || format!("writing {}", args.out.display());
    if args.out.exists() {
        bail!(
            "{} exists already; a release never overwrites",
            args.out.display()
        );
    }
    // The device leaves when the order is carried out: the file must be possible.
    let mut file =
        tempfile::NamedTempFile::new_in(parent.unwrap_or(Path::new("."))).with_context(context)?;
    let command = Command::Transfer {
        device: args.id.clone(),
        to: args.to.clone(),
    };
    let site = Site::at(&args.site.dir);
    let from = site.settings()?.site;
    let Outcome::Released { release, hash, key } = client::execute(&site, command)? else {
        bail!("the appliance answered something else");
    };
    let text = serde_json::to_string(&File {
        release,
        hash,
        charter: publish::load(&site)
            .and_then(|repo| charter::bytes(&site, &from, &repo))
            .ok()
            .map(Blob),
        from,
    })?;
    let written = writeln!(file, "{text}").and_then(|()| file.as_file().sync_all());
    let kept = written.and_then(|()| {
        file.persist_noclobber(&args.out)
            .map_err(|error| error.error)
    });
    if let Err(error) = kept {
        println!("{text}");
        return Err(error)
            .with_context(context)
            .context("the device is released; keep the line above as the file");
    }
    println!(
        "{} is released to {} and retired here. There:",
        args.id, args.to
    );
    println!("  groundcrew device receive {}", args.out.display());
    println!("or, where that site has another HQ, with this site's journal key:");
    println!(
        "  groundcrew device receive {} --key {key}",
        args.out.display()
    );
    Ok(ExitCode::SUCCESS)
}

pub fn receive(args: &DeviceReceiveArgs) -> anyhow::Result<ExitCode> {
    let site = Site::at(&args.site.dir);
    let here = site.settings()?.site;
    let name = args.file.display();
    let size = std::fs::metadata(&args.file)
        .with_context(|| format!("reading {name}"))?
        .len();
    if size > MAX_FILE {
        bail!("{name} has {size} bytes: this is no release");
    }
    let file: File = serde_json::from_slice(&std::fs::read(&args.file)?)
        .with_context(|| format!("{name} is not what `device transfer` writes"))?;
    let from = file.from;
    let key = match args.key {
        Some(key) => key,
        None => file
            .charter
            .context("the release brings no charter")
            .and_then(|bytes| charter::of_other(&site, &from, bytes.0))
            .map(|charter| charter.journal_key)
            .with_context(|| {
                format!(
                    "who speaks for site {from}? Bring what HQ signed last (`trust import`), or give --key, as `device transfer` printed it there"
                )
            })?,
    };
    let release = file
        .release
        .verify::<Release>(&key)
        .with_context(|| format!("{name}"))?;
    if release.from != from {
        bail!(
            "{name} names site {from}, and its signed release {}",
            release.from
        );
    }
    let registration = release.into_inner().registration_at(&here)?;
    let link = client::connect(&site)?;
    if let Some(hash) = file.hash {
        link.execute(Command::KeepHashes(vec![hash]))?;
    }
    let rows = vec![ImportRow {
        line: 1,
        registration,
    }];
    let Outcome::Imported(view) = link.execute(Command::Import {
        rows,
        terms: FileTerms::default(),
    })?
    else {
        bail!("the appliance answered something else");
    };
    match view.refused.first() {
        Some(refused) => bail!("{}: {}", refused.name, refused.reason),
        None => println!("The device that site {from} released is registered here."),
    }
    Ok(ExitCode::SUCCESS)
}
