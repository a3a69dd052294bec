//! The zspages of a class: which objects of each are free, whose the others are, and lists by how full they are. Numbers only: it knows
//! no page, so it never waits for one.
//!
//! Allocation takes the fullest zspage that has a free object, so that others become empty (Linux: fullness groups).

use alloc::{boxed::Box, vec::Vec};

use super::SizeClass;
use crate::chunks::NoRoom;

/// Lists: empty, ten by tenths, full.
pub(super) const GROUPS: usize = 12;
const EMPTY: u8 = 0;
const FULL: u8 = GROUPS as u8 - 1;

/// No zspage.
const NONE: u32 = u32::MAX;

/// One zspage.
struct Zspage {
    /// For each object: its handle, and 1 in the lowest bit; or the next free object.
    objects: Box<[u32]>,
    next: u32,
    before: u32,
    // At most 256 objects.
    free: u16,
    used: u16,
    /// Its list; `None`: it has no pages.
    group: Option<u8>,
}

/// An object's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) zspage: u32,
    pub(super) object: u32,
}

/// All zspages of a class.
pub(super) struct Zspages {
    class: SizeClass,
    all: Vec<Zspage>,
    lists: [u32; GROUPS],
    lengths: [u32; GROUPS],
    /// Numbers without pages.
    unused: Vec<u32>,
    used: u64,
}

impl Zspages {
    pub(super) fn new(class: SizeClass) -> Self {
        Self { class, all: Vec::new(), lists: [NONE; GROUPS], lengths: [0; GROUPS], unused: Vec::new(), used: 0 }
    }

    /// Makes room for `count` more numbers, so that neither adding them nor giving them back needs memory.
    pub(super) fn make_room(&mut self, count: u32) -> Result<(), NoRoom> {
        self.all.try_reserve(count as usize).map_err(|_| NoRoom)?;
        let for_all = self.all.len() + count as usize - self.unused.len();
        self.unused.try_reserve(for_all).map_err(|_| NoRoom)
    }

    /// Adds `count` numbers without pages.
    pub(super) fn add(&mut self, count: u32) {
        for _ in 0..count {
            self.unused.push(self.all.len() as u32);
            self.all.push(Zspage { objects: Box::default(), free: 0, used: 0, group: None, next: NONE, before: NONE });
        }
    }

    /// Takes a number without pages.
    pub(super) fn reserve(&mut self) -> Option<u32> {
        self.unused.pop()
    }

    /// Gives such a number back.
    pub(super) fn unreserve(&mut self, number: u32) {
        self.unused.push(number);
    }

    /// The zspage has its pages now; `objects` is [`free_objects`].
    pub(super) fn insert(&mut self, number: u32, objects: Box<[u32]>) {
        let zspage = &mut self.all[number as usize];
        (zspage.objects, zspage.free, zspage.used) = (objects, 0, 0);
        self.link(number, EMPTY);
    }

    /// Takes an object for a handle; `None` if all zspages are full.
    pub(super) fn take(&mut self, handle: u32) -> Option<Place> {
        let zspage = self.fullest_but(NONE).or_else(|| self.empty().next())?;
        Some(Place { zspage, object: self.take_of(zspage, handle) })
    }

    /// Takes an object of a zspage that isn't full.
    pub(super) fn take_of(&mut self, number: u32, handle: u32) -> u32 {
        let zspage = &mut self.all[number as usize];
        let object = u32::from(zspage.free);
        let entry = &mut zspage.objects[object as usize];
        assert!(*entry & 1 == 0, "an object that is in use was on the list of the free ones");
        zspage.free = (*entry >> 1) as u16;
        *entry = handle << 1 | 1;
        zspage.used += 1;
        self.used += 1;
        self.relink(number);
        object
    }

    /// Gives an object back. Panics if it isn't that handle's.
    pub(super) fn give_back(&mut self, place: Place, handle: u32) {
        let zspage = &mut self.all[place.zspage as usize];
        let entry = &mut zspage.objects[place.object as usize];
        assert_eq!(*entry, handle << 1 | 1, "an object was given back by another handle");
        *entry = u32::from(zspage.free) << 1;
        zspage.free = place.object as u16;
        zspage.used -= 1;
        self.used -= 1;
        self.relink(place.zspage);
    }

