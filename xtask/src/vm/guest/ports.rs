//! The machine's virtio-serial ports, by name.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The host announces its ports one by one after the driver has loaded.
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
    // Until the driver has heard that the host is there, a read would mean the end of the stream.
    while hung_up(&port) {
        if Instant::now() > deadline {
            bail!("nobody is at the other end of the port {name}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(port)
}

fn hung_up(port: &File) -> bool {
    let mut poll = libc::pollfd {
        fd: port.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 && poll.revents & libc::POLLHUP != 0 }
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
