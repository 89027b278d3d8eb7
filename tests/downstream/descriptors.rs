//! Too many open files: the process goes on, quietly, and recovers (FAULTS 64).
//!
//! The limit is of a process, so this test runs itself again in a shell that
//! sets one.

use super::stack::*;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CHILD: &str = "OUTPOST_TEST_DESCRIPTORS";
const NAME: &str = "downstream::descriptors::running_out_of_descriptors_is_survived";

#[test]
fn running_out_of_descriptors_is_survived() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let test = std::env::current_exe().unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
        .arg(test)
        .args(["--exact", NAME, "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = move |prefix: &str| {
        lines.find_map(|line| Some(line.unwrap().split_once(prefix)?.1.to_owned())).expect("the child says it")
    };
    let port: u16 = line("port ").parse().unwrap();
    let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    // Those beyond the limit are closed rather than left to hang.
    let idle: Vec<TcpStream> = (0..100).map(|_| connect()).collect();
    let closed = |socket: &TcpStream| {
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        matches!((&mut &*socket).read(&mut [0; 64]), Ok(0))
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while !idle.iter().any(closed) {
        assert!(Instant::now() < deadline, "nobody is turned away");
    }
    let used = line("busy for ms ");
    assert!(used.parse::<u64>().unwrap() < 500, "{used} ms of CPU in a second: it spins");
    drop(idle);
    // Served again.
    line("served again");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

/// Serves, and says how it is doing.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let stack = Stack::new();
    // Opened while it can be.
    let stat = std::fs::File::open("/proc/self/stat").unwrap();
    println!("port {}", stack.port);
    eventually("files run out", || stack.metrics().lines().any(|line| fails(line) > 0)).await;
    let before = cpu(&stat);
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("busy for ms {}", cpu(&stat) - before);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let health = async {
            let channel = tonic::transport::Endpoint::from_shared(stack.uri()).ok()?.connect().await.ok()?;
            let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
            client.check(tonic_health::pb::HealthCheckRequest::default()).await.err()
        };
        // Not serving is an answer too: nobody said that it is ready.
        if tokio::time::timeout(Duration::from_millis(500), health).await.is_ok_and(|answer| answer.is_none()) {
            break;
        }
        assert!(Instant::now() < deadline, "it does not recover");
    }
    println!("served again");
    // Until the parent is done.
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
}

fn fails(line: &str) -> u64 {
    line.strip_prefix("outpost_downstream_accept_errors_total ").and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Milliseconds of CPU that this process used: fields 14 and 15, in ticks of 10 ms.
fn cpu(stat: &std::fs::File) -> u64 {
    let mut text = [0; 2000];
    let length = stat.read_at(&mut text, 0).unwrap();
    let stat = String::from_utf8_lossy(&text[..length]);
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
}
