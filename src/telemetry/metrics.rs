//! The metrics.
//!
//! Owns: every metric's name, unit and labels. Keeps invariant 1 on its side: no label holds a stream, a person, an actor or
//! any other text of a caller. Every label is an enum of ours, a route the server itself declared, or the name that an
//! administrator gave a projection.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::clock::Millis;

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The label's text.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// The value of a text; `None` for one that is not a label.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text)
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
                EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        }
    };
}

label!(
    /// Why a personal value was not shown.
    ValueState {
        /// Its key is destroyed on request.
        Erased = "erased",
        /// Its key is destroyed because its time was over.
        Expired = "expired",
        /// Its processing is restricted (Art. 18).
        Restricted = "restricted",
        /// This caller may not see it.
        Withheld = "withheld",
        /// The keys cannot be reached.
        Unavailable = "unavailable",
    }
);

label!(
    /// State of a key.
    KeyState {
        /// In use.
        Active = "active",
        /// Fenced, about to be destroyed.
        Fenced = "fenced",
        /// Destroyed.
        Destroyed = "destroyed",
    }
);

label!(
    /// Status of a forget request.
    ForgetStatus {
        /// Previewed.
        Previewed = "previewed",
        /// Approved.
        Approved = "approved",
        /// Fenced.
        Fenced = "fenced",
        /// Keys are being destroyed.
        Destroying = "destroying",
        /// The result is being checked.
        Verifying = "verifying",
        /// Done.
        Completed = "completed",
        /// Done as far as holds allow.
        PartiallyCompleted = "partially_completed",
        /// Rejected.
        Rejected = "rejected",
        /// Cancelled.
        Cancelled = "cancelled",
        /// Failed, and tried again.
        Failed = "failed",
    }
);

label!(
    /// What an unmarked value looked like.
    LeakShape {
        /// An e-mail address.
        Email = "email",
        /// A phone number.
        Phone = "phone",
        /// A bank account number.
        Iban = "iban",
        /// A payment card.
        Card = "card",
        /// A national identity number.
        NationalId = "national-id",
        /// A shape this list does not know yet.
        Other = "other",
    }
);

label!(
    /// A request's method. Methods are free text in HTTP, so all but these are one.
    Method {
        /// GET.
        Get = "GET",
        /// HEAD.
        Head = "HEAD",
        /// POST.
        Post = "POST",
        /// PUT.
        Put = "PUT",
        /// DELETE.
        Delete = "DELETE",
        /// Any other.
        Other = "other",
    }
);

/// A single label `state`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByValueState {
    state: ValueState,
}

/// A single label `state`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByKeyState {
    state: KeyState,
}

/// A single label `status`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByStatus {
    status: ForgetStatus,
}

/// A single label `shape`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByShape {
    shape: LeakShape,
}

/// A single label `route`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByRoute {
    route: Arc<str>,
}

/// A single label `projection`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByProjection {
    projection: String,
}

/// The labels of a finished request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByRequest {
    method: Method,
    route: Arc<str>,
    status: &'static str,
}

type Histograms = Family<ByRoute, Histogram, fn() -> Histogram>;

/// Every metric of the server. Cloning is not needed: share it in an `Arc`.
pub struct Metrics {
    registry: Registry,
    routes: BTreeSet<Arc<str>>,
    unmatched: Arc<str>,
    /// Events committed.
    pub events_appended: Counter,
    /// From the request's arrival in the writer's queue to its durable commit.
    pub append_duration: Histogram,
    /// Jobs in one commit.
    pub batch_size: Histogram,
    /// Jobs waiting for the writer.
    pub writer_queue_depth: Gauge,
    /// Events handed to readers.
    pub read_events: Counter,
    /// Personal values shown.
    pub opened_values: Counter,
    /// From approval to completion of a forget request.
    pub forget_duration: Histogram,
    /// Open live streams.
    pub sse_connections: Gauge,
    redacted_values: Family<ByValueState, Counter>,
    forget_requests: Family<ByStatus, Gauge>,
    keys: Family<ByKeyState, Gauge>,
    projection_lag: Family<ByProjection, Gauge>,
    projection_lag_seconds: Family<ByProjection, Gauge<f64, AtomicU64>>,
    projection_last_tick: Family<ByProjection, Gauge<f64, AtomicU64>>,
    projection_stalled: Family<ByProjection, Gauge>,
    leak_findings: Family<ByShape, Counter>,
    http_requests: Family<ByRequest, Counter>,
    http_request_duration: Histograms,
}

