//! The destination of a lab machine's output. If several machines run at the same time, a name stands before each
//! line.

use std::io::{self, Write};

pub struct Output {
    pub stdout: Box<dyn Write + Send>,
    pub stderr: Box<dyn Write + Send>,
}

impl Output {
    /// This process's own streams.
    pub fn ours() -> Self {
        Self {
            stdout: Box::new(io::stdout()),
            stderr: Box::new(io::stderr()),
        }
    }

    /// This process's own streams, with `name` before each line. Only whole lines are written.
    pub fn named(name: &str) -> Self {
        Self {
            stdout: Box::new(Named::new(name, io::stdout())),
            stderr: Box::new(Named::new(name, io::stderr())),
        }
    }
}

/// Writes whole lines to `to`, each after the name.
struct Named<W: Write> {
    name: String,
    line: Vec<u8>,
    to: W,
}

impl<W: Write> Named<W> {
    fn new(name: &str, to: W) -> Self {
        Self {
            name: format!("{name:>4} | "),
            line: Vec::new(),
            to,
        }
    }

    fn end_line(&mut self) -> io::Result<()> {
        let mut whole = self.name.clone().into_bytes();
        whole.append(&mut self.line);
        whole.push(b'\n');
        // In one call, so that lines of several machines do not mix.
        self.to.write_all(&whole)
    }
}

impl<W: Write> Write for Named<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            self.line.extend_from_slice(text);
            if ended {
                self.end_line()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<W: Write> Drop for Named<W> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            let _ = self.end_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_machine_s_name() {
        let mut written = Vec::new();
        let mut named = Named::new("6.1", &mut written);
        for piece in ["test a ... ", "ok\n\nte", "st b"] {
            named.write_all(piece.as_bytes()).unwrap();
        }
        drop(named);
        assert_eq!(
            String::from_utf8(written).unwrap(),
            " 6.1 | test a ... ok\n 6.1 | \n 6.1 | test b\n"
        );
    }
}
