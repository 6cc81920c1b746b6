//! Disks that the CPU itself moves bytes to and from.

use std::{fs, path::Path};

/// The disks behind ATA devices in a PIO mode, each as `major << 20 | minor`.
///
/// Read once: a disk that appears later, or changes its mode after errors, is taken for one with DMA.
#[must_use]
pub fn pio_disks() -> Vec<u32> {
    let slow: Vec<_> = names("/sys/class/ata_device")
        .into_iter()
        .filter(|device| text(&format!("/sys/class/ata_device/{device}/xfer_mode")).contains("PIO"))
        .filter_map(|device| port_and_number(&device))
        .collect();
    if slow.is_empty() {
        return Vec::new();
    }
    names("/sys/block")
        .into_iter()
        .filter(|disk| {
            let device = fs::canonicalize(format!("/sys/block/{disk}/device"));
            device.is_ok_and(|path| slow.iter().any(|(port, number)| is(&path, *port, *number)))
        })
        .filter_map(|disk| device_number(&text(&format!("/sys/block/{disk}/dev"))))
        .collect()
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// `dev1.0` is device 0 at port 1.
fn port_and_number(name: &str) -> Option<(u32, u32)> {
    let (port, number) = name.strip_prefix("dev")?.split_once('.')?;
    Some((port.parse().ok()?, number.parse().ok()?))
}

/// Whether `.../ata1/host0/target0:0:0/0:0:0:0` is that device: its target's number is the device's.
fn is(path: &Path, port: u32, number: u32) -> bool {
    let port = format!("ata{port}");
    path.iter().any(|part| part == port.as_str())
        && path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|address| address.split(':').nth(2))
            .and_then(|target| target.parse().ok())
            == Some(number)
}

/// `8:16` as the kernel's programs have it.
fn device_number(text: &str) -> Option<u32> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_and_disks_are_understood() {
        assert_eq!(port_and_number("dev1.0"), Some((1, 0)));
        assert_eq!(port_and_number("link1"), None);
        assert_eq!(device_number("8:16\n"), Some(8 << 20 | 16));
        assert_eq!(device_number(""), None);
        let path = Path::new("/sys/devices/pci0000:00/0000:00:01.1/ata2/host1/target1:0:1/1:0:1:0");
        assert!(is(path, 2, 1));
        assert!(!is(path, 2, 0));
        assert!(!is(path, 1, 1));
    }
}
