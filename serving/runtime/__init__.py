"""What runs beside the model: bundle, engine and text pipeline.

This package needs numpy, and where texts are read `tokenizers`, and where a bundle is run in-process
`onnxruntime` or `openvino`; nothing else. It imports nothing outside itself, because `longserve repo` copies
it whole into every Triton model, so that a repository is self-contained.
"""
