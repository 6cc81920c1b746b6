//! The web configuration file, in the form that Prometheus' exporters share (exporter-toolkit's).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bcrypt::HashParts;
use saphyr::{LoadableYamlNode, MarkedYaml};

use super::tls::{self, ClientAuth, Pem, Version};

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebConfig {
    pub tls: Option<tls::Settings>,
    pub headers: HeaderMap,
    pub users: BTreeMap<String, String>,
}

/// A value's meaning. Each taker's error says what the value must be; paths are relative to the file.
enum Kind {
    Section(&'static [Key]),
    Value(fn(&mut WebConfig, &MarkedYaml<'_>) -> Result<(), Wrong>),
    Pem {
        slot: fn(&mut tls::Settings) -> &mut Option<Pem>,
        is_file: bool,
    },
    /// A header of every answer, and its values if not all will do.
    Header(&'static [&'static str]),
    /// Refused, and why.
    Refused(&'static str),
}

struct Key {
    name: &'static str,
    kind: Kind,
}

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind }
}

const fn pem(
    name: &'static str,
    is_file: bool,
    slot: fn(&mut tls::Settings) -> &mut Option<Pem>,
) -> Key {
    key(name, Kind::Pem { slot, is_file })
}

const KEYS: &[Key] = &[
    key("tls_server_config", Kind::Section(TLS)),
    key("http_server_config", Kind::Section(HTTP)),
    key("basic_auth_users", Kind::Value(take_users)),
    key(
        "rate_limit",
        Kind::Refused("is not supported: those who ask at the same time share one reading anyway"),
    ),
];

const TLS: &[Key] = &[
    pem("cert", false, |tls| &mut tls.certificate),
    pem("cert_file", true, |tls| &mut tls.certificate),
    pem("key", false, |tls| &mut tls.key),
    pem("key_file", true, |tls| &mut tls.key),
    pem("client_ca", false, |tls| &mut tls.client_ca),
    pem("client_ca_file", true, |tls| &mut tls.client_ca),
    key(
        "client_auth_type",
        Kind::Value(|config, value| {
            tls_of(config).client_auth = one_of(value, &CLIENT_AUTH)?;
            Ok(())
        }),
    ),
    key(
        "client_allowed_sans",
        Kind::Refused(
            "is not supported: let an authority of its own sign the clients' certificates",
        ),
    ),
    key(
        "min_version",
        Kind::Value(|config, value| {
            tls_of(config).min_version = one_of(value, &VERSIONS)?;
            Ok(())
        }),
    ),
    key(
        "max_version",
        Kind::Value(|config, value| {
            tls_of(config).max_version = one_of(value, &VERSIONS)?;
            Ok(())
        }),
    ),
    key(
        "cipher_suites",
        Kind::Value(|config, value| {
            let known: Vec<_> = tls::cipher_suites()
                .map(|suite| (format!("{suite:?}"), suite))
                .collect();
            let known: Vec<_> = known
                .iter()
                .map(|(name, suite)| (&**name, *suite))
                .collect();
            tls_of(config).cipher_suites = list_of(value, &known)?;
            Ok(())
        }),
    ),
    key(
        "prefer_server_cipher_suites",
        Kind::Value(|config, value| {
            tls_of(config).client_prefers = !boolean(value)?;
            Ok(())
        }),
    ),
    key(
        "curve_preferences",
        Kind::Value(|config, value| {
            tls_of(config).curves = list_of(value, &tls::CURVES)?;
            Ok(())
        }),
    ),
];

/// The other two of Go's look at no certificate that they ask for.
const CLIENT_AUTH: [(&str, ClientAuth); 3] = [
    ("NoClientCert", ClientAuth::None),
    ("VerifyClientCertIfGiven", ClientAuth::IfGiven),
    ("RequireAndVerifyClientCert", ClientAuth::Required),
];

const VERSIONS: [(&str, Version); 2] = [("TLS12", Version::Tls12), ("TLS13", Version::Tls13)];

const HTTP: &[Key] = &[
    // It allows HTTP/2, which a server need not offer.
    key("http2", Kind::Value(|_, value| boolean(value).map(drop))),
    key("headers", Kind::Section(HEADERS)),
];

const HEADERS: &[Key] = &[
    key("Content-Security-Policy", Kind::Header(&[])),
    key("X-Frame-Options", Kind::Header(&["deny", "sameorigin"])),
    key("X-Content-Type-Options", Kind::Header(&["nosniff"])),
    key("X-XSS-Protection", Kind::Header(&[])),
    key("Strict-Transport-Security", Kind::Header(&[])),
];

fn tls_of(config: &mut WebConfig) -> &mut tls::Settings {
    config.tls.get_or_insert_default()
}

/// What a value must be, with the line if it is not the key's.
struct Wrong {
    line: Option<usize>,
    must: String,
}

impl From<String> for Wrong {
    fn from(must: String) -> Self {
        Self { line: None, must }
    }
}

fn one_of<T: Copy>(value: &MarkedYaml<'_>, known: &[(&str, T)]) -> Result<T, Wrong> {
    let written = value.data.as_str();
    let found = known.iter().find(|(name, _)| Some(*name) == written);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| Wrong {
        line: Some(value.span.start.line()),
        must: format!("must be {}", names(known)),
    })
}

