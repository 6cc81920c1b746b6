//! `PostgreSQL`, as Debian has it: a sequential scan copies every block once, cold as warm, and the disk
//! delivers it when it is cold only.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    agent::serve::Server,
    harness::{
        proof::{Counted, Service, program},
        support::kernel_is,
    },
};

const UNIT: &str = "zc-postgresql.service";
const BLOCK: u64 = 8_192;
/// Of which four fill a block.
const ROWS: u64 = 4_096;
const RELATION: u64 = ROWS / 4 * BLOCK;

fn place(name: &str) -> String {
    format!("usr/lib/postgresql/15/bin/{name}")
}

fn libraries() -> String {
    ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
        .map(|place| program(place).display().to_string())
        .join(":")
}

/// `PostgreSQL` refuses to be root, but whoever else it is must be able to reach its programs, wherever the
/// cache is: so it is root still, and does not know.
const NOT_ROOT: [&str; 3] = ["--user", "--map-user=65534", "--map-group=65534"];

fn initialise(data: &Path) {
    let output = Command::new("unshare")
        .args(NOT_ROOT)
        .arg(program(&place("initdb")))
        .args(["--username=postgres", "--auth=trust", "--locale=C"])
        .args(["--no-sync", "--no-instructions"])
        .arg(data)
        .env("LD_LIBRARY_PATH", libraries())
        .output()
        .expect("initdb");
    assert!(output.status.success(), "{output:?}");
}

/// A server in a unit of its own, and one session of a client outside it.
struct Postgres {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    client: std::process::Child,
    _service: Service,
    _dir: TempDir,
}

impl Postgres {
    fn start() -> Self {
        let dir = TempDir::new_in("/lab").expect("directory");
        let data = dir.path().join("data");
        initialise(&data);
        let service = Service::start(UNIT, "/usr/bin/unshare", |command| {
            command
                .args(NOT_ROOT)
                .arg(program(&place("postgres")))
                .arg("-D")
                .arg(&data)
                .arg("-k")
                .arg(dir.path())
                .args(["-h", "", "-F"])
                // So few that each scan reads the relation anew.
                .args(["-c", "shared_buffers=128kB"])
                // Nothing happens but what the client asks for.
                .args(["-c", "autovacuum=off", "-c", "checkpoint_timeout=1d"])
                .args(["-c", "max_parallel_workers_per_gather=0", "-c", "jit=off"])
                .env("LD_LIBRARY_PATH", libraries())
                .stderr(Stdio::null());
        });
        let ready = || fs::read_to_string(data.join("postmaster.pid"));
        while !ready().is_ok_and(|state| state.contains("ready")) {
            std::thread::yield_now();
        }
        let mut client = Command::new(program(&place("psql")))
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"])
            .arg(dir.path())
            .env("LD_LIBRARY_PATH", libraries())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql");
        Self {
            input: client.stdin.take().expect("piped"),
            output: BufReader::new(client.stdout.take().expect("piped")),
            client,
            _service: service,
            _dir: dir,
        }
    }

    /// The lines of the answer.
    fn ask(&mut self, question: &str) -> Vec<String> {
        writeln!(self.input, "{question};\n\\echo over").expect("ask");
        let lines = self.output.by_ref().lines().map(|line| line.expect("line"));
        let answer: Vec<_> = lines.take_while(|line| line != "over").collect();
        assert!(
            self.client.try_wait().expect("wait").is_none(),
            "{question}"
        );
        answer
    }

    fn number(&mut self, question: &str) -> u64 {
        let answer = self.ask(question);
        let number = answer.first().and_then(|line| line.parse().ok());
        number.unwrap_or_else(|| panic!("{question}: {answer:?}"))
    }

    /// Scans the table, and says how many of its blocks the server had in memory and how many it read:
    /// its ring of buffers keeps the last few.
    fn scan(&mut self) -> (u64, u64) {
        let answer = self.ask("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) SELECT line FROM rows");
        assert!(answer[0].starts_with("Seq Scan on rows"), "{answer:?}");
        let count = |what: &str| -> u64 {
            let words = answer.iter().flat_map(|line| line.split(' '));
            let counts = words.filter_map(|word| word.strip_prefix(what));
            counts
                .map(|count| count.parse::<u64>().expect("a number"))
                .sum()
        };
        (count("hit="), count("read="))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

/// On one kernel: to make the first database takes half a minute in software emulation.
#[test]
fn a_sequential_scan_copies_each_block_once_cold_and_warm() {
    if !kernel_is("6.12.") {
        return;
    }
    let mut postgres = Postgres::start();
    postgres.ask(&format!(
        "CREATE TABLE rows (line text); ALTER TABLE rows ALTER line SET STORAGE PLAIN;
         INSERT INTO rows SELECT repeat('x', 1900) FROM generate_series(1, {ROWS});
         VACUUM (FREEZE) rows; CHECKPOINT"
    ));
    assert_eq!(postgres.number("SELECT pg_relation_size('rows')"), RELATION);
    let server = Server::start();
    // What the session has to know of the table, it knows then.
    postgres.scan();
    for cold in [false, true, false] {
        if cold {
            // SAFETY: takes nothing.
            unsafe { libc::sync() };
            fs::write("/proc/sys/vm/drop_caches", "1").expect("drop_caches");
        }
        let before = server.samples();
        let (had, read) = postgres.scan();
        let counted = Counted::between(&before, &server.samples(), UNIT);
        assert_eq!((had + read) * BLOCK, RELATION, "{had} and {read}");
        assert!(had < 16, "{had} blocks were in the server's own memory");
        let answer = counted.copied("send", "from_user");
        let question = counted.copied("recv", "to_user");
        counted.expect(&[
            ("read", "to_user", read * BLOCK),
            ("send", "from_user", answer),
            ("recv", "to_user", question),
        ]);
        let delivered = counted.dma("block", "in");
        if cold {
            assert!(delivered >= read * BLOCK, "{delivered} of {read} blocks");
        } else {
            assert_eq!(delivered, 0, "it was in the page cache");
        }
    }
}
