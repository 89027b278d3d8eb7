//! A way to a server that lets only so many connections stand at once, and
//! answers the others like a load balancer that is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub struct Gate {
    pub port: u16,
    refused: Arc<AtomicUsize>,
    cuts: watch::Sender<u64>,
    _tasks: JoinSet<()>,
}

impl Gate {
    pub async fn start(target: u16, most: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (refused, cuts) = (Arc::new(AtomicUsize::new(0)), watch::Sender::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target, most, refused.clone(), cuts.subscribe()));
        Self { port, refused, cuts, _tasks: tasks }
    }

    /// Connections that were turned away.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Ends what stands. New connections are let through.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(
    listener: TcpListener,
    target: u16,
    most: usize,
    refused: Arc<AtomicUsize>,
    cuts: watch::Receiver<u64>,
) {
    let mut standing = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (mut near, _) = accepted.unwrap();
                if standing.len() >= most {
                    refused.fetch_add(1, Ordering::Relaxed);
                    let _ = near.write_all(b"HTTP/1.1 503 Too many connections\r\ncontent-length: 0\r\n\r\n").await;
                    continue;
                }
                standing.spawn(carry(near, target, cuts.clone()));
            }
            Some(_) = standing.join_next() => {}
        }
    }
}

async fn carry(mut near: TcpStream, target: u16, mut cuts: watch::Receiver<u64>) {
    cuts.borrow_and_update();
    let mut far = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        _ = cuts.changed() => {}
    }
}
