//! Maglev's table (section 3.4 of Google's paper): each host has its own order of all the places, and they take turns
//! to take the next free place of theirs, more often the more weight they have.
//!
//! A look-up is one division. A host that leaves frees its places; few others change hands. The table is Envoy's,
//! down to the rounding of weights: the same key goes to the same host.

use pymesh_model::balance::Maglev as Settings;

use super::hash_table::Member;
use crate::base::hash::{xx_hash64, xx_hash64_seeded};

/// The member that each place belongs to.
#[derive(Debug)]
pub(crate) enum Maglev {
    /// Up to 256 members: a table of the usual size is 64 KiB.
    Narrow(Box<[u8]>),
    Wide(Box<[u32]>),
}

/// A member while the table is being filled.
struct Turn {
    owner: u32,
    offset: u64,
    skip: u64,
    /// Places looked at so far.
    next: u64,
    weight: f64,
    /// It has a turn once this much weight has been saved up.
    target: f64,
}

const FREE: u32 = u32::MAX;

impl Maglev {
    pub fn new(settings: &Settings, members: &[Member]) -> Maglev {
        let size = settings.table_size.max(2);
        let most = members.iter().map(|member| member.weight).fold(0.0, f64::max);
        let mut order: Vec<(u32, &Member)> = (0u32..).zip(members).collect();
        // In the order of their keys, so that the order in which they were listed does not matter.
        order.sort_by(|(_, a), (_, b)| a.key.cmp(&b.key).then(a.weight.total_cmp(&b.weight)));
        let mut turns: Vec<Turn> = order
            .into_iter()
            .map(|(owner, member)| Turn {
                owner,
                offset: xx_hash64(member.key.as_bytes()) % size,
                skip: xx_hash64_seeded(member.key.as_bytes(), 1) % (size - 1) + 1,
                next: 0,
                weight: member.weight,
                target: 0.0,
            })
            .collect();
        let mut places = vec![FREE; if turns.is_empty() { 0 } else { usize::try_from(size).unwrap_or(0) }];
        let mut free = places.len();
        let mut round = 0.0;
        while free > 0 {
            round += 1.0;
            for turn in &mut turns {
                if free == 0 {
                    break;
                }
                if round * turn.weight < turn.target {
                    continue;
                }
                turn.target += most;
                turn.take_next_free(size, &mut places);
                free -= 1;
            }
        }
        if members.len() <= 256 {
            Maglev::Narrow(places.into_iter().map(|owner| owner as u8).collect())
        } else {
            Maglev::Wide(places.into())
        }
    }

    /// The member that serves a hash; another place of the table for further attempts.
    pub fn owner(&self, hash: u64, attempt: u32) -> Option<u32> {
        let hash = if attempt > 0 { hash ^ (u64::MAX - u64::from(attempt) + 1) } else { hash };
        let at = |size: usize| usize::try_from(hash.checked_rem(size as u64)?).ok();
        match self {
            Maglev::Narrow(places) => places.get(at(places.len())?).map(|owner| u32::from(*owner)),
            Maglev::Wide(places) => places.get(at(places.len())?).copied(),
        }
    }
}

impl Turn {
    /// The size is prime, so that every order goes through all places, and a free one is found.
    fn take_next_free(&mut self, size: u64, places: &mut [u32]) {
        for _ in 0..size {
            let at = self.offset.wrapping_add(self.skip.wrapping_mul(self.next)) % size;
            self.next += 1;
            match usize::try_from(at).ok().and_then(|at| places.get_mut(at)) {
                Some(place) if *place == FREE => {
                    *place = self.owner;
                    return;
                }
                _ => {}
            }
        }
    }
}
