use super::*;
use std::fs::File;
use std::process::Command;

fn written(fat: &Fat32<'_>, folder: &std::path::Path) -> std::path::PathBuf {
    let path = folder.join("fat.img");
    let mut file = File::create(&path).unwrap();
    file.set_len(96 << 20).unwrap();
    fat.write(&mut file, 96 << 20, 4096, 0x6763_0001, *b"GROUNDCREW ")
        .unwrap();
    path
}

fn run(program: &str, arguments: &[&str]) -> (bool, Vec<u8>) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let done = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error} (scripts/setup installs it)"));
    (done.status.success(), [done.stdout, done.stderr].concat())
}

#[test]
fn dosfstools_and_mtools_find_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..3_000_001_u32).map(|n| (n / 7) as u8).collect();
    let many: Vec<String> = (0..100).map(|n| format!("many/f{n}.bin")).collect();
    let mut fat = Fat32::default();
    fat.file("EFI/BOOT/BOOTX64.EFI", b"shim").unwrap();
    fat.file("EFI/BOOT/grubx64.efi", &large).unwrap();
    fat.file("EFI/debian/grub.cfg", b"set timeout=5\n").unwrap();
    fat.file("vmlinuz", &large[..CLUSTER as usize]).unwrap();
    fat.file("empty", b"").unwrap();
    for name in &many {
        fat.file(name, name.as_bytes()).unwrap();
    }
    let image = written(&fat, dir.path());
    let image = image.to_str().unwrap();
    let (sound, said) = run("fsck.vfat", &["-n", "-v", image]);
    assert!(sound, "{}", String::from_utf8_lossy(&said));
    for (name, content) in [
        ("::EFI/BOOT/BOOTX64.EFI", &b"shim"[..]),
        ("::EFI/BOOT/grubx64.efi", &large),
        ("::EFI/debian/grub.cfg", b"set timeout=5\n"),
        ("::vmlinuz", &large[..1024]),
        ("::many/f99.bin", b"many/f99.bin"),
    ] {
        let (found, bytes) = run("mcopy", &["-i", image, name, "-"]);
        assert!(found && bytes == content, "{name}");
    }
    let (_, listing) = run("mdir", &["-i", image, "-/", "-b", "::"]);
    let listing = String::from_utf8(listing).unwrap();
    assert!(listing.contains("::/EFI/debian/grub.cfg"), "{listing}");
    let again = tempfile::tempdir().unwrap();
    let second = std::fs::read(written(&fat, again.path())).unwrap();
    assert!(std::fs::read(image).unwrap() == second, "the same bytes");
}

#[test]
fn names_that_fat_would_change_are_refused() {
    let mut fat = Fat32::default();
    for bad in [
        "",
        "Mixed",
        "toolongname",
        "a.html",
        "a b",
        ".x",
        "a/",
        "a.b.c",
        "Ä",
    ] {
        assert!(
            matches!(fat.file(bad, b""), Err(FatError::Name(_))),
            "{bad}"
        );
    }
    fat.file("a/b", b"").unwrap();
    for twice in ["a", "a/b", "a/b/c"] {
        assert!(
            matches!(fat.file(twice, b""), Err(FatError::Twice(_))),
            "{twice}"
        );
    }
}

#[test]
fn what_is_too_large_is_said_before_anything_is_written() {
    let content = vec![1; 67 << 20];
    let mut fat = Fat32::default();
    fat.file("large", &content).unwrap();
    let mut out = io::Cursor::new(Vec::new());
    let error = fat
        .write(&mut out, 67 << 20, 0, 1, *b"X          ")
        .unwrap_err();
    assert!(matches!(error, FatError::Full { .. }));
    assert!(out.get_ref().is_empty());
    let small = fat.write(&mut out, 10 << 20, 0, 1, *b"X          ");
    assert!(matches!(small, Err(FatError::Size(_))));
}

/// A build with a root folder of three names and more than one cluster in each file.
fn build(version: u8) -> Vec<(String, Vec<u8>)> {
    let content = |length: usize| vec![version; length];
    let mut files = vec![
        ("EFI/BOOT/BOOTX64.EFI".to_owned(), content(9000)),
        ("vmlinuz".to_owned(), content(300_000)),
        ("crew.img".to_owned(), content(70_001)),
    ];
    // Folders that shrink and grow: stale records would show.
    for number in 0..if version.is_multiple_of(2) { 70 } else { 3 } {
        files.push((format!("EFI/debian/f{number}.cfg"), content(600)));
    }
    files
}

