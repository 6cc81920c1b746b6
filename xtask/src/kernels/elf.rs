//! What the lab reads of 64-bit little-endian ELF files.

use object::LittleEndian;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, NoteIterator, SectionHeader};

type Header = FileHeader64<LittleEndian>;

const MAGIC: &[u8] = b"\x7fELF\x02\x01";
/// The type of Xen's note that names the 32-bit entry point. QEMU starts a bare vmlinux there.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

pub fn is_elf(image: &[u8]) -> bool {
    image.starts_with(MAGIC)
}

/// The bytes of the section called `name`.
pub fn section<'a>(image: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let header = Header::parse(image).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, image).ok()?;
    let (_, section) = sections.section_by_name(endian, name.as_bytes())?;
    section.data(endian, image).ok()
}

/// Whether QEMU can start this vmlinux without a boot loader.
pub fn has_pvh_entry(image: &[u8]) -> bool {
    let search = || -> object::Result<bool> {
        let header = Header::parse(image)?;
        let endian = header.endian()?;
        for section in header.sections(endian, image)?.iter() {
            if section.notes(endian, image)?.is_some_and(holds_pvh_note) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    search().unwrap_or(false)
}

fn holds_pvh_note(notes: NoteIterator<'_, Header>) -> bool {
    notes
        .filter_map(Result::ok)
        .any(|note| note.name() == b"Xen" && note.n_type(LittleEndian) == XEN_ELFNOTE_PHYS32_ENTRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_of_this_very_program_are_found() {
        let image = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(is_elf(&image));
        assert!(!section(&image, ".text").unwrap().is_empty());
        assert!(section(&image, ".no-such-section").is_none());
        assert!(!has_pvh_entry(&image));
    }

    #[test]
    fn cut_or_foreign_files_are_refused_quietly() {
        let image = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(section(&image[..4096], ".text").is_none());
        assert!(section(b"MZ", ".text").is_none());
    }

    #[test]
    fn the_pvh_note_is_recognised_among_others() {
        let mut notes = Vec::new();
        for kind in [6_u32, XEN_ELFNOTE_PHYS32_ENTRY] {
            for word in [4_u32, 5, kind] {
                notes.extend_from_slice(&word.to_le_bytes());
            }
            notes.extend_from_slice(b"Xen\0");
            notes.extend_from_slice(&[0; 8]);
        }
        let held = |notes| holds_pvh_note(NoteIterator::new(LittleEndian, 4, notes).unwrap());
        assert!(held(&notes));
        assert!(!held(&notes[..24]));
        assert!(!held(b"short"));
    }
}
