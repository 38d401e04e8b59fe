//! What may be typed after `groundcrew hq` and `groundcrew trust`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use groundcrew_core::ids::{Slug, Version};
use groundcrew_core::{DeviceId, SiteId, UnixTime};

use super::site_arg::SiteArg;
use crate::hq::KeyRole;
use crate::hq::secret::Passphrase;

/// Where the passphrase of encrypted keys comes from.
#[derive(Debug, Args)]
pub struct PassphraseArg {
    /// File whose first line is the keys' passphrase; else the terminal is asked
    #[arg(long, value_name = "FILE", env = "GROUNDCREW_PASSPHRASE_FILE")]
    pub passphrase_file: Option<PathBuf>,
}

impl PassphraseArg {
    /// As the key files take it.
    pub fn passphrase(&self) -> Passphrase {
        Passphrase {
            file: self.passphrase_file.clone(),
        }
    }
}

/// HQ's folder, for every command that signs there.
#[derive(Debug, Args)]
pub struct HqArg {
    /// HQ's folder, with its offline keys
    // Its own id: it stands beside `--site`, whose field is called the same.
    #[arg(
        // A command may take a site's folder, too, whose name here is `dir`.
        id = "hq-dir",
        long = "hq",
        value_name = "DIR",
        env = "GROUNDCREW_HQ",
        default_value = "hq"
    )]
    pub dir: PathBuf,
    #[command(flatten)]
    /// Passphrase of its keys
    pub passphrase: PassphraseArg,
}

/// `groundcrew hq`.
#[derive(Debug, Subcommand)]
pub enum HqCommand {
    /// Make a new HQ with its offline keys
    #[command(after_help = "\
Examples:
  groundcrew hq init /srv/hq --org 'Example Ltd'
  groundcrew hq init /srv/hq --org 'Example Ltd' --keys 3 --threshold 2 --encrypt

Give each of several people one of DIR/keys/root-*.pem and delete it here: from then on
every change of keys and sites is a ceremony of `hq sign` by as many as the threshold says.")]
    Init(HqInitArgs),
    /// Say who signs, which sites there are, and what waits for signatures
    Show(HqShowArgs),
    /// Sites: added, or given new terms
    #[command(subcommand)]
    Site(HqSiteCommand),
    /// Keys: made, added, removed, rotated
    #[command(subcommand)]
    Key(HqKeyCommand),
    /// Regions: bundles signed by a key of a region's own
    #[command(subcommand)]
    Region(super::hq_region::HqRegionCommand),
    /// Sign everything anew: roots, targets, and charters for as many days as each has
    Renew(HqArg),
    /// List a bundle and sign the list; a courier brings it to sites
    Publish(HqPublishArgs),
    /// Let devices of a site go back to an older bundle, until a day
    #[command(after_help = "\
Example:
  groundcrew hq allow-downgrade welcome 1.4 --site berlin --device berlin-7k2m9qx4 \\
      --until 2026-12-24

A device refuses a bundle older than it had last. This is the only way back; a courier brings
it to the site (`trust export`).")]
    AllowDowngrade(HqAllowDowngradeArgs),
    /// Add one person's signature to a ceremony's file, with no network and no HQ folder
    #[command(after_help = "\
Example:
  groundcrew hq sign add-site-berlin.json --key /media/stick/root-1.pem

It shows what the file says before it signs, and afterwards who is still missing.")]
    Sign(HqSignArgs),
    /// Take over a ceremony's file that everybody needed has signed
    Finalize(HqFinalizeArgs),
}

/// `groundcrew hq init`.
#[derive(Debug, Args)]
pub struct HqInitArgs {
    /// Folder to make
    pub dir: PathBuf,
    /// The organisation's name, as devices show it
    #[arg(long, value_name = "NAME")]
    pub org: String,
    /// How many root keys to make
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub keys: u32,
    /// How many of them must sign
    #[arg(long, value_name = "M", default_value_t = 1)]
    pub threshold: u32,
    /// Protect every key with a passphrase
    #[arg(long)]
    pub encrypt: bool,
    #[command(flatten)]
    /// The passphrase
    pub passphrase: PassphraseArg,
}

