//! `groundcrew hq …`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use groundcrew_core::enroll::BundleRef;
use groundcrew_core::ids::Slug;
use groundcrew_core::keys::PublicKey;
use groundcrew_core::trust::{Charter, Downgrade};
use serde::Serialize;

use super::hq_args::{
    HqAllowDowngradeArgs, HqArg, HqCommand, HqFinalizeArgs, HqInitArgs, HqKeyAddArgs, HqKeyCommand,
    HqKeyNewArgs, HqKeyRemoveArgs, HqKeyRotateArgs, HqShowArgs, HqSignArgs, HqSiteAddArgs,
    HqSiteCharterArgs, HqSiteCommand, HqSiteRekeyArgs, NewTermsArgs, TermsArgs,
};
use crate::durable::{self, Access};
use crate::hq::ceremony::{Ceremony, DraftStanding, file_name};
use crate::hq::change::{Change, NewTerms, Progress, Terms};
use crate::hq::secret::NewKey;
use crate::hq::{Hq, NewHq, State, found, secret};
use crate::site::rekey::PublicKeys;

pub fn run(command: HqCommand) -> anyhow::Result<ExitCode> {
    match command {
        HqCommand::Init(args) => init(&args),
        HqCommand::Show(args) => show(&args),
        HqCommand::Site(HqSiteCommand::Add(args)) => site_add(&args),
        HqCommand::Site(HqSiteCommand::Charter(args)) => site_charter(&args),
        HqCommand::Site(HqSiteCommand::Rekey(args)) => site_rekey(&args),
        HqCommand::Key(HqKeyCommand::New(args)) => key_new(&args),
        HqCommand::Key(HqKeyCommand::Add(args)) => key_add(&args),
        HqCommand::Key(HqKeyCommand::Remove(args)) => key_remove(&args),
        HqCommand::Key(HqKeyCommand::Rotate(args)) => key_rotate(&args),
        HqCommand::Region(command) => super::hq_region::run(command),
        HqCommand::Renew(args) => {
            let hq = Hq::open(&args.dir)?;
            let change = hq.renew()?;
            carry_out(&hq, &change, &args)?;
            print!("{}{}", charters(&change), regions_left(&hq));
            Ok(())
        }
        HqCommand::Publish(args) => super::bundle::publish_at_hq(&args),
        HqCommand::AllowDowngrade(args) => allow_downgrade(&args),
        HqCommand::Sign(args) => sign(&args),
        HqCommand::Finalize(args) => finalize(&args),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn init(args: &HqInitArgs) -> anyhow::Result<()> {
    let passphrase = args
        .encrypt
        .then(|| args.passphrase.passphrase().choose("the new keys"));
    let passphrase = passphrase.transpose()?;
    let new = NewHq {
        organisation: &args.org,
        keys: args.keys,
        threshold: args.threshold,
        passphrase: passphrase.as_deref(),
    };
    let hq = Hq::init(&args.dir, &new)?;
    let dir = hq.dir().display();
    println!(
        "Made {dir}: {} of {} root keys must sign, and one targets key.",
        args.threshold, args.keys
    );
    if args.keys > 1 {
        println!("Give {dir}/keys/root-*.pem to different people, and delete them here.");
    }
    println!(
        "Next: groundcrew hq site add NAME --hq {dir} --address A.B.C.D/N --interface IF --out SITE_DIR"
    );
    Ok(())
}

fn show(args: &HqShowArgs) -> anyhow::Result<()> {
    let hq = Hq::open(&args.hq.dir)?;
    let (state, waiting) = (hq.state(), hq.ceremonies()?);
    if args.json {
        println!("{}", as_json(&hq, &waiting)?);
        return Ok(());
    }
    println!("HQ of {}", state.organisation);
    for (role, signers) in [("root", &state.root), ("targets", &state.targets)] {
        println!("{role}: {} must sign of", signers.threshold);
        for (name, key) in &signers.keys {
            println!("  {name}  {}", key.hex());
        }
    }
    println!("sites:");
    for (name, site) in &state.sites {
        let charter = &site.charter;
        println!(
            "  {name}  charter version {}, {} devices, until {}",
            charter.version, charter.devices, charter.expires
        );
    }
    for (name, region) in &state.regions {
        let sites: Vec<&str> = region.sites.iter().map(|site| site.as_str()).collect();
        let sites = match sites.as_slice() {
            [] => "no site (`hq region join`)".to_owned(),
            sites => format!("sites {}", sites.join(", ")),
        };
        println!("region {name}: key {}, {sites}", region.key.hex());
    }
    for (path, ceremony) in waiting {
        println!("waiting for signatures: {}", path.display());
        print!("{}", ceremony.describe()?);
    }
    Ok(())
}

/// `hq show --json`: HQ's state, and the ceremonies that are not over.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    state: &'a State,
    waiting: Vec<Waiting<'a>>,
}

#[derive(Serialize)]
struct Waiting<'a> {
    file: &'a Path,
    purpose: &'a str,
    drafts: Vec<DraftStanding>,
}

