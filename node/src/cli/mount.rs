//! A read-only export as a file, by `nbdfuse`, for as long as the command runs.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::output::{Failed, print};
use super::way::Way;

/// The file that `nbdfuse` shows in its folder.
const FILE: &str = "nbd";
/// How long it has to end by itself.
const ENDS: Duration = Duration::from_secs(5);

/// What is shown where.
#[derive(Debug, Serialize)]
pub(super) struct Mount {
    /// The export.
    pub(super) uri: String,
    /// The folder.
    pub(super) at: PathBuf,
}

/// The URI of an export: over the Unix socket of a node on this machine, else over TCP, with TLS if the
/// node has that.
///
/// # Errors
/// The node listens on no address that can be used from here, or wants a certificate.
pub(super) fn uri(
    way: &Way,
    listens: &[String],
    export: &str,
    certificate: Option<&Path>,
) -> Result<String, Failed> {
    if let Some(folder) = way.folder() {
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let socket = folder.join("nbd.sock");
        return Ok(format!("nbd+unix:///{export}?socket={}", escaped(socket.as_os_str())));
    }
    let by = |scheme: &str| listens.iter().find(|l| l.starts_with(scheme));
    if let Some(tls) = by("nbds://") {
        let Some(folder) = certificate else {
            return Err(Failed::new(format!(
                "{tls} wants a certificate: `rcpctl pki issue --client NAME` makes one, and \
                 --certificate FOLDER names it"
            )));
        };
        let full = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let full = escaped(full.as_os_str());
        return Ok(format!("{}/{export}?tls-certificates={full}", tls.trim_end_matches('/')));
    }
    let plain = by("nbd://").map(|l| format!("{}/{export}", l.trim_end_matches('/')));
    plain.ok_or_else(|| {
        Failed::new(format!(
            "the node at {way} serves NBD only on its own machine: say this there, or give it an address \
             with `nbd:` in the topology"
        ))
    })
}

/// As the value of a query (RFC 3986, section 3.4).
fn escaped(text: &OsStr) -> String {
    let mut out = String::new();
    for b in text.as_encoded_bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(*b));
            }
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

impl Mount {
    fn shown(&self) -> String {
        quoted(&self.at.display().to_string())
    }

    /// What does the same in a shell, and how the file is mounted and let go of.
    pub(super) fn commands(&self) -> String {
        let at = self.shown();
        format!(
            "mkdir -p {at}\nnbdfuse --readonly {at} {uri}\n# elsewhere, to mount the file system in it:\n\
             mount -o ro,loop,norecovery {at}/{FILE} /mnt\n# at the end:\numount /mnt\n\
             fusermount3 -u {at}\n",
            uri = quoted(&self.uri),
        )
    }

    /// Shows the file until somebody interrupts.
    ///
    /// # Errors
    /// `nbdfuse` is not there, or ended by itself.
    pub(super) async fn run(&self) -> Result<(), Failed> {
        let failed = |e: std::io::Error| Failed::new(format!("{}: {e}", self.at.display()));
        let mut interrupts = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminates = signal(SignalKind::terminate()).map_err(failed)?;
        let made = !self.at.exists();
        std::fs::create_dir_all(&self.at).map_err(failed)?;
        let began = Command::new("nbdfuse").arg("--readonly").arg(&self.at).arg(&self.uri).spawn();
        let mut child = match began {
            Ok(child) => child,
            Err(e) => {
                self.clear(made);
                return Err(not_begun(&e));
            }
        };
        let at = self.shown();
        print(&format!(
            "{at}/{FILE} can be read until this is interrupted (Ctrl-C); to mount the file system in \
             it: mount -o ro,loop,norecovery {at}/{FILE} /mnt\n"
        ))?;
        let ended = tokio::select! {
            ended = child.wait() => Some(ended),
            _ = interrupts.recv() => None,
            _ = terminates.recv() => None,
        };
        let done = match ended {
            Some(ended) => Err(ended_by_itself(ended)),
            None => self.end(&mut child).await,
        };
        self.clear(made);
        done
    }

