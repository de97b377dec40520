//! The one place where refusals become OpenAI errors.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::{ErrorKind, RequestError};

/// A client that closed its request gets nothing; logs and metrics know it by nginx's number.
const CLIENT_CLOSED_REQUEST: u16 = 499;

impl ErrorKind {
    fn status(self) -> StatusCode {
        match self {
            Self::Invalid | Self::PromptTooLong => StatusCode::BAD_REQUEST,
            Self::ModelNotFound => StatusCode::NOT_FOUND,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Exhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::Cancelled => StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::BAD_REQUEST),
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// OpenAI's `type` and `code`.
    fn names(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Invalid | Self::TooLarge | Self::Cancelled => ("invalid_request_error", None),
            Self::PromptTooLong => ("invalid_request_error", Some("context_length_exceeded")),
            Self::ModelNotFound => ("invalid_request_error", Some("model_not_found")),
            Self::Unauthenticated => ("invalid_request_error", Some("invalid_api_key")),
            Self::Exhausted => ("rate_limit_error", Some("rate_limit_exceeded")),
            Self::Unavailable => ("service_unavailable_error", Some("service_unavailable")),
            Self::DeadlineExceeded => ("timeout_error", Some("timeout")),
            Self::Internal => ("server_error", None),
        }
    }
}

/// `{"error": {…}}`
pub(crate) fn body(error: &RequestError) -> Value {
    let (kind, code) = error.kind.names();
    let param = error.field.as_deref().map(openai_name);
    let message = match &param {
        Some(param) => format!("{param}: {}", error.problem),
        None => error.problem.clone(),
    };
    json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        let mut response = (self.kind.status(), Json(body(&self))).into_response();
        if let Some(delay) = self.retry_after {
            // Whole seconds, and never 0: that would be an invitation to hammer.
            let seconds = delay.as_millis().div_ceil(1000).max(1) as u64;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The name OpenAI's API gives to what the gRPC API calls `field`.
fn openai_name(field: &str) -> String {
    let field = field.strip_prefix("sampling.").unwrap_or(field);
    if let Some(place) = field.strip_prefix("tokens.ids") {
        return format!("prompt{place}");
    }
    match field {
        "max_new_tokens" => "max_tokens".into(),
        "min_new_tokens" => "min_tokens".into(),
        "include_stop" => "include_stop_str_in_output".into(),
        "text" | "tokens" => "prompt".into(),
        _ => field.replace(".parts[", ".content[").replace("].image", "].image_url"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn fields_bear_the_names_of_openais_api() {
        for (field, name) in [
            ("sampling.max_new_tokens", "max_tokens"),
            ("sampling.top_p", "top_p"),
            ("messages[1].parts[0].image", "messages[1].content[0].image_url"),
            ("messages[0].role", "messages[0].role"),
        ] {
            assert_eq!(openai_name(field), name);
        }
    }

    #[test]
    fn a_refusal_for_load_is_429_with_whole_seconds_to_wait() {
        let response = RequestError::exhausted("full", Duration::from_millis(1200)).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    }
}
