//! All randomness of a run, from one seed.

use pymesh_engine::base::rng::Rng;

/// A seeded source of decisions.
pub struct Chance(Rng);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(Rng::new(seed))
    }

    /// A source of its own, so that one part's decisions do not move another's.
    pub fn fork(&mut self) -> Chance {
        Chance::new(self.0.bits())
    }

    pub fn bits(&mut self) -> u64 {
        self.0.bits()
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    /// Between both, inclusive.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.0.below(high - low + 1)
    }

    /// True once in `n` times; never for 0.
    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.0.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.0.below(from.len() as u64) as usize]
    }

    /// From 1 to `most`, every order of magnitude as likely as the next: edges
    /// are found by small numbers as often as by large ones.
    pub fn size(&mut self, most: usize) -> usize {
        let magnitude = self.0.below(u64::from(usize::BITS - most.leading_zeros()));
        (self.range(1 << magnitude, (2 << magnitude) - 1) as usize).min(most)
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.0.below(at as u64 + 1) as usize);
        }
    }
}
