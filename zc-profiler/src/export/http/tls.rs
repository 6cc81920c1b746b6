//! TLS, from the keys of a web configuration.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use tokio_rustls::rustls::{
    CipherSuite, NamedGroup, RootCertStore, ServerConfig, SupportedCipherSuite,
    SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};

/// Text in PEM, or where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pem {
    Inline(String),
    File(PathBuf),
}

impl Pem {
    fn read(&self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Inline(text) => Ok(text.clone().into_bytes()),
            Self::File(path) => {
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))
            }
        }
    }

    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Inline(_) => None,
            Self::File(path) => Some(path),
        }
    }

    /// What complaints call it.
    fn name(&self) -> String {
        match self {
            Self::Inline(_) => "the web configuration".into(),
            Self::File(path) => path.display().to_string(),
        }
    }

    fn certificates(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let certificates = CertificateDer::pem_slice_iter(&self.read()?)
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| format!("{} is not PEM", self.name()))?;
        ensure!(
            !certificates.is_empty(),
            "{} holds no certificate",
            self.name()
        );
        Ok(certificates)
    }

    fn private_key(&self) -> anyhow::Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(&self.read()?)
            .with_context(|| format!("{} holds no private key", self.name()))
    }
}

/// Which clients have to show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    #[default]
    None,
    IfGiven,
    Required,
}

/// What `tls_server_config` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub certificate: Option<Pem>,
    pub key: Option<Pem>,
    pub client_ca: Option<Pem>,
    pub client_auth: ClientAuth,
    pub min_version: Version,
    pub max_version: Version,
    /// Of TLS 1.2, as preferred; none stands for all.
    pub cipher_suites: Vec<CipherSuite>,
    /// As preferred; none stands for all.
    pub curves: Vec<NamedGroup>,
    pub client_prefers: bool,
}

/// A version of TLS, or that nothing was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    #[default]
    Any,
    Tls12,
    Tls13,
}

/// The cipher suites of TLS 1.2 that there are.
pub fn cipher_suites() -> impl Iterator<Item = CipherSuite> {
    let suites = ring::ALL_CIPHER_SUITES.iter();
    suites
        .filter(|suite| suite.tls13().is_none())
        .map(SupportedCipherSuite::suite)
}

/// Curves, as Go calls them.
pub const CURVES: [(&str, NamedGroup); 3] = [
    ("CurveP256", NamedGroup::secp256r1),
    ("CurveP384", NamedGroup::secp384r1),
    ("X25519", NamedGroup::X25519),
];

impl Settings {
    /// The files that these settings name.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let all = [&self.certificate, &self.key, &self.client_ca];
        all.into_iter().flatten().filter_map(Pem::path)
    }

    /// Reads the files.
    pub fn load(&self) -> anyhow::Result<ServerConfig> {
        let (Some(certificate), Some(key)) = (&self.certificate, &self.key) else {
            bail!("tls_server_config needs cert_file and key_file");
        };
        let provider = Arc::new(self.provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&self.versions())
            .context(
                "min_version, max_version, cipher_suites and curve_preferences leave nothing",
            )?;
        let builder = match (self.client_auth, &self.client_ca) {
            (ClientAuth::None, None) => builder.with_no_client_auth(),
            (ClientAuth::None, Some(_)) => {
                bail!("client_ca_file needs client_auth_type: RequireAndVerifyClientCert")
            }
            (_, None) => bail!("client_auth_type needs client_ca_file"),
            (auth, Some(ca)) => {
                let mut roots = RootCertStore::empty();
                for certificate in ca.certificates()? {
                    roots
                        .add(certificate)
                        .with_context(|| format!("{} holds no authority", ca.name()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = if auth == ClientAuth::IfGiven {
                    verifier.allow_unauthenticated()
                } else {
                    verifier
                };
                builder.with_client_cert_verifier(verifier.build()?)
            }
        };
        let mut config = builder
            .with_single_cert(certificate.certificates()?, key.private_key()?)
            .with_context(|| format!("{} and {} do not fit", certificate.name(), key.name()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ignore_client_order = !self.client_prefers;
        Ok(config)
    }

    fn provider(&self) -> CryptoProvider {
        let mut provider = ring::default_provider();
        if !self.cipher_suites.is_empty() {
            let of_13 = |suite: &&SupportedCipherSuite| suite.tls13().is_some();
            let all = ring::ALL_CIPHER_SUITES;
            let wanted = self.cipher_suites.iter();
            let wanted = wanted.filter_map(|name| all.iter().find(|suite| suite.suite() == *name));
            provider.cipher_suites = all.iter().filter(of_13).chain(wanted).copied().collect();
        }
        if !self.curves.is_empty() {
            let all = ring::ALL_KX_GROUPS;
            let wanted = self.curves.iter();
            let wanted = wanted.filter_map(|name| all.iter().find(|group| group.name() == *name));
            provider.kx_groups = wanted.copied().collect();
        }
        provider
    }

    fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let mut versions = Vec::new();
        if self.min_version != Version::Tls13 {
            versions.push(&TLS12);
        }
        if self.max_version != Version::Tls12 {
            versions.push(&TLS13);
        }
        versions
    }
}
