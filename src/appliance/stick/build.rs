//! Writing a stick: the image beside its place, everything in it read back,
//! and then in one rename to where it belongs, or onto the medium.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::device::{self, Medium};
use super::ext4::Ext4;
use super::fat32::{self, Fat32, Swap};
use super::fill::Filling;
use super::gpt::{HEAD_SECTORS, Partition, SECTOR, TAIL_SECTORS, Table};
use super::grub::BiosGrub;
use super::marks::Marks;
use super::meanwhile::{Meanwhile, joined};
use super::plan::{Data, Frame, Plan};
use super::start::StartParts;
use super::steps::Steps;
use super::{grub, kernel};

/// Where FAT32 keeps a file system's serial number.
const VOLUME_ID: u64 = 67;
const PIECE: usize = 4 << 20;

/// What a build is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// The next part, in words.
    Part(&'a str),
    /// So many bytes of so many of a part are done.
    Bytes {
        /// Done.
        done: u64,
        /// Of so many.
        of: u64,
    },
}

/// Hears how a build goes on.
pub type Tell<'a> = dyn FnMut(Progress<'_>) + 'a;

/// What was built.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The image or the medium.
    pub out: PathBuf,
    /// Bytes of the image.
    pub bytes: u64,
    /// The data partition's GUID, which the kernel is told.
    pub data: String,
    /// What `e2fsck` says of the data partition.
    pub checked: String,
    /// What the site may do.
    pub terms: String,
}

/// Refuses to put an image in the place of what is no file: of a device's node,
/// say, which a rename would replace.
pub fn check_out(out: &Path) -> anyhow::Result<()> {
    let Ok(metadata) = fs::metadata(out) else {
        return Ok(());
    };
    ensure!(
        !metadata.is_dir(),
        "{} is a folder; name a file in it",
        out.display()
    );
    ensure!(
        metadata.is_file(),
        "{} is no file; --out writes an image file, and --device {0} writes a medium",
        out.display()
    );
    Ok(())
}

/// Writes the image to a file, which is replaced.
pub fn to_file(plan: &mut Plan, out: &Path, tell: &mut Tell<'_>) -> anyhow::Result<Report> {
    check_out(out)?;
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let (image, report) = image(plan, folder.unwrap_or(Path::new(".")), out, tell)?;
    image
        .persist(out)
        .with_context(|| format!("writing {}", out.display()))?;
    crate::durable::sync_folder_of(out)?;
    Ok(report)
}

/// Writes the image onto a medium, and reads the medium back.
pub fn to_medium(plan: &mut Plan, medium: &Medium, tell: &mut Tell<'_>) -> anyhow::Result<Report> {
    medium.holds(plan.frame.bytes())?;
    let folder = std::env::temp_dir();
    room_for_image(plan, &folder)?;
    let failing = |error| device::failing(error, &medium.path);
    tell(Progress::Part(
        "looking whether the medium holds what it says",
    ));
    mark(medium, 0).and_then(Marks::check).map_err(failing)?;
    let (image, report) = image(plan, &folder, &medium.path, tell)?;
    onto(plan, image.as_file(), &report, medium, tell).map_err(failing)?;
    Ok(report)
}

fn mark(medium: &Medium, from: u64) -> anyhow::Result<Marks<'_, File>> {
    Marks::set(medium.file(), &medium.path, from, medium.bytes)
}

fn onto(
    plan: &Plan,
    image: &File,
    report: &Report,
    medium: &Medium,
    tell: &mut Tell<'_>,
) -> anyhow::Result<()> {
    let target = medium.file();
    // Once more behind the image, which must not lie over them.
    let marks = mark(medium, report.bytes)?;
    tell(Progress::Part("writing the medium"));
    copy(image, target, report.bytes, tell)?;
    target
        .sync_all()
        .context("the medium refuses to be written: is it worn out?")?;
    kernel::forget_cache(target)?;
    tell(Progress::Part("reading the medium back"));
    ensure!(
        holds(target, image, report.bytes, tell)?,
        "{} does not hold what was written to it: it is worn out or not what it says it is",
        medium.path.display()
    );
    marks.check()?;
    span(&plan.frame.table, medium.bytes / SECTOR, target)
}

