//! A run over time: what was answered and how late, bin by bin.

use std::time::Duration;

use hdrhistogram::Histogram;
use pymesh_engine::base::time::Time;

use crate::tally::{add, histogram, record};

/// More bins than this are folded in two.
const MOST: usize = 240;

/// Bins of equal width from the end of the warm-up on.
#[derive(Clone)]
pub struct Series {
    start: Time,
    width: Duration,
    bins: Vec<Bin>,
}

/// One stretch of time.
#[derive(Clone, Default)]
pub struct Bin {
    /// Answers that came in it.
    pub answered: u64,
    /// Failures that were seen in it.
    pub failed: u64,
    /// Latencies, in nanoseconds, of the requests that were meant to start in it.
    pub latency: Option<Histogram<u64>>,
}

impl Bin {
    fn add(&mut self, other: &Bin) {
        self.answered += other.answered;
        self.failed += other.failed;
        match (&mut self.latency, &other.latency) {
            (Some(mine), Some(more)) => add(mine, more),
            (mine @ None, more) => mine.clone_from(more),
            (_, None) => {}
        }
    }
}

impl Series {
    pub(crate) fn new(start: Time, width: Duration) -> Series {
        Series { start, width: width.max(Duration::from_millis(1)), bins: Vec::new() }
    }

    /// The width of each bin.
    pub fn width(&self) -> Duration {
        self.width
    }

    /// In order of time.
    pub fn bins(&self) -> &[Bin] {
        &self.bins
    }

    fn at(&mut self, time: Time) -> Option<&mut Bin> {
        let place = |width: Duration| (time.since(self.start).as_nanos() / width.as_nanos().max(1)) as usize;
        while place(self.width) >= MOST {
            fold(&mut self.bins);
            self.width *= 2;
        }
        let index = place(self.width);
        if self.bins.len() <= index {
            self.bins.resize_with(index + 1, Bin::default);
        }
        self.bins.get_mut(index)
    }

    pub(crate) fn answered(&mut self, at: Time) {
        if let Some(bin) = self.at(at) {
            bin.answered += 1;
        }
    }

    pub(crate) fn failed(&mut self, at: Time) {
        if let Some(bin) = self.at(at) {
            bin.failed += 1;
        }
    }

    pub(crate) fn latency(&mut self, intended: Time, nanos: u64) {
        if let Some(bin) = self.at(intended) {
            let latency = bin.latency.get_or_insert_with(|| histogram(2));
            record(latency, nanos);
        }
    }

    pub(crate) fn merge(&mut self, other: &Series) {
        let mut other = other.clone();
        while self.width < other.width {
            fold(&mut self.bins);
            self.width *= 2;
        }
        while other.width < self.width {
            fold(&mut other.bins);
            other.width *= 2;
        }
        if self.bins.len() < other.bins.len() {
            self.bins.resize_with(other.bins.len(), Bin::default);
        }
        for (mine, more) in self.bins.iter_mut().zip(&other.bins) {
            mine.add(more);
        }
    }
}

/// Makes one bin of each two.
fn fold(bins: &mut Vec<Bin>) {
    let folded = bins.chunks(2).map(|pair| {
        let mut sum = Bin::default();
        pair.iter().for_each(|bin| sum.add(bin));
        sum
    });
    *bins = folded.collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_long_run_folds_its_bins_and_loses_nothing() {
        let (mut long, mut short) = (series(), series());
        for second in 0..1_000 {
            long.answered(at(second * 1_000));
            long.latency(at(second * 1_000), 5);
        }
        short.answered(at(3));
        short.failed(at(999_999));
        short.merge(&long);
        assert_eq!(short.width(), long.width());
        assert!(short.bins().len() <= MOST);
        assert_eq!(short.bins().iter().map(|bin| bin.answered).sum::<u64>(), 1_001);
        assert_eq!(short.bins().last().unwrap().failed, 1);
        assert_eq!(short.bins().iter().filter_map(|bin| Some(bin.latency.as_ref()?.len())).sum::<u64>(), 1_000);
    }

    fn series() -> Series {
        Series::new(at(0), Duration::from_millis(100))
    }
}
