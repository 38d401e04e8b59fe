//! Whole builds from a tiny package made here.

use std::fs;

use super::catalogue::tests::recipe;
use super::deb::tests::{Item, deb_of, file, xz};
use super::elf::tests::{module_file, program_file};
use super::initrd::tests::read_initrd;
use super::loaders::tests::loaders_folder;
use super::*;

const VERSION: &str = "6.1.0-1-amd64";

fn items() -> Vec<Item> {
    let base = format!("./lib/modules/{VERSION}");
    let ext4 = module_file(b"alias=fs-ext4\0depends=jbd2\0softdep=pre: crypto-crc32c\0");
    vec![
        file(&format!("./boot/vmlinuz-{VERSION}"), b"MZ kernel"),
        file(&format!("./boot/config-{VERSION}"), b"CONFIG_X=y"),
        file(&format!("{base}/kernel/fs/ext4/ext4.ko"), &ext4),
        file(
            &format!("{base}/kernel/fs/jbd2/jbd2.ko.xz"),
            &xz(&module_file(b"depends=\0")),
        ),
        file(
            &format!("{base}/kernel/crypto/crc32c_generic.ko"),
            &module_file(b"alias=crypto-crc32c\0"),
        ),
        file(
            &format!("{base}/kernel/sound/snd.ko"),
            &module_file(b"alias=pci:v*\0"),
        ),
        file(&format!("{base}/modules.builtin"), b"kernel/lib/b.ko\n"),
        file(
            &format!("{base}/modules.order"),
            b"kernel/fs/jbd2/jbd2.ko\nkernel/fs/ext4/ext4.ko\n",
        ),
    ]
}

/// A temporary world: package, agent, loaders, cache.
struct World {
    folder: tempfile::TempDir,
    loaders: tempfile::TempDir,
}

impl World {
    fn new(items: &[Item]) -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
            loaders: loaders_folder(),
        };
        fs::write(world.path("kernel.deb"), deb_of(items)).unwrap();
        fs::write(world.path("agent"), program_file(3, &[1])).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spec(&self) -> ImageSpec {
        ImageSpec {
            arch: Arch::Amd64,
            loader_debs: Packages::default(),
            kernel_deb: Some(self.path("kernel.deb")),
            agent: self.path("agent"),
            agent_version: "0.1.0".into(),
            trust_json: b"{\"root\":1}".to_vec(),
            out: self.path("boot"),
            cache: self.path("cache"),
            ipxe_dirs: vec![self.loaders.path().to_owned()],
            recipe: recipe(&["ext4", "b"], &["absent"]),
            more_loaders: Vec::new(),
            uki: None,
        }
    }
}

fn run(spec: &ImageSpec) -> Result<ImageReport, ImageError> {
    build(spec, &mut |_| ())
}

fn refusal(items: &[Item]) -> String {
    run(&World::new(items).spec()).unwrap_err().to_string()
}

#[test]
fn a_package_becomes_a_boot_folder() {
    let world = World::new(&items());
    let mut said = Vec::new();
    let report = build(&world.spec(), &mut |p| said.push(p.to_string())).unwrap();
    assert_eq!(report.manifest.kernel.version, VERSION);
    assert_eq!(
        (
            report.manifest.kernel.modules,
            &report.manifest.kernel.left_out[..]
        ),
        (3, &["absent".to_owned()][..])
    );
    assert!(report.within_budget && !report.kernel_cached);
    assert!(
        said.iter()
            .any(|s| s == "3 of 4 kernel modules chosen; not in this kernel: absent"),
        "{said:?}"
    );
    let boot = world.path("boot");
    assert_eq!(fs::read(boot.join(VMLINUZ)).unwrap(), b"MZ kernel");
    let seen = read_initrd(&fs::read(boot.join(INITRD)).unwrap());
    let content = |name: &str| {
        seen.iter()
            .find(|s| s.name == name)
            .map(|s| s.content.clone())
            .unwrap_or_else(|| panic!("no {name}"))
    };
    assert_eq!(content("init"), program_file(3, &[1]));
    assert_eq!(content("etc/groundcrew/trust.json"), b"{\"root\":1}");
    let base = format!("lib/modules/{VERSION}");
    let jbd2 =
        zstd::decode_all(&content(&format!("{base}/kernel/fs/jbd2/jbd2.ko.zst"))[..]).unwrap();
    assert_eq!(
        jbd2,
        module_file(b"depends=\0"),
        "xz in the package, zstd in the image"
    );
    let dep = String::from_utf8(content(&format!("{base}/modules.dep"))).unwrap();
    assert_eq!(
        dep,
        "kernel/fs/jbd2/jbd2.ko.zst:\nkernel/fs/ext4/ext4.ko.zst: kernel/fs/jbd2/jbd2.ko.zst\nkernel/crypto/crc32c_generic.ko.zst:\n"
    );
    assert!(!seen.iter().any(|s| s.name.contains("snd")));
    let manifest = Manifest::read(&boot).unwrap();
    assert_eq!(manifest, report.manifest);
    assert_eq!(manifest.differing(&boot), Vec::<String>::new());
    fs::write(boot.join("snponly.efi"), b"other").unwrap();
    assert_eq!(manifest.differing(&boot), ["snponly.efi"]);
}

