//! One HTTP request on one connection, without retries and without a pool: a test must see exactly what was sent
//! and whether an answer came.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// A read that gets nothing for so long is a failure. Longer than a create on a slow host may take.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// A request to be sent.
pub struct Call<'a> {
    address: SocketAddr,
    head: String,
    body: &'a [u8],
    json: Vec<u8>,
    announced: Option<u64>,
    patience: Duration,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The body, whole.
    pub body: Vec<u8>,
}

impl<'a> Call<'a> {
    /// A request without a body. `target` is what stands in the request line, already encoded.
    #[must_use]
    pub fn new(address: SocketAddr, method: &str, target: &str) -> Self {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        Self { address, head, body: &[], json: Vec::new(), announced: None, patience: READ_TIMEOUT }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// A JSON body with its content type.
    #[must_use]
    pub fn json(mut self, body: &Value) -> Self {
        self.json = body.to_string().into_bytes();
        self.header("Content-Type", "application/json")
    }

    /// A body as it is.
    #[must_use]
    pub fn bytes(mut self, body: &'a [u8]) -> Self {
        self.body = body;
        self
    }

    /// Says that the body has so many bytes, whatever is sent.
    #[must_use]
    pub fn announce(mut self, bytes: u64) -> Self {
        self.announced = Some(bytes);
        self
    }

    /// Waits no longer than this for a connection, nor for each next byte: for servers that may be frozen.
    #[must_use]
    pub fn patience(mut self, time: Duration) -> Self {
        self.patience = time;
        self
    }

    fn start(&self) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&self.address, self.patience)?;
        stream.set_read_timeout(Some(self.patience))?;
        let body = if self.json.is_empty() { self.body } else { &self.json };
        let length = self.announced.unwrap_or(body.len() as u64);
        let length = if length == 0 { String::new() } else { format!("Content-Length: {length}\r\n") };
        stream.write_all(format!("{}{length}\r\n", self.head).as_bytes())?;
        match stream.write_all(body) {
            // It answered before it had read all: the answer says why.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
            other => other?,
        }
        Ok(stream)
    }

    /// Sends it and awaits the whole answer. An answer that is cut off is an error.
    ///
    /// # Errors
    /// The connection fails, or ends before the answer is whole.
    pub fn send(&self) -> io::Result<Answer> {
        let mut stream = self.start()?;
        let mut bytes = Vec::new();
        let mut piece = vec![0; READ_BYTES];
        // A server that has not read a whole request closes late: what the answer says of its own length counts.
        while !Answer::is_whole(&bytes) {
            match stream.read(&mut piece)? {
                0 => break,
                length => bytes.extend_from_slice(&piece[..length]),
            }
        }
        Answer::parse(&bytes)
    }

    /// Sends what there is and hangs up without waiting for an answer.
    ///
    /// # Errors
    /// The connection fails.
    pub fn hang_up(&self) -> io::Result<()> {
        self.hang_up_after(|| {})
    }

    /// Sends what there is, and hangs up when this is done.
    ///
    /// # Errors
    /// The connection fails.
    pub fn hang_up_after(&self, meanwhile: impl FnOnce()) -> io::Result<()> {
        let stream = self.start()?;
        meanwhile();
        drop(stream);
        Ok(())
    }
}

impl Answer {
    /// Whether nothing more can come: cheap while it has not.
    fn is_whole(bytes: &[u8]) -> bool {
        let Some(end) = end_of_head(bytes) else { return false };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        match head.split("\r\ncontent-length:").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok()) {
            Some(length) => bytes.len() - end - 4 >= length,
            None => head.contains("chunked") && bytes.ends_with(b"0\r\n\r\n") && Self::parse(bytes).is_ok(),
        }
    }

    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let cut_off = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut off");
        let end = end_of_head(bytes).ok_or_else(cut_off)?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or_else(cut_off)?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = Self { status, headers, body: bytes[end + 4..].to_vec() };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = dechunked(&answer.body).ok_or_else(cut_off)?;
        } else if let Some(length) = answer.header("content-length")
            && length.parse() != Ok(answer.body.len())
        {
            return Err(cut_off());
        }
        Ok(answer)
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// It is not JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("answer {} is not JSON ({error}): {}", self.status, self.text()),
        }
    }

    /// The answer itself, if it has this status.
    ///
    /// # Panics
    /// It has another one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "the answer was {}", self.text());
        self
    }

    /// Demands an error of the contract: status, code, a sentence, a request id that the header repeats. Returns it.
    ///
    /// # Panics
    /// It is anything else.
    #[track_caller]
    pub fn expect_error(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "the answer was {}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        let body = self.json();
        assert_eq!(body["code"], code, "{body}");
        assert!(body["error"].as_str().is_some_and(|sentence| !sentence.is_empty()), "{body}");
        assert_eq!(body["request_id"].as_str(), self.header("x-request-id"), "{body}");
        body
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n")
}

fn dechunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::Answer;

    #[test]
    fn an_answer_that_was_cut_off_is_no_answer() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok";
        let answer = Answer::parse(whole).unwrap();
        assert_eq!((answer.status, answer.header("x-a"), answer.text().as_str()), (200, Some("b"), "ok"));
        for length in 0..whole.len() {
            assert!(Answer::parse(&whole[..length]).is_err(), "{length} bytes were taken");
            assert!(!Answer::is_whole(&whole[..length]));
        }
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3\r\n...\r\n0\r\n\r\n";
        assert_eq!(Answer::parse(chunked).unwrap().text(), "ok...");
        assert!(Answer::is_whole(whole) && Answer::is_whole(chunked));
        assert!(Answer::parse(&chunked[..chunked.len() - 6]).is_err());
    }
}