/// The image is made in a file before the medium is touched.
fn room_for_image(plan: &Plan, folder: &Path) -> anyhow::Result<()> {
    let content: u64 = plan.data.files.iter().map(|one| one.bytes).sum();
    let needed = content + plan.frame.partition(4)?.offset();
    let stat = rustix::fs::statvfs(folder)?;
    let free = stat.f_bavail * stat.f_frsize;
    ensure!(
        free >= needed,
        "the image is made in {} first, where {} MiB are free and {} MiB are needed: name a folder \
         with room, TMPDIR=DIR groundcrew stick build ...",
        folder.display(),
        free >> 20,
        needed.div_ceil(1 << 20)
    );
    Ok(())
}

/// Writes the table once more for the medium's real size: its copy belongs to
/// the medium's end, where partitioning programs look for it. The data partition
/// grows when the stick is first started.
fn span(table: &Table, sectors: u64, medium: &File) -> anyhow::Result<()> {
    if sectors <= table.sectors {
        return Ok(());
    }
    let spanning = Table {
        sectors,
        ..table.clone()
    };
    let (head, tail) = spanning.encode()?;
    // The first sector has the boot code, and says the same of any size that counts.
    let own = head.get(SECTOR as usize..).unwrap_or_default();
    let mut steps = Steps::default();
    // The old copy first: on a medium that is hardly larger the two overlap.
    let none = vec![0; (TAIL_SECTORS * SECTOR) as usize];
    steps.write((table.sectors - TAIL_SECTORS) * SECTOR, none);
    steps.write((sectors - TAIL_SECTORS) * SECTOR, tail);
    steps.sync();
    steps.write(SECTOR, own.to_vec());
    steps.carry_out(medium, &mut |_| {})?;
    forget(medium)?;
    steps.verify(medium)
}

/// Makes the image in a file without a name's right to stay, and checks it.
fn image(
    plan: &mut Plan,
    folder: &Path,
    out: &Path,
    tell: &mut Tell<'_>,
) -> anyhow::Result<(tempfile::NamedTempFile, Report)> {
    let writing = || format!("writing in {}", folder.display());
    let mut builder = tempfile::Builder::new();
    let image = builder
        .prefix(".groundcrew-stick-")
        .tempfile_in(folder)
        .with_context(writing)?;
    image
        .as_file()
        .set_len(plan.frame.bytes())
        .with_context(writing)?;
    fs::set_permissions(
        image.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )?;
    let Plan {
        grub,
        frame,
        data,
        terms,
    } = plan;
    let place = frame.partition(4)?.clone();
    let ext4 = Ext4::at(image.path(), place.offset());
    let checked = fill_in(grub, frame, data, image.as_file(), &ext4, tell)?;
    let report = Report {
        out: out.to_owned(),
        bytes: frame.bytes(),
        data: place.guid.to_string(),
        checked,
        terms: terms.clone(),
    };
    Ok((image, report))
}

/// Writes everything into an empty image and reads it back; what `e2fsck` says of
/// it. What takes time goes on side by side: the frame, the structure of the data
/// partition and behind that its content, the key of the vault.
fn fill_in(
    grub: &mut Meanwhile<BiosGrub>,
    frame: &Frame,
    data: &mut Data,
    image: &File,
    ext4: &Ext4,
    tell: &mut Tell<'_>,
) -> anyhow::Result<String> {
    thread::scope(|scope| {
        let framed = scope.spawn(|| write_frame(grub, frame, image));
        tell(Progress::Part("laying out the data partition"));
        ext4.make(frame.partition(4)?.bytes(), data.uuid, data.hash_seed)?;
        let vault = Data::vault();
        let files = ext4.lay(data.script()?)?.into_iter();
        let (vault, files): (Vec<_>, Vec<_>) = files.partition(|one| one.path == vault);
        tell(Progress::Part("writing, and reading back"));
        let of = files.iter().map(|one| one.bytes).sum();
        let content = Filling {
            image,
            data: ext4.offset(),
            files: &files,
            sums: data.sums(),
        };
        content.run(&mut |done| tell(Progress::Bytes { done, of }))?;
        joined(framed)?;
        // All but the vault is on the disk, and read from there.
        forget(image)?;
        let checked = scope.spawn(|| ext4.check());
        // Last, for its key takes as long as a small stick.
        data.seal()?;
        let vault = Filling {
            image,
            data: ext4.offset(),
            files: &vault,
            sums: data.sums(),
        };
        vault.run(&mut |_| {})?;
        joined(checked).context("the data partition did not come out whole")
    })
}

