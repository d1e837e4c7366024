//! Files: whole, odd, large, refused.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use runtime::agent::{AgentClient, AgentError, Entry, EntryKind, ReadRange, RefusalCode, WriteError, WriteOptions};

use crate::support::{GENERATION, Podman, argv, sh, text, wait_until};

async fn write(agent: &AgentClient, path: &[u8], bytes: &[u8]) -> Result<Entry, AgentError> {
    let chunks: Vec<_> = bytes.chunks(300_000).map(|chunk| Ok::<_, ()>(Bytes::copy_from_slice(chunk))).collect();
    match agent.write_file(GENERATION, path, WriteOptions::default(), stream::iter(chunks)).await {
        Ok(entry) => Ok(entry),
        Err(WriteError::Agent(error)) => Err(error),
        Err(WriteError::Source(())) => unreachable!(),
    }
}

async fn read(agent: &AgentClient, path: &[u8], range: ReadRange) -> Result<(Entry, Vec<u8>), AgentError> {
    let (entry, mut reader) = agent.read_file(GENERATION, path, range).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.next().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok((entry, bytes))
}

fn code<T: std::fmt::Debug>(result: Result<T, AgentError>) -> RefusalCode {
    result.unwrap_err().refusal_code().unwrap()
}

#[test]
fn any_name_and_any_content_come_back() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();
    let names: [&[u8]; 9] =
        [b"plain", b" ", b"-rf", b"a\nb", b"$(id)", b"'\"`;*", "\u{fc}\u{1f600}".as_bytes(), b"\xff\xfe", &[b'x'; 255]];
    let large: Vec<u8> = (0..3_000_000u32).flat_map(|n| n.to_le_bytes()).collect();
    sandbox.wait(async {
        let agent = &sandbox.agent;
        for (index, name) in names.into_iter().enumerate() {
            let path = [b"/tmp/deep/er/", name].concat();
            let content = if index == 0 { &large[..] } else { name };
            let entry = write(agent, &path, content).await.unwrap();
            assert_eq!((&entry.name[..], entry.size, entry.mode), (name, content.len() as u64, 0o644));
            let (entry, bytes) = read(agent, &path, ReadRange::default()).await.unwrap();
            assert!(bytes == content, "{name:?}");
            assert_eq!((&entry.path, entry.uid, entry.gid, entry.kind), (&path, 1000, 1000, EntryKind::File));
        }
        let mut listed: Vec<_> =
            agent.list(GENERATION, b"/tmp/deep/er").await.unwrap().into_iter().map(|entry| entry.name).collect();
        listed.sort();
        let mut expected = names.map(<[u8]>::to_vec);
        expected.sort();
        assert_eq!(listed, expected);

        let range = |offset, length| ReadRange { offset, length };
        let part = |range| async move { read(agent, b"/tmp/deep/er/plain", range).await.unwrap().1 };
        assert!(part(range(4_000_000, Some(1_000_000))).await == large[4_000_000..5_000_000]);
        assert!(part(range(11_999_990, Some(100))).await == large[11_999_990..]);
        assert!(part(range(5, None)).await == large[5..]);
        assert!(part(range(99_000_000, None)).await.is_empty());
        assert!(part(range(0, Some(0))).await.is_empty());
        let (entry, bytes) = read(agent, b"/proc/version", ReadRange::default()).await.unwrap();
        assert!(entry.size == 0 && bytes.starts_with(b"Linux"));
        // As a stream, for those who want one.
        let (_, reader) = agent.read_file(GENERATION, b"/tmp/deep/er/-rf", ReadRange::default()).await.unwrap();
        let chunks: Vec<_> = Box::pin(reader.into_stream()).collect().await;
        assert!(matches!(&chunks[..], [Ok(chunk)] if &chunk[..] == b"-rf"));

        agent.remove(GENERATION, b"/tmp/deep").await.unwrap();
        assert_eq!(code(agent.stat(GENERATION, b"/tmp/deep", false).await), RefusalCode::NotFound);
    });
}