fn bytes_of(boot: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(boot)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| {
            (
                p.file_name().unwrap().to_str().unwrap().to_owned(),
                fs::read(&p).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

#[test]
fn same_input_same_bytes_with_and_without_cache() {
    let (one, two) = (World::new(&items()), World::new(&items()));
    run(&one.spec()).unwrap();
    let first = bytes_of(&one.path("boot"));
    let names: Vec<_> = first.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "image.json",
            "initrd.img",
            "ipxe.efi",
            "local.efi",
            "snponly.efi",
            "undionly.kpxe",
            "vmlinuz"
        ],
        "nothing else stays"
    );
    let again = run(&one.spec()).unwrap();
    assert!(again.kernel_cached);
    assert_eq!(bytes_of(&one.path("boot")), first);
    run(&two.spec()).unwrap();
    assert_eq!(bytes_of(&two.path("boot")), first, "another place");
}

#[test]
fn another_site_changes_only_the_end_of_the_initrd() {
    let world = World::new(&items());
    run(&world.spec()).unwrap();
    let before = fs::read(world.path("boot/initrd.img")).unwrap();
    let report = run(&ImageSpec {
        trust_json: b"{\"root\":2}".to_vec(),
        ..world.spec()
    })
    .unwrap();
    assert!(report.kernel_cached);
    let after = fs::read(world.path("boot/initrd.img")).unwrap();
    let trust = initrd::trust_part(b"{\"root\":2}").unwrap();
    assert_eq!(
        after[..after.len() - trust.len()],
        before[..before.len() - trust.len()]
    );
    assert!(after.ends_with(&trust));
}

#[test]
fn a_damaged_cache_is_made_again() {
    let world = World::new(&items());
    run(&world.spec()).unwrap();
    let first = bytes_of(&world.path("boot"));
    let kept = fs::read_dir(world.path("cache"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::write(kept.join("modules.img"), b"half").unwrap();
    assert!(!run(&world.spec()).unwrap().kernel_cached);
    assert_eq!(bytes_of(&world.path("boot")), first);
}

#[test]
fn another_recipe_is_another_image() {
    let world = World::new(&items());
    run(&world.spec()).unwrap();
    let report = run(&ImageSpec {
        recipe: recipe(&["jbd2"], &[]),
        ..world.spec()
    })
    .unwrap();
    assert!(!report.kernel_cached);
    assert_eq!(report.manifest.kernel.modules, 1);
}

#[test]
fn hostile_packages_are_refused_and_the_old_image_stays() {
    let world = World::new(&items());
    run(&world.spec()).unwrap();
    let before = bytes_of(&world.path("boot"));
    let mut hostile = items();
    hostile.push(file("./lib/../../etc/x", b""));
    fs::write(world.path("kernel.deb"), deb_of(&hostile)).unwrap();
    assert!(
        run(&world.spec())
            .unwrap_err()
            .to_string()
            .contains("no Debian package does")
    );
    assert_eq!(bytes_of(&world.path("boot")), before);
    for kind in [
        tar::EntryType::Symlink,
        tar::EntryType::Link,
        tar::EntryType::Char,
        tar::EntryType::GNUSparse,
    ] {
        let mut linked = items();
        linked.push(Item {
            name: format!("./lib/modules/{VERSION}/kernel/a.ko"),
            kind,
            content: vec![],
        });
        assert!(
            refusal(&linked).contains("not an ordinary file"),
            "{kind:?}"
        );
    }
}

#[test]
fn what_is_missing_in_a_package_is_told() {
    let without = |part: &str| {
        refusal(
            &items()
                .into_iter()
                .filter(|i| !i.name.contains(part))
                .collect::<Vec<_>>(),
        )
    };
    assert!(without("vmlinuz").contains("is no kernel package"));
    assert!(without("modules.builtin").contains("modules.builtin"));
    assert!(without("ext4.ko").contains("no module ext4, which group `n`"));
    assert!(without("jbd2.ko").contains("module ext4 depends on jbd2"));
    assert!(refusal(&[]).contains("linux-image-VERSION-amd64"));
    let mut broken = items();
    broken.push(file(
        &format!("./lib/modules/{VERSION}/kernel/bad.ko"),
        b"text",
    ));
    assert!(refusal(&broken).contains("kernel/bad.ko is not an ELF file"));
}

#[test]
fn a_wrong_agent_or_trust_root_is_told_first() {
    let world = World::new(&items());
    fs::write(world.path("agent"), program_file(3, &[3, 1])).unwrap();
    let error = run(&world.spec()).unwrap_err().to_string();
    assert!(
        error.contains("agent") && error.contains("linked dynamically"),
        "{error}"
    );
    fs::write(world.path("agent"), program_file(3, &[1])).unwrap();
    let error = run(&ImageSpec {
        trust_json: b"{".to_vec(),
        ..world.spec()
    })
    .unwrap_err()
    .to_string();
    assert!(error.contains("not JSON"), "{error}");
    assert!(!world.path("boot").exists() && !world.path("cache").exists());
    let error = run(&ImageSpec {
        kernel_deb: Some(world.path("none.deb")),
        ..world.spec()
    })
    .unwrap_err()
    .to_string();
    assert!(error.contains("none.deb"), "{error}");
}

/// A world whose kernel and stub can become the site's own image.
fn signing_world() -> World {
    let mut items = items();
    items[0] = file(&format!("./boot/vmlinuz-{VERSION}"), &secure::tiny(0x8664));
    let world = World::new(&items);
    fs::write(world.path("stub"), secure::tiny(0x8664)).unwrap();
    world
}

fn signed(world: &World, pair: &secure::Pair, behind_shim: bool) -> ImageSpec {
    ImageSpec {
        uki: Some(UkiSpec {
            stub: world.path("stub"),
            command_line: "gc.server=10.77.0.1".into(),
            signer: Some(Arc::new(pair.signer().unwrap())),
            behind_shim,
        }),
        ..world.spec()
    }
}

#[test]
fn the_sites_own_image_is_signed_and_so_is_the_way_to_the_own_disk() {
    let (world, pair) = (signing_world(), secure::Pair::new(2048));
    let spec = signed(&world, &pair, false);
    let report = run(&spec).unwrap();
    let uki = report.manifest.uki.clone().unwrap();
    assert_eq!(uki.command_line, "gc.server=10.77.0.1");
    assert_eq!(uki.signed_by, Some(pair.signer().unwrap().fingerprint()));
    let read = |name| fs::read(world.path("boot").join(name)).unwrap();
    let image = read(names::UKI);
    for signed in [&image, &read(names::OWN_DISK), &read(names::HELD)] {
        assert!(pair.verifies(signed));
    }
    assert_ne!(read(names::OWN_DISK), read(names::HELD));
    let initrd = read(INITRD);
    assert!(image.windows(initrd.len()).any(|part| part == initrd));
    assert_eq!(report.manifest, run(&spec).unwrap().manifest, "same bytes");
    let missing = ImageSpec {
        uki: spec.uki.clone().map(|uki| UkiSpec {
            stub: world.path("absent"),
            ..uki
        }),
        ..world.spec()
    };
    let error = run(&missing).unwrap_err().to_string();
    assert!(error.contains("systemd-boot-efi"), "{error}");
}

#[test]
fn behind_shim_lie_the_same_images_each_in_a_folder_of_its_own() {
    let (world, pair) = (signing_world(), secure::Pair::new(2048));
    let report = run(&signed(&world, &pair, true)).unwrap();
    let boot = world.path("boot");
    let read = |name| fs::read(boot.join(name)).unwrap();
    let names::BehindShim {
        image,
        own_disk,
        held,
    } = names::BEHIND_SHIM;
    for (one, starts) in [
        (image, names::UKI),
        (own_disk, names::OWN_DISK),
        (held, names::HELD),
    ] {
        assert_eq!(read(one.starts), read(starts));
        assert!(read(one.shim).starts_with(b"MZ") && read(one.mok_manager).starts_with(b"MZ"));
    }
    // Debian's own level of revocation, or shim would not start it.
    let level = String::from_utf8(secure::sbat(read(names::OWN_DISK)).unwrap()).unwrap();
    assert!(
        level.starts_with("sbat,1,") && level.contains("\ngrub.debian,"),
        "{level}"
    );
    assert!(pair.verifies(&read(names::OWN_DISK)));
    assert_eq!(report.manifest.differing(&boot), Vec::<String>::new());
}

#[test]
fn an_image_for_arm_wants_an_agent_and_loaders_for_arm() {
    let world = World::new(&items());
    let spec = ImageSpec {
        arch: Arch::Arm64,
        ..world.spec()
    };
    let error = run(&spec).unwrap_err().to_string();
    assert!(error.contains("build-agent --arch arm64"), "{error}");
    let mut agent = program_file(3, &[1]);
    agent[18] = 183;
    fs::write(world.path("agent"), agent).unwrap();
    let error = run(&spec).unwrap_err().to_string();
    for part in ["ipxe-arm64.efi", "of Debian 13", "--loader-deb"] {
        assert!(error.contains(part), "{error}");
    }
    // A loader for the wrong processor is worse than none.
    let x64 = world.loaders.path().join("ipxe.efi");
    fs::copy(x64, world.loaders.path().join("ipxe-arm64.efi")).unwrap();
    let error = run(&spec).unwrap_err().to_string();
    assert!(
        error.contains("not an EFI program for 64-bit ARM"),
        "{error}"
    );
}
