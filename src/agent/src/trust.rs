//! The device's side of trust: what lies in the image, what the disk
//! remembers, and bringing both up to date over plain HTTP (everything that
//! comes is signed).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use groundcrew_core::enroll::BundleRef;
use groundcrew_core::ids::{Slug, Version};
use groundcrew_core::time::{Now, TimeFloor};
use groundcrew_core::trust::downgrade::{DowngradeError, Downgrades, MAX_DOWNGRADES};
use groundcrew_core::trust::tuf::{Fetch, NotFound, Poll, TufError};
use groundcrew_core::trust::{Charter, CharterError, Client, ImageTrust, TrustError, Trusted};
use groundcrew_core::words::Trouble;
use groundcrew_core::{DeviceId, UnixTime, Verified};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::http::{HttpError, Public, retried};

/// Where the image keeps it.
pub const IMAGE_FILE: &str = "/etc/groundcrew/trust.json";
const METADATA: &str = "/tuf/metadata/";
const TARGETS: &str = "/tuf/targets/";
/// How long the appliance may be unreachable.
const PATIENCE: Duration = Duration::from_secs(120);
/// More files than any honest update asks for.
const MAX_FETCHES: usize = 512;

/// What is believed, and the time it is judged by.
pub struct Trust {
    image: ImageTrust,
    floor: TimeFloor,
    charter: Verified<Charter>,
    remembered: Option<Trusted>,
    client: Option<Client>,
    refreshed: Option<Instant>,
    /// The version of each bundle that this device had last.
    bundles: BTreeMap<Slug, Version>,
}

/// What a device keeps on its disk between two provisionings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The highest time that was ever proven to be past.
    pub floor: Option<UnixTime>,
    /// Metadata files, as text.
    newer_roots: Vec<String>,
    timestamp: Option<String>,
    snapshot: Option<String>,
    targets: Option<String>,
    /// The version of each bundle that was applied last.
    #[serde(default)]
    bundles: BTreeMap<Slug, Version>,
}

impl Memory {
    fn trusted(self) -> Trusted {
        Trusted {
            root: Vec::new(), // the image's root is what counts
            newer_roots: self
                .newer_roots
                .into_iter()
                .map(String::into_bytes)
                .collect(),
            timestamp: self.timestamp.map(String::into_bytes),
            snapshot: self.snapshot.map(String::into_bytes),
            targets: self.targets.map(String::into_bytes),
            ..Trusted::default()
        }
    }

    fn of(trusted: Trusted, floor: UnixTime, bundles: BTreeMap<Slug, Version>) -> Self {
        let text = |bytes| String::from_utf8(bytes).ok();
        Self {
            floor: Some(floor),
            newer_roots: trusted.newer_roots.into_iter().filter_map(text).collect(),
            timestamp: trusted.timestamp.and_then(text),
            snapshot: trusted.snapshot.and_then(text),
            targets: trusted.targets.and_then(text),
            bundles,
        }
    }
}

impl Trust {
    /// Reads and verifies what lies in the image, with no network.
    pub fn of_image(path: &Path) -> Result<Self, Failure> {
        let advice = "Build the boot image again with `groundcrew image build`.";
        let bytes = fs::read(path).map_err(|error| {
            Failure::refused(
                format!("no trust root at {}: {error}", path.display()),
                advice,
            )
            .about(Trouble::Image)
        })?;
        let image = ImageTrust::from_json(&bytes).map_err(|error| {
            Failure::refused(
                format!("the image's trust root cannot be read: {error}"),
                advice,
            )
            .about(Trouble::Image)
        })?;
        let floor = image.floor();
        let charter = image.verify(floor.now(clock())).map_err(|error| {
            Failure::refused(format!("the image's trust: {error}"), advice).about(trouble(&error))
        })?;
        Ok(Self {
            image,
            floor,
            charter,
            remembered: None,
            client: None,
            refreshed: None,
            bundles: BTreeMap::new(),
        })
    }

