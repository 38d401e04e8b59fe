//! What goes before the registry's word at a boot: an order for one boot, a
//! device that failed the same way again and again, the site's menu.

use std::net::IpAddr;

use groundcrew_netboot::ipxe::{BootDecision, IpxeQuery, Menu};
use groundcrew_netboot::story::{Asks, Hold};

use super::texts::{agent_boot, decide};
use crate::office::{BY_DHCP, Claim, Office};
use crate::once::Once;

/// How long the reason for a hold stays on the screen.
const HELD_SECONDS: u16 = 60;
/// How long a menu waits that was ordered for one boot.
const ONCE_SECONDS: u16 = 60;

/// What the machine that asks is to boot, and whether that is for this once; an
/// order is used up.
pub async fn decision(
    office: &Office,
    query: &IpxeQuery,
    peer: Option<IpAddr>,
    menu: Option<u16>,
) -> (BootDecision, bool) {
    let once = office.take_once(query, peer).await;
    (decided(office, query, peer, menu, once), once.is_some())
}

/// The same for a loader that asks by TFTP. An order stays until its text was taken.
pub fn by_tftp(
    office: &Office,
    query: &IpxeQuery,
    peer: Option<IpAddr>,
) -> (BootDecision, Option<Claim>) {
    let claim = office.next_once(query, peer);
    let once = claim.map(|claim| claim.once);
    (decided(office, query, peer, office.menu(), once), claim)
}

/// The same for a machine that DHCP itself tells. Its loader can show nothing, so
/// it is held or starts the agent or its disk; other orders wait.
pub fn by_dhcp(office: &Office, query: &IpxeQuery) -> (BootDecision, Option<Claim>) {
    let usual = decide(&office.boot_state(query));
    let can = |claim: &Claim| BY_DHCP.contains(&claim.once);
    match office.next_once(query, None).filter(can) {
        Some(claim) => (ordered(office, claim.once, usual), Some(claim)),
        None => (unless_held(office, usual, query, None, Asks::ByDhcp), None),
    }
}

fn decided(
    office: &Office,
    query: &IpxeQuery,
    peer: Option<IpAddr>,
    menu: Option<u16>,
    once: Option<Once>,
) -> BootDecision {
    let usual = decide(&office.boot_state(query));
    if let Some(once) = once {
        return ordered(office, once, usual);
    }
    match (menu, unless_held(office, usual, query, peer, Asks::ByText)) {
        (Some(seconds), usual @ (BootDecision::Agent(_) | BootDecision::OwnDisk { .. })) => {
            with_menu(office, usual, seconds)
        }
        (_, decision) => decision,
    }
}

fn ordered(office: &Office, once: Once, usual: BootDecision) -> BootDecision {
    match once {
        Once::Agent => agent_boot().map_or(usual, BootDecision::Agent),
        Once::Disk => BootDecision::OwnDisk {
            why: "a technician ordered it for this once".to_owned(),
        },
        Once::Menu => with_menu(office, usual, ONCE_SECONDS),
        Once::Shell => BootDecision::Shell,
        Once::Memtest => BootDecision::Memtest,
    }
}

fn with_menu(office: &Office, usual: BootDecision, seconds: u16) -> BootDecision {
    match agent_boot() {
        Some(agent) => BootDecision::Menu(Menu {
            default: Box::new(usual),
            seconds,
            agent,
            memtest: office.has_memtest(),
        }),
        None => usual,
    }
}

/// Only who would be sent round once more is held: the way to its own disk is open.
fn unless_held(
    office: &Office,
    decision: BootDecision,
    query: &IpxeQuery,
    peer: Option<IpAddr>,
    asks: Asks,
) -> BootDecision {
    if !matches!(decision, BootDecision::Agent(_)) {
        return decision;
    }
    let Some(hold) = office.flight().held(query, peer, asks) else {
        return decision;
    };
    let mac = query.mac.map(|mac| mac.to_string());
    let name = mac.or(query.serial.clone()).unwrap_or_default();
    held(&hold, &name)
}

fn held(hold: &Hold, name: &str) -> BootDecision {
    let Hold { cause, times, .. } = hold;
    BootDecision::Held {
        lines: vec![
            format!("HELD: this device failed the same way {times} times in a row."),
            format!("What: {}.", cause.short()),
            format!("Likely: {}", cause.likely()),
            format!("Cure: {}", cause.cure()),
            format!("Then, on the appliance: groundcrew boot release {name} (all devices: --all)"),
        ],
        seconds: HELD_SECONDS,
    }
}
