//! Which device is this? A pure function from what a machine says to a verdict,
//! with the reasons field by field.
//!
//! The order: endorsement key; UUID and serial number; serial number,
//! manufacturer and model; then hints that need approval (UUID or serial number
//! alone, a permanent MAC address). A disk never decides, junk never counts, and
//! a value that two admitted machines hold counts for neither.

use std::fmt;

use groundcrew_core::DeviceId;
use groundcrew_core::hardware::Identity;
use serde::{Deserialize, Serialize};

use crate::index::{Holders, Index, Key, Known, Slot, Standing};
use crate::junk::{Junk, JunkReason, Usable};

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The TPM's endorsement key.
    Ek,
    /// UUID and serial number.
    UuidSerial,
    /// Serial number, manufacturer and model.
    SerialModel,
    /// UUID alone.
    Uuid,
    /// Serial number alone.
    Serial,
    /// A permanent MAC address.
    Mac,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ek => "TPM endorsement key",
            Self::UuidSerial => "UUID and serial number",
            Self::SerialModel => "serial number, manufacturer and model",
            Self::Uuid => "UUID",
            Self::Serial => "serial number",
            Self::Mac => "MAC address",
        })
    }
}

/// Who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This device.
    Known {
        /// Which.
        device: DeviceId,
        /// By what.
        by: By,
    },
    /// This device with another board or TPM: a technician must accept it.
    Changed {
        /// Which.
        device: DeviceId,
        /// By what still agrees.
        by: By,
    },
    /// Perhaps this device: a technician must say so.
    Hint {
        /// Which.
        device: DeviceId,
        /// By what.
        by: By,
    },
    /// Several devices fit equally well.
    Ambiguous {
        /// Which.
        devices: Vec<DeviceId>,
    },
    /// Nobody the site knows.
    Unknown,
}

impl Verdict {
    /// The one device it speaks of.
    pub fn device(&self) -> Option<&DeviceId> {
        match self {
            Self::Known { device, .. }
            | Self::Changed { device, .. }
            | Self::Hint { device, .. } => Some(device),
            Self::Ambiguous { .. } | Self::Unknown => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known { device, by } => write!(f, "this is {device}, by its {by}"),
            Self::Changed { device, by } => write!(
                f,
                "this is {device} with changed hardware: its {by} agree(s); a technician must accept it"
            ),
            Self::Hint { device, by } => {
                write!(
                    f,
                    "this may be {device}: only its {by} points there; a technician must say so"
                )
            }
            Self::Ambiguous { devices } => {
                f.write_str("several devices fit equally well:")?;
                devices.iter().try_for_each(|device| write!(f, " {device}"))
            }
            Self::Unknown => f.write_str("no device that this site knows"),
        }
    }
}

/// A field that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Field {
    /// TPM endorsement key.
    Ek,
    /// System UUID.
    Uuid,
    /// System serial number.
    Serial,
    /// Manufacturer.
    Manufacturer,
    /// Model.
    Product,
    /// Permanent MAC addresses.
    Mac,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ek => "TPM key (EK)",
            Self::Uuid => "UUID",
            Self::Serial => "Serial number",
            Self::Manufacturer => "Manufacturer",
            Self::Product => "Model",
            Self::Mac => "MAC addresses",
        })
    }
}

/// What became of a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// Both say the same.
    Agrees,
    /// They say different things.
    Differs,
    /// What the machine says names no machine.
    Junk(JunkReason),
    /// These admitted machines all say so (not all of them are named).
    Shared(Vec<DeviceId>),
    /// The machine does not say.
    NotSaid,
    /// The registry does not know.
    NotKnown,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agrees => f.write_str("agrees"),
            Self::Differs => f.write_str("differs"),
            Self::Junk(reason) => write!(f, "junk: {reason}"),
            Self::Shared(devices) => {
                f.write_str("does not count, held by several:")?;
                devices.iter().try_for_each(|device| write!(f, " {device}"))
            }
            Self::NotSaid => f.write_str("the machine does not say"),
            Self::NotKnown => f.write_str("not known here"),
        }
    }
}

/// One field's part in the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldFinding {
    /// Which field.
    pub field: Field,
    /// What the machine says.
    pub seen: Option<String>,
    /// What the registry knows of the device in question.
    pub known: Option<String>,
    /// What became of it.
    pub finding: Finding,
}

/// The verdict and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchResult {
    /// Who it is.
    pub verdict: Verdict,
    /// Every field, in the order of matching.
    pub explanation: Vec<FieldFinding>,
}

/// Matches what a machine says against the devices the site knows: first those
/// registered or admitted, then those that only asked.
pub fn match_device(seen: &Identity, index: &Index, junk: &Junk) -> MatchResult {
    let usable = junk.usable(seen);
    let verdict = judge(&usable, index);
    let known = candidates_named(&usable, index, &verdict);
    MatchResult {
        explanation: explain(seen, &usable, known, index, junk),
        verdict,
    }
}

