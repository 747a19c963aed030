"""The arguments of the compiled kernels, field by field as `native/` declares them."""

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p

__all__ = [
    "AttentionCall",
    "LinearFloatCall",
    "LinearInt8Call",
    "ProjectCall",
    "RowsCall",
    "SideCall",
]


class SideCall(ctypes.Structure):
    """`Side` of linear_int8.cpp."""

    _fields_ = [
        ("factors", c_void_p),
        ("factors_stride", c_int64),
        ("matrix", c_void_p),
        ("matrix_stride", c_int64),
        ("first_rank", c_void_p),
        ("rank_count", c_int64),
        ("number", c_int32),
        ("reserved", c_int32),
    ]


class LinearInt8Call(ctypes.Structure):
    """`LinearInt8` of linear_int8.cpp."""

    _fields_ = [
        ("x", c_void_p),
        ("x_scales", c_void_p),
        ("rows", c_int64),
        ("depth", c_int64),
        ("weights", c_void_p),
        ("offsets", c_void_p),
        ("w_scales", c_void_p),
        ("bias", c_void_p),
        ("columns", c_int64),
        ("out", c_void_p),
        ("out_stride", c_int64),
        ("sides", SideCall * 4),
        ("gated", c_int32),
        ("add", c_int32),
        ("threads", c_int32),
        ("reserved", c_int32),
    ]


class RowsCall(ctypes.Structure):
    """`Rows` of rows.cpp."""

    _fields_ = [
        ("x", c_void_p),
        ("rows", c_int64),
        ("width", c_int64),
        ("x_stride", c_int64),
        ("norm_weight", c_void_p),
        ("normed", c_void_p),
        ("inliers", c_void_p),
        ("quantised", c_void_p),
        ("scales", c_void_p),
        ("quantised_stride", c_int64),
        ("epsilon", c_float),
        ("rotated", c_int32),
        ("threads", c_int32),
        ("reserved", c_int32),
    ]


class LinearFloatCall(ctypes.Structure):
    """`LinearFloat` of linear_float.cpp."""

    _fields_ = [
        ("x", c_void_p),
        ("rows", c_int64),
        ("depth", c_int64),
        ("x_stride", c_int64),
        ("weights", c_void_p),
        ("bias", c_void_p),
        ("columns", c_int64),
        ("out", c_void_p),
        ("out_stride", c_int64),
        ("number", c_int32),
        ("add", c_int32),
        ("threads", c_int32),
        ("reserved", c_int32),
    ]


class ProjectCall(ctypes.Structure):
    """`Project` of linear_float.cpp."""

    _fields_ = [
        ("x", c_void_p),
        ("rows", c_int64),
        ("depth", c_int64),
        ("x_stride", c_int64),
        ("matrix", c_void_p),
        ("first_rank", c_void_p),
        ("rank_count", c_int64),
        ("factors", c_void_p),
        ("factors_stride", c_int64),
        ("number", c_int32),
        ("threads", c_int32),
    ]


class AttentionCall(ctypes.Structure):
    """`Attention` of attention.cpp."""

    _fields_ = [
        ("q", c_void_p),
        ("k", c_void_p),
        ("v", c_void_p),
        ("q_stride", c_int64),
        ("kv_stride", c_int64),
        ("out", c_void_p),
        ("out_stride", c_int64),
        ("starts", c_void_p),
        ("sequences", c_int64),
        ("first_query", c_int64),
        ("last_query", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("workspace", c_void_p),
        ("scale", c_float),
        ("causal", c_int32),
        ("threads", c_int32),
        ("half", c_int32),
    ]
