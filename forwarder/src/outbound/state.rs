//! Where one outbound stream stands, and what may happen to it.

use std::fmt;

use rcp::proto::frame::StartMode;

/// Why nothing is sent any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The session ended; a new one begins with a new offer.
    SessionEnded(String),
    /// The volume was withdrawn.
    Withdrawn(String),
    /// One side could not go on; the child may attach again.
    StreamError {
        /// One of `rcp::proto::frame::stream_error`.
        code: u16,
        /// Why, in words.
        text: String,
    },
}

impl StopReason {
    /// Whether the child may attach again in the same session.
    #[must_use]
    pub fn may_attach(&self) -> bool {
        matches!(self, Self::StreamError { .. })
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SessionEnded(text) => write!(f, "the session ended: {text}"),
            Self::Withdrawn(text) => write!(f, "the volume was withdrawn: {text}"),
            Self::StreamError { code, text } => write!(f, "error {code}: {text}"),
        }
    }
}

/// Where a stream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamState {
    /// The child was told of the volume and has not attached.
    Offered,
    /// Sent from the save volume until the head is reached.
    Resuming,
    /// All that there is has been sent.
    Streaming,
    /// The child is ahead of this node.
    Waiting,
    /// A seed is sent, and beside it the steps after its state.
    Seeding,
    /// Nothing is sent.
    Stopped(StopReason),
}

impl StreamState {
    /// A short name for status, logs and metrics labels.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Resuming => "resuming",
            Self::Streaming => "streaming",
            Self::Waiting => "waiting",
            Self::Seeding => "seeding",
            Self::Stopped(_) => "stopped",
        }
    }

    /// Whether chunks and set ends are sent.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Resuming | Self::Streaming | Self::Seeding)
    }
}

/// What can happen to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// The child attached, and this was decided.
    Start(StartMode),
    /// This node has reached the state that the child holds.
    Passed,
    /// The last piece of the seed was sent.
    SeedDone,
    /// All that there is has been sent.
    Drained,
    /// It cannot go on.
    Stop(StopReason),
}

impl StreamEvent {
    /// A short name for errors.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Passed => "passed",
            Self::SeedDone => "seed-done",
            Self::Drained => "drained",
            Self::Stop(_) => "stop",
        }
    }
}

/// An event that may not come in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event `{event}` may not come while the stream is {state}")]
pub struct Illegal {
    /// The state.
    pub state: &'static str,
    /// The event.
    pub event: &'static str,
}

/// The transition table.
///
/// ```text
///            start(resume|wait|seed)      passed    seed-done  drained    stop
/// Offered    Resuming|Waiting|Seeding     illegal   illegal    illegal    Stopped
/// Resuming   illegal                      stays     illegal    Streaming  Stopped
/// Streaming  illegal                      stays     illegal    stays      Stopped
/// Waiting    illegal                      Resuming  illegal    illegal    Stopped
/// Seeding    illegal                      stays     Resuming   stays      Stopped
/// Stopped    as Offered, if the child     stays     stays      stays      stays (*)
///            may attach again, or illegal
/// ```
///
/// (*) An end that is final (session ended, withdrawn) takes the place of one that is not.
///
/// # Errors
/// [`Illegal`] names state and event.
pub fn transition(state: &StreamState, event: StreamEvent) -> Result<StreamState, Illegal> {
    use StreamEvent as E;
    use StreamState as S;
    let illegal = Illegal { state: state.name(), event: event.name() };
    match (state, event) {
        (S::Stopped(old), E::Stop(new)) if old.may_attach() && !new.may_attach() => {
            Ok(S::Stopped(new))
        }
        (S::Offered, E::Start(mode)) => Ok(started(mode)),
        (S::Stopped(reason), E::Start(mode)) if reason.may_attach() => Ok(started(mode)),
        (S::Waiting, E::Passed) | (S::Seeding, E::SeedDone) => Ok(S::Resuming),
        (S::Resuming | S::Streaming, E::Drained) => Ok(S::Streaming),
        (S::Resuming | S::Streaming | S::Seeding, E::Passed)
        | (S::Seeding, E::Drained)
        | (S::Stopped(_), E::Passed | E::SeedDone | E::Drained | E::Stop(_)) => Ok(state.clone()),
        (_, E::Stop(reason)) => Ok(S::Stopped(reason)),
        (_, E::Start(_) | E::Passed | E::SeedDone | E::Drained) => Err(illegal),
    }
}

fn started(mode: StartMode) -> StreamState {
    match mode {
        StartMode::Resume => StreamState::Resuming,
        StartMode::Wait => StreamState::Waiting,
        StartMode::Seed | StartMode::CatchUp { .. } => StreamState::Seeding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_event() {
        use StreamState as S;
        let error = || StopReason::StreamError { code: 6, text: "damaged".into() };
        let ended = || StopReason::SessionEnded("idle".into());
        let events = [
            StreamEvent::Start(StartMode::Resume),
            StreamEvent::Start(StartMode::Wait),
            StreamEvent::Start(StartMode::Seed),
            StreamEvent::Passed,
            StreamEvent::SeedDone,
            StreamEvent::Drained,
            StreamEvent::Stop(error()),
            StreamEvent::Stop(ended()),
        ];
        let (o, r, w, s, g) =
            (None, Some(S::Resuming), Some(S::Waiting), Some(S::Streaming), Some(S::Seeding));
        assert_eq!(started(StartMode::CatchUp { blocks: 1, bytes: 2 }), S::Seeding);
        let e = Some(S::Stopped(error()));
        let x = Some(S::Stopped(ended()));
        let table = [
            (S::Offered, [&r, &w, &g, &o, &o, &o, &e, &x]),
            (S::Resuming, [&o, &o, &o, &r, &o, &s, &e, &x]),
            (S::Streaming, [&o, &o, &o, &s, &o, &s, &e, &x]),
            (S::Waiting, [&o, &o, &o, &r, &o, &o, &e, &x]),
            (S::Seeding, [&o, &o, &o, &g, &r, &g, &e, &x]),
            (S::Stopped(error()), [&r, &w, &g, &e, &e, &e, &e, &x]),
            (S::Stopped(ended()), [&o, &o, &o, &x, &x, &x, &x, &x]),
        ];
        for (state, wanted) in table {
            for (event, want) in events.iter().zip(wanted) {
                let got = transition(&state, event.clone());
                assert_eq!(got.as_ref().ok(), want.as_ref(), "{state:?} {event:?}");
                if let Err(e) = got {
                    let text = e.to_string();
                    assert!(text.contains(state.name()) && text.contains(event.name()), "{text}");
                }
            }
        }
    }
}
