"""Files behind a URL, such as `s3://…` and `gs://…`: listed and read by fsspec, many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from keras_sgdr.validation import InvalidValueError, MissingFileError, MissingPackageError, ServerError

# What object stores and fsspec's own file systems call that which changes with the content, the surest first
_VERSIONS = ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created")


def entries(folder: str) -> Iterator[tuple[str, bool]]:
    """Yields the names in a folder, each with whether it is a folder."""
    for name, described in _listing(folder).items():
        yield name, described["type"] == "directory"


def sizes(folder: str) -> dict[str, int]:
    """Returns the size of each file in a folder, in bytes."""
    return {name: int(each["size"]) for name, each in _listing(folder).items() if each["type"] != "directory"}


def exists(url: str) -> bool:
    """Whether there is something at a URL."""
    with _named(url) as system:
        return bool(system.exists(system._strip_protocol(url)))


def is_folder(url: str) -> bool:
    """Whether there is a folder at a URL that holds something; an object store has no others."""
    try:
        return bool(_listing(url))
    except MissingFileError:
        return False


def forget_listings(url: str) -> None:
    """Lets folders be listed anew; a file system keeps what it was told for as long as the process lives."""
    with _named(url) as system:
        system.invalidate_cache()


def read(
    urls: Sequence[str], starts: Sequence[int] | None = None, lengths: Sequence[int] | None = None
) -> list[bytes | OSError]:
    """Reads files of one file system, or parts of them, all at once; an error stands for one that cannot be read."""
    with _named(urls[0]) as system:
        ends = None if starts is None or lengths is None else [sum(each) for each in zip(starts, lengths, strict=True)]
        nothing = [None] * len(urls)
        paths = [system._strip_protocol(url) for url in urls]
        # By ranges, because `cat` takes brackets and stars in a name for a pattern
        found = system.cat_ranges(paths, starts or nothing, ends or nothing, on_error="return")
    return [each if isinstance(each, bytes) else _error_of(url, each) for url, each in zip(urls, found, strict=True)]


def stamps(urls: Sequence[str], missing: tuple[int, int] | None) -> Iterator[tuple[int, int]]:
    """Yields the size of each file, and a number that changes with what it holds; `missing` for one that is not there.

    Raises:
        FileNotFoundError: If there is no such file, and no `missing`.
    """
    listings: dict[str, dict[str, Any]] = {}  # one request for a folder, and not for each file
    for url in urls:
        folder, _, name = url.rpartition("/")
        if folder not in listings:
            listings[folder] = _listing(folder)
        described = listings[folder].get(name)
        if described is None:
            if missing is None:
                raise MissingFileError(f"Every file must be there. Received: no file {url}.")
            yield missing
            continue
        version = next((str(described[key]) for key in _VERSIONS if described.get(key)), "")
        yield int(described["size"]), int.from_bytes(blake2b(version.encode(), digest_size=7).digest(), "big")


def fetch(url: str, folder: Path) -> None:
    """Copies the files in a folder behind a URL, not those in folders inside it, to an existing folder."""
    for name, is_dir in entries(url):
        if not is_dir:
            with _named(f"{url}/{name}") as system:
                system.get_file(system._strip_protocol(f"{url}/{name}"), str(folder / name))


def upload(path: Path, url: str) -> None:
    """Copies a file to a URL."""
    with _named(url) as system:
        system.put_file(str(path), system._strip_protocol(url))


def remove(url: str) -> None:
    """Removes a file."""
    with _named(url) as system:
        system.rm_file(system._strip_protocol(url))


def _listing(folder: str) -> dict[str, dict[str, Any]]:
    """Returns what is known of each entry of a folder, by its name."""
    with _named(folder) as system:
        path = system._strip_protocol(folder).rstrip("/")
        found = {each["name"].rstrip("/"): each for each in system.ls(path, detail=True)}
    # An object store may have an empty file that stands for the folder itself.
    return {name.rpartition("/")[2]: each for name, each in found.items() if name.strip("/") != path.strip("/")}


@contextmanager
def _named(url: str) -> Iterator[Any]:
    """Gives the file system of a URL; what goes wrong with it becomes an error that names the URL."""
    protocol = url.partition("://")[0]
    try:
        import fsspec

        system = fsspec.filesystem(protocol)
    except ImportError as error:
        raise MissingPackageError(
            f"{protocol}:// needs a package that is not installed. Received: {url}: {error}. Install it; those of "
            's3:// and gs:// come with `pip install "keras-sgdr[remote]"`.'
        ) from error
    except ValueError as error:
        raise InvalidValueError(f"A URL must be of a kind that fsspec knows. Received: {url}: {error}.") from error
    try:
        yield system
    except Exception as error:  # each store has exceptions of its own
        raise _error_of(url, error) from error


def _error_of(url: str, error: Exception) -> MissingFileError | ServerError:
    if isinstance(error, (MissingFileError, ServerError)):
        return error
    if isinstance(error, FileNotFoundError):
        return MissingFileError(f"A URL must be of a file or folder that is there. Received: {url}: {error}.")
    reason = " ".join(str(error).split()) or "no answer"
    return ServerError(
        f"A URL must be one that can be read with the credentials of this machine. Received: {url}: "
        f"{type(error).__name__}: {reason}."
    )