#[test]
fn a_write_replaces_whole_or_not_at_all() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();
    sandbox.sh("cd /tmp; mkdir d; echo old > d/f; chmod 751 d/f; ln -s d/f link; ln -s nothing dangling");
    let agent = &sandbox.agent;
    let abort = || {
        let chunks = [Ok(Bytes::from(vec![b'x'; 1_000_000])), Err("torn")];
        agent.write_file(GENERATION, b"/tmp/d/f", WriteOptions::default(), stream::iter(chunks))
    };
    assert!(matches!(sandbox.wait(abort()), Err(WriteError::Source("torn"))));
    // A client that goes away in the middle.
    sandbox.wait(async {
        let half = stream::iter([Ok::<_, ()>(Bytes::from_static(b"half"))]).chain(stream::pending());
        let writing = agent.write_file(GENERATION, b"/tmp/d/f", WriteOptions::default(), half);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(200), writing).await.is_err());
    });
    wait_until("the uploads are given up", || sandbox.others().is_empty());
    assert_eq!(sandbox.sh("ls -A /tmp/d; cat /tmp/d/f"), "f\nold\n");

    sandbox.wait(async {
        // Through a link, into the file; its mode stays.
        write(agent, b"/tmp/link", b"new\n").await.unwrap();
        write(agent, b"/tmp/dangling", b"made\n").await.unwrap();
        for (path, expected) in [
            (&b"/tmp/d"[..], RefusalCode::IsADirectory),
            (b"/tmp/d/", RefusalCode::IsADirectory),
            (b"/", RefusalCode::IsADirectory),
            (b"/tmp/d/f/below", RefusalCode::NotADirectory),
            (b"/etc/passwd", RefusalCode::Permission),
            (b"/new-at-the-top", RefusalCode::Permission),
            (b"/proc/new", RefusalCode::Permission),
            (b"relative", RefusalCode::Invalid),
            (b"/tmp/nul\0", RefusalCode::Invalid),
        ] {
            assert_eq!(code(write(agent, path, b"x").await), expected, "{}", text(path));
        }
        let too_much = WriteOptions { mode: None, size_hint: Some(1 << 60) };
        let refused =
            agent.write_file(GENERATION, b"/tmp/huge", too_much, stream::pending::<Result<Bytes, ()>>()).await;
        let Err(WriteError::Agent(error)) = refused else { panic!("{refused:?}") };
        assert_eq!(error.refusal_code(), Some(RefusalCode::NoSpace));
    });
    assert_eq!(
        sandbox.sh("cat /tmp/d/f; stat -c %a:%F /tmp/d/f /tmp/link"),
        "new\n751:regular file\n777:symbolic link\n"
    );
    assert_eq!(sandbox.sh("cat /tmp/dangling; ls -A /tmp/d"), "made\nf\n");
    // A full disk in the middle: /dev/shm has 16 MiB.
    sandbox.wait(async {
        assert_eq!(code(write(agent, b"/dev/shm/f", &vec![1; 20 << 20]).await), RefusalCode::NoSpace);
    });
    assert_eq!(sandbox.sh("ls -A /dev/shm"), "");
}

