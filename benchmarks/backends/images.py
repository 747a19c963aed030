"""Images for backends: the same patches, the same published prompt around them.

Preprocessing is a case of its own and outside every other timing.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trine.runtime.bundle.bundle import TOKENIZER_NAME, open_bundle
from trine.runtime.preprocessing.image_processor import patch_image
from trine.runtime.preprocessing.sequence import TokenSequence, image_sequence
from trine.runtime.preprocessing.tokenizer import TextTokenizer

__all__ = ["pixels_sequence"]


def pixels_sequence(pixels: NDArray[np.uint8], bundle: Path) -> TokenSequence:
    """Return the sequence of an image (uint8 [h, w, 3]) with the published prompt."""
    model = open_bundle(bundle).manifest.model
    image = patch_image(pixels, model.image, model.vision, model.image.max_pixels)
    merge = model.vision.spatial_merge_size
    scaffold = _tokenizer(bundle).scaffold
    return image_sequence([image], None, scaffold, model.token_ids, merge)


@cache
def _tokenizer(bundle: Path) -> TextTokenizer:
    return TextTokenizer(bundle / TOKENIZER_NAME)
