//! One trace across processes, as a collector sees it.

use std::sync::Arc;

use http::HeaderMap;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::Span,
};
use parking_lot::Mutex;
use tessera_service::{LogFormat, Telemetry, TelemetryConfig, peer, serve, trace_context};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, codegen::BoxStream, service::Routes};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_client::HealthClient,
    health_server::{Health, HealthServer},
};
use tracing::{Instrument, info_span};

use crate::support::{loopback, soon};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

/// Keeps what is exported to it.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let name =
                attributes.iter().find(|attribute| attribute.key == "service.name").map(|name| format!("{:?}", name.value));
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().extend(spans.map(|span| (name.clone().unwrap_or_default(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// The process at the other end of the hop.
struct Callee;

#[tonic::async_trait]
impl Health for Callee {
    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let span = info_span!(target: "tessera_callee", "callee");
        trace_context::adopt_metadata(&span, request.metadata());
        Ok(span.in_scope(|| Response::new(HealthCheckResponse::default())))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

async fn start(routes: Routes, stop: &CancellationToken) -> String {
    let bound = loopback().await;
    let address = bound.address;
    tokio::spawn(serve(bound, routes, stop.clone(), std::time::Duration::ZERO));
    format!("http://{address}")
}

async fn call(address: &str) {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", format!("00-{TRACE}-{CLIENT}-01").parse().unwrap());
    let span = info_span!(target: "tessera_caller", "caller");
    trace_context::adopt(&span, &headers);
    let hop = async {
        let mut request = Request::new(HealthCheckRequest::default());
        trace_context::inject(request.metadata_mut());
        HealthClient::new(peer(address, None).unwrap()).check(request).await
    };
    soon(hop.instrument(span)).await.unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_trace_goes_through_every_process_and_is_all_that_is_exported() {
    let (collector, stop) = (Collector::default(), CancellationToken::new());
    let config = TelemetryConfig {
        service: "tessera-test".into(),
        // Logs are one thing, traces another.
        filter: "off".into(),
        format: LogFormat::Human,
        otlp_endpoint: Some(start(Routes::new(TraceServiceServer::new(collector.clone())), &stop).await),
    };
    let telemetry = Telemetry::start(&config).unwrap();
    let callee = start(Routes::new(HealthServer::new(Callee)), &stop).await;
    call(&callee).await;
    // What was not sent yet is sent at the end.
    drop(telemetry);

    let spans = collector.0.lock().clone();
    let named = |name: &str| &spans.iter().find(|(_, span)| span.name == name).unwrap_or_else(|| panic!("{name}: {spans:?}")).1;
    let (caller, callee) = (named("caller"), named("callee"));
    assert_eq!((hex(&caller.trace_id), hex(&callee.trace_id)), (TRACE.into(), TRACE.into()));
    assert_eq!(hex(&caller.parent_span_id), CLIENT);
    assert_eq!(callee.parent_span_id, caller.span_id);
    assert_eq!(spans.len(), 2, "spans of the libraries are not exported: {spans:?}");
    assert!(spans.iter().all(|(service, _)| service.contains("tessera-test")), "{spans:?}");
}
