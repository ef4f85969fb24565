"""Where the files of a data set are: in a folder of the user's, in the cache, or at a public address.

`read` is the only way to the bytes of a published file. It hands out none whose checksum is not one
of those written down here, and the bytes it hands out are those it has checked.
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError

VARIABLE = "LAYERPARALLEL_DATA"
"""Environment variable that names a folder with files that are there already."""
SECONDS = 30
"""Longest wait for an answer of a server."""


@dataclass(frozen=True)
class File:
    """One published file.

    checksums: of every edition that is read, MD5 (32 digits) or SHA-256 (64), the published one
    first; none means that the format alone is checked. url: where it is published; empty where it
    comes in the archive of its source, or is not downloaded at all.
    """

    name: str
    checksums: tuple[str, ...] = ()
    url: str = ""


@dataclass(frozen=True)
class Source:
    """The files of one data set.

    folders: where they lie under a data folder, the first being where downloads go. archive: a tar
    file that unpacks to the first folder; None where every file has an address of its own.
    """

    title: str
    folders: tuple[str, ...]
    archive: File | None = None


def cache() -> Path:
    """The folder that downloads go to."""
    import pooch

    return Path(pooch.os_cache("layerparallel")) / "data"


def read(source: Source, file: File) -> bytes:
    """The bytes of a file, from `LAYERPARALLEL_DATA`, else the cache, else downloaded.

    A file straight in a data folder counts where its checksum fits: other sets have files of that
    name.

    Raises:
        InputError: the file is not there and cannot be downloaded, or is not the published one.
    """
    wrong: list[str] = []
    for path, own in _places(source, file):
        if not path.is_file():
            continue
        raw = path.read_bytes()
        if not file.checksums or any(_digest(raw, known) == known for known in file.checksums):
            return raw
        if own:
            known = file.checksums[0]
            wrong.append(
                f"{path} is not the published {file.name} of {source.title}: its checksum is "
                f"{_digest(raw, known)}, not {known}; put the original there, or remove it to have it "
                "downloaded."
            )
    if wrong:
        raise InputError(wrong[0])
    raw = _download(source, file).read_bytes()
    if file.checksums and all(_digest(raw, known) != known for known in file.checksums):
        raise InputError(
            f"The downloaded {file.name} of {source.title} is not the published one: its checksum "
            f"differs from {file.checksums[0]}."
        )
    return raw


def _places(source: Source, file: File) -> Iterator[tuple[Path, bool]]:
    """Paths to look at, in order, and whether they belong to this set alone."""
    given = os.environ.get(VARIABLE)
    if given:
        root = Path(given).expanduser()
        yield from ((root / folder / file.name, True) for folder in source.folders)
        if file.checksums:
            yield root / file.name, False
    yield from ((cache() / folder / file.name, True) for folder in source.folders)


def _digest(raw: bytes, like: str) -> str:
    return hashlib.new("md5" if len(like) == 32 else "sha256", raw, usedforsecurity=False).hexdigest()


def _download(source: Source, file: File) -> Path:
    """Fetch the file, or the archive that it comes in, into the cache."""
    import pooch

    place = cache() / source.folders[0]
    wanted = source.archive or file
    folder = place.parent if source.archive else place
    remedy = (
        f"put it into {place}, or set {VARIABLE} to a folder with it in the subfolder "
        f"{source.folders[0]}"
    )
    if not wanted.url:
        raise InputError(f"{file.name} of {source.title} is not here, and is not downloaded: {remedy}.")
    known = wanted.checksums[0]
    downloader: Any = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=SECONDS)
    try:
        pooch.retrieve(
            wanted.url,
            known_hash=f"{'md5' if len(known) == 32 else 'sha256'}:{known}",
            fname=wanted.name,
            path=folder,
            processor=pooch.Untar(extract_dir=".") if source.archive else None,
            downloader=downloader,
        )
    except (OSError, ValueError) as error:  # no network, no such address, or another file there
        cause = type(error).__name__ if isinstance(error, OSError) else "another checksum"
        raise InputError(
            f"{file.name} of {source.title} is not here and could not be downloaded from {wanted.url} "
            f"({cause}): {remedy}."
        ) from error
    if source.archive:
        (folder / wanted.name).unlink()
    return place / file.name
