//! A writer of initial RAM disks: cpio archives in the `newc` format.

use std::io::Write;

/// An archive under construction. A directory must be added before its files.
#[derive(Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

impl Cpio {
    pub fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY, &[]);
    }

    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, PROGRAM, content);
    }

    /// The archive's bytes. An initial RAM disk can consist of several archives, one after another.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // inode, mode, uid, gid, links, mtime, size, device, rdevice, name's size, checksum
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            write!(self.bytes, "{field:08x}").expect("writing to memory does not fail");
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        let aligned = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(aligned, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut cpio = Cpio::default();
        cpio.directory("bin");
        cpio.file("bin/x", b"hello");
        cpio.finish()
    }

    #[test]
    fn entries_are_aligned_and_sized() {
        let bytes = sample();
        assert_eq!(bytes.len() % 4, 0);
        // A header is 110 bytes; "bin\0" fills the first entry up to 114, padded to 116.
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000041ed");
        assert_eq!(&bytes[110..116], b"bin\0\0\0");
        let second = &bytes[116..];
        assert_eq!(&second[..6], b"070701");
        assert_eq!(&second[54..62], b"00000005");
        assert_eq!(&second[110..116], b"bin/x\0");
        assert_eq!(&second[116..121], b"hello");
        assert_eq!(&second[124..130], b"070701");
    }

    #[test]
    fn another_implementation_reads_it() {
        let Some(cpio) = crate::host::command::find("cpio") else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("x.cpio");
        std::fs::write(&archive, sample()).unwrap();
        let listed = std::process::Command::new(cpio)
            .arg("-t")
            .stdin(std::fs::File::open(&archive).unwrap())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&listed.stdout), "bin\nbin/x\n");
    }
}
