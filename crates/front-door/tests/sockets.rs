//! What only real connections show: clients that leave, bodies that are too large, kept connections.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes")]

mod scripted;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use scripted::{ID, KEY, Scripted, config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Long enough that only something that never comes is not there by then.
const PATIENCE: Duration = Duration::from_secs(60);

struct Running {
    operations: Arc<Scripted>,
    address: SocketAddr,
    handle: actix_web::dev::ServerHandle,
}

fn run() -> Running {
    let operations = Arc::new(Scripted::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = front_door::serve(operations.clone(), config(vec![listener])).unwrap();
    let handle = server.handle();
    actix_web::rt::spawn(server);
    Running { operations, address, handle }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it never came")
}

fn head(method: &str, path: &str, more: &str) -> String {
    format!("{method} /api/v1/sandboxes/{ID}{path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n{more}\r\n")
}

/// Reads one answer with a known length; gives its head and its body.
async fn answer(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(read[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |text| text.parse().unwrap());
            if read.len() >= end + 4 + length {
                return (head, read[end + 4..end + 4 + length].to_vec());
            }
        }
        let mut piece = [0; 65_536];
        let count = within(stream.read(&mut piece)).await.unwrap();
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&piece[..count]);
    }
}

#[actix_web::test]
async fn a_client_that_leaves_ends_its_exec() {
    let running = run();
    for half_closed in [false, true] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let body = r#"{"cmd":["hang"]}"#;
        let request = head("POST", "/exec", &format!("Content-Length: {}\r\n", body.len())) + body;
        stream.write_all(request.as_bytes()).await.unwrap();
        within(running.operations.hang_started.notified()).await;
        if half_closed {
            stream.shutdown().await.unwrap();
        } else {
            drop(stream);
        }
        within(running.operations.hang_dropped.notified()).await;
    }
    running.handle.stop(true).await;
}

#[actix_web::test]
async fn an_upload_that_breaks_off_takes_no_name() {
    let running = run();
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream
        .write_all((head("PUT", "/files?path=/f", "Content-Length: 100\r\n") + "ten bytes.").as_bytes())
        .await
        .unwrap();
    drop(stream);
    // Another request on the one worker thread is answered after the first was looked at.
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(head("GET", "", "").as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.0.starts_with("http/1.1 200"));
    running.handle.stop(true).await;
    assert!(running.operations.files.lock().unwrap().is_empty());
}

#[actix_web::test]
async fn a_large_upload_streams_through_a_kept_connection() {
    let running = run();
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let content: Vec<u8> = (0..20_000_000_u32).map(|index| (index % 253) as u8).collect();
    let request =
        head("PUT", "/files?path=/f", &format!("Content-Length: {}\r\nExpect: 100-continue\r\n", content.len()));
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.0.starts_with("http/1.1 100"));
    within(stream.write_all(&content)).await.unwrap();
    assert!(answer(&mut stream).await.0.starts_with("http/1.1 200"));
    assert!(running.operations.files.lock().unwrap()["/f"] == content);
    stream.write_all(head("GET", "/files?path=/f", "").as_bytes()).await.unwrap();
    let (head_read, read) = answer(&mut stream).await;
    assert!(head_read.starts_with("http/1.1 200"), "{head_read}");
    assert!(read == content, "what came back differs");
    running.handle.stop(true).await;
}

#[actix_web::test]
async fn too_large_is_said_to_clients_that_still_send() {
    let running = run();
    let piece = vec![b' '; 65_536];
    for chunked in [false, true] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let length = if chunked { "Transfer-Encoding: chunked\r\n" } else { "Content-Length: 8388608\r\n" };
        stream.write_all(head("POST", "/exec", length).as_bytes()).await.unwrap();
        for _ in 0..128 {
            if chunked {
                within(stream.write_all(b"10000\r\n")).await.unwrap();
            }
            within(stream.write_all(&piece)).await.unwrap();
            if chunked {
                within(stream.write_all(b"\r\n")).await.unwrap();
            }
        }
        let (head, body) = answer(&mut stream).await;
        assert!(head.starts_with("http/1.1 413"), "chunked: {chunked}: {head}");
        assert!(String::from_utf8(body).unwrap().contains("\"too_large\""));
    }
    running.handle.stop(true).await;
}

#[actix_web::test]
async fn one_connection_carries_many_requests_also_after_refusals() {
    let running = run();
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    for (body, status) in [("{}", "400"), (r#"{"cmd":["true"]}"#, "200"), ("[", "400"), (r#"{"cmd":["true"]}"#, "200")]
    {
        let request = head("POST", "/exec", &format!("Content-Length: {}\r\n", body.len())) + body;
        stream.write_all(request.as_bytes()).await.unwrap();
        let (head, _) = answer(&mut stream).await;
        assert_eq!(head.split(' ').nth(1), Some(status), "{body}");
    }
    running.handle.stop(true).await;
}