fn list_of<T: Copy>(value: &MarkedYaml<'_>, known: &[(&str, T)]) -> Result<Vec<T>, Wrong> {
    let items = value
        .data
        .as_sequence()
        .ok_or_else(|| format!("must be a list of {}", names(known)))?;
    items.iter().map(|item| one_of(item, known)).collect()
}

fn names<T>(known: &[(&str, T)]) -> String {
    let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
    match names.as_slice() {
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
        [] => String::new(),
    }
}

fn boolean(value: &MarkedYaml<'_>) -> Result<bool, Wrong> {
    let boolean = value.data.as_bool();
    Ok(boolean.ok_or_else(|| "must be true or false".to_owned())?)
}

fn take_users(config: &mut WebConfig, value: &MarkedYaml<'_>) -> Result<(), Wrong> {
    let users = value
        .data
        .as_mapping()
        .ok_or_else(|| "must map names to hashes of passwords".to_owned())?;
    for (user, hash) in users {
        let line = Some(user.span.start.line());
        let wrong = |must: &str| Wrong {
            line,
            must: must.into(),
        };
        let user = user
            .data
            .as_str()
            .filter(|user| !user.contains(':'))
            .ok_or_else(|| wrong("must have names without a colon"))?;
        let hash = hash
            .data
            .as_str()
            .filter(|hash| hash.parse::<HashParts>().is_ok())
            .ok_or_else(|| wrong("must have passwords hashed by bcrypt, as `htpasswd -nB` does"))?;
        config.users.insert(user.into(), hash.into());
    }
    Ok(())
}

impl WebConfig {
    /// # Errors
    ///
    /// A line for each thing that is wrong, with the file's name and the line's number.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text, path).map_err(|complaints| anyhow::anyhow!(complaints.join("\n")))
    }

    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, Vec<String>> {
        let mut reading = Reading {
            name: path.display().to_string(),
            directory: path.parent().unwrap_or(Path::new("")).to_owned(),
            config: Self::default(),
            complaints: Vec::new(),
        };
        match MarkedYaml::load_from_str(text).as_deref() {
            Ok([]) => {}
            Ok([document]) => reading.section(document, KEYS),
            Ok([_, second, ..]) => {
                reading.complain(second.span.start.line(), "one document is enough");
            }
            Err(error) => reading.complain(error.marker().line(), error.info()),
        }
        if reading.complaints.is_empty() {
            Ok(reading.config)
        } else {
            Err(reading.complaints)
        }
    }
}

