use super::*;
use http_body_util::BodyExt;
use report::{ClientType, Seconds, Sync, Wait, WaitFor};

fn client() -> Client {
    let wait = Wait { what: WaitFor::Turn, seconds: Seconds(1.5), detail: "nonce 7".into() };
    let clusters = ClientType {
        type_url: TypeUrl::from_short("cds").unwrap().as_str().into(),
        short: "cds".into(),
        sync: Sync::Stale,
        age_seconds: Seconds(1.5),
        wildcard: true,
        names: 0,
        version: "v1".into(),
        last_nack: None,
        waits: vec![wait],
        private: None,
    };
    Client { stream: 1, node: "n1".into(), types: vec![clusters], ..Client::default() }
}

fn sources(facts: Facts) -> Sources {
    Sources {
        registry: Registry::default(),
        facts: Box::new(move || facts),
        certificate: Box::new(|| Some(Certificate { problem: Some("no PEM".into()), ..Certificate::default() })),
        notices: Box::new(|| {
            let of = |about: &str, text: &str| report::Notice { about: about.into(), text: text.into() };
            vec![of("certificate", "has ended; its newest files are not in use: no PEM"), of("keys", "are old")]
        }),
        files: Box::new(|| None),
        clients: Box::new(|node| {
            Box::pin(async move { Vec::from_iter(node.is_none_or(|node| node == "n1").then(client)) })
        }),
        groups: Box::new(|()| Box::pin(std::future::pending())),
        upstreams: Box::new(|()| Box::pin(async { vec![] })),
        configuration: Box::new(|()| Box::pin(async { vec![report::Configuration::default()] })),
        disk: Box::new(|()| Box::pin(async { vec![report::Disk::default()] })),
        explain: Box::new(|question| {
            let name = question.name.as_deref().unwrap_or_default().to_owned();
            let resource = report::Resource { name, ..report::Resource::default() };
            Box::pin(async { vec![Explanation { resource: Some(resource), ..Explanation::default() }] })
        }),
        dump: Box::new(|_| Box::new(std::iter::empty())),
        room: dump::Room::default(),
        levels: Box::new(|change| match change {
            logging::Change::Lay { filter, .. } if filter == "bad" => Err("no such level".into()),
            logging::Change::Lay { filter, span } => Ok(report::Levels::new("info".into(), Some((filter, span)))),
            _ => Ok(report::Levels::new("info".into(), None)),
        }),
    }
}

struct Server {
    address: SocketAddr,
    _stop: tokio::sync::oneshot::Sender<()>,
}

async fn start(facts: Facts) -> Server {
    start_with(sources(facts)).await
}

async fn start_with(sources: Sources) -> Server {
    let admin = config::Admin { address: ([127, 0, 0, 1], 0).into(), asked: true };
    let listener = bind(admin).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(serve(listener, sources, async move { drop(stopped.await) }));
    Server { address, _stop: stop }
}

impl Server {
    async fn get(&self, path: &str) -> (u16, String) {
        self.ask(http::Request::get(path)).await
    }

    async fn ask(&self, request: http::request::Builder) -> (u16, String) {
        let io = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        let named = request.headers_ref().is_some_and(|headers| headers.contains_key("host"));
        let request = if named { request } else { request.header("host", "x") };
        let request = request.body(String::new()).unwrap();
        let response = send.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.into()).unwrap())
    }
}