    /// Takes an empty zspage out, whose pages the caller has released; its number has no pages any more.
    pub(super) fn remove(&mut self, number: u32) {
        assert_eq!(self.all[number as usize].group, Some(EMPTY), "a zspage with objects was taken out");
        self.unlink(number);
        self.all[number as usize].objects = Box::default();
        self.unreserve(number);
    }

    /// Gives the empty zspages.
    pub(super) fn empty(&self) -> impl Iterator<Item = u32> {
        self.of_group(EMPTY)
    }

    /// Gives a zspage with fewest objects, but at least one, that isn't full, nor one of `others`.
    pub(super) fn emptiest_but(&self, others: &[u32]) -> Option<u32> {
        (EMPTY + 1..FULL).find_map(|group| self.of_group(group).find(|number| !others.contains(number)))
    }

    /// Gives a zspage with most objects that has a free one, and is neither empty nor `other`.
    pub(super) fn fullest_but(&self, other: u32) -> Option<u32> {
        (EMPTY + 1..FULL).rev().find_map(|group| self.of_group(group).find(|&number| number != other))
    }

    /// Gives the object that [`Self::take_of`] would take.
    pub(super) fn free_object(&self, number: u32) -> u32 {
        self.all[number as usize].free.into()
    }

    /// Gives the first object in use of a zspage from number `from` on, and its handle.
    pub(super) fn next_object(&self, number: u32, from: u32) -> Option<(u32, u32)> {
        let mut entries = self.all[number as usize].objects.iter().zip(0..).skip(from as usize);
        entries.find(|(entry, _)| **entry & 1 == 1).map(|(entry, object)| (object, entry >> 1))
    }

    /// Gives the first number from `from` on that has pages.
    pub(super) fn next_with_pages(&self, from: u32) -> Option<u32> {
        let mut all = self.all.iter().zip(0..).skip(from as usize);
        all.find(|(zspage, _)| zspage.group.is_some()).map(|(_, number)| number)
    }

    /// Gives how many are on each list.
    pub(super) fn lengths(&self) -> [u32; GROUPS] {
        self.lengths
    }

    /// Gives the number of zspages with pages.
    pub(super) fn count(&self) -> u64 {
        self.lengths.iter().map(|&length| u64::from(length)).sum()
    }

    /// Gives the number of objects in use.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Gives how many zspages could be freed if objects were moved together.
    pub(super) fn surplus(&self) -> u64 {
        self.count() - self.used.div_ceil(u64::from(self.class.objects))
    }

    /// Gives the bytes of its tables.
    pub(super) fn bytes(&self) -> usize {
        self.all.capacity() * size_of::<Zspage>()
            + self.unused.capacity() * size_of::<u32>()
            + self.count() as usize * self.class.objects as usize * size_of::<u32>()
    }

    fn of_group(&self, group: u8) -> impl Iterator<Item = u32> {
        let listed = |number: u32| (number != NONE).then_some(number);
        core::iter::successors(listed(self.lists[usize::from(group)]), move |&last| {
            listed(self.all[last as usize].next)
        })
    }

    fn group_for(&self, used: u32) -> u8 {
        match used {
            0 => EMPTY,
            used if used == self.class.objects => FULL,
            used => 1 + (used * 10 / self.class.objects) as u8,
        }
    }

    fn relink(&mut self, number: u32) {
        let group = self.group_for(self.all[number as usize].used.into());
        if self.all[number as usize].group != Some(group) {
            self.unlink(number);
            self.link(number, group);
        }
    }

    fn link(&mut self, number: u32, group: u8) {
        let next = core::mem::replace(&mut self.lists[usize::from(group)], number);
        if next != NONE {
            self.all[next as usize].before = number;
        }
        let zspage = &mut self.all[number as usize];
        (zspage.group, zspage.next, zspage.before) = (Some(group), next, NONE);
        self.lengths[usize::from(group)] += 1;
    }

