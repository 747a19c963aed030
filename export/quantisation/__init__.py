"""Decides from calibration and fake quantisation which layers are stored in fewer bits."""
