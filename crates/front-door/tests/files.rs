//! The contract's file routes.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes")]

mod scripted;

use std::sync::Arc;

use actix_web::test::{TestRequest, call_service, init_service, read_body, read_body_json};
use front_door::FrontDoor;
use scripted::{ID, KEY, Scripted, config};
use serde_json::{Value, json};

macro_rules! app {
    ($operations:expr) => {
        init_service(FrontDoor::new($operations.clone(), &config(Vec::new())).unwrap().app()).await
    };
}

macro_rules! send {
    ($app:expr, $request:expr) => {
        call_service(&$app, $request.insert_header(("X-API-Key", KEY)).to_request()).await
    };
}

fn uri(rest: &str) -> String {
    format!("/api/v1/sandboxes/{ID}/files{rest}")
}

#[actix_web::test]
async fn any_name_is_written_read_shown_and_removed() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    for (query, path) in [
        ("?path=/tmp/a.txt", "/tmp/a.txt"),
        ("?path=%2Ftmp%2Fa+b%2Bc", "/tmp/a b+c"),
        ("?path=/tmp/%24%28x%29%0A%22%27", "/tmp/$(x)\n\"'"),
        ("?path=/-rf", "/-rf"),
        ("?x=1&path=/%C3%A9%F0%9F%90%87&path=/other", "/\u{e9}\u{1f407}"),
        ("?path=/a%26b%3Dc", "/a&b=c"),
        ("?path=/a=b", "/a=b"),
    ] {
        let content = b"\x00\xff content".to_vec();
        let put = TestRequest::put().uri(&uri(query)).insert_header(("Content-Type", "image/png"));
        let response = send!(app, put.set_payload(content.clone()));
        assert_eq!(response.status(), 200, "{query}");
        let body: Value = read_body_json(response).await;
        assert_eq!(body, json!({"success": true}));
        assert_eq!(operations.files.lock().unwrap().get(path), Some(&content), "{query}");
        let response = send!(app, TestRequest::get().uri(&uri(query)));
        assert_eq!(response.headers().get("content-type").unwrap(), "application/octet-stream");
        assert_eq!(read_body(response).await, content);
        let stat: Value = read_body_json(send!(app, TestRequest::get().uri(&uri(&format!("/stat{query}"))))).await;
        assert_eq!(
            stat,
            json!({"name": path.rsplit('/').next(), "path": path, "size": 10, "mode": "-rw-r--r--",
                   "mod_time": "2026-11-18T11:08:43.456Z", "is_dir": false, "uid": 1000, "gid": 1000})
        );
        let listed: Value = read_body_json(send!(app, TestRequest::get().uri(&uri("/list")))).await;
        assert_eq!(listed, json!([stat]));
        for _ in 0..2 {
            let body: Value = read_body_json(send!(app, TestRequest::delete().uri(&uri(query)))).await;
            assert_eq!(body, json!({"success": true}));
        }
        assert!(operations.files.lock().unwrap().is_empty());
    }
    assert_eq!(operations.directories.lock().unwrap()[0], "/");
    let body: Value = read_body_json(send!(app, TestRequest::post().uri(&uri("/mkdir?path=/a/b")))).await;
    assert_eq!(body, json!({"success": true}));
    assert_eq!(operations.directories.lock().unwrap().last().unwrap(), "/a/b");
    assert_eq!(read_body(send!(app, TestRequest::get().uri(&uri("/list?path=/empty")))).await, "[]");
}

#[actix_web::test]
async fn a_download_names_its_file_safely() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    operations.files.lock().unwrap().insert("/d/\u{e9}\"\r\nx.txt".to_owned(), b"x".to_vec());
    let response = send!(app, TestRequest::get().uri(&uri("/download?path=/d/%C3%A9%22%0D%0Ax.txt")));
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.headers().get("content-disposition").unwrap(),
        "attachment; filename=\"____x.txt\"; filename*=UTF-8''%C3%A9%22%0D%0Ax.txt"
    );
    assert_eq!(read_body(response).await, "x");
}