    /// Takes up what the disk remembers. It can only make us stricter: the
    /// image's root must lead to everything in it.
    pub fn remember(&mut self, mut memory: Memory) {
        self.bundles = std::mem::take(&mut memory.bundles);
        if let Some(time) = memory.floor {
            self.floor.raise(time);
        }
        self.remembered = Some(memory.trusted());
    }

    /// What to write to the disk.
    pub fn memory(&self) -> Memory {
        let trusted = self.client.as_ref().map(Client::trusted);
        let trusted = trusted.or_else(|| self.remembered.clone());
        Memory::of(
            trusted.unwrap_or_default(),
            self.floor.time(),
            self.bundles.clone(),
        )
    }

    /// The charter in force.
    pub const fn charter(&self) -> &Verified<Charter> {
        &self.charter
    }

    /// The time that expiry is judged by.
    pub fn now(&self) -> Now {
        self.floor.now(clock())
    }

    /// A time was signed by the site: it is past.
    pub fn proven(&mut self, time: UnixTime) {
        self.floor.raise(time);
    }

    /// Brings the metadata up to date and takes up a newer charter.
    pub fn refresh(&mut self, public: &Public, say: &dyn Fn(String)) -> Result<(), Failure> {
        let stored = self.client.as_ref().map(Client::trusted);
        let stored = stored.or_else(|| self.remembered.clone());
        let mut client = self.image.client(self.now(), stored).map_err(refusal)?;
        let outcome = update(&mut client, public, say);
        // What was accepted before an error stays accepted.
        self.remembered = Some(client.trusted());
        outcome?;
        if let Some(time) = client.issued_at() {
            self.floor.raise(time);
        }
        let path = Charter::target_path(&self.image.site);
        let bytes = target(&client, public, &path, say)?;
        let now = self.now();
        self.charter = self
            .image
            .charter_from(&client, &bytes, now)
            .map_err(refusal)?;
        self.client = Some(client);
        self.refreshed = Some(Instant::now());
        Ok(())
    }

    /// Whether this device may get `bundle`: not one older than it had, unless
    /// HQ signed that it may.
    pub fn admits(
        &mut self,
        public: &Public,
        bundle: &BundleRef,
        device: &DeviceId,
        say: &dyn Fn(String),
    ) -> Result<(), Failure> {
        let had = self.bundles.get(&bundle.name).copied();
        let Some(had) = had.filter(|had| bundle.version < *had) else {
            return Ok(());
        };
        let site = self.image.site.clone();
        let path = Downgrades::target_path(&site);
        let listed = self.client.as_ref().and_then(|client| client.target(&path));
        let allowed = match listed.map(|target| target.length) {
            None => Ok(Downgrades {
                site,
                allowed: Vec::new(),
            }),
            Some(length) if length > MAX_DOWNGRADES => Err(DowngradeError::Shape(format!(
                "longer than {MAX_DOWNGRADES} bytes"
            ))),
            Some(_) => Downgrades::read(&self.target(public, &path, say)?, &site),
        };
        let now = self.now();
        let allowed = allowed.and_then(|list| list.allow(bundle, had, device, now));
        allowed.map_err(|error| {
            Failure::refused(
                error,
                "Grant this device a newer bundle, or have HQ allow it: `groundcrew hq allow-downgrade`.",
            )
        })
    }

    /// This device has `bundle` now, whatever it had before.
    pub fn applied(&mut self, bundle: &BundleRef) {
        self.bundles.insert(bundle.name.clone(), bundle.version);
    }

    /// How long ago the last refresh was.
    pub fn age(&self) -> Duration {
        self.refreshed.map_or(Duration::MAX, |when| when.elapsed())
    }

    /// A small target's bytes, verified.
    pub fn target(
        &mut self,
        public: &Public,
        path: &str,
        say: &dyn Fn(String),
    ) -> Result<Verified<Vec<u8>>, Failure> {
        let Some(client) = &mut self.client else {
            return Err(Failure::failed("the trust metadata was not refreshed", ""));
        };
        // It may stand in a delegated role, which has to be fetched first.
        client.want(path);
        update(client, public, say)?;
        let bytes = target(client, public, path, say)?;
        let signed = client.target(path).ok_or_else(|| not_listed(path))?;
        signed.verify(bytes).map_err(|error| changed(path, &error))
    }
}

