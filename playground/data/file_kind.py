"""Tell what kind of data a file is, from its first bytes and its suffix; refuse all that can't be read by its kind."""

import struct
import zipfile
from pathlib import Path

from playground.data import arrow, packed
from playground.errors import PlaygroundError, problem

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".xlsx": "excel",
    ".xlsm": "excel",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    **packed.SUFFIXES,
}
SIGNATURES = {
    b"PAR1": "parquet",
    arrow.FILE_SIGNATURE: "arrow",
    **packed.SIGNATURES,
}
ARCHIVE_SIGNATURES = {
    b"PK\x05\x06": "zip",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}
ARCHIVE_SUFFIXES = {".zip": "zip", ".xz": "xz", ".7z": "7z", ".rar": "rar", ".tgz": "tar", ".tar": "tar"}
# First bytes of files that hold no rows, and the end of the words key that says so.
REFUSED_SIGNATURES = {
    b"%PDF": "pdf",
    b"\xd0\xcf\x11\xe0": "office_old",
    b"\x89PNG": "media",
    b"\xff\xd8\xff": "media",
    b"GIF8": "media",
    b"RIFF": "media",
    b"ID3": "media",
    b"OggS": "media",
    b"SQLite format 3": "database",
    b"\x89HDF": "database",
    b"GGUF": "model",
    b"{\\rtf": "word",
}
REFUSED_SUFFIXES = {
    ".xls": "excel_old",
    ".ods": "open_document",
    ".odt": "open_document",
    ".html": "web_page",
    ".htm": "web_page",
    ".xml": "xml",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".npy": "pickle",
    ".npz": "pickle",
    ".pt": "model",
    ".bin": "model",
    ".safetensors": "model",
}
ZIP_CONTENTS = {"xl/": "excel", "word/": "word", "ppt/": "slides", "content.xml": "open_document"}
ZIP_ERRORS = (zipfile.BadZipFile, OSError, ValueError, RuntimeError, struct.error)  # of a damaged or encrypted file
LFS_POINTER = b"version https://git-lfs"
START = 1024  # bytes


def kind_of_file(path: Path) -> str:
    """The kind of a file: a value of KINDS.

    Raises PlaygroundError, naming what it is instead: a Git LFS pointer, an archive, a web page, a document, an unknown
    suffix.
    """
    with open(path, "rb") as file:
        start = file.read(START)
    suffix = path.suffix.lower()
    if start.startswith(LFS_POINTER):
        raise problem("error.lfs_pointer", file=path.name, size=path.stat().st_size)
    known = next((kind for mark, kind in SIGNATURES.items() if start.startswith(mark)), None)
    if known and suffix != ".tgz":
        return known
    if start.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    archive = next((kind for mark, kind in ARCHIVE_SIGNATURES.items() if start.startswith(mark)), None)
    archive = archive or ("tar" if start[257:262] == b"ustar" else None) or ARCHIVE_SUFFIXES.get(suffix)
    if archive:
        raise problem("error.packed", file=path.name, kind=archive)
    refused = next((kind for mark, kind in REFUSED_SIGNATURES.items() if start.startswith(mark)), None)
    refused = refused or _markup(start, KINDS.get(suffix)) or REFUSED_SUFFIXES.get(suffix)
    if refused:
        raise _refusal(path, "excel_old" if suffix == ".xls" and refused == "office_old" else refused)
    kind = KINDS.get(suffix)
    if kind is None:
        raise problem("error.file_kind", file=path.name, known=list(KINDS))
    return kind


def _kind_of_zip(path: Path) -> str:
    """ "excel" for a workbook, which is a zip file too. Raises PlaygroundError for any other, by its kind."""
    try:
        with zipfile.ZipFile(path) as parts:
            names = parts.namelist()
    except ZIP_ERRORS as error:
        if KINDS.get(path.suffix.lower()) == "excel":
            raise problem("error.excel", file=path.name, detail=str(error)[:160]) from error
        names = []
    found = next((kind for start, kind in ZIP_CONTENTS.items() if any(n.startswith(start) for n in names)), "zip")
    if found == "excel":
        return found
    raise problem("error.packed", file=path.name, kind="zip") if found == "zip" else _refusal(path, found)


def _markup(start: bytes, kind: str | None) -> str:
    """ "web_page" or "xml" for markup under another name; a text file may have some."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if kind == "text":
        return ""
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "web_page"
    return "xml" if text.startswith(b"<?xml") else ""


def _refusal(path: Path, kind: str) -> PlaygroundError:
    return problem(f"error.file_{kind}", file=path.name)
