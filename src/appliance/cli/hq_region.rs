//! `groundcrew hq region …`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use groundcrew_core::SiteId;
use groundcrew_core::ids::Slug;
use groundcrew_core::keys::PublicKey;

use super::bundle::checked_manifest;
use super::hq::{carry_out, carry_out_with, key_or_new};
use super::hq_args::HqArg;
use crate::hq::Hq;
use crate::hq::secret::NewKey;

/// `groundcrew hq region`.
#[derive(Debug, Subcommand)]
pub enum HqRegionCommand {
    /// Hand bundles NAME and NAME-… and files NAME/… to a key of the region's own
    #[command(after_help = "\
Examples:
  groundcrew hq region add berlin --hq hq
  groundcrew hq region add emea --hq hq --site berlin --site paris
  groundcrew hq region add emea --hq hq --site berlin --public emea.pem.pub

Without --site its list goes to the sites NAME and NAME-… that there are now; others `join`.
Without --public a key is made in HQ's keys, with a passphrase (--encrypt) where a key that lies
there has one. With it, the region's people sign their empty list
first: `groundcrew hq sign FILE --key emea.pem`, then `groundcrew hq finalize FILE`.")]
    Add(RegionAddArgs),
    /// Let more sites get what the region lists; nothing needs to be signed
    Join(RegionJoinArgs),
    /// List a bundle in a region; the region's key signs
    #[command(after_help = "\
Example:
  groundcrew hq region publish emea emea-kiosk.bundle --hq hq")]
    Publish(RegionPublishArgs),
    /// Put a new key in the place of a region's: it was lost or stolen
    #[command(after_help = "\
Example:
  groundcrew hq region rotate emea --hq hq

Without --public a key is made in HQ's keys, with a passphrase (--encrypt) where a key that lies
there has one.")]
    Rotate(RegionKeyArgs),
    /// Have the region sign its list anew for its full time
    Renew(RegionArgs),
    /// Take a region's rights back
    Remove(RegionArgs),
}

/// A region of an HQ.
#[derive(Debug, Args)]
pub struct RegionArgs {
    /// The region's name
    pub name: Slug,
    #[command(flatten)]
    /// HQ
    pub hq: HqArg,
}

/// `groundcrew hq region add`.
#[derive(Debug, Args)]
pub struct RegionAddArgs {
    #[command(flatten)]
    /// The region and its key
    pub key: RegionKeyArgs,
    /// A site that gets its list; may be repeated. None: the sites NAME and NAME-…
    #[arg(long = "site", value_name = "SITE")]
    pub sites: Vec<SiteId>,
}

/// `groundcrew hq region join`.
#[derive(Debug, Args)]
pub struct RegionJoinArgs {
    #[command(flatten)]
    /// The region
    pub region: RegionArgs,
    /// A site; may be repeated
    #[arg(long = "site", value_name = "SITE", required = true)]
    pub sites: Vec<SiteId>,
}

/// `groundcrew hq region rotate`.
#[derive(Debug, Args)]
pub struct RegionKeyArgs {
    #[command(flatten)]
    /// The region
    pub region: RegionArgs,
    /// Its key's public half in PEM; without it, a key is made in HQ's keys
    #[arg(long, value_name = "FILE")]
    pub public: Option<PathBuf>,
    /// Protect the key that is made with a passphrase
    #[arg(long, conflicts_with = "public")]
    pub encrypt: bool,
}

/// `groundcrew hq region publish`.
#[derive(Debug, Args)]
pub struct RegionPublishArgs {
    #[command(flatten)]
    /// The region
    pub region: RegionArgs,
    /// The bundle folder that `bundle build` wrote
    pub bundle: PathBuf,
}

/// Carries it out.
pub fn run(command: HqRegionCommand) -> anyhow::Result<()> {
    match command {
        HqRegionCommand::Add(args) => add(&args),
        HqRegionCommand::Join(args) => join(&args),
        HqRegionCommand::Publish(args) => publish(&args),
        HqRegionCommand::Rotate(args) => {
            let hq = open(&args.region)?;
            let (key, made) = key_of(&hq, &args)?;
            let change = hq.rotate_region(&args.region.name, key)?;
            carry_out_with(&hq, &change, made, args.encrypt, &args.region.hq)
        }
        HqRegionCommand::Renew(args) => {
            let hq = open(&args)?;
            carry_out(&hq, &hq.renew_region(&args.name)?, &args.hq)
        }
        HqRegionCommand::Remove(args) => {
            let hq = open(&args)?;
            carry_out(&hq, &hq.remove_region(&args.name)?, &args.hq)
        }
    }
}

fn open(args: &RegionArgs) -> anyhow::Result<Hq> {
    Hq::open(&args.hq.dir)
}

fn add(args: &RegionAddArgs) -> anyhow::Result<()> {
    let region = &args.key.region;
    let hq = open(region)?;
    let (key, made) = key_of(&hq, &args.key)?;
    let sites = match args.sites.as_slice() {
        [] => hq.sites_named_after(&region.name),
        named => named.to_vec(),
    };
    let change = hq.add_region(&region.name, key, &sites)?;
    carry_out_with(&hq, &change, made, args.key.encrypt, &region.hq)?;
    let names: Vec<&str> = sites.iter().map(Slug::as_str).collect();
    match names.as_slice() {
        [] => println!(
            "No site gets its list yet: groundcrew hq region join {} --site SITE",
            region.name
        ),
        names => println!("Its list goes to: {}.", names.join(", ")),
    }
    Ok(())
}

/// The key named, or a new one, whose file's name tells it from an earlier one's.
fn key_of(hq: &Hq, args: &RegionKeyArgs) -> anyhow::Result<(PublicKey, Option<NewKey>)> {
    let name = &args.region.name;
    let first = hq.key_file(&format!("region-{name}"));
    let later = (2u32..).map(|n| hq.key_file(&format!("region-{name}-{n}")));
    let free = std::iter::once(first)
        .chain(later)
        .find(|path| !path.exists());
    key_or_new(args.public.as_deref(), free.context("no name is free")?)
}

fn join(args: &RegionJoinArgs) -> anyhow::Result<()> {
    let hq = open(&args.region)?;
    hq.join_region(&args.region.name, &args.sites)?;
    println!(
        "Done. The next `groundcrew trust export` takes the list of {} along.",
        args.region.name
    );
    Ok(())
}

fn publish(args: &RegionPublishArgs) -> anyhow::Result<()> {
    let (hq, name) = (open(&args.region)?, &args.region.name);
    let (reference, file) = checked_manifest(&args.bundle)?;
    if let Some(target) = hq.listed(&file.0)?
        && target.verify(&file.1).is_err()
    {
        anyhow::bail!(
            "{reference} is published already with other content; raise `version` in its bundle.toml and build it again"
        );
    }
    let change = hq.list_in_region(name, &reference.to_string(), &[file])?;
    carry_out(&hq, &change, &args.region.hq)
}
