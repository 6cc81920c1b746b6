//! nginx, as Debian has it, serving files: by read and write it copies each byte twice, by sendfile
//! not at all, and the labels tell whose it is.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
};

use tempfile::TempDir;

use crate::{
    agent::serve::Server,
    harness::proof::{Counted, Service, connect, free_addresses, program},
    services::wrk::many_connections,
};

/// No multiple of a page, nor of nginx's buffers.
pub const BODY: usize = 3_000_017;
pub const UNIT: &str = "zc-nginx.service";
const REQUEST: &[u8] = b"GET /body HTTP/1.0\r\n\r\n";

/// One worker in a unit of its own, with a port for each way to serve.
pub struct Nginx {
    _service: Service,
    pub by_read: SocketAddr,
    pub by_sendfile: SocketAddr,
    by_tls: SocketAddr,
    _dir: TempDir,
}

impl Nginx {
    pub fn start() -> Self {
        let dir = TempDir::new_in("/lab").expect("directory");
        let root = dir.path().to_str().expect("UTF-8");
        certify(&dir);
        let [by_read, by_sendfile, by_tls] = free_addresses();
        let config = format!(
            "access_log off;\n\
             server {{ listen {by_read}; sendfile off; }}\n\
             server {{ listen {by_sendfile}; sendfile on; }}\n\
             server {{ listen {by_tls} ssl; sendfile on; ssl_certificate {root}/certificate;\n\
             ssl_certificate_key {root}/key; }}",
        );
        Self {
            _service: start(UNIT, &dir, BODY, &config),
            by_read,
            by_sendfile,
            by_tls,
            _dir: dir,
        }
    }
}

/// Starts one worker in a unit of its own, which serves `body` bytes from that directory; `http` is the
/// rest of the configuration's block of that name.
pub fn start(unit: &str, dir: &TempDir, body: usize, http: &str) -> Service {
    let root = dir.path().to_str().expect("UTF-8");
    fs::write(dir.path().join("body"), vec![7; body]).expect("write");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {root}/{kind};\n"))
        .concat();
    let config = format!(
        "daemon off; user root; worker_processes 1; pid {root}/pid; error_log stderr;\n\
         events {{ worker_connections 512; }}\n\
         http {{ root {root}; {temporary}\n\
         {http} }}\n",
    );
    let file = dir.path().join("nginx.conf");
    fs::write(&file, config).expect("write");
    Service::start(unit, "usr/sbin/nginx", |command| {
        command.arg("-c").arg(&file);
    })
}

/// The answer to one request: how long its head is, once the body has been checked.
pub fn get(address: SocketAddr) -> u64 {
    answer(ask(address))
}

fn ask(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address);
    stream.write_all(REQUEST).expect("send");
    stream
}

fn answer(mut stream: TcpStream) -> u64 {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("receive");
    check(&answer)
}

fn check(answer: &[u8]) -> u64 {
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{} bytes",
        answer.len()
    );
    let (head, body) = answer.split_at(answer.len() - BODY);
    assert!(body.iter().all(|byte| *byte == 7), "the body");
    assert!(head.ends_with(b"\r\n\r\n"), "the head");
    head.len() as u64
}

/// A key and a certificate that nobody has to trust.
fn certify(dir: &TempDir) {
    let output = Command::new(program("usr/bin/openssl"))
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-subj", "/CN=localhost", "-days", "1"])
        .args([
            "-keyout",
            "key",
            "-out",
            "certificate",
            "-config",
            "/dev/null",
        ])
        .current_dir(dir)
        .output()
        .expect("openssl");
    assert!(output.status.success(), "{output:?}");
}

/// Passes TLS records on to nginx, and counts the bytes of those that it reads: all but the client's
/// farewell, which it does not wait for.
fn pass_records(mut client: impl Read, mut server: impl Write) -> u64 {
    const ALERT: u8 = 21;
    let mut bytes = 0;
    let mut head = [0; 5];
    while client.read_exact(&mut head).is_ok() {
        let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        client.read_exact(&mut body).expect("a whole record");
        // nginx may be gone already.
        let sent = server
            .write_all(&head)
            .and_then(|()| server.write_all(&body));
        if head[0] != ALERT {
            sent.expect("relay");
            bytes += (head.len() + body.len()) as u64;
        }
    }
    bytes
}

/// Passes one connection on, and counts the bytes each way: from the client, to the client.
fn relay(listener: &TcpListener, to: SocketAddr) -> (u64, u64) {
    let (mut client, _) = listener.accept().expect("accept");
    let mut server = connect(to);
    let (from_client, to_server) = (
        client.try_clone().expect("clone"),
        server.try_clone().expect("clone"),
    );
    let up = thread::spawn(move || pass_records(from_client, to_server));
    let down = std::io::copy(&mut server, &mut client).expect("relay");
    client.shutdown(Shutdown::Write).expect("shutdown");
    (up.join().expect("relay"), down)
}

/// Asks for the body through TLS, and counts the bytes on the wire: from the client, to it.
fn get_by_tls(address: SocketAddr) -> (u64, u64) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let relayed = listener.local_addr().expect("address").to_string();
    let counts = thread::spawn(move || relay(&listener, address));
    let mut client = Command::new(program("usr/bin/openssl"))
        .args(["s_client", "-tls1_2", "-quiet", "-ign_eof"])
        .args(["-connect", &relayed])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    let mut input = client.stdin.take().expect("piped");
    input.write_all(REQUEST).expect("send");
    let output = client.wait_with_output().expect("openssl");
    check(&output.stdout);
    counts.join().expect("relay")
}

#[test]
fn nginx_copies_twice_by_read_and_heads_only_by_sendfile() {
    const REQUESTS: u64 = 5;
    const CONNECTIONS: usize = 40;
    let (nginx, bytes, asked) = (Nginx::start(), BODY as u64, REQUEST.len() as u64);
    let server = Server::start();
    // Whether it is up.
    get(nginx.by_read);
    let during = |requests: &mut dyn FnMut()| {
        let before = server.samples();
        requests();
        Counted::between(&before, &server.samples(), UNIT)
    };

    let mut heads = 0;
    let counted = during(&mut || {
        heads = (0..REQUESTS).map(|_| get(nginx.by_read)).sum();
    });
    counted.expect(&[
        ("recv", "to_user", REQUESTS * asked),
        ("read", "to_user", REQUESTS * bytes),
        ("write", "from_user", REQUESTS * bytes + heads),
    ]);

    // Many connections at once, of one task: if many send, a kernel that preempts them inside programs may
    // skip the same program and its double for nginx, which it counts, but not to the byte.
    let connections = CONNECTIONS as u64;
    let counted = during(&mut || {
        let asked = [(); CONNECTIONS].map(|()| ask(nginx.by_sendfile));
        heads = asked.map(answer).iter().sum();
    });
    counted.expect(&[
        ("recv", "to_user", connections * asked),
        ("write", "from_user", heads),
    ]);
    assert_eq!(counted.zero_copy("sendfile"), connections * bytes);

    // Encrypted in user space: in by read, as the client's records are, and out by write.
    let mut wire = (0, 0);
    let counted = during(&mut || wire = get_by_tls(nginx.by_tls));
    assert!(wire.1 > bytes, "{wire:?}");
    counted.expect(&[
        // It looks at the first byte without taking it.
        ("recv", "to_user", 1),
        ("read", "to_user", bytes + wire.0),
        ("write", "from_user", wire.1),
    ]);
    assert_eq!(counted.zero_copy("sendfile"), 0);

    // Under load, with the same agent.
    many_connections(&server);
}
