"""The list of what is in the image, with licences and hashes, as CycloneDX JSON; valid by its schema, or an error."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, License, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from image.errors import ImageError

_SPACE: Final = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
_DISTRIBUTION: Final = "debian-12"
_licences: Final = LicenseFactory()


def write_sbom(file: Path, packages: Path, distributions: Path, version: str, epoch: int) -> None:
    """Write the SBOM of the image that has these. Raises `ImageError`."""
    listed = [
        *map(_debian, json.loads(packages.read_text())),
        *map(_python, json.loads(distributions.read_text())),
    ]
    program = Component(
        name="configregistry",
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref="configregistry",
        licenses=[_licences.make_from_string("Apache-2.0")],
        purl=PackageURL("pypi", None, "configregistry", version),
    )
    image = Component(name="configregistry", version=version, type=ComponentType.CONTAINER, bom_ref="image")
    bom = Bom(components=[program, *listed])
    bom.metadata.component = image
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    # Random by default; the same image has the same SBOM.
    bom.serial_number = uuid.uuid5(_SPACE, packages.read_text() + distributions.read_text() + version)
    bom.register_dependency(image, [program, *listed])
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    if (wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)) is not None:
        raise ImageError(f"the SBOM is not valid CycloneDX 1.6: {wrong}")
    file.write_text(text + "\n")


def _debian(package: Mapping[str, Any]) -> Component:
    purl = PackageURL(
        "deb",
        "debian",
        package["package"],
        package["version"],
        {"arch": package["architecture"], "distro": _DISTRIBUTION},
    )
    homepage = ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(package["homepage"]))
    return Component(
        name=package["package"],
        version=package["version"],
        type=ComponentType.LIBRARY,
        bom_ref=str(purl),
        purl=purl,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package["sha256"])],
        # Debian's short names are not all SPDX's, and one name there may be "GPL-2+ with exception": told as a name.
        licenses=_named(package["licences"]),
        external_references=[homepage] if package["homepage"] else [],
    )


def _python(distribution: Mapping[str, Any]) -> Component:
    purl = PackageURL("pypi", None, distribution["package"], distribution["version"])
    return Component(
        name=distribution["package"],
        version=distribution["version"],
        type=ComponentType.LIBRARY,
        bom_ref=str(purl),
        purl=purl,
        description=distribution["summary"],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=distribution["sha256"])],
        licenses=_licences_of(distribution),
    )


def _licences_of(distribution: Mapping[str, Any]) -> list[License]:
    """Give what the distribution says of itself: an SPDX expression, else its classifiers, else a text."""
    if distribution["licence"]:
        return [_licences.make_from_string(distribution["licence"])]
    text = distribution["licence_text"].strip()
    found = _licences.make_from_string(text) if text else None
    if isinstance(found, LicenseExpression) or (found is not None and found.id):
        return [found]
    return _named(distribution["classifiers"] or ([text] if text else []))


def _named(names: Iterable[str]) -> list[License]:
    cleaned = {re.sub(r"\s+", " ", name).strip() for name in names}
    found = (_licences.make_from_string(name) for name in sorted(cleaned) if name)
    # An expression must be alone in its list.
    return [DisjunctiveLicense(name=one.value) if isinstance(one, LicenseExpression) else one for one in found]
