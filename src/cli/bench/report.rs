//! What a benchmark found, for people and for programs.
//!
//! Owns: medians and spreads over repeats, the table, the JSON. Must not know: how it was measured. Keeps: every single
//! measurement is in the JSON, so that a summary can be checked.

use std::fmt::Write;

use serde::Serialize;

use super::load::Tally;
use super::spawn::Usage;

/// One run of one workload.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// Name of the workload.
    pub workload: &'static str,
    /// What is counted: `events` or `people`.
    pub unit: &'static str,
    /// Number of the repeat, from 0.
    pub repeat: u32,
    /// Connections, one request in flight on each.
    pub clients: usize,
    /// Operations within the window: requests together with their retries.
    pub operations: u64,
    /// Events or people within the window.
    pub units: u64,
    /// Length of the window.
    pub seconds: f64,
    /// Units per second.
    pub rate: f64,
    /// Conflicts per successful operation.
    pub conflicts_per_operation: f64,
    /// Answers 429 and 503, each followed by a pause.
    pub refused: u64,
    /// Latency of the operations in milliseconds, retries included.
    pub latency_ms: Latency,
    /// CPU time of the server per unit in microseconds, warm-up included; only of a server of our own.
    pub server_cpu_us_per_unit: Option<f64>,
}

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Maximum.
    pub max: f64,
}

/// All repeats of one workload.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Name of the workload.
    pub workload: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// Connections.
    pub clients: usize,
    /// Median of the rates.
    pub rate: f64,
    /// Highest minus lowest rate, in percent of the median.
    pub spread_percent: f64,
    /// Median of each latency over the repeats; of the maximum, the highest.
    pub latency_ms: Latency,
    /// Median.
    pub conflicts_per_operation: f64,
    /// Sum.
    pub refused: u64,
    /// Median.
    pub server_cpu_us_per_unit: Option<f64>,
}

/// Everything a benchmark found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of the program that measured.
    pub version: &'static str,
    /// Events that the benchmark appended in all, preparations included.
    pub events_appended: u64,
    /// A line per workload.
    pub summary: Vec<Summary>,
    /// Every run.
    pub measurements: Vec<Measurement>,
    /// What the server used; only of a server of our own.
    pub server: Option<Usage>,
}

impl Measurement {
    /// Puts a tally into numbers.
    pub fn new(workload: &'static str, unit: &'static str, repeat: u32, tally: &Tally, cpu: Option<f64>) -> Self {
        let millis = |percent| tally.latency.percentile(percent).as_secs_f64() * 1e3;
        let seconds = tally.elapsed.as_secs_f64();
        let units = tally.counted.units;
        Self {
            workload,
            unit,
            repeat,
            clients: tally.clients,
            operations: tally.operations,
            units,
            seconds,
            rate: units as f64 / seconds.max(f64::MIN_POSITIVE),
            conflicts_per_operation: tally.counted.conflicts as f64 / tally.operations.max(1) as f64,
            refused: tally.counted.refused,
            latency_ms: Latency {
                p50: millis(50.0),
                p99: millis(99.0),
                p999: millis(99.9),
                max: tally.latency.max().as_secs_f64() * 1e3,
            },
            server_cpu_us_per_unit: cpu.map(|cpu| cpu * 1e6 / tally.units_in_all.max(1) as f64),
        }
    }
}

/// A line per workload, in the order in which they were measured first.
pub fn summarise(measurements: &[Measurement]) -> Vec<Summary> {
    let mut names: Vec<&'static str> = Vec::new();
    for measurement in measurements {
        if !names.contains(&measurement.workload) {
            names.push(measurement.workload);
        }
    }
    names.into_iter().filter_map(|name| summarise_one(name, measurements)).collect()
}