/// `groundcrew hq show`.
#[derive(Debug, Args)]
pub struct HqShowArgs {
    #[command(flatten)]
    /// HQ
    pub hq: HqArg,
    /// As JSON: the state, and in `waiting` the ceremonies with who is still to sign
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew hq site`.
#[derive(Debug, Subcommand)]
pub enum HqSiteCommand {
    /// Make a site's folder and sign its root and charter
    #[command(after_help = "\
Example:
  groundcrew hq site add berlin --hq hq --address 10.9.0.1/24 --interface eth1 --out berlin

The folder holds the site's own keys: it belongs on the appliance and nowhere else.")]
    Add(HqSiteAddArgs),
    /// Name a site's new keys in its root and charter: the old ones were stolen or lost
    #[command(after_help = "\
Example:
  groundcrew hq site rekey berlin.keys --hq hq --fingerprint 1f2e-3d4c-5b6a-7988-a7b6

The file is what `groundcrew trust rekey` wrote on the appliance; somebody there reads the
fingerprint out.")]
    Rekey(HqSiteRekeyArgs),
    /// Sign a new charter: other tags, another number of devices, another time
    #[command(after_help = "\
Examples:
  groundcrew hq site charter berlin --devices 50
  groundcrew hq site charter stick-7 --days 7 --tag kiosk

What is not named stays as it is, the day it ends too. `hq renew` gives each charter as many
days anew as were named last.")]
    Charter(HqSiteCharterArgs),
}

/// What a charter grants.
#[derive(Debug, Args)]
pub struct TermsArgs {
    /// A tag that the site may hand out; may be repeated. None: any
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<Slug>,
    /// How many devices the site may admit
    #[arg(long, value_name = "N", default_value_t = crate::hq::found::DEVICES)]
    pub devices: u32,
    /// For how many days: how long the site can go on without HQ
    #[arg(long, value_name = "DAYS", default_value_t = 730, value_parser = clap::value_parser!(u64).range(1..=3650))]
    pub days: u64,
    /// The least version of a bundle that devices take; may be repeated
    #[arg(long = "minimum", value_name = "BUNDLE=VERSION", value_parser = minimum)]
    pub minimum: Vec<(Slug, Version)>,
}

fn minimum(text: &str) -> Result<(Slug, Version), String> {
    let (name, version) = text
        .split_once('=')
        .ok_or("write it as welcome=1.2".to_owned())?;
    let name = name.parse().map_err(|error| format!("{error}"))?;
    let version = version.parse().map_err(|error| format!("{error}"))?;
    Ok((name, version))
}

/// `groundcrew hq site add`.
#[derive(Debug, Args)]
pub struct HqSiteAddArgs {
    /// The site's short name: prefix of device ids and host names
    pub name: SiteId,
    #[command(flatten)]
    /// HQ
    pub hq: HqArg,
    #[command(flatten)]
    /// Its first network
    pub network: super::args::FirstNetwork,
    /// Folder to make for the site
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    #[command(flatten)]
    /// The charter
    pub terms: TermsArgs,
}

/// `groundcrew hq site charter`.
#[derive(Debug, Args)]
pub struct HqSiteCharterArgs {
    /// The site
    pub name: SiteId,
    #[command(flatten)]
    /// HQ
    pub hq: HqArg,
    #[command(flatten)]
    /// What changes
    pub terms: NewTermsArgs,
}

/// What changes about a charter.
#[derive(Debug, Args)]
pub struct NewTermsArgs {
    /// A tag that the site may hand out, in the place of those before; may be repeated
    #[arg(long = "tag", value_name = "TAG", conflicts_with = "any_tag")]
    pub tags: Vec<Slug>,
    /// The site may hand out every tag
    #[arg(long)]
    pub any_tag: bool,
    /// How many devices the site may admit
    #[arg(long, value_name = "N")]
    pub devices: Option<u32>,
    /// For how many days from now: how long the site can go on without HQ
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=3650))]
    pub days: Option<u64>,
    /// The least version of a bundle that devices take; may be repeated
    #[arg(long = "minimum", value_name = "BUNDLE=VERSION", value_parser = minimum)]
    pub minimum: Vec<(Slug, Version)>,
}

/// `groundcrew hq site rekey`.
#[derive(Debug, Args)]
pub struct HqSiteRekeyArgs {
    /// What `groundcrew trust rekey` wrote
    pub file: PathBuf,
    #[command(flatten)]
    /// HQ
    pub hq: HqArg,
    /// The file's fingerprint, as the appliance showed it
    #[arg(long, value_name = "WORDS")]
    pub fingerprint: String,
}

/// `groundcrew hq key`.
#[derive(Debug, Subcommand)]
pub enum HqKeyCommand {
    /// Make a key pair: FILE, to be kept secret, and FILE.pub
    New(HqKeyNewArgs),
    /// Let one more key sign
    #[command(after_help = "\
Example:
  groundcrew hq key add root-4 --public root-4.pem.pub --role root --threshold 2")]
    Add(HqKeyAddArgs),
    /// Let a key sign no more: it is lost or stolen, or its owner left
    Remove(HqKeyRemoveArgs),
    /// Put a new key in the place of another
    #[command(after_help = "\
Examples:
  groundcrew hq key rotate targets targets-2 --role targets
  groundcrew hq key rotate root-1 root-4 --role root --public root-4.pem.pub

Without --public a key is made in HQ's keys, after everything else was found right. It gets a
passphrase with --encrypt, and always where a key that lies there has one.")]
    Rotate(HqKeyRotateArgs),
}

/// `groundcrew hq key new`.
#[derive(Debug, Args)]
pub struct HqKeyNewArgs {
    /// File to write
    pub file: PathBuf,
    /// Protect it with a passphrase
    #[arg(long)]
    pub encrypt: bool,
    #[command(flatten)]
    /// The passphrase
    pub passphrase: PassphraseArg,
}

/// `groundcrew hq key add`.
#[derive(Debug, Args)]
pub struct HqKeyAddArgs {
    /// A name that people know it by
    pub name: Slug,
    #[command(flatten)]
    /// HQ
    pub hq: HqArg,
    /// Its public half in PEM
    #[arg(long, value_name = "FILE")]
    pub public: PathBuf,
    /// What it signs
    #[arg(long, value_enum)]
    pub role: KeyRole,
    /// How many must sign from now on; without it, as many as before
    #[arg(long, value_name = "M")]
    pub threshold: Option<u32>,
}

/// `groundcrew hq key remove`.
#[derive(Debug, Args)]
pub struct HqKeyRemoveArgs {
    /// Its name; `hq show` lists them
    pub name: Slug,
    #[command(flatten)]
    /// HQ
    pub hq: HqArg,
    /// What it signs
    #[arg(long, value_enum)]
    pub role: KeyRole,
    /// How many must sign from now on; without it, as many as before
    #[arg(long, value_name = "M")]
    pub threshold: Option<u32>,
}

/// `groundcrew hq key rotate`.
#[derive(Debug, Args)]
pub struct HqKeyRotateArgs {
    /// The old key's name
    pub old: Slug,
    /// The new key's name
    pub new: Slug,
    #[command(flatten)]
    /// HQ
    pub hq: HqArg,
    /// The new key's public half in PEM; without it, a new key is made in HQ's keys
    #[arg(long, value_name = "FILE")]
    pub public: Option<PathBuf>,
    /// Protect the key that is made with a passphrase
    #[arg(long, conflicts_with = "public")]
    pub encrypt: bool,
    /// What it signs
    #[arg(long, value_enum)]
    pub role: KeyRole,
}

/// `groundcrew hq publish`.
#[derive(Debug, Args)]
pub struct HqPublishArgs {
    /// The bundle folder that `bundle build` wrote
    pub bundle: PathBuf,
    #[command(flatten)]
    /// HQ
    pub hq: HqArg,
}

/// `groundcrew hq allow-downgrade`.
#[derive(Debug, Args)]
pub struct HqAllowDowngradeArgs {
    /// The bundle
    pub bundle: Slug,
    /// Its older version, which HQ has listed
    pub version: Version,
    #[command(flatten)]
    /// HQ
    pub hq: HqArg,
    /// The site
    #[arg(long, value_name = "SITE")]
    pub site: SiteId,
    /// One device only; without it, every device of the site
    #[arg(long, value_name = "ID")]
    pub device: Option<DeviceId>,
    /// Until when: 2026-12-24, or 2026-12-24T18:00:00Z
    #[arg(long, value_name = "DATE", value_parser = date)]
    pub until: UnixTime,
}

fn date(text: &str) -> Result<UnixTime, String> {
    let midnight = format!("{text}T00:00:00Z");
    let whole = if text.len() == 10 { &midnight } else { text };
    whole
        .parse()
        .map_err(|_| "write it as 2026-12-24, or in UTC as 2026-12-24T18:00:00Z".to_owned())
}

/// `groundcrew hq sign`.
#[derive(Debug, Args)]
pub struct HqSignArgs {
    /// The ceremony's file
    pub file: PathBuf,
    /// The private key; without one, only what is signed and missing is told
    #[arg(long, value_name = "KEY")]
    pub key: Option<PathBuf>,
    #[command(flatten)]
    /// Its passphrase
    pub passphrase: PassphraseArg,
}

/// `groundcrew hq finalize`.
#[derive(Debug, Args)]
pub struct HqFinalizeArgs {
    /// The ceremony's file
    pub file: PathBuf,
    #[command(flatten)]
    /// HQ
    pub hq: HqArg,
}

/// `groundcrew trust`.
#[derive(Debug, Subcommand)]
pub enum TrustCommand {
    /// Who signed, what is missing, what expires when, what to do
    Status(TrustStatusArgs),
    /// At the site: make new keys, because the old ones were stolen or may have been
    #[command(after_help = "\
Example:
  groundcrew trust rekey berlin.keys --site /srv/gc/site

The file holds public keys for HQ (`hq site rekey`). The old keys stay in force until the
courier brings what HQ signed; `trust import` then changes them, with the appliance stopped.")]
    Rekey(TrustRekeyArgs),
    /// At HQ: write what was signed for a site into one file
    #[command(after_help = "\
Example:
  groundcrew trust export /media/stick/berlin.courier --hq hq --name berlin --bundle welcome.bundle")]
    Export(TrustExportArgs),
    /// At the site: check such a file and take it over
    #[command(after_help = "\
Example:
  groundcrew trust import /media/stick/berlin.courier --site /srv/gc/site

Everything is verified before a byte is written; what is older than the site's own is refused.")]
    Import(TrustImportArgs),
}

/// `groundcrew trust status`.
#[derive(Debug, Args)]
pub struct TrustStatusArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew trust rekey`.
#[derive(Debug, Args)]
pub struct TrustRekeyArgs {
    /// File to write
    pub file: PathBuf,
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
}

/// `groundcrew trust export`.
#[derive(Debug, Args)]
pub struct TrustExportArgs {
    /// File to write
    pub file: PathBuf,
    #[command(flatten)]
    /// HQ
    pub hq: HqArg,
    /// The site it is for
    #[arg(long, value_name = "SITE")]
    pub name: SiteId,
    /// A bundle folder to take along; may be repeated
    #[arg(long = "bundle", value_name = "DIR")]
    pub bundles: Vec<PathBuf>,
}

/// `groundcrew trust import`.
#[derive(Debug, Args)]
pub struct TrustImportArgs {
    /// The file that `trust export` wrote
    pub file: PathBuf,
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
}
