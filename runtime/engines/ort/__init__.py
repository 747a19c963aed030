"""The engine on ONNX Runtime's CPU provider."""