struct Reading {
    name: String,
    directory: PathBuf,
    config: WebConfig,
    complaints: Vec<String>,
}

impl Reading {
    fn complain(&mut self, line: usize, complaint: &str) {
        self.complaints
            .push(format!("{}:{line}: {complaint}", self.name));
    }

    fn section(&mut self, node: &MarkedYaml<'_>, keys: &'static [Key]) {
        let Some(mapping) = node.data.as_mapping() else {
            let known: Vec<_> = keys.iter().map(|key| (key.name, ())).collect();
            let must = format!("keys must stand here: {}", names(&known));
            return self.complain(node.span.start.line(), &must);
        };
        for (written, value) in mapping {
            let line = written.span.start.line();
            let written = written.data.as_str().unwrap_or_default();
            let Some(key) = keys.iter().find(|key| key.name == written) else {
                let distance = |key: &&Key| strsim::damerau_levenshtein(key.name, written);
                let nearest = keys.iter().min_by_key(distance).map_or("", |key| key.name);
                self.complain(
                    line,
                    &format!("unknown key {written:?}; did you mean {nearest}?"),
                );
                continue;
            };
            // A key without a value says nothing.
            if value.data.is_null() {
                continue;
            }
            if let Err(wrong) = self.take(key, value) {
                let line = wrong.line.unwrap_or(line);
                self.complain(line, &format!("{} {}", key.name, wrong.must));
            }
        }
    }

