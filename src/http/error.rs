//! Status codes, in this file alone, and what the client reads with them.

use serde::Serialize;
use serde_json::json;
use warp::Rejection;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use warp::http::{self, StatusCode};

use crate::metric_definitions::Status;

/// Our responses: a small body in memory.
pub(super) type Response = http::Response<Vec<u8>>;

/// The status of every answer that is no error.
pub(super) const OK: StatusCode = StatusCode::OK;

/// Why a request is not done. The client reads the text; it never holds
/// anything of the inside or of another caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    #[error("{0}")]
    Unauthorized(&'static str),
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    #[error("{0}")]
    Invalid(String),
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body took too long")]
    TooSlow,
    /// ElevenLabs retries 5xx.
    #[error("{0}")]
    Unavailable(&'static str),
    #[error("no such route")]
    NotFound,
    #[error("{0}")]
    NoSuchThing(&'static str),
    #[error("this route takes another method")]
    WrongMethod,
    #[error("internal error")]
    Internal,
}

impl ApiError {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::NotJson(_) => StatusCode::BAD_REQUEST,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotFound | Self::NoSuchThing(_) => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub fn into_response(self) -> Response {
        let status = self.status();
        let mut response = json(&json!({"error": self.to_string()}));
        *response.status_mut() = status;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

impl warp::reject::Reject for ApiError {}

/// A request body that serde refused: 400 for what is not JSON, 422 for JSON
/// with a missing or wrong field.
impl From<serde_json::Error> for ApiError {
    fn from(error: serde_json::Error) -> Self {
        if error.is_data() {
            Self::Invalid(format!("the body is not as expected: {error}"))
        } else {
            Self::NotJson(error.to_string())
        }
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        if let Some(error) = rejection.find::<Self>() {
            error.clone()
        } else if rejection.find::<warp::reject::InvalidQuery>().is_some() {
            // Before the methods that other routes of this path take.
            Self::Invalid("what stands behind the ? is not as expected".to_owned())
        } else if rejection.is_not_found() {
            Self::NotFound
        } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
            Self::WrongMethod
        } else if rejection.find::<warp::reject::InvalidHeader>().is_some() {
            Self::Unauthorized("a header is not readable")
        } else {
            tracing::error!(?rejection, "A request was rejected for an unknown reason");
            Self::Internal
        }
    }
}

/// A 200 with this JSON.
pub(super) fn json(body: &impl Serialize) -> Response {
    // Our own types always serialise.
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Most of our answers tell of a caller: nobody on the way keeps them.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The label under which a webhook's status is counted.
pub(super) fn label(status: StatusCode) -> Option<Status> {
    Some(match status.as_u16() {
        200 => Status::S200,
        400 => Status::S400,
        401 => Status::S401,
        408 => Status::S408,
        413 => Status::S413,
        422 => Status::S422,
        503 => Status::S503,
        _ => return None,
    })
}

/// The answer of the readiness check.
pub(super) fn ready(ready: bool, body: &impl Serialize) -> Response {
    let mut response = json(body);
    if !ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}
