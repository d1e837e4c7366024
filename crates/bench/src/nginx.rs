//! The reference for what a hop costs: nginx before a node, and another nginx before that one, between them mutual TLS
//! on connections that are kept.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use anyhow::Result;

use crate::child::Running;
use crate::papers::Papers;
use crate::ports;

/// Two nginx, dropped together.
pub struct Nginx {
    /// Where the one beside the node answers, without a hop: plain text, as the node itself.
    pub direct: SocketAddr,
    /// Where the other one answers, with a hop to the first.
    pub through: SocketAddr,
    _far: Running,
    _near: Running,
}

/// What is the same in both: no logs, connections kept for longer than the run.
fn common(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "user root; worker_processes auto; pid {directory}/pid; error_log stderr warn;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 10000000; keepalive_timeout 600s; client_max_body_size 0;\n\
         client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f;\n\
         uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;\n\
         proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_read_timeout 600s;\n"
    )
}

fn upstream(address: SocketAddr) -> String {
    format!(
        "upstream behind {{ server {address}; keepalive 64; keepalive_requests 10000000; keepalive_timeout 600s; }}\n"
    )
}

impl Nginx {
    /// Starts both before this node.
    pub fn start(directory: &Path, node: SocketAddr) -> Result<Self> {
        let papers = Papers::make(&directory.join("papers"))?;
        let (authority, certificate, key) =
            (papers.authority.display(), papers.certificate.display(), papers.key.display());
        let (direct, encrypted, through) = (ports::free()?, ports::free()?, ports::free()?);
        let far = format!(
            "{}server {{ listen {direct}; listen {encrypted} ssl; ssl_protocols TLSv1.3;\n\
             ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_client_certificate {authority};\n\
             ssl_verify_client on; location / {{ proxy_pass http://behind; }} }} }}\n",
            upstream(node)
        );
        let near = format!(
            "{}server {{ listen {through}; location / {{ proxy_pass https://behind; proxy_ssl_protocols TLSv1.3;\n\
             proxy_ssl_certificate {certificate}; proxy_ssl_certificate_key {key};\n\
             proxy_ssl_trusted_certificate {authority}; proxy_ssl_verify on; proxy_ssl_name localhost; }} }} }}\n",
            upstream(encrypted)
        );
        let start = |name: &str, rest: &str, listens: SocketAddr| -> Result<Running> {
            let directory = directory.join(name);
            fs::create_dir_all(&directory)?;
            let conf = directory.join("nginx.conf");
            fs::write(&conf, common(&directory) + rest)?;
            let mut running = Running::start("nginx", Path::new("nginx"), directory.join("log"), |command| {
                command.args(["-e", "stderr", "-g", "daemon off;", "-p"]).arg(&directory).arg("-c").arg(&conf);
            })?;
            running.wait_until(|| TcpStream::connect(listens).is_ok())?;
            Ok(running)
        };
        let far = start("far", &far, direct)?;
        let near = start("near", &near, through)?;
        Ok(Self { direct, through, _far: far, _near: near })
    }
}
