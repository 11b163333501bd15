//! Disk images that are to become volumes: what format they have, and raw content from them.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::output::Failed;

/// Formats that qemu-img reads, by their first bytes; anything else counts as raw.
const MAGIC: [(&[u8], &str); 5] = [
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "vmdk"),
    (b"vhdxfile", "vhdx"),
    (b"conectix", "vpc"),
    (b"QED\0", "qed"),
];

/// The format of an image, as qemu-img calls it.
pub(super) fn format_of(path: &Path) -> io::Result<&'static str> {
    let mut first = Vec::new();
    File::open(path)?.take(16).read_to_end(&mut first)?;
    Ok(MAGIC.iter().find(|(magic, _)| first.starts_with(magic)).map_or("raw", |(_, name)| name))
}

/// Size of a file or block device.
pub(super) fn size_of(path: &Path) -> io::Result<u64> {
    File::open(path)?.seek(SeekFrom::End(0))
}

/// Writes the content of an image into a new raw file, sparse, filled up with zeroes to a
/// multiple of `block`.
pub(super) async fn to_raw(
    format: &str,
    from: &Path,
    to: &Path,
    block: u64,
) -> Result<u64, Failed> {
    if to.exists() {
        return Err(Failed::new(format!(
            "{} is there already: remove it, or import it as raw",
            to.display()
        )));
    }
    let result = convert(format, from, to).await.and_then(|()| fill_up(to, block));
    if result.is_err() {
        // Half an image is of no use to anybody; if it cannot be removed either, the next try says so.
        let _ = std::fs::remove_file(to);
    }
    result
}

async fn convert(format: &str, from: &Path, to: &Path) -> Result<(), Failed> {
    let mut child = Command::new("qemu-img")
        .args(["convert", "-p", "-f", format, "-O", "raw"])
        .arg(from)
        .arg(to)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Failed::new(format!(
                "{} is a {format} image, and qemu-img, which reads those, is not installed: install \
                 it (package qemu-utils or qemu-img), or convert the image to raw elsewhere",
                from.display()
            )),
            _ => Failed::new(format!("cannot start qemu-img: {e}")),
        })?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let said = async {
        let mut text = String::new();
        if let Some(err) = err {
            // What cannot be read of its complaint is missing from ours.
            let _ = err.take(8 << 10).read_to_string(&mut text).await;
        }
        text
    };
    let ((), said, status) = tokio::join!(show_progress(out), said, child.wait());
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let text = format!("qemu-img could not read {} ({status}): {said}", from.display());
            Err(Failed::new(text))
        }
        Err(e) => Err(Failed::new(format!("qemu-img: {e}"))),
    }
}

fn fill_up(path: &Path, block: u64) -> Result<u64, Failed> {
    let failed = |e: io::Error| Failed::new(format!("cannot prepare {}: {e}", path.display()));
    let file = File::options().write(true).open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let full = size.next_multiple_of(block.max(1));
    file.set_len(full).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(full)
}

/// A bar on a terminal, nothing elsewhere; qemu-img writes `    (12.34/100%)\r`.
async fn show_progress(out: Option<tokio::process::ChildStdout>) {
    let Some(mut out) = out else { return };
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(10_000), target);
    if let Ok(style) = ProgressStyle::with_template("converting {bar:40} {percent} %  {eta} left") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    let mut buf = [0; 256];
    while let Ok(n @ 1..) = out.read(&mut buf).await {
        if let Some(done) = percent(&String::from_utf8_lossy(&buf[..n])) {
            bar.set_position(done);
        }
    }
    bar.finish_and_clear();
}

/// Hundredths of a percent in the last complete report.
fn percent(text: &str) -> Option<u64> {
    let (before, _) = text.rsplit_once("/100%)")?;
    let (whole, part) = before.rsplit_once('(')?.1.trim().split_once('.')?;
    let hundredths: u64 = part.get(..2)?.parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(100)?.checked_add(hundredths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read() {
        assert_eq!(percent("    (0.00/100%)\r    (12.34/100%)\r"), Some(1_234));
        assert_eq!(percent("    (100.00/100%)\r"), Some(10_000));
        for text in ["", "(1", "/100%)", "(x.y/100%)", "(1.2/100%)"] {
            assert_eq!(percent(text), None, "{text}");
        }
    }

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join("image");
        for (bytes, format) in [
            (&b"QFI\xfb\0\0\0\x03"[..], "qcow2"),
            (b"", "raw"),
            (b"\0\0", "raw"),
            (b"KDMV", "vmdk"),
        ] {
            std::fs::write(&file, bytes).expect("write");
            assert_eq!(format_of(&file).expect("format"), format);
            assert_eq!(size_of(&file).expect("size"), bytes.len() as u64);
        }
    }
}
