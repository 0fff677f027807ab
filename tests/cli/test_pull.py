"""pull and models, against a local server that drops connections, lies and breaks off; and hostile archives."""
import hashlib
import io
import json
import os
import resource
import signal
import stat
import subprocess
import time
import zipfile

import pytest

from conftest import BUILD, WRAPPER, Terminal
from flaky_server import serve

NAME = "llava-fastvithd_0.5b_stage3"
FILES = {"config.json": b"{}", "weights/model.safetensors": bytes(range(256)) * 4000}


def archive(files=None, folder=NAME + "/", compression=zipfile.ZIP_STORED, extra=None):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as package:
        for name, data in (FILES if files is None else files).items():
            package.writestr(folder + name, data)
        if extra:
            extra(package)
    return buffer.getvalue()


@pytest.fixture
def server():
    with serve(archive(), f"/models/{NAME}.zip") as running:
        yield running


@pytest.fixture
def pull(fastvlm, server):
    def run(*arguments, **options):
        return fastvlm("pull", NAME, "--accept-license", "--url-base", server.url, *arguments, **options)

    return run


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home" / "models"


def check_installed(home):
    for name, data in FILES.items():
        assert (home / NAME / name).read_bytes() == data
    assert sorted(os.listdir(home)) == [NAME]


def check_not_installed(home):
    assert not (home / NAME).exists()
    assert not (home / (NAME + ".unpacking")).exists()


def test_download_unpack_and_list(pull, fastvlm, home, server):
    answer = pull("--json").json
    assert answer["sha256"] == hashlib.sha256(server.data).hexdigest()
    assert answer["folder"] == str(home / NAME)
    check_installed(home)
    listed = {model["name"]: model["downloaded"] for model in fastvlm("models", "--json").json["models"]}
    assert len(listed) == 10
    assert [name for name, here in listed.items() if here] == [NAME]
    assert "downloaded" in fastvlm("models").out


def test_second_pull_has_nothing_to_do(pull, server):
    assert pull().code == 0
    requests = len(server.requests)
    again = pull()
    assert again.code == 0 and "is here already" in again.out
    assert len(server.requests) == requests
    assert pull("--force").code == 0
    assert len(server.requests) == requests + 1


def test_model_name_resolves_to_the_download(pull, fastvlm, home):
    fastvlm("tokenize", "--model", NAME, "x").failed(1, f"fastvlm pull {NAME}")
    assert pull().code == 0
    fastvlm("tokenize", "--model", NAME, "x").failed(1, str(home / NAME))


def test_dropped_connections_are_resumed(pull, home, server):
    server.drops = [100000, 1, 300000]
    result = pull()
    assert result.code == 0, result.err
    check_installed(home)
    assert server.requests == [None, "bytes=100000-", "bytes=100001-", "bytes=400001-"]
    assert "trying again" in result.err


def test_resume_in_a_second_run(pull, home, server):
    server.drops = [50000, 0]
    pull("--retries", "0").failed(1, "goes on where it stopped")
    check_not_installed(home)
    assert pull().code == 0
    check_installed(home)
    assert server.requests[-1] == "bytes=50000-"


def test_resume_without_validator(pull, home, server):
    server.validators = False
    server.drops = [70000]
    assert pull().code == 0
    check_installed(home)
    assert server.requests == [None, "bytes=70000-"]


def test_file_that_changed_is_fetched_anew(pull, home, server):
    server.drops = [50000, 0]
    pull("--retries", "0").failed(1)
    server.data = archive({**FILES, "new.txt": b"new"})
    assert pull().code == 0
    assert (home / NAME / "new.txt").read_bytes() == b"new"


def test_server_without_ranges(pull, home, server):
    server.ranges = False
    server.drops = [200000]
    assert pull().code == 0
    check_installed(home)


def test_server_that_gives_another_range(pull, home, server):
    server.wrong_range = True
    server.drops = [200000]
    assert pull().code == 0
    check_installed(home)
    assert server.requests == [None, "bytes=200000-", None]


def test_server_without_length(pull, home, server):
    server.lengths = False
    assert pull().code == 0
    check_installed(home)


def test_passing_server_errors_are_retried(pull, home, server):
    server.failures = [503, 500]
    assert pull().code == 0
    check_installed(home)


def test_retries_end(pull, home, server):
    server.failures = [503] * 5
    pull("--retries", "1").failed(1, "503", "1 retries")
    check_not_installed(home)


def test_missing_file(pull, home, server):
    server.failures = [404]
    pull().failed(1, server.url, "404")
    assert len(server.requests) == 1


def test_nobody_listens(fastvlm):
    fastvlm("pull", NAME, "--accept-license", "--url-base", "http://127.0.0.1:9/x", "--retries", "0").failed(1, "127.0.0.1")


def test_checksum(pull, home, server):
    pull("--sha256", "0" * 64).failed(1, "0" * 64, hashlib.sha256(server.data).hexdigest())
    check_not_installed(home)
    assert os.listdir(home) == []
    assert pull("--sha256", hashlib.sha256(server.data).hexdigest().upper()).code == 0
    check_installed(home)


def test_usage(fastvlm):
    fastvlm("pull").failed(2, "name of one model")
    fastvlm("pull", "a", "b").failed(2)
    fastvlm("pull", "no-such-model").failed(2, "'no-such-model'")
    fastvlm("pull", NAME, "--sha256", "12").failed(2, "--sha256")
    fastvlm("pull", NAME, "--retries", "-1").failed(2, "--retries")


def test_licence_has_to_be_accepted(fastvlm, server, home):
    fastvlm("pull", NAME, "--url-base", server.url).failed(2, "--accept-license")
    assert server.requests == [] and not home.exists()


