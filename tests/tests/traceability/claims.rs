//! What is claimed, and where it is shown.

/// Requirement, what it asks for, tests.
pub(crate) type Claim = (&'static str, &'static str, &'static [&'static str]);

const TREE: &str = "tests/tests/e2e/tree.rs::a_file_system_and_many_writers_arrive_at_every_leaf";
const LATE: &str = "tests/tests/e2e/late.rs::a_late_leaf_reaches_the_stream_under_load";
const KILLS: &str = "tests/tests/e2e/kills.rs::random_kills_with_the_default_save_volume";
const SMALL: &str =
    "tests/tests/e2e/kills.rs::random_kills_with_a_save_volume_a_quarter_of_the_data";
const WINDOW: &str = "tests/tests/e2e/kills.rs::a_kill_costs_at_most_one_window_of_repeated_bytes";
const READER: &str = "tests/tests/e2e/reader.rs::a_reader_never_sees_two_rounds_at_once";
const MODEL: &str = "volmcast/src/capture/tests.rs::threads";
const SHUTTLE: &str = "volmcast/src/capture/shuttle_tests.rs::shuttle_every_set_holds_its_cut";
const TRIGGERS: &str = "volmcast/src/capture/tests.rs::the_seeds_sets_and_triggers";
const BARRIER: &str = "volmcast/src/capture/tests.rs::a_cut_waits_for_writes_and_for_the_drain";
const PINS: &str = "volmcast/src/snapshots/tests.rs::it_agrees_with_copies";
const PULLED: &str = "tests/tests/e2e/pull.rs::a_backup_is_brought_forward_by_what_changed";
const EXAMPLE: &str = "volmcast/src/snapshots/tests.rs::the_seeds_example";
const FIG16: &str = "forwarder/tests/table.rs::figure_16_tables";
const CHAIN: &str = "forwarder/tests/table.rs::rcproute_chain";
const CHUNKS: &str = "rcp/tests/golden.rs::chunks";
const HEADERS: &str = "rcp/tests/golden.rs::set_headers";
const PORT: &str =
    "tests/tests/e2e/port.rs::one_port_serves_everybody_and_closes_on_what_it_does_not_know";
const ROUTES: &str = "tests/tests/e2e/routes.rs::routes_change_while_data_flows";
const RESTART: &str = "tests/tests/e2e/restart.rs::sigterm_finishes_and_a_restart_resumes";
/// States at readers are exactly cuts, nothing acknowledged is lost, whatever crashes.
const SIM: &str = "tests/tests/sim.rs::a_few_hundred_seeds";
const MIRROR: &str = "tests/tests/e2e/mirror.rs::a_mirror_is_read_when_a_version_of_it_is_wanted";
const MIRROR_PROMOTED: &str =
    "tests/tests/e2e/mirror.rs::a_mirror_takes_over_once_it_was_brought_to_a_version";
const STOPPED: &str =
    "tests/tests/e2e/stopped.rs::whether_replication_goes_on_after_a_restart_is_a_setting";
const LINES: &str =
    "tests/tests/e2e/lines.rs::lines_reach_every_member_once_though_a_forwarder_is_killed";
const LINES_FILE: &str = "tests/tests/e2e/lines.rs::a_file_reaches_every_member_with_certificates";
const IN_ORDER: &str =
    "rcp/tests/group.rs::blocks_are_executed_in_the_order_in_which_they_are_sent";
const BLOCKS: &str =
    "tests/tests/e2e/blocks.rs::a_command_runs_once_at_every_member_and_not_before_its_data";
const OWN_LABELS: &str =
    "tests/tests/e2e/volmcast.rs::each_member_has_its_own_label_from_the_topology_or_the_command";
const MADE: &str =
    "tests/tests/e2e/groups.rs::a_group_made_by_commands_survives_and_is_ended_by_commands";
const JOINED: &str = "tests/tests/e2e/groups.rs::\
                      a_member_joins_a_group_of_the_file_and_commands_that_were_cut_short_are_said_again";
const BOTH_NAME: &str =
    "tests/tests/e2e/groups.rs::what_a_command_and_the_file_both_name_is_refused";
const LISTED: &str =
    "tests/tests/e2e/volmcast.rs::volmcasts_and_groups_are_listed_opened_and_closed";
const PLAYBACK: &str =
    "tests/tests/e2e/volmcast.rs::members_stop_and_start_playback_and_are_told_of_cuts";
const EXTENT: &str = "tests/tests/e2e/volmcast.rs::an_extent_is_copied_to_every_copy_again";
const MANAGED: &str = "tests/tests/e2e/volmcast.rs::a_member_is_told_to_send_what_it_manages_and_what_a_file_system_has_changed";
const CUT_SHORT: &str =
    "tests/tests/e2e/blocks.rs::a_command_that_a_kill_cuts_short_does_not_run_twice";
