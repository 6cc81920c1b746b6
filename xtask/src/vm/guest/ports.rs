//! The machine's virtio-serial ports, by name.

use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};

/// The host announces its ports one by one after the driver is loaded.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn open(name: &str) -> Result<File> {
    let deadline = Instant::now() + PATIENCE;
    let device = loop {
        if let Some(device) = find(name) {
            break device;
        }
        if Instant::now() > deadline {
            bail!("the port {name} does not appear");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&device)
        .with_context(|| format!("cannot open {}, the port {name}", device.display()))?;
    // Before the driver learns that the host has opened the port, a read returns the end of the stream.
    while poll(&port, PollFlags::empty(), Duration::ZERO).contains(PollFlags::HUP) {
        if Instant::now() > deadline {
            bail!("the host has not opened the port {name}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(port)
}

/// The events of `file`: those of `wanted`, hang-up and error. Empty if none comes before the timeout.
pub fn poll(file: &File, wanted: PollFlags, timeout: Duration) -> PollFlags {
    let mut polled = [PollFd::new(file, wanted)];
    let timeout = Timespec::try_from(timeout).expect("a timeout in range");
    match rustix::event::poll(&mut polled, Some(&timeout)) {
        Ok(_) => polled[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

fn find(name: &str) -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports")
        .ok()?
        .filter_map(Result::ok)
        .find(|entry| {
            fs::read_to_string(entry.path().join("name")).is_ok_and(|text| text.trim() == name)
        })
        .map(|entry| PathBuf::from("/dev").join(entry.file_name()))
        .filter(|device| device.exists())
}
