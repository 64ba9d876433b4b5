"""URLs of file systems that fsspec knows, such as `s3://bucket/pictures`. Importing this loads no fsspec."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[^/]*)?://")
CREDENTIALS = "AWS_PROFILE or AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_CONNECTION_STRING"


def is_url(text: str | None) -> bool:
    return text is not None and _URL.match(text) is not None


def refuse_bad_url(text: str) -> None:
    """
    Raises:
        ValueError: it carries a secret, wraps another file system, or names no place in one.
    """
    parts = urlsplit(text)
    if "@" in parts.netloc:
        raise ValueError(f"a URL holds no credentials; leave them to the environment ({CREDENTIALS})")
    if parts.query or parts.fragment:
        raise ValueError("a URL of objects ends with their folder; ? and # cannot be in it, nor a signature")
    if "::" in text.partition("://")[0]:
        raise ValueError("expected one file system, such as s3://bucket/pictures, got one inside another (::)")
    if not (parts.netloc + parts.path).strip("/"):
        raise ValueError(f"expected a bucket or a folder after {parts.scheme}://, such as s3://bucket/pictures")
    if ".." in f"{parts.netloc}{parts.path}".split("/"):
        raise ValueError("expected a URL without `..`")
