//! One GET, over TLS as everything here: rustls with ring, below hyper.
//!
//! No redirect is followed: what is fetched is what an operator named.

use crate::clock::Clock;
use crate::transport::io::Socket;
use crate::transport::tls::{ClientFiles, ClientTls, TlsError};
use crate::xds::web::{WebAddress, WebAddressError};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;
use tokio::net::TcpStream;

/// For all of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing came of a fetch.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0}")]
    Connect(std::io::Error),
    #[error("it took longer than {} s", PATIENCE.as_secs())]
    Late,
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the server answered {0}")]
    Status(StatusCode),
    #[error("the answer is larger than {0} bytes, or broke off")]
    Body(usize),
    #[error("cannot read the token {}: {source}", path.display())]
    Token { path: PathBuf, source: std::io::Error },
    #[error("the token in {} is empty or holds what no HTTP header can", .0.display())]
    BadToken(PathBuf),
}

/// A URL, with what is needed to be let in there.
#[derive(Debug)]
pub struct Site {
    text: String,
    uri: Uri,
    host: String,
    port: u16,
    /// `None`: plain text, on this machine.
    tls: Option<ClientTls>,
    /// Presented as a bearer token; read for each fetch.
    token: Option<PathBuf>,
}

/// Why a site cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    #[error("{0}")]
    Url(#[from] WebAddressError),
    #[error("{0}")]
    Tls(#[from] TlsError),
}

impl Site {
    /// `ca`: whom to trust; the machine's authorities where it is `None`.
    pub fn new(text: &str, ca: Option<PathBuf>, token: Option<PathBuf>) -> Result<Self, SiteError> {
        let WebAddress { uri, host, port, secure } = text.parse()?;
        let files = ClientFiles { ca, ..ClientFiles::default() };
        let tls = secure.then(|| ClientTls::http1(files)).transpose()?;
        Ok(Self { text: text.into(), uri, host, port, tls, token })
    }

    pub fn url(&self) -> &str {
        &self.text
    }

    /// The body, of at most so many bytes.
    pub async fn get(&self, most: usize, clock: &Clock) -> Result<Bytes, FetchError> {
        let due = clock.sleep_until(clock.now() + PATIENCE);
        tokio::select! {
            got = self.connect(most) => got,
            () = pin!(due) => Err(FetchError::Late),
        }
    }

    async fn connect(&self, most: usize) -> Result<Bytes, FetchError> {
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(FetchError::Connect)?;
        match &self.tls {
            None => self.ask(socket, most).await,
            Some(tls) => {
                let socket = tls.connect(&self.host, socket).await.map_err(FetchError::Tls)?;
                self.ask(socket, most).await
            }
        }
    }

    async fn ask(&self, socket: impl Socket, most: usize) -> Result<Bytes, FetchError> {
        let request = self.request().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        let exchange = async {
            let answer = sender.send_request(request).await?;
            if answer.status() != StatusCode::OK {
                return Err(FetchError::Status(answer.status()));
            }
            let body = Limited::new(answer.into_body(), most).collect().await;
            body.map(|body| body.to_bytes())
                .map_err(|_: Box<dyn std::error::Error + Send + Sync>| FetchError::Body(most))
        };
        let mut exchange = pin!(exchange);
        tokio::select! {
            got = &mut exchange => got,
            // What was read before it ended may be all there is.
            ended = connection => { ended?; exchange.await }
        }
    }

    async fn request(&self) -> Result<Request<Empty<Bytes>>, FetchError> {
        let mut request = Request::new(Empty::new());
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        let authority = self.uri.authority().map_or(self.host.as_str(), |authority| authority.as_str());
        if let Ok(host) = HeaderValue::from_str(authority) {
            headers.insert(header::HOST, host);
        }
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"));
        if let Some(path) = &self.token {
            let text = tokio::fs::read_to_string(path).await;
            let text = text.map_err(|source| FetchError::Token { path: path.clone(), source })?;
            let bad = || FetchError::BadToken(path.clone());
            let token = Some(text.trim()).filter(|token| !token.is_empty()).ok_or_else(bad)?;
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(request)
    }
}