fn as_json(hq: &Hq, waiting: &[(PathBuf, Ceremony)]) -> anyhow::Result<String> {
    let waiting = waiting.iter().map(|(file, ceremony)| {
        Ok(Waiting {
            file,
            purpose: &ceremony.purpose,
            drafts: ceremony.standings()?,
        })
    });
    let shown = Shown {
        state: hq.state(),
        waiting: waiting.collect::<anyhow::Result<_>>()?,
    };
    Ok(serde_json::to_string_pretty(&shown)?)
}

fn site_add(args: &HqSiteAddArgs) -> anyhow::Result<()> {
    let hq = Hq::open(&args.hq.dir)?;
    let new = args.network.site(&hq.state().organisation, &args.name);
    let passphrase = args.hq.passphrase.passphrase();
    let progress = found::add_site(&hq, &args.out, &new, &terms(&args.terms), &passphrase)?;
    println!(
        "Made {}, the folder of the site {}.",
        args.out.display(),
        args.name
    );
    tell(&progress);
    if let Progress::Waiting { .. } = progress {
        println!(
            "Then: groundcrew trust export {0}.courier --hq {1} --name {0}",
            args.name,
            args.hq.dir.display()
        );
        println!(
            "      groundcrew trust import {}.courier --site {}",
            args.name,
            args.out.display()
        );
    }
    Ok(())
}

fn site_charter(args: &HqSiteCharterArgs) -> anyhow::Result<()> {
    let hq = Hq::open(&args.hq.dir)?;
    let change = hq.charter_site(&args.name, &new_terms(&args.terms))?;
    carry_out(&hq, &change, &args.hq)?;
    print!("{}", charters(&change));
    Ok(())
}

fn site_rekey(args: &HqSiteRekeyArgs) -> anyhow::Result<()> {
    let hq = Hq::open(&args.hq.dir)?;
    let keys = PublicKeys::read(&args.file)?;
    let found = keys.fingerprint()?;
    if found != args.fingerprint.trim().to_lowercase() {
        bail!(
            "the file's fingerprint is {found}, not {}: it was changed on its way, or is another one",
            args.fingerprint
        );
    }
    carry_out(&hq, &hq.rekey_site(&keys)?, &args.hq)
}

fn allow_downgrade(args: &HqAllowDowngradeArgs) -> anyhow::Result<()> {
    let hq = Hq::open(&args.hq.dir)?;
    let allowed = Downgrade {
        bundle: BundleRef {
            name: args.bundle.clone(),
            version: args.version,
        },
        device: args.device.clone(),
        until: args.until,
    };
    carry_out(&hq, &hq.allow_downgrade(&args.site, allowed)?, &args.hq)?;
    println!(
        "At the site the profile must name it, too: version = \"{}\" in site.toml.",
        args.version
    );
    Ok(())
}

fn terms(args: &TermsArgs) -> Terms {
    Terms {
        tags: args.tags.clone(),
        devices: args.devices,
        lifetime: args.days * 86_400,
        minimum: args.minimum.clone(),
    }
}

fn new_terms(args: &NewTermsArgs) -> NewTerms {
    let named = args.any_tag || !args.tags.is_empty();
    NewTerms {
        tags: named.then(|| args.tags.clone()),
        devices: args.devices,
        lifetime: args.days.map(|days| days * 86_400),
        minimum: args.minimum.clone(),
    }
}

/// The terms that a change gives sites, for people.
fn charters(change: &Change) -> String {
    let line = |charter: &Charter| {
        let tags: Vec<&str> = charter.tags.iter().map(Slug::as_str).collect();
        let tags = match tags.as_slice() {
            [] => "any tag".to_owned(),
            tags => format!("the tags {}", tags.join(", ")),
        };
        format!(
            "{}: charter version {}, {} devices, {tags}, until {}\n",
            charter.site, charter.version, charter.devices, charter.expires
        )
    };
    change.new_charters().map(line).collect()
}

fn key_new(args: &HqKeyNewArgs) -> anyhow::Result<()> {
    let passphrase = args
        .encrypt
        .then(|| args.passphrase.passphrase().choose("the new key"));
    let key = secret::create(&args.file, passphrase.transpose()?.as_deref())?;
    let mut public = args.file.clone().into_os_string();
    public.push(".pub");
    let public = Path::new(&public);
    durable::create(public, key.public().to_pem().as_bytes(), Access::Public)
        .with_context(|| format!("writing {}", public.display()))?;
    println!(
        "Made {}, to be kept secret, and {}.",
        args.file.display(),
        public.display()
    );
    Ok(())
}

pub(super) fn public_key(path: &Path) -> anyhow::Result<PublicKey> {
    let pem = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    PublicKey::from_pem(&pem).with_context(|| path.display().to_string())
}

fn key_add(args: &HqKeyAddArgs) -> anyhow::Result<()> {
    let hq = Hq::open(&args.hq.dir)?;
    let key = public_key(&args.public)?;
    let change = hq.add_key(args.role, &args.name, key, args.threshold)?;
    carry_out(&hq, &change, &args.hq)
}

