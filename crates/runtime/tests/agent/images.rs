//! Images: one without a shell or a user file, and the default one where it is there.

use futures_util::stream;
use runtime::agent::{Activation, ExitStatus, ReadRange, WriteOptions};

use crate::support::{GENERATION, Podman, argv, text};

/// Built elsewhere; tested where it is.
const DEFAULT_IMAGE: &str = "localhost/warren/default";

#[test]
fn an_image_without_a_shell() {
    let mut podman = Podman::start();
    let image = podman.bare_image();
    let sandbox = podman.sandbox(&image).active();
    let outcome = sandbox.run(argv(&["/id"]));
    assert_eq!(text(&outcome.stdout), "uid=1000 gid=1000\n", "{}", text(&outcome.stderr));
    let mut request = argv(&["/id"]);
    request.user = Some("root".into());
    assert_eq!(text(&sandbox.run(request).stdout), "uid=0 gid=0\n");
    assert_eq!(sandbox.run(argv(&["sh", "-c", "true"])).exit.status, ExitStatus::Code(127));

    sandbox.wait(async {
        let agent = &sandbox.agent;
        let bytes = stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"no shell here\n"))]);
        let options = WriteOptions { mode: Some(0o755), size_hint: None };
        agent.write_file(GENERATION, b"/home/sandbox/file", options, bytes).await.unwrap();
        let (entry, mut reader) =
            agent.read_file(GENERATION, b"/home/sandbox/file", ReadRange::default()).await.unwrap();
        assert_eq!((entry.size, entry.uid, entry.mode), (14, 1000, 0o755));
        assert_eq!(&reader.next().await.unwrap().unwrap()[..], b"no shell here\n");
    });
    assert_eq!(text(&sandbox.run(argv(&["/cat", "/home/sandbox/file"])).stdout), "no shell here\n");
    // Text without an interpreter line, and no shell to take it.
    let outcome = sandbox.run(argv(&["/home/sandbox/file"]));
    assert_eq!(outcome.exit.status, ExitStatus::Code(126), "{}", text(&outcome.stderr));
}

#[test]
fn the_default_image_where_it_is() {
    let podman = Podman::start();
    if !podman.has_image(DEFAULT_IMAGE) {
        eprintln!("{DEFAULT_IMAGE} is not here");
        return;
    }
    let sandbox = podman.sandbox(DEFAULT_IMAGE).activate(Activation { allow_root: true, ..Activation::default() });
    let program = "import os, multiprocessing\nprint(os.getuid(), os.environ['HOME'])\n\
                   with multiprocessing.Pool(2) as pool: print(pool.map(abs, [-1, -2]))";
    let outcome = sandbox.run(argv(&["python3", "-c", program]));
    assert_eq!(text(&outcome.stdout), "1000 /home/sandbox\n[1, 2]\n", "{}", text(&outcome.stderr));
    let mut request = argv(&["bash", "-c", "id -u; touch /etc/x && chown 1000 /etc/x && stat -c %u /etc/x"]);
    request.user = Some("root".into());
    assert_eq!(text(&sandbox.run(request).stdout), "0\n1000\n");
}
