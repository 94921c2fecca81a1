"""Draws the comparison of methods in the README: principal components and a click, by method.

    python packaging/comparison_picture.py                          # writes resources/images/before-after.jpg
    python packaging/comparison_picture.py --photo FILE --click X,Y -o FILE

The picture is committed; nobody needs this script to build, install or test the program. It needs the packages of the
program. All principal components have the axes of the coarse map, so that equal colours are equal features.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow
from PIL import ImageDraw, ImageFont

import featup_app
from featup_app import lenses
from featup_app.features import Point, Size
from featup_app.images import Image, resized
from featup_app.lenses.pictures import heat_picture, numbers_of, similarity_limits

IMAGES = Path(__file__).resolve().parent.parent / "resources" / "images"
METHODS = {"lowres": "Features", "bilinear": "Bilinear", "jbu": "JBU, bundled weights", "attention": "Attention"}
WIDTH, GAP, LINE = 432, 7, 34
"""Pixels: of a picture, between two, and of a line of text."""

Pixels = NDArray[np.uint8]


def rows_of(image: Image, click: Point, input_size: int, size: Size) -> tuple[list[Pixels], list[Pixels], Size]:
    """The pictures of both rows, each beginning with the photo, and the grid of the features."""
    features = featup_app.load_backbone("dinov2-s14-imgfocus").extract(image, size=input_size, layer=None)
    basis = lenses.fit_pca(features)
    photo = resized(image.pixels, size)
    components, clicks = [photo], [marked(photo, features.geometry.pixel_of(click, size))]
    for method in METHODS:
        field = featup_app.upsample(features, image, method=method)
        components.append(lenses.pca(field, size=size, basis=basis))
        alike = numbers_of(lenses.similarity(field, click, size=size))
        clicks.append(heat_picture(alike, colormap="viridis", limits=similarity_limits(alike)))
    return components, clicks, features.geometry.grid_hw


def marked(photo: Pixels, pixel: Size) -> Pixels:
    """The photo with a ring around a pixel."""
    picture = pillow.fromarray(photo)
    drawing = ImageDraw.Draw(picture)
    for radius, colour, width in ((10, "black", 5), (9, "white", 3)):
        row, column = pixel
        box = (column - radius, row - radius, column + radius, row + radius)
        drawing.ellipse(box, outline=colour, width=width)
    return np.asarray(picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photo", type=Path, default=IMAGES / "coffee.jpg")
    parser.add_argument("--click", default="150,300", help="X,Y in pixels of the photo")
    parser.add_argument("--input-size", type=int, default=224, help="shorter side of the backbone's input")
    parser.add_argument("-o", "--output", type=Path, default=IMAGES / "before-after.jpg")
    options = parser.parse_args()
    image = featup_app.load_image(options.photo)
    x, y = (float(part) for part in options.click.split(","))
    height = round(WIDTH * image.size_hw[0] / image.size_hw[1])
    *rows, grid = rows_of(image, (x, y), options.input_size, (height, WIDTH))
    columns = len(METHODS) + 1
    whole = pillow.new("RGB", (columns * (WIDTH + GAP) - GAP, 2 * (height + LINE) + LINE), "white")
    drawing, font = ImageDraw.Draw(whole), ImageFont.load_default(21)
    titles = ["Photo", *METHODS.values()]
    titles[1] += f", {grid[0]} x {grid[1]}"
    for row, (pictures, words) in enumerate(zip(rows, ("Principal components", "A click on the ring"), strict=True)):
        top = LINE + row * (height + LINE)
        for column, picture in enumerate(pictures):
            left = column * (WIDTH + GAP)
            whole.paste(pillow.fromarray(picture), (left, top))
            drawing.text((left + WIDTH / 2, LINE / 2), titles[column], "black", font, anchor="mm")
        drawing.text((WIDTH / 2, top + height + LINE / 2), words, "black", font, anchor="mm")
    whole.save(options.output, quality=82)


if __name__ == "__main__":
    main()
