"""Which layers are stored in fewer bits, decided from calibration and fake quantisation."""
