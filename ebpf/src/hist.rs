//! Log-linear histograms: 16 buckets per power of two, so that a bucket is at most 1/16 of its
//! lower bound wide and a quantile is within 6.25 % of the truth.
//!
//! Values below 16 have a bucket each. Above, with `exp` the position of the highest set bit,
//! the bucket is `(exp - 3) * 16 + ((value >> (exp - 4)) & 15)`. That covers all 64 bits.

use crate::layout::linear_words;
use crate::stats::StatData;

/// Buckets of a histogram.
pub const BUCKETS: usize = 976;

/// The bucket that `value` falls into.
pub fn index(value: u64) -> usize {
    if value < 16 {
        return value as usize;
    }
    let exp = 63 - value.leading_zeros() as usize;
    (exp - 3) * 16 + ((value >> (exp - 4)) & 15) as usize
}

/// The lowest and the highest value of a bucket, both inclusive. An index past the last bucket
/// is taken for the last.
pub fn bounds(index: usize) -> (u64, u64) {
    let index = index.min(BUCKETS - 1);
    if index < 16 {
        return (index as u64, index as u64);
    }
    let exp = index / 16 + 3;
    let width = 1u64 << (exp - 4);
    let low = (16 + (index % 16) as u64) << (exp - 4);
    (low, low + (width - 1))
}

/// What the kernel aggregated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistData {
    /// Values seen.
    pub count: u64,
    /// Their sum. Exact; the kernel keeps 128 bits where it can add and fetch (Linux 5.12),
    /// before that 64 bits, which wrap.
    pub sum: u128,
    /// The smallest value; 0 when there is none.
    pub min: u64,
    /// The largest value; 0 when there is none.
    pub max: u64,
    /// Values per bucket, [`BUCKETS`] of them.
    pub buckets: Vec<u64>,
}

impl Default for HistData {
    fn default() -> Self {
        HistData {
            count: 0,
            sum: 0,
            min: 0,
            max: 0,
            buckets: vec![0; BUCKETS],
        }
    }
}

impl HistData {
    /// The arithmetic mean, 0 when there is no value.
    pub fn mean(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        self.sum as f64 / self.count as f64
    }

    /// The value that a share `q` (0 to 1) of the values does not exceed: the middle of the
    /// bucket where the rank falls, within `min..=max`. 0 when there is no value.
    pub fn quantile(&self, q: f64) -> u64 {
        if self.count == 0 {
            return 0;
        }
        let rank = ((q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).clamp(1, self.count);
        if rank == self.count {
            return self.max;
        }
        let mut seen = 0u64;
        for (i, n) in self.buckets.iter().enumerate() {
            seen = seen.saturating_add(*n);
            if seen >= rank {
                let (low, high) = bounds(i);
                return (low + (high - low) / 2).clamp(self.min, self.max.max(self.min));
            }
        }
        self.max
    }

    /// Adds `other` to this.
    pub fn merge(&mut self, other: &HistData) {
        if other.count == 0 {
            return;
        }
        self.min = if self.count == 0 {
            other.min
        } else {
            self.min.min(other.min)
        };
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to += from;
        }
    }
}

/// What the kernel aggregated in buckets of the same width; values are signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinearData {
    /// Values below the first bucket.
    pub below: u64,
    /// Values above the last bucket.
    pub above: u64,
    /// Values per bucket.
    pub buckets: Vec<u64>,
    /// The sum of all values; it wraps.
    pub sum: i64,
    /// The least value.
    pub min: i64,
    /// The largest value.
    pub max: i64,
}

impl LinearData {
    /// Values seen.
    pub fn count(&self) -> u64 {
        self.below + self.above + self.buckets.iter().sum::<u64>()
    }

    /// `None`: there were no values.
    pub(crate) fn decode(buckets: u32, word: impl Fn(usize) -> u64) -> Option<LinearData> {
        let first = linear_words::BELOW + 1;
        let values = StatData::decode(&word);
        let data = LinearData {
            below: word(linear_words::BELOW),
            above: word(first + buckets as usize),
            buckets: (0..buckets as usize).map(|i| word(first + i)).collect(),
            sum: values.sum,
            min: values.min,
            max: values.max,
        };
        (data.count() > 0).then_some(data)
    }

    pub(crate) fn merge(&mut self, other: &LinearData) {
        self.below += other.below;
        self.above += other.above;
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to += from;
        }
        self.sum = self.sum.wrapping_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_tile_all_values() {
        let mut next = 0u128;
        for i in 0..BUCKETS {
            let (low, high) = bounds(i);
            assert_eq!(u128::from(low), next, "bucket {i}");
            assert_eq!((index(low), index(high)), (i, i));
            next = u128::from(high) + 1;
        }
        assert_eq!(next, 1u128 << 64);
    }

    proptest! {
        #[test]
        fn a_bucket_is_narrow(value: u64, shift in 0u32..64) {
            let value = value >> shift;
            let (low, high) = bounds(index(value));
            prop_assert!(low <= value && value <= high);
            prop_assert!((high - low) as f64 <= low as f64 / 16.0);
        }

        #[test]
        fn quantiles_are_within_a_bucket(mut values in prop::collection::vec(any::<u32>(), 1..200), q in 0.0f64..=1.0) {
            let mut hist = HistData { min: u64::MAX, ..HistData::default() };
            for v in &values {
                let v = u64::from(*v);
                hist.count += 1;
                hist.sum += u128::from(v);
                hist.min = hist.min.min(v);
                hist.max = hist.max.max(v);
                hist.buckets[index(v)] += 1;
            }
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let truth = u64::from(values[rank - 1]);
            let got = hist.quantile(q);
            let (low, high) = bounds(index(truth));
            prop_assert!(low <= got && got <= high, "{got} is not in {low}..={high} of {truth}");
        }
    }

    #[test]
    fn merging_keeps_extremes_and_ignores_the_empty() {
        let one = |v: u64| {
            let mut h = HistData {
                count: 1,
                sum: v.into(),
                min: v,
                max: v,
                ..HistData::default()
            };
            h.buckets[index(v)] = 1;
            h
        };
        let mut h = HistData::default();
        h.merge(&one(7));
        h.merge(&HistData::default());
        h.merge(&one(500));
        assert_eq!((h.count, h.sum, h.min, h.max), (2, 507, 7, 500));
        assert_eq!(h.quantile(0.5), 7);
        assert_eq!(h.quantile(1.0), 500);
    }
}
