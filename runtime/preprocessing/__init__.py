"""Turns texts and images into what the engines take."""
