//! What depmod(8) would write for the chosen modules; a kernel package does
//! not carry it, since depmod runs where the package is installed.
//!
//! Formats: modules.dep(5) and the text forms beside it. The binary indexes
//! (`*.bin`) are left out: the agent reads the texts.

use std::collections::{BTreeMap, BTreeSet};

use super::catalogue::{ChoiceError, Module};

/// The texts, each to lie in `/lib/modules/VERSION/`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Indexes {
    /// `PATH: NEEDS`, nearest need first: it is to be loaded last.
    pub(super) dep: String,
    /// `alias PATTERN NAME`.
    pub(super) alias: String,
    /// `softdep NAME pre: A post: B`.
    pub(super) softdep: String,
}

/// Writes the indexes of these modules. `suffix` is what the files have gained
/// in the image (`.zst`); the modules must be closed under `depends`.
pub(super) fn indexes(modules: &[&Module], suffix: &str) -> Result<Indexes, ChoiceError> {
    let ranks = load_order(modules)?;
    let by_name: BTreeMap<&str, &Module> = modules.iter().map(|m| (m.name.as_str(), *m)).collect();
    let mut out = Indexes {
        dep: String::new(),
        alias: "# Aliases extracted from modules themselves.\n".to_owned(),
        softdep: "# Soft dependencies extracted from modules themselves.\n".to_owned(),
    };
    for module in modules {
        let mut needs = all_needs(module, &by_name);
        needs.sort_by_key(|need| std::cmp::Reverse(ranks.get(need.name.as_str())));
        out.dep += &format!("{}{suffix}:", module.path);
        for need in needs {
            out.dep += &format!(" {}{suffix}", need.path);
        }
        out.dep.push('\n');
        for alias in &module.aliases {
            out.alias += &format!("alias {alias} {}\n", module.name);
        }
        for softdep in &module.softdeps {
            out.softdep += &format!("softdep {} {softdep}\n", module.name);
        }
    }
    Ok(out)
}

/// Everything a module needs, directly or not, itself left out.
fn all_needs<'a>(module: &Module, by_name: &BTreeMap<&str, &'a Module>) -> Vec<&'a Module> {
    let mut needs: BTreeMap<&str, &Module> = BTreeMap::new();
    let mut todo: Vec<&String> = module.depends.iter().collect();
    while let Some(name) = todo.pop() {
        // A name that is not there is built into the kernel.
        let Some(&need) = by_name.get(name.as_str()) else {
            continue;
        };
        if needs.insert(&need.name, need).is_none() {
            todo.extend(&need.depends);
        }
    }
    needs.into_values().collect()
}

/// A rank for each module, higher than that of all it needs.
fn load_order<'a>(modules: &[&'a Module]) -> Result<BTreeMap<&'a str, usize>, ChoiceError> {
    let present: BTreeSet<&str> = modules.iter().map(|m| m.name.as_str()).collect();
    let mut waits: BTreeMap<&str, usize> = BTreeMap::new();
    let mut needed_by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for module in modules {
        let needs: BTreeSet<&str> = module
            .depends
            .iter()
            .map(String::as_str)
            .filter(|n| present.contains(n))
            .collect();
        waits.insert(&module.name, needs.len());
        for need in needs {
            needed_by.entry(need).or_default().push(&module.name);
        }
    }
    let mut ready: Vec<&str> = waits
        .iter()
        .filter(|(_, n)| **n == 0)
        .map(|(name, _)| *name)
        .collect();
    let mut ranks = BTreeMap::new();
    while let Some(name) = ready.pop() {
        ranks.insert(name, ranks.len());
        for waiting in needed_by.get(name).into_iter().flatten() {
            if let Some(left) = waits.get_mut(waiting) {
                *left -= 1;
                if *left == 0 {
                    ready.push(waiting);
                }
            }
        }
    }
    if ranks.len() < modules.len() {
        let stuck = present.iter().filter(|name| !ranks.contains_key(*name));
        return Err(ChoiceError::Circle(
            stuck.map(|s| (*s).to_owned()).collect(),
        ));
    }
    Ok(ranks)
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::tests::module;
    use super::*;

    #[test]
    fn texts_are_depmods() {
        let ext4 = module(
            "kernel/fs/ext4/ext4.ko",
            &["jbd2", "mbcache", "built_in"],
            &["pre: crypto-crc32c"],
            &["fs-ext4", "ext3"],
        );
        let jbd2 = module("kernel/fs/jbd2/jbd2.ko", &["crc16"], &[], &[]);
        let crc16 = module("kernel/lib/crc16.ko", &[], &[], &[]);
        let mbcache = module("kernel/fs/mbcache.ko", &[], &[], &[]);
        let out = indexes(&[&ext4, &jbd2, &crc16, &mbcache], ".zst").unwrap();
        let dep: Vec<_> = out.dep.lines().collect();
        assert_eq!(
            dep[1],
            "kernel/fs/jbd2/jbd2.ko.zst: kernel/lib/crc16.ko.zst"
        );
        assert_eq!(dep[2], "kernel/lib/crc16.ko.zst:");
        let (head, needs) = dep[0].split_once(": ").unwrap();
        assert_eq!(head, "kernel/fs/ext4/ext4.ko.zst");
        let needs: Vec<_> = needs.split(' ').collect();
        assert_eq!(needs.len(), 3);
        let at = |path: &str| needs.iter().position(|n| *n == path).unwrap();
        assert!(
            at("kernel/fs/jbd2/jbd2.ko.zst") < at("kernel/lib/crc16.ko.zst"),
            "loaded from the right"
        );
        assert_eq!(
            out.alias.lines().skip(1).collect::<Vec<_>>(),
            ["alias fs-ext4 ext4", "alias ext3 ext4"]
        );
        assert_eq!(
            out.softdep.lines().skip(1).collect::<Vec<_>>(),
            ["softdep ext4 pre: crypto-crc32c"]
        );
    }

    #[test]
    fn a_circle_is_refused() {
        let (a, b, c) = (
            module("a.ko", &["b"], &[], &[]),
            module("b.ko", &["a"], &[], &[]),
            module("c.ko", &[], &[], &[]),
        );
        assert_eq!(
            indexes(&[&a, &b, &c], "").unwrap_err(),
            ChoiceError::Circle(vec!["a".into(), "b".into()])
        );
    }
}
