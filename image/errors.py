"""What may go wrong while the image is made, as something that a person can act on."""

from __future__ import annotations


class ImageError(Exception):
    """The image cannot be made; the message says why and what to do."""