    /// `nbdfuse` ends when its file is unmounted, or at a signal, unless the file is in use.
    async fn end(&self, child: &mut Child) -> Result<(), Failed> {
        let in_use = || {
            let at = self.shown();
            Failed::new(format!(
                "{at}/{FILE} is in use, and stays: unmount what is mounted from it, then `fusermount3 -u \
                 {at}`"
            ))
        };
        // At a terminal it was interrupted as well.
        let unmounts = Command::new("fusermount3").args(["-u", "-q"]).arg(&self.at).status();
        if !unmounts.await.is_ok_and(|s| s.success())
            && let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            // It has ended, if that fails.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        timeout(ENDS, child.wait()).await.map_err(|_| in_use()).map(drop)
    }

    /// A folder that was made for this goes with it.
    fn clear(&self, made: bool) {
        if made {
            // Something is in it: it stays.
            let _ = std::fs::remove_dir(&self.at);
        }
    }
}

fn not_begun(e: &std::io::Error) -> Failed {
    Failed::new(match e.kind() {
        ErrorKind::NotFound => {
            "there is no nbdfuse here: `apt-get install libnbd-bin fuse3` (Debian), \
             or `--print` for the commands; without it, `rcpctl branch export` writes a file"
                .to_owned()
        }
        _ => format!("nbdfuse: {e}"),
    })
}

fn ended_by_itself(ended: std::io::Result<ExitStatus>) -> Failed {
    Failed::new(match ended {
        Ok(s) if s.success() => "nbdfuse has ended: the file was unmounted".to_owned(),
        Ok(s) => format!(
            "nbdfuse has ended ({s}); what it said is above. It needs /dev/fuse, and fusermount3 of the \
             package fuse3 where it is not run by root"
        ),
        Err(e) => format!("nbdfuse: {e}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::way::Remote;
    use rcp::proto::ids::NodeName;

    #[test]
    fn the_export_is_named_as_the_node_can_be_reached() {
        let here = Way::socket("/srv/a b/rcpd.sock");
        let (export, pki) = ("vol@branch:1-0a-7", Path::new("/etc/pki/x"));
        assert_eq!(
            uri(&here, &[], export, None).expect("a socket"),
            "nbd+unix:///vol@branch:1-0a-7?socket=/srv/a%20b/nbd.sock"
        );
        let there = Way::Network(Remote {
            node: NodeName::new("b").expect("valid"),
            address: "10.0.0.2:7101".to_owned(),
            trusted: None,
            token: None,
        });
        let all = |tcp: &str| vec!["nbd+unix:///?socket=/b/nbd.sock".to_owned(), tcp.to_owned()];
        assert_eq!(
            uri(&there, &all("nbd://10.0.0.2:10809"), export, None).expect("plain text"),
            "nbd://10.0.0.2:10809/vol@branch:1-0a-7"
        );
        let tls = all("nbds://10.0.0.2:10809");
        assert_eq!(
            uri(&there, &tls, export, Some(pki)).expect("TLS"),
            "nbds://10.0.0.2:10809/vol@branch:1-0a-7?tls-certificates=/etc/pki/x"
        );
        let why = uri(&there, &tls, export, None).expect_err("no certificate").text;
        assert!(why.contains("`rcpctl pki issue --client NAME`"), "{why}");
        let why = uri(&there, &all("")[..1], export, None).expect_err("no address").text;
        assert!(why.contains("say this there"), "{why}");
    }

    #[test]
    fn what_is_printed_can_be_pasted() {
        let m = Mount { uri: "nbd://h/v@branch:1?a=b".into(), at: "it's here".into() };
        let all = m.commands();
        assert!(
            all.contains("nbdfuse --readonly 'it'\\''s here' 'nbd://h/v@branch:1?a=b'\n"),
            "{all}"
        );
        assert!(all.contains("mount -o ro,loop,norecovery 'it'\\''s here'/nbd /mnt\n"), "{all}");
    }
}
