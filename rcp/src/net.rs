//! Sockets: the shared port and the driver that pumps a session over TCP.