const FILETEST: &str =
    "tests/tests/e2e/filetest.rs::a_file_reaches_every_member_though_one_is_killed";
const GROUPS: &str =
    "tests/tests/e2e/playback.rs::a_replica_plays_groups_at_its_own_high_water_mark";
const USED: &str = "tests/tests/e2e/playback.rs::a_seed_carries_what_is_used_and_a_command_stays_where_it_was_given";
const STEPS: &str = "tests/tests/steps.rs::a_blow_at_every_step_costs_at_most_a_window";
const FIRST: &str = "rcp/tests/net.rs::first_bytes_are_replayed";

const FAILOVER: &str =
    "tests/tests/e2e/failover.rs::a_replica_takes_over_and_the_old_primary_comes_back_fenced";
const FENCE: &str = "node/tests/writers.rs::a_new_writer_fences_the_old_one_over_their_session_also_while_it_holds_writes";
const TURNS: &str = "tests/tests/sim.rs::writers_that_change";
const STEP_OVER: &str = "tests/tests/orders.rs::a_crash_at_any_step_of_a_failover";
const STEP_BACK: &str = "tests/tests/orders.rs::a_crash_at_any_step_of_a_resync";
const STEP_SWAP: &str = "tests/tests/orders.rs::a_crash_at_any_step_of_a_failback";
const STEP_AGAIN: &str = "tests/tests/orders.rs::another_crash_while_the_command_is_said_again";
const POINT: &str =
    "tests/tests/e2e/takeovers.rs::a_replica_goes_on_from_the_restart_point_that_is_named";
const SPELT: &str =
    "node/src/cli/spellings.rs::every_command_of_the_source_systems_means_one_of_ours";
const SPELT_NOT: &str = "node/src/cli/spellings.rs::what_has_no_counterpart_says_what_to_use";
const BACK: &str =
    "tests/tests/e2e/rewind.rs::an_old_primary_goes_back_by_what_differs_and_keeps_it_as_a_branch";
const ITSELF: &str = "tests/tests/e2e/rewind.rs::a_replica_past_the_fork_goes_back_by_itself";
const SWAP: &str = "tests/tests/e2e/failover.rs::a_planned_swap_under_load_loses_nothing";
const MOVES: &str = "tests/tests/e2e/moving.rs::a_volume_moves_with_its_files_while_it_is_written";
const MOVED_STEPS: &str =
    "tests/tests/e2e/moving.rs::after_every_step_the_disk_says_whose_the_volume_is";
const MOVED_AGAIN: &str =
    "tests/tests/e2e/moving.rs::a_move_that_is_killed_anywhere_is_finished_by_the_same_command";
const KILLED: &str = "node/src/runtime/steps_tests.rs::killed_before_any_step_and_again_before_any_other_the_move_is_finished";
const TWO_NODES: &str = "tests/tests/e2e/moving.rs::a_file_that_is_a_volume_of_a_node_is_refused_to_another_also_while_that_is_down";
const RETIRES: &str =
    "tests/tests/e2e/decommission.rs::cut_short_anywhere_the_same_command_finishes_it";
const AGAIN: &str = "tests/tests/e2e/swaps.rs::an_interrupted_swap_is_finished_by_repeating_it";
const SITES: &str = "tests/tests/e2e/sites.rs::both_sides_of_a_partition_take_writes_and_one_command_ends_the_split";
const NOW: &str = "tests/tests/e2e/takeovers.rs::with_now_a_replica_goes_on_from_what_readers_see";
const TAKE_BACK: &str =
    "tests/tests/e2e/takeovers.rs::a_swap_that_nobody_finished_is_taken_back_or_gone_on_with";
const BY_TOPOLOGY: &str =
    "tests/tests/e2e/takeovers.rs::the_tree_is_put_under_the_new_writer_as_the_topology_says";
const DIFFERS: &str =
    "node/src/cli/status/sets.rs::what_differs_is_counted_from_sets_and_from_what_changed_since";
const TAKEOVER: &str =
    "node/tests/takeover.rs::a_crash_at_any_step_leaves_the_old_role_or_the_new_one";
const BEST: &str = "node/src/cli/failover/plan_tests.rs::with_the_writer_gone_the_one_that_saved_most_is_recommended";
const EXACT: &str = "node/src/cli/failover/plan_tests.rs::with_the_writer_up_a_swap_without_loss_is_recommended_and_the_loss_is_exact";

