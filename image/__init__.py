"""The container image, built without a container engine: three layers, an OCI archive, and what is in it (SBOM).

    python -m image --output image.tar

Docker runs the very same program in the first stage of its Dockerfile, so both make the same root file system.
This package must never import `configregistry`: it builds the program and does not run it, and it needs no more than
the standard library, apt-get, pip and `cyclonedx-python-lib`.
"""
