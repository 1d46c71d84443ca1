"""Services that show runs: TensorBoard, Weights & Biases, MLflow, Trackio, and others over the same protocol."""
