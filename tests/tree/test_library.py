# SPDX-License-Identifier: MIT
"""The built library as its users meet it: exported symbols, dependencies, installation."""

import os
import re
import subprocess

import pytest
from tree_files import ROOT, run

LIBRARIES_ALLOWED = ("libc.", "libm.", "libpthread.", "libgcc_s.", "libcrypto.", "ld-linux", "liburing.")


def declared_symbols() -> set[str]:
    headers = ("cascade.h", "simulator.h")
    text = "".join((ROOT / "include/cascade" / name).read_text() for name in headers)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return set(re.findall(r"^CASCADE_API\b[^;(]*?\b(\w+)\s*\(", text, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def exported_symbols(build) -> set[str]:
    listed = run(["nm", "-D", "--defined-only", "--format=posix", build / "libcascade.so"])
    return {line.split()[0].split("@")[0] for line in listed.splitlines()}


def test_exported_symbols_have_the_prefix(exported_symbols):
    assert not {name for name in exported_symbols if not name.startswith("cascade_")}


def test_every_exported_symbol_is_declared(exported_symbols):
    assert not exported_symbols - declared_symbols()


def test_every_declared_symbol_is_exported(exported_symbols):
    assert not declared_symbols() - exported_symbols


def test_links_to_nothing_else(build):
    entries = run(["readelf", "-d", build / "libcascade.so"])
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", entries)
    assert not [name for name in needed if not name.startswith(LIBRARIES_ALLOWED)]


def test_shared_library_has_a_version(build):
    assert re.search(r"\(SONAME\).*\[libcascade\.so\.\d+\]", run(["readelf", "-d", build / "libcascade.so"]))


def test_installed_library_runs_an_example(build, tmp_path):
    stage = tmp_path / "stage"
    run(["meson", "install", "-C", build, "--no-rebuild", "--quiet", "--destdir", stage])
    (package,) = stage.rglob("cascade.pc")
    environment = dict(os.environ, PKG_CONFIG_PATH=str(package.parent), PKG_CONFIG_SYSROOT_DIR=str(stage))
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "cascade"], env=environment, check=True,
                           capture_output=True, text=True).stdout.split()
    program = tmp_path / "hello"
    run(["gcc", "-Wall", "-Wextra", "-Werror", ROOT / "examples/hello.c", "-o", program, *flags])
    (library,) = stage.rglob("libcascade.so")
    run([program, tmp_path / "store"], cwd=tmp_path, env=dict(
        os.environ, LD_LIBRARY_PATH=str(library.parent), CASCADE_DRAM="64MiB"))
