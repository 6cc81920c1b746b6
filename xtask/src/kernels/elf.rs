//! As much of 64-bit little-endian ELF as kernels and their modules need.

const MAGIC: &[u8] = b"\x7fELF\x02\x01";
const SHT_NOTE: u32 = 7;
/// Xen's note that names the 32-bit entry point by which QEMU starts a bare vmlinux.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

pub fn is_elf(image: &[u8]) -> bool {
    image.starts_with(MAGIC)
}

struct Section<'a> {
    name: &'a [u8],
    kind: u32,
    content: &'a [u8],
}

/// The bytes of the section called `name`.
pub fn section<'a>(image: &'a [u8], name: &str) -> Option<&'a [u8]> {
    sections(image)?
        .into_iter()
        .find(|section| section.name == name.as_bytes())
        .map(|section| section.content)
}

/// Whether QEMU can start this vmlinux without a boot loader.
pub fn has_pvh_entry(image: &[u8]) -> bool {
    sections(image)
        .unwrap_or_default()
        .iter()
        .any(|section| section.kind == SHT_NOTE && holds_pvh_note(section.content))
}

fn holds_pvh_note(mut notes: &[u8]) -> bool {
    while let (Some(name_size), Some(size), Some(kind)) =
        (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8))
    {
        let name_end = 12 + name_size as usize;
        if kind == XEN_ELFNOTE_PHYS32_ENTRY && notes.get(12..name_end) == Some(b"Xen\0".as_slice())
        {
            return true;
        }
        let next = name_end.next_multiple_of(4) + (size as usize).next_multiple_of(4);
        notes = notes.get(next..).unwrap_or_default();
    }
    false
}

fn sections(image: &[u8]) -> Option<Vec<Section<'_>>> {
    if !is_elf(image) {
        return None;
    }
    let table = usize_at(image, 0x28)?;
    let entry_size = usize::from(u16_at(image, 0x3a)?);
    let count = usize::from(u16_at(image, 0x3c)?);
    let names_index = usize::from(u16_at(image, 0x3e)?);
    let header = |index: usize| image.get(table.checked_add(index * entry_size)?..);
    let content = |header: &[u8]| {
        const SHT_NOBITS: u32 = 8;
        if u32_at(header, 4)? == SHT_NOBITS {
            return Some(&image[..0]);
        }
        let start = usize_at(header, 0x18)?;
        image.get(start..start.checked_add(usize_at(header, 0x20)?)?)
    };
    let names = content(header(names_index)?)?;
    (0..count)
        .map(|index| {
            let header = header(index)?;
            let name = names.get(u32_at(header, 0)? as usize..)?;
            Some(Section {
                name: name.split(|byte| *byte == 0).next()?,
                kind: u32_at(header, 4)?,
                content: content(header)?,
            })
        })
        .collect()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn usize_at(bytes: &[u8], at: usize) -> Option<usize> {
    let value = u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?);
    usize::try_from(value).ok()
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
        assert!(holds_pvh_note(&notes));
        assert!(!holds_pvh_note(&notes[..24]));
        assert!(!holds_pvh_note(b"short"));
    }
}