impl Metrics {
    /// All metrics at zero. `routes` are the templates the server answers (`/v1/streams/{stream}/events`); a request to
    /// anything else counts as `unmatched`, so a path can never become a label. `started` is the process's start.
    pub fn new(routes: impl IntoIterator<Item = String>, started: Millis) -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("oubliette"),
            routes: routes.into_iter().map(Arc::from).collect(),
            unmatched: "unmatched".into(),
            events_appended: Counter::default(),
            append_duration: Histogram::new(exponential_buckets(0.0005, 2.0, 15)),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            writer_queue_depth: Gauge::default(),
            read_events: Counter::default(),
            opened_values: Counter::default(),
            forget_duration: Histogram::new(exponential_buckets(0.05, 2.0, 14)),
            sse_connections: Gauge::default(),
            redacted_values: Family::default(),
            forget_requests: Family::default(),
            keys: Family::default(),
            projection_lag: Family::default(),
            projection_lag_seconds: Family::default(),
            projection_last_tick: Family::default(),
            projection_stalled: Family::default(),
            leak_findings: Family::default(),
            http_requests: Family::default(),
            http_request_duration: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.0005, 2.0, 15))
            }),
        };
        metrics.registered(started)
    }

    fn registered(mut self, started: Millis) -> Self {
        let r = &mut self.registry;
        let start: Gauge<f64, AtomicU64> = Gauge::default();
        start.set(started.0 as f64 / 1000.0);
        r.register("build", "What is running", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        r.register_with_unit("process_start_time", "Start of the process, Unix time", Unit::Seconds, start);
        r.register("events_appended", "Events committed", self.events_appended.clone());
        let help = "Queueing, sealing excluded, to durable commit";
        r.register_with_unit("append_duration", help, Unit::Seconds, self.append_duration.clone());
        r.register("batch_size", "Jobs in one commit", self.batch_size.clone());
        r.register("writer_queue_depth", "Jobs waiting for the writer", self.writer_queue_depth.clone());
        r.register("read_events", "Events handed to readers", self.read_events.clone());
        r.register("redacted_values", "Personal values not shown, by reason", self.redacted_values.clone());
        r.register("opened_values", "Personal values shown", self.opened_values.clone());
        r.register("forget_requests", "Forget requests by status", self.forget_requests.clone());
        let help = "From approval to completion of a forget request";
        r.register_with_unit("forget_duration", help, Unit::Seconds, self.forget_duration.clone());
        r.register("keys", "Keys of data subjects by state", self.keys.clone());
        r.register("projection_lag_events", "Events not yet handled", self.projection_lag.clone());
        let help = "How long it has been behind";
        r.register_with_unit("projection_lag", help, Unit::Seconds, self.projection_lag_seconds.clone());
        let help = "When it last looked at the log, Unix time";
        r.register_with_unit("projection_last_tick_timestamp", help, Unit::Seconds, self.projection_last_tick.clone());
        r.register("projection_stalled", "1 when it does not move", self.projection_stalled.clone());
        r.register("http_requests", "Requests answered", self.http_requests.clone());
        let help = "From the request's head to the response's head";
        r.register_with_unit("http_request_duration", help, Unit::Seconds, self.http_request_duration.clone());
        r.register("sse_connections", "Open live streams", self.sse_connections.clone());
        r.register("leak_findings", "Unmarked values that look personal, by shape", self.leak_findings.clone());
        self
    }

    /// Counts personal values that were not shown.
    pub fn redacted(&self, state: ValueState, values: u64) {
        self.redacted_values.get_or_create(&ByValueState { state }).inc_by(values);
    }

    /// States how many forget requests have a status.
    pub fn forget_requests(&self, status: ForgetStatus, requests: u64) {
        self.forget_requests.get_or_create(&ByStatus { status }).set(requests as i64);
    }

    /// States how many keys are in a state.
    pub fn keys(&self, state: KeyState, keys: u64) {
        self.keys.get_or_create(&ByKeyState { state }).set(keys as i64);
    }

    /// Counts a finding of the leak guard; `shape` is the lint's own word for it.
    pub fn leak_finding(&self, shape: &str) {
        let shape = LeakShape::parse(shape).unwrap_or(LeakShape::Other);
        self.leak_findings.get_or_create(&ByShape { shape }).inc();
    }

    /// Counts an answered request. `route` is the matched template, `None` when nothing matched.
    pub fn http_request(&self, method: &str, route: Option<&str>, status: u16, took: Duration) {
        let known = route.and_then(|route| self.routes.get(route)).unwrap_or(&self.unmatched);
        let method = Method::parse(method).unwrap_or(Method::Other);
        let status = match status / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.http_requests.get_or_create(&ByRequest { method, route: known.clone(), status }).inc();
        self.http_request_duration.get_or_create(&ByRoute { route: known.clone() }).observe(took.as_secs_f64());
    }

    /// Where every projection stands: name, events behind, seconds behind, last look, whether it does not move. One that
    /// is no longer named is no longer told of.
    pub fn projections(&self, all: impl IntoIterator<Item = (String, u64, f64, Millis, bool)>) {
        self.projection_lag.clear();
        self.projection_lag_seconds.clear();
        self.projection_last_tick.clear();
        self.projection_stalled.clear();
        for (projection, events, seconds, tick, stalled) in all {
            let label = ByProjection { projection };
            self.projection_lag.get_or_create(&label).set(events as i64);
            self.projection_lag_seconds.get_or_create(&label).set(seconds);
            self.projection_last_tick.get_or_create(&label).set(tick.0 as f64 / 1000.0);
            self.projection_stalled.get_or_create(&label).set(i64::from(stalled));
        }
    }

    /// The OpenMetrics text (`application/openmetrics-text; version=1.0.0; charset=utf-8`).
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a string fails only when an encoder of ours does, and none can");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new(["/v1/streams/{stream}/events".to_owned()], Millis(1_700_000_000_500))
    }

    #[test]
    fn no_text_of_a_caller_becomes_a_label() {
        let metrics = metrics();
        let took = Duration::from_millis(3);
        metrics.http_request("GET", Some("/v1/streams/{stream}/events"), 200, took);
        metrics.http_request("ADA", Some("/v1/streams/ada@example.org/events"), 404, took);
        metrics.http_request("POST", None, 500, took);
        metrics.leak_finding("email");
        metrics.leak_finding("ada");
        metrics.redacted(ValueState::Erased, 2);
        let text = metrics.encode();
        assert!(!text.to_lowercase().contains("ada"), "{text}");
        assert!(text.contains(
            "oubliette_http_requests_total{method=\"GET\",route=\"/v1/streams/{stream}/events\",status=\"2xx\"} 1"
        ));
        assert!(text.contains("method=\"other\",route=\"unmatched\",status=\"4xx\"} 1"));
        assert!(text.contains("oubliette_leak_findings_total{shape=\"other\"} 1"));
        assert!(text.contains("oubliette_redacted_values_total{state=\"erased\"} 2"));
    }

    #[test]
    fn names_and_units_are_those_documented() {
        let metrics = metrics();
        metrics.events_appended.inc_by(3);
        metrics.append_duration.observe(0.002);
        metrics.forget_requests(ForgetStatus::Completed, 4);
        metrics.keys(KeyState::Active, 7);
        let text = metrics.encode();
        for line in [
            "oubliette_build_info{version=",
            "oubliette_process_start_time_seconds 1700000000.5",
            "oubliette_events_appended_total 3",
            "oubliette_append_duration_seconds_count 1",
            "oubliette_batch_size_count 0",
            "oubliette_writer_queue_depth 0",
            "oubliette_read_events_total 0",
            "oubliette_opened_values_total 0",
            "oubliette_forget_requests{status=\"completed\"} 4",
            "oubliette_forget_duration_seconds_count 0",
            "oubliette_keys{state=\"active\"} 7",
            "oubliette_sse_connections 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn labels_are_few() {
        let metrics = metrics();
        for path in 0..1000 {
            metrics.http_request("GET", Some(&format!("/v1/streams/s-{path}/events")), 200, Duration::ZERO);
        }
        assert_eq!(metrics.encode().matches("oubliette_http_requests_total{").count(), 1);
    }
}
