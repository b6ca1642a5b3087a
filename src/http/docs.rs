//! The OpenAPI document and the page that shows it, without any request to another host.

use axum::Router;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa::Modify;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};

use super::problem::Problem;

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

/// The catalogue that the `type` of every problem points into.
const PROBLEMS: &str = include_str!("../../docs/problems.md");

/// The entry of one problem code: its row of the catalogue, as Markdown.
async fn problem_page(Path(code): Path<String>) -> Response {
    let cells =
        |line: &'static str| -> Vec<&'static str> { line.trim_matches('|').split('|').map(str::trim).collect() };
    let row = PROBLEMS.lines().map(cells).find(|row| row[0].trim_matches('`') == code && row[0] != code);
    let Some([name, status, cause, fix]) = row.as_deref() else { return Problem::not_found().into_response() };
    let text = format!("# {name}\n\nStatus: {status}\n\nCause: {cause}\n\nFix: {fix}\n");
    ([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], text).into_response()
}

/// `/openapi.json`, `/docs` and `/problems/…`.
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
        .route("/problems/{code}", get(problem_page))
        .route(
            "/docs/rapidoc.js",
            get(|| async { ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], RAPIDOC) }),
        )
}
