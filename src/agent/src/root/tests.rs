use super::write::temporary_name;
use super::*;
use std::os::unix::fs::symlink;

#[test]
fn links_in_the_installed_system_end_at_its_own_top() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::create_dir(outside.path().join("etc")).unwrap();
    let inside = tempfile::tempdir().unwrap();
    let root = Root::open(inside.path()).unwrap();
    symlink(outside.path(), inside.path().join("absolute")).unwrap();
    symlink("../../../../../../..", inside.path().join("up")).unwrap();
    symlink("/proc/self/root", inside.path().join("magic")).unwrap();
    symlink("loop", inside.path().join("loop")).unwrap();
    assert!(root.folder("absolute/etc").unwrap().is_none());
    assert!(root.make_folder("absolute/etc", 0o755, None).is_err());
    let up = root.make_folder("up/made", 0o755, None).unwrap();
    up.write(
        "x",
        Meta {
            mode: 0o600,
            ids: Ids::own(),
        },
        b"x",
    )
    .unwrap();
    assert!(inside.path().join("made/x").exists());
    assert!(root.folder("magic/etc").unwrap().is_none());
    assert!(root.folder("loop/x").is_err());
    assert_eq!(
        std::fs::read_dir(outside.path().join("etc"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn the_last_part_is_never_followed() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "safe").unwrap();
    let inside = tempfile::tempdir().unwrap();
    symlink(&victim, inside.path().join("file")).unwrap();
    symlink(&victim, inside.path().join(temporary_name("file"))).unwrap();
    let root = Root::open(inside.path()).unwrap();
    let top = root.folder("").unwrap().unwrap();
    assert!(top.read("file", 10).is_err());
    top.write(
        "file",
        Meta {
            mode: 0o644,
            ids: Ids::own(),
        },
        b"new",
    )
    .unwrap();
    assert_eq!(std::fs::read(&victim).unwrap(), b"safe");
    assert!(
        inside
            .path()
            .join("file")
            .symlink_metadata()
            .unwrap()
            .is_file()
    );
}

#[test]
fn what_is_not_committed_leaves_nothing() {
    let inside = tempfile::tempdir().unwrap();
    let root = Root::open(inside.path()).unwrap();
    let top = root.folder("").unwrap().unwrap();
    let meta = Meta {
        mode: 0o644,
        ids: Ids::own(),
    };
    drop(top.prepare("a", meta, |_| Ok(())).unwrap());
    assert!(
        top.prepare("b", meta, |_| Err(io::Error::other("full")))
            .is_err()
    );
    assert_eq!(top.names(9).unwrap(), Vec::<String>::new());
    top.write(
        &"n".repeat(255),
        Meta {
            mode: 0o4711,
            ids: Ids::own(),
        },
        b"long",
    )
    .unwrap();
    let stat = top.look(&"n".repeat(255)).unwrap().unwrap();
    assert_eq!(super::meta(&stat).mode, 0o4711);
}

#[test]
fn a_fifo_does_not_stop_us() {
    let inside = tempfile::tempdir().unwrap();
    fs::mknodat(
        fs::CWD,
        inside.path().join("fifo"),
        FileType::Fifo,
        Mode::RUSR,
        0,
    )
    .unwrap();
    let root = Root::open(inside.path()).unwrap();
    assert!(root.read("fifo", 10).is_err());
}

#[test]
fn removing_a_tree_spares_what_links_point_to() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("keep"), "x").unwrap();
    let inside = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(inside.path().join("t/u")).unwrap();
    symlink(outside.path(), inside.path().join("t/u/link")).unwrap();
    let root = Root::open(inside.path()).unwrap();
    root.folder("").unwrap().unwrap().remove_all("t").unwrap();
    assert!(outside.path().join("keep").exists() && !inside.path().join("t").exists());
}

#[test]
fn a_file_is_read_behind_links_that_stay_inside() {
    let inside = tempfile::tempdir().unwrap();
    let path = |name: &str| inside.path().join(name);
    std::fs::create_dir_all(path("usr/lib")).unwrap();
    std::fs::create_dir(path("etc")).unwrap();
    std::fs::write(path("usr/lib/os-release"), "ID=debian").unwrap();
    symlink("/usr/lib/os-release", path("etc/os-release")).unwrap();
    symlink("/proc/self/environ", path("etc/out")).unwrap();
    let root = Root::open(inside.path()).unwrap();
    let read = |name, limit| root.read(name, limit);
    let (bytes, _) = read("etc/os-release", 9).unwrap().unwrap();
    assert_eq!(bytes, b"ID=debian");
    let long = read("etc/os-release", 8).unwrap_err();
    assert!(long.to_string().contains("larger"), "{long}");
    assert!(read("etc", 9).is_err(), "a folder");
    assert!(read("etc/out", 9999).unwrap().is_none());
}

