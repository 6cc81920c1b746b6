//! nginx under `wrk`, as Debian has both: many connections at once, which are cut when the time is over.
//! What was served then, nginx's own log knows.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{
    agent::serve::Server,
    harness::proof::{Counted, Service, connect, free_addresses, program},
    services::nginx::start,
};

/// Less than one of nginx's buffers here, so that it is read at once or not at all.
const BODY: u64 = 60_013;
const BUFFER: u64 = 128 << 10;
const CONNECTIONS: u64 = 64;

/// What the log says of all answers.
#[derive(Debug, Default)]
struct Served {
    /// Answers with the body.
    bodies: u64,
    /// The bytes of requests, of bodies as far as they were sent, and of all that was sent.
    asked: u64,
    body_bytes: u64,
    sent: u64,
    /// The size of the log, which nginx writes too.
    log: u64,
}

impl Served {
    fn read(log: &Path) -> Self {
        let text = fs::read_to_string(log).expect("the log");
        let mut served = Self {
            log: text.len() as u64,
            ..Self::default()
        };
        for line in text.lines() {
            let mut words = line.split(' ');
            let path = words.next();
            let [status, asked, body_bytes, sent] = [(); 4]
                .map(|()| words.next().and_then(|word| word.parse().ok()))
                .map(|number: Option<u64>| number.unwrap_or_else(|| panic!("{line}")));
            assert_eq!(status, 200, "{line}");
            served.asked += asked;
            served.sent += sent;
            if path == Some("/body") {
                served.bodies += 1;
                served.body_bytes += body_bytes;
            }
        }
        served
    }
}

struct Nginx {
    _service: Service,
    address: SocketAddr,
    log: PathBuf,
    _dir: TempDir,
}

impl Nginx {
    fn start(unit: &str, sendfile: &str) -> Self {
        let dir = TempDir::new_in("/lab").expect("directory");
        let root = dir.path().to_str().expect("UTF-8");
        let body = usize::try_from(BODY).expect("small");
        let [address] = free_addresses();
        let config = format!(
            "log_format zc '$uri $status $request_length $body_bytes_sent $bytes_sent';\n\
             access_log {root}/log zc; sendfile {sendfile}; output_buffers 1 {BUFFER};\n\
             keepalive_requests 1000000;\n\
             server {{ listen {address}; location = /status {{ stub_status; }} }}",
        );
        Self {
            _service: start(unit, &dir, body, &config),
            address,
            log: dir.path().join("log"),
            _dir: dir,
        }
    }

    /// How many connections there are. Whatever was over before is in the log by now, as is this.
    fn active(&self) -> u64 {
        let mut stream = connect(self.address);
        stream
            .write_all(b"GET /status HTTP/1.0\r\n\r\n")
            .expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("receive");
        let line = answer
            .lines()
            .find_map(|line| line.strip_prefix("Active connections: "));
        let number = line.and_then(|number| number.trim().parse().ok());
        number.unwrap_or_else(|| panic!("{answer}"))
    }

    fn wait_for_nobody_else(&self) {
        while self.active() > 1 {
            std::thread::yield_now();
        }
    }

    /// Has wrk ask for the body again and again, and says how many answers it got whole.
    fn ask(&self) -> u64 {
        let output = Command::new(program("usr/bin/wrk"))
            .args(["--threads", "1", "--duration", "2s", "--timeout", "60s"])
            .args(["--connections", &CONNECTIONS.to_string()])
            .arg(format!("http://{}/body", self.address))
            .env("LD_LIBRARY_PATH", program("usr/lib/x86_64-linux-gnu"))
            .output()
            .expect("wrk");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert!(!text.contains("errors"), "{text}");
        let line = text
            .lines()
            .find_map(|line| line.split_once(" requests in "));
        let number = line.and_then(|(number, _)| number.trim().parse().ok());
        number.unwrap_or_else(|| panic!("{text}"))
    }
}

/// What nginx serves by the million is copied twice each by read, and never by sendfile.
pub fn many_connections(server: &Server) {
    for sendfile in ["off", "on"] {
        let unit = format!("zc-nginx-sendfile-{sendfile}.service");
        let nginx = Nginx::start(&unit, sendfile);
        nginx.wait_for_nobody_else();
        let before = (server.samples(), Served::read(&nginx.log));
        let whole = nginx.ask();
        nginx.wait_for_nobody_else();
        let counted = Counted::between(&before.0, &server.samples(), &unit);
        let (earlier, answered) = (before.1, Served::read(&nginx.log));
        assert!(whole > 0, "{answered:?}");
        // Each connection may have been cut in an answer.
        let cut = answered.bodies - whole;
        assert!(cut <= CONNECTIONS, "{whole} of {answered:?}");
        let sent = answered.sent - earlier.sent;
        let (read, written) = if sendfile == "on" {
            (0, sent - answered.body_bytes)
        } else {
            (answered.bodies * BODY, sent)
        };
        counted.expect(&[
            ("recv", "to_user", answered.asked - earlier.asked),
            ("read", "to_user", read),
            ("write", "from_user", written + answered.log - earlier.log),
        ]);
        let passed = if sendfile == "on" {
            answered.body_bytes
        } else {
            0
        };
        assert_eq!(counted.zero_copy("sendfile"), passed, "{answered:?}");
    }
}
