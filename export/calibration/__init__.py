"""What an export puts through the float32 model and its engines to see how they behave.

`inputs` for ranges of activations, `corpus` for rankings: built in, the same on each run; or, for
ranges, files of the user's own (`user_files`).
"""