/// The verdict alone.
pub fn judge(usable: &Usable, index: &Index) -> Verdict {
    let settled = Pass::new(usable, index, |known| known.standing != Standing::Waiting);
    match settled.verdict() {
        Verdict::Unknown => {}
        decided => return decided,
    }
    judge_waiting(usable, index)
}

/// The verdict among devices that asked and wait. Anybody can put one there, so
/// it also takes a MAC address in common where both have any: a stranger who
/// copies a serial number gets a place of his own in the lobby.
pub fn judge_waiting(usable: &Usable, index: &Index) -> Verdict {
    let twin = |known: &Known| {
        let (mine, theirs) = (&usable.macs, &known.usable.macs);
        let apart = !mine.is_empty() && !theirs.is_empty();
        known.standing == Standing::Waiting
            && (!apart || mine.iter().any(|mac| theirs.contains(mac)))
    };
    Pass::new(usable, index, twin).verdict()
}

/// One walk down the order of matching.
struct Pass<'a> {
    index: &'a Index,
    usable: &'a Usable,
    ek: Vec<Slot>,
    uuid: Vec<Slot>,
    serial: Vec<Slot>,
    mac: Vec<Slot>,
}

impl<'a> Pass<'a> {
    fn new(usable: &'a Usable, index: &'a Index, admit: impl Fn(&Known) -> bool) -> Self {
        let held = |key: Option<Key>| -> Vec<Slot> {
            let Some(Holders::Some(mut slots)) = key.map(|key| index.holders(&key)) else {
                return Vec::new();
            };
            slots.retain(|slot| index.known(*slot).is_some_and(&admit));
            slots
        };
        let mut mac: Vec<Slot> = usable
            .macs
            .iter()
            .flat_map(|mac| held(Some(Key::Mac(*mac))))
            .collect();
        mac.sort_unstable();
        mac.dedup();
        Self {
            index,
            usable,
            ek: held(usable.ek.map(Key::Ek)),
            uuid: held(usable.uuid.map(|uuid| Key::Uuid(uuid.order_free()))),
            serial: held(usable.serial.clone().map(Key::Serial)),
            mac,
        }
    }

    fn verdict(&self) -> Verdict {
        self.by_ek()
            .or_else(|| self.by_uuid_and_serial())
            .or_else(|| self.by_serial_and_model())
            .or_else(|| self.by_one_value())
            .unwrap_or(Verdict::Unknown)
    }

    fn by_ek(&self) -> Option<Verdict> {
        self.one_of(&self.ek, |device, _| Verdict::Known { device, by: By::Ek })
    }

    fn by_uuid_and_serial(&self) -> Option<Verdict> {
        let serial = |slot: &&Slot| self.serial.contains(slot);
        let both: Vec<Slot> = self.uuid.iter().filter(serial).copied().collect();
        let by = By::UuidSerial;
        self.one_of(&both, |device, known| {
            if differ(&self.usable.ek, &known.ek) {
                Verdict::Changed { device, by }
            } else {
                Verdict::Known { device, by }
            }
        })
    }

    fn by_serial_and_model(&self) -> Option<Verdict> {
        let same_model = |slot: &&Slot| {
            self.index.known(**slot).is_some_and(|known| {
                agree(&self.usable.manufacturer, &known.usable.manufacturer)
                    && agree(&self.usable.product, &known.usable.product)
            })
        };
        let all: Vec<Slot> = self.serial.iter().filter(same_model).copied().collect();
        let by = By::SerialModel;
        self.one_of(&all, |device, known| {
            if differ(&self.usable.ek, &known.ek) || self.other_uuid(known) {
                Verdict::Changed { device, by }
            } else {
                Verdict::Known { device, by }
            }
        })
    }

    /// UUID, serial number or MAC address alone. The UUID with another serial
    /// number is the board of a device whose serial was rewritten; the serial
    /// number under another maker or model is somebody else's.
    fn by_one_value(&self) -> Option<Verdict> {
        let by = By::Uuid;
        let by_uuid = self.one_of(&self.uuid, |device, known| {
            if differ(&self.usable.serial, &known.serial) {
                Verdict::Changed { device, by }
            } else {
                Verdict::Hint { device, by }
            }
        });
        let same_maker = |slot: &&Slot| {
            self.index.known(**slot).is_some_and(|known| {
                !differ(&self.usable.manufacturer, &known.usable.manufacturer)
                    && !differ(&self.usable.product, &known.usable.product)
            })
        };
        let serial: Vec<Slot> = self.serial.iter().filter(same_maker).copied().collect();
        let hint = |by| move |device, _: &Usable| Verdict::Hint { device, by };
        by_uuid
            .or_else(|| self.one_of(&serial, hint(By::Serial)))
            .or_else(|| self.one_of(&self.mac, hint(By::Mac)))
    }

    fn other_uuid(&self, known: &Usable) -> bool {
        match (&self.usable.uuid, &known.uuid) {
            (Some(mine), Some(theirs)) => !mine.same_machine(theirs),
            _ => false,
        }
    }