#[tokio::test]
async fn the_paths_answer() {
    let server = start(Facts { listening: true, connected: true, ..Facts::default() }).await;
    assert_eq!(server.get("/livez").await, (200, "ok\n".into()));
    assert_eq!(server.get("/readyz").await, (200, "ready\n".into()));
    assert!(server.get("/metrics").await.1.contains("# EOF"));
    assert!(server.get("/").await.1.contains("/readyz"));
    assert_eq!(server.get("/nothing").await.0, 404);

    let (status, text) = server.get("/clients").await;
    assert_eq!(status, 200);
    let list: List<Client> = serde_json::from_str(&text).unwrap();
    assert_eq!((list.api_version.as_str(), list.kind.as_str()), (report::API_VERSION, "Clients"));
    assert_eq!(list.items, [client()]);
    assert!(text.contains(r#""sync":"STALE""#) && text.contains(r#""what":"turn""#), "{text}");
    let (_, text) = server.get("/clients?node=n2").await;
    assert!(text.contains(r#""items":[]"#), "{text}");
}

#[tokio::test]
async fn no_page_reads_anything() {
    let server = start(Facts::default()).await;
    for path in paths() {
        let get = || http::Request::get(path);
        let (status, text) = server.ask(get().header("host", "evil.example:19901")).await;
        assert!(status == 403 && text.contains("ask by an IP address"), "{path}: {status} {text}");
        let page = get().header("host", "127.0.0.1:19901").header("sec-fetch-site", "cross-site");
        assert_eq!(server.ask(page).await.0, 403, "{path}");
    }
    let by_name = http::Request::get("/livez").header("host", "outpost.mesh.svc:19901");
    assert_eq!(server.ask(by_name).await.0, 200);
}

#[tokio::test]
async fn not_ready_says_why() {
    let server = start(Facts { listening: true, ..Facts::default() }).await;
    assert_eq!(server.get("/readyz").await, (503, "not ready\n".into()));
    let (status, text) = server.get("/readyz?verbose").await;
    assert_eq!(status, 503);
    assert!(text.contains("[+]listening ok\n") && text.contains("[-]upstream not connected\n"), "{text}");
    assert!(
        text.contains("[!]certificate has ended; its newest files are not in use: no PEM\n[!]keys are old\n"),
        "{text}"
    );
    assert!(!text.contains("[+]certificate"), "{text}");
    let list: List<Notice> = serde_json::from_str(&server.get("/notices").await.1).unwrap();
    assert_eq!((list.kind.as_str(), list.items.len(), list.items[1].about.as_str()), ("Notices", 2, "keys"));
}

#[tokio::test]
async fn explain_checks_its_question() {
    let server = start(Facts::default()).await;
    for (path, want) in [("", 400), ("?node=n&name=x", 400), ("?node=n&type=nope", 400), ("?node=n&type=cds", 200)] {
        assert_eq!(server.get(&format!("/explain{path}")).await.0, want, "{path}");
    }
    let (_, text) = server.get("/explain?node=n&type=rds&name=a%2Fb%3A80").await;
    assert!(text.contains(r#""name":"a/b:80""#), "{text}");
}

#[tokio::test]
async fn a_dump_checks_its_question() {
    let server = start(Facts::default()).await;
    assert_eq!(server.get("/config_dump").await, (200, "{\"configs\": [\n]}\n".into()));
    let (status, text) = server.get("/resources?type=cds&include_eds").await;
    assert!(status == 200 && text.contains(r#""kind": "Resources""#), "{text}");
    let (status, text) = server.get("/config_dump?resource=clusters").await;
    assert!(status == 400 && text.ends_with("generic_xds_configs\n"), "{text}");
}

#[tokio::test]
async fn a_report_that_hangs_is_given_up() {
    let hangs = Box::pin(std::future::pending::<Vec<Group>>());
    let response = answer(hangs, "Groups", Duration::from_millis(1)).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn only_the_default_may_move() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let moved = bind(config::Admin { address, asked: false }).await.unwrap();
    assert_ne!(moved.local_addr().unwrap(), address);
    let error = bind(config::Admin { address, asked: true }).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("--admin"), "{error}");
}

#[tokio::test]
async fn levels_are_changed_by_post_only_and_by_no_page() {
    let server = start(Facts::default()).await;
    let post = |path: String| http::Request::post(path);
    let laid = r#""configured":"info","temporary":"debug","remainingSeconds":600.0"#;
    assert!(server.get("/logging").await.1.contains(r#""temporary":null"#));
    assert_eq!(server.get("/logging?level=debug").await.0, 400, "it is asked for by POST");
    let (status, text) = server.ask(post("/logging?level=debug".into())).await;
    assert!(status == 200 && text.contains(laid), "{text}");
    let (_, text) = server.ask(post("/logging?level=a%3Dtrace%2Cb%3Dwarn&for=90s".into())).await;
    assert!(text.contains(r#""temporary":"a=trace,b=warn","remainingSeconds":90.0"#), "{text}");
    assert_eq!(server.ask(post("/logging?reset".into())).await.0, 200);
    for path in ["", "?level=bad", "?level=debug&for=soon", "?level=debug&reset", "?reset&for=1m", "?for=1m"] {
        let request = post(format!("/logging{path}"));
        assert_eq!(server.ask(request).await.0, 400, "{path}");
    }
    let page = post("/logging?level=debug".into()).header("origin", "http://evil.example");
    assert_eq!(server.ask(page).await.0, 403);
}

/// On one thread: whatever is answered meanwhile is answered in between.
#[tokio::test]
async fn a_dump_of_100_000_resources_keeps_nobody_waiting() {
    use crate::content::{Body, Store, entry::Attributes};
    const MANY: usize = 100_000;
    let store = Store::new();
    let type_url = TypeUrl::from_short("cds").unwrap();
    let held = |number: usize| {
        let name = format!("cluster-{number:06}");
        let mut value = crate::xds::wire::Writer::default();
        value.string(1, &name);
        let body = Body::Resource(store.blob(&type_url, &value.finish()));
        let name = Name::from(name.as_str());
        let entry = store.entry(name.clone(), body, Attributes::default());
        dump::Held { name, entry: Some(entry), standing: None }
    };
    let section = dump::Section {
        group: "g".into(),
        node: None,
        type_url: type_url.clone(),
        version: "1".into(),
        updated: None,
        sensitive: false,
        resources: (0..MANY).map(held).collect(),
    };
    let sections = move |_: &dump::Query| -> dump::Sections { Box::new(std::iter::once(section.clone())) };
    let server = start_with(Sources { dump: Box::new(sections), ..sources(Facts::default()) }).await;
    let dumped = server.get("/config_dump");
    let asked = async {
        loop {
            let live = tokio::time::timeout(Duration::from_secs(5), server.get("/livez")).await;
            assert_eq!(live.expect("an answer in time").0, 200);
            tokio::task::yield_now().await;
        }
    };
    let text = tokio::select! {
        (status, text) = dumped => {
            assert_eq!(status, 200);
            text
        }
        () = asked => unreachable!("it goes on"),
    };
    let dump: serde_json::Value = serde_json::from_str(&text).unwrap();
    let clusters = dump["configs"][0]["dynamic_active_clusters"].as_array().unwrap();
    assert_eq!((clusters.len(), &clusters[MANY - 1]["cluster"]["name"]), (MANY, &"cluster-099999".into()));
}
