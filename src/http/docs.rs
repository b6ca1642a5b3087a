//! The OpenAPI document and the page that shows it, without any request to another host.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use utoipa::Modify;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};

/// RapiDoc 9.3.8, MIT licence (`assets/rapidoc.LICENSE`): one file, no other resources.
const RAPIDOC: &[u8] = include_bytes!("../../assets/rapidoc-min.js");
const PAGE: &str = include_str!("../../assets/docs.html");

/// Adds the bearer scheme, which every operation but the open ones needs.
pub struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        if let Some(components) = document.components.as_mut() {
            components.add_security_scheme("key", SecurityScheme::Http(scheme));
        }
        document.security = Some(vec![SecurityRequirement::new("key", Vec::<String>::new())]);
    }
}

/// `/openapi.json` and `/docs`.
pub fn routes<S: Clone + Send + Sync + 'static>(document: &OpenApi) -> Router<S> {
    // A document that the generator made can be serialised.
    let json = document.to_json().expect("the OpenAPI document is plain data");
    let policy = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
                  font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    Router::new()
        .route("/openapi.json", get(move || async { ([(header::CONTENT_TYPE, "application/json")], json) }))
        .route(
            "/docs",
            get(move || async move {
                let headers =
                    [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, policy)];
                (headers, PAGE).into_response()
            }),
        )
        .route(
            "/docs/rapidoc.js",
            get(|| async { ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], RAPIDOC) }),
        )
}
