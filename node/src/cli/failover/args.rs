//! The words that these commands understand.

use clap::Args;

use crate::cli::target::Target;

#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct FailoverArgs {
    /// The volume
    pub(super) volume: String,
    /// Show who could take over and what would be lost; changes nothing
    #[arg(long, conflicts_with_all = ["to", "take_back"])]
    pub(super) plan: bool,
    /// The node that is to take over as the writer
    #[arg(long, value_name = "NODE")]
    pub(super) to: Option<String>,
    /// Do not play sets that have come and are not shown yet
    #[arg(long, requires = "to", conflicts_with = "sync")]
    pub(super) now: bool,
    /// Go on from this set: play those that have come up to it, and drop those after it
    #[arg(long, value_name = "SET", requires = "to", conflicts_with_all = ["now", "sync"])]
    pub(super) restart_point: Option<u64>,
    /// Lose nothing: the old writer makes a last set and hands over; if it cannot, nothing changes
    #[arg(long, requires = "to")]
    pub(super) sync: bool,
    /// Put the tree under the new writer: by the topology's `on_failover`, else the old writer's
    /// other children and the old writer itself
    #[arg(long, requires = "to")]
    pub(super) adopt: bool,
    /// Undo a handing over that nobody finished: the old writer goes on
    #[arg(long)]
    pub(super) take_back: bool,
    /// With --to: although nodes that are known of were not asked, on your word that they are gone;
    /// with --take-back: although the node that it was handed over to does not answer, on your word
    /// that it is not the writer
    #[arg(long, conflicts_with_all = ["plan", "sync"])]
    pub(super) alone: bool,
    /// Although blocks are known to be damaged at NODE, or nothing proves its content: what its disk
    /// holds becomes the volume, and what was there is lost. It is logged, and stays in status and
    /// history
    #[arg(long, requires = "to", conflicts_with = "sync")]
    pub(super) lose_damaged_blocks: bool,
    /// Print the answer as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) target: Target,
}

impl FailoverArgs {
    /// What `--sync --to` says.
    pub(super) fn swap(volume: &str, to: &str, target: &Target) -> Self {
        Self {
            volume: volume.to_owned(),
            plan: false,
            to: Some(to.to_owned()),
            now: false,
            restart_point: None,
            sync: true,
            adopt: false,
            take_back: false,
            alone: false,
            lose_damaged_blocks: false,
            json: false,
            target: target.clone(),
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ResyncArgs {
    /// The volume
    pub(super) volume: String,
    /// Give up what the new writer does not have, instead of keeping it as a branch
    #[arg(long)]
    pub(super) discard: bool,
    /// Print the answer as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) target: Target,
}

#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ConfirmArgs {
    /// The volume
    pub(super) volume: String,
    /// Let writers in although no child has confirmed that there is no newer writer
    #[arg(long)]
    pub(super) alone: bool,
    /// Print the answer as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) target: Target,
}

#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct HistoryArgs {
    /// The volume
    pub(super) volume: String,
    /// Print it as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) target: Target,
}
