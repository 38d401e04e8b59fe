//! A site that is served, and what it says of a device.

use groundcrew::flight::Fixture;
use groundcrew_netboot::story::{At, Cause, Diagnosis, diagnose};

use crate::common::switch::Switched;
use crate::common::{Appliance, TestSite};

/// Everything on one switch: appliance, device, and room for somebody else.
pub struct Stage {
    pub switched: Switched,
    pub site: TestSite,
    pub appliance: Appliance,
}

impl Stage {
    /// The site as `init` makes it, with these lines in `[dhcp]` instead of its mode.
    pub fn new(dhcp: &str) -> Self {
        Self::with(dhcp, |_| ())
    }

    pub fn with(dhcp: &str, prepare: impl FnOnce(&TestSite)) -> Self {
        let (switched, site) = (Switched::new(), TestSite::new());
        site.edit_settings("mode = \"authoritative\"", dhcp);
        prepare(&site);
        let appliance = Appliance::start(&switched.net, &site.dir());
        Self {
            switched,
            site,
            appliance,
        }
    }

    /// Gives addresses without asking the wire first: devices here are made up.
    pub fn authoritative() -> Self {
        Self::new("mode = \"authoritative\"\nconflict_probe = false")
    }

    /// A file of the boot folder.
    pub fn boot_file(&self, name: &str, bytes: usize) {
        let content = crate::common::pattern(bytes);
        std::fs::write(self.site.dir().join("boot").join(name), content).unwrap();
    }

    pub fn story(&self, name: &str) -> Fixture {
        story(&self.site, name)
    }

    /// What is said of a device so many minutes after its last step.
    pub fn in_minutes(&self, name: &str, minutes: u64) -> Diagnosis {
        let fixture = self.story(name);
        let now = At(fixture.story.last().0 + minutes * 60_000);
        diagnose(&fixture.story, now)
    }

    /// What is said of a device when nothing more came of it.
    pub fn ended(&self, name: &str) -> Diagnosis {
        let fixture = self.story(name);
        diagnose(&fixture.story, later(&fixture))
    }

    /// The cause must be this one; what was said is printed.
    /// The appliance may be a moment behind the device.
    pub fn says(&self, staged: &str, name: &str, cause: Cause) -> Diagnosis {
        let named = |told: &Diagnosis| told.cause == Some(cause);
        let mut tries = (0..100).filter_map(|_| seen(&self.site, name));
        let told = tries.find(|fixture| named(&diagnose(&fixture.story, later(fixture))));
        let told = match told {
            None => self.ended(name),
            Some(fixture) => {
                keep(name, &fixture);
                diagnose(&fixture.story, later(&fixture))
            }
        };
        judged(staged, &told, cause);
        told
    }
}

/// `boot explain --json`.
pub fn story(site: &TestSite, name: &str) -> Fixture {
    let mut tries = (0..100).map(|_| seen(site, name));
    let found = tries.find(Option::is_some).flatten();
    found.unwrap_or_else(|| panic!("{name} was not seen"))
}

/// The story as it is now, once there is one.
fn seen(site: &TestSite, name: &str) -> Option<Fixture> {
    let output = site.groundcrew(&["boot", "explain", name, "--json"]);
    serde_json::from_slice(&output.stdout).ok()
}

/// As a fixture, where `GROUNDCREW_KEEP_STORIES` names a folder.
fn keep(name: &str, fixture: &Fixture) {
    let Ok(folder) = std::env::var("GROUNDCREW_KEEP_STORIES") else {
        return;
    };
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("story").replace("::", "-");
    let path = std::path::Path::new(&folder).join(format!("{test}-{}.json", name.replace(':', "")));
    let mut fixture = fixture.clone();
    // Judged as of an hour later, as the test does.
    fixture.now = later(&fixture);
    fixture.diagnosis = diagnose(&fixture.story, fixture.now);
    std::fs::write(path, serde_json::to_string_pretty(&fixture).unwrap() + "\n").unwrap();
}

/// An hour after the last event.
pub fn later(fixture: &Fixture) -> At {
    At(fixture.story.last().0 + 3_600_000)
}

/// Checks and prints.
pub fn judged(staged: &str, told: &Diagnosis, cause: Cause) {
    assert_eq!(
        told.cause,
        Some(cause),
        "{staged}: {}",
        serde_json::to_string_pretty(told).unwrap()
    );
    let evidence = told.evidence.as_deref().unwrap_or("-");
    println!(
        "{staged} | {} | {evidence} | {}",
        cause.short(),
        cause.cure()
    );
}
