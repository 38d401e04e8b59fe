//! As much of ELF as the boot image needs: a section of a kernel module by
//! name, and whether the agent can run as `/init` where no library is.
//!
//! Source: System V ABI, "Object Files"; 64-bit little-endian only.
//! Every offset comes from the file and is checked before it is used.

use super::Arch;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const SHT_NOBITS: u32 = 8;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;

/// What is wrong with a file that should be ELF.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ElfError {
    /// No ELF magic.
    #[error("is not an ELF file")]
    NotElf,
    /// ELF, but of another word length or byte order.
    #[error("is not for a 64-bit, little-endian processor")]
    OtherMachine,
    /// For another processor than the image.
    #[error("is not for {0}; build it for that with `scripts/build-agent --arch {0}`")]
    Processor(Arch),
    /// An offset or a count points outside of the file.
    #[error("is cut off or damaged: its headers point outside of the file")]
    Damaged,
    /// An object file or a core dump.
    #[error("is not a program")]
    NotProgram,
    /// Wants a dynamic loader, which the boot image does not have.
    #[error(
        "is linked dynamically; build it static (`-C target-feature=+crt-static`, see scripts/build-agent)"
    )]
    Dynamic,
}

/// A checked view of an ELF file.
#[derive(Clone, Copy)]
pub(super) struct Elf<'a> {
    file: &'a [u8],
}

impl<'a> Elf<'a> {
    /// Checks magic, class and byte order.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, ElfError> {
        if !file.starts_with(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        let elf = Self { file };
        let class_and_order = (file.get(4), file.get(5));
        if class_and_order != (Some(&2), Some(&1)) {
            return Err(ElfError::OtherMachine);
        }
        Ok(elf)
    }

    /// The content of the first section with this name.
    pub(super) fn section(self, name: &str) -> Result<Option<&'a [u8]>, ElfError> {
        let (table, size, count) = (self.offset(40)?, self.u16(58)?, self.u16(60)?);
        if count == 0 {
            return Ok(None);
        }
        if usize::from(size) != SECTION_HEADER {
            return Err(ElfError::Damaged);
        }
        let header = |i: u16| {
            let at = usize::from(i) * SECTION_HEADER;
            table.checked_add(at).ok_or(ElfError::Damaged)
        };
        let names = self.content(header(self.u16(62)?)?)?;
        for i in 0..count {
            let at = header(i)?;
            let start = usize::try_from(self.u32(at)?).map_err(|_| ElfError::Damaged)?;
            let found = names
                .get(start..)
                .and_then(|rest| rest.split(|b| *b == 0).next());
            if found == Some(name.as_bytes()) && self.u32(field(at, 4)?)? != SHT_NOBITS {
                return self.content(at).map(Some);
            }
        }
        Ok(None)
    }

    /// That this is a program for `arch` which needs no loader and no library.
    pub(super) fn check_static(self, arch: Arch) -> Result<(), ElfError> {
        if self.u16(18)? != arch.elf() {
            return Err(ElfError::Processor(arch));
        }
        if !matches!(self.u16(16)?, ET_EXEC | ET_DYN) {
            return Err(ElfError::NotProgram);
        }
        let (table, size, count) = (self.offset(32)?, self.u16(54)?, self.u16(56)?);
        if usize::from(size) != PROGRAM_HEADER && count > 0 {
            return Err(ElfError::Damaged);
        }
        let mut loads = false;
        for i in 0..count {
            match self.u32(field(table, usize::from(i) * PROGRAM_HEADER)?)? {
                PT_INTERP => return Err(ElfError::Dynamic),
                PT_LOAD => loads = true,
                _ => {}
            }
        }
        if loads {
            Ok(())
        } else {
            Err(ElfError::NotProgram)
        }
    }

    /// What the section header at `at` points to.
    fn content(self, at: usize) -> Result<&'a [u8], ElfError> {
        let (start, size) = (self.offset(field(at, 24)?)?, self.offset(field(at, 32)?)?);
        let end = start.checked_add(size).ok_or(ElfError::Damaged)?;
        self.file.get(start..end).ok_or(ElfError::Damaged)
    }

    fn u16(self, at: usize) -> Result<u16, ElfError> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn u32(self, at: usize) -> Result<u32, ElfError> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn offset(self, at: usize) -> Result<usize, ElfError> {
        usize::try_from(u64::from_le_bytes(self.bytes(at)?)).map_err(|_| ElfError::Damaged)
    }

    fn bytes<const N: usize>(self, at: usize) -> Result<[u8; N], ElfError> {
        self.file
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .ok_or(ElfError::Damaged)
    }
}

