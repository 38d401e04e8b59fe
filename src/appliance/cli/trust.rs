//! `groundcrew trust …`.

use std::path::Path;
use std::process::ExitCode;

use super::hq_args::{
    TrustCommand, TrustExportArgs, TrustImportArgs, TrustRekeyArgs, TrustStatusArgs,
};
use crate::hq::{Hq, courier};
use crate::site::status::{self, Urgency};
use crate::site::{Site, courier as incoming, rekey};

pub fn run(command: TrustCommand) -> anyhow::Result<ExitCode> {
    match command {
        TrustCommand::Status(args) => status(&args),
        TrustCommand::Rekey(args) => rekey(&args).map(|()| ExitCode::SUCCESS),
        TrustCommand::Export(args) => export(&args).map(|()| ExitCode::SUCCESS),
        TrustCommand::Import(args) => import(&args).map(|()| ExitCode::SUCCESS),
    }
}

fn status(args: &TrustStatusArgs) -> anyhow::Result<ExitCode> {
    let status = status::of(&Site::at(&args.site.dir))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", status::render(&status));
    }
    Ok(match status.urgency() {
        Urgency::Broken => ExitCode::FAILURE,
        Urgency::Good | Urgency::Soon => ExitCode::SUCCESS,
    })
}

fn rekey(args: &TrustRekeyArgs) -> anyhow::Result<()> {
    let keys = rekey::request(&Site::at(&args.site.dir))?;
    keys.write(&args.file)?;
    let (file, fingerprint) = (args.file.display(), keys.fingerprint()?);
    println!(
        "Made new keys for {}; the old ones are in force until HQ has signed.",
        keys.site
    );
    println!("Bring {file} to HQ, and read out its fingerprint: {fingerprint}");
    println!("There: groundcrew hq site rekey {file} --fingerprint {fingerprint}");
    Ok(())
}

fn export(args: &TrustExportArgs) -> anyhow::Result<()> {
    let hq = Hq::open(&args.hq.dir)?;
    let bundles: Vec<&Path> = args.bundles.iter().map(AsRef::as_ref).collect();
    let done = courier::export(&hq, &args.name, &bundles, &args.file)?;
    println!(
        "Wrote {} for the site {}: roots, targets, charter and {} bundle(s), {} KiB. It is not secret.",
        args.file.display(),
        args.name,
        done.bundles,
        done.bytes.div_ceil(1024)
    );
    println!("At the site: groundcrew trust import FILE --site DIR");
    Ok(())
}

fn import(args: &TrustImportArgs) -> anyhow::Result<()> {
    let done = incoming::import(&Site::at(&args.site.dir), &args.file)?;
    let step = |(before, now): (Option<u64>, u64)| match before {
        Some(before) if before == now => format!("version {now} as before"),
        Some(before) => format!("version {before} -> {now}"),
        None => format!("version {now}, the first one"),
    };
    println!(
        "Root {}; targets {}; {} target file(s).",
        step(done.root),
        step(done.targets),
        done.files
    );
    println!("The site has signed that this is current; devices get it from now on.");
    Ok(())
}
