//! Control blocks on this machine: the commands that handle them, and their record.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use config::NodePlan;
use rcp::group::record::Records;
use rcp::proto::control::{Journal, MAX_RESULT};
use rcp::proto::ids::{GroupName, NodeName, StateId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::core::Input;
use super::start::{StartError, task};
use crate::clock;
use crate::limits;
use crate::mover::{LOST_KINDS, ROLE_KINDS};

/// Reads the record of a data folder, without what is too old or torn.
pub(super) fn open(folder: &Path) -> Result<(Journal, Records), StartError> {
    Records::open(&folder.join("blocks")).map_err(|e| StartError::Refused(e.to_string()))
}

/// Has an entry of the record made durable; the core is told.
pub(super) fn store(
    records: &Records,
    id: [u8; 16],
    bytes: Vec<u8>,
    whole: bool,
    core: mpsc::Sender<Input>,
) {
    let told = move |stored| {
        let _ = core.blocking_send(Input::BlockRecorded { id, stored });
    };
    records.store(bytes, whole, Box::new(told));
}

/// What a handler is to be run for.
pub(super) struct Order {
    pub(super) id: [u8; 16],
    pub(super) kind: String,
    pub(super) group: GroupName,
    pub(super) after: Option<StateId>,
    pub(super) body: Bytes,
}

/// The commands of a node.
#[derive(Clone)]
pub(super) struct Handlers {
    node: NodeName,
    commands: Arc<BTreeMap<String, Vec<String>>>,
    /// Where relative programs are, and where commands run: the folder of the topology.
    base: PathBuf,
    room: Arc<Semaphore>,
    /// For those about who writes: they do not wait for the others.
    role_room: Arc<Semaphore>,
    time: Duration,
}

impl Handlers {
    pub(super) fn new(node: &NodePlan, base: &Path) -> Self {
        Self {
            node: node.name.clone(),
            commands: Arc::new(node.handlers.clone()),
            base: base.to_owned(),
            room: Arc::new(Semaphore::new(limits::MAX_HANDLERS)),
            role_room: Arc::new(Semaphore::new(limits::MAX_ROLE_HANDLERS)),
            time: limits::HANDLER_TIME,
        }
    }

    /// Runs a command in the background; its result goes to the core.
    pub(super) fn run(&self, order: Order, core: mpsc::Sender<Input>) {
        let handlers = self.clone();
        task(async move {
            let id = order.id;
            let kind = order.kind.as_str();
            let (ok, text) = if ROLE_KINDS.contains(&kind) {
                handlers.handle_role(order).await
            } else if LOST_KINDS.contains(&kind) {
                // One at a time on a node; it may be a whole failover.
                handlers.handle(order, limits::LOST_HANDLER_TIME).await
            } else {
                // The semaphore is never closed.
                let _share = handlers.room.acquire().await;
                handlers.handle(order, handlers.time).await
            };
            let _ = core.send(Input::Hashed { id, ok, text }).await;
        });
    }

    fn command(&self, order: &Order) -> Option<Command> {
        let (program, arguments) = self.commands.get(&order.kind)?.split_first()?;
        // A bare name is looked up in PATH.
        let bare = !program.contains('/');
        let program = if bare { PathBuf::from(program) } else { self.base.join(program) };
        let mut c = Command::new(program);
        c.args(arguments)
            .current_dir(&self.base)
            .env("RCP_BLOCK", uuid::Uuid::from_bytes(order.id).to_string())
            .env("RCP_KIND", &order.kind)
            .env("RCP_GROUP", order.group.as_str())
            .env("RCP_NODE", self.node.as_str())
            .env("RCP_STATE", order.after.map(|s| s.to_string()).unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if LOST_KINDS.contains(&order.kind.as_str()) {
            let told = String::from_utf8_lossy(&order.body).into_owned();
            let mut told = told.split_whitespace();
            c.env("RCP_VOLUME", told.next().unwrap_or_default());
            c.env("RCP_SILENT_SINCE", told.next().unwrap_or_default());
            c.env("RCP_FED_BY", told.next().unwrap_or_default());
        }
        Some(c)
    }

    /// Somebody waits for the answer: the time counts from here.
    async fn handle_role(&self, order: Order) -> (bool, String) {
        let began = clock::mono();
        match timeout(self.time, self.role_room.acquire()).await {
            Ok(_share) => {
                let waited = clock::mono().since(began);
                self.handle(order, self.time.saturating_sub(waited)).await
            }
            Err(_) => {
                let (most, time) = (limits::MAX_ROLE_HANDLERS, self.time.as_secs());
                (false, format!("{most} others ran all the time, for {time} s: it was not started"))
            }
        }
    }

    /// Runs the command of a block: whether it succeeded, and what it said.
    async fn handle(&self, order: Order, time: Duration) -> (bool, String) {
        let Some(mut command) = self.command(&order) else {
            return (false, format!("no handler for `{}`", order.kind));
        };
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(e) => {
                let program = command.as_std().get_program().to_string_lossy().into_owned();
                return (false, format!("the handler {program} cannot be started: {e}"));
            }
        };
        let group =
            child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A handler need not read what it is told.
                let _ = stdin.write_all(&order.body).await;
            }
        };
        let all = async {
            let (status, (), out, err) =
                tokio::join!(child.wait(), feed, heard(stdout), heard(stderr));
            (status, out, err)
        };
        // What it has waited for belongs to its time.
        let most = time.max(self.time);
        let ended = timeout(time, all).await;
        // With whatever it has started.
        if let (Some(group), true) = (group, ended.is_err()) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        match ended {
            Err(_) => (false, format!("the handler was ended after {} s", most.as_secs())),
            Ok((Ok(status), out, _)) if status.success() => {
                (true, if out.is_empty() { "done".to_owned() } else { out })
            }
            Ok((Ok(status), out, err)) => {
                let said = if err.is_empty() { out } else { err };
                (false, cut(format!("the handler ended with {status}: {said}")))
            }
            Ok((Err(e), ..)) => (false, format!("the handler: {e}")),
        }
    }
}

