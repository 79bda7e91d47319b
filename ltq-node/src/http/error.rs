//! What HTTP clients are told when a request is not carried out: `{"code": ..., "detail": ...}`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use ltq_core::{DirectError, Refusal, RefusalCode};
use serde::Serialize;

/// A refusal with its HTTP status.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(super) status: StatusCode,
    /// A [`RefusalCode`]'s text, or one of HTTP's own.
    pub(super) code: &'static str,
    pub(super) detail: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    /// Which kind.
    #[cfg(test)]
    pub(crate) const fn code(&self) -> &'static str {
        self.code
    }

    pub(crate) fn refused(code: RefusalCode, detail: impl Into<String>) -> Self {
        Refusal::new(code, detail).into()
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::new(status_of(refusal.code), refusal.code.as_str(), refusal.detail)
    }
}

impl From<DirectError> for ApiError {
    fn from(error: DirectError) -> Self {
        match error {
            DirectError::Refused(refusal) => refusal.into(),
            other => Self::refused(RefusalCode::Internal, other.to_string()),
        }
    }
}

/// The code in an answer, for the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code(pub(super) &'static str);

#[derive(Serialize)]
struct Body<'a> {
    code: &'a str,
    detail: &'a str,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(Body { code: self.code, detail: &self.detail });
        let mut response = (self.status, body).into_response();
        response.extensions_mut().insert(Code(self.code));
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

/// The status that says best what kind of refusal it is: 4xx where the request is at fault, 503
/// where it may be tried again later, 507 where room must be made first, 500 where it may have
/// happened.
const fn status_of(code: RefusalCode) -> StatusCode {
    match code {
        RefusalCode::Malformed
        | RefusalCode::UnexpectedFrame
        | RefusalCode::VersionUnsupported
        | RefusalCode::BadName
        | RefusalCode::OutOfRange
        | RefusalCode::Damaged
        | RefusalCode::DurabilityUnavailable => StatusCode::BAD_REQUEST,
        RefusalCode::Unauthorized => StatusCode::UNAUTHORIZED,
        RefusalCode::Forbidden => StatusCode::FORBIDDEN,
        RefusalCode::FrameTooLarge | RefusalCode::MessageTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        RefusalCode::LimitReached | RefusalCode::Flooding => StatusCode::TOO_MANY_REQUESTS,
        RefusalCode::PeerTimeout => StatusCode::REQUEST_TIMEOUT,
        RefusalCode::NoSuchTopic
        | RefusalCode::NoSuchChannel
        | RefusalCode::NoSuchHandle
        | RefusalCode::TopicDeleted
        | RefusalCode::ChannelDeleted => StatusCode::NOT_FOUND,
        RefusalCode::HandleInUse
        | RefusalCode::Exists
        | RefusalCode::Fenced
        | RefusalCode::SequenceGap => StatusCode::CONFLICT,
        RefusalCode::StoreFull => StatusCode::INSUFFICIENT_STORAGE,
        RefusalCode::StoreFailed | RefusalCode::Stopping | RefusalCode::Draining => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_a_fitting_status() {
        for (code, status) in [
            (RefusalCode::BadName, 400),
            (RefusalCode::Unauthorized, 401),
            (RefusalCode::Forbidden, 403),
            (RefusalCode::NoSuchTopic, 404),
            (RefusalCode::MessageTooLarge, 413),
            (RefusalCode::LimitReached, 429),
            (RefusalCode::OutcomeUnknown, 500),
            (RefusalCode::StoreFailed, 503),
            (RefusalCode::Stopping, 503),
            (RefusalCode::Draining, 503),
            (RefusalCode::StoreFull, 507),
        ] {
            assert_eq!(status_of(code).as_u16(), status, "{code}");
        }
        for code in RefusalCode::ALL {
            assert!(status_of(*code).as_u16() >= 400, "{code}");
        }
    }
}