#[actix_web::test]
async fn ranges_and_tags() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    let content: Vec<u8> = (0..200_000_u32).map(|index| (index % 251) as u8).collect();
    operations.files.lock().unwrap().insert("/f".to_owned(), content.clone());
    operations.files.lock().unwrap().insert("/empty".to_owned(), Vec::new());
    for (range, status, part, content_range) in [
        ("bytes=0-0", 206, 0..1, "bytes 0-0/200000"),
        ("bytes=100-70099", 206, 100..70_100, "bytes 100-70099/200000"),
        ("bytes=199990-", 206, 199_990..200_000, "bytes 199990-199999/200000"),
        ("bytes=199990-999999999", 206, 199_990..200_000, "bytes 199990-199999/200000"),
        ("bytes=5-18446744073709551615", 206, 5..200_000, "bytes 5-199999/200000"),
        ("bytes=0-18446744073709551615", 206, 0..200_000, "bytes 0-199999/200000"),
        ("bytes=-10", 206, 199_990..200_000, "bytes 199990-199999/200000"),
        ("bytes=-300000", 206, 0..200_000, "bytes 0-199999/200000"),
        ("bytes=7-3", 200, 0..200_000, ""),
        ("bytes=0-1,5-6", 200, 0..200_000, ""),
        ("bytes=200000-", 416, 0..0, "bytes */200000"),
        ("bytes=-0", 416, 0..0, "bytes */200000"),
    ] {
        let response = send!(app, TestRequest::get().uri(&uri("?path=/f")).insert_header(("Range", range)));
        assert_eq!(response.status().as_u16(), status, "{range}");
        let shown = response.headers().get("content-range").map_or("", |value| value.to_str().unwrap());
        assert_eq!(shown, content_range, "{range}");
        let body = read_body(response).await;
        match status {
            416 => assert!(body.starts_with(b"{"), "an error is JSON"),
            _ => assert_eq!(body, content[part], "{range}"),
        }
    }
    let whole = send!(app, TestRequest::get().uri(&uri("?path=/f")));
    let tag = whole.headers().get("etag").unwrap().to_str().unwrap().to_owned();
    assert_eq!(read_body(whole).await, content);
    for (known, status) in [(tag.as_str(), 304), ("*", 304), ("W/\"0-0\"", 200)] {
        let response = send!(app, TestRequest::get().uri(&uri("?path=/f")).insert_header(("If-None-Match", known)));
        assert_eq!(response.status().as_u16(), status, "{known}");
    }
    let request = TestRequest::get().uri(&uri("?path=/f")).insert_header(("Range", "bytes=0-1"));
    assert_eq!(send!(app, request.insert_header(("If-Range", tag))).status(), 200);
    let empty = send!(app, TestRequest::get().uri(&uri("?path=/empty")));
    assert_eq!((empty.status().as_u16(), read_body(empty).await.len()), (200, 0));
}

#[actix_web::test]
async fn files_that_claim_another_size_are_read_whole() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    for (claimed, length) in [(0, 30), (4096, 30), (0, 300_000)] {
        operations.files.lock().unwrap().insert("/sys/f".to_owned(), vec![7; length]);
        operations.claimed_sizes.lock().unwrap().insert("/sys/f".to_owned(), claimed);
        let response = send!(app, TestRequest::get().uri(&uri("?path=/sys/f")));
        assert_eq!(response.status(), 200);
        assert_eq!(read_body(response).await.len(), length, "claims {claimed}");
    }
}

/// Query, parts, status, then the path that was written or what the error says.
type Upload<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, &'a str);

fn form(parts: &[(&str, &str)]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (name, content) in parts {
        let file = if *name == "file" { "; filename=\"f.bin\"" } else { "" };
        body.extend_from_slice(
            format!("--edge\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{content}\r\n").as_bytes(),
        );
    }
    body.extend_from_slice(b"--edge--\r\n");
    ("multipart/form-data; boundary=edge".to_owned(), body)
}

#[actix_web::test]
async fn uploads_take_their_parts_in_any_order() {
    let operations = Arc::new(Scripted::default());
    let app = app!(operations);
    let large = "x".repeat(9 << 20);
    let cases: &[Upload] = &[
        ("", &[("path", "/a"), ("file", "one\r\n--edg")], 200, "/a"),
        ("", &[("file", "one\r\n--edg"), ("other", "x"), ("path", "/b")], 200, "/b"),
        ("?path=/c", &[("file", "one\r\n--edg")], 200, "/c"),
        ("?path=/d", &[("file", &large)], 200, "/d"),
        ("", &[("file", &large), ("path", "/e")], 413, ""),
        ("", &[("file", "x")], 400, "path query parameter is required"),
        ("", &[("path", "relative"), ("file", "x")], 400, "absolute path required"),
        ("", &[("path", ""), ("file", "x")], 400, "path query parameter is required"),
        ("", &[("path", "/x")], 400, "file: is required"),
    ];
    for (query, parts, status, said) in cases {
        let (content_type, body) = form(parts);
        let request = TestRequest::post().uri(&uri(&format!("/upload{query}")));
        let response = send!(app, request.insert_header(("Content-Type", content_type)).set_payload(body));
        assert_eq!(response.status().as_u16(), *status, "{query} {said}");
        let answer: Value = read_body_json(response).await;
        match status {
            200 => {
                assert_eq!(answer, json!({"success": true}));
                let files = operations.files.lock().unwrap();
                let content = parts.iter().find(|(name, _)| *name == "file").unwrap().1;
                assert!(files[*said] == content.as_bytes(), "{said}");
            }
            _ => assert!(answer["error"].as_str().unwrap().starts_with(said), "{answer}"),
        }
    }
    // A form that breaks off must not take the file's name.
    let (content_type, mut body) = form(&[("path", "/broken"), ("file", "abcdef")]);
    body.truncate(body.len() - 14);
    let request = TestRequest::post().uri(&uri("/upload")).insert_header(("Content-Type", content_type));
    assert_eq!(send!(app, request.set_payload(body)).status(), 400);
    assert!(!operations.files.lock().unwrap().contains_key("/broken"));
}
