//! The product from outside: real processes, real sockets, clients that are not ours.

#[path = "e2e/afar.rs"]
mod afar;
#[path = "e2e/aftermath.rs"]
mod aftermath;
#[path = "e2e/apply.rs"]
mod apply;
#[path = "e2e/away.rs"]
mod away;
#[path = "e2e/blocks.rs"]
mod blocks;
#[path = "e2e/bypass.rs"]
mod bypass;
#[path = "e2e/causes.rs"]
mod causes;
#[path = "e2e/connections.rs"]
mod connections;
#[path = "e2e/crowd.rs"]
mod crowd;
#[path = "e2e/damage.rs"]
mod damage;
#[path = "e2e/decommission.rs"]
mod decommission;
#[path = "e2e/deep.rs"]
mod deep;
#[path = "e2e/delays.rs"]
mod delays;
#[path = "e2e/dialling.rs"]
mod dialling;
#[path = "e2e/failover.rs"]
mod failover;
#[path = "e2e/filetest.rs"]
mod filetest;
#[path = "e2e/fsck.rs"]
mod fsck;
#[path = "e2e/full.rs"]
mod full;
#[path = "e2e/groups.rs"]
mod groups;
#[path = "e2e/grow.rs"]
mod grow;
#[path = "e2e/hooks.rs"]
mod hooks;
#[path = "e2e/kills.rs"]
mod kills;
#[path = "e2e/late.rs"]
mod late;
#[path = "e2e/limits.rs"]
mod limits;
#[path = "e2e/lines.rs"]
mod lines;
#[path = "e2e/load.rs"]
mod load;
#[path = "e2e/matrix.rs"]
mod matrix;
#[path = "e2e/mirror.rs"]
mod mirror;
#[path = "e2e/moving.rs"]
mod moving;
#[path = "e2e/oracle.rs"]
mod oracle;
#[path = "e2e/playback.rs"]
mod playback;
#[path = "e2e/port.rs"]
mod port;
#[path = "e2e/power.rs"]
mod power;
#[path = "e2e/pull.rs"]
mod pull;
#[path = "e2e/reader.rs"]
mod reader;
#[path = "e2e/recorded.rs"]
mod recorded;
#[path = "e2e/refusals.rs"]
mod refusals;
#[path = "e2e/replayed.rs"]
mod replayed;
#[path = "e2e/restart.rs"]
mod restart;
#[path = "e2e/rewind.rs"]
mod rewind;
#[path = "e2e/routes.rs"]
mod routes;
#[path = "e2e/sites.rs"]
mod sites;
#[path = "e2e/stopped.rs"]
mod stopped;
#[path = "e2e/strangers.rs"]
mod strangers;
#[path = "e2e/suspended.rs"]
mod suspended;
#[path = "e2e/swaps.rs"]
mod swaps;
#[path = "e2e/takeovers.rs"]
mod takeovers;
#[path = "e2e/transports.rs"]
mod transports;
#[path = "e2e/tree.rs"]
mod tree;
#[path = "e2e/volmcast.rs"]
mod volmcast;
#[path = "e2e/wrong.rs"]
mod wrong;
