//! The command that the host asks the program in the guest to run.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The place of the request in the guest. The guest's `init.sh` writes it there.
pub const GUEST_PATH: &str = "/run/zc-lab/request.json";
/// The directory of the lab's own programs in the guest, last on the PATH.
pub const GUEST_PROGRAMS: &str = "/run/zc-lab/bin";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub command: Vec<String>,
    pub directory: String,
    pub environment: Vec<(String, String)>,
    /// Rows and columns of the command's pseudo-terminal. Without them, the command gets pipes.
    pub terminal: Option<(u16, u16)>,
    /// Whether systemd is the machine's first process.
    pub systemd: bool,
}

impl Request {
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a request is valid JSON")
    }

    pub fn parse(text: &str) -> Result<Self> {
        let request: Self = serde_json::from_str(text).context("the request is not valid JSON")?;
        if request.command.is_empty() {
            bail!("the request holds no command");
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_journey() {
        let request = Request {
            command: vec!["sh".into(), "-c".into(), "echo \"$0\" 'x y' \n é".into()],
            directory: "/a dir".into(),
            environment: vec![("PATH".into(), "/bin".into()), ("E".into(), String::new())],
            terminal: Some((24, 80)),
            systemd: true,
        };
        assert_eq!(Request::parse(&request.to_json()).unwrap(), request);
        let request = Request {
            terminal: None,
            ..request
        };
        assert_eq!(Request::parse(&request.to_json()).unwrap(), request);
    }

    #[test]
    fn an_empty_command_is_refused() {
        let json =
            r#"{"command":[],"directory":"/","environment":[],"terminal":null,"systemd":false}"#;
        assert!(Request::parse(json).is_err());
    }
}
