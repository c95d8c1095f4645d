"""PDF files that tests write: one page for each content stream."""

from __future__ import annotations

from collections.abc import Sequence


def page_of(*lines: str) -> bytes:
    """Return the content stream of a page with these lines."""
    shown = " ".join(f"({line}) Tj T*" for line in lines)
    return f"BT /F1 12 Tf 10 280 Td 14 TL {shown} ET".encode()


def pdf_of(*contents: bytes, filters: bytes = b"") -> bytes:
    """Return a PDF with one page for each content stream; `/X Do` in one draws much that is nothing."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * number) for number in range(len(contents)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(contents)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    form = b"/XObject << /X %d 0 R >>" % (4 + 2 * len(contents))
    for number, content in enumerate(contents):
        objects += [
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Contents %d 0 R /Resources "
            b"<< /Font << /F1 3 0 R >> %s >> >>" % (5 + 2 * number, form),
            b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), filters, content),
        ]
    drawn = b"BT ET " * 20_000
    font = b"/Resources << /Font << /F1 3 0 R >> >>"
    objects.append(b"<< /Subtype /Form %s /Length %d >>\nstream\n%s\nendstream" % (font, len(drawn), drawn))
    return _with_table(objects)


def _with_table(objects: Sequence[bytes]) -> bytes:
    data, offsets = b"%PDF-1.4\n", list[int]()
    for number, content in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    entries = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    table = b"xref\n0 %d\n0000000000 65535 f \n%strailer << /Size %d /Root 1 0 R >>\n" % (size, entries, size)
    return data + table + b"startxref\n%d\n%%%%EOF" % len(data)
