"""The thin parts around the graphs as GPU kernels, each beside its numpy reference in `kernels`.

Kernels are written in Triton, compiled ahead of time on any machine (`compile`), and launched on a
GPU machine through the driver alone (`launch`): neither Triton nor PyTorch is there. Only
`pooling`, `projection`, `lora`, `patchify` and `quantise` import Triton; nothing here
imports them but `compile`.
"""
