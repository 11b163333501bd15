//! A small blocking NBD client.
#[derive(Debug)]
/// x
pub struct Client;