/// A file system of 64 KiB in memory, attached nowhere: it goes with its
/// descriptor. Making one needs the right to mount.
fn tiny_disk() -> Option<OwnedFd> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let made = || {
        let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(&context, "size", "64k")?;
        rustix::mount::fsconfig_create(&context)?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        rustix::mount::fsmount(&context, flags, MountAttrFlags::empty())
    };
    match made() {
        Ok(disk) => Some(disk),
        Err(Errno::PERM | Errno::NOSYS) => {
            println!("not tested: making a small disk needs root");
            None
        }
        Err(err) => panic!("{err}"),
    }
}

#[test]
fn a_full_disk_keeps_the_old_file_and_no_half_of_the_new() {
    let Some(disk) = tiny_disk() else { return };
    let path = PathBuf::from(format!("/proc/self/fd/{}", disk.as_raw_fd()));
    let root = Root::open(&path).unwrap();
    let state = root.make_folder("var/lib", 0o700, None).unwrap();
    let (mode, ids) = (0o600, Ids::own());
    let write = |bytes: &[u8]| state.write("key", Meta { mode, ids }, bytes);
    write(b"old").unwrap();
    let full = write(&[0; 128 << 10]).unwrap_err();
    assert!(full.to_string().contains("No space left"), "{full}");
    assert_eq!(state.names(9).unwrap(), ["key"]);
    write(b"there is room again").unwrap();
    let (bytes, _) = root.read("var/lib/key", 99).unwrap().unwrap();
    assert_eq!(bytes, b"there is room again");
}

#[test]
fn what_users_planted_is_removed_however_deep_and_whatever_its_name() {
    use std::os::unix::ffi::OsStrExt as _;
    let inside = tempfile::tempdir().unwrap();
    let root = Root::open(inside.path()).unwrap();
    let top = root.folder("").unwrap().unwrap();
    // Where a new `keys` is written first.
    let mut deep = top
        .new_folder(&temporary_name("keys"), 0o700, None)
        .unwrap();
    std::fs::write(deep.proc_path().join(".1"), "in the way").unwrap();
    let name = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    std::fs::create_dir(deep.proc_path().join(name)).unwrap();
    std::fs::write(deep.proc_path().join(name).join("x"), "").unwrap();
    for _ in 0..1500 {
        deep = deep.new_folder("d", 0o700, None).unwrap();
    }
    let (mode, ids) = (0o600, Ids::own());
    top.write("keys", Meta { mode, ids }, b"k").unwrap();
    assert_eq!(top.names(9).unwrap(), ["keys"]);
}

#[test]
fn a_user_s_link_leads_to_that_user_s_folders_only() {
    use std::os::unix::fs::{chown, lchown};
    if !rustix::process::geteuid().is_root() {
        println!("not tested: giving files away needs root");
        return;
    }
    let inside = tempfile::tempdir().unwrap();
    let path = |name: &str| inside.path().join(name);
    for folder in ["etc/profile.d", "home/crew/own/sub", "usr/lib"] {
        std::fs::create_dir_all(path(folder)).unwrap();
    }
    for folder in ["home/crew", "home/crew/own", "home/crew/own/sub"] {
        chown(path(folder), Some(1000), Some(1000)).unwrap();
    }
    let link = |target: &str, name: &str| {
        symlink(target, path(name)).unwrap();
        lchown(path(name), Some(1000), Some(1000)).unwrap();
    };
    link("/etc/profile.d", "home/crew/evil");
    link("evil", "home/crew/twice");
    link("../..", "home/crew/up");
    link("own", "home/crew/good");
    link("nowhere", "home/crew/dangling");
    symlink("/home/crew/evil", path("etc/root-s")).unwrap();
    symlink("usr/lib", path("lib")).unwrap();
    let root = Root::open(inside.path()).unwrap();
    for bad in [
        "home/crew/evil",
        "home/crew/twice",
        "home/crew/up/etc",
        "etc/root-s",
    ] {
        let why = root.folder(bad).unwrap_err().to_string();
        assert!(why.contains("a user's link"), "{bad}: {why}");
        assert!(
            root.make_folder(&format!("{bad}/new"), 0o755, None)
                .is_err()
        );
    }
    for good in ["lib", "home/crew/good", "home/crew/good/sub"] {
        assert!(root.folder(good).unwrap().is_some(), "{good}");
    }
    assert!(root.folder("home/crew/dangling").unwrap().is_none());
    assert_eq!(std::fs::read_dir(path("etc/profile.d")).unwrap().count(), 0);
}
