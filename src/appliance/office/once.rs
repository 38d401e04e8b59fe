//! Orders for one boot: kept on disk, used up when the boot text is served.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use groundcrew_core::hardware::MacAddr;
use groundcrew_netboot::ipxe::{IpxeQuery, MEMTEST_BIOS, MEMTEST_EFI};

use super::{Office, Outcome};
use crate::once::Once;
use crate::store;

/// Orders kept at once; more is a mistake.
const MOST: usize = 10_000;

/// The orders that wait, by the card a device boots from.
#[derive(Default)]
pub struct Orders(Mutex<HashMap<MacAddr, Once>>);

impl Orders {
    /// With what is on disk.
    pub fn new(kept: impl IntoIterator<Item = (MacAddr, Once)>) -> Self {
        Self(Mutex::new(kept.into_iter().collect()))
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<MacAddr, Once>) -> T) -> T {
        // One entry is put or taken: nothing is half changed.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Office {
    /// Keeps an order for the next boot of a device; `None` takes it back.
    pub(super) async fn boot_once(
        &self,
        name: &str,
        once: Option<Once>,
    ) -> anyhow::Result<Outcome> {
        let mac = self.flight.card(name)?;
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
                    let line = format!("{mac} gets `{word}` at its next start, once");
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

    /// Whether a memory test lies in the boot folder.
    pub fn has_memtest(&self) -> bool {
        let boot = self.site.boot_dir();
        [MEMTEST_EFI, MEMTEST_BIOS]
            .iter()
            .any(|file| boot.join(file).is_file())
    }
}
