"""The image: what it is made of, that it is the same each time, and that the program works in it as in a pod."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from image.interpreter import compile_ahead
from image.layers import pack
from image.oci import ENTRYPOINT, ENVIRONMENT, LABELS
from image.places import SITE, USER, cache_directory, this_architecture
from tests.cluster import KubeCluster
from tests.cluster.standing import REPOSITORY
from tests.integration.image_root import Built, contained, image, in_image
from tests.integration.operators import crd
from tests.integration.running import Client, wait

__all__ = ["crd", "image"]

pytestmark = pytest.mark.xdist_group("image")


def test_archive_holds_what_it_names(image: Built) -> None:
    """Every digest is that of a blob, and Docker's index names the same blobs as OCI's."""
    with tarfile.open(image.archive) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    blobs = {name: content for name, content in files.items() if name.startswith("blobs/")}
    assert all(name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}" for name, content in blobs.items())
    described = json.loads(files["index.json"])["manifests"][0]
    assert described["digest"] == image.digest
    assert described["annotations"]["io.containerd.image.name"] == "configregistry.dev/configregistry:dev"
    manifest = json.loads(blobs[_path(described)])
    config = json.loads(blobs[_path(manifest["config"])])
    unpacked = [hashlib.sha256(gzip.decompress(blobs[_path(layer)])).hexdigest() for layer in manifest["layers"]]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{digest}" for digest in unpacked]
    assert config["config"]["User"] == f"{USER}:{USER}"
    docker = json.loads(files["manifest.json"])[0]
    assert docker["Config"] == _path(manifest["config"])
    assert docker["Layers"] == [_path(layer) for layer in manifest["layers"]]


def test_nobody_owns_or_may_write_anything(image: Built) -> None:
    """All files are root's, none can be written by others, none raises rights; there is no shell and no pip."""
    members = [member for layer in _layers(image) for member in layer]
    assert {(each.uid, each.gid, each.mtime) for each in members} == {(0, 0, 0)}
    assert {oct(each.mode) for each in members if not each.issym()} == {"0o755", "0o644", "0o1777"}
    assert [each.name for each in members if each.mode == 0o1777] == ["tmp"]
    programs = {Path(each.name).name for each in members if each.name.startswith("usr/bin/")}
    assert programs == {"python3", "python3.11", "configregistry"}
    assert not [each.name for each in members if re.search(r"/(pip|ensurepip|setuptools)(/|$)", each.name)]


def test_nothing_of_this_machine_is_in_it(image: Built) -> None:
    """No path of the checkout or the cache, and no index, in any file."""
    indexes = re.findall(r"https?://[^\s'\"]+", subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout)  # fmt: skip
    words = [str(REPOSITORY), str(cache_directory()), str(image.root), *indexes]
    files = [path for path in image.root.rglob("*") if path.is_file() and not path.is_symlink()]
    found = [(path, word) for path in files for word in words if word.encode() in path.read_bytes()]
    assert not found
    assert not [path for path in files if path.name in {"direct_url.json", "RECORD", "INSTALLER", "pip.conf"}]


def test_everything_is_compiled(image: Built) -> None:
    """Each module has its code beside it, with an unchecked hash: the sources are not even looked at."""
    modules = list(image.root.rglob("*.py"))
    assert modules
    for module in modules:
        code = module.parent / "__pycache__" / f"{module.stem}.cpython-311.pyc"
        assert int.from_bytes(code.read_bytes()[4:8], "little") == 1, module


def test_the_same_sources_give_the_same_bytes(image: Built, tmp_path: Path) -> None:
    """The part that could differ, done twice: another folder, other times and modes, another umask."""
    packed = []
    base = next(path for path in sorted(cache_directory().glob("base-*"), key=_age, reverse=True) if path.is_dir())
    for name, umask in (("one", 0o022), ("another", 0o077)):
        before = os.umask(umask)
        try:
            root = tmp_path / name
            for source in sorted((image.root / SITE / "configregistry").rglob("*.py"), reverse=name == "one"):
                target = root / SITE / source.relative_to(image.root / SITE)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            compile_ahead(base / "root", this_architecture(), root, SITE)
            packed.append(pack(root, tmp_path / f"{name}.tar.gz").digest)
        finally:
            os.umask(before)
    assert packed[0] == packed[1]


@pytest.mark.skipif("IMAGE_TWICE" not in os.environ, reason="IMAGE_TWICE=1: builds all of it again, some minutes")
def test_a_build_from_nothing_gives_the_same_image(image: Built, tmp_path: Path) -> None:
    """With an empty cache, everything downloaded again."""
    command = [sys.executable, "-m", "image", f"--output={tmp_path / 'again.tar'}"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, check=True)
    assert (tmp_path / "again.tar").read_bytes() == image.archive.read_bytes()


