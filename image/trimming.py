"""What is left out of the image, and why; tests/integration/test_image_contents.py proves that nobody imports it.

Patterns are those of `fnmatch` on the path in its folder; `*` also stands for slashes. A table, and nothing that acts.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

LIBRARIES: Final = {
    "libc6": (
        "ld-linux-*", "libc.so.6", "libm.so.6",
        # Empty since glibc 2.34, but wheels that were linked before name them.
        "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1",
    ),
    "libgcc-s1": ("libgcc_s.so.1",),  # the wheels in Rust
    "libstdc++6": ("libstdc++.so.6*",),  # frozenlist
    "zlib1g": ("libz.so.1*",),
    "libexpat1": ("libexpat.so.1*",),
    "libssl3": ("libssl.so.3", "libcrypto.so.3"),
    "libffi8": ("libffi.so.8*",),
    "libbz2-1.0": ("libbz2.so.1*",),
    "liblzma5": ("liblzma.so.5*",),
}  # fmt: skip
"""Of these packages the shared libraries that are named, and nothing else."""

WHOLE: Final = {
    # Scanners ask it what this is; and the texts of licences that others refer to.
    "base-files": ("etc/debian_version", "etc/os-release", "usr/lib/os-release", "usr/share/common-licenses/*"),
    "gcc-12-base": (),  # the licence of its libraries
    "python3.11-minimal": ("usr/bin/python3.11",),
    "libpython3.11-minimal": ("usr/lib/python3.11/*",),
    "libpython3.11-stdlib": ("usr/lib/python3.11/*",),
    "ca-certificates": (),  # becomes one file
}

STDLIB: Final = {
    "config-3.11-*": "for linking against libpython",
    "ensurepip/*": "brings pip: nothing is installed into a running container",
    "venv/*": "the same",
    "distutils/*": "builds packages",
    "lib2to3/*": "translates Python 2",
    "pydoc_data/*": "the text of help()",
    "idlelib/*": "an editor",
    "tkinter/*": "windows",
    "turtle*": "windows",
    "test/*": "Python's own tests",
    "unittest/*": "for tests",
    "doctest.py": "for tests",
    "sitecustomize.py": "a link to a hook of Ubuntu's crash reporter",
    "EXTERNALLY-MANAGED": "a word to pip",
    "sqlite3/*": "no database here; needs libsqlite3",
    "dbm/*": "the same; needs libdb",
    "shelve.py": "the same",
    "curses/*": "needs libncursesw",
    "cgi.py": "CGI",
    "cgitb.py": "CGI",
    "crypt.py": "needs libcrypt",
    "nntplib.py": "Usenet",
    "telnetlib.py": "telnet",
    "imaplib.py": "mail",
    "poplib.py": "mail",
    "mailbox.py": "mail",
    "smtpd.py": "mail",
    "sndhdr.py": "sound",
    "aifc.py": "sound",
    "sunau.py": "sound",
    "wave.py": "sound",
    "chunk.py": "sound",
    "ossaudiodev.py": "sound",
    "imghdr.py": "pictures",
    "msilib/*": "Windows",
    "xdrlib.py": "Sun RPC",
    "profile.py": "a profiler",
    "cProfile.py": "a profiler",
    "pstats.py": "a profiler",
    "trace.py": "a profiler",
    "pyclbr.py": "a class browser",
    "tabnanny.py": "checks indentation",
    "modulefinder.py": "for packagers",
    "zipapp.py": "for packagers",
    "lib-dynload/_curses*": "needs libncursesw",
    "lib-dynload/readline*": "needs libreadline: there is nobody to type",
    "lib-dynload/_dbm*": "needs libdb",
    "lib-dynload/_sqlite3*": "needs libsqlite3",
    "lib-dynload/_crypt.*": "needs libcrypt",
    "lib-dynload/_uuid.*": "needs libuuid; uuid does without",
    "lib-dynload/nis.*": "needs libnsl",
    "lib-dynload/ossaudiodev.*": "sound",
    "lib-dynload/audioop.*": "sound",
    "lib-dynload/_lsprof.*": "a profiler",
    "lib-dynload/_ctypes_test.*": "Python's own tests",
    "lib-dynload/_test*": "Python's own tests",
    "lib-dynload/_xxtestfuzz.*": "Python's own tests",
    "lib-dynload/xxlimited*": "Python's own tests",
}

DEPENDENCIES: Final = {
    "*.pyi": "types, for mypy",
    "*/py.typed": "the same",
    "*-stubs/*": "the same",
    "*.pyx": "sources of compiled modules",
    "*.pxd": "the same",
    "*.pxi": "the same",
    "*.c": "the same",
    "*.h": "the same",
    "*.hash": "the same",
    "*.dist-info/RECORD": "names files that are left out here; nothing is uninstalled",
    "*.dist-info/INSTALLER": "what pip writes about itself",
    "*.dist-info/REQUESTED": "the same",
    "*.dist-info/WHEEL": "how it was packed",
    "*.dist-info/top_level.txt": "the same",
    "*.dist-info/direct_url.json": "would name a machine or an index",
    "*/tests/*": "their tests",
    "kubernetes/*_test.py": "their tests",
    "kubernetes/*/test_*.py": "their tests",
    "kubernetes/aio/setup.py": "for packagers",
    "kubernetes/leaderelection/[!_]*": "its election is not ours",
    "kubernetes/aio/leaderelection/[!_]*": "the same",
    "multidict/_testcapi.*": "their tests",
    "pvectorc.*": "pyrsistent's C part, which docs/adr/0003 turns off",
    "zstandard/_cffi.*": "for PyPy; CPython has backend_c",
    "zstandard/backend_cffi.py": "the same",
    "cffi/*": "makes C modules; cryptography needs only _cffi_backend, which stays",
    "pycparser/*": "the same",
    "pycparser-*": "the same",
    "tzdata/*": "time zones: every time here is UTC",
    "tzdata-*": "the same",
}

GENERATED: Final = tuple(
    f"kubernetes/{where}/{what}" for where in ("client", "aio/client") for what in ("models", "api", "apis")
)
"""Folders of a thousand generated classes, loaded by name when asked for: see `unreached`."""


def is_left_out(path: str, table: dict[str, str]) -> bool:
    """Whether a table leaves out this path."""
    return any(fnmatchcase(path, pattern) for pattern in table)
