//! Unpacks the kernel of a bzImage. QEMU starts an unpacked kernel in half the time.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::host::command;
use crate::kernels::elf;

/// The first bytes of a compressed payload, and the command that unpacks it.
const FORMATS: [(&[u8], &[&str]); 5] = [
    (b"\xfd7zXZ", &["xz", "-dc", "--single-stream"]),
    (b"\x28\xb5\x2f\xfd", &["zstd", "-dcq"]),
    (b"\x1f\x8b", &["gzip", "-dcq"]),
    (b"\x02\x21\x4c\x18", &["lz4", "-dcq"]),
    (b"BZh", &["bzip2", "-dcq"]),
];

/// The uncompressed kernel. The error is the reason why QEMU cannot start it; then QEMU must get the image itself.
pub fn extract(image: &[u8]) -> Result<Vec<u8>> {
    let kernel = if elf::is_elf(image) {
        image.to_vec()
    } else {
        unpack(payload(image).context("not a bzImage of boot protocol 2.08 or later")?)?
    };
    if !elf::has_pvh_entry(&kernel) {
        bail!("the kernel has no PVH entry");
    }
    Ok(kernel)
}

/// Whether the image is a kernel, compressed or not.
pub fn is_kernel(image: &[u8]) -> bool {
    elf::is_elf(image) || payload(image).is_some()
}

/// The compressed kernel in a bzImage, whose format is described in the kernel's Documentation/arch/x86/boot.rst.
fn payload(image: &[u8]) -> Option<&[u8]> {
    const SECTOR: usize = 512;
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup_sectors = match image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(*sectors),
    };
    let start = (setup_sectors + 1) * SECTOR + word(0x248)?;
    image.get(start..start.checked_add(word(0x24c)?)?)
}

fn unpack(payload: &[u8]) -> Result<Vec<u8>> {
    let (_, program) = FORMATS
        .iter()
        .find(|(magic, _)| payload.starts_with(magic))
        .context("the compression of the image is unknown")?;
    // The kernel's build appends the unpacked size to the payload. Some tools fail on these bytes, but only after
    // they have written the whole kernel. So the result is checked, not the exit code.
    let mut child = Command::new(
        command::find(program[0]).with_context(|| format!("{} is not installed", program[0]))?,
    )
    .args(&program[1..])
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .stderr(Stdio::null())
    .spawn()
    .with_context(|| format!("cannot start {}", program[0]))?;
    let mut input = child.stdin.take().context("no standard input")?;
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            // A tool that needs no more input closes its standard input.
            let _ = input.write_all(payload);
        });
        child.wait_with_output()
    })
    .with_context(|| format!("cannot read from {}", program[0]))?;
    if !elf::is_elf(&output.stdout) {
        bail!("{} does not unpack the image", program[0]);
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_where_the_header_says() {
        let mut image = vec![0; 4096];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&4_u32.to_le_bytes());
        image[1040..1044].copy_from_slice(b"data");
        assert_eq!(payload(&image), Some(b"data".as_slice()));
        image[0x24c..0x250].copy_from_slice(&9999_u32.to_le_bytes());
        assert_eq!(payload(&image), None);
    }

    #[test]
    fn anything_else_is_refused_with_a_reason() {
        assert!(extract(b"").unwrap_err().to_string().contains("bzImage"));
        assert!(
            extract(b"\x7fELF\x02\x01")
                .unwrap_err()
                .to_string()
                .contains("PVH")
        );
    }
}
