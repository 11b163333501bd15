//! The topology: YAML text in, a checked [topology](self) or a list of diagnostics out. No I/O.
