//! The OpenAI-compatible front.

mod answer;
mod bodies;
mod call;
mod chat_request;
mod chunks;
mod completion_request;
mod error;
mod fields;
mod logprobs;
mod sampling;
mod sse;
mod whole;

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Request, State},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::timeout_at;

pub(crate) use self::call::BODY_WITHIN;
use self::{
    answer::{Answer, Api},
    call::Call,
    chunks::Chunks,
    sampling::Delivery,
};
use crate::{
    RequestError,
    metrics::Front,
    request,
    router::{Entry, Router},
};

/// Bodies up to so many bytes are parsed where they are, in well under a millisecond.
const SHORT_BODY: usize = 16 << 10;

/// Every path that is answered.
pub(crate) fn routes(router: Arc<Router>) -> axum::Router {
    let guarded = axum::Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .layer(middleware::from_fn_with_state(router.clone(), keys));
    guarded
        .route("/health", get(health))
        .route("/metrics", get(tessera_service::scrape))
        .fallback(|| async { plain_error(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async { plain_error(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method") })
        .layer(middleware::from_fn(call::name))
        .with_state(router)
}

async fn chat(
    State(router): State<Arc<Router>>,
    Extension(call): Extension<Call>,
    body: Request,
) -> Result<Response, RequestError> {
    let (entry, (request, delivery)) = receive(&router, &call, body, chat_request::parse).await?;
    answer(&router, Api::Chat, &call, entry, request, delivery).await
}

async fn completions(
    State(router): State<Arc<Router>>,
    Extension(call): Extension<Call>,
    body: Request,
) -> Result<Response, RequestError> {
    let (entry, (request, delivery)) = receive(&router, &call, body, completion_request::parse).await?;
    answer(&router, Api::Text, &call, entry, request, delivery).await
}

type Parse<T> = fn(&[u8], &Call) -> Result<T, RequestError>;

/// Takes a request on, then reads its body.
async fn receive<T: Send + 'static>(
    router: &Router,
    call: &Call,
    body: Request,
    parse: Parse<T>,
) -> Result<(Entry, T), RequestError> {
    let entry = router.enter(Front::Http, call.arrived())?;
    let read = async {
        let body = call::read(body, router.limits(), &entry.permit).await?;
        if body.len() < SHORT_BODY {
            return parse(&body, call);
        }
        let call = call.clone();
        router.workers().run(move || parse(&body, &call)).await?
    };
    let read = timeout_at(call.arrived() + router.limits().max_duration, read).await;
    match read.unwrap_or_else(|_| Err(RequestError::deadline("its body was being read"))) {
        Ok(parsed) => {
            // What the body became is counted anew.
            entry.permit.release();
            Ok((entry, parsed))
        }
        Err(error) => Err(entry.refused(error)),
    }
}

async fn answer(
    router: &Router,
    api: Api,
    call: &Call,
    entry: Entry,
    request: request::Request,
    delivery: Delivery,
) -> Result<Response, RequestError> {
    let (_, session) = router.generate(entry, request).await?;
    let answer = Answer::new(api, call.id(), router.model_name(), session.prepared());
    if delivery.stream {
        return Ok(sse::respond(session.events(), Chunks::new(answer, delivery), router.limits().max_unread));
    }
    let body = whole::collect(&answer, session.events()).await?;
    Ok(Json(body).into_response())
}

fn model_card(router: &Router) -> Value {
    json!({
        "id": router.model_name(),
        "object": "model",
        "created": router.since(),
        "owned_by": "tessera",
        "max_model_len": router.max_context(),
    })
}

async fn models(State(router): State<Arc<Router>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [model_card(&router)] }))
}

async fn model(State(router): State<Arc<Router>>, Path(name): Path<String>) -> Result<Json<Value>, RequestError> {
    router.check_model(&name)?;
    Ok(Json(model_card(&router)))
}

/// Anyone may know whether it serves. Which replicas do not and why, for an operator whether it serves or not, names
/// addresses, and is told to those alone who may send requests.
async fn health(State(router): State<Arc<Router>>, headers: HeaderMap) -> Response {
    let problem = router.problem();
    let (status, word) = match &problem {
        None => (StatusCode::OK, "ready"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    let (ready, known) = router.replicas().count();
    let mut told = json!({ "status": word, "replicas": { "ready": ready, "known": known } });
    if let Some(problem) = problem {
        told["reason"] = problem.into();
    }
    if check_key(&router, &headers).is_ok() {
        told["problems"] = router.replicas().problems().into();
    }
    (status, Json(told)).into_response()
}

fn check_key(router: &Router, headers: &HeaderMap) -> Result<(), RequestError> {
    router.keys().check(headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes))
}

async fn keys(State(router): State<Arc<Router>>, request: Request, next: middleware::Next) -> Result<Response, RequestError> {
    check_key(&router, request.headers())?;
    Ok(next.run(request).await)
}

fn plain_error(status: StatusCode, message: &str) -> Response {
    let error = json!({ "error": { "message": message, "type": "invalid_request_error", "param": null, "code": null } });
    (status, Json(error)).into_response()
}