    fn unlink(&mut self, number: u32) {
        let zspage = &mut self.all[number as usize];
        let Some(group) = zspage.group.take() else { return };
        let (next, before) = (zspage.next, zspage.before);
        match before {
            NONE => self.lists[usize::from(group)] = next,
            before => self.all[before as usize].next = next,
        }
        if next != NONE {
            self.all[next as usize].before = before;
        }
        self.lengths[usize::from(group)] -= 1;
    }
}

/// Makes the list of a new zspage's objects, all of them free.
pub(super) fn free_objects(class: &SizeClass) -> Result<Box<[u32]>, NoRoom> {
    let mut objects = Vec::new();
    objects.try_reserve_exact(class.objects as usize).map_err(|_| NoRoom)?;
    objects.extend((1..=class.objects).map(|next| next << 1));
    Ok(objects.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;
    use crate::zsmalloc::class::Classes;

    fn zspages(length: usize, count: u32) -> Zspages {
        let classes = Classes::new(8);
        let class = *classes.get(classes.number_for(length).expect("a class"));
        let mut zspages = Zspages::new(class);
        zspages.make_room(count).expect("memory");
        zspages.add(count);
        for _ in 0..count {
            let number = zspages.reserve().expect("a number");
            zspages.insert(number, free_objects(&class).expect("memory"));
        }
        zspages
    }

    #[test]
    fn the_fullest_is_taken_first() {
        let mut zspages = zspages(1000, 3);
        let each = zspages.class.objects;
        let all: Vec<Place> = (0..each * 3).map(|handle| zspages.take(handle).expect("room")).collect();
        assert_eq!(zspages.take(99), None, "all are full");
        assert!(all.chunks(each as usize).all(|of_one| of_one.iter().all(|place| place.zspage == of_one[0].zspage)));
        // One object of the first is free, and all but one of the last.
        zspages.give_back(all[0], 0);
        let last = all.iter().zip(0..).skip(2 * each as usize + 1);
        last.for_each(|(&place, handle)| zspages.give_back(place, handle));
        assert_eq!(
            (zspages.emptiest_but(&[]), zspages.surplus()),
            (Some(all[2 * each as usize].zspage), 1 - u64::from(each == 1))
        );
        assert_eq!(zspages.take(7), Some(all[0]), "the fullest");
    }

    #[test]
    fn random_uses_add_up() {
        let mut zspages = zspages(100, 5);
        let each = zspages.class.objects;
        let (mut used, mut random) = (BTreeMap::new(), 1u64);
        for handle in 0..20_000 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (random >> 33) as usize;
            if at.is_multiple_of(2) && used.len() < 5 * each as usize {
                let place = zspages.take(handle).expect("room");
                assert!(used.insert((place.zspage, place.object), handle).is_none(), "given twice");
            } else if let Some((&(zspage, object), &handle)) = used.iter().nth(at % used.len().max(1)) {
                zspages.give_back(Place { zspage, object }, handle);
                used.remove(&(zspage, object));
            }
            assert_eq!(zspages.used(), used.len() as u64);
        }
        let with_pages = core::iter::successors(zspages.next_with_pages(0), |last| zspages.next_with_pages(last + 1));
        for number in with_pages {
            let next = |&(object, _): &(u32, u32)| zspages.next_object(number, object + 1);
            let objects = core::iter::successors(zspages.next_object(number, 0), next);
            let told: BTreeMap<_, _> = objects.map(|(object, handle)| ((number, object), handle)).collect();
            let of_it: BTreeMap<_, _> =
                used.iter().filter(|(place, _)| place.0 == number).map(|(&k, &v)| (k, v)).collect();
            assert_eq!(told, of_it);
        }
        assert_eq!(zspages.lengths().iter().sum::<u32>(), 5);
        let places: Vec<_> =
            used.iter().map(|(&(zspage, object), &handle)| (Place { zspage, object }, handle)).collect();
        places.into_iter().for_each(|(place, handle)| zspages.give_back(place, handle));
        assert_eq!((zspages.lengths()[usize::from(EMPTY)], zspages.surplus()), (5, 5));
    }

    #[test]
    #[should_panic(expected = "by another handle")]
    fn an_object_is_given_back_once() {
        let mut zspages = zspages(100, 1);
        let place = zspages.take(1).expect("room");
        zspages.give_back(place, 1);
        zspages.give_back(place, 1);
    }
}