/// Writes and reads back all but the data partition.
fn write_frame(
    grub: &mut Meanwhile<BiosGrub>,
    frame: &Frame,
    mut image: &File,
) -> anyhow::Result<()> {
    let grub = grub.get()?;
    parts(grub, frame, &mut image)?;
    image.sync_data().context("writing the image")?;
    forget(image)?;
    read_back(grub, frame, image)
}

/// Everything but the data partition. Written to an image, and compared with
/// one by [`Compare`]: the same steps, so nothing is left out of the check.
fn parts(grub: &BiosGrub, frame: &Frame, out: &mut (impl Write + Seek)) -> anyhow::Result<()> {
    let (head, tail) = frame.table.encode()?;
    let mut at = |place: u64, bytes: &[u8]| -> io::Result<()> {
        out.seek(SeekFrom::Start(place))?;
        out.write_all(bytes)
    };
    at(0, &grub.boot)?;
    let from = grub.boot.len();
    at(from as u64, head.get(from..).unwrap_or_default())?;
    at((frame.table.sectors - TAIL_SECTORS) * SECTOR, &tail)?;
    at(frame.partition(1)?.offset(), &grub.core)?;
    at(frame.partition(3)?.offset(), &frame.anchor)?;
    start_partition(&frame.start, frame.partition(2)?, frame.volume, out)
}

fn fat_of(files: &[(String, Vec<u8>)]) -> anyhow::Result<Fat32<'_>> {
    let mut fat = Fat32::default();
    for (path, content) in files {
        fat.file(path, content)?;
    }
    Ok(fat)
}

fn start_partition(
    files: &[(String, Vec<u8>)],
    place: &Partition,
    volume: u32,
    out: &mut (impl Write + Seek),
) -> anyhow::Result<()> {
    let fat = fat_of(files)?;
    out.seek(SeekFrom::Start(place.offset()))?;
    let hidden = u32::try_from(place.first)?;
    fat.write(out, place.bytes(), hidden, volume, grub::VOLUME_LABEL)?;
    Ok(())
}

/// The steps that replace what starts a stick: at every moment it starts the old
/// build or the new one.
pub fn update(parts: &mut StartParts, table: &Table, medium: &File) -> anyhow::Result<Steps> {
    let [_, start, _, data] = table.partitions.as_slice() else {
        anyhow::bail!("a stick has four partitions");
    };
    let mut steps = Steps::default();
    // GRUB for a BIOS: where no core.img lies, and then the one sector that names it.
    // The older menu asks nothing of it that the newer one does not know.
    let grub = parts.grub.get()?;
    steps.write(grub.first * SECTOR, grub.core.clone());
    steps.sync();
    let mut mbr = vec![0; SECTOR as usize];
    medium.read_exact_at(&mut mbr, 0)?;
    for (place, byte) in mbr.iter_mut().zip(&grub.boot) {
        *place = *byte;
    }
    steps.write(0, mbr);
    steps.sync();
    let mut id = [0; 4];
    medium.read_exact_at(&mut id, start.offset() + VOLUME_ID)?;
    let mut files = parts.start.clone();
    files.push(parts.menu(data.guid, u32::from_le_bytes(id)));
    let mut root = vec![0; SECTOR as usize];
    let root_at = start.offset() + fat32::root_at(start.bytes())?;
    medium.read_exact_at(&mut root, root_at)?;
    let fat = fat_of(&files)?;
    let Swap {
        before,
        switch,
        after,
    } = fat.swap(start.bytes(), &root, grub::VOLUME_LABEL)?;
    for pieces in [before, vec![switch], after] {
        for piece in pieces {
            steps.write(start.offset() + piece.at, piece.bytes);
        }
        steps.sync();
    }
    Ok(steps)
}

