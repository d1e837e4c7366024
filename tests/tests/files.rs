//! Files: odd names, streams, ranges, atomic writes.

use serde_json::json;
use sha2::{Digest, Sha256};
use tests::{Cases, DEFAULT_IMAGE, Node, Options, within_settling};

const HOME: &str = "/home/sandbox";

#[test]
fn files_are_kept_as_given() {
    let mut cases = Cases::of("files");
    let node = Node::start(Options { image: DEFAULT_IMAGE, ..Options::default() });
    let id = node.api().create(&json!({}));
    odd_names(&mut cases, &node, &id);
    refusals(&mut cases, &node, &id);
    trees(&mut cases, &node, &id);
    parts(&mut cases, &node, &id);
    large(&mut cases, &node, &id);
    forms(&mut cases, &node, &id);
    cases.finish();
}

fn odd_names(cases: &mut Cases, node: &Node, id: &str) {
    let api = node.api();
    let long = "n".repeat(255);
    let names = [
        "plain.txt",
        "two words",
        "  ",
        "quote'\"quote",
        "$(touch x) `id` $HOME;&|",
        "line\nbreak",
        "tab\tand\u{1}",
        "\u{e4}\u{20ac}\u{1f980}",
        "-rf",
        "--",
        "back\\slash",
        "100%25",
        "a+b&c=d#e?f",
        "*",
        "~",
        "...",
        &long,
    ];
    for name in names {
        cases.case(&format!("the name {name:?}"), || {
            let directory = format!("{HOME}/odd");
            let path = format!("{directory}/{name}");
            api.write(id, &path, name.as_bytes());
            assert_eq!(api.read(id, &path), name.as_bytes());
            assert_eq!(api.names(id, &directory), [name]);
            // The sandbox's own eyes.
            assert_eq!(
                api.output(id, &["python3", "-c", "import os; print(ascii(os.listdir('odd')[0]))"]),
                ascii(name)
            );
            let entry = api.file("GET", id, "/stat", &path).send().expect("an answer").expect(200).json();
            assert_eq!((entry["name"].as_str(), entry["path"].as_str()), (Some(name), Some(path.as_str())));
            let removed = api.file("DELETE", id, "", &path).send().expect("an answer").expect(200);
            assert_eq!(removed.json(), json!({ "success": true }));
            assert_eq!(api.names(id, &directory), Vec::<String>::new());
        });
    }
    cases.case("a plus in a query is a space", || {
        api.write(id, &format!("{HOME}/a b"), b"space");
        let answer = api.get(&format!("/sandboxes/{id}/files?path={HOME}/a+b")).expect(200);
        assert_eq!(answer.body, b"space");
    });
}

