//! Health and reflection, from tonic's own crates, and client status.

use super::csds::{Caller, Csds, REQUEST_BYTES};
use super::services;
use super::stream::Ends;
use crate::proto::DESCRIPTORS;
use crate::proto::status::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer;
use crate::transport::routes::{self, Pace};
use crate::transport::server::Call;
use std::future::poll_fn;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// The services beside xDS. They stand behind the same authentication.
#[derive(Clone)]
pub(super) struct Side {
    routes: Routes,
    health: HealthReporter,
}

impl Side {
    pub(super) fn new(csds: Csds) -> Self {
        let health = HealthReporter::new();
        let service = tonic_health::server::HealthService::from_health_reporter(health.clone());
        let mut routes = Routes::new(tonic_health::pb::health_server::HealthServer::new(service));
        let status = ClientStatusDiscoveryServiceServer::new(csds).max_decoding_message_size(REQUEST_BYTES);
        routes = routes.add_service(status);
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // Descriptors come from our build and were read there: this cannot fail,
        // and if it does health matters more than reflection.
        if let Ok(reflection) = builder().build_v1() {
            routes = routes.add_service(reflection);
        }
        if let Ok(reflection) = builder().build_v1alpha() {
            routes = routes.add_service(reflection);
        }
        Self { routes: routes.prepare(), health }
    }

    /// For the whole server (`""`) and each xDS service.
    pub(super) async fn set_ready(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in services::names().chain([""]) {
            self.health.set_service_status(name, status).await;
        }
    }

    /// It ends as streams of sidecars do: with its connection, and with its identity.
    pub(super) async fn serve(&self, mut call: Call, caller: Caller, pace: Pace, mut ends: Ends) {
        call.request.extensions_mut().insert(caller);
        let clock = pace.clock.clone();
        let over = async {
            loop {
                let due = ends.due(true);
                tokio::select! {
                    () = poll_fn(|cx| ends.poll_announced(cx)) => {}
                    () = clock.sleep_until_some(due) => {}
                }
                if let Some((_, status)) = ends.now(clock.now(), true) {
                    return status;
                }
            }
        };
        routes::serve(self.routes.clone(), call, pace, over).await;
    }
}