fn refusal(error: impl Into<TrustError>) -> Failure {
    let error = error.into();
    let trouble = trouble(&error);
    Failure::refused(
        format!("the site's signed metadata: {error}"),
        format!(
            "Tell the site's administrator: the appliance serves something that HQ did not sign, or it needs a refresh. If {} is not the time, set the clock in this machine's firmware.",
            clock()
        ),
    )
    .about(trouble)
}

fn trouble(error: &TrustError) -> Trouble {
    match error {
        TrustError::Tuf(TufError::Expired { .. }) => Trouble::TrustExpired,
        TrustError::Charter(CharterError::Expired { .. }) => Trouble::CharterExpired,
        TrustError::Tuf(_) | TrustError::Charter(_) => Trouble::TrustMismatch,
    }
}

fn not_listed(path: &str) -> Failure {
    let trouble = match path.starts_with("bundles/") {
        true => Trouble::BundleMissing,
        false => Trouble::TrustMismatch,
    };
    Failure::refused(
        format!("the site has signed no `{path}`"),
        "Publish the bundle on the appliance, then start this device again.",
    )
    .about(trouble)
}

fn changed(path: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::refused(
        format!("{path} is not what HQ signed: {error}"),
        "Somebody or something changed files on the appliance: publish the bundle again and find out why.",
    )
    .about(Trouble::BundleChanged)
}

fn unreachable(what: &str, error: &HttpError) -> Failure {
    Failure::failed(
        format!("{what}: {error}"),
        "Check that the appliance runs and that this device reaches it.",
    )
    .about(Trouble::HttpUnreachable)
}

fn update(client: &mut Client, public: &Public, say: &dyn Fn(String)) -> Result<(), Failure> {
    for _ in 0..MAX_FETCHES {
        let Poll::Fetch(Fetch { path, max_len }) = client.poll() else {
            return Ok(());
        };
        let get = || public.file(&format!("{METADATA}{path}"), max_len);
        let answer = match retried(PATIENCE, &path, say, get) {
            Ok(answer) => answer,
            Err(HttpError::TooLong(limit)) => {
                return Err(changed(&path, &format!("longer than {limit} bytes")));
            }
            Err(error) => return Err(unreachable(&path, &error)),
        };
        client
            .feed(answer.as_deref().ok_or(NotFound))
            .map_err(refusal)?;
    }
    Err(Failure::refused(
        "the site's metadata never ends",
        "Tell the site's administrator.",
    ))
}

fn target(
    client: &Client,
    public: &Public,
    path: &str,
    say: &dyn Fn(String),
) -> Result<Vec<u8>, Failure> {
    let signed = client.target(path).ok_or_else(|| not_listed(path))?;
    let stored_as = client
        .consistent_target_path(path)
        .ok_or_else(|| not_listed(path))?;
    let get = || public.file(&format!("{TARGETS}{stored_as}"), signed.length);
    match retried(PATIENCE, path, say, get) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(Failure::failed(
            format!("the appliance does not have {path}, though it is signed"),
            "Publish it again on the appliance.",
        )
        .about(Trouble::BundleMissing)),
        Err(HttpError::TooLong(limit)) => Err(changed(path, &format!("longer than {limit} bytes"))),
        Err(error) => Err(unreachable(path, &error)),
    }
}

/// What the machine's clock says.
pub fn clock() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime::new(since.map_or(0, |since| since.as_secs()))
}

/// Sets a clock that is behind what is proven past, so that files do not get
/// dates from 1970. Returns whether it was set.
pub fn set_clock(now: Now) -> bool {
    let Now::Floor(time) = now else { return false };
    let spec = rustix::time::Timespec {
        tv_sec: i64::try_from(time.seconds()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    rustix::time::clock_settime(rustix::time::ClockId::Realtime, spec).is_ok()
}