/// What is shown.
pub(crate) const CLAIMS: &[Claim] = &[
    (
        "GEN-01",
        "several nodes serve read-only copies while the primary is written",
        &[TREE, READER],
    ),
    (
        "GEN-02",
        "a node sends to all its children at the same time",
        &[TREE, "forwarder/tests/outbound.rs::no_child_waits_for_a_sibling"],
    ),
    (
        "GEN-03",
        "forwarders send on to children of their own, to any depth",
        &[TREE, "forwarder/tests/outbound.rs::rcproute_chain_sends"],
    ),
    ("GEN-04", "a forwarder applies what it forwards to a copy of its own", &[GROUPS]),
    (
        "GEN-05",
        "each hop chooses its transport",
        &[
            "tests/tests/e2e/transports.rs::the_main_job_over_a_tree_that_mixes_them",
            "tests/tests/e2e/transports.rs::a_route_added_by_quic_stays_so",
        ],
    ),
    ("GEN-06", "acknowledgement, retry and resume lie above the transport", &[WINDOW, KILLS]),
    ("GEN-07", "a replica joins a running group; nobody is stopped", &[LATE]),
    ("GEN-08", "a dead replica stops neither the primary nor others", &[KILLS]),
    ("GEN-09", "sets are made while a child cannot be reached, and sent later", &[KILLS]),
    ("GEN-10", "after a crash replication goes on from what is stored", &[KILLS, SMALL, RESTART]),
    (
        "GEN-13",
        "layers know only what is below them",
        &[
            "tests/tests/tidy.rs::the_layers_do_not_know_what_is_above_them",
            "rcp/tests/purity.rs::without_the_feature_net_there_is_no_runtime_and_no_transport",
        ],
    ),
    (
        "GEN-14",
        "replication is asynchronous: what is not sent may be lost with the site, and the \
        lag says how much",
        &["node/src/cli/tests/golden.rs::a_primary_in_detail"],
    ),
    (
        "CAP-02",
        "every write is marked in the foreground, before it is carried out",
        &[MODEL, SHUTTLE],
    ),
    ("CAP-03", "marks are addresses in two tables, a new and an old one", &[TRIGGERS, BARRIER]),
    (
        "CAP-04",
        "content is read later; a block written twice in a set is sent once, as it was last",
        &[TRIGGERS],
    ),
    (
        "CAP-05",
        "a set is made beyond a size or a time, whichever comes first",
        &[TRIGGERS, "volmcast/src/capture/triggers.rs::strictly_beyond_and_put_off_while_draining"],
    ),
    ("CAP-06", "each set arms both triggers anew", &[TRIGGERS]),
    ("CAP-07", "a set begins with a pause, a swap of tables and the end of the pause", &[BARRIER]),
    (
        "CAP-08",
        "copying goes on after writes have resumed, and gives the same set",
        &[MODEL, SHUTTLE],
    ),
    (
        "CAP-09",
        "a write to a block not yet copied keeps its old content first",
        &[
            TRIGGERS,
            MODEL,
            "volmcast/src/capture/shuttle_tests.rs::shuttle_finds_clear_before_copy",
        ],
    ),
    (
        "CAP-10",
        "a mark goes once its block is copied; a due cut waits for the old table",
        &[BARRIER, "volmcast/src/capture/triggers.rs::strictly_beyond_and_put_off_while_draining"],
    ),
    (
        "CAP-13",
        "a set on demand, and other triggers at run time, at primary and replicas",
        &[TREE, "node/src/cli/tests/mod.rs::commands_ask_what_they_say"],
    ),
    (
        "CAP-14",
        "what was changed since the last set is known after a crash",
        &[
            "volmcast/src/activity/tests.rs::every_flip_every_cut_and_every_lost_page_marks_more_not_less",
            "volmcast/src/activity/tests.rs::threads",
        ],
    ),
    (
        "CAP-15",
        "after a restart replication is in the state it had; recovery comes before anybody is let in",
        &[
            STOPPED,
            "tests/tests/e2e/stopped.rs::what_is_written_right_after_recovery_is_in_the_next_set",
        ],
    ),
    (
        "CAP-16",
        "whether replication goes on after a restart is a setting, at primary and replicas",
        &[STOPPED],
    ),
    (
        "PLAY-08",
        "stopping replication at a replica leaves it consistent, at the state it shows",
        &[STOPPED, SIM],
    ),
    ("CB-01", "an extent of the source is written again at every copy, which says so", &[EXTENT]),
    (
        "CB-02",
        "a command for every copy, acknowledged when all have executed it; standard notifications",
        &[BLOCKS, CUT_SHORT, MANAGED],
    ),
    ("CB-03", "a member is told to replicate a volume that it manages", &[MANAGED]),
    ("CB-04", "commands of an application's own reach every member, once each", &[BLOCKS, LINES]),
    (
        "CMD-01",
        "a member is taken into a group, and out of it, by a command, for good",
        &[LISTED, JOINED, MADE],
    ),
    ("CMD-02", "a group is made, with its primary, and ended, by commands", &[MADE, BOTH_NAME]),
    ("CMD-03", "a volume with a destination label per member, by one command", &[OWN_LABELS]),
    ("CMD-04", "a next hop is added while data flows", &[ROUTES]),
    ("CMD-05", "the routing table is displayed", &[ROUTES]),
    ("CMD-06", "a next hop is removed while data flows", &[ROUTES]),
    ("CMD-07", "a file goes to every member, each says its hash", &[FILETEST]),
    (
        "CMD-08",
        "replication is started and stopped, at the source and at members",
        &[STOPPED, LISTED, PLAYBACK],
    ),
    ("CMD-09", "a delta set is cut on demand", &[TREE]),
    ("CMD-13", "failover in the words of the source systems, with its options", &[SPELT, POINT]),
    ("CMD-14", "resync in these words, with the operands in either order", &[SPELT]),
    ("CMD-15", "status in these words, with the blocks that differ", &[SPELT, DIFFERS]),
    ("CMD-16", "failback in these words: a swap without loss", &[SPELT, SWAP]),
    (
        "CMD-18",
        "a former writer needs no mounting read-only: who says so hears what comes next",
        &[SPELT_NOT, FENCE],
    ),
    ("VMC-01", "sender, receivers and acknowledgements, each by its own part", &[TREE]),
    ("VMC-02", "a group lists its primary, its members and who is missing", &[LISTED, MADE]),
    ("VMC-03", "each member has a label of its own, fixed when its copy is made", &[OWN_LABELS]),
    ("VMC-04", "defined, opened and closed for sending; blocks are broadcast", &[LISTED, BLOCKS]),
    (
        "VMC-05",
        "replication and playback start and stop, a set is made now, at all members",
        &[LISTED, PLAYBACK, STOPPED],
    ),
    ("VMC-06", "save volume, stream, save volume of each member", &[TREE]),
    ("VMC-07", "each member acknowledges each set, and the sender is told", &[TREE, LATE]),
    (
        "VMC-08",
        "a replica mirrors, is not read, and is brought to a version when one is wanted",
        &[MIRROR, MIRROR_PROMOTED],
    ),
    ("CB-05", "a named file goes to every member of a group", &[FILETEST]),
    ("CB-06", "who has not executed a block is named, and why", &[BLOCKS, FILETEST]),
    ("DELTA-01", "a replica that has applied set k equals the source at cut k", &[TREE, KILLS]),
    ("DELTA-02", "a set has many chunks, a chunk one set", &[CHUNKS, HEADERS]),
    ("DELTA-03", "a chunk names generation, set and its number", &[CHUNKS]),
    ("DELTA-04", "a chunk gives runs of blocks, then their content", &[CHUNKS]),
    (
        "DELTA-05",
        "a header with counts and checksums goes last",
        &[HEADERS, "rcp/tests/refusal.rs::set_headers_that_contradict_themselves_are_refused"],
    ),
    (
        "DELTA-06",
        "a set is played only if all of it is there and its checksum holds",
        &[
            "rcp/tests/refusal.rs::the_list_sum_notices_contradictions",
            "rcp/tests/refusal.rs::every_bit_of_a_chunk_counts",
            "volmcast/tests/digest.rs::every_planted_difference_is_found",
            "tests/tests/e2e/damage.rs::a_flipped_bit_in_the_content_of_a_replica",
            "tests/tests/e2e/damage.rs::one_hundred_planted_differences",
            "node/tests/proof.rs::a_hundred_planted_differences_are_found",
            "tests/tests/e2e/deep.rs::a_round_on_demand_finds_and_heals",
            READER,
        ],
    ),
    ("DELTA-07", "a chunk that comes again is stored once", &[WINDOW]),
    (
        "DELTA-08",
        "set numbers rise by one and name a state",
        &[TREE, "rcp/src/proto/ids.rs::state_ids_survive_text"],
    ),
    ("DELTA-10", "sets are played in order, without holes", &[READER]),
    ("SAVE-01", "making sets does not depend on the transport", &[KILLS]),
    (
        "SAVE-02",
        "a chunk area and a mailbox",
        &["volmcast/tests/format.rs::save_record", "volmcast/tests/format.rs::mailbox_slot"],
    ),
    (
        "SAVE-03",
        "what a stored chunk is and where is found after a crash",
        &[
            "volmcast/src/save/record.rs::golden_vector",
            "volmcast/src/save/record.rs::every_bit_counts",
            KILLS,
        ],
    ),
    (
        "SAVE-04",
        "the sender's progress is stored; an interrupted chunk is sent again",
        &[WINDOW, "volmcast/src/mailbox.rs::golden_vector"],
    ),
    (
        "SAVE-05",
        "content survives a crash, and recovery needs nothing else",
        &[KILLS, "volmcast/src/mailbox.rs::the_newer_valid_slot_rules"],
    ),
    (
        "SAVE-07",
        "the chunk area is a ring of fixed size",
        &["volmcast/src/save/ring.rs::records_never_cross_the_end", SMALL],
    ),
    (
        "SAVE-08",
        "a full receiver stops its sender",
        &[
            "forwarder/tests/outbound.rs::the_window_is_never_overrun_and_the_queue_by_one_frame",
            "rcp/src/proto/credit.rs::an_overrun_is_an_error_and_not_counted",
            SMALL,
        ],
    ),
    (
        "SAVE-09",
        "writes wait for receivers that fill the save volume, until there is room or a limit is passed",
        &[
            "tests/tests/e2e/suspended.rs::writes_wait_for_a_leaf_that_is_away_and_go_on_when_it_is_back",
            "tests/tests/e2e/suspended.rs::a_leaf_that_stays_away_is_detached_and_caught_up_later",
            "tests/tests/e2e/suspended.rs::a_forwarder_that_fills_holds_back_the_primary",
            "volmcast/src/volume/retention.rs::writers_wait_exactly_as_long_as_was_said",
            SIM,
        ],
    ),
    ("SAVE-10", "room is freed when every attached child has confirmed", &[SMALL, LATE]),
    (
        "SAVE-11",
        "the blocks of the sets after any state, long after their data: catch-ups",
        &[
            "tests/tests/e2e/away.rs::a_long_absence_costs_the_blocks_that_changed",
            "volmcast/src/bitmap/changes.rs::nothing_is_missed",
            SIM,
        ],
    ),
    (
        "SEND-01",
        "at most what is ready is sent, without spinning",
        &["forwarder/tests/outbound.rs::frames_are_numbered_and_share_their_bytes"],
    ),
    (
        "SEND-02",
        "one stored chunk goes to all children, directly or through forwarders",
        &["forwarder/tests/outbound.rs::figure_16_sends", TREE],
    ),
    (
        "SEND-03",
        "a sending that fails is tried again, and the error is kept and shown",
        &["rcp/src/proto/backoff.rs::waits_double_within_bounds", KILLS],
    ),
    (
        "SEND-04",
        "after a broken connection the chunk is sent again, to those who lack it",
        &[WINDOW, "forwarder/tests/outbound.rs::no_child_waits_for_a_sibling"],
    ),
    ("SEND-05", "rates are told: now, and on average", &[GROUPS]),
    ("COPY-01", "a replica is made at any time, in any number", &[LATE]),
    ("COPY-02", "a replica that is added is fed without further steps", &[LATE]),
    ("COPY-05", "a seed carries only what is used", &[USED]),
    (
        "COPY-06",
        "a seed goes beside the stream, for several replicas at once",
        &["forwarder/tests/outbound.rs::a_seed_goes_beside_the_stream_with_credits_of_its_own"],
    ),
    ("COPY-07", "copying is by block of the volume, whatever lies below", &[TREE, LATE]),
    ("COPY-10", "sets that come while the copy runs are kept from readers", &[LATE]),
    ("COPY-11", "at its end the copy becomes readable, at a state of the stream", &[LATE]),
    ("COPY-12", "writes at the source go on during a copy", &[LATE]),
    (
        "SESS-01",
        "a session with a group sends control blocks and data, and gives callbacks",
        &[
            LINES,
            "rcp/tests/group.rs::every_member_answers_by_name",
            "rcp/tests/group.rs::a_pipe_goes_to_every_member",
            "rcp/tests/session.rs::frames_flow_the_way_they_may",
            "rcp/tests/states.rs::every_frame_in_every_state",
        ],
    ),
    (
        "SESS-02",
        "control begins at the sender, whoever dialled",
        &[
            "rcp/tests/session.rs::either_side_may_dial",
            "rcp/tests/session.rs::frames_flow_the_way_they_may",
        ],
    ),
    ("SESS-03", "an aborted transfer goes on where it was", &[WINDOW, KILLS, STEPS]),
    (
        "SESS-04",
        "a sender has a session manager, queues of sessions and blocks, a port and a routing table",
        &[LINES, IN_ORDER, "rcp/tests/group.rs::every_member_answers_by_name"],
    ),
    (
        "SESS-05",
        "a receiver has the same, passes on, and hands to the application",
        &[LINES, "rcp/tests/group.rs::a_pipe_goes_to_every_member"],
    ),
    (
        "SESS-06",
        "an application registers callbacks; where none is registered the sender is told so",
        &[
            "rcp/tests/group.rs::a_kind_without_callback_names_kind_and_member",
            "rcp/tests/group.rs::callbacks_say_no_and_break_alone",
            "rcp/tests/group.rs::nobody_takes_a_pipe_and_one_does_not",
            BLOCKS,
        ],
    ),
    (
        "SESS-07",
        "a connection for a known session takes it up again",
        &[
            WINDOW,
            "forwarder/tests/feeder.rs::offers_in_every_state",
            "rcp/tests/group.rs::who_is_away_is_missing_and_gets_it_when_it_is_back",
            "rcp/tests/group.rs::a_forwarder_started_again_in_the_middle_passes_every_byte_on",
            LINES,
        ],
    ),
    (
        "SESS-08",
        "received data go to the application or to a file that it named",
        &[
            "rcp/tests/group.rs::a_pipe_goes_to_every_member",
            "rcp/tests/group.rs::a_pipe_goes_to_files_that_are_whole_or_not_there",
            LINES_FILE,
        ],
    ),
    (
        "SESS-09",
        "blocks that are run here wait in a queue; blocks and data for others are passed on",
        &[IN_ORDER, "rcp/tests/group.rs::a_slow_member_holds_up_the_sender_and_is_left_out", LINES],
    ),
    (
        "SESS-10",
        "the port is open in both directions at both ends",
        &["rcp/tests/group.rs::both_ends_are_open_in_both_directions"],
    ),
    ("SESS-11", "members that share one storage system are members as all others", &[LINES_FILE]),
    (
        "ROUTE-01",
        "routes are set hop by hop with rcproute add",
        &[CHAIN, ROUTES, "config/src/route_command.rs::the_chain_of_the_digest"],
    ),
    (
        "ROUTE-02",
        "several next hops per group, as a tree; loops are refused",
        &[
            ROUTES,
            "forwarder/tests/table.rs::rings_are_named",
            "forwarder/tests/table.rs::nobody_is_fed_twice",
            "config/tests/properties.rs::trees_are_trees",
        ],
    ),
    (
        "ROUTE-03",
        "next hops are displayed and deleted",
        &[
            CHAIN,
            ROUTES,
            "forwarder/tests/table.rs::deleting_what_is_not_there",
            "node/src/cli/rcproute.rs::tables_are_shown_by_line",
        ],
    ),
    (
        "ROUTE-04",
        "a table has the onward routes of its children",
        &[
            FIG16,
            "forwarder/tests/table.rs::what_is_learned_goes_with_its_child_and_never_counts_as_a_revision",
        ],
    ),
    ("ROUTE-05", "the primary's table has near and further destinations", &[FIG16]),
    (
        "ROUTE-06",
        "shown as node and next hops, by group",
        &[FIG16, "node/src/cli/rcproute.rs::tables_are_shown_by_line"],
    ),
    (
        "FWD-01",
        "received bytes are handed on, not copied",
        &[
            "forwarder/tests/outbound.rs::frames_are_numbered_and_share_their_bytes",
            "rcp/tests/net.rs::a_chunk_is_sent_from_where_it_is",
        ],
    ),
    (
        "FWD-02",
        "a node forwards for groups in which it has routes",
        &["forwarder/tests/outbound.rs::figure_16_sends"],
    ),
    (
        "FWD-03",
        "a group that is not known is an error to who sent",
        &[
            "rcp/tests/session.rs::refusals_of_the_acceptor",
            "forwarder/tests/table.rs::names_must_be_known",
        ],
    ),
    (
        "FWD-04",
        "only immediate destinations are sent to",
        &[
            "forwarder/tests/outbound.rs::figure_16_sends",
            "forwarder/tests/outbound.rs::rcproute_chain_sends",
        ],
    ),
    ("FWD-05", "a command for this node is done here and not forwarded", &[USED]),
    (
        "FWD-06",
        "those below a child that is away are fed by the node above, until it has caught up",
        &[
            "forwarder/tests/bypass.rs::the_next_hops_of_a_dead_child_are_fed_and_handed_back",
            "tests/tests/e2e/bypass.rs::those_below_a_dead_forwarder_go_on_and_are_handed_back",
            "tests/tests/e2e/bypass.rs::a_forwarder_that_lost_its_disk_is_brought_up_beside_those_below_it",
            "tests/tests/sim.rs::forwarders_that_are_away_for_long",
        ],
    ),
    (
        "FWD-08",
        "the stream is kept until it is forwarded; a slow child costs no sibling",
        &["forwarder/tests/outbound.rs::no_child_waits_for_a_sibling", SMALL],
    ),
    ("PORT-01", "RCP and HTTP share one port", &[FIRST, PORT]),
    (
        "PORT-02",
        "the first bytes decide",
        &[
            "rcp/src/proto/classify.rs::the_digest_vectors",
            "rcp/src/proto/classify.rs::made_up_bytes_are_never_rcp",
        ],
    ),
    ("PORT-03", "every node does it, whatever its role", &[TREE, FIRST]),
    ("PORT-04", "bytes that were looked at are delivered", &[FIRST]),
    (
        "PORT-05",
        "a proxy in front takes the connection apart",
        &[
            "tests/tests/interop_proxy/through.rs::nginx_ends_tls",
            "tests/tests/interop_proxy/through.rs::haproxy_plain",
        ],
    ),
    (
        "PORT-06",
        "neither, or too little, or too late: closed, within bounds",
        &[
            PORT,
            "rcp/tests/net.rs::what_says_nothing_sensible_is_closed",
            "rcp/src/proto/classify.rs::the_limit_holds_to_the_byte",
            "tests/tests/e2e/crowd.rs::ten_thousand_who_say_nothing_keep_nobody_out",
            "tests/tests/e2e/crowd.rs::frames_that_lie_end_their_connection_only",
        ],
    ),
    ("PLAY-01", "playback begins when the copy is complete", &[LATE]),
    (
        "PLAY-03",
        "a complete set is shown by its index and merged in the background",
        &[READER, TREE],
    ),
    ("PLAY-04", "readers see one state, through the index", &[READER]),
    ("PLAY-06", "a replica takes several sets as one group, by its own policy", &[GROUPS]),
    ("PLAY-07", "playback waits for its time or its size", &[GROUPS]),
    ("PLAY-11", "time, duration, blocks and sets of playback are in the table", &[GROUPS]),
    ("PLAY-09", "a merge that was cut short goes on", &[KILLS, SMALL]),
    ("SNAP-01", "many states at once are readable while writes go on", &[PINS, EXAMPLE]),
    ("SNAP-02", "content lies in the volume and in saved images only", &[EXAMPLE]),
    (
        "SNAP-03",
        "a write goes through the youngest state, a read through its successors",
        &[EXAMPLE, PINS],
    ),
    ("SNAP-04", "room for images is taken block by block", &[EXAMPLE]),
    (
        "SNAP-05",
        "each image has an entry from block to place",
        &["volmcast/src/snapshots/damage_tests.rs::golden_vectors", EXAMPLE],
    ),
    ("SNAP-06", "it is known which blocks have an image", &[EXAMPLE]),
    ("SNAP-07", "states stand in order; only the youngest takes images", &[EXAMPLE, PINS]),
    ("SNAP-08", "only the first change of a block costs a copy", &[EXAMPLE]),
    (
        "SNAP-09",
        "what a state holds never changes",
        &[PINS, "volmcast/src/snapshots/race_tests.rs::threads"],
    ),
    (
        "SNAP-10",
        "a state carries its set number",
        &["volmcast/src/snapshots/tests.rs::pins_of_one_state_share"],
    ),
    (
        "DIFF-01",
        "what changed from one kept state to another is listed, and read as of the younger",
        &[PULLED],
    ),
    ("DIFF-02", "changed blocks come in rising order", &[PINS]),
    ("DIFF-03", "only indices from the older state up to the younger are looked at", &[EXAMPLE]),
    (
        "DIFF-04",
        "a changed block is named once; the difference is the union of the neighbours'",
        &[PINS],
    ),
    ("DIFF-05", "a younger state that is not younger, or unknown, is an error", &[EXAMPLE]),
    ("DIFF-06", "the form of the index is free", &[PINS]),
    (
        "CAP-01",
        "a copy for a new replica begins at a cut, which writers pause for",
        &[BARRIER, LATE, SIM],
    ),
    (
        "CAP-12",
        "nothing spins: a node wakes when something is due",
        &["node/tests/writers.rs::who_has_nothing_to_do_sleeps"],
    ),
    ("CAP-11", "a set leaves only once it and the volume below it are durable", &[SIM]),
    ("DELTA-09", "a state kept while sets are played carries the set it holds", &[SIM]),
    (
        "COPY-03",
        "a copy leads to the state of one cut; what changes meanwhile comes with the sets",
        &[SIM, LATE],
    ),
    ("COPY-04", "the set number of a copy is all that is needed to join the stream", &[SIM, LATE]),
    ("PLAY-10", "an incomplete set is not played", &[SIM]),
    ("F10", "making sets: pause, swap, resume, copy, mark as ready", &[TRIGGERS, MODEL, SHUTTLE]),
    ("F11", "a new replica: copy, and the stream from the state of the copy on", &[LATE]),
    (
        "F12",
        "sending: what is ready, again after a failure, progress stored",
        &[
            "forwarder/tests/outbound.rs::the_window_is_never_overrun_and_the_queue_by_one_frame",
            WINDOW,
        ],
    ),
    (
        "F17",
        "a forwarder's decision: own or onward, group known or error",
        &[
            "forwarder/tests/table.rs::names_must_be_known",
            "forwarder/tests/outbound.rs::figure_16_sends",
        ],
    ),
    ("F26", "writing under states: save the old content once, then write", &[EXAMPLE, PINS]),
    (
        "F27",
        "reading a state: own image, else the next younger's, else the volume",
        &[EXAMPLE, PINS],
    ),
    ("F34", "the difference of two states from their indices", &[EXAMPLE, PINS]),
    (
        "GEN-12",
        "a volume's service is stopped on one node and started on another from what the files hold, and \
         a node is taken out of service",
        &[MOVES, MOVED_STEPS, MOVED_AGAIN, KILLED, TWO_NODES, RETIRES],
    ),
    ("GEN-11", "the roles of primary and replica can be exchanged", &[FAILOVER, SWAP, BY_TOPOLOGY]),
    (
        "FAIL-01",
        "replicate, lose the primary, fail over, have it back, resync, fail back",
        &[FAILOVER],
    ),
    (
        "FAIL-02",
        "the node that loses least is recommended, and others are not copied",
        &[BEST, FAILOVER],
    ),
    (
        "FAIL-03",
        "sets that were received are played, the state is kept, writers are let in",
        &[TAKEOVER, FAILOVER],
    ),
    (
        "FAIL-04",
        "the restart point is kept under the number of the last applied set",
        &[TAKEOVER, FAILOVER],
    ),
    ("FAIL-05", "from there on changes are tracked: the restart point stays readable", &[TAKEOVER]),
    (
        "FAIL-06",
        "an old primary that can be reached is made read-only first",
        &[
            "tests/tests/e2e/failover.rs::a_primary_that_can_be_reached_is_made_read_only_first",
            FENCE,
        ],
    ),
    ("FAIL-07", "on demand nothing more is played, and what was not is dropped", &[TAKEOVER, NOW]),
    ("FAIL-08", "without the old primary a swap without loss fails and changes nothing", &[SWAP]),
    ("FAIL-09", "the old primary sends no more once it has handed over", &[SWAP, FENCE, TAKE_BACK]),
    ("FAIL-10", "what is lost is told: sets, seconds and bytes as far as known", &[BEST, EXACT]),
    (
        "FAIL-11",
        "resync by undo: only the blocks that changed since the fork",
        &[BACK, ITSELF, SITES],
    ),
    ("FAIL-14", "what was in no set is taken back as well, and kept", &[BACK, TURNS]),
    ("FAIL-16", "blocks to take back and new changes come at once", &[TURNS]),
    ("FAIL-17", "a resync interrupted by a crash goes on by itself", &[TURNS, STEP_BACK]),
    ("FAIL-19", "blocks that differ are counted, and say when to go back", &[DIFFERS, FAILOVER]),
    ("FAIL-20", "back to the first primary without loss", &[FAILOVER]),
    ("FAIL-21", "the same command swaps without a disaster and without a copy", &[SWAP]),
    (
        "FAIL-22",
        "a swap that an error ended is finished by the same command",
        &[AGAIN, TAKE_BACK, STEP_SWAP, STEP_AGAIN],
    ),
    ("F23", "failover without the old primary", &[TAKEOVER, FAILOVER, STEP_OVER]),
    ("F28", "list, contents from the new side, back in step", &[BACK, ITSELF]),
    ("F31", "with and without loss are told apart by one word", &[FAILOVER, SWAP]),
    ("F32", "play, keep, let writers in", &[TAKEOVER, FAILOVER]),
    ("F33", "near, hold, last set, fence, promote", &[SWAP, TURNS]),
];

/// What is not shown by a test yet, and why.
pub(crate) const MISSING: &[(&str, &str)] = &[
    ("SAVE-06", "a save volume shared by local replicas belongs to local fan-out, later"),
    ("PLAY-02", "simple playback is not built: read-through takes its place"),
    ("PLAY-05", "a pair of delta volumes is not built: read-through takes its place"),
];
