//! Sessions through HTTP reverse proxies that nobody here wrote: nginx and HAProxy, plain and with
//! TLS ended at the proxy.

#[path = "interop_proxy/through.rs"]
mod through;
#[path = "interop_proxy/writer.rs"]
mod writer;
