"""The fixed inputs that an engine and PyTorch are compared on."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["verify_images", "verify_texts"]

#: Words of the long text; English ones, for a few hundred tokens in any tokenizer.
NUM_LONG_WORDS = 450
WORDS = ("the", "model", "reads", "every", "token", "of", "a", "long", "text", "and", "pools", "it")


def verify_texts() -> tuple[str, ...]:
    """Return texts in several scripts and lengths, from none to about 600 tokens, and code."""
    numbered = (
        f"{WORDS[i % len(WORDS)]}{'' if i % 7 else f' {i}.'}" for i in range(NUM_LONG_WORDS)
    )
    return (
        "",
        "?",
        "Which planet has the most moons?",
        "Die Straßenbahn fährt über die Brücke nach Köln.",
        "L'été, les élèves révisent à l'ombre des chênes.",
        "Быстрая лиса перепрыгнула через ленивую собаку.",
        "東京の桜は三月の終わりに咲き始めます。",
        "人工智能正在改变我们处理文档的方式。",
        "القراءة غذاء العقل والروح",
        "def area(radius: float) -> float:\n    return 3.14159 * radius**2\n",
        "<|im_start|>not a control token<|image_pad|> 🚀 naïve 1,234.50 €\t\n",
        " ".join(numbered),
    )


def verify_images() -> tuple[NDArray[np.uint8], ...]:
    """Return images, uint8 [h, w, 3]: landscape, tall, wide and flat, and like a printed page."""
    return (_waves(240, 320), _waves(420, 90), _noise(60, 400), _page(700, 495))


def _waves(height: int, width: int) -> NDArray[np.uint8]:
    row, column = np.indices((height, width))
    rings = 128 + 127 * np.sin(np.hypot(row - height / 3, column - width / 2) / 9)
    channels = (row * 255 // height, column * 255 // width, rings.astype(np.int64))
    return np.stack(channels, axis=2).astype(np.uint8)


def _noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def _page(height: int, width: int) -> NDArray[np.uint8]:
    """Return lines of dark blocks on white, as print looks from afar."""
    page = np.full((height, width, 3), 255, np.uint8)
    source = np.random.default_rng(1)
    for top in range(40, height - 40, 14):
        left = 40
        while left < width - 60:
            length = int(source.integers(8, 50))
            page[top : top + 7, left : min(left + length, width - 40)] = 30
            left += length + 6
    return page
