"""Pictures of a running dashboard for the docs: python scripts/dashboard_screens.py LINK docs/images

LINK is the one with the key that `junctor serve` prints. Send some requests first.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from PIL import Image

from chromium import Tab, tab

# file: (page, width, most pixels of height, dark, what to do there before)
OPEN = "document.querySelector('.feed summary').click()"
ASK = (
    "document.querySelector('textarea').value = 'Ann has 12 apples and buys 3 bags of 8 apples. How many has she now?';"
    "document.querySelector('button[type=submit]').click()"
)
PICTURES = {
    "dashboard-overview": ("overview", 1280, 900, False, ""),
    "dashboard-live": ("live", 1280, 900, False, OPEN),
    "dashboard-frontier": ("frontier", 1280, 860, False, ""),
    "dashboard-spend": ("spend", 1280, 1000, True, ""),
    "dashboard-playground": ("playground", 1280, 1000, False, ASK),
    "dashboard-compare": ("compare", 1280, 800, True, ""),
    "dashboard-phone": ("live", 390, 844, True, ""),
}


async def shoot(page: Tab, link: str, name: str, folder: Path) -> None:
    """One picture, in as few colours as it needs."""
    where, width, height, dark, act = PICTURES[name]
    await page.prepare(width, height, dark=dark)
    await page.go(link)
    await page.until("!!document.querySelector('.tiles')")
    await page.run(f"location.hash = '#{where}'")
    await asyncio.sleep(2.5)
    if act:
        await page.run(act)
        await asyncio.sleep(1)
    path = folder / f"{name}.png"
    await page.picture(path, height)
    Image.open(path).convert("RGB").quantize(200).save(path, optimize=True)


async def main(link: str, folder: Path) -> None:
    """All of them, each in a browser of its own."""
    for name in PICTURES:
        async with tab() as page:
            await shoot(page, link, name, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("link")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    asyncio.run(main(given.link, given.folder))