/// What a command says, up to what is put on record; the rest is read and dropped, so that the
/// command is not held up.
async fn heard(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else { return String::new() };
    let (mut said, mut buf) = (Vec::new(), [0; 1024]);
    while let Ok(n @ 1..) = from.read(&mut buf).await {
        let room = MAX_RESULT.saturating_sub(said.len());
        said.extend(buf.iter().take(n.min(room)));
    }
    cut(String::from_utf8_lossy(&said).trim().to_owned())
}

/// At most so much as is put on record.
fn cut(mut text: String) -> String {
    let mut end = text.len().min(MAX_RESULT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(argv: &[&str], body: &'static [u8]) -> (bool, String) {
        let argv = argv.iter().map(|a| (*a).to_owned()).collect();
        let handlers = Handlers {
            node: NodeName::new("n1").expect("good"),
            commands: Arc::new(BTreeMap::from([("say".to_owned(), argv)])),
            base: std::env::temp_dir(),
            room: Arc::new(Semaphore::new(1)),
            role_room: Arc::new(Semaphore::new(1)),
            time: Duration::from_secs(1),
        };
        let group = GroupName::new("g1").expect("good");
        let body = Bytes::from_static(body);
        let order = Order { id: [1; 16], kind: "say".to_owned(), group, after: None, body };
        handlers.handle(order, handlers.time).await
    }

    #[tokio::test]
    async fn a_handler_gets_the_data_and_is_heard() {
        assert_eq!(run(&["cat"], b"some words").await, (true, "some words".to_owned()));
        assert_eq!(run(&["true"], b"unread").await, (true, "done".to_owned()));
        let said = run(&["sh", "-c", "echo $RCP_NODE $RCP_KIND $RCP_GROUP"], b"").await;
        assert_eq!(said, (true, "n1 say g1".to_owned()));
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told() {
        let (ok, said) = run(&["sh", "-c", "echo no room >&2; exit 3"], b"").await;
        assert!(!ok && said.contains("exit status: 3: no room"), "{said}");
        let (ok, said) = run(&["./not-there-at-all"], b"").await;
        assert!(!ok && said.contains("not-there-at-all cannot be started"), "{said}");
        let (ok, said) = run(&["sh", "-c", "sleep 600 & sleep 600"], b"").await;
        assert!(!ok && said == "the handler was ended after 1 s", "{said}");
        let (ok, said) = run(&["sh", "-c", "yes | head -c 100000"], b"").await;
        assert!(ok && said.len() <= MAX_RESULT, "{said}");
    }
}