@pytest.mark.parametrize("answer, code", [("n", 1), ("", 1), ("y", 0)])
def test_licence_is_asked_for_on_a_terminal(server, home, tmp_path, answer, code):
    terminal = Terminal("pull", NAME, "--url-base", server.url, env={"FVLM_HOME": str(tmp_path / "home")})
    terminal.expect("research use only")
    terminal.expect(r"\[y/N\] ")
    terminal.send(answer + "\r")
    terminal.expect("SHA-256" if code == 0 else "not accepted")
    assert terminal.end() == code
    assert (home / NAME).exists() == (code == 0)


def test_file_size_limit_is_a_clear_error(pull, home, server):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))

    pull(preexec_fn=limit).failed(1, "cannot write", "goes on where it stopped")
    check_not_installed(home)
    assert pull().code == 0
    check_installed(home)
    assert server.requests[-1].startswith("bytes=")


def test_full_disk(fastvlm, server, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)],
                                           capture_output=True).returncode != 0:
        pytest.skip("a small tmpfs needs root and the right to mount")
    try:
        result = fastvlm("pull", NAME, "--accept-license", "--url-base", server.url, env={"FVLM_HOME": str(disk)})
        result.failed(1, "cannot write", "No space left on device")
        check_not_installed(disk / "models")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_interrupt_keeps_what_is_there(fastvlm, server, home, tmp_path):
    server.drops = [30000] + [0] * 50
    run = subprocess.Popen([*WRAPPER, str(BUILD / "fastvlm"), "pull", NAME, "--accept-license", "--url-base", server.url],
                           env=dict(os.environ, FVLM_HOME=str(tmp_path / "home")), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 600
    while len(server.requests) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    error = run.stderr.read()
    run.stderr.close()
    assert run.wait(timeout=600) == -signal.SIGINT
    assert b"interrupted" in error
    assert (home / (NAME + ".zip.part")).stat().st_size == 30000


def test_archive_without_a_folder_of_its_own(pull, home, server):
    server.data = archive(folder="")
    assert pull().code == 0
    check_installed(home)


def test_what_macos_adds_is_left_out(pull, home, server):
    def extra(package):
        package.writestr(f"__MACOSX/{NAME}/._config.json", b"x")
        package.writestr(f"{NAME}/.DS_Store", b"x")

    server.data = archive(extra=extra, compression=zipfile.ZIP_DEFLATED)
    assert pull().code == 0
    check_installed(home)


def entry(name, data=b"x", mode=None):
    def extra(package):
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.compress_type = zipfile.ZIP_DEFLATED
        if mode:
            info.external_attr = mode << 16
        package.writestr(info, data)

    return extra


@pytest.mark.parametrize("extra, words", [
    (entry("../evil.txt"), "../evil.txt"),
    (entry(f"{NAME}/../../evil.txt"), "evil.txt"),
    (entry("/evil.txt"), "/evil.txt"),
    (entry("C:evil.txt"), "C:evil.txt"),
    (entry("a\\..\\evil.txt"), "evil.txt"),
    (entry(f"{NAME}/link", b"/etc/passwd", stat.S_IFLNK | 0o777), "link"),
    (entry(f"{NAME}/pipe", b"", stat.S_IFIFO | 0o666), "pipe"),
    (entry(f"{NAME}/config.json"), "not a whole zip"),
    (entry(f"{NAME}/weights"), "two entries"),
    (entry(f"{NAME}/zeros", bytes(200 << 20)), "would unpack"),
], ids=["parent", "nested-parent", "absolute", "drive", "backslash", "symlink", "fifo", "duplicate", "file-and-folder", "bomb"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_archives(pull, home, server, extra, words, tmp_path):
    server.data = archive(extra=extra, compression=zipfile.ZIP_DEFLATED)
    pull().failed(1, words)
    check_not_installed(home)
    assert os.listdir(home) == []
    assert not list(tmp_path.rglob("evil.txt"))


def test_archive_of_too_many_entries(pull, home, server):
    server.data = archive({f"{i}": b"" for i in range(10001)})
    pull().failed(1, "entries")
    check_not_installed(home)


def flip(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


@pytest.mark.parametrize("change", [lambda data: data[:len(data) // 2], lambda data: b"<html>not a zip</html>",
                                    lambda data: flip(data, len(data) // 2)], ids=["cut", "page", "bit"])
def test_damaged_archives(pull, home, server, change):
    server.data = change(server.data)
    pull().failed(1, NAME)
    check_not_installed(home)
    assert os.listdir(home) == []


def test_archive_without_checkpoint(pull, home, server):
    server.data = archive({"readme.txt": b"x"})
    pull().failed(1, "config.json")
    check_not_installed(home)


def test_empty_answer(pull, home, server):
    server.data = b""
    pull().failed(1, "empty")
    check_not_installed(home)


def test_progress_and_its_absence(pull, server):
    assert "downloading: " in pull().err
    quiet = pull("--force", "--quiet")
    assert quiet.code == 0 and "downloading" not in quiet.err


def test_models_without_a_home(fastvlm):
    environment = {"FVLM_HOME": "", "XDG_DATA_HOME": "", "HOME": ""}
    fastvlm("models", env=environment).failed(1, "FVLM_HOME")
    assert fastvlm("models", "--json", env={**environment, "HOME": "/h"}).json["home"] == "/h/.local/share/fastvlm/models"
    assert json.loads(fastvlm("models", "--json", env={**environment, "XDG_DATA_HOME": "/x"}).out)["home"] == "/x/fastvlm/models"
