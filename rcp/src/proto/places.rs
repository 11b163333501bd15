//! Several connections of one session: frames keep their order, whichever connection they take.
//!
//! The sender gives each frame that goes down a stream a *place*, says it before the frame (`Place`)
//! and keeps the frame until it has come (`Placed`). The receiver holds what came too early, and
//! hands frames on in the order of their places: whoever acts on them sees one connection. When a
//! further connection is lost, what went over it and has not come goes again over the others; what
//! comes twice counts once. Both ends are bounded, by bytes and by frames.
//!
//! Place 0 goes over the first connection, so that nothing overtakes the frames before it, which
//! have no place.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;

use super::frame::Frame;
use super::limits::{MAX_PLACES_BYTES, MAX_PLACES_FRAMES, PLACES_FRAMES, PLACES_WINDOW};

/// Places that make no sense: the peer breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// More is said to have come than was sent.
    #[error("frames before place {said} are said to have come, and only {sent} were sent")]
    NotSent {
        /// First place that is said to be missing.
        said: u64,
        /// Places that were given.
        sent: u64,
    },
    /// It is too far ahead of the first one that is missing, or too much is.
    #[error("place {0} is too far ahead of the first one that is missing")]
    TooFar(u64),
    /// The frame after a place is none that has one, or a frame that must have one has none.
    #[error("a {0} frame at a place that it may not have")]
    Frame(super::frame::FrameType),
}

/// Bytes that a frame counts for.
#[must_use]
pub fn weight(frame: &Frame) -> usize {
    let mut head = BytesMut::new();
    let tail = frame.encode_head(&mut head).ok().flatten();
    head.len() + tail.map_or(0, |t| t.len())
}

#[derive(Debug)]
struct Sent<C> {
    number: u64,
    over: C,
    weight: usize,
    frame: Frame,
}

/// The sender's side; `C` names a connection.
#[derive(Debug)]
pub struct Spread<C> {
    next: u64,
    /// Not known to have come, by their numbers, without gaps.
    under_way: VecDeque<Sent<C>>,
    weight: usize,
}

impl<C> Default for Spread<C> {
    fn default() -> Self {
        Self { next: 0, under_way: VecDeque::new(), weight: 0 }
    }
}

impl<C: Copy + PartialEq> Spread<C> {
    /// Places were given: from now on every frame of a stream needs one.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.next > 0
    }

    /// Whether more data may be sent before some of it has come.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.weight < PLACES_WINDOW && self.under_way.len() < PLACES_FRAMES
    }

    /// Gives the next place to a frame that goes over `over`.
    pub fn give(&mut self, frame: Frame, over: C) -> u64 {
        let (number, weight) = (self.next, weight(&frame));
        self.next += 1;
        self.weight += weight;
        self.under_way.push_back(Sent { number, over, weight, frame });
        number
    }

    /// The frames of all places before `next` have come.
    ///
    /// # Errors
    /// [`PlaceError::NotSent`]
    pub fn placed(&mut self, next: u64) -> Result<(), PlaceError> {
        if next > self.next {
            return Err(PlaceError::NotSent { said: next, sent: self.next });
        }
        while let Some(come) = self.under_way.pop_front_if(|s| s.number < next) {
            self.weight -= come.weight;
        }
        Ok(())
    }

    /// A connection is lost: the places of what went over it and has not come, lowest first.
    #[must_use]
    pub fn lost(&self, over: C) -> Vec<u64> {
        self.under_way.iter().filter(|s| s.over == over).map(|s| s.number).collect()
    }

    /// The frame of a place, which now goes over `over`; none if it has come.
    pub fn again(&mut self, number: u64, over: C) -> Option<Frame> {
        let first = self.under_way.front()?.number;
        let at = usize::try_from(number.checked_sub(first)?).ok()?;
        let sent = self.under_way.get_mut(at)?;
        sent.over = over;
        Some(sent.frame.clone())
    }

    /// Frames that are not known to have come.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }
}

/// The receiver's side: what came, until all before it has.
#[derive(Debug)]
pub struct Gather<T> {
    next: u64,
    early: BTreeMap<u64, (usize, T)>,
    weight: usize,
}

impl<T> Default for Gather<T> {
    fn default() -> Self {
        Self { next: 0, early: BTreeMap::new(), weight: 0 }
    }
}

