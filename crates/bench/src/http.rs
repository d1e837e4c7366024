//! HTTP/1.1 on one kept connection, over TCP or a unix socket: the same client for both sides, so that what it costs
//! is on both.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Bytes read in one go.
const READ_BYTES: usize = 16 << 10;

trait Stream: Read + Write + Send {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// Where a server listens.
#[derive(Debug, Clone)]
pub enum Server {
    /// On a port.
    Tcp(SocketAddr),
    /// On a socket's path.
    Unix(PathBuf),
}

/// A client with one connection, made again when the server has closed it.
pub struct Client {
    server: Server,
    /// Lines of every request's head, each ended.
    headers: String,
    stream: Option<Box<dyn Stream>>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// The answer if its status is this one.
    pub fn expect(self, status: u16) -> Result<Self> {
        if self.status != status {
            bail!("answered {} where {status} was expected: {}", self.status, self.text());
        }
        Ok(self)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    /// A client of a server on a port that sends this API key.
    pub fn tcp(server: SocketAddr, key: &str) -> Self {
        Self::new(Server::Tcp(server), format!("Host: {server}\r\nX-API-Key: {key}\r\n"))
    }

    /// A client of a server on a socket.
    pub fn unix(socket: &Path) -> Self {
        Self::new(Server::Unix(socket.to_owned()), "Host: podman\r\n".to_owned())
    }

    fn new(server: Server, headers: String) -> Self {
        Self { server, headers, stream: None }
    }

    /// Sends a request and reads the whole answer.
    pub fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let text = body.map(Value::to_string).unwrap_or_default();
        let mut request = format!("{method} {path} HTTP/1.1\r\n{}", self.headers);
        if body.is_some() || method == "POST" {
            request.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", text.len()));
        }
        request.push_str("\r\n");
        request.push_str(&text);
        self.exchange(request.as_bytes()).with_context(|| format!("{method} {path}"))
    }

    fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        // In one write, as any good client sends it.
        stream.write_all(request)?;
        let (answer, kept) = read_answer(&mut stream)?;
        if kept {
            self.stream = Some(stream);
        }
        Ok(answer)
    }

    fn connect(&self) -> Result<Box<dyn Stream>> {
        Ok(match &self.server {
            Server::Tcp(address) => {
                let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                Box::new(stream)
            }
            Server::Unix(path) => {
                let stream =
                    UnixStream::connect(path).with_context(|| format!("cannot connect to {}", path.display()))?;
                stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                Box::new(stream)
            }
        })
    }
}

/// How the end of a body is found.
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClosed,
}

/// Reads one answer. True if the connection can carry another.
fn read_answer(stream: &mut impl Read) -> Result<(Answer, bool)> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if bytes.len() > HEAD_BYTES_MAX {
            bail!("a head of more than {HEAD_BYTES_MAX} bytes");
        }
        if !read_more(stream, &mut bytes)? {
            bail!("the connection ended before an answer");
        }
    };
    let (status, framing) = parse_head(std::str::from_utf8(&bytes[..head_end])?)?;
    let mut body = bytes.split_off(head_end);
    match framing {
        Framing::Length(length) => {
            while body.len() < length {
                if !read_more(stream, &mut body)? {
                    bail!("the connection ended in a body");
                }
            }
        }
        Framing::Chunked => body = read_chunks(stream, body)?,
        Framing::UntilClosed => while read_more(stream, &mut body)? {},
    }
    Ok((Answer { status, body }, framing != Framing::UntilClosed))
}

fn parse_head(head: &str) -> Result<(u16, Framing)> {
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?.parse()?;
    let mut framing = match status {
        204 | 304 => Framing::Length(0),
        _ => Framing::UntilClosed,
    };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            framing = Framing::Length(value.parse()?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            framing = Framing::Chunked;
        }
    }
    Ok((status, framing))
}

fn read_chunks(stream: &mut impl Read, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let line_end = loop {
            if let Some(found) = bytes[at..].windows(2).position(|two| two == b"\r\n") {
                break at + found;
            }
            if !read_more(stream, &mut bytes)? {
                bail!("the connection ended in a chunked body");
            }
        };
        let size = std::str::from_utf8(&bytes[at..line_end])?.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).with_context(|| format!("a chunk of {size:?} bytes"))?;
        let start = line_end + 2;
        while bytes.len() < start + size + 2 {
            if !read_more(stream, &mut bytes)? {
                bail!("the connection ended in a chunk");
            }
        }
        body.extend_from_slice(&bytes[start..start + size]);
        at = start + size + 2;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn read_more(stream: &mut impl Read, bytes: &mut Vec<u8>) -> Result<bool> {
    let start = bytes.len();
    bytes.resize(start + READ_BYTES, 0);
    let length = loop {
        match stream.read(&mut bytes[start..]) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    bytes.truncate(start + length);
    Ok(length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Answer, bool)> {
        // One byte at a time, the worst that a network can do.
        struct Slow<'a>(&'a [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
                buffer[0] = *first;
                self.0 = rest;
                Ok(1)
            }
        }
        read_answer(&mut Slow(text.as_bytes()))
    }

    #[test]
    fn bodies_end_where_their_framing_says() {
        for (text, status, body, kept) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, "ok", true),
            ("HTTP/1.1 204 No Content\r\n\r\n", 204, "", true),
            (
                "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
                201,
                "abc0123456789",
                true,
            ),
            ("HTTP/1.1 200 OK\r\nContent-Type: x\r\n\r\nto the end", 200, "to the end", false),
        ] {
            let (answer, was_kept) = read(text).unwrap();
            assert_eq!((answer.status, answer.body.as_slice(), was_kept), (status, body.as_bytes(), kept));
        }
    }

    #[test]
    fn an_answer_that_is_cut_off_is_an_error() {
        for text in [
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}
