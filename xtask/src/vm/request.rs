//! What the host asks of the guest's agent.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Where the guest's init leaves it.
pub const GUEST_PATH: &str = "/run/zc-lab/request.json";
/// What the lab adds to the guest's PATH, behind all else.
pub const GUEST_PROGRAMS: &str = "/run/zc-lab/bin";

/// A command to run in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub command: Vec<String>,
    pub directory: String,
    pub environment: Vec<(String, String)>,
    /// Rows and columns of the pseudo-terminal to run it on; pipes without.
    pub terminal: Option<(u16, u16)>,
    /// Whether systemd is the machine's first process.
    pub systemd: bool,
}

impl Request {
    pub fn to_json(&self) -> String {
        json!({
            "command": self.command,
            "directory": self.directory,
            "environment": self.environment.iter().map(|(name, value)| json!([name, value])).collect::<Vec<_>>(),
            "terminal": self.terminal.map(|(rows, columns)| json!([rows, columns])),
            "systemd": self.systemd,
        })
        .to_string()
    }

    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("the request is not JSON")?;
        Self::from_value(&value).context("the request lacks a field")
    }

    fn from_value(value: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let number = |value: &Value| u16::try_from(value.as_u64()?).ok();
        let command: Vec<_> = value["command"]
            .as_array()?
            .iter()
            .map(text)
            .collect::<Option<_>>()?;
        Some(Self {
            directory: text(&value["directory"])?,
            environment: value["environment"]
                .as_array()?
                .iter()
                .map(|pair| Some((text(&pair[0])?, text(&pair[1])?)))
                .collect::<Option<_>>()?,
            terminal: match &value["terminal"] {
                Value::Null => None,
                size => Some((number(&size[0])?, number(&size[1])?)),
            },
            systemd: value["systemd"].as_bool()?,
            command: (!command.is_empty()).then_some(command)?,
        })
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
