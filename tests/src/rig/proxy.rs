//! HTTP reverse proxies that nobody here wrote, in front of the nodes of a tree.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use super::outside::tool;
use super::tree::Tree;

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
}

impl Proxy {
    /// Its configuration: `/NODE/GROUP` at the proxy is `/rcp/GROUP` at the node. With a
    /// certificate, TLS ends here.
    #[must_use]
    pub fn config(
        self,
        tree: &Tree,
        nodes: &[&str],
        port: u16,
        certificate: Option<&Path>,
    ) -> String {
        let mut out = String::new();
        match self {
            Self::Nginx => {
                let ssl = certificate.map_or(String::new(), |c| {
                    let c = c.display();
                    format!("ssl_certificate {c}; ssl_certificate_key {c}; ssl_protocols TLSv1.3;")
                });
                let word = if certificate.is_some() { " ssl" } else { "" };
                let user = match rustix::process::geteuid().is_root() {
                    true => "user root;",
                    false => "",
                };
                let dir = tree.dir().display();
                let _ = write!(
                    out,
                    "daemon off; pid {dir}/nginx.pid; error_log stderr; worker_processes 1; {user}
                     events {{ worker_connections 256; }}
                     http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
                     fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
                     server {{ listen 127.0.0.1:{port}{word}; {ssl}\n"
                );
                for n in nodes {
                    let addr = tree.addr(n);
                    let _ = writeln!(
                        out,
                        "location /{n}/ {{ proxy_pass http://{addr}/rcp/; proxy_http_version 1.1;
                         proxy_set_header Upgrade $http_upgrade;
                         proxy_set_header Connection \"upgrade\"; proxy_read_timeout 1h; }}"
                    );
                }
                out.push_str("}}\n");
            }
            Self::Haproxy => {
                let ssl = certificate.map_or(String::new(), |c| format!("ssl crt {}", c.display()));
                let _ = write!(
                    out,
                    "global\n maxconn 256\ndefaults\n mode http\n timeout connect 5s\n \
                     timeout client 10s\n timeout server 10s\n timeout tunnel 1h\n\
                     frontend all\n bind 127.0.0.1:{port} {ssl}\n"
                );
                for n in nodes {
                    let _ = writeln!(out, " use_backend {n} if {{ path_beg /{n}/ }}");
                }
                for n in nodes {
                    let addr = tree.addr(n);
                    let _ = writeln!(
                        out,
                        "backend {n}\n http-request replace-path /{n}/(.*) /rcp/\\1\n server s {addr}"
                    );
                }
            }
        }
        out
    }

    /// The command without a time limit: the proxy is killed when the test ends.
    #[must_use]
    pub fn command(self, config: &Path) -> Option<Command> {
        let (name, package) = match self {
            Self::Nginx => ("nginx", "nginx-light"),
            Self::Haproxy => ("haproxy", "haproxy"),
        };
        tool(name, package)?;
        let path = ["/usr/sbin", "/usr/bin"].map(|d| Path::new(d).join(name));
        let mut c = Command::new(path.iter().find(|p| p.exists())?);
        match self {
            Self::Nginx => c.arg("-c").arg(config).arg("-p").arg(config.parent()?),
            Self::Haproxy => c.arg("-db").arg("-f").arg(config),
        };
        Some(c)
    }
}
