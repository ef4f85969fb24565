"""Where files are looked for, what is refused, what is said without a network."""

import contextlib
import hashlib
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from layouts import put

from layerparallel import data
from layerparallel.data import files
from layerparallel.data.files import File, Source
from layerparallel.errors import InputError, UnknownNameError

RAW = b"a small published file"
MD5, SHA256 = hashlib.md5(RAW).hexdigest(), hashlib.sha256(RAW).hexdigest()
NOWHERE = "http://127.0.0.1:9/"  # nobody listens there
SOURCE = Source("Small", ("small", "Small/raw"))
FILE = File("part.bin", (MD5,), NOWHERE + "part.bin")


@pytest.fixture
def given(tmp_path, monkeypatch):
    """A folder that LAYERPARALLEL_DATA names, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LAYERPARALLEL_DATA", str(tmp_path / "given"))
    return tmp_path / "given"


@pytest.mark.parametrize("place", ["small", "Small/raw", "."])
@pytest.mark.parametrize("known", [MD5, SHA256])
def test_a_file_is_found_in_every_folder_it_may_lie_in(given, place, known):
    put(given / place / "part.bin", RAW)
    assert files.read(SOURCE, File("part.bin", (known,))) == RAW


def test_the_cache_is_looked_at_next(given, monkeypatch):
    put(files.cache() / "small" / "part.bin", RAW)
    assert files.read(SOURCE, FILE) == RAW
    monkeypatch.delenv("LAYERPARALLEL_DATA")
    assert files.read(SOURCE, FILE) == RAW


def test_any_known_edition_is_read(given):
    put(given / "small" / "part.bin", RAW)
    assert files.read(SOURCE, File("part.bin", ("0" * 64, MD5))) == RAW


def test_another_file_of_that_name_is_refused(given):
    path = given / "small" / "part.bin"
    put(path, RAW + b"!")
    with pytest.raises(InputError) as caught:
        files.read(SOURCE, FILE)
    assert all(part in str(caught.value) for part in (str(path), MD5, "put the original there"))


def test_a_file_straight_in_the_folder_may_be_another_sets(given):
    put(given / "part.bin", b"another set's")
    put(files.cache() / "small" / "part.bin", RAW)
    assert files.read(SOURCE, FILE) == RAW


@pytest.mark.parametrize("archive", [None, File("small.tar.gz", (MD5,), NOWHERE + "small.tar.gz")])
def test_without_a_network_one_sentence_says_what_to_put_where(given, archive):
    source = Source("Small", ("small",), archive)
    with pytest.raises(InputError) as caught:
        files.read(source, FILE)
    said = str(caught.value)
    assert "\n" not in said
    for part in ("part.bin of Small", NOWHERE, str(files.cache() / "small"), "LAYERPARALLEL_DATA"):
        assert part in said
    assert not list(given.parent.rglob("*.bin"))


def test_a_file_that_nobody_publishes_for_download_says_so(given):
    with pytest.raises(
        InputError, match=r"part\.bin of Small is not here, and is not downloaded: put it"
    ):
        files.read(SOURCE, File("part.bin"))


@contextlib.contextmanager
def served(folder):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_file_is_downloaded_once_and_then_kept(given, tmp_path):
    put(tmp_path / "site" / "part.bin", RAW)
    with served(tmp_path / "site") as address:
        assert files.read(SOURCE, File("part.bin", (MD5,), address + "part.bin")) == RAW
    assert (files.cache() / "small" / "part.bin").read_bytes() == RAW
    assert files.read(SOURCE, FILE) == RAW  # from an address where there is none


def test_an_archive_is_unpacked_to_its_files(given, tmp_path):
    put(tmp_path / "small" / "part.bin", RAW)
    (tmp_path / "site").mkdir()
    packed = tmp_path / "site" / "small.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(tmp_path / "small", arcname="small")
    known = hashlib.md5(packed.read_bytes()).hexdigest()
    with served(tmp_path / "site") as address:
        source = Source("Small", ("small",), File("small.tar.gz", (known,), address + "small.tar.gz"))
        assert files.read(source, File("part.bin", (MD5,))) == RAW
    assert not (files.cache() / "small.tar.gz").exists()


def test_a_download_of_something_else_is_refused(given, tmp_path):
    put(tmp_path / "site" / "part.bin", b"a page that says no")
    with served(tmp_path / "site") as address, pytest.raises(InputError, match="another checksum"):
        files.read(SOURCE, File("part.bin", (MD5,), address + "part.bin"))
    assert not list(files.cache().rglob("part.bin"))


# ---- the registry --------------------------------------------------------------------------------


def test_unknown_names_and_options_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match=r"data set 'mnits': did you mean 'mnist'\?"):
        data.load("mnits")
    with pytest.raises(UnknownNameError, match=r"'gaurd': did you mean 'guard'\?"):
        data.load("indian-pines", gaurd=1)


def test_every_name_says_without_files_what_is_missing(given, monkeypatch):
    for module in ("cifar", "indian_pines", "level_sets", "mnist", "svhn"):
        __import__(f"layerparallel.data.{module}")
    monkeypatch.setattr(files, "_download", refuse)
    bundled = {"digits", "level-sets", "folder"}
    for name in set(data.names()) - bundled:
        with pytest.raises(InputError, match="refused"):
            data.load(name)
    for name in bundled - {"folder"}:
        assert data.load(name).name == name


def refuse(source, file):
    """In place of a download, so that no test asks a public server."""
    wanted = source.archive or file
    assert wanted.url.startswith("http")
    assert len(wanted.checksums[0]) in (32, 64)
    raise InputError("refused")


def test_digits_come_with_scikit_learn():
    digits, again = data.load("digits"), data.load("digits", seed=1)
    assert digits.shape == (1, 8, 8)
    assert (len(digits.train_y), len(digits.validation_y)) == (1437, 360)
    assert (digits.train_x.min(), digits.train_x.max()) == (0, 255)
    assert not (digits.validation_y == again.validation_y).all()
    assert sorted(set(digits.train_y.tolist())) == list(range(10))
    with pytest.raises(InputError, match="give 1 to 1796"):
        data.load("digits", validation=1797)
