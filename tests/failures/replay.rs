//! Recorded stories, told again: what was said of them is still said.
//!
//! A fixture is what `boot explain --json` printed. `GROUNDCREW_KEEP_STORIES=DIR`
//! writes the stories of the other tests as fixtures; `UPDATE_GOLDEN=1` takes
//! what is said now for right.

use std::path::PathBuf;

use groundcrew::flight::Fixture;
use groundcrew_netboot::story::diagnose;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stories")
}

#[test]
fn recorded_stories_are_told_as_they_were() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut told = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let fixture: Fixture = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(fixture.format, 1, "{}", path.display());
        let said = diagnose(&fixture.story, fixture.now);
        if update {
            let fixture = Fixture {
                diagnosis: said,
                ..fixture
            };
            let text = serde_json::to_string_pretty(&fixture).unwrap();
            std::fs::write(&path, text + "\n").unwrap();
        } else {
            assert_eq!(said, fixture.diagnosis, "{}", path.display());
        }
        told += 1;
    }
    assert!(told >= 8, "{told} fixtures");
}
