//! A sidecar that is told what to say: a SotW stream by a stock client.

use super::PATIENCE;
use outpost::proto::core::Node;
use outpost::proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outpost::proto::discovery::{DiscoveryRequest, DiscoveryResponse};
use outpost::proto::rpc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

pub const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// One stream; its first ask is for all clusters.
pub struct Sidecar {
    asks: mpsc::UnboundedSender<DiscoveryRequest>,
    pub answers: tonic::Streaming<DiscoveryResponse>,
}

impl Sidecar {
    pub async fn connect(port: u16, id: &str) -> Self {
        let mut client = AggregatedDiscoveryServiceClient::connect(format!("http://127.0.0.1:{port}")).await.unwrap();
        let (asks, requests) = mpsc::unbounded_channel();
        let node = Some(Node { id: id.into(), ..Node::default() });
        asks.send(DiscoveryRequest { node, type_url: CDS.into(), ..Default::default() }).unwrap();
        let answers = client.stream_aggregated_resources(UnboundedReceiverStream::new(requests)).await.unwrap();
        Self { asks, answers: answers.into_inner() }
    }

    /// The first request of a type.
    pub fn ask(&self, type_url: &str, names: &[&str]) {
        let resource_names = names.iter().map(|name| (*name).to_owned()).collect();
        self.asks.send(DiscoveryRequest { type_url: type_url.into(), resource_names, ..Default::default() }).unwrap();
    }

    pub async fn hear(&mut self) -> DiscoveryResponse {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        answer.expect("an answer in time").expect("no error").expect("the stream stands")
    }

    /// ACK, or NACK where there is an error; for these names, where it asked by name.
    pub fn answer_for(&self, response: &DiscoveryResponse, names: &[&str], error: Option<&str>) {
        let ask = DiscoveryRequest {
            type_url: response.type_url.clone(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: response.nonce.clone(),
            version_info: response.version_info.clone(),
            error_detail: error.map(|text| rpc::Status { code: 13, message: text.into(), ..Default::default() }),
            ..Default::default()
        };
        self.asks.send(ask).unwrap();
    }

    /// The same for a wildcard.
    pub fn answer(&self, response: &DiscoveryResponse, error: Option<&str>) {
        self.answer_for(response, &[], error);
    }
}
