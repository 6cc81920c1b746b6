//! The devices that a user says there are, and the scenarios that do without.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::lab::{Hardware, Nic, Scenario, Wire};

/// Arguments that name devices.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Hardware (rows that need what is not named are left out)")]
pub struct Args {
    /// A disk driven by PIO, which begins with the lab's pattern
    #[arg(long, value_name = "DEVICE")]
    pio_disk: Option<PathBuf>,
    /// A disk driven by DMA, which begins with the lab's pattern
    #[arg(long, value_name = "DEVICE")]
    dma_disk: Option<PathBuf>,
    /// A directory on xfs [default: that of --dir, if it is one]
    #[arg(long, value_name = "DIR")]
    xfs_dir: Option<PathBuf>,
    /// A NIC to send by, with and without scatter-gather, which the lab switches
    #[arg(long, value_name = "NAME", requires_all = ["nic_netns", "peer_netns", "peer_address"])]
    nic: Option<String>,
    /// The network namespace that the NIC is in
    #[arg(long, value_name = "FILE", requires = "nic")]
    nic_netns: Option<PathBuf>,
    /// The network namespace at the other end of its wire
    #[arg(long, value_name = "FILE", requires = "nic")]
    peer_netns: Option<PathBuf>,
    /// The address to send to there
    #[arg(long, value_name = "IP", requires = "nic")]
    peer_address: Option<IpAddr>,
}

impl Args {
    /// With the lab's files in `dir`.
    pub fn found(&self, dir: &Path) -> Hardware {
        let wire = || {
            Some(Wire {
                nic: Nic {
                    name: self.nic.clone()?,
                    netns: self.nic_netns.clone()?,
                },
                peer_netns: self.peer_netns.clone()?,
                peer_address: self.peer_address?,
            })
        };
        Hardware {
            pio_disk: self.pio_disk.clone(),
            dma_disk: self.dma_disk.clone(),
            wire: wire(),
            xfs: self.xfs_dir.clone(),
            ..Hardware::default()
        }
        .with_features(dir)
    }
}

/// The scenarios that this hardware allows, and for each other one a line that says why not.
pub fn possible(
    scenarios: Vec<&'static Scenario>,
    hardware: &Hardware,
) -> (Vec<&'static Scenario>, Vec<String>) {
    let mut left_out = Vec::new();
    let mut possible = Vec::new();
    for scenario in scenarios {
        match hardware.lacks(scenario) {
            None => possible.push(scenario),
            Some(what) => left_out.push(format!(
                "{} to {}: {what}",
                scenario.method,
                scenario.target.name()
            )),
        }
    }
    (possible, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::scenarios;

    #[test]
    fn what_is_left_out_is_named() {
        let all = || scenarios().collect::<Vec<_>>();
        let (rows, left_out) = possible(all(), &Hardware::default());
        assert_eq!(rows.len() + left_out.len(), scenarios().count());
        assert_eq!(
            left_out[0],
            "pio-read to memory: no --pio-disk to read from"
        );
        let hardware = Hardware {
            pio_disk: Some("/dev/sda".into()),
            dma_disk: Some("/dev/sdb".into()),
            wire: None,
            direct_io: true,
            io_uring: true,
            send_zerocopy: true,
            namespaces: true,
            disk: true,
            tmpfs: Some("/dev/shm".into()),
            xfs: Some("/xfs".into()),
        };
        let (_, left_out) = possible(all(), &hardware);
        assert_eq!(
            left_out,
            ["-", "+"].map(|sign| format!("sendfile to nic{sign}sg: no --nic to send by"))
        );
    }
}
