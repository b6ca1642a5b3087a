//! Latencies in buckets.
//!
//! Owns: a log-linear histogram of durations. Must not know: what was timed. Keeps: a reported percentile is at most
//! 0.8 % above the true one and never below it; the maximum is exact; recording never allocates.

use std::time::Duration;

/// Buckets per octave, as a power of two: a bucket is at most 1/128 of its values wide.
const BITS: u32 = 7;
const PER_OCTAVE: usize = 1 << BITS;
/// Octaves above the linear part: up to 2^42 ns, more than an hour. Longer durations share the last bucket.
const OCTAVES: usize = 35;

/// Counts of durations; about 36 KiB whatever is recorded.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; (OCTAVES + 1) * PER_OCTAVE], total: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket_of(nanos).min(self.counts.len() - 1);
        self.counts[bucket] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    /// Adds what another histogram counted.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The longest duration.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The smallest recorded duration that at least `percent` of all durations do not exceed, rounded up to its
    /// bucket's upper edge. Zero when nothing was recorded.
    pub fn percentile(&self, percent: f64) -> Duration {
        let wanted = ((self.total as f64 * percent / 100.0).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                // The last bucket is open upwards, and no percentile exceeds the maximum.
                let edge = if bucket + 1 == self.counts.len() { self.max } else { upper_edge(bucket) };
                return Duration::from_nanos(edge.min(self.max));
            }
        }
        Duration::ZERO
    }
}

fn bucket_of(nanos: u64) -> usize {
    if nanos < PER_OCTAVE as u64 {
        return nanos as usize;
    }
    // The top BITS + 1 bits of the value select the bucket; the leading one is implied by the octave.
    let octave = nanos.ilog2() - BITS;
    (octave as usize + 1) * PER_OCTAVE + ((nanos >> octave) as usize - PER_OCTAVE)
}

fn upper_edge(bucket: usize) -> u64 {
    if bucket < PER_OCTAVE {
        return bucket as u64;
    }
    let octave = bucket / PER_OCTAVE - 1;
    let top = (bucket % PER_OCTAVE + PER_OCTAVE) as u64;
    ((top + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_within_one_percent() {
        let mut value = 1u64;
        while value < 1 << 41 {
            let edge = upper_edge(bucket_of(value));
            assert!(edge >= value, "{value} above its edge {edge}");
            assert!((edge - value) as f64 <= value as f64 * 0.0079, "{value} too far from its edge {edge}");
            assert_eq!(bucket_of(edge), bucket_of(value));
            assert_eq!(bucket_of(edge + 1), bucket_of(value) + 1);
            value += value / 97 + 1;
        }
    }

    #[test]
    fn percentiles_of_a_known_set() {
        let mut histogram = Histogram::default();
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        let near = |percent: f64, micros: f64| {
            let got = histogram.percentile(percent).as_secs_f64() * 1e6;
            assert!(got >= micros && got <= micros * 1.008, "p{percent}: {got}");
        };
        near(50.0, 500.0);
        near(99.0, 990.0);
        near(99.9, 999.0);
        assert_eq!(histogram.percentile(100.0), Duration::from_millis(1));
        assert_eq!(histogram.max(), Duration::from_millis(1));
        assert_eq!(histogram.count(), 1000);
    }

    #[test]
    fn merging_is_recording_both() {
        let (mut left, mut right, mut both) = (Histogram::default(), Histogram::default(), Histogram::default());
        for nanos in 0..5000u64 {
            let duration = Duration::from_nanos(nanos * nanos);
            if nanos % 3 == 0 {
                left.record(duration);
            } else {
                right.record(duration);
            }
            both.record(duration);
        }
        left.merge(&right);
        assert_eq!(left.counts, both.counts);
        assert_eq!((left.total, left.max), (both.total, both.max));
    }

    #[test]
    fn empty_and_endless() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(99.0), Duration::ZERO);
        histogram.record(Duration::from_secs(1_000_000));
        assert_eq!(histogram.percentile(50.0), Duration::from_secs(1_000_000));
    }
}
