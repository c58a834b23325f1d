"""Draw the rooms of the package and their imports: `python tools/rooms.py` writes the picture.

A room is a package directly under `src/nutgraf/`. The docstring of its `__init__.py` says what
it is for; `ROOMS` orders the rooms, and a test holds that imports follow that order.
"""

from __future__ import annotations

import ast
import functools
import html
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "nutgraf"
PICTURE = ROOT / "docs" / "images" / "rooms.svg"

# From the top down: a room imports only from rooms after it.
ROOMS = (
    "cli serving watching pipeline report planning judging search training generation evaluation "
    "modeling data storage parallel pocket config core"
).split()

BOX, GAP, ROW, MARGIN = (178, 66), 22, 112, 16  # pixels
LINE = "#2a9d8f"
STYLE = """
rect { fill: #f4f6f8; stroke: #7a838c } text { fill: #30383f; text-anchor: middle }
@media (prefers-color-scheme: dark) { rect { fill: #20262c } text { fill: #d5dbe0 } }
"""


def room_of(path: Path) -> str:
    """Return the room of a source file; '' for a file of the package itself."""
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else ""


@functools.cache
def imports_of(path: Path) -> list[str]:
    """Return the full dotted name of each module or symbol that a file imports, lazily or not."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return names


def edges() -> set[tuple[str, str]]:
    """Return each (importing room, imported room) of the package, without a room's own imports."""
    pairs = set()
    for path in SOURCE.rglob("*.py"):
        importer = room_of(path)
        for name in imports_of(path):
            package, _, rest = name.partition(".")
            imported = rest.partition(".")[0]
            if importer and package == "nutgraf" and imported in ROOMS and imported != importer:
                pairs.add((importer, imported))
    return pairs


def not_implied(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the transitive reduction: the edges that no longer path implies."""
    below = {room: {imported for importer, imported in pairs if importer == room} for room in ROOMS}
    reach: dict[str, set[str]] = {}
    for room in reversed(ROOMS):
        reach[room] = below[room].union(*(reach[imported] for imported in below[room]))
    return {
        (importer, imported)
        for importer, imported in pairs
        if not any(imported in reach[between] for between in below[importer])
    }


def tiers(pairs: set[tuple[str, str]]) -> list[list[str]]:
    """Return the rooms in rows, each room one row below the lowest room that imports it."""
    depth = dict.fromkeys(ROOMS, 0)
    for room in ROOMS:
        for importer, imported in pairs:
            if importer == room:
                depth[imported] = max(depth[imported], depth[room] + 1)
    rows: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for room in ROOMS:
        rows[depth[room]].append(room)
    across: dict[str, float] = {}
    for row in rows:  # below the mean of those that import it, so that few arrows cross
        for room in row:
            above = [across[importer] for importer, imported in pairs if imported == room]
            across[room] = sum(above) / len(above) if above else 0.0
        row.sort(key=lambda room: across[room])
        across |= {room: at - (len(row) - 1) / 2 for at, room in enumerate(row)}
    return rows


def purpose(room: str) -> str:
    """Return the first line of the docstring of a room's `__init__.py`."""
    tree = ast.parse((SOURCE / room / "__init__.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").split("\n")[0].rstrip(".")


def draw() -> str:
    """Return the picture as SVG: a box for each room, an arrow for each import not implied."""
    arrows = not_implied(edges())
    rows = tiers(arrows)
    width = max(len(row) for row in rows) * (BOX[0] + GAP) - GAP + 2 * MARGIN
    height = len(rows) * ROW - (ROW - BOX[1]) + 2 * MARGIN
    place = {
        room: (
            (width - len(row) * (BOX[0] + GAP) + GAP) / 2 + at * (BOX[0] + GAP),
            MARGIN + level * ROW,
        )
        for level, row in enumerate(rows)
        for at, room in enumerate(row)
    }
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" '
        'font-family="sans-serif">',
        f"<style>{STYLE}</style>",
        f"<title>The {len(ROOMS)} rooms of nutgraf; arrows point from importer to imported, "
        "those implied by others are left out</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" '
        f'markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>',
    ]
    for importer, imported in sorted(arrows):
        lines.append(_arrow(place[importer], place[imported]))
    for room in ROOMS:
        lines += _box(room, *place[room])
    return "\n".join([*lines, "</svg>"]) + "\n"


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1 = start[0] + BOX[0] / 2, start[1] + BOX[1]
    x2, y2 = end[0] + BOX[0] / 2, end[1] - 3
    bend = (y2 - y1) / 2
    return (
        f'<path d="M{x1:.0f} {y1:.0f}C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} '
        f'{x2:.0f} {y2:.0f}" fill="none" stroke="{LINE}" stroke-width="1.6" '
        'stroke-opacity="0.8" marker-end="url(#tip)"/>'
    )


def _box(room: str, x: float, y: float) -> Iterator[str]:
    yield f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX[0]}" height="{BOX[1]}" rx="7"/>'
    middle = x + BOX[0] / 2
    yield (
        f'<text x="{middle:.0f}" y="{y + 20:.0f}" font-size="15" font-weight="bold">{room}</text>'
    )
    for number, line in enumerate(_wrapped(purpose(room))):
        yield (
            f'<text x="{middle:.0f}" y="{y + 37 + 14 * number:.0f}" font-size="11">'
            f"{html.escape(line)}</text>"
        )


def _wrapped(text: str, limit: int = 27) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= limit and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))
