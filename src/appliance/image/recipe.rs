//! Which kernel modules go into a boot image: `image/modules.toml`, read.

use std::mem;

use serde::Deserialize;

use super::Arch;

/// The recipe that is compiled in: common NICs, disks, file systems.
const FULL: &str = include_str!("../../../image/modules.toml");

/// A checked list of modules, in groups that each have a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    pub(super) groups: Vec<Group>,
    /// The text it was read from; its digest names the cached kernel part.
    pub(super) text: String,
}

/// Modules that are wanted for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) name: String,
    /// Not used by the program; the file's reader wants it.
    #[serde(rename = "reason")]
    _reason: String,
    /// Whether an image without one of these is refused.
    pub(super) needed: bool,
    /// Canonical names (`_`, never `-`).
    pub(super) modules: Vec<String>,
    /// Names that only kernels for 64-bit x86 have.
    #[serde(default)]
    amd64: Vec<String>,
    /// Names that only kernels for 64-bit ARM have.
    #[serde(default)]
    arm64: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    group: Vec<Group>,
}

impl Recipe {
    /// Reads a recipe for `arch`. The error shows line and caret.
    pub fn parse(text: &str, arch: Arch) -> Result<Self, toml::de::Error> {
        let File { mut group } = toml::from_str(text)?;
        for group in &mut group {
            let (amd64, arm64) = (mem::take(&mut group.amd64), mem::take(&mut group.arm64));
            group.modules.extend(match arch {
                Arch::Amd64 => amd64,
                Arch::Arm64 => arm64,
            });
            for name in &mut group.modules {
                *name = canonical(name);
            }
        }
        Ok(Self {
            groups: group,
            text: text.to_owned(),
        })
    }

    /// The full recipe of `image/modules.toml`.
    pub fn full(arch: Arch) -> Result<Self, toml::de::Error> {
        Self::parse(FULL, arch)
    }
}

/// The kernel's own spelling of a module's name.
pub(super) fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_recipe_is_read_and_names_nothing_twice() {
        for arch in [Arch::Amd64, Arch::Arm64] {
            check(&Recipe::full(arch).unwrap());
        }
    }

    fn check(recipe: &Recipe) {
        let mut names: Vec<_> = recipe.groups.iter().flat_map(|g| &g.modules).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(names.iter().any(|n| *n == "virtio_net"));
        assert!(recipe.groups.iter().any(|g| g.needed) && recipe.groups.iter().any(|g| !g.needed));
    }

    #[test]
    fn a_typo_is_refused_with_its_place() {
        let text = "[[group]]\nname = \"a\"\nreason = \"b\"\nneeded = true\nmodule = [\"x\"]\n";
        let error = Recipe::parse(text, Arch::Amd64).unwrap_err().to_string();
        assert!(
            error.contains("line 5") && error.contains("module"),
            "{error}"
        );
    }

    #[test]
    fn dashes_and_underscores_are_the_same() {
        let text =
            "[[group]]\nname = \"a\"\nreason = \"b\"\nneeded = true\nmodules = [\"usb-storage\"]\n";
        assert_eq!(
            Recipe::parse(text, Arch::Amd64).unwrap().groups[0].modules,
            ["usb_storage"]
        );
    }
}
