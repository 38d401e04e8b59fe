//! What the appliance does by itself: the site's signature that its repository
//! is current is renewed long before it expires, and whoever reads the log is
//! told once a day when HQ is missed.

use std::sync::Arc;
use std::time::Duration;

use super::Shutdown;
use crate::office::Office;
use crate::site::status::{self, Part, Urgency};
use crate::site::{Site, publish, time};

/// Between looks.
const EVERY: Duration = Duration::from_secs(1800);

/// Journal lines after which a snapshot is written anew: what a start reads.
const GROWN: u64 = 10_000;

const ROUNDS_A_DAY: u32 = 48;

/// Looks at once, and then every half hour.
pub async fn run(site: Site, office: Arc<Office>, mut stop: Shutdown) {
    let mut due = tokio::time::interval(EVERY);
    let mut round = 0u32;
    loop {
        tokio::select! {
            () = stop.ordered() => return,
            _ = due.tick() => {}
        }
        tell_the_clock(&site);
        office.checkpoint_if_due().await;
        let beside = Arc::clone(&office);
        // A join error is a panic, which the runtime has told already.
        let _ = tokio::task::spawn_blocking(move || beside.snapshot_if_grown(GROWN)).await;
        if round.is_multiple_of(ROUNDS_A_DAY) {
            let site = site.clone();
            // A join error is a panic, which the runtime has told already.
            let _ = tokio::task::spawn_blocking(move || remind(&site)).await;
        }
        round = round.wrapping_add(1);
        let (site, office) = (site.clone(), Arc::clone(&office));
        let renewed = tokio::task::spawn_blocking(move || renew(&site, &office)).await;
        match renewed {
            Ok(Ok(true)) => tracing::info!("signed anew that the site's trust metadata is current"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::error!(
                "devices will refuse this site when its signature expires: {error:#}"
            ),
            Err(error) => tracing::error!("renewing the site's signature failed: {error}"),
        }
    }
}

/// Every time, until somebody sets it: without a clock nothing works.
fn tell_the_clock(site: &Site) {
    match time::standing(site, crate::clock::read()) {
        Ok(standing) => {
            if let Some(trouble) = standing.trouble() {
                tracing::error!("{trouble}");
            }
        }
        Err(error) => tracing::error!("the clock cannot be judged: {error:#}"),
    }
}

/// Loud before the time without HQ is spent, louder after.
fn remind(site: &Site) {
    let status = match status::of(site) {
        Ok(status) => status,
        Err(error) => return tracing::error!("the site's trust cannot be judged: {error:#}"),
    };
    for missing in &status.missing {
        tracing::error!("the site's trust lacks: {missing}");
    }
    // What the site signs itself is renewed here.
    let offline = |part: &&Part| !matches!(part.what, "snapshot" | "timestamp");
    for part in status.parts.iter().filter(offline) {
        let (what, expires, todo) = (part.what, part.expires, &part.todo);
        match part.urgency {
            Urgency::Good => {}
            Urgency::Soon => {
                tracing::warn!("HQ is missed: {what} is valid until {expires} only; {todo}");
            }
            Urgency::Broken => {
                tracing::error!("nobody can be let in: {what} expired at {expires}; {todo}");
            }
        }
    }
}

fn renew(site: &Site, office: &Office) -> anyhow::Result<bool> {
    let _hold = publish::hold(site)?;
    let mut repo = publish::load(site)?;
    if publish::renewal_due(&repo) > crate::clock::read() {
        return Ok(false);
    }
    publish::sign_online(site, &mut repo, office.keys())?;
    if let Some(issued) = repo.issued_at() {
        office.proven(issued);
    }
    Ok(true)
}
