//! A vector with stable, checked keys.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

/// Names one value of a [`Slab`] for as long as it lives. A key of a value
/// that is gone finds nothing, even if its place was taken again.
pub struct Key<T> {
    index: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// Place in the slab; dense, so that a driver can keep a vector beside it.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// Both halves in one integer.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// Inverse of [`Key::to_bits`].
    pub fn from_bits(bits: u64) -> Self {
        Key { index: bits as u32, generation: (bits >> 32) as u32, of: PhantomData }
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Key<T> {}
impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.to_bits() == other.to_bits()
    }
}
impl<T> Eq for Key<T> {}
impl<T> Hash for Key<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.to_bits().hash(state);
    }
}
impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

struct Slot<T> {
    generation: u32,
    occupied: bool,
    value: Option<T>,
}

/// A vector whose places are used again under new keys.
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Number of values, lent ones included.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stores what `make` builds from its own key.
    pub fn insert_with(&mut self, make: impl FnOnce(Key<T>) -> T) -> Key<T> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
                self.slots.push(Slot { generation: 0, occupied: false, value: None });
                index
            }
        };
        let generation = self.slots.get(index as usize).map_or(0, |slot| slot.generation);
        let key = Key { index, generation, of: PhantomData };
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.value = Some(make(key));
            slot.occupied = true;
        }
        key
    }

    /// The value, if it lives and is not lent.
    pub fn get(&self, key: Key<T>) -> Option<&T> {
        self.slots
            .get(key.index())
            .filter(|slot| slot.generation == key.generation)
            .and_then(|slot| slot.value.as_ref())
    }

    /// The value, if it lives and is not lent.
    pub fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        self.slots
            .get_mut(key.index())
            .filter(|slot| slot.generation == key.generation)
            .and_then(|slot| slot.value.as_mut())
    }

    /// The key of the value that lives at a place now.
    pub fn key_at(&self, index: usize) -> Option<Key<T>> {
        let slot = self.slots.get(index).filter(|slot| slot.occupied)?;
        Some(Key { index: index as u32, generation: slot.generation, of: PhantomData })
    }

    /// True if the value lives (lent or not).
    pub fn contains(&self, key: Key<T>) -> bool {
        self.slots.get(key.index()).is_some_and(|slot| slot.occupied && slot.generation == key.generation)
    }

    /// Takes the value out while its key stays taken, so that it can be worked
    /// on beside the rest of the slab. Give it [`Slab::give_back`].
    pub fn lend(&mut self, key: Key<T>) -> Option<T> {
        self.slots
            .get_mut(key.index())
            .filter(|slot| slot.generation == key.generation)
            .and_then(|slot| slot.value.take())
    }

    /// Ends a [`Slab::lend`]; the value is dropped if its key was removed meanwhile.
    pub fn give_back(&mut self, key: Key<T>, value: T) {
        if let Some(slot) = self.slots.get_mut(key.index()) {
            if slot.occupied && slot.generation == key.generation {
                slot.value = Some(value);
            }
        }
    }

    /// Ends a key, and returns its value unless that is lent.
    pub fn remove(&mut self, key: Key<T>) -> Option<T> {
        let slot = self.slots.get_mut(key.index())?;
        if !slot.occupied || slot.generation != key.generation {
            return None;
        }
        slot.occupied = false;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        slot.value.take()
    }

    /// Every key that lives.
    pub fn keys(&self) -> impl Iterator<Item = Key<T>> + '_ {
        self.slots.iter().enumerate().filter(|(_, slot)| slot.occupied).map(|(index, slot)| Key {
            index: index as u32,
            generation: slot.generation,
            of: PhantomData,
        })
    }

    /// Every value that is not lent.
    pub fn iter(&self) -> impl Iterator<Item = &T> + '_ {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// Every value that is not lent.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> + '_ {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_keys_find_nothing() {
        let mut slab = Slab::default();
        let a = slab.insert_with(|_| "a");
        assert_eq!(slab.remove(a), Some("a"));
        let b = slab.insert_with(|_| "b");
        assert_eq!(a.index(), b.index());
        assert_eq!(slab.get(a), None);
        assert_eq!(slab.get(b), Some(&"b"));
        assert_eq!(Key::from_bits(b.to_bits()), b);
    }

    #[test]
    fn a_lent_value_that_was_removed_does_not_come_back() {
        let mut slab = Slab::default();
        let a = slab.insert_with(|_| 1);
        let lent = slab.lend(a).unwrap();
        assert_eq!(slab.get(a), None);
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.remove(a), None);
        slab.give_back(a, lent);
        assert_eq!(slab.len(), 0);
        assert_eq!(slab.iter().count(), 0);
    }
}
