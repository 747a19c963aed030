"""Images drawn with numpy and Pillow: pages, tables, charts, photo-like and extreme ones.

Every function returns uint8 [height, width, 3] RGB, and the same pixels each time: whole numbers
throughout, raw bits of a generator instead of a distribution, and Pillow's own font.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = [
    "bar_chart",
    "blobs",
    "checkerboard",
    "gradient",
    "line_chart",
    "noise",
    "one_colour",
    "photo",
    "pie_chart",
    "stripes",
    "table",
    "text_page",
]

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]
#: (height, width) in pixels.
Size = tuple[int, int]

WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (150, 150, 150)
#: Of charts, in their order: strong ones, since a channel may answer to one colour only.
COLOURS: tuple[Colour, ...] = (
    (214, 32, 36),
    (31, 90, 180),
    (44, 150, 52),
    (250, 170, 20),
    (125, 60, 152),
    (20, 180, 190),
)
#: Cells a side of the coarsest layer of a photo; each further one has twice as many.
COARSEST, NUM_LAYERS = 2, 6


def one_colour(size: Size, colour: Colour) -> Pixels:
    """Return an image without any detail."""
    return np.full((*size, 3), colour, np.uint8)


def checkerboard(size: Size, square: int, first: Colour = BLACK, second: Colour = WHITE) -> Pixels:
    """Return squares of two colours.

    Black and white ones of 56 pixels are known to overflow float16 in the vision tower
    (https://github.com/ollama/ollama/pull/18070).

    Args:
        size: of the image.
        square: side of a square in pixels.
        first: colour of the top left one.
        second: of its neighbours.
    """
    row, column = np.indices(size)
    odd = (row // square + column // square) % 2
    return np.where(odd[..., None] == 1, second, first).astype(np.uint8)


def stripes(size: Size, width: int, colour: Colour) -> Pixels:
    """Return upright stripes of `width` pixels on white."""
    column = np.indices(size)[1]
    return np.where((column // width % 2)[..., None] == 1, colour, WHITE).astype(np.uint8)


def gradient(size: Size, first: Colour, second: Colour) -> Pixels:
    """Return a smooth change from the colour at the top left to that at the bottom right."""
    row, column = np.indices(size)
    steps = size[0] + size[1] - 2 or 1
    share = (row + column)[..., None]
    mixed = np.array(first) * (steps - share) + np.array(second) * share
    return (mixed // steps).astype(np.uint8)


def noise(size: Size, seed: int) -> Pixels:
    """Return independent random bytes."""
    count = size[0] * size[1] * 3
    words = np.random.PCG64(seed).random_raw((count + 7) // 8)
    return np.frombuffer(words.astype("<u8").tobytes(), np.uint8)[:count].reshape(*size, 3).copy()


def photo(size: Size, seed: int) -> Pixels:
    """Return layers of soft noise, coarse ones strong and fine ones weak, as in photographs."""
    total = np.zeros((*size, 3), np.int64)
    weights = 0
    for layer in range(NUM_LAYERS):
        cells = COARSEST << layer
        small = noise((min(cells, size[0]), min(cells, size[1])), seed * NUM_LAYERS + layer)
        soft = Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        weight = 1 << (NUM_LAYERS - 1 - layer)
        total += weight * np.asarray(soft, np.int64)
        weights += weight
    return (total // weights).astype(np.uint8)


def blobs(size: Size, seed: int, count: int) -> Pixels:
    """Return ellipses of strong colours before a photo-like background."""
    image = Image.fromarray(photo(size, seed))
    draw = ImageDraw.Draw(image)
    words = np.random.PCG64(seed).random_raw((count, 4)).astype(np.uint64)
    for index, (x, y, width, height) in enumerate((words % np.uint64(1000)).tolist()):
        left, top = x * size[1] // 1000, y * size[0] // 1000
        right = left + 1 + width * size[1] // 3000
        bottom = top + 1 + height * size[0] // 3000
        draw.ellipse((left, top, right, bottom), fill=COLOURS[index % len(COLOURS)])
    return _pixels(image)


def text_page(size: Size, text: str, *, points: int, dark: bool = False) -> Pixels:
    """Return a page of text, broken into lines, as far as it has room.

    Args:
        size: of the page.
        text: Latin letters, which are what Pillow's font has.
        points: size of the letters in pixels.
        dark: white on black.
    """
    image, draw = _blank(size, BLACK if dark else WHITE)
    font = ImageFont.load_default(points)
    margin, advance = points, points * 4 // 3
    line = ""
    top = margin
    for word in [*text.split(), ""]:
        longer = f"{line} {word}".strip()
        if word and draw.textlength(longer, font) <= size[1] - 2 * margin:
            line = longer
            continue
        draw.text((margin, top), line, fill=WHITE if dark else BLACK, font=font)
        line = word
        top += advance
        if top + points > size[0]:
            break
    return _pixels(image)


def table(size: Size, rows: int, columns: int, seed: int) -> Pixels:
    """Return a ruled table of numbers with a coloured head."""
    image, draw = _blank(size, WHITE)
    height, width = size[0] // rows, size[1] // columns
    font = ImageFont.load_default(max(6, height // 2))
    values = np.random.PCG64(seed).random_raw(rows * columns).tolist()
    draw.rectangle((0, 0, width * columns, height), fill=COLOURS[seed % len(COLOURS)])
    for index, value in enumerate(values):
        left, top = index % columns * width, index // columns * height
        draw.rectangle((left, top, left + width, top + height), outline=GREY)
        shown = f"{value % 100_000 / 100:.2f}"
        fill = WHITE if top == 0 else BLACK
        draw.text((left + 3, top + height // 5), shown, fill=fill, font=font)
    return _pixels(image)


def bar_chart(size: Size, values: tuple[int, ...], first_colour: int = 0) -> Pixels:
    """Return bars with axes; `values` are per cent of the height."""
    image, draw = _axes(size)
    width = size[1] * 8 // 10 // len(values)
    for index, value in enumerate(values):
        left = size[1] // 10 + index * width + width // 6
        top = size[0] * 9 // 10 - value * size[0] * 8 // 1000
        fill = COLOURS[(first_colour + index) % len(COLOURS)]
        draw.rectangle((left, top, left + width * 2 // 3, size[0] * 9 // 10), fill=fill)
        draw.text((left, size[0] * 91 // 100), str(value), fill=BLACK, font=_label_font(size))
    return _pixels(image)


def line_chart(size: Size, series: tuple[tuple[int, ...], ...]) -> Pixels:
    """Return a line for each series, with axes; values are per cent of the height."""
    image, draw = _axes(size)
    for index, values in enumerate(series):
        step = size[1] * 8 // 10 // max(1, len(values) - 1)
        points = [
            (size[1] // 10 + place * step, size[0] * 9 // 10 - value * size[0] * 8 // 1000)
            for place, value in enumerate(values)
        ]
        draw.line(points, fill=COLOURS[index % len(COLOURS)], width=max(1, size[0] // 80))
    return _pixels(image)


def pie_chart(size: Size, shares: tuple[int, ...]) -> Pixels:
    """Return slices of one pie; `shares` sum to 100."""
    image, draw = _blank(size, WHITE)
    side = min(size) * 8 // 10
    left, top = (size[1] - side) // 2, (size[0] - side) // 2
    start = 0
    for index, share in enumerate(shares):
        end = start + share * 360 // 100
        box = (left, top, left + side, top + side)
        draw.pieslice(box, start, end, fill=COLOURS[index % len(COLOURS)], outline=WHITE)
        start = end
    return _pixels(image)


def _blank(size: Size, colour: Colour) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (size[1], size[0]), colour)
    return image, ImageDraw.Draw(image)


def _axes(size: Size) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a white image with a frame of two axes and faint lines of height."""
    image, draw = _blank(size, WHITE)
    left, bottom = size[1] // 10, size[0] * 9 // 10
    for tenth in range(2, 10, 2):
        height = bottom - tenth * size[0] * 8 // 100
        draw.line((left, height, size[1] * 95 // 100, height), fill=GREY)
        draw.text((2, height - 5), str(10 * tenth), fill=BLACK, font=_label_font(size))
    draw.line((left, size[0] // 20, left, bottom), fill=BLACK, width=2)
    draw.line((left, bottom, size[1] * 95 // 100, bottom), fill=BLACK, width=2)
    return image, draw


def _label_font(size: Size) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(8, size[0] // 28))


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(image, np.uint8).copy()
