//! `--site`, as every command that works on a site takes it.

use std::path::PathBuf;

use clap::Args;

/// The site folder, for every command that works on one.
#[derive(Debug, Args)]
pub struct SiteArg {
    /// The site folder that `init` made
    #[arg(
        long = "site",
        value_name = "DIR",
        env = "GROUNDCREW_SITE",
        default_value = "site"
    )]
    pub dir: PathBuf,
}
