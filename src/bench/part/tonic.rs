//! The same content behind tonic as it is ordinarily used: a channel for each
//! stream, and each response encoded for each stream.

use super::{Hello, PartError, Talk, anywhere, listen, source};
use crate::bench::mesh::Family;
use crate::bench::plan::Change;
use crate::bench::plane::World;
use crate::bench::stock::{Shape, Stock};
use crate::proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use crate::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use prost::Message;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

type Client = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

/// Responses that wait for a stream.
const QUEUE: usize = 16;

#[derive(Debug)]
struct Served {
    stock: Arc<Stock>,
    clients: Arc<Mutex<Vec<Client>>>,
}

pub(super) async fn run(shape: Shape) -> Result<(), PartError> {
    let listener = listen(anywhere())?;
    let address = listener.local_addr()?;
    let (stock, clients) = (Arc::new(Stock::new(shape)), Arc::new(Mutex::new(Vec::new())));
    let served = Served { stock: stock.clone(), clients: clients.clone() };
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = AggregatedDiscoveryServiceServer::new(served);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    let talk = Talk::begin(&Hello { address, admin: None });
    let to = clients.clone();
    let make = move |change: &Change| {
        stock.make(change);
        let response = response(&stock, change);
        let clients = to.lock().unwrap_or_else(PoisonError::into_inner);
        // A stream whose queue is full misses it, as it would not in earnest.
        clients.iter().for_each(|client| drop(client.try_send(Ok(response.clone()))));
    };
    let streams = || clients.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
    source::follow(talk, Rc::new(make), streams).await
}

/// What a change has to say.
fn response(stock: &Stock, change: &Change) -> DeltaDiscoveryResponse {
    let version = change.number.and_then(|number| stock.get(change.family, number));
    let resources = version.into_iter().filter_map(|version| Resource::decode(version.resource.clone()).ok()).collect();
    stated(change.seq as usize, change.family, resources)
}

fn stated(seq: usize, family: Family, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: seq.to_string(),
        nonce: seq.to_string(),
        type_url: family.type_url().to_owned(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Served {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("this server measures delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (stock, clients) = (self.stock.clone(), self.clients.clone());
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            let Ok(Some(_)) = requests.message().await else { return };
            let news = stock.all(0, Family::Cluster);
            let resources = news.changed.iter().filter_map(|version| Resource::decode(version.resource.clone()).ok());
            let first = stated(news.place, Family::Cluster, resources.collect());
            if sender.send(Ok(first)).await.is_err() {
                return;
            }
            clients.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
            // ACKs are read, as every server reads them.
            while let Ok(Some(_)) = requests.message().await {}
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
