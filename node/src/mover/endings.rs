//! With which set a replica that is to be the writer ends its playback (FAIL-03, FAIL-07).

use rcp::proto::ids::{NodeName, SetNumber};
use volmcast::volume::Ending;

use super::Held;
use super::failover::conflict;
use crate::api::ApiError;

/// What a replica plays before it takes over: all that came, which ends with `at` if that is said;
/// `now`: no more, or up to `at`.
pub(super) fn chosen(
    h: &Held,
    (name, node): (&str, &NodeName),
    now: bool,
    at: Option<u64>,
) -> Result<Ending, ApiError> {
    let saved = h.volume.position().0;
    let at = match at {
        None if now => return Ok(Ending::PlayNoMore),
        None => return Ok(Ending::PlayAll),
        Some(at) if !now && at == saved.0 => return Ok(Ending::PlayAll),
        Some(at) if !now => {
            return Err(conflict(format!(
                "volume {name} at {node} is at set {saved} and not at set {at}: nothing was changed"
            )));
        }
        Some(at) => SetNumber(at),
    };
    let sets: Vec<_> = h.volume.endings().collect();
    if sets.contains(&at) {
        return Ok(Ending::PlayTo(at));
    }
    let shown = h.volume.durable().visible;
    let why = if h.volume.kept().any(|k| k == at) {
        format!(
            "set {at} is kept there, and later ones were shown: what is shown is not taken back. \
             Promote it with what it has, and copy from {name}@{at} what is wanted"
        )
    } else {
        let sets: Vec<_> = sets.iter().map(ToString::to_string).collect();
        format!("it can go on from {} and not from set {at}", sets.join(", "))
    };
    Err(conflict(format!("volume {name} at {node} shows set {shown}: {why}. Nothing was changed")))
}
