//! The fuzzer of one target, named by `GROUNDCREW_FUZZ_TARGET`. `scripts/fuzz`
//! builds and runs it; `seeds FOLDER` (see there) writes the first corpus.
#![no_main]

mod seeds;
mod targets;

use std::sync::LazyLock;

static TARGET: LazyLock<targets::Target> = LazyLock::new(|| {
    let name = std::env::var("GROUNDCREW_FUZZ_TARGET").unwrap_or_default();
    let all = targets::TARGETS.iter();
    let found = all.clone().find(|(known, _)| *known == name);
    let Some((_, target)) = found else {
        let names: Vec<_> = all.map(|(known, _)| *known).collect();
        eprintln!(
            "GROUNDCREW_FUZZ_TARGET is {name:?}; there are {}",
            names.join(", ")
        );
        std::process::exit(2);
    };
    if let Ok(folder) = std::env::var("GROUNDCREW_FUZZ_SEEDS") {
        for (number, seed) in seeds::of(&name).iter().enumerate() {
            std::fs::write(format!("{folder}/seed-{number:03}"), seed).expect("a seed");
        }
        std::process::exit(0);
    }
    *target
});

libfuzzer_sys::fuzz_target!(init: { LazyLock::force(&TARGET); }, |data: &[u8]| TARGET(data));
