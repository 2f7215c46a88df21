"""A filter in plain C (`clicker.c`) as a module, `clicker:Clicker`. It refuses a config that has `refuse` in it."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pymesh.filters

#: Where `pymesh_filter.h` is.
HEADERS = Path(pymesh.filters.__file__).parent


def build(folder: Path, *defines: str) -> Path:
    """Compile it into `folder`."""
    library = folder / f"clicker{sysconfig.get_config_var('EXT_SUFFIX')}"
    flags = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-O1", "-shared", "-fPIC", *defines]
    # Python's own headers are not pedantic.
    include = [f"-I{HEADERS}", "-isystem", sysconfig.get_path("include")]
    source = Path(__file__).with_name("clicker.c")
    subprocess.run(["gcc", *flags, *include, str(source), "-o", str(library)], check=True)
    return library
