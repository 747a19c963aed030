"""A checkpoint as plain ONNX models, a folder a task, laid out as on the Hugging Face Hub."""
