//! What a kernel's modules say of themselves (`.modinfo`), and which of them a
//! recipe needs: everything it names and all that those depend on.
//!
//! Sources: `include/linux/module.h` of the kernel for `.modinfo` (strings
//! `key=value`, each ended by a zero byte), modprobe.d(5) for `softdep`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::elf::{Elf, ElfError};
use super::recipe::{Group, Recipe, canonical};

/// A module as it describes itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Module {
    /// Canonical name: that of the file, `-` as `_`.
    pub(super) name: String,
    /// Path below `/lib/modules/VERSION`, `kernel/fs/ext4/ext4.ko`.
    pub(super) path: String,
    /// Canonical names of what must be loaded before.
    pub(super) depends: Vec<String>,
    /// As written: `pre: crypto-crc32c post: later`.
    pub(super) softdeps: Vec<String>,
    /// Patterns over device and service names, as written.
    pub(super) aliases: Vec<String>,
}

impl Module {
    /// Reads an uncompressed `.ko` file.
    pub(super) fn read(path: &str, file: &[u8]) -> Result<Self, ElfError> {
        let mut module = Self {
            name: name_of(path),
            path: path.to_owned(),
            ..Self::default()
        };
        let info = Elf::parse(file)?.section(".modinfo")?.unwrap_or_default();
        for entry in info.split(|b| *b == 0) {
            // What is not text is nobody's name; the kernel itself would not find it either.
            let Some((key, value)) = std::str::from_utf8(entry)
                .ok()
                .and_then(|e| e.split_once('='))
            else {
                continue;
            };
            // A line break would forge a line of modules.dep or modules.alias.
            if value.contains(char::is_control) {
                continue;
            }
            match key {
                "depends" => module
                    .depends
                    .extend(value.split(',').filter(|n| !n.is_empty()).map(canonical)),
                "softdep" => module.softdeps.push(value.to_owned()),
                "alias" => module.aliases.push(value.to_owned()),
                _ => {}
            }
        }
        Ok(module)
    }

    /// Names and aliases of the soft dependencies, whether before or after.
    fn soft_names(&self) -> impl Iterator<Item = &str> {
        let words = self
            .softdeps
            .iter()
            .flat_map(|s| s.split_ascii_whitespace());
        words.filter(|word| !word.ends_with(':'))
    }
}

/// `kernel/drivers/usb/storage/usb-storage.ko.xz` is `usb_storage`.
pub(super) fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    canonical(file.split(".ko").next().unwrap_or(file))
}

/// All modules of one kernel.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    modules: BTreeMap<String, Module>,
    /// Names that need no module.
    builtin: BTreeSet<String>,
    /// Position in `modules.order`: where two drivers claim a device, the
    /// kernel's link order decides, as with depmod.
    order: HashMap<String, usize>,
}

/// Why no set of modules can be chosen.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChoiceError {
    /// The kernel lacks modules that the recipe insists on.
    #[error("the kernel has no module {}, which group `{group}` of the recipe needs; is this a full linux-image package (not cloud, not rt)?", names.join(", "))]
    Needed {
        /// The recipe's group.
        group: String,
        /// Module names.
        names: Vec<String>,
    },
    /// A module names another that is not in the package.
    #[error(
        "module {module} depends on {missing}, which is neither in the package nor built into the kernel"
    )]
    Dangling {
        /// Who asks.
        module: String,
        /// For whom.
        missing: String,
    },
    /// Modules that depend on each other in a circle.
    #[error("modules depend on each other in a circle: {}", .0.join(", "))]
    Circle(Vec<String>),
    /// Two files with one module name.
    #[error("two files are called module {0}")]
    Twice(String),
}

/// What a recipe came to.
#[derive(Debug)]
pub(super) struct Choice<'a> {
    /// In `modules.order`.
    pub(super) modules: Vec<&'a Module>,
    /// Wanted, not needed, and not there.
    pub(super) left_out: Vec<String>,
}

impl Catalogue {
    /// From the modules and the texts `modules.builtin` and `modules.order`
    /// that a kernel package carries.
    pub(super) fn new(
        modules: Vec<Module>,
        builtin: &str,
        order: &str,
    ) -> Result<Self, ChoiceError> {
        let mut catalogue = Self {
            builtin: builtin.lines().map(name_of).collect(),
            order: order
                .lines()
                .zip(0..)
                .map(|(path, i)| (path.to_owned(), i))
                .collect(),
            ..Self::default()
        };
        for module in modules {
            let name = module.name.clone();
            if catalogue.modules.insert(name.clone(), module).is_some() {
                return Err(ChoiceError::Twice(name));
            }
        }
        Ok(catalogue)
    }

    /// How many modules there are to choose from.
    pub(super) fn len(&self) -> usize {
        self.modules.len()
    }