    fn take(&mut self, key: &Key, value: &MarkedYaml<'_>) -> Result<(), Wrong> {
        let text = || {
            let text = value.data.as_str();
            text.ok_or_else(|| "must be a text".to_owned())
        };
        match key.kind {
            Kind::Section(keys) => {
                self.section(value, keys);
                Ok(())
            }
            Kind::Value(take) => take(&mut self.config, value),
            Kind::Refused(why) => Err(why.to_owned().into()),
            Kind::Pem { slot, is_file } => {
                let text = text()?;
                if text.is_empty() {
                    return Ok(());
                }
                let pem = if is_file {
                    Pem::File(self.directory.join(text))
                } else {
                    Pem::Inline(text.into())
                };
                match slot(tls_of(&mut self.config)).replace(pem) {
                    Some(_) => Err("is there twice: as a text and as a file".to_owned().into()),
                    None => Ok(()),
                }
            }
            Kind::Header(allowed) => {
                let text = text()?;
                let known: Vec<_> = allowed.iter().map(|value| (*value, ())).collect();
                if !known.is_empty() {
                    one_of(value, &known)?;
                }
                let value =
                    HeaderValue::from_str(text).map_err(|_| "must be visible ASCII".to_owned())?;
                let name = HeaderName::from_bytes(key.name.as_bytes());
                let name = name.map_err(|error| error.to_string())?;
                self.config.headers.insert(name, value);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_rustls::rustls::{CipherSuite, NamedGroup};

    use super::*;

    const HASH: &str = "$2b$10$DoWtIvqODa3NsylDSyYwzO2iPW5OgnMpZDFfG00KBjtsqPXvq/eFi";

    fn parse(text: &str) -> Result<WebConfig, Vec<String>> {
        WebConfig::parse(text, Path::new("/etc/zc/web.yml"))
    }

    #[test]
    fn every_key_is_taken() {
        let text = format!(
            "tls_server_config:\n  cert_file: a.crt\n  key_file: /k/a.key\n  client_ca: |\n    text\n  \
             client_auth_type: RequireAndVerifyClientCert\n  min_version: TLS13\n  max_version: TLS13\n  \
             cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n  \
             prefer_server_cipher_suites: false\n  curve_preferences:\n    - X25519\n\
             http_server_config:\n  http2: true\n  headers:\n    X-Frame-Options: deny\n    \
             Strict-Transport-Security: max-age=1\nbasic_auth_users:\n  alice: {HASH}\n"
        );
        let config = parse(&text).expect("right");
        let tls = tls::Settings {
            certificate: Some(Pem::File("/etc/zc/a.crt".into())),
            key: Some(Pem::File("/k/a.key".into())),
            client_ca: Some(Pem::Inline("text\n".into())),
            client_auth: ClientAuth::Required,
            min_version: Version::Tls13,
            max_version: Version::Tls13,
            cipher_suites: vec![CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256],
            curves: vec![NamedGroup::X25519],
            client_prefers: true,
        };
        assert_eq!(config.tls, Some(tls));
        assert_eq!(config.headers["x-frame-options"], "deny");
        assert_eq!(config.headers["strict-transport-security"], "max-age=1");
        assert_eq!(config.headers.len(), 2);
        assert_eq!(config.users["alice"], HASH);
        for nothing in ["", "# nothing\n", "tls_server_config:\nbasic_auth_users:\n"] {
            assert_eq!(parse(nothing), Ok(WebConfig::default()), "{nothing:?}");
        }
    }

    #[test]
    fn each_mistake_is_named_with_its_line_and_what_would_do() {
        let cases = [
            (
                "a\n",
                "1: keys must stand here: tls_server_config, http_server_config, basic_auth_users or rate_limit",
            ),
            (
                "# x\ntls_config: {}\n",
                "2: unknown key \"tls_config\"; did you mean tls_server_config?",
            ),
            (
                "tls_server_config:\n  cert_fil: a\n",
                "2: unknown key \"cert_fil\"; did you mean cert_file?",
            ),
            (
                "tls_server_config:\n  cert: a\n  cert_file: a\n",
                "3: cert_file is there twice: as a text and as a file",
            ),
            (
                "tls_server_config:\n  cert_file: [a]\n",
                "2: cert_file must be a text",
            ),
            (
                "tls_server_config:\n  client_auth_type: RequireAnyClientCert\n",
                "2: client_auth_type must be NoClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert",
            ),
            (
                "tls_server_config:\n  min_version: TLS10\n",
                "2: min_version must be TLS12 or TLS13",
            ),
            (
                "tls_server_config:\n  curve_preferences:\n  - X25519\n  - P256\n",
                "4: curve_preferences must be CurveP256, CurveP384 or X25519",
            ),
            (
                "tls_server_config:\n  client_allowed_sans: [a]\n",
                "2: client_allowed_sans is not supported: let an authority of its own sign the clients' certificates",
            ),
            (
                "http_server_config:\n  http2: 2\n",
                "2: http2 must be true or false",
            ),
            (
                "http_server_config:\n  headers:\n    X-Frame-Options: allow\n",
                "3: X-Frame-Options must be deny or sameorigin",
            ),
            (
                "basic_auth_users:\n  a: $2y$10$QOauh\n",
                "2: basic_auth_users must have passwords hashed by bcrypt, as `htpasswd -nB` does",
            ),
            (
                "basic_auth_users: {}\nbasic_auth_users: {}\n",
                "2: duplicated key in mapping",
            ),
            (
                "rate_limit:\n  burst: 2\n",
                "1: rate_limit is not supported: those who ask at the same time share one reading anyway",
            ),
            ("---\n{}\n---\n{}\n", "4: one document is enough"),
        ];
        for (text, expected) in cases {
            let complaints = parse(text).expect_err(text);
            assert_eq!(complaints, [format!("/etc/zc/web.yml:{expected}")]);
        }
        let complaints = parse("tls_server_config:\n  \"cert_file\n").expect_err("syntax");
        assert!(
            complaints[0].starts_with("/etc/zc/web.yml:"),
            "{complaints:?}"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused_with_a_line(text in "(\\PC|\n|  |: |[a-z_]{1,12}: |\"|\\[|\\{|- ){0,60}") {
            if let Err(complaints) = parse(&text) {
                prop_assert!(complaints.iter().all(|line| line.starts_with("/etc/zc/web.yml:")));
            }
        }
    }
}