def test_warm_build_is_quick(image: Built, tmp_path: Path) -> None:
    """Nothing changed: nothing is made. The bound is for a busy machine; alone it takes 0.3 s."""
    began = time.monotonic()
    command = [sys.executable, "-m", "image", f"--output={tmp_path / 'again.tar'}"]
    subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True)
    assert time.monotonic() - began < 60
    assert (tmp_path / "again.tar").read_bytes() == image.archive.read_bytes()


def test_docker_says_the_same(image: Built) -> None:
    """What image/Dockerfile says of the result is what image/oci.py says."""
    text = (REPOSITORY / "image" / "Dockerfile").read_text().rpartition("FROM scratch")[2].replace("\\\n", " ")
    said = dict(re.findall(r"^([A-Z]+) (.+)$", text, re.MULTILINE))
    assert json.loads(said["ENTRYPOINT"]) == list(ENTRYPOINT)
    assert said["USER"] == f"{USER}:{USER}"
    assert dict(each.split("=") for each in said["ENV"].split()) == ENVIRONMENT
    assert dict(re.findall(r'(\S+)="([^"]*)"', said["LABEL"])) == LABELS


def test_sbom_names_all_distributions_with_their_licences(image: Built) -> None:
    """The builder has validated it against its schema; here that nothing is forgotten."""
    sbom = json.loads(image.archive.with_name(f"{image.archive.name}.cdx.json").read_text())
    named = {each["name"]: each for each in sbom["components"]}
    there = {path.name.partition("-")[0].replace("_", "-").lower() for path in image.root.rglob("*.dist-info")}
    there |= {path.name for path in (image.root / "var/lib/dpkg/status.d").iterdir()}
    assert there == named.keys()
    assert not [name for name, each in named.items() if not each.get("licenses")]
    assert not [name for name, each in named.items() if not each.get("hashes") and name != "configregistry"]


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["serve", "--help"], ["completion", "bash"]])
def test_commands_without_a_cluster(image: Built, arguments: list[str]) -> None:
    """What a person may ask of the image alone."""
    ended = subprocess.run(in_image(image.root, [*ENTRYPOINT, *arguments]), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "configregistry" in ended.stdout


def test_every_module_of_the_program_can_be_imported(image: Built) -> None:
    """None misses something that was left out."""
    sources = (image.root / SITE / "configregistry").rglob("*.py")
    modules = [".".join(path.relative_to(image.root / SITE).with_suffix("").parts) for path in sources]
    names = sorted(name.removesuffix(".__init__") for name in modules)
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    command = ["/usr/bin/python3.11", "-I", "-c", code, *names]
    ended = subprocess.run(in_image(image.root, command), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("command", ["run", "controller", "serve"])
async def test_starts_as_in_a_pod(image: Built, crd: KubeCluster, namespace: str, tmp_path: Path, command: str) -> None:
    """Read-only root, uid 65532, no capabilities: it gets ready, works, and ends on SIGTERM."""
    with contained(image, crd, namespace, tmp_path, command) as operator:
        began = time.monotonic()
        operator.start(ready=False)
        wait(lambda: operator.get("/livez") == 200 or not operator.alive, lambda: operator.log[-3000:])
        print(f"{command}: {time.monotonic() - began:.2f} s to /livez")
        operator.await_ready()
        kernel = operator.kernel_says
        assert set(kernel["Uid"].split() + kernel["Gid"].split()) == {str(USER)}
        assert {int(kernel[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
        assert kernel["NoNewPrivs"] == "1"
        if command == "run":
            async with Client.of(crd, namespace) as client:
                await client.apply("inside", data={"a": 1})
                await client.ready("inside")
            path = f"/v1/namespaces/{namespace}/registries/inside/keys/a"
            wait(lambda: operator._code(path) == 200, lambda: operator.log[-3000:])
            assert operator.read(path)["value"] == 1
        assert not [line for line in operator.lines if line["level"] in {"error", "critical"}]


def _layers(built: Built) -> Iterator[tarfile.TarFile]:
    with tarfile.open(built.archive) as archive:
        manifest = json.loads(archive.extractfile("manifest.json").read())[0]  # type: ignore[union-attr]
        for name in manifest["Layers"]:
            content = archive.extractfile(name).read()  # type: ignore[union-attr]
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as layer:
                yield layer


def _path(descriptor: dict[str, Any]) -> str:
    return f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}"


def _age(path: Path) -> float:
    return path.stat().st_mtime