fn summarise_one(name: &'static str, measurements: &[Measurement]) -> Option<Summary> {
    let runs: Vec<&Measurement> = measurements.iter().filter(|run| run.workload == name).collect();
    let all = |value: fn(&Measurement) -> f64| median(runs.iter().map(|run| value(run)).collect());
    let rates = || runs.iter().map(|run| run.rate);
    let rate = all(|run| run.rate);
    let range = rates().fold(f64::MIN, f64::max) - rates().fold(f64::MAX, f64::min);
    let cpu: Vec<f64> = runs.iter().filter_map(|run| run.server_cpu_us_per_unit).collect();
    let first = runs.first()?;
    Some(Summary {
        workload: name,
        unit: first.unit,
        clients: first.clients,
        rate,
        spread_percent: if rate > 0.0 { range / rate * 100.0 } else { 0.0 },
        latency_ms: Latency {
            p50: all(|run| run.latency_ms.p50),
            p99: all(|run| run.latency_ms.p99),
            p999: all(|run| run.latency_ms.p999),
            max: runs.iter().map(|run| run.latency_ms.max).fold(0.0, f64::max),
        },
        conflicts_per_operation: all(|run| run.conflicts_per_operation),
        refused: runs.iter().map(|run| run.refused).sum(),
        server_cpu_us_per_unit: (!cpu.is_empty()).then(|| median(cpu)),
    })
}

/// The table for a terminal.
pub fn table(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{:<13}{:>8} {:>12}  {:<7}{:>7}{:>10}{:>10}{:>10}{:>10}{:>11}{:>9}{:>11}",
        "workload",
        "clients",
        "per second",
        "unit",
        "spread",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "conflicts",
        "refused",
        "server us"
    );
    for line in &report.summary {
        let Latency { p50, p99, p999, max } = line.latency_ms;
        let cpu = line.server_cpu_us_per_unit.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1}"));
        let _ = writeln!(
            out,
            "{:<13}{:>8} {:>12.0}  {:<7}{:>6.0}%{p50:>10.2}{p99:>10.2}{p999:>10.2}{max:>10.2}{:>11.2}{:>9}{cpu:>11}",
            line.workload,
            line.clients,
            line.rate,
            line.unit,
            line.spread_percent,
            line.conflicts_per_operation,
            line.refused,
        );
    }
    let _ = writeln!(out, "\nappended {} events", report.events_appended);
    if let Some(usage) = &report.server {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let _ = writeln!(
            out,
            "server: {:.1} s CPU, {:.0} MiB resident, {:.0} MiB on disk, {:.0} bytes per event",
            usage.cpu_seconds,
            mebibytes(usage.rss_bytes),
            mebibytes(usage.disk_bytes),
            usage.disk_bytes_per_event
        );
        for file in &usage.files {
            let _ = writeln!(out, "  {:>10.1} MiB  {}", mebibytes(file.bytes), file.path);
        }
    }
    out
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::load::Step;
    use super::*;

    fn tally(units: u64) -> Tally {
        let mut tally = Tally { clients: 2, operations: units, elapsed: Duration::from_secs(2), ..Tally::default() };
        tally.counted = Step { units, conflicts: units / 2, refused: 1 };
        tally.units_in_all = units * 2;
        tally.latency.record(Duration::from_millis(units));
        tally
    }

    #[test]
    fn medians_and_spread() {
        let runs = [100, 400, 200].map(|units| Measurement::new("w1", "events", 0, &tally(units), Some(1.0)));
        let summary = summarise(&runs);
        assert_eq!(summary.len(), 1);
        let line = &summary[0];
        assert!((line.rate - 100.0).abs() < 1e-9 && (line.spread_percent - 150.0).abs() < 1e-9);
        assert!((line.conflicts_per_operation - 0.5).abs() < 1e-9);
        assert!((line.latency_ms.max - 400.0).abs() < 1e-9);
        assert_eq!((line.refused, line.clients), (3, 2));
        assert!((line.server_cpu_us_per_unit.unwrap() - 2500.0).abs() < 1e-6);
        assert!((median(vec![1.0, 4.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn the_table_has_a_line_per_workload() {
        let measurements = vec![
            Measurement::new("w1", "events", 0, &tally(100), None),
            Measurement::new("w2", "events", 0, &tally(300), None),
        ];
        let summary = summarise(&measurements);
        let report = Report { version: "0", events_appended: 7, summary, measurements, server: None };
        let text = table(&report);
        assert_eq!(text.lines().count(), 5);
        assert!(text.contains("appended 7 events"));
    }
}