fn field(at: usize, offset: usize) -> Result<usize, ElfError> {
    at.checked_add(offset).ok_or(ElfError::Damaged)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A relocatable file with `.modinfo` and a section name table.
    pub(in crate::image) fn module_file(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut file = header(1);
        let modinfo_at = file.len();
        file.extend_from_slice(modinfo);
        let names_at = file.len();
        file.extend_from_slice(names);
        let table = file.len();
        for (name, kind, at, size) in [
            (0, 0, 0, 0),
            (1, 1, modinfo_at, modinfo.len()),
            (10, 3, names_at, names.len()),
        ] {
            let mut section = [0; SECTION_HEADER];
            section[0..4].copy_from_slice(&u32::to_le_bytes(name));
            section[4..8].copy_from_slice(&u32::to_le_bytes(kind));
            section[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            section[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            file.extend_from_slice(&section);
        }
        file[40..48].copy_from_slice(&(table as u64).to_le_bytes());
        file[58..60].copy_from_slice(&64_u16.to_le_bytes());
        file[60..62].copy_from_slice(&3_u16.to_le_bytes());
        file[62..64].copy_from_slice(&2_u16.to_le_bytes());
        file
    }

    /// A program with these program header types.
    pub(in crate::image) fn program_file(kind: u16, segments: &[u32]) -> Vec<u8> {
        let mut file = header(kind);
        for segment in segments {
            let mut program_header = [0; PROGRAM_HEADER];
            program_header[0..4].copy_from_slice(&segment.to_le_bytes());
            file.extend_from_slice(&program_header);
        }
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        file
    }

    fn header(kind: u16) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[16..18].copy_from_slice(&kind.to_le_bytes());
        file[18..20].copy_from_slice(&Arch::Amd64.elf().to_le_bytes());
        file
    }

    fn static_check(file: &[u8]) -> Result<(), ElfError> {
        Elf::parse(file)?.check_static(Arch::Amd64)
    }

    #[test]
    fn a_section_is_found_by_name() {
        let file = module_file(b"license=GPL\0");
        let elf = Elf::parse(&file).unwrap();
        assert_eq!(elf.section(".modinfo"), Ok(Some(&b"license=GPL\0"[..])));
        assert_eq!(elf.section(".text"), Ok(None));
    }

    #[test]
    fn only_a_static_program_passes() {
        assert_eq!(static_check(&program_file(ET_EXEC, &[PT_LOAD])), Ok(()));
        assert_eq!(
            static_check(&program_file(ET_DYN, &[PT_LOAD, 2])),
            Ok(()),
            "static-pie"
        );
        assert_eq!(
            static_check(&program_file(ET_DYN, &[PT_INTERP, PT_LOAD])),
            Err(ElfError::Dynamic)
        );
        assert_eq!(
            static_check(&program_file(1, &[PT_LOAD])),
            Err(ElfError::NotProgram)
        );
        assert_eq!(
            static_check(&program_file(ET_EXEC, &[])),
            Err(ElfError::NotProgram)
        );
        assert_eq!(static_check(b"#!/bin/sh\n"), Err(ElfError::NotElf));
        let mut arm = program_file(ET_EXEC, &[PT_LOAD]);
        arm[18] = 183;
        assert_eq!(static_check(&arm), Err(ElfError::Processor(Arch::Amd64)));
        assert_eq!(Elf::parse(&arm).unwrap().check_static(Arch::Arm64), Ok(()));
        arm[4] = 1;
        assert_eq!(static_check(&arm), Err(ElfError::OtherMachine));
        let file = program_file(ET_EXEC, &[PT_LOAD]);
        assert_eq!(
            static_check(&file[..70]),
            Ok(()),
            "the type of the segment is still there"
        );
        assert_eq!(static_check(&file[..64]), Err(ElfError::Damaged));
    }

    proptest::proptest! {
        #[test]
        fn damage_never_panics(at in 0_usize..400, byte: u8, cut in 0_usize..400) {
            let mut file = module_file(b"depends=a,b\0alias=x\0");
            let len = file.len();
            file[at % len] = byte;
            file.truncate(len - cut % len);
            if let Ok(elf) = Elf::parse(&file) {
                let _ = elf.section(".modinfo");
                let _ = elf.check_static(Arch::Amd64);
            }
        }
    }
}
