//! `zc-profiler serve`, whose own cost is measured.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStderr, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::variants::cpu_time;

/// One that serves.
pub struct Agent {
    child: Child,
    address: String,
    /// Its last words must find a reader.
    said: BufReader<ChildStderr>,
}

impl Agent {
    /// Started with options before and after the word `serve`. The profiler must be on the PATH.
    pub fn start(before: &[&str], after: &[&str]) -> Result<Self> {
        let mut child = Command::new("zc-profiler")
            .args(before)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(after)
            .stderr(Stdio::piped())
            .spawn()
            .context("zc-profiler")?;
        let mut said = BufReader::new(child.stderr.take().context("no standard error")?);
        let address = address(&mut said)?;
        Ok(Self {
            child,
            address,
            said,
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its CPU time meanwhile, in milliseconds.
    pub fn cost(&self, action: impl FnOnce() -> Result<()>) -> Result<f64> {
        let before = cpu_time(self.id())?;
        action()?;
        let spent = Duration::from_nanos(cpu_time(self.id())? - before);
        Ok(spent.as_secs_f64() * 1e3)
    }

    pub fn scrape(&self) -> Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    pub fn stop(mut self) -> Result<()> {
        // SAFETY: our own child, not waited for yet.
        unsafe { libc::kill(self.id().cast_signed(), libc::SIGTERM) };
        std::io::copy(&mut self.said, &mut std::io::sink())?;
        let status = self.child.wait()?;
        ensure!(status.success(), "zc-profiler ended with {status}");
        Ok(())
    }
}

fn address(said: &mut impl BufRead) -> Result<String> {
    loop {
        let mut line = String::new();
        ensure!(said.read_line(&mut line)? > 0, "zc-profiler has ended");
        if let Some((address, _)) = line
            .split_once("http://")
            .and_then(|(_, url)| url.split_once('/'))
        {
            return Ok(address.to_owned());
        }
    }
}
