//! Orders for one boot: kept on disk, used up when the boot text is served.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use groundcrew_core::hardware::MacAddr;
use groundcrew_netboot::ipxe::{IpxeQuery, MEMTEST_BIOS, MEMTEST_EFI};
use groundcrew_netboot::story::At;

use super::{Office, Outcome, able};
use crate::once::Once;
use crate::store;

/// Orders kept at once; more is a mistake.
const MOST: usize = 10_000;

/// So long after a loader took its text by TFTP it may ask for it again: GRUB
/// looks whether it is there, and then reads it.
const READ_AGAIN: Duration = Duration::from_secs(15);

/// The orders that wait, by the card a device boots from.
#[derive(Default)]
pub struct Orders {
    waiting: Mutex<HashMap<MacAddr, Once>>,
    given: Mutex<HashMap<MacAddr, Given>>,
}

/// An order that a loader took by TFTP just now.
struct Given {
    once: Once,
    at: Instant,
    /// When the attempt began in which it did.
    attempt: Option<At>,
}

/// An order that a text for TFTP carries; used up once the text was taken whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The card it waits for.
    pub mac: MacAddr,
    /// What it is.
    pub once: Once,
    attempt: Option<At>,
}

impl Orders {
    /// With what is on disk.
    pub fn new(kept: impl IntoIterator<Item = (MacAddr, Once)>) -> Self {
        Self {
            waiting: Mutex::new(kept.into_iter().collect()),
            given: Mutex::default(),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<MacAddr, Once>) -> T) -> T {
        // One entry is put or taken: nothing is half changed.
        work(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_given<T>(&self, work: impl FnOnce(&mut HashMap<MacAddr, Given>) -> T) -> T {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|_, given| given.at.elapsed() < READ_AGAIN);
        work(&mut given)
    }
}

impl Office {
    /// Keeps an order for the next boot of a device; `None` takes it back.
    pub(super) async fn boot_once(
        &self,
        name: &str,
        once: Option<Once>,
    ) -> anyhow::Result<Outcome> {
        let mac = self.flight.card(&self.seen_as(name))?;
        let but = match once {
            Some(once) => self.able(mac, once)?,
            None => String::new(),
        };
        if once == Some(Once::Memtest) && !self.has_memtest() {
            anyhow::bail!(
                "there is no memory test in {}: take Debian's package memtest86+ and copy its \
                 memtest86+x64.efi to {MEMTEST_EFI} there (UEFI), memtest86+x64.bin to {MEMTEST_BIOS} (BIOS)",
                self.site.boot_dir().display()
            );
        }
        let place = self.writer.place()?;
        let (line, commit) = self.orders.with(|orders| {
            let (line, row) = match once {
                Some(_) if orders.len() >= MOST => {
                    anyhow::bail!("{MOST} orders wait already; something is wrong")
                }
                Some(once) => {
                    orders.insert(mac, once);
                    let word = once.word();
                    let line = format!("{mac} gets `{word}` at its next start, once{but}");
                    (line, store::Change::PutOnce { mac, once })
                }
                None => {
                    orders.remove(&mac);
                    (
                        format!("{mac} has no order for its next start"),
                        store::Change::DropOnce(mac),
                    )
                }
            };
            Ok((line, place.write(vec![row])))
        })?;
        commit.done().await;
        Ok(Outcome::Done(line))
    }

    /// The order for the machine that asks what to boot; it is used up, on disk
    /// as well, when this returns.
    pub async fn take_once(&self, query: &IpxeQuery, peer: Option<IpAddr>) -> Option<Once> {
        if self.orders.with(|orders| orders.is_empty()) {
            return None;
        }
        let macs = self.flight.cards(query, peer);
        let place = self.writer.place().ok()?;
        let (once, commit) = self.orders.with(|orders| {
            let (mac, once) = macs
                .into_iter()
                .find_map(|mac| orders.remove(&mac).map(|once| (mac, once)))?;
            Some((once, place.write(vec![store::Change::DropOnce(mac)])))
        })?;
        commit.done().await;
        Some(once)
    }

    /// Whether a loader of the site can carry out such an order; what is to be
    /// said of those that cannot.
    fn able(&self, mac: MacAddr, once: Once) -> anyhow::Result<String> {
        // A card that was never seen may belong to any kind of firmware.
        let firmware = self.flight.firmware(mac);
        able::check(&self.boot, firmware.as_deref(), once).map_err(anyhow::Error::msg)
    }

    /// The order for the machine whose loader asks by TFTP. It stays until
    /// [`Office::claimed`]: whoever forges a request, or asks for a size only,
    /// uses nothing up.
    pub fn next_once(&self, query: &IpxeQuery, peer: Option<IpAddr>) -> Option<Claim> {
        let nothing = self.orders.with(|orders| orders.is_empty())
            && self.orders.with_given(|given| given.is_empty());
        if nothing {
            return None;
        }
        let attempt = self.flight.attempt_began(query, peer);
        let macs = self.flight.cards(query, peer);
        let waiting = |mac: &MacAddr| self.orders.with(|orders| orders.get(mac).copied());
        let read_again = |mac: &MacAddr| {
            let same = |given: &&Given| given.attempt == attempt;
            let given = |all: &mut HashMap<_, Given>| all.get(mac).filter(same).map(|g| g.once);
            self.orders.with_given(given)
        };
        macs.into_iter().find_map(|mac| {
            let once = waiting(&mac).or_else(|| read_again(&mac))?;
            Some(Claim { mac, once, attempt })
        })
    }

    /// A text with an order was taken to its last byte. The device knows it
    /// already: a crash before the commit lets it have the order once more.
    pub async fn claimed(&self, claim: Claim) {
        let Claim { mac, once, attempt } = claim;
        let Ok(place) = self.writer.place() else {
            return;
        };
        // Another one may have been ordered meanwhile.
        if self.orders.with(|orders| orders.get(&mac) != Some(&once)) {
            return;
        }
        let given = Given {
            once,
            at: Instant::now(),
            attempt,
        };
        // First, so that who reads again finds it in one place or the other.
        self.orders.with_given(|all| all.insert(mac, given));
        let commit = self.orders.with(|orders| {
            orders.remove(&mac);
            place.write(vec![store::Change::DropOnce(mac)])
        });
        commit.done().await;
    }

    /// The site's menu, in seconds, where it wants one.
    pub fn menu(&self) -> Option<u16> {
        self.boot.menu
    }

    /// Whether a memory test lies in the boot folder.
    pub fn has_memtest(&self) -> bool {
        let boot = self.site.boot_dir();
        [MEMTEST_EFI, MEMTEST_BIOS]
            .iter()
            .any(|file| boot.join(file).is_file())
    }
}
