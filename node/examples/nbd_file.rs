//! Serves one raw file over NBD: `nbd_file FILE [--unix PATH] [--tcp ADDR] [--read-only]`.
//!
//! The reference for comparisons with other NBD servers, and a tool for trying a client.

use clap::Parser;
use node::nbd::{FileExport, FixedExports, Server, ServerConfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Parser)]
struct Args {
    /// The file or block device.
    file: PathBuf,
    /// Unix socket to listen on.
    #[arg(long)]
    unix: Vec<PathBuf>,
    /// TCP address to listen on.
    #[arg(long)]
    tcp: Vec<SocketAddr>,
    /// Refuse writes.
    #[arg(long)]
    read_only: bool,
    /// Name of the export; it also answers to the empty name.
    #[arg(long, default_value = "disk")]
    name: String,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let export = Arc::new(FileExport::open(&args.file, args.read_only)?);
    let config = ServerConfig { unix: args.unix, tcp: args.tcp, ..ServerConfig::default() };
    let server = Server::start(&config, FixedExports::one(&args.name, export))?;
    for addr in server.tcp_addrs() {
        println!("listening on {addr}");
    }
    loop {
        std::thread::park();
    }
}
