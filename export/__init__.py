"""longserve.export: torch → ONNX → validated bundle."""
