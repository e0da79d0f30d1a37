"""TensorRT engines from bundles: `longserve tensorrt`."""
