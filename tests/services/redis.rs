//! Redis, as Debian has it: each value is copied once on its way in, and once on its way out.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Instant,
};

use tempfile::TempDir;

use crate::{
    agent::serve::Server,
    harness::proof::{Counted, Service, connect, free_addresses, program},
};

const UNIT: &str = "zc-redis.service";
const VALUE: usize = 1 << 20;
const TIMES: u64 = 20;

struct Redis {
    _service: Service,
    stream: TcpStream,
    _dir: TempDir,
}

impl Redis {
    fn start() -> Self {
        let dir = TempDir::new_in("/lab").expect("directory");
        let [address] = free_addresses();
        let service = Service::start(UNIT, "usr/bin/redis-server", |command| {
            command
                .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
                .args(["--save", "", "--appendonly", "no", "--hz", "1"])
                .arg("--dir")
                .arg(dir.path())
                .env("LD_LIBRARY_PATH", program("usr/lib/x86_64-linux-gnu"));
        });
        Self {
            _service: service,
            stream: connect(address),
            _dir: dir,
        }
    }

    /// Sends a request, and reads an answer of this length.
    fn ask(&mut self, request: &[u8], answer: usize) -> Vec<u8> {
        self.stream.write_all(request).expect("send");
        let mut bytes = vec![0; answer];
        self.stream.read_exact(&mut bytes).expect("receive");
        bytes
    }
}

/// What Redis reads of its own state in `/proc`: at most a page, once in each round of its clock, which
/// `--hz 1` makes a second.
fn own_reads(since: Instant) -> u64 {
    4_096 * (since.elapsed().as_secs() + 2)
}

#[test]
fn redis_copies_a_value_once_in_and_once_out() {
    let server = Server::start();
    let mut redis = Redis::start();
    let head = format!("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n${VALUE}\r\n");
    let set = [head.as_bytes(), &vec![7; VALUE], b"\r\n"].concat();
    let get = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n";
    let head = format!("${VALUE}\r\n");
    let reply = head.len() + VALUE + 2;
    assert_eq!(redis.ask(b"PING\r\n", 7), b"+PONG\r\n");

    let (begun, before) = (Instant::now(), server.samples());
    for _ in 0..TIMES {
        assert_eq!(redis.ask(&set, 5), b"+OK\r\n");
    }
    let after = server.samples();
    let counted = Counted::between(&before, &after, UNIT);
    let read = counted.copied("read", "to_user");
    let wanted = TIMES * set.len() as u64;
    assert!(
        (wanted..=wanted + own_reads(begun)).contains(&read),
        "{read} of {wanted}"
    );
    counted.expect(&[("read", "to_user", read), ("write", "from_user", TIMES * 5)]);

    let (begun, before) = (Instant::now(), server.samples());
    for _ in 0..TIMES {
        let answer = redis.ask(get, reply);
        let value = &answer[head.len()..head.len() + VALUE];
        assert!(answer.starts_with(head.as_bytes()) && value.iter().all(|byte| *byte == 7));
    }
    let after = server.samples();
    let counted = Counted::between(&before, &after, UNIT);
    let read = counted.copied("read", "to_user");
    let wanted = TIMES * get.len() as u64;
    assert!(
        (wanted..=wanted + own_reads(begun)).contains(&read),
        "{read} of {wanted}"
    );
    let written = TIMES * reply as u64;
    counted.expect(&[("read", "to_user", read), ("write", "from_user", written)]);
}
