//! Traces, as a collector gets them.

use super::*;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use std::sync::Mutex;

/// Keeps what is sent to it: the name of each service, and its spans.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        for resource in request.into_inner().resource_spans {
            let facts = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let name = facts.iter().find(|fact| fact.key == "service.name").map(|fact| format!("{:?}", fact.value));
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let named = spans.map(|span| (name.clone().unwrap_or_default(), span));
            self.0.lock().unwrap().extend(named);
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let this = Self::default();
        let service = TraceServiceServer::new(this.clone());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        (this, address)
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap().iter().map(|(_, span)| span.clone()).collect()
    }
}

fn fact(span: &Span, name: &str) -> String {
    let value = span.attributes.iter().find(|fact| fact.key == name).and_then(|fact| fact.value.clone());
    format!("{:?}", value.and_then(|value| value.value))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patch_is_a_trace_where_the_environment_asks_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start().await;
    control_plane.edit(|world| world.set(&resources::cluster("c1")));
    let (collector, endpoint) = Collector::start().await;
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "100")];
    let outpost = Outpost::start_in(dir.path(), control_plane.port, &[], &variables).await;
    let mut sidecar = Sidecar::connect(outpost.port, "n1").await;
    let first = sidecar.hear().await;
    sidecar.answer(&first, None);
    control_plane.edit(|world| world.set(&resources::cluster("c2")));
    let second = sidecar.hear().await;
    sidecar.answer(&second, None);

    let root = eventually("the patch is told", || async {
        let spans = collector.spans();
        let found = spans.iter().find(|span| span.name == "patch" && !span.events.is_empty()).cloned();
        found.ok_or_else(|| format!("{:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>()))
    })
    .await;
    let spans = collector.spans();
    for name in ["commit", "prepare", "fan-out", "answer"] {
        let child = spans.iter().find(|span| span.name == name && span.parent_span_id == root.span_id);
        let child = child.unwrap_or_else(|| panic!("no {name} below the patch"));
        assert_eq!(child.trace_id, root.trace_id);
        assert!(child.start_time_unix_nano >= root.start_time_unix_nano, "{name}");
        assert!(child.end_time_unix_nano <= root.end_time_unix_nano, "{name}");
    }
    assert!(fact(&root, "xds.type").contains("cds") && fact(&root, "outpost.group").contains("n1;node"), "{root:?}");
    assert!(fact(&root, "outpost.acknowledged").contains("IntValue(1)"), "{root:?}");
    assert_eq!(root.events[0].name, "slow sidecar");
    assert!(collector.0.lock().unwrap().iter().all(|(service, _)| service.contains("outpost")));
    // A latency points to a trace: that of the last patch in its bucket.
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let traces: Vec<_> = spans.iter().filter(|span| span.name == "patch").map(|span| hex(&span.trace_id)).collect();
    let metrics = outpost.admin("/metrics").await.unwrap();
    let pointed = |trace: &String| metrics.contains(&format!("# {{trace_id=\"{trace}\"}}"));
    assert!(traces.iter().any(pointed), "{traces:?} in\n{metrics}");
}

#[test]
fn what_cannot_be_sent_as_asked_is_refused_at_start() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outpost"));
    command.args(["serve", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--upstream=127.0.0.1:1"]);
    let output = command.env("OTEL_TRACES_EXPORTER", "zipkin").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("OTEL_TRACES_EXPORTER \"zipkin\": traces are sent by otlp, or by none"), "{said}");
}
