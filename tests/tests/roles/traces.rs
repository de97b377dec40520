//! Trace context from process to process, as a collector sees it.

use anyhow::Result;
use opentelemetry_proto::tonic::trace::v1::Span;
use tessera_service::peer;

use crate::{
    collector::Collector,
    replica::{Replica, answer, golden},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether one of `parents` is the span's.
fn is_below(span: &Span, parents: &[Span]) -> bool {
    parents.iter().any(|parent| (&parent.trace_id, &parent.span_id) == (&span.trace_id, &span.parent_span_id))
}

#[tokio::test]
async fn a_clients_trace_reaches_the_coordinator_and_the_coordinators_reach_every_rank() -> Result<()> {
    let collector = Collector::default();
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.serve().await?)];
    let replica = Replica::start(|_| Ok(Vec::new()), &environment).await?;
    let (case, front) = (golden()?, replica.router.address("grpc")?);
    let traceparent = format!("00-{TRACE}-{CLIENT}-01");
    assert_eq!(answer(peer(&front, None)?, &case, Some(&traceparent)).await?, case.greedy);
    // What was not sent yet is sent at the end.
    replica.stop().await?;

    let requests = collector.spans("tessera-router", "request");
    assert!(requests.iter().any(|span| hex(&span.trace_id) == TRACE && hex(&span.parent_span_id) == CLIENT), "{requests:?}");
    let submitted = collector.spans("tessera-coordinator", "submit");
    assert!(submitted.len() == 1 && is_below(&submitted[0], &requests), "{submitted:?}");

    let (forming, runs) = (collector.spans("tessera-coordinator", "load_group"), collector.spans("tessera-coordinator", "run"));
    assert_eq!((forming.len(), runs.len()), (1, 2));
    let loads = collector.spans("tessera-shard-worker", "load");
    assert!(loads.len() == 2 && loads.iter().all(|span| is_below(span, &forming)), "{loads:?}");
    let ranks = collector.spans("tessera-shard-worker", "run");
    assert!(ranks.len() == 2 && ranks.iter().all(|span| is_below(span, &runs)), "{ranks:?}");
    let steps = collector.spans("tessera-shard-worker", "step");
    for rank in ranks {
        let own = steps.iter().filter(|span| is_below(span, std::slice::from_ref(&rank))).count();
        assert!(own >= case.greedy.len(), "{own} steps for {} tokens", case.greedy.len());
    }
    Ok(())
}
