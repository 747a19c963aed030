"""Operations and bytes of the model's stages, and the best times devices allow for them."""
