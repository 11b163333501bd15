//! Small tables of a data folder that are stored whole: routes, and what volumes are to be called.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::Topology;
use forwarder::table::Table;
use rcp::proto::ids::{GroupName, NodeName};
use volmcast::storage::{StorageError, replace_file};

use super::start::{StartError, io, refused};
use crate::mover::Destinations;

/// Name of the file with what volumes are to be called.
const DESTINATIONS: &str = "destinations";

fn routes_path(folder: &Path) -> PathBuf {
    folder.join("routes")
}

/// Stores the routing table so that a crash leaves the old or the new one.
pub(super) fn store_routes(folder: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    replace_file(&routes_path(folder), bytes)
}

/// Both tables, as they are stored.
pub(super) fn load_tables(
    folder: &Path,
    node: &NodeName,
    topology: &Topology,
) -> Result<(Table, Destinations), StartError> {
    Ok((load_routes(folder, node, topology)?, load_destinations(folder)?))
}

/// The stored routing table; at the first start, the topology's lines.
fn load_routes(folder: &Path, node: &NodeName, topology: &Topology) -> Result<Table, StartError> {
    let path = routes_path(folder);
    match std::fs::read(&path) {
        Ok(bytes) => Table::decode(&bytes).map_err(|e| {
            StartError::Refused(format!(
                "{}: {e}; remove the file to begin with the routes of the topology again",
                path.display()
            ))
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let planned: BTreeMap<_, _> = topology
                .groups()
                .map(|g| (g.name.clone(), g.children(node).to_vec()))
                .filter(|(_, hops)| !hops.is_empty())
                .collect();
            let by = |group: &GroupName, hop: &NodeName| {
                let key = (node.clone(), hop.clone());
                topology.group(group).and_then(|g| g.hops.get(&key)).cloned().unwrap_or_default()
            };
            let table = Table::from_plan_by(node.clone(), &planned, &by)
                .map_err(|e| StartError::Refused(e.to_string()))?;
            store_routes(folder, &table.encode()).map_err(refused)?;
            Ok(table)
        }
        Err(e) => Err(io(path.display().to_string())(e)),
    }
}

/// What volumes are to be called here: stored by `rcpctl volmcast create`.
fn load_destinations(folder: &Path) -> Result<Destinations, StartError> {
    let path = folder.join(DESTINATIONS);
    match std::fs::read_to_string(&path) {
        Ok(text) => Destinations::read(&text)
            .map_err(|e| StartError::Refused(format!("{}: {e}", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Destinations::default()),
        Err(e) => Err(io(path.display().to_string())(e)),
    }
}

/// Writes the file so that a crash leaves the old or the new one.
pub(super) fn store_destinations(folder: &Path, bytes: &[u8]) -> Result<(), String> {
    let path = folder.join(DESTINATIONS);
    replace_file(&path, bytes).map_err(|e| e.to_string())
}