/// As Python's `ascii` writes it.
fn ascii(name: &str) -> String {
    let quote = if name.contains('\'') && !name.contains('"') { '"' } else { '\'' };
    let mut text = String::from(quote);
    for character in name.chars() {
        match character {
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\\' => text.push_str("\\\\"),
            c if c == quote => text.extend(['\\', c]),
            c if (' '..='~').contains(&c) => text.push(c),
            c if u32::from(c) < 0x100 => text.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x1_0000 => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    text.push(quote);
    text
}

fn refusals(cases: &mut Cases, node: &Node, id: &str) {
    let api = node.api();
    cases.case("what is not there", || {
        for (method, rest) in [("GET", ""), ("GET", "/stat"), ("GET", "/list"), ("GET", "/download")] {
            let answer = api.file(method, id, rest, "/home/sandbox/nothing").send().expect("an answer");
            let error = answer.expect_error(404, "file_not_found");
            assert_eq!(error["error"], "file not found");
        }
        // What is gone is removed.
        api.file("DELETE", id, "", "/home/sandbox/nothing").send().expect("an answer").expect(200);
    });
    cases.case("what is no path", || {
        let files = format!("/sandboxes/{id}/files");
        for (query, sentence) in [
            ("", "path query parameter is required"),
            ("?path=", "path query parameter is required"),
            ("?path=relative", "absolute path required"),
            ("?path=%2Fa%00b", "path contains null byte"),
        ] {
            let error = api.get(&format!("{files}{query}")).expect_error(400, "bad_request");
            assert_eq!(error["error"], sentence);
        }
    });
    cases.case("what the user may not", || {
        for call in [
            api.file("PUT", id, "", "/etc/new").bytes(b"x"),
            api.file("GET", id, "", "/etc/shadow"),
            api.file("DELETE", id, "", "/etc/passwd"),
            api.file("POST", id, "/mkdir", "/usr/new"),
        ] {
            call.send().expect("an answer").expect_error(403, "forbidden");
        }
    });
    cases.case("a directory is no file", || {
        for call in [api.file("GET", id, "", HOME), api.file("PUT", id, "", HOME).bytes(b"x")] {
            call.send().expect("an answer").expect_error(400, "bad_request");
        }
        api.file("GET", id, "/list", "/etc/passwd").send().expect("an answer").expect_error(400, "bad_request");
    });
    cases.case("a name of 256 bytes", || {
        let path = format!("{HOME}/{}", "n".repeat(256));
        let status = api.file("PUT", id, "", &path).bytes(b"x").send().expect("an answer").status;
        assert!((400..500).contains(&status), "{status}");
    });
}

fn trees(cases: &mut Cases, node: &Node, id: &str) {
    let api = node.api();
    cases.case("directories are made with their parents, shown, and removed with all in them", || {
        let top = format!("{HOME}/tree");
        for _ in 0..2 {
            api.file("POST", id, "/mkdir", &format!("{top}/a/b")).send().expect("an answer").expect(200);
        }
        api.write(id, &format!("{top}/made/on/the/way/file"), b"12345");
        let script = "cd tree && ln -s made link && chmod 640 made/on/the/way/file && mkfifo pipe";
        api.output(id, &["sh", "-c", script]);
        assert_eq!(api.names(id, &top), ["a", "link", "made", "pipe"]);
        let entries = api.file("GET", id, "/list", &format!("{top}/made/on/the/way")).send().expect("an answer");
        let entry = &entries.expect(200).json()[0];
        for (field, value) in [
            ("name", json!("file")),
            ("size", json!(5)),
            ("mode", json!("-rw-r-----")),
            ("is_dir", json!(false)),
            ("uid", json!(1000)),
            ("gid", json!(1000)),
        ] {
            assert_eq!(entry[field], value, "{field} of {entry}");
        }
        assert!(entry["mod_time"].as_str().is_some_and(|time| time.ends_with('Z')), "{entry}");
        let link = api.file("GET", id, "/stat", &format!("{top}/link")).send().expect("an answer").expect(200).json();
        assert_eq!(link["symlink_target"], "made", "{link}");
        let shown = api.file("GET", id, "/stat", &top).send().expect("an answer").expect(200).json();
        assert_eq!((shown["is_dir"].clone(), shown["mode"].clone()), (json!(true), json!("drwxr-xr-x")));
        api.file("DELETE", id, "", &top).send().expect("an answer").expect(200);
        assert!(!api.names(id, HOME).contains(&"tree".to_owned()));
    });
    cases.case("the root is listed by default", || {
        let listed = api.get(&format!("/sandboxes/{id}/files/list")).expect(200).json();
        let names: Vec<&str> = listed.as_array().into_iter().flatten().filter_map(|e| e["name"].as_str()).collect();
        assert!(names.contains(&"etc") && names.contains(&"home"), "{names:?}");
    });
    cases.case("a file of the kernel's, whose size is no size", || {
        assert!(api.read(id, "/proc/self/status").starts_with(b"Name:"));
    });
}

fn parts(cases: &mut Cases, node: &Node, id: &str) {
    let api = node.api();
    let path = format!("{HOME}/digits");
    cases.case("ranges", || {
        api.write(id, &path, b"0123456789");
        for (range, status, body, shown) in [
            ("bytes=2-4", 206, "234", "bytes 2-4/10"),
            ("bytes=7-", 206, "789", "bytes 7-9/10"),
            ("bytes=-2", 206, "89", "bytes 8-9/10"),
            ("bytes=5-100", 206, "56789", "bytes 5-9/10"),
        ] {
            let answer = api.file("GET", id, "", &path).header("Range", range).send().expect("an answer");
            let answer = answer.expect(status);
            assert_eq!((answer.text().as_str(), answer.header("content-range")), (body, Some(shown)), "{range}");
        }
        let past = api.file("GET", id, "", &path).header("Range", "bytes=10-").send().expect("an answer");
        past.expect_error(416, "range_not_satisfiable");
        assert_eq!(past.header("content-range"), Some("bytes */10"));
    });
    cases.case("a tag that is known", || {
        let answer = api.file("GET", id, "", &path).send().expect("an answer").expect(200);
        let tag = answer.header("etag").expect("a tag").to_owned();
        let again = api.file("GET", id, "", &path).header("If-None-Match", &tag).send().expect("an answer");
        assert_eq!((again.status, again.body.len()), (304, 0));
        api.write(id, &path, b"abc");
        let other = api.file("GET", id, "", &path).header("If-None-Match", &tag).send().expect("an answer");
        assert_eq!(other.expect(200).body, b"abc");
    });
}

fn large(cases: &mut Cases, node: &Node, id: &str) {
    let api = node.api();
    let path = format!("{HOME}/large");
    cases.case("64 MiB there and back", || {
        // A generator of no quality, but without a period in sight.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let content: Vec<u8> = (0..(64 << 20) / 8)
            .flat_map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state.to_le_bytes()
            })
            .collect();
        let digest: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        api.write(id, &path, &content);
        assert!(api.output(id, &["sha256sum", &path]).starts_with(&digest), "another file inside");
        assert!(api.read(id, &path) == content, "another file came back");
    });
    cases.case("an upload that is cut off leaves what was there", || {
        let path = format!("{HOME}/kept/file");
        api.write(id, &path, b"old");
        for announced in [1 << 20, 256 << 20] {
            let half = vec![b'x'; 512 << 10];
            let call = api.file("PUT", id, "", &path).announce(announced).bytes(&half);
            call.hang_up().expect("it was sent");
        }
        // What it had written is taken away by the agent, once it notices.
        within_settling("nothing of the cut off upload is there", || {
            let listed = api.output(id, &["ls", "-A", &format!("{HOME}/kept")]);
            if listed == "file" { Ok(()) } else { Err(listed) }
        });
        assert_eq!(api.read(id, &path), b"old");
    });
    cases.case("a write replaces, keeping the mode", || {
        let path = format!("{HOME}/script.sh");
        api.write(id, &path, b"#!/bin/sh\necho one\n");
        api.output(id, &["chmod", "755", &path]);
        api.write(id, &path, b"#!/bin/sh\necho two\n");
        assert_eq!(api.output(id, &[&path]), "two");
        api.write(id, &path, b"");
        assert_eq!(api.read(id, &path), b"");
    });
}

fn forms(cases: &mut Cases, node: &Node, id: &str) {
    let api = node.api();
    cases.case("upload by form, download as attachment", || {
        let path = format!("{HOME}/form \u{e4}.bin");
        let form = format!(
            "--edge\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n{path}\r\n\
             --edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\
             Content-Type: application/octet-stream\r\n\r\nin the form\r\n--edge--\r\n"
        );
        let call = api.call("POST", &format!("/sandboxes/{id}/files/upload"));
        let call = call.header("Content-Type", "multipart/form-data; boundary=edge").bytes(form.as_bytes());
        assert_eq!(call.send().expect("an answer").expect(200).json(), json!({ "success": true }));
        let answer = api.file("GET", id, "/download", &path).send().expect("an answer").expect(200);
        assert_eq!(answer.body, b"in the form");
        let disposition = answer.header("content-disposition").expect("a disposition");
        assert!(disposition.starts_with("attachment;") && disposition.contains("form%20%C3%A4.bin"), "{disposition}");
    });
}
