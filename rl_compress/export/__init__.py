"""What is delivered: safetensors, ONNX and a manifest, and how to load them again."""
