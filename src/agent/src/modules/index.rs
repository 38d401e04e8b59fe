//! depmod's text files: which modules there are, what each needs, and which
//! one drives a device.

use std::collections::HashMap;

use super::alias;

/// The modules of one kernel as `modules.dep`, `modules.alias` and
/// `modules.softdep` describe them. Names are canonical: `-` is `_`.
#[derive(Debug, Default)]
pub struct Index {
    modules: HashMap<String, Module>,
    /// By the alias's part before its first `:` (its bus): a bus has hundreds
    /// of patterns, all of them together tens of thousands.
    aliases: HashMap<String, Vec<(String, String)>>,
}

/// One module.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Path below the kernel's module directory.
    pub path: String,
    /// Names of the modules that must be loaded before it, first one first.
    pub needs: Vec<String>,
    /// Names or aliases that its author wants loaded before it, if they exist.
    pub soft: Vec<String>,
}

impl Index {
    /// Reads the texts; lines that make no sense are passed over, since a
    /// newer depmod may write more than this knows.
    pub fn parse(dep: &str, alias: &str, softdep: &str) -> Self {
        let mut index = Self::default();
        for line in dep.lines() {
            index.dep_line(line);
        }
        for line in softdep.lines() {
            index.softdep_line(line);
        }
        for line in alias.lines() {
            let mut words = line.split_ascii_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                let entry = (pattern.to_owned(), canonical(name));
                index.aliases.entry(bus(pattern)).or_default().push(entry);
            }
        }
        index
    }

    fn dep_line(&mut self, line: &str) {
        let Some((path, needs)) = line.split_once(':') else {
            return;
        };
        let mut needs: Vec<String> = needs.split_ascii_whitespace().map(name_of_path).collect();
        // depmod writes the nearest need first; it is to be loaded last.
        needs.reverse();
        let module = Module {
            path: path.trim().to_owned(),
            needs,
            soft: Vec::new(),
        };
        self.modules.insert(name_of_path(path.trim()), module);
    }

    /// `softdep NAME pre: A B post: C`: only `pre` matters to us.
    fn softdep_line(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("softdep") {
            return;
        }
        let Some(module) = words
            .next()
            .and_then(|name| self.modules.get_mut(&canonical(name)))
        else {
            return;
        };
        let pre = words
            .skip_while(|word| *word != "pre:")
            .skip(1)
            .take_while(|word| *word != "post:");
        module.soft.extend(pre.map(str::to_owned));
    }

    /// The module of this name.
    pub fn module(&self, name: &str) -> Option<&Module> {
        self.modules.get(&canonical(name))
    }

    /// How many modules there are.
    pub fn len(&self) -> usize {
        self.modules.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// Names of the modules that claim a device's `modalias`, or that carry
    /// this name or alias (`fs-ext4`, `crypto-crc32c`).
    pub fn resolve(&self, modalias: &str) -> Vec<String> {
        if let Some((name, _)) = self.modules.get_key_value(&canonical(modalias)) {
            return vec![name.clone()];
        }
        let mut found: Vec<String> = Vec::new();
        let own = bus(modalias);
        let any = (!own.is_empty()).then(|| self.aliases.get("")).flatten();
        let candidates = self.aliases.get(&own).into_iter().chain(any).flatten();
        for (pattern, name) in candidates {
            if !found.contains(name) && alias::matches(pattern.as_bytes(), modalias.as_bytes()) {
                found.push(name.clone());
            }
        }
        found
    }
}

fn bus(alias: &str) -> String {
    match alias.split_once(':') {
        // A pattern such as `platform*:x` cannot be filed under its bus.
        Some((bus, _)) if !bus.contains(['*', '?', '[']) => bus.to_owned(),
        _ => String::new(),
    }
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// `kernel/drivers/net/virtio-net.ko.xz` is `virtio_net`.
fn name_of_path(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    canonical(file.split(".ko").next().unwrap_or(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/net/virtio_net.ko: kernel/net/core/failover.ko kernel/drivers/net/net_failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko
kernel/arch/x86/crypto/crc32c-intel.ko:
nonsense
";
    const ALIAS: &str = "\
# Aliases extracted from modules themselves.
alias virtio:d00000001v* virtio_net
alias fs-ext4 ext4
alias crypto-crc32c crc32c_intel
alias
";
    const SOFT: &str = "softdep ext4 pre: crypto-crc32c post: later\nsoftdep unknown pre: x\n";

    #[test]
    fn finds_the_driver_and_what_it_needs() {
        let index = Index::parse(DEP, ALIAS, SOFT);
        assert_eq!(index.resolve("virtio:d00000001v00001AF4"), ["virtio_net"]);
        assert!(index.resolve("virtio:d00000002v00001AF4").is_empty());
        assert_eq!(
            index.module("virtio-net").unwrap().needs,
            ["net_failover", "failover"]
        );
        assert_eq!(index.resolve("fs-ext4"), ["ext4"]);
        assert_eq!(index.resolve("crc32c-intel"), ["crc32c_intel"]);
        let ext4 = index.module("ext4").unwrap();
        assert_eq!(ext4.path, "kernel/fs/ext4/ext4.ko.xz");
        assert_eq!(ext4.soft, ["crypto-crc32c"]);
        assert_eq!(index.resolve("crypto-crc32c"), ["crc32c_intel"]);
    }
}
