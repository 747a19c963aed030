"""Inputs that show how the float32 model and the engines made of it behave.

`inputs` for ranges of activations, `corpus` for rankings: built in, the same on each run; or, for
ranges, files of the user's own (`user_files`).
"""
