//! What the appliance does by itself: the site's signature that its repository
//! is current is renewed long before it expires.

use std::sync::Arc;
use std::time::Duration;

use super::Shutdown;
use crate::office::Office;
use crate::site::{Site, publish};

/// Between looks.
const EVERY: Duration = Duration::from_secs(1800);

/// Looks at once, and then every half hour.
pub async fn run(site: Site, office: Arc<Office>, mut stop: Shutdown) {
    let mut due = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = stop.ordered() => return,
            _ = due.tick() => {}
        }
        office.checkpoint_if_due().await;
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

fn renew(site: &Site, office: &Office) -> anyhow::Result<bool> {
    let _hold = publish::hold(site)?;
    let mut repo = publish::load(site)?;
    if publish::renewal_due(&repo) > crate::clock::read() {
        return Ok(false);
    }
    publish::sign_online(site, &mut repo, office.keys())?;
    Ok(true)
}
