"""Images, sounds and documents for tests, made by Pillow and the standard library."""

from __future__ import annotations

import io
import wave

import pytest

Image = pytest.importorskip("PIL.Image", reason="needs Pillow (extra `train` brings it)")

PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"


def picture(width: int = 8, height: int = 5, form: str = "PNG", colour: str = "red", **options: object) -> bytes:
    """Return an image of one colour in one of Pillow's formats."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, form, **options)
    return file.getvalue()


def sound() -> bytes:
    """Return a WAVE file of silence."""
    file = io.BytesIO()
    with wave.open(file, "wb") as opened:
        opened.setnchannels(1)
        opened.setsampwidth(2)
        opened.setframerate(8000)
        opened.writeframes(bytes(800))
    return file.getvalue()