    /// The modules that the recipe names and all they depend on, hard or soft.
    pub(super) fn choose(&self, recipe: &Recipe) -> Result<Choice<'_>, ChoiceError> {
        let mut left_out = Vec::new();
        for group in &recipe.groups {
            let missing = self.missing(group);
            if group.needed && !missing.is_empty() {
                return Err(ChoiceError::Needed {
                    group: group.name.clone(),
                    names: missing,
                });
            }
            left_out.extend(missing);
        }
        let named = recipe
            .groups
            .iter()
            .flat_map(|g| &g.modules)
            .filter_map(|n| self.modules.get(n));
        let mut modules = self.closure(named.collect())?;
        modules.sort_by_key(|m| {
            (
                self.order.get(&m.path).copied().unwrap_or(usize::MAX),
                &m.path,
            )
        });
        Ok(Choice { modules, left_out })
    }

    fn missing(&self, group: &Group) -> Vec<String> {
        let there = |name: &String| self.modules.contains_key(name) || self.builtin.contains(name);
        group
            .modules
            .iter()
            .filter(|name| !there(name))
            .cloned()
            .collect()
    }

    fn closure<'a>(&'a self, mut todo: Vec<&'a Module>) -> Result<Vec<&'a Module>, ChoiceError> {
        let by_alias = self.by_alias();
        let mut chosen: BTreeMap<&str, &Module> = BTreeMap::new();
        while let Some(module) = todo.pop() {
            if chosen.insert(&module.name, module).is_some() {
                continue;
            }
            for need in &module.depends {
                match self.modules.get(need) {
                    Some(found) => todo.push(found),
                    None if self.builtin.contains(need) => {}
                    None => {
                        return Err(ChoiceError::Dangling {
                            module: module.name.clone(),
                            missing: need.clone(),
                        });
                    }
                }
            }
            for soft in module.soft_names() {
                todo.extend(self.modules.get(&canonical(soft)));
                todo.extend(by_alias.get(soft).into_iter().flatten());
            }
        }
        Ok(chosen.into_values().collect())
    }

    /// Soft dependencies name plain aliases (`crypto-crc32c`), never patterns.
    fn by_alias(&self) -> HashMap<&str, Vec<&Module>> {
        let mut by_alias: HashMap<&str, Vec<&Module>> = HashMap::new();
        for module in self.modules.values() {
            for alias in module
                .aliases
                .iter()
                .filter(|a| !a.contains(['*', '?', '[']))
            {
                by_alias.entry(alias).or_default().push(module);
            }
        }
        by_alias
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Arch;
    use super::super::elf::tests::module_file;
    use super::*;

    pub(in crate::image) fn module(
        path: &str,
        depends: &[&str],
        softdep: &[&str],
        aliases: &[&str],
    ) -> Module {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Module {
            name: name_of(path),
            path: path.to_owned(),
            depends: owned(depends),
            softdeps: owned(softdep),
            aliases: owned(aliases),
        }
    }

    pub(in crate::image) fn recipe(needed: &[&str], wanted: &[&str]) -> Recipe {
        Recipe::parse(&format!(
            "[[group]]\nname=\"n\"\nreason=\"r\"\nneeded=true\nmodules={needed:?}\n[[group]]\nname=\"w\"\nreason=\"r\"\nneeded=false\nmodules={wanted:?}\n"
        ), Arch::Amd64)
        .unwrap()
    }

    fn sample() -> Catalogue {
        let modules = vec![
            module(
                "kernel/fs/ext4/ext4.ko",
                &["jbd2", "mbcache"],
                &["pre: crypto-crc32c"],
                &["fs-ext4"],
            ),
            module("kernel/fs/jbd2/jbd2.ko", &[], &[], &[]),
            module("kernel/fs/mbcache.ko", &[], &[], &[]),
            module(
                "kernel/arch/x86/crypto/crc32c-intel.ko",
                &["libcrc"],
                &[],
                &["crypto-crc32c"],
            ),
            module(
                "kernel/crypto/crc32c_generic.ko",
                &[],
                &[],
                &["crypto-crc32c", "crypto-*"],
            ),
            module("kernel/other.ko", &["nowhere"], &[], &[]),
        ];
        let order = "kernel/fs/mbcache.ko\nkernel/fs/ext4/ext4.ko\nkernel/fs/jbd2/jbd2.ko\n";
        Catalogue::new(
            modules,
            "kernel/lib/libcrc.ko\nkernel/drivers/char/tpm/tpm_tis.ko\n",
            order,
        )
        .unwrap()
    }

    #[test]
    fn modinfo_is_read() {
        let file = module_file(b"license=GPL\0alias=fs-x\0depends=a-b,c\0\0softdep=pre: d\0alias=pci:v*\0alias=evil\nalias y z\0name=x\0");
        let read = Module::read("kernel/fs/my-x.ko", &file).unwrap();
        assert_eq!(
            read,
            module(
                "kernel/fs/my-x.ko",
                &["a_b", "c"],
                &["pre: d"],
                &["fs-x", "pci:v*"]
            )
        );
        assert_eq!(read.name, "my_x");
        assert!(Module::read("x.ko", b"text").is_err());
    }

    #[test]
    fn a_recipe_brings_hard_and_soft_needs_along_in_link_order() {
        let catalogue = sample();
        let choice = catalogue
            .choose(&recipe(&["ext4", "tpm-tis"], &["gone"]))
            .unwrap();
        let names: Vec<_> = choice.modules.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(
            names,
            ["mbcache", "ext4", "jbd2", "crc32c_intel", "crc32c_generic"]
        );
        assert_eq!(choice.left_out, ["gone"]);
    }

    #[test]
    fn what_is_needed_and_not_there_is_told() {
        let catalogue = sample();
        let error = catalogue
            .choose(&recipe(&["ext4", "e1000e", "nvme"], &[]))
            .unwrap_err();
        assert_eq!(
            error,
            ChoiceError::Needed {
                group: "n".into(),
                names: vec!["e1000e".into(), "nvme".into()]
            }
        );
        assert!(matches!(
            catalogue.choose(&recipe(&["other"], &[])),
            Err(ChoiceError::Dangling { .. })
        ));
    }

    #[test]
    fn one_name_for_two_files_is_refused() {
        let twice = vec![
            module("kernel/a-b.ko", &[], &[], &[]),
            module("kernel/x/a_b.ko", &[], &[], &[]),
        ];
        assert_eq!(
            Catalogue::new(twice, "", "").unwrap_err(),
            ChoiceError::Twice("a_b".into())
        );
    }
}