/// Makes what is read next come from the medium and not from memory.
pub fn forget(medium: &File) -> anyhow::Result<()> {
    if medium.metadata()?.file_type().is_block_device() {
        kernel::forget_cache(medium)?;
    } else {
        rustix::fs::fadvise(medium, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

fn read_back(grub: &BiosGrub, frame: &Frame, image: &File) -> anyhow::Result<()> {
    let mut compare = Compare {
        image,
        at: 0,
        found: Vec::new(),
    };
    parts(grub, frame, &mut compare).context("what was written is not what is read")?;
    let mut head = vec![0; (HEAD_SECTORS * SECTOR) as usize];
    image.read_exact_at(&mut head, 0)?;
    ensure!(
        Table::parse(&head)? == frame.table,
        "the partition table did not come out as it was planned"
    );
    Ok(())
}

/// Takes what would be written, and fails where the image has something else.
struct Compare<'a> {
    image: &'a File,
    at: u64,
    found: Vec<u8>,
}

impl Write for Compare<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = bytes.get(..bytes.len().min(PIECE)).unwrap_or_default();
        self.found.resize(bytes.len(), 0);
        self.image.read_exact_at(&mut self.found, self.at)?;
        if self.found != bytes {
            let text = format!("the {} bytes at {} differ", bytes.len(), self.at);
            return Err(io::Error::other(text));
        }
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Compare<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Start(at) => self.at = at,
            SeekFrom::Current(0) => {}
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(self.at)
    }
}

/// Copies in large pieces; the medium is kept busy and a pulled one is seen soon.
fn copy(from: &File, to: &File, bytes: u64, tell: &mut Tell<'_>) -> anyhow::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut done = 0;
    while done < bytes {
        let length = usize::try_from(bytes - done)?.min(PIECE);
        let piece = buffer.get_mut(..length).unwrap_or_default();
        from.read_exact_at(piece, done)?;
        to.write_all_at(piece, done)
            .with_context(|| format!("writing the medium at {} MiB", done >> 20))?;
        done += length as u64;
        if done.is_multiple_of(16 * PIECE as u64) {
            to.sync_data().context("writing the medium")?;
        }
        tell(Progress::Bytes { done, of: bytes });
    }
    Ok(())
}

/// Whether a medium holds an image, byte for byte. The image was compared with the
/// files' digests when it was made.
fn holds(medium: &File, image: &File, bytes: u64, tell: &mut Tell<'_>) -> anyhow::Result<bool> {
    let (mut wanted, mut found) = (vec![0; PIECE], vec![0; PIECE]);
    let mut done = 0;
    while done < bytes {
        let length = usize::try_from(bytes - done)?.min(PIECE);
        let wanted = wanted.get_mut(..length).unwrap_or_default();
        let found = found.get_mut(..length).unwrap_or_default();
        image.read_exact_at(wanted, done)?;
        let reading = || format!("reading the medium back at {} MiB", done >> 20);
        medium.read_exact_at(found, done).with_context(reading)?;
        if wanted != found {
            return Ok(false);
        }
        done += length as u64;
        tell(Progress::Bytes { done, of: bytes });
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found_by_comparing() {
        let mut image = tempfile::tempfile().unwrap();
        image.write_all(b"0123456789").unwrap();
        let mut compare = Compare {
            image: &image,
            at: 0,
            found: Vec::new(),
        };
        compare.seek(SeekFrom::Start(3)).unwrap();
        compare.write_all(b"345").unwrap();
        compare.write_all(b"67").unwrap();
        let error = compare.write_all(b"X").unwrap_err();
        assert!(
            error.to_string().contains("the 1 bytes at 8 differ"),
            "{error}"
        );
    }
}