fn fat_of(files: &[(String, Vec<u8>)]) -> Fat32<'_> {
    let mut fat = Fat32::default();
    for (path, content) in files {
        fat.file(path, content).unwrap();
    }
    fat
}

/// Which build mtools read from an image, every file of it.
fn read_by_mtools(image: &std::path::Path) -> u8 {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().to_str().unwrap();
    let (good, said) = run("mcopy", &["-s", "-i", image.to_str().unwrap(), "::", to]);
    assert!(good, "{}", String::from_utf8_lossy(&said));
    let version = std::fs::read(folder.path().join("vmlinuz")).unwrap()[0];
    let files = build(version);
    for (path, content) in &files {
        let found = std::fs::read(folder.path().join(path)).unwrap();
        assert!(found == *content, "{path}");
    }
    let names = std::fs::read_dir(folder.path().join("EFI/debian")).unwrap();
    assert_eq!(names.count(), files.len() - 3, "nothing of an older build");
    version
}

const BYTES: u64 = 96 << 20;

fn apply(image: &mut [u8], pieces: &[Piece]) {
    for piece in pieces {
        let at = piece.at as usize;
        image[at..at + piece.bytes.len()].copy_from_slice(&piece.bytes);
    }
}

#[test]
fn builds_take_turns_in_the_halves_and_every_one_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(&fat_of(&build(1)), dir.path());
    let mut image = std::fs::read(&path).unwrap();
    for version in 2..=4 {
        let root = swap::root_at(BYTES).unwrap() as usize;
        let files = build(version);
        let swap = fat_of(&files)
            .swap(BYTES, &image[root..root + 512], *b"GROUNDCREW ")
            .unwrap();
        apply(&mut image, &swap.before);
        std::fs::write(&path, &image).unwrap();
        assert_eq!(read_by_mtools(&path), version - 1, "before the switch");
        assert_eq!(
            (swap.switch.at as usize, swap.switch.bytes.len()),
            (root, 512),
            "one sector"
        );
        apply(&mut image, &[swap.switch]);
        std::fs::write(&path, &image).unwrap();
        assert_eq!(read_by_mtools(&path), version, "behind it");
        apply(&mut image, &swap.after);
        std::fs::write(&path, &image).unwrap();
        assert_eq!(read_by_mtools(&path), version);
        let (sound, said) = run("fsck.vfat", &["-n", path.to_str().unwrap()]);
        assert!(sound, "{}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn nothing_of_the_old_build_is_touched_before_the_switch() {
    let dir = tempfile::tempdir().unwrap();
    let image = std::fs::read(written(&fat_of(&build(1)), dir.path())).unwrap();
    let root = swap::root_at(BYTES).unwrap() as usize;
    let files = build(2);
    let swap = fat_of(&files)
        .swap(BYTES, &image[root..root + 512], *b"GROUNDCREW ")
        .unwrap();
    for piece in &swap.before {
        let range = piece.at as usize..piece.at as usize + piece.bytes.len();
        assert!(image[range.clone()].iter().all(|b| *b == 0), "{range:?}");
        assert!(range.start.is_multiple_of(512) && range.end.is_multiple_of(512));
    }
}

#[test]
fn a_root_folder_of_another_program_is_left_alone() {
    let fat = Fat32::default();
    let (empty, noise) = ([0; 512], [0x41; 512]);
    for root in [&empty, &noise] {
        let swap = fat.swap(BYTES, root, *b"GROUNDCREW ");
        assert!(matches!(swap, Err(FatError::Foreign)), "{swap:?}");
    }
    let mut many = Fat32::default();
    let names: Vec<String> = (0..16).map(|n| format!("f{n}")).collect();
    for name in &names {
        many.file(name, b"x").unwrap();
    }
    let mut out = io::Cursor::new(Vec::new());
    let error = many.write(&mut out, BYTES, 0, 1, *b"X          ");
    assert!(matches!(error, Err(FatError::Root)), "{error:?}");
}
