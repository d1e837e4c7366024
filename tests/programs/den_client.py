"""What a user of den-sdk writes, against the node whose URL and key are the arguments."""

import asyncio
import sys

from den import Den
from den.exceptions import AuthenticationError, DenError, NotFoundError, ValidationError
from den.types import StorageConfig, TmpfsMount

url, key = sys.argv[1:3]


def raised(kind, call, *arguments, status=None, **named):
    try:
        call(*arguments, **named)
    except kind as error:
        assert type(error) is kind, repr(error)
        assert error.message and not error.message.startswith("API error"), repr(error)
        if status is not None:
            assert error.status_code == status, error.status_code
        return error
    raise AssertionError(f"{call} did not raise {kind}")


def blocking():
    with Den(url, api_key=key) as client:
        assert client.health()["status"] == "ok"
        assert client.version()["version"]

        sandbox = client.sandbox.create(env={"GREETING": "hello"}, timeout=600, memory=256 << 20, cpu=1_000_000_000)
        print("created", sandbox.id)
        assert sandbox.info.status == "running", sandbox.info
        assert sandbox.info.created_at is not None and sandbox.info.expires_at is not None

        result = sandbox.exec(["python3", "-c", "import os; print(os.environ['GREETING'])"])
        assert (result.exit_code, result.stdout, result.stderr) == (0, "hello\n", ""), result
        result = sandbox.exec(["sh", "-c", "echo $X; pwd; exit 3"], env={"X": "y"}, workdir="/tmp", timeout=60)
        assert (result.exit_code, result.stdout) == (3, "y\n/tmp\n"), result

        sandbox.write_file("/home/sandbox/text.txt", "grüße\n")
        assert sandbox.read_file("/home/sandbox/text.txt") == "grüße\n".encode()
        sandbox.write_file("/home/sandbox/a b+c.bin", bytes(range(256)))
        assert sandbox.read_file("/home/sandbox/a b+c.bin") == bytes(range(256))
        sandbox.mkdir("/home/sandbox/deep/er")
        entries = {entry.name: entry for entry in sandbox.list_files("/home/sandbox")}
        assert entries["text.txt"].size == len("grüße\n".encode()) and not entries["text.txt"].is_dir
        assert entries["deep"].is_dir and entries["deep"].path == "/home/sandbox/deep"
        assert entries["text.txt"].mod_time is not None and entries["text.txt"].mode
        assert "a b+c.bin" in entries
        sandbox.remove_file("/home/sandbox/deep")
        assert "deep" not in {entry.name for entry in sandbox.list_files("/home/sandbox")}
        assert "etc" in {entry.name for entry in sandbox.list_files()}

        assert [other.id for other in client.sandbox.list()] == [sandbox.id]
        assert client.sandbox.get(sandbox.id).info.id == sandbox.id

        raised(NotFoundError, sandbox.read_file, "/home/sandbox/nothing")
        raised(ValidationError, sandbox.exec, [])
        raised(ValidationError, sandbox.read_file, "relative")
        raised(DenError, sandbox.exec, ["sleep", "60"], timeout=1, status=408)
        raised(NotFoundError, client.sandbox.get, "no-such-sandbox")
        raised(NotFoundError, client.sandbox.get, "aaaaaaaaaaaaaaaaaaaa")
        raised(ValidationError, client.sandbox.create, timeout=-1)
        raised(DenError, client.sandbox.create, image="localhost/warren/nothing:latest", status=422)

        sandbox.stop()
        assert sandbox.refresh().status == "stopped"
        raised(DenError, sandbox.exec, ["true"], status=409)
        sandbox.destroy()
        raised(NotFoundError, sandbox.refresh)
        raised(NotFoundError, sandbox.destroy)
        assert client.sandbox.list() == []

        with client.sandbox.create(storage=StorageConfig(tmpfs=[TmpfsMount(path="/scratch", size="1m")])) as sandbox:
            assert sandbox.exec(["stat", "-f", "-c", "%T", "/scratch"]).stdout == "tmpfs\n"
        raised(NotFoundError, sandbox.refresh)

    with Den(url, api_key="wrong") as stranger:
        raised(AuthenticationError, stranger.sandbox.list)


async def asynchronous():
    async with Den(url, api_key=key) as client:
        assert (await client.ahealth())["status"] == "ok"
        sandboxes = await asyncio.gather(*(client.sandbox.acreate() for _ in range(3)))
        assert len({sandbox.id for sandbox in sandboxes}) == 3
        results = await asyncio.gather(
            *(sandbox.aexec(["echo", str(number)]) for number, sandbox in enumerate(sandboxes))
        )
        assert [result.stdout for result in results] == ["0\n", "1\n", "2\n"]
        one, two, three = sandboxes
        await one.awrite_file("/tmp/file", b"bytes")
        assert await one.aread_file("/tmp/file") == b"bytes"
        await one.amkdir("/tmp/made")
        assert {"file", "made"} <= {entry.name for entry in await one.alist_files("/tmp")}
        await one.aremove_file("/tmp/made")
        try:
            await one.aread_file("/tmp/nothing")
            raise AssertionError("no error")
        except NotFoundError:
            pass
        await two.astop()
        assert (await two.arefresh()).status == "stopped"
        assert {sandbox.id for sandbox in await client.sandbox.alist()} == {sandbox.id for sandbox in sandboxes}
        assert (await client.sandbox.aget(three.id)).id == three.id
        await asyncio.gather(*(sandbox.adestroy() for sandbox in sandboxes))
        assert await client.sandbox.alist() == []


blocking()
asyncio.run(asynchronous())
print("all of it")