    fn one_of(
        &self,
        slots: &[Slot],
        verdict: impl FnOnce(DeviceId, &Usable) -> Verdict,
    ) -> Option<Verdict> {
        match slots {
            [] => None,
            [slot] => {
                let known = self.index.known(*slot)?;
                Some(verdict(known.device.clone(), &known.usable))
            }
            many => Some(Verdict::Ambiguous {
                devices: names(many, self.index),
            }),
        }
    }
}

fn differ<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if a != b)
}

fn agree<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if a == b)
}

/// As many names as a person wants to read.
fn names(slots: &[Slot], index: &Index) -> Vec<DeviceId> {
    let known = slots.iter().filter_map(|slot| index.known(*slot));
    known.map(|known| known.device.clone()).take(8).collect()
}

fn candidates_named<'a>(
    usable: &Usable,
    index: &'a Index,
    verdict: &Verdict,
) -> Option<&'a Usable> {
    let device = verdict.device()?;
    let macs = usable.macs.iter().copied().map(Key::Mac);
    let keys = [
        usable.ek.map(Key::Ek),
        usable.uuid.map(|uuid| Key::Uuid(uuid.order_free())),
        usable.serial.clone().map(Key::Serial),
    ];
    let mut slots = keys.into_iter().flatten().chain(macs).flat_map(|key| {
        let (Holders::Some(slots) | Holders::Shared(slots)) = index.holders(&key);
        slots
    });
    slots.find_map(|slot| {
        let known = index.known(slot)?;
        (known.device == *device).then_some(&known.usable)
    })
}

fn explain(
    seen: &Identity,
    usable: &Usable,
    known: Option<&Usable>,
    index: &Index,
    junk: &Junk,
) -> Vec<FieldFinding> {
    let none = Usable::default();
    let known = known.unwrap_or(&none);
    let shared = |key: Option<Key>| match index.holders(&key?) {
        Holders::Shared(slots) => Some(Finding::Shared(names(&slots, index))),
        Holders::Some(_) => None,
    };
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    let junk_of = |reason: Option<JunkReason>| reason.map(Finding::Junk);
    let same_uuid = match (&usable.uuid, &known.uuid) {
        (Some(mine), Some(theirs)) => mine.same_machine(theirs),
        _ => false,
    };
    let model = |value: &Option<String>| value.as_deref().and_then(|m| junk.model(m));
    let mut findings = vec![
        finding(
            Field::Ek,
            seen.ek.map(|ek| ek.to_string()),
            known.ek.map(|ek| ek.to_string()),
            agree(&usable.ek, &known.ek),
            shared(usable.ek.map(Key::Ek)),
        ),
        finding(
            Field::Uuid,
            seen.uuid.map(|uuid| uuid.to_string()),
            known.uuid.map(|uuid| uuid.to_string()),
            same_uuid,
            junk_of(seen.uuid.and_then(|uuid| junk.uuid(&uuid)))
                .or_else(|| shared(usable.uuid.map(|uuid| Key::Uuid(uuid.order_free())))),
        ),
        finding(
            Field::Serial,
            seen.serial.clone(),
            text(&known.serial),
            agree(&usable.serial, &known.serial),
            junk_of(junk.serial(seen)).or_else(|| shared(usable.serial.clone().map(Key::Serial))),
        ),
        finding(
            Field::Manufacturer,
            seen.manufacturer.clone(),
            text(&known.manufacturer),
            agree(&usable.manufacturer, &known.manufacturer),
            junk_of(model(&seen.manufacturer)),
        ),
        finding(
            Field::Product,
            seen.product.clone(),
            text(&known.product),
            agree(&usable.product, &known.product),
            junk_of(model(&seen.product)),
        ),
    ];
    findings.push(explain_macs(seen, known, junk));
    findings
}

/// One MAC address in common is agreement: NICs come and go.
fn explain_macs(seen: &Identity, known: &Usable, junk: &Junk) -> FieldFinding {
    let list = |macs: &[groundcrew_core::hardware::MacAddr]| {
        let texts: Vec<String> = macs.iter().map(ToString::to_string).collect();
        (!texts.is_empty()).then(|| texts.join(" "))
    };
    let common = seen.macs.iter().any(|mac| known.macs.contains(mac));
    let all_junk = seen.macs.iter().map(|mac| junk.mac(*mac));
    let all_junk = all_junk.collect::<Option<Vec<_>>>();
    let first = all_junk.and_then(|reasons| reasons.into_iter().next());
    finding(
        Field::Mac,
        list(&seen.macs),
        list(&known.macs),
        common,
        first.map(Finding::Junk),
    )
}

fn finding(
    field: Field,
    seen: Option<String>,
    known: Option<String>,
    agrees: bool,
    useless: Option<Finding>,
) -> FieldFinding {
    let finding = match (&seen, &known, useless) {
        (_, _, Some(useless)) => useless,
        (None, _, None) => Finding::NotSaid,
        (Some(_), None, None) => Finding::NotKnown,
        (Some(_), Some(_), None) if agrees => Finding::Agrees,
        (Some(_), Some(_), None) => Finding::Differs,
    };
    FieldFinding {
        field,
        seen,
        known,
        finding,
    }
}

#[cfg(test)]
mod tests;
