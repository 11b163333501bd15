//! `rcpfiletest`: send a file to every member of a group through the tree, and have each say what it
//! got (CB-05).
//!
//! The file travels as a volume of its own: it is written at the primary, cut, replicated with all
//! that replication can do (forwarders, resumption, seeds), hashed by every member, and removed.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use xxhash_rust::xxh3::Xxh3;

use super::client::Client;
use super::output::{Failed, asks_for_json, finish, not_understood, print, print_json};
use super::target::{Purpose, Surroundings, Target};
use crate::api::{CutInfo, MemberResult, VolumeInfo, VolumeSpec};
use crate::http::{paths, requests};
use crate::nbd;

const PIECE: usize = 1 << 20;
const BLOCK: u64 = 4096;
const DEADLINE: Duration = Duration::from_secs(60);
/// Save volume of the file's volume: it need not hold the file.
const SAVE: u64 = 64 << 20;

/// Send a file to every member of a group and compare what arrived
#[derive(Debug, Parser)]
#[command(name = "rcpfiletest", version, max_term_width = 100, override_usage = FORM)]
struct Cli {
    /// data=FILE group=GROUP
    #[arg(value_name = "WORD", required = true)]
    words: Vec<String>,
    /// Seconds to wait for all members
    #[arg(long, default_value_t = 600)]
    wait: u64,
    /// Leave the file's volume in place
    #[arg(long)]
    keep: bool,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

const FORM: &str = "rcpfiletest [OPTIONS] data=FILE group=GROUP";

struct Words {
    file: PathBuf,
    group: String,
}

fn parse(words: &[String]) -> Result<Words, Failed> {
    let (mut file, mut group) = (None, None);
    for w in words {
        match w.split_once('=') {
            Some(("data", f)) if !f.is_empty() => file = Some(PathBuf::from(f)),
            Some(("group", g)) if !g.is_empty() => group = Some(g.to_owned()),
            _ => {
                return Err(Failed::usage(format!(
                    "`{w}` is neither data=FILE nor group=GROUP\n{FORM}"
                )));
            }
        }
    }
    match (file, group) {
        (Some(file), Some(group)) => Ok(Words { file, group }),
        (None, _) => Err(Failed::usage(format!("which file? say data=FILE\n{FORM}"))),
        (_, None) => Err(Failed::usage(format!("to which group? say group=GROUP\n{FORM}"))),
    }
}

async fn run(cli: Cli) -> Result<(), Failed> {
    let around = Surroundings::read();
    let w = parse(&cli.words)?;
    let at = |e: std::io::Error| Failed::new(format!("{}: {e}", w.file.display()));
    let len = std::fs::metadata(&w.file).map_err(at)?.len();
    let client = cli.target.one(Purpose::Any, &around)?.client();
    let status = client.status().await?;
    let Some(group) = status.groups.iter().find(|g| g.group == w.group) else {
        let known: Vec<_> = status.groups.iter().map(|g| g.group.as_str()).collect();
        return Err(Failed::new(format!(
            "{} is in no group `{}`; its groups are: {}",
            status.node,
            w.group,
            known.join(", ")
        )));
    };
    if group.role != "primary" {
        return Err(Failed::new(format!(
            "{} is a {} of group {}: a file is sent by the primary; ask that node (--dir, or \
             --topology with --node)",
            status.node, group.role, w.group
        )));
    }
    let label = format!("file-{:08x}", crate::clock::wall().0 & 0xffff_ffff);
    let spec = VolumeSpec {
        label: label.clone(),
        group: w.group.clone(),
        size: len.max(1).div_ceil(BLOCK) * BLOCK,
        block_size: None,
        backing: None,
        save: Some(SAVE),
        import: false,
    };
    let _: VolumeInfo = client.post(paths::VOLUME_CREATE, &spec).await?;
    let sent = send(&client, &label, &w.file, len, cli.wait).await;
    if !cli.keep {
        let body = requests::Delete { volume: label.clone() };
        let gone: Result<requests::Done, _> = client.post(paths::VOLUME_DELETE, &body).await;
        if let Err(e) = gone {
            eprintln!("rcpfiletest: volume {label} could not be removed: {e}");
        }
    }
    let (hash, members) = sent?;
    let good = |m: &MemberResult| m.ok && m.text == hash;
    if cli.json {
        print_json(&serde_json::json!({ "hash": hash, "bytes": len, "members": members }))?;
    } else {
        let mut text = format!("{:<15} {hash}  {len} bytes sent\n", status.node);
        for m in &members {
            let verdict = match (m.ok, good(m)) {
                (true, true) => "same",
                (true, false) => "DIFFERENT",
                _ => "MISSING",
            };
            text.push_str(&format!("{:<15} {}  {verdict}\n", m.node, m.text));
        }
        let same = members.iter().filter(|m| good(m)).count();
        text.push_str(&format!("{same} of {} members have the file\n", members.len()));
        print(&text)?;
    }
    if members.iter().all(good) {
        Ok(())
    } else {
        Err(Failed::new("not every member has the file"))
    }
}

/// Writes the file, cuts, and asks every member.
async fn send(
    client: &Client,
    label: &str,
    file: &Path,
    len: u64,
    wait_s: u64,
) -> Result<(String, Vec<MemberResult>), Failed> {
    let Some(folder) = client.folder() else {
        return Err(Failed::new(format!(
            "the file is written over the NBD socket in the data folder of the primary: run this on \
             its machine, not through {}",
            client.way()
        )));
    };
    let socket = folder.join("nbd.sock");
    let (path, export) = (file.to_path_buf(), label.to_owned());
    let hash = tokio::task::spawn_blocking(move || write(&socket, &export, &path, len))
        .await
        .map_err(|e| Failed::new(e.to_string()))??;
    let cut = requests::Cut { volume: label.to_owned(), keep: false };
    let cut: CutInfo = client.post(paths::CUT, &cut).await?;
    let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
    if let Some(b) = &bar {
        b.set_message("waiting for every member to have it whole");
        b.enable_steady_tick(Duration::from_millis(100));
    }
    let ask = requests::Hash { volume: label.to_owned(), set: cut.set, len, wait_s };
    let members: Vec<MemberResult> = client.post(paths::HASH, &ask).await?;
    if let Some(b) = bar {
        b.finish_and_clear();
    }
    Ok((hash, members))
}

/// Copies the file into the volume over NBD; its hash.
fn write(socket: &Path, export: &str, file: &Path, len: u64) -> Result<String, Failed> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |e: &dyn std::fmt::Display| Failed::new(format!("{what}: {e}"))
    };
    let mut f = File::open(file).map_err(|e| failed(&file.display().to_string())(&e))?;
    let nbd = failed("writing over NBD");
    let mut client = nbd::Client::unix(socket, export, DEADLINE).map_err(|e| nbd(&e))?;
    let bar =
        if std::io::stderr().is_terminal() { ProgressBar::new(len) } else { ProgressBar::hidden() };
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}  {bytes_per_sec}")
    {
        bar.set_style(style);
    }
    let (mut hash, mut at) = (Xxh3::new(), 0u64);
    let mut buf = vec![0u8; PIECE];
    while at < len {
        let n = f.read(&mut buf).map_err(|e| failed(&file.display().to_string())(&e))?;
        if n == 0 {
            return Err(Failed::new(format!(
                "{} became shorter while it was sent",
                file.display()
            )));
        }
        let n = n.min(usize::try_from(len - at).unwrap_or(n));
        hash.update(&buf[..n]);
        client.write(at, &buf[..n], false).map_err(|e| nbd(&e))?;
        at += n as u64;
        bar.set_position(at);
    }
    client.flush().map_err(|e| nbd(&e))?;
    let _ = client.disconnect();
    bar.finish_and_clear();
    Ok(format!("{:032x}", hash.digest128()))
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let json = asks_for_json(std::env::args_os());
    match Cli::try_parse() {
        Ok(cli) => finish("rcpfiletest", json, run(cli)),
        Err(e) => not_understood(&e, json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_checked() {
        let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let good = parse(&words(&["data=a.bin", "group=g1"])).expect("good");
        assert_eq!((good.file, good.group.as_str()), (PathBuf::from("a.bin"), "g1"));
        for bad in [&["data=a"][..], &["group=g"], &["data=", "group=g"], &["file=a", "group=g"]] {
            let e = parse(&words(bad)).err().expect("bad");
            assert_eq!(e.code, 2);
            assert!(e.text.contains("data=FILE"), "{}", e.text);
        }
    }
}
