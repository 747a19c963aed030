"""Whom Trine is measured against: one module a way of running the model, all one contract."""
