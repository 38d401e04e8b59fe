//! `groundcrew device approve`: lets in devices whose codes somebody compared,
//! one or many.

use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Args;
use groundcrew_core::DeviceId;
use groundcrew_core::enroll::Code;
use groundcrew_registry::search::WAITING;

use super::client::{self, Link};
use super::site_arg::SiteArg;
use crate::office::{Command, Outcome, every_device};
use crate::site::Site;

/// `groundcrew device approve`.
#[derive(Debug, Args)]
pub struct DeviceApproveArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The codes on the devices' screens, each with its device's id before it, or
    /// alone
    #[arg(required = true, value_name = "[ID] CODE")]
    pub words: Vec<Word>,
}

/// An id or a code: nothing is both, as ids begin with the site's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// A device's id.
    Id(DeviceId),
    /// A code.
    Code(Code),
}

impl FromStr for Word {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(code) = text.parse() {
            return Ok(Self::Code(code));
        }
        text.parse()
            .map(Self::Id)
            .map_err(|error| format!("neither a code, as K7QF-2M9X, nor a device: {error}"))
    }
}

pub fn approve(args: &DeviceApproveArgs) -> anyhow::Result<ExitCode> {
    let wanted = pairs(&args.words)?;
    let link = client::connect(&Site::at(&args.site.dir))?;
    let mut all = true;
    for (id, code) in wanted {
        match one(&link, id, code) {
            Ok(line) => println!("{line}"),
            Err(error) => {
                eprintln!("{code}: {error:#}");
                all = false;
            }
        }
    }
    Ok(ExitCode::from(u8::from(!all)))
}

/// Every code, with the id before it.
fn pairs(words: &[Word]) -> anyhow::Result<Vec<(Option<DeviceId>, Code)>> {
    let (mut pairs, mut before) = (Vec::new(), None);
    for word in words {
        match (word, before.take()) {
            (Word::Code(code), id) => pairs.push((id, *code)),
            (Word::Id(id), None) => before = Some(id.clone()),
            (Word::Id(_), Some(id)) => bail!("{id} has no code: give the one on its screen"),
        }
    }
    match before {
        Some(id) => bail!("{id} has no code: give the one on its screen"),
        None => Ok(pairs),
    }
}

fn one(link: &Link, id: Option<DeviceId>, code: Code) -> anyhow::Result<String> {
    let device = match id {
        Some(id) => id,
        None => with_code(link, code)?,
    };
    match link.execute(Command::Approve { device, code })? {
        Outcome::Done(line) => Ok(line),
        _ => bail!("the appliance answered something else"),
    }
}

/// The one device that waits with this code.
fn with_code(link: &Link, code: Code) -> anyhow::Result<DeviceId> {
    let waiting = every_device(&code.to_string(), Some(WAITING), |c| link.execute(c))?;
    let mut waiting = waiting
        .into_iter()
        .filter(|device| device.code == Some(code));
    let device = waiting
        .next()
        .context("no device waits with this code; `groundcrew device list --phase waiting`")?;
    if waiting.next().is_some() {
        bail!("two devices wait with this code: give the id, too");
    }
    Ok(device.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Word> {
        text.split(' ').map(|word| word.parse().unwrap()).collect()
    }

    #[test]
    fn codes_stand_alone_or_after_their_device() {
        let found = pairs(&words("K7QF-2M9X hq-7k2m9qx4 9FHA-FEQF K7QF-2M9Y")).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(id, code)| (id.as_ref().map(DeviceId::as_str), code.to_string()))
            .collect();
        assert_eq!(
            found,
            [
                (None, "K7QF-2M9X".to_owned()),
                (Some("hq-7k2m9qx4"), "9FHA-FEQF".to_owned()),
                (None, "K7QF-2M9Y".to_owned())
            ]
        );
        for bad in ["hq-7k2m9qx4", "hq-7k2m9qx4 hq-7k2m9qx5 K7QF-2M9X"] {
            let error = pairs(&words(bad)).unwrap_err().to_string();
            assert!(error.starts_with("hq-7k2m9qx4 has no code"), "{error}");
        }
        assert!("K7QF".parse::<Word>().is_err());
    }
}
