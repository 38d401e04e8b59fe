//! Every folder below `attacks/`, played from its files alone.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;

use common::folder;
use groundcrew_core::trust::tuf::{Client, Limits, MinimumVersions, NotFound, Poll};

/// What the client says to one folder's files.
fn played(attack: &folder::Attack) -> String {
    let client = Client::new(
        attack.stored.clone(),
        attack.now,
        Limits::default(),
        MinimumVersions::default(),
    );
    let mut client = match client {
        Ok(client) => client,
        Err(error) => return error.to_string(),
    };
    while let Poll::Fetch(fetch) = client.poll() {
        let file = attack.served.get(&fetch.path).map(Vec::as_slice);
        if let Err(error) = client.feed(file.ok_or(NotFound)) {
            return error.to_string();
        }
    }
    "it was believed".to_owned()
}

#[test]
fn every_folder_is_refused_as_it_says() {
    let mut count = 0;
    for attack in fs::read_dir(folder::root()).unwrap() {
        let attack = attack.unwrap().path();
        if !attack.is_dir() {
            continue; // the README
        }
        for way in fs::read_dir(&attack).unwrap() {
            let way = way.unwrap().path();
            let told = folder::read(&way);
            assert_eq!(played(&told), told.says, "{}", way.display());
            count += 1;
        }
    }
    assert!(count >= 30, "only {count} folders");
}