#[test]
fn directories_are_made_listed_and_removed() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();
    let agent = &sandbox.agent;
    sandbox.sh(
        "cd /tmp; mkdir -p many keep t/sub; touch keep/file; i=0; while [ $i -lt 3000 ]; do : > many/entry-$i; i=$((i+1)); done
         ln -s /tmp/keep t/link; mkfifo t/pipe; chmod 000 t/sub",
    );
    // Deeper than descriptors and paths reach.
    sandbox.sh("cd /tmp; i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done; touch bottom");
    sandbox.wait(async {
        assert_eq!(agent.list(GENERATION, b"/tmp/many").await.unwrap().len(), 3000);
        assert_eq!(agent.list(GENERATION, b"/tmp/many/").await.unwrap()[0].path[..16], b"/tmp/many/entry-"[..]);
        let kinds = |entries: Vec<Entry>| {
            let mut kinds: Vec<_> = entries.into_iter().map(|e| (text(&e.name), e.kind, e.symlink_target)).collect();
            kinds.sort_by(|a, b| a.0.cmp(&b.0));
            kinds
        };
        assert_eq!(
            kinds(agent.list(GENERATION, b"/tmp/t").await.unwrap()),
            [
                ("link".into(), EntryKind::Symlink, Some(b"/tmp/keep".to_vec())),
                ("pipe".into(), EntryKind::Other, None),
                ("sub".into(), EntryKind::Directory, None),
            ]
        );
        assert_eq!(agent.stat(GENERATION, b"/tmp/t/link", false).await.unwrap().kind, EntryKind::Symlink);
        assert_eq!(agent.stat(GENERATION, b"/tmp/t/link", true).await.unwrap().kind, EntryKind::Directory);
        let root = agent.stat(GENERATION, b"/", false).await.unwrap();
        assert_eq!((&root.name[..], &root.path[..], root.uid), (&b"/"[..], &b"/"[..], 0));
        let passwd = agent.stat(GENERATION, b"/etc/passwd", false).await.unwrap();
        assert!(passwd.mtime_ns > 1_600_000_000_000_000_000, "{}", passwd.mtime_ns);

        agent.mkdir(GENERATION, b"/tmp/a/b/c", Some(0o700)).await.unwrap();
        agent.mkdir(GENERATION, b"/tmp/a/b/c", None).await.unwrap();
        assert_eq!(agent.stat(GENERATION, b"/tmp/a/b/c", false).await.unwrap().mode, 0o700);
        assert_eq!(agent.stat(GENERATION, b"/tmp/a/b", false).await.unwrap().mode, 0o755);

        assert_eq!(code(agent.mkdir(GENERATION, b"/tmp/keep/file", None).await), RefusalCode::Exists);
        assert_eq!(code(agent.mkdir(GENERATION, b"/tmp/keep/file/x", None).await), RefusalCode::NotADirectory);
        assert_eq!(code(agent.mkdir(GENERATION, b"/top", None).await), RefusalCode::Permission);
        assert_eq!(code(agent.list(GENERATION, b"/tmp/keep/file").await), RefusalCode::NotADirectory);
        assert_eq!(code(agent.list(GENERATION, b"/missing").await), RefusalCode::NotFound);
        assert_eq!(code(agent.list(GENERATION, b"/tmp/t/sub").await), RefusalCode::Permission);
        for (path, expected) in [
            (&b"/tmp"[..], RefusalCode::IsADirectory),
            (b"/missing", RefusalCode::NotFound),
            (b"/tmp/t/pipe", RefusalCode::Invalid),
            (b"/dev/zero", RefusalCode::Invalid),
            (b"/proc/1/environ", RefusalCode::Permission),
            (b"/proc/self/mem", RefusalCode::Permission),
        ] {
            assert_eq!(code(read(agent, path, ReadRange::default()).await), expected, "{}", text(path));
        }

        agent.remove(GENERATION, b"/tmp/many").await.unwrap();
        agent.remove(GENERATION, b"/tmp/missing").await.unwrap();
        agent.remove(GENERATION, b"/missing/below").await.unwrap();
        agent.remove(GENERATION, b"/tmp/t/link").await.unwrap();
        agent.remove(GENERATION, b"/tmp/t").await.unwrap();
        agent.remove(GENERATION, b"/tmp/d").await.unwrap();
        assert_eq!(code(agent.remove(GENERATION, b"/").await), RefusalCode::Invalid);
        assert_eq!(code(agent.remove(GENERATION, b"/tmp/..").await), RefusalCode::Invalid);
        assert_eq!(code(agent.remove(GENERATION, b"/etc/passwd").await), RefusalCode::Permission);
    });
    assert_eq!(sandbox.sh("ls -A /tmp; ls /tmp/keep"), "a\nkeep\nfile\n");
}

#[test]
fn root_as_the_default_user_owns_what_it_writes() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).activate(runtime::agent::Activation {
        user: Some("root".into()),
        allow_root: true,
        ..runtime::agent::Activation::default()
    });
    sandbox.wait(async {
        let entry = write(&sandbox.agent, b"/etc/made/file", b"x").await.unwrap();
        assert_eq!((entry.uid, entry.gid), (0, 0));
    });
    assert_eq!(text(&sandbox.run(argv(&["id", "-u"])).stdout), "0\n");
    assert_eq!(sandbox.run(sh("ls /etc/made/file")).exit.status, runtime::agent::ExitStatus::Code(0));
}
