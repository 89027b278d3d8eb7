//! An HTTP server that answers with its own name.

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

#[derive(Debug)]
pub struct Backend {
    pub name: &'static str,
    pub port: u16,
    server: JoinHandle<()>,
}

impl Backend {
    pub async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind a port for a backend");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let app = axum::Router::new().fallback(move || async move { name });
        let server = tokio::spawn(async move {
            axum::serve(listener, app).await.expect("serve a backend");
        });
        Self { name, port, server }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.server.abort();
    }
}
