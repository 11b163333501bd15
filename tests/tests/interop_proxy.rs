//! Proxies that nobody here wrote: sessions through nginx and HAProxy as HTTP reverse proxies, plain
//! and with TLS ended at the proxy; NBD clients that HAProxy leads to the writer.

#[path = "interop_proxy/through.rs"]
mod through;
#[path = "interop_proxy/writer.rs"]
mod writer;
