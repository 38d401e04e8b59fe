//! Every fuzz target over its seeds, over all inputs that once broke something
//! (`tests/fuzz/corpus/TARGET/`), and over small changes of both. The search for
//! new ones is `scripts/fuzz`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

#[path = "fuzz/src/seeds.rs"]
mod seeds;
#[path = "fuzz/src/targets.rs"]
mod targets;

use std::panic::catch_unwind;
use std::path::Path;

/// The seeds and the committed inputs of a target.
fn inputs(target: &str) -> Vec<Vec<u8>> {
    let mut inputs = seeds::of(target);
    assert!(!inputs.is_empty(), "{target} has no seed");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    if let Ok(files) = std::fs::read_dir(folder.join(target)) {
        inputs.extend(files.map(|file| std::fs::read(file.unwrap().path()).unwrap()));
    }
    inputs
}

/// Cut short, a bit changed, a byte repeated: deterministic, at most 64 of each.
fn changes(input: &[u8]) -> Vec<Vec<u8>> {
    let step = (input.len() / 64).max(1);
    let mut all = Vec::new();
    for at in (0..input.len()).step_by(step) {
        all.push(input[..at].to_vec());
        let mut flipped = input.to_vec();
        flipped[at] ^= 1 << (at % 8);
        all.push(flipped);
        let mut grown = input.to_vec();
        grown.insert(at, 0xff);
        all.push(grown);
    }
    all
}

#[test]
fn nothing_breaks_on_the_corpus() {
    let mut runs = 0;
    for (name, target) in targets::TARGETS {
        for input in inputs(name) {
            for bytes in std::iter::once(input.clone()).chain(changes(&input)) {
                runs += 1;
                let broken = catch_unwind(|| target(&bytes)).is_err();
                assert!(!broken, "{name} breaks on {}", bytes.escape_ascii());
            }
        }
    }
    assert!(runs > 10_000, "{runs}");
}

#[test]
fn seeds_reach_what_lies_behind_the_first_check() {
    use groundcrew_netboot::dhcp::Request;
    let requests = seeds::of("dhcp_request");
    let read = requests
        .iter()
        .filter(|b| Request::parse(b).is_ok())
        .count();
    assert!(read > 20, "{read} of {}", requests.len());
    let tree = &seeds::of("bundle_tree")[0][1..];
    let entries = seeds::tree_entries();
    let mut unpacker = groundcrew_core::bundle::tree::Unpacker::new(entries.iter().collect());
    unpacker
        .feed(tree, &mut |_| Ok::<_, std::convert::Infallible>(()))
        .unwrap();
    assert!(unpacker.finish().is_ok());
}
