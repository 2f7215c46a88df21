//! Ketama's ring: each host has points on a circle of hashes, and the next point from a request's hash on serves it.
//!
//! A host that leaves takes its points with it, so that only its own keys move. How many points there are, and where,
//! is as in Envoy, down to the rounding: the same key goes to the same host.

use pymesh_model::balance::{HashFunction, RingHash};

use super::hash_table::Member;
use crate::base::hash::{murmur_hash2, xx_hash64};

/// Points in ascending order, and the member that each belongs to.
#[derive(Debug)]
pub(crate) struct Ring {
    points: Box<[u64]>,
    owners: Box<[u32]>,
}

impl Ring {
    pub fn new(settings: &RingHash, members: &[Member]) -> Ring {
        let least = members.iter().map(|member| member.weight).fold(1.0, f64::min);
        // The member of least weight gets a whole number of points; the others as their weights demand.
        let scale = ((least * settings.minimum_size as f64).ceil() / least).min(settings.maximum_size as f64);
        let mut points = Vec::with_capacity(members.len());
        // Sums over all members, so that fractions of points are not lost between them.
        let (mut current, mut target) = (0.0, 0.0);
        let mut text = Vec::new();
        for (owner, member) in (0u32..).zip(members) {
            target += scale * member.weight;
            let mut serial = 0u64;
            while current < target {
                text.clear();
                text.extend_from_slice(member.key.as_bytes());
                text.push(b'_');
                text.extend_from_slice(serial.to_string().as_bytes());
                let point = match settings.function {
                    HashFunction::XxHash => xx_hash64(&text),
                    HashFunction::MurmurHash2 => murmur_hash2(&text),
                };
                points.push((point, owner));
                serial += 1;
                current += 1.0;
            }
        }
        points.sort_unstable();
        let (points, owners): (Vec<u64>, Vec<u32>) = points.into_iter().unzip();
        Ring { points: points.into(), owners: owners.into() }
    }

    /// The member that serves a hash; the next ones on the ring for further attempts, which may be the same member.
    pub fn owner(&self, hash: u64, attempt: u32) -> Option<u32> {
        let next = self.points.partition_point(|point| *point < hash);
        let at = if next < self.points.len() { next } else { 0 };
        let at = at.checked_add(attempt as usize)?.checked_rem(self.points.len())?;
        self.owners.get(at).copied()
    }
}
