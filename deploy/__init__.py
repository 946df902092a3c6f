"""What leaves the lab: a view of a run as ONNX, and running it without PyTorch."""