fn key_remove(args: &HqKeyRemoveArgs) -> anyhow::Result<()> {
    let hq = Hq::open(&args.hq.dir)?;
    let change = hq.remove_key(args.role, &args.name, args.threshold)?;
    carry_out(&hq, &change, &args.hq)
}

fn key_rotate(args: &HqKeyRotateArgs) -> anyhow::Result<()> {
    let hq = Hq::open(&args.hq.dir)?;
    let file = hq.key_file(args.new.as_str());
    let (key, made) = key_or_new(args.public.as_deref(), file)?;
    let change = hq.rotate_key(args.role, &args.old, &args.new, key)?;
    carry_out_with(&hq, &change, made, args.encrypt, &args.hq)
}

/// The key whose public half was named, or a new one for this file.
pub(super) fn key_or_new(
    public: Option<&Path>,
    file: PathBuf,
) -> anyhow::Result<(PublicKey, Option<NewKey>)> {
    if let Some(path) = public {
        return Ok((public_key(path)?, None));
    }
    let made = NewKey::at(file)?;
    Ok((made.key().public(), Some(made)))
}

/// Carries a change out that a key was made for. It gets a passphrase where
/// somebody says so, or HQ's others have one.
pub(super) fn carry_out_with(
    hq: &Hq,
    change: &Change,
    made: Option<NewKey>,
    encrypt: bool,
    args: &HqArg,
) -> anyhow::Result<()> {
    let passphrase = args.passphrase.passphrase();
    let Some(made) = made else {
        return carry_out(hq, change, args);
    };
    let encrypt = encrypt || hq.uses_passphrases()?;
    let chosen = encrypt
        .then(|| passphrase.choose("the new key"))
        .transpose()?;
    let made = made.protected_by(chosen);
    let progress = hq.carry_out_with(change, Some(&made), &passphrase)?;
    println!("Made {made}.");
    tell_next(&progress);
    Ok(())
}

pub(super) fn carry_out(hq: &Hq, change: &Change, args: &HqArg) -> anyhow::Result<()> {
    tell_next(&hq.carry_out(change, &args.passphrase.passphrase())?);
    Ok(())
}

/// What became of a change, and where it has to go.
fn tell_next(progress: &Progress) {
    tell(progress);
    if let Progress::Done(hq) = progress {
        let sites: Vec<&str> = hq.state().sites.keys().map(Slug::as_str).collect();
        if !sites.is_empty() {
            println!(
                "Bring it to {}: groundcrew trust export SITE.courier --hq {} --name SITE",
                sites.join(", "),
                hq.dir().display()
            );
        }
    }
}

/// What `hq renew` cannot renew, for want of the regions' keys.
fn regions_left(hq: &Hq) -> String {
    let line = |(name, until)| {
        format!(
            "The list of the region {name} ends at {until} as before, its own key signs it: groundcrew hq region renew {name} --hq {}\n",
            hq.dir().display()
        )
    };
    hq.regions_until().into_iter().map(line).collect()
}

/// What became of a change, and what comes next.
pub fn tell(progress: &Progress) {
    match progress {
        Progress::Done(_) => println!("Signed."),
        Progress::Waiting { file, standing } => {
            print!("{standing}");
            println!("More people must sign {}:", file.display());
            println!("  each, on their own machine:  groundcrew hq sign FILE --key KEY");
            println!(
                "  at last, here:               groundcrew hq finalize {}",
                file.display()
            );
        }
    }
}

fn sign(args: &HqSignArgs) -> anyhow::Result<()> {
    let mut ceremony = Ceremony::read(&args.file)?;
    if let Some(path) = &args.key {
        let key = secret::read(path, &args.passphrase.passphrase())?;
        if ceremony.sign(&[&key])? == 0 {
            print!("{}", ceremony.describe()?);
            bail!(
                "{} has signed all that it may sign in here already, or may sign nothing",
                path.display()
            );
        }
        ceremony.write(&args.file)?;
    }
    print!("{}", ceremony.describe()?);
    if ceremony.is_complete()? {
        println!(
            "Complete. At HQ: groundcrew hq finalize {}",
            args.file.display()
        );
    }
    Ok(())
}

fn finalize(args: &HqFinalizeArgs) -> anyhow::Result<()> {
    let hq = Hq::open(&args.hq.dir)?;
    let ceremony = Ceremony::read(&args.file)?;
    let hq = ceremony.finish(&hq)?;
    // HQ's own copy, which the one that travelled has overtaken.
    let kept = file_name(&ceremony.purpose, &hq);
    if kept.exists() {
        std::fs::remove_file(&kept).with_context(|| format!("removing {}", kept.display()))?;
    }
    println!("Done: {}.", ceremony.purpose);
    for site in ceremony
        .drafts
        .iter()
        .filter_map(|draft| draft.site.as_ref())
    {
        println!(
            "Bring it to {site}: groundcrew trust export {site}.courier --hq {} --name {site}",
            hq.dir().display()
        );
    }
    Ok(())
}