impl<T> Gather<T> {
    /// The first place came: from now on every frame of a stream needs one. Later ones may come
    /// before it, and before frames that have none.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.next > 0
    }

    /// The first place that is missing.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// A frame came; one whose place is taken is dropped.
    ///
    /// # Errors
    /// [`PlaceError::TooFar`]
    pub fn take(&mut self, number: u64, weight: usize, frame: T) -> Result<(), PlaceError> {
        if number < self.next || self.early.contains_key(&number) {
            return Ok(());
        }
        let ahead = usize::try_from(number - self.next).unwrap_or(usize::MAX);
        let early = number > self.next;
        if ahead >= MAX_PLACES_FRAMES || early && self.weight + weight > MAX_PLACES_BYTES {
            return Err(PlaceError::TooFar(number));
        }
        self.weight += weight;
        self.early.insert(number, (weight, frame));
        Ok(())
    }

    /// The frame whose turn it is, if it is there.
    pub fn pop(&mut self) -> Option<T> {
        let (weight, frame) = self.early.remove(&self.next)?;
        self.next += 1;
        self.weight -= weight;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::frame::StreamId;
    use super::*;

    fn chunk(seq: u64, len: usize) -> Frame {
        Frame::Chunk { stream: StreamId(1), feeder: 1, seq, body: Bytes::from(vec![1; len]) }
    }

    #[test]
    fn what_was_lost_goes_again_and_counts_once() {
        let mut s = Spread::default();
        let mut g = Gather::default();
        assert!(!s.has_begun() && !g.has_begun());
        for n in 0..6 {
            assert_eq!(s.give(chunk(n, 10), n % 3), n);
        }
        assert!(s.has_begun());
        g.take(3, 10, 3).expect("near");
        assert!(!g.has_begun());
        for n in [0, 4] {
            g.take(n, 10, n).expect("near");
        }
        assert_eq!(std::iter::from_fn(|| g.pop()).collect::<Vec<_>>(), [0]);
        assert_eq!((g.next(), g.has_begun()), (1, true));
        s.placed(1).expect("sent");
        assert_eq!((s.under_way(), s.lost(1)), (5, vec![1, 4]));
        assert_eq!(s.again(1, 0), Some(chunk(1, 10)));
        assert_eq!(s.again(4, 2), Some(chunk(4, 10)));
        assert_eq!((s.lost(1), s.lost(0), s.again(0, 2)), (vec![], vec![1, 3], None));
        for n in [4, 1, 2, 1, 0, 5] {
            g.take(n, 10, n).expect("near");
        }
        assert_eq!(std::iter::from_fn(|| g.pop()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(s.placed(7), Err(PlaceError::NotSent { said: 7, sent: 6 }));
        s.placed(6).expect("sent");
        s.placed(2).expect("old");
        assert_eq!((s.under_way(), s.weight, g.weight), (0, 0, 0));
    }

    #[test]
    fn both_ends_are_bounded() {
        let mut s = Spread::default();
        let mut n = 0;
        while s.has_room() {
            n = s.give(chunk(n, 1 << 20), ());
        }
        assert!(s.weight <= PLACES_WINDOW + (1 << 20) + 100 && n >= 15);
        s.placed(n).expect("sent");
        assert!(s.has_room());
        while s.has_room() {
            n = s.give(chunk(n, 1), ());
        }
        assert_eq!(s.under_way(), PLACES_FRAMES);

        let mut g = Gather::default();
        let far = MAX_PLACES_FRAMES as u64;
        assert_eq!(g.take(far, 1, ()), Err(PlaceError::TooFar(far)));
        assert_eq!(g.take(u64::MAX, 1, ()), Err(PlaceError::TooFar(u64::MAX)));
        g.take(far - 1, MAX_PLACES_BYTES, ()).expect("the last that fits");
        assert_eq!(g.take(1, 1, ()), Err(PlaceError::TooFar(1)));
        g.take(0, 1 << 20, ()).expect("its turn");
        assert_eq!((g.pop(), g.pop(), g.next()), (Some(()), None, 1));
    }

    proptest! {
        /// Whatever connections do, every frame arrives once, in order, as long as one is there.
        #[test]
        fn frames_come_once_and_in_order(steps in prop::collection::vec((0..4usize, 0..8u8), 1..200)) {
            let mut s = Spread::default();
            let mut g = Gather::default();
            let mut wires: Vec<VecDeque<(u64, Frame)>> = vec![VecDeque::new(); 4];
            let (mut given, mut got) = (0u64, Vec::new());
            let mut arrive = |wire: &mut VecDeque<(u64, Frame)>, s: &mut Spread<usize>| {
                let Some((n, f)) = wire.pop_front() else { return };
                g.take(n, weight(&f), f).expect("near");
                while let Some(Frame::Chunk { seq, .. }) = g.pop() {
                    got.push(seq);
                }
                s.placed(g.next()).expect("sent");
            };
            for (wire, what) in steps {
                match what {
                    0..4 => {
                        let over = if given == 0 { 0 } else { wire };
                        let n = s.give(chunk(given, 5), over);
                        wires[over].push_back((n, chunk(given, 5)));
                        given += 1;
                    }
                    4..7 => arrive(&mut wires[wire], &mut s),
                    // Some of what is on its way may still come, the rest is gone.
                    _ => {
                        let lost = std::mem::take(&mut wires[wire]);
                        let mut some: VecDeque<_> = lost.into_iter().step_by(2).collect();
                        let to = (wire + 1) % 4;
                        for n in s.lost(wire) {
                            let f = s.again(n, to).expect("under way");
                            wires[to].push_back((n, f));
                        }
                        arrive(&mut some, &mut s);
                    }
                }
            }
            for wire in &mut wires {
                while !wire.is_empty() {
                    arrive(wire, &mut s);
                }
            }
            prop_assert_eq!(got, (0..given).collect::<Vec<_>>());
            prop_assert_eq!(s.under_way(), 0);
        }
    }
}
