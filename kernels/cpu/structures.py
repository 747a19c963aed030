"""The arguments of the compiled kernels, field by field as native/common/calls.h declares them."""

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p

__all__ = [
    "STRUCTURES",
    "ActivationCall",
    "AttentionCall",
    "AxisCall",
    "LinearBFloat16Call",
    "LinearFloatCall",
    "LinearInt8Call",
    "MaxSimCall",
    "PackBFloat16Call",
    "PackInt8Call",
    "PatchifyCall",
    "ProjectCall",
    "ResizeCall",
    "RotateCall",
    "RowsCall",
    "SideCall",
]


class SideCall(ctypes.Structure):
    """`Side` of calls.h."""

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
    """`LinearInt8` of calls.h."""

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


class PackInt8Call(ctypes.Structure):
    """`PackInt8` of calls.h."""

    _fields_ = [
        ("first", c_void_p),
        ("second", c_void_p),
        ("depth", c_int64),
        ("columns", c_int64),
        ("packed", c_void_p),
        ("offsets", c_void_p),
        ("threads", c_int32),
        ("reserved", c_int32),
    ]


class LinearBFloat16Call(ctypes.Structure):
    """`LinearBFloat16` of calls.h."""

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
        ("sides", SideCall * 4),
        ("gated", c_int32),
        ("add", c_int32),
        ("threads", c_int32),
        ("reserved", c_int32),
    ]


class PackBFloat16Call(ctypes.Structure):
    """`PackBFloat16` of calls.h."""

    _fields_ = [
        ("first", c_void_p),
        ("second", c_void_p),
        ("depth", c_int64),
        ("columns", c_int64),
        ("packed", c_void_p),
        ("threads", c_int32),
        ("reserved", c_int32),
    ]


class RotateCall(ctypes.Structure):
    """`Rotate` of calls.h."""

    _fields_ = [
        ("x", c_void_p),
        ("rows", c_int64),
        ("stride", c_int64),
        ("heads", c_int64),
        ("half", c_int64),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("threads", c_int32),
        ("reserved", c_int32),
    ]


class ActivationCall(ctypes.Structure):
    """`Activation` of calls.h."""

    _fields_ = [
        ("x", c_void_p),
        ("up", c_void_p),
        ("count", c_int64),
        ("threads", c_int32),
        ("reserved", c_int32),
    ]


class RowsCall(ctypes.Structure):
    """`Rows` of calls.h."""

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
    """`LinearFloat` of calls.h."""

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
    """`Project` of calls.h."""

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
    """`Attention` of calls.h."""

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
        ("scale", c_float),
        ("causal", c_int32),
        ("threads", c_int32),
        ("half", c_int32),
    ]


class MaxSimCall(ctypes.Structure):
    """`MaxSim` of calls.h."""

    _fields_ = [
        ("queries", c_void_p),
        ("panels", c_int64),
        ("dim", c_int64),
        ("documents", c_void_p),
        ("lengths", c_void_p),
        ("count", c_int64),
        ("scores", c_void_p),
        ("number", c_int32),
        ("threads", c_int32),
    ]


class AxisCall(ctypes.Structure):
    """`Axis` of calls.h."""

    _fields_ = [
        ("starts", c_void_p),
        ("weights", c_void_p),
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("taps", c_int64),
        ("precision", c_int64),
    ]


class ResizeCall(ctypes.Structure):
    """`Resize` of calls.h."""

    _fields_ = [
        ("input", c_void_p),
        ("in_stride", c_int64),
        ("out", c_void_p),
        ("channels", c_int64),
        ("columns", AxisCall),
        ("rows", AxisCall),
        ("resize_columns", c_int32),
        ("resize_rows", c_int32),
        ("threads", c_int32),
        ("reserved", c_int32),
    ]


class PatchifyCall(ctypes.Structure):
    """`Patchify` of calls.h."""

    _fields_ = [
        ("pixels", c_void_p),
        ("mean", c_void_p),
        ("deviation", c_void_p),
        ("order", c_void_p),
        ("out", c_void_p),
        ("width", c_int64),
        ("tokens", c_int64),
        ("patch", c_int32),
        ("merge", c_int32),
        ("frames", c_int32),
        ("threads", c_int32),
    ]


#: Those whose sizes are compared with the library's, in its order.
STRUCTURES: tuple[type[ctypes.Structure], ...] = (
    SideCall,
    LinearInt8Call,
    PackInt8Call,
    RowsCall,
    RotateCall,
    ActivationCall,
    LinearFloatCall,
    ProjectCall,
    AttentionCall,
    MaxSimCall,
    ResizeCall,
    PatchifyCall,
    PackBFloat16Call,
    LinearBFloat16Call,
)
