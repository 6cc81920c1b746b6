//! The endpoint over real sockets, without a profiler.

use std::{fs, io::Read, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::bail;
use flate2::read::GzDecoder;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    },
};

use super::*;

/// Shows texts; an empty one is a ledger that cannot be read.
struct Texts {
    metrics: String,
}

impl Source for Texts {
    fn metrics(&self) -> anyhow::Result<String> {
        self.ready()?;
        Ok(self.metrics.clone())
    }

    fn ledger(&self) -> anyhow::Result<String> {
        Ok("{}\n".into())
    }

    fn ready(&self) -> anyhow::Result<()> {
        if self.metrics.is_empty() {
            bail!("no probe is attached");
        }
        Ok(())
    }
}

/// An hour: what fails in time must not fail by these.
const PATIENT: Limits = Limits {
    connections: 8,
    head: Duration::from_hours(1),
    whole: Duration::from_hours(1),
};

fn start(metrics: &str, web: Web, limits: Limits) -> SocketAddr {
    let listener = bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    let source = Arc::new(Texts {
        metrics: metrics.into(),
    });
    tokio::spawn(serve(listener, source, web, limits, std::future::pending()));
    address
}

/// The head, in lower case, and the body.
type Answer = (String, Vec<u8>);

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    headers: &str,
) -> io::Result<Answer> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // A server without TLS's farewell is one that has closed the connection all the same.
    if let Err(error) = stream.read_to_end(&mut answer).await
        && answer.is_empty()
    {
        return Err(error);
    }
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    Ok((head, answer[end + 4..].to_vec()))
}

async fn get(address: SocketAddr, path: &str, headers: &str) -> Answer {
    let stream = TcpStream::connect(address).await.expect("connect");
    ask(stream, path, headers).await.expect("an answer")
}

#[tokio::test]
async fn each_path_says_what_it_is_for() {
    let address = start("zc_processes 7\n", Web::default(), PATIENT);
    for (path, status, content, text) in [
        (
            "/metrics",
            200,
            "text/plain; version=0.0.4",
            "zc_processes 7\n",
        ),
        ("/api/v1/ledger", 200, "application/json", "{}\n"),
        ("/readyz", 200, "text/plain", "counting\n"),
        ("/healthz", 200, "text/plain", "ok\n"),
        ("/elsewhere", 404, "", ""),
    ] {
        let (head, body) = get(address, path, "").await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
        assert!(head.contains(content), "{head}");
        assert_eq!(String::from_utf8_lossy(&body), text, "{path}");
    }
    let address = start("", Web::default(), PATIENT);
    for (path, status) in [("/metrics", 500), ("/readyz", 503), ("/healthz", 200)] {
        let (head, body) = get(address, path, "").await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
        let told = String::from_utf8_lossy(&body);
        assert_eq!(status == 200, told != "no probe is attached\n", "{told}");
    }
}

#[tokio::test]
async fn who_asks_for_gzip_gets_it() {
    let text = "zc_processes 7\n".repeat(10_000);
    let address = start(&text, Web::default(), PATIENT);
    let (head, body) = get(
        address,
        "/metrics",
        "Accept-Encoding: gzip\r\nConnection: close\r\n",
    )
    .await;
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let mut unpacked = String::new();
    let body = without_chunks(&body);
    GzDecoder::new(&*body)
        .read_to_string(&mut unpacked)
        .expect("gzip");
    assert!(
        unpacked == text && body.len() < text.len() / 10,
        "{}",
        body.len()
    );
    let (head, body) = get(address, "/metrics", "Accept-Encoding: br\r\n").await;
    assert!(!head.contains("content-encoding"), "{head}");
    assert!(body == text.as_bytes());
}

fn without_chunks(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body
            .windows(2)
            .position(|two| two == b"\r\n")
            .expect("a size");
        let size = std::str::from_utf8(&body[..end]).expect("ASCII");
        let size = usize::from_str_radix(size, 16).expect("a number");
        if size == 0 {
            return whole;
        }
        whole.extend(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size + 2..];
    }
}

#[tokio::test]
async fn a_crowd_of_idle_and_garbled_connections_does_not_stop_a_scrape() {
    let address = start("zc_processes 7\n", Web::default(), PATIENT);
    let mut crowd = Vec::new();
    for number in 0..300_usize {
        let mut stream = TcpStream::connect(address).await.expect("connect");
        let long = vec![b'x'; 64 * 1024];
        let said: &[u8] = match number % 4 {
            0 => b"",
            1 => b"GET /metrics HT",
            2 => b"\x16\x03\x01\x02\x00\x01\x00\xff\xfe",
            _ => &long,
        };
        // It may have been shown out already.
        let _ = stream.write_all(said).await;
        crowd.push(stream);
        if number % 50 == 49 {
            let (head, _) = get(address, "/metrics", "").await;
            assert!(head.starts_with("http/1.1 200"), "{head}");
        }
    }
}

#[tokio::test]
async fn half_a_head_is_waited_for_only_so_long() {
    let limits = Limits {
        head: Duration::from_millis(50),
        ..PATIENT
    };
    let address = start("zc_processes 7\n", Web::default(), limits);
    let mut stream = TcpStream::connect(address).await.expect("connect");
    stream.write_all(b"GET /metrics HT").await.expect("write");
    let mut answer = Vec::new();
    // The test ends when the connection does.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_cut_off_and_in_nobody_s_way() {
    const LENGTH: usize = 64 << 20;
    let limits = Limits {
        whole: Duration::from_secs(1),
        ..PATIENT
    };
    let address = start(&"x".repeat(LENGTH), Web::default(), limits);
    let slow = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).expect("connect");
        io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            .expect("write");
        // A byte at a time, to the end, whoever makes it.
        let (mut byte, mut bytes) = ([0], 0);
        while stream.read(&mut byte).is_ok_and(|read| read == 1) {
            bytes += 1;
        }
        bytes
    });
    let (head, _) = get(address, "/healthz", "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let bytes = slow.await.expect("a thread");
    assert!(0 < bytes && bytes < LENGTH, "{bytes}");
}

