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

/// Blind search, for machines without nightly Rust: seeds changed in several
/// places at once, from a fixed beginning. `GROUNDCREW_FUZZ_SECONDS` for each
/// target; what breaks is printed.
#[test]
#[ignore = "as long as you like: scripts/test --full"]
fn nothing_breaks_on_many_random_changes() {
    let seconds = std::env::var("GROUNDCREW_FUZZ_SECONDS").ok();
    let seconds = seconds.map_or(5, |text| text.parse().unwrap());
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = move |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize % limit.max(1)
    };
    for (name, target) in targets::TARGETS {
        let inputs = inputs(name);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
        let mut runs = 0_u64;
        while std::time::Instant::now() < end {
            let mut bytes = inputs[below(inputs.len())].clone();
            let other = &inputs[below(inputs.len())];
            for _ in 0..=below(6) {
                let at = below(bytes.len());
                match below(6) {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, below(256) as u8),
                    2 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][below(5)],
                    3 if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
                    4 => bytes.extend_from_slice(&other[below(other.len())..]),
                    _ => drop(bytes.drain(at..at + below(bytes.len() - at))),
                }
            }
            bytes.truncate(16384);
            runs += 1;
            let broken = catch_unwind(|| target(&bytes)).is_err();
            assert!(!broken, "{name} breaks on {}", bytes.escape_ascii());
        }
        println!("{name}: {runs} runs");
    }
}

/// A seed that is refused at its first byte would leave the rest unsearched.
#[test]
fn the_courier_s_seed_is_one() {
    use groundcrew::site::courier::{blobs_of, each_blob, read};
    let [seed] = &seeds::of("courier")[..] else {
        panic!("one seed");
    };
    let wanted = blobs_of(&read(&seed[..]).unwrap()).unwrap();
    let mut ends = 0;
    each_blob(&seed[..], &wanted, &mut |_, bytes| {
        ends += u32::from(bytes.is_empty());
        Ok(())
    })
    .unwrap();
    assert_eq!((wanted.len(), ends), (1, 1));
}
