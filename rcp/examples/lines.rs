//! Lines typed at a terminal go to every member of a group, through the tree.
//!
//! ```text
//! cargo run -p rcp --example lines -- --name leaf1 --listen 127.0.0.1:7301
//! cargo run -p rcp --example lines -- --name leaf2 --listen 127.0.0.1:7302
//! cargo run -p rcp --example lines -- --name mid   --listen 127.0.0.1:7303 \
//!     --parent-of leaf1=127.0.0.1:7301 --parent-of leaf2=127.0.0.1:7302
//! cargo run -p rcp --example lines -- --name root  --parent-of mid=127.0.0.1:7303
//! ```
//!
//! Type at `root`. With `--pki DIR` (made by `rcpctl pki`) the hops are TLS; with `--record FILE`
//! a line is printed once, whatever is killed; with `--save DIR` a member takes files, which are
//! sent by a line `/send FILE`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rcp::group::{Endpoint, Group, Session, Setup, Trust};
use rcp::net::tls::Pki;
use rcp::proto::ids::NodeName;
use tokio::sync::mpsc;

const HELP: &str = "\
usage: lines --name NAME [--listen HOST:PORT] [--parent-of NAME=HOST:PORT]... [options]
  --group NAME     the group; `lines` if not given
  --wait SECONDS   how long to wait for every member; 10 if not given
  --pki DIR        certificates (rcpctl pki): ca.pem, NAME.pem, NAME.key
  --record FILE    keep the record of lines that were printed in this file
  --save DIR       take files that are sent by a line `/send FILE`, as DIR/NAME.received";

/// What the command line says.
struct Words {
    name: String,
    listen: Option<String>,
    children: Vec<(String, String)>,
    group: String,
    wait: Duration,
    pki: Option<PathBuf>,
    record: Option<PathBuf>,
    save: Option<PathBuf>,
}

fn words(mut args: impl Iterator<Item = String>) -> Result<Words, String> {
    let mut w = Words {
        name: String::new(),
        listen: None,
        children: Vec::new(),
        group: "lines".to_owned(),
        wait: Duration::from_secs(10),
        pki: None,
        record: None,
        save: None,
    };
    while let Some(option) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{option} needs a value\n{HELP}"));
        match option.as_str() {
            "--name" => w.name = value()?,
            "--listen" => w.listen = Some(value()?),
            "--parent-of" => {
                let child = value()?;
                let (name, addr) = child
                    .split_once('=')
                    .ok_or_else(|| format!("`{child}` is not NAME=HOST:PORT\n{HELP}"))?;
                w.children.push((name.to_owned(), addr.to_owned()));
            }
            "--group" => w.group = value()?,
            "--wait" => {
                let seconds = value()?;
                let n = seconds.parse().map_err(|_| format!("`{seconds}` is no number"))?;
                w.wait = Duration::from_secs(n);
            }
            "--pki" => w.pki = Some(value()?.into()),
            "--record" => w.record = Some(value()?.into()),
            "--save" => w.save = Some(value()?.into()),
            _ => return Err(format!("`{option}` is not known\n{HELP}")),
        }
    }
    if w.name.is_empty() { Err(format!("--name is needed\n{HELP}")) } else { Ok(w) }
}

/// The endpoint that the command line describes.
fn setup(w: &Words) -> Result<Setup, Box<dyn std::error::Error>> {
    let trust = match &w.pki {
        Some(folder) => Trust::Certificates(Arc::new(Pki::load(folder, &NodeName::new(&w.name)?)?)),
        None => Trust::Loopback,
    };
    let mut group = Group::new(&w.group)?;
    for (name, addr) in &w.children {
        group = group.child(name, addr)?;
    }
    let mut setup = Setup::new(&w.name, trust)?.group(group).on("line", |block| async move {
        println!("{}", String::from_utf8_lossy(&block.body));
        Ok(Bytes::from_static(b"printed"))
    });
    if let Some(addr) = &w.listen {
        setup = setup.listen(addr);
    }
    if let Some(file) = &w.record {
        setup = setup.record(file);
    }
    if let Some(folder) = w.save.clone() {
        let name = w.name.clone();
        setup = setup.on_pipe("file", move |pipe| {
            let path = folder.join(format!("{name}.received"));
            async move {
                let bytes = pipe.to_file(&path).await?;
                println!("a file of {bytes} bytes is in {}", path.display());
                Ok(Bytes::from(format!("{bytes} bytes in {}", path.display())))
            }
        });
    }
    Ok(setup)
}

async fn send_file(session: &Session, path: &Path, wait: Duration) -> Result<String, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut pipe = session.pipe("file").await.map_err(|e| e.to_string())?;
    // If it breaks, its end says why.
    let _ = tokio::io::copy(&mut file, &mut pipe).await;
    pipe.finish(wait).await.map(|acks| acks.to_string()).map_err(|e| e.to_string())
}

/// The lines that are typed.
fn typed() -> mpsc::Receiver<String> {
    let (typed, lines) = mpsc::channel(64);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if typed.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let w = match words(std::env::args().skip(1)) {
        Ok(w) => w,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(2);
        }
    };
    let endpoint = Endpoint::start(setup(&w)?).await?;
    let session = endpoint.session(&w.group)?;
    eprintln!(
        "{} is ready{}",
        w.name,
        match endpoint.addr() {
            Some(addr) => format!(", listening on {addr}"),
            None => String::new(),
        }
    );
    let mut lines = typed();
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = tokio::signal::ctrl_c() => break,
        };
        let Some(line) = line else {
            if w.listen.is_none() {
                break;
            }
            // Without a terminal, it goes on as a member.
            tokio::signal::ctrl_c().await?;
            break;
        };
        if w.children.is_empty() {
            eprintln!("nobody is below {}: type at its parent", w.name);
            continue;
        }
        let said = match line.strip_prefix("/send ") {
            Some(path) => send_file(&session, Path::new(path.trim()), w.wait).await,
            None => {
                let acks = session.send("line", line, w.wait).await;
                acks.map(|a| a.to_string()).map_err(|e| e.to_string())
            }
        };
        match said {
            Ok(acks) => println!("{acks}"),
            Err(e) => println!("not sent: {e}"),
        }
    }
    endpoint.stop().await;
    Ok(())
}