/// An authority, and whoever it vouches for.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// A certificate and its key.
    fn vouch(&self) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        (params.signed_by(&key, &self.0).expect("a certificate"), key)
    }

    /// Writes `ca.crt`, and a certificate and a key of this name.
    fn place(&self, directory: &Path, name: &str) {
        let (certificate, key) = self.vouch();
        for (name, text) in [
            (format!("{name}.crt"), certificate.pem()),
            (format!("{name}.key"), key.serialize_pem()),
            ("ca.crt".into(), self.0.pem()),
        ] {
            fs::write(directory.join(name), text).expect("write");
        }
    }

    /// A client who trusts this authority, and shows what `identity` vouches for.
    fn client(&self, identity: Option<&Self>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("an authority");
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let client = match identity {
            None => client.with_no_client_auth(),
            Some(authority) => {
                let (certificate, key) = authority.vouch();
                let chain: Vec<CertificateDer<'static>> = vec![certificate.into()];
                let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
                client.with_client_auth_cert(chain, key).expect("they fit")
            }
        };
        TlsConnector::from(Arc::new(client))
    }
}

async fn get_by_tls(
    address: SocketAddr,
    client: &TlsConnector,
    headers: &str,
) -> io::Result<Answer> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    ask(client.connect(name, stream).await?, "/metrics", headers).await
}

#[tokio::test]
async fn tls_certificates_and_passwords_keep_others_out_and_are_read_standby() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("web.yml");
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    first.place(directory.path(), "server");
    let tls = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n";
    let hash = bcrypt::hash("open sesame", 4).expect("a hash");
    fs::write(
        &file,
        format!(
            "{tls}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n\
             http_server_config:\n  headers:\n    X-Frame-Options: deny\nbasic_auth_users:\n  ali: {hash}\n"
        ),
    )
    .expect("write");
    let web = Web::open(Some(&file)).expect("a configuration");
    assert_eq!(web.scheme(), "https");
    let address = start("zc_processes 7\n", web, PATIENT);
    // ali:open sesame
    let password = "Authorization: Basic YWxpOm9wZW4gc2VzYW1l\r\n";

    let known = first.client(Some(&first));
    let (head, body) = get_by_tls(address, &known, password)
        .await
        .expect("an answer");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("x-frame-options: deny"), "{head}");
    assert_eq!(body, b"zc_processes 7\n");
    let (head, body) = get_by_tls(address, &known, "").await.expect("an answer");
    assert!(head.starts_with("http/1.1 401"), "{head}");
    assert!(head.contains("www-authenticate: basic"), "{head}");
    assert_eq!(body, b"unauthorized\n");
    for identity in [None, Some(&second)] {
        let client = first.client(identity);
        let answer = get_by_tls(address, &client, password).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    let plain = TcpStream::connect(address).await.expect("connect");
    let plain = ask(plain, "/metrics", password).await;
    assert!(plain.is_err(), "without TLS: {plain:?}");

    // A mistake changes nothing, and is mended without a restart.
    fs::write(&file, "tls_config:\n").expect("write");
    let answer = get_by_tls(address, &known, password)
        .await
        .expect("an answer");
    assert!(answer.0.starts_with("http/1.1 200"), "{}", answer.0);
    fs::write(&file, tls.replace("server.", "new.")).expect("write");
    let answer = get_by_tls(address, &known, password)
        .await
        .expect("an answer");
    assert!(answer.0.starts_with("http/1.1 200"), "{}", answer.0);
    second.place(directory.path(), "new");
    let answer = get_by_tls(address, &first.client(None), "").await;
    assert!(answer.is_err(), "the old certificate: {answer:?}");
    let answer = get_by_tls(address, &second.client(None), "").await;
    let (head, _) = answer.expect("an answer without certificate and password");
    assert!(head.starts_with("http/1.1 200"), "{head}");
}

#[test]
fn what_cannot_be_served_is_refused_with_its_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("web.yml");
    let authority = Authority::new("a");
    authority.place(directory.path(), "server");
    let (_, other) = authority.vouch();
    fs::write(directory.path().join("other.key"), other.serialize_pem()).expect("write");
    let tls = "tls_server_config:\n  cert_file: server.crt\n";
    for (text, expected) in [
        (tls.to_owned(), "needs cert_file and key_file"),
        (format!("{tls}  key_file: none.key\n"), "none.key"),
        (
            format!("{tls}  key_file: ca.crt\n"),
            "ca.crt holds no private key",
        ),
        (
            format!("{tls}  key_file: other.key\n"),
            "other.key do not fit",
        ),
        (
            format!("{tls}  key_file: server.key\n  client_ca_file: ca.crt\n"),
            "client_ca_file needs client_auth_type",
        ),
        (
            format!("{tls}  key_file: server.key\n  client_auth_type: VerifyClientCertIfGiven\n"),
            "client_auth_type needs client_ca_file",
        ),
        (
            format!("{tls}  key_file: server.key\n  min_version: TLS13\n  max_version: TLS12\n"),
            "leave nothing",
        ),
    ] {
        fs::write(&file, &text).expect("write");
        let error = Web::open(Some(&file)).err().expect(expected);
        let told = format!("{error:#}");
        assert!(
            told.contains(expected) && told.contains("web.yml"),
            "{told}"
        );
    }
    let missing = directory.path().join("none.yml");
    let error = Web::open(Some(&missing)).err().expect("no file");
    assert!(format!("{error:#}").contains("none.yml"));
}
